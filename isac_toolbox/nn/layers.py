"""Linear and Conv2d layers with a Gaussian posterior of every weight (docs/theory-networks.md, section 2)."""

from __future__ import annotations

import warnings
from collections.abc import Collection, Iterable, Mapping
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from isac_toolbox._validation import check_names

__all__ = ["VariationalConv2d", "VariationalLinear", "convert", "gaussian_kl", "variational_layers"]

#: Smallest output variance under the square root of the local reparameterisation.
_TINY = 1e-16
#: Posterior standard deviation at the start, relative to the root mean square of the layer's weights.
_START_SPREAD = 0.1
#: Layers that a warning names at most.
_MOST_NAMED = 8


def gaussian_kl(mean: Tensor, variance: Tensor, precision: Tensor) -> Tensor:
    """Return the KL divergence of ``N(mean, variance)`` from ``N(0, 1/precision)``, summed over all entries.

    ``KL = sum 1/2 (rho (mu^2 + sigma^2) - ln(rho sigma^2) - 1)``.

    Parameters
    ----------
    mean, variance, precision : Tensor
        ``mu``, ``sigma^2`` and ``rho``, of one shape.

    Returns
    -------
    Tensor, shape ()

    Notes
    -----
    Source: docs/theory-networks.md, section 2.
    """
    ratio = precision * variance
    return 0.5 * torch.sum(precision * mean**2 + ratio - torch.log(ratio) - 1.0)


class _Variational:
    """Base of both layers: variance and mask buffers, and the switches of the forward pass.

    Attributes
    ----------
    variance : Tensor
        ``sigma^2``, in the shape of ``mean``.
    mask : Tensor of bool
        True where a weight is kept.
    sampling : bool
        Whether the forward pass draws weights; otherwise it uses the mean.
    masked : bool
        Whether the mask is applied.
    generator : torch.Generator or None
        Source of the noise.
    """

    bias: Any
    variance: Tensor
    mask: Tensor
    sampling: bool = False
    masked: bool = False
    generator: torch.Generator | None = None
    _parameters: dict[str, Any]

    def _adopt(self: Any, plain: nn.Linear | nn.Conv2d) -> None:
        """Use the parameters of a plain layer."""
        self._parameters["weight"], self._parameters["bias"] = plain.weight, plain.bias
        weight = plain.weight.detach()
        self.register_buffer("variance", torch.empty_like(weight))
        self.register_buffer("mask", torch.ones_like(weight, dtype=torch.bool))
        self.start_variance()
        self.sampling, self.masked, self.generator = False, False, None
        self.training = plain.training

    @property
    def mean(self) -> Any:
        """Return the parameter ``mu``; its name in ``state_dict`` is ``weight``."""
        if self._parameters.get("weight") is None:
            raise AttributeError(f"{type(self).__name__} has no weights yet")
        return self._parameters["weight"]

    @property
    def weight(self) -> Any:
        """Return ``mu``, zero outside the mask where the mask is applied.

        Modules that read the weights themselves (fused attention, tied decoders) get these.
        """
        return self.effective_mean()

    def start_variance(self) -> None:
        """Set ``sigma^2`` to one small value, relative to the weights of the layer."""
        spread = _START_SPREAD * float(self.mean.detach().square().mean().sqrt())
        self.variance.fill_(max(spread, 1e-4) ** 2)

    def effective_mean(self) -> Tensor:
        """Return ``mu``, zero outside the mask where the mask is applied."""
        mean: Tensor = self.mean
        return mean * self.mask if self.masked else mean

    def effective_variance(self) -> Tensor:
        """Return ``sigma^2``, zero outside the mask where the mask is applied."""
        return self.variance * self.mask if self.masked else self.variance

    def _noise(self, like: Tensor) -> Tensor:
        """Return standard normal noise."""
        return torch.randn(like.shape, generator=self.generator, device=like.device, dtype=like.dtype)

    def track_variance(self, on: bool) -> None:
        """Turn the gradient with respect to the variance on or off."""
        self.variance.grad = None
        self.variance.requires_grad_(on)


class VariationalLinear(_Variational, nn.Linear):  # type: ignore[override]
    """Linear layer with a Gaussian posterior, sampled by local reparameterisation.

    The output is drawn instead of the weights, ``y ~ N(x mu^T + b, x^2 (sigma^2)^T)``, independently for
    every example, which is like one draw of the weights per example.

    Notes
    -----
    Source: docs/theory-networks.md, section 2; Kingma, Salimans, Welling, "Variational dropout and the local
    reparameterization trick", NeurIPS 2015.
    """

    @classmethod
    def from_plain(cls, plain: nn.Linear) -> VariationalLinear:
        """Return a layer that owns the parameters of ``plain``."""
        layer = cls(plain.in_features, plain.out_features, plain.bias is not None, device="meta")
        layer._adopt(plain)
        return layer

    def to_plain(self) -> nn.Linear:
        """Return a plain layer with the (masked) mean."""
        plain = nn.Linear(self.in_features, self.out_features, self.bias is not None, device="meta")
        return _fill(plain, self)

    def forward(self, input: Tensor) -> Tensor:
        """Return the output, (..., out_features)."""
        mean = F.linear(input, self.effective_mean(), self.bias)
        if not self.sampling:
            return mean
        variance = F.linear(input.square(), self.effective_variance())
        return mean + torch.sqrt(variance + _TINY) * self._noise(mean)


class VariationalConv2d(_Variational, nn.Conv2d):  # type: ignore[override]
    """Convolution with a Gaussian posterior, whose kernel is drawn once per forward pass.

    A weight of the kernel acts at all output positions. Noise that is independent from position to position
    would lose the part of the curvature that couples them.

    Notes
    -----
    Source: docs/theory-networks.md, section 2.
    """

    @classmethod
    def from_plain(cls, plain: nn.Conv2d) -> VariationalConv2d:
        """Return a layer that owns the parameters of ``plain``."""
        layer = cls(**_conv_arguments(plain))
        layer._adopt(plain)
        return layer

    def to_plain(self) -> nn.Conv2d:
        """Return a plain layer with the (masked) mean."""
        return _fill(nn.Conv2d(**_conv_arguments(self)), self)

    def forward(self, input: Tensor) -> Tensor:
        """Return the output, (batch, out_channels, height, width)."""
        kernel = self.effective_mean()
        if self.sampling:
            kernel = kernel + torch.sqrt(self.effective_variance() + _TINY) * self._noise(kernel)
        return self._conv_forward(input, kernel, self.bias)


def _conv_arguments(conv: nn.Conv2d) -> dict[str, Any]:
    """Return constructor arguments of the same convolution, without memory for its weights."""
    names = ("in_channels", "out_channels", "kernel_size", "stride", "padding", "dilation", "groups")
    given = {name: getattr(conv, name) for name in names}
    return given | {"padding_mode": conv.padding_mode, "bias": conv.bias is not None, "device": "meta"}


def _fill(plain: Any, source: Any) -> Any:
    """Return a plain layer with the effective mean and the bias."""
    plain.weight = nn.Parameter(source.effective_mean().detach().clone())
    if source.bias is not None:
        plain.bias = nn.Parameter(source.bias.detach().clone())
    plain.training = source.training
    return plain


def variational_layers(model: nn.Module) -> dict[str, VariationalLinear | VariationalConv2d]:
    """Return the variational layers of a model by name, in the order of its modules."""
    kinds = (VariationalLinear, VariationalConv2d)
    return {name: module for name, module in model.named_modules() if isinstance(module, kinds)}


def convert(model: nn.Module, exclude: Iterable[str] = ()) -> nn.Module:
    """Return a copy of the model in which every Linear and Conv2d that learns has a Gaussian posterior.

    A layer that is called several times has one posterior; layers of which several have one weight tensor
    stay whole.

    Parameters
    ----------
    model : nn.Module
        Any module; it is not changed. Subclasses of Linear and Conv2d are not converted.
    exclude : iterable of str
        Names of layers that are not converted.

    Returns
    -------
    nn.Module

    Raises
    ------
    TypeError
        If ``model`` is no module.
    ValueError
        If a name in ``exclude`` does not exist, a lazy layer has no weights yet, or there is no layer to
        convert.

    Warns
    -----
    UserWarning
        If layers that ``exclude`` does not name keep all their weights: other kinds, frozen ones, and those
        that share their weights.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, got {type(model).__name__}")
    lazy = [n for n, p in model.named_parameters() if isinstance(p, nn.UninitializedParameter)]
    if lazy:
        raise ValueError(f"model has lazy layers without weights, {lazy}; call it once with a batch before")
    candidates = {n: m for n, m in model.named_modules() if type(m) in (nn.Linear, nn.Conv2d)}
    skipped = check_names("exclude", exclude, candidates)
    kept = {n: "frozen" for n, m in candidates.items() if not m.weight.requires_grad}
    kept |= dict.fromkeys(_tied_elsewhere(model, candidates), "weight shared")
    chosen = set(candidates) - skipped - set(kept)
    if not chosen:
        text = f"; {sorted(kept)} are frozen or share their weights" if kept else ""
        raise ValueError(
            f"model must have at least one nn.Linear or nn.Conv2d layer to compress, found none{text}"
        )
    _name_whole_layers(model, chosen | skipped, kept)
    return replace_modules(deepcopy(model), chosen, _to_variational)


def _name_whole_layers(model: nn.Module, expected: Collection[str], reasons: Mapping[str, str]) -> None:
    """Warn of layers that keep all their weights though nobody excluded them."""
    whole = {}
    for name, module in model.named_modules():
        n = sum(p.numel() for p in module.parameters(recurse=False) if p.ndim > 1)
        if n and name not in expected:
            kind = reasons.get(name, type(module).__name__)
            whole[f"{name or 'the model'} ({kind}, {n:,})"] = n
    if whole:
        share = sum(whole.values()) / max(sum(p.numel() for p in model.parameters()), 1)
        shown = list(whole)[:_MOST_NAMED] + (["..."] if len(whole) > _MOST_NAMED else [])
        warnings.warn(
            f"these layers keep all their weights, {share:.0%} of the model's parameters, because only "
            f"nn.Linear and nn.Conv2d layers that learn are compressed: {', '.join(shown)}",
            stacklevel=4,
        )


def _to_variational(module: nn.Module) -> nn.Module:
    """Return the variational layer of a plain one."""
    if isinstance(module, nn.Linear):
        return VariationalLinear.from_plain(module)
    assert isinstance(module, nn.Conv2d)
    return VariationalConv2d.from_plain(module)


def to_plain(model: nn.Module) -> nn.Module:
    """Return a copy of a converted model with plain layers, whose weights are zero outside the masks."""
    copy = deepcopy(model)
    return replace_modules(copy, set(variational_layers(copy)), lambda module: module.to_plain())


def replace_modules(model: nn.Module, names: set[str], make: Any) -> nn.Module:
    """Replace the named modules of ``model`` by ``make(module)`` and return it; the root's name is ``""``.

    A module that the model has under several names is replaced by one under all of them.
    """
    if "" in names:
        return make(model)
    old = {id(module): module for module in (model.get_submodule(name) for name in names)}
    new: dict[int, nn.Module] = {}
    for name, module in list(model.named_modules(remove_duplicate=False)):
        if id(module) in old:
            if id(module) not in new:
                new[id(module)] = make(module)
            parent, _, child = name.rpartition(".")
            setattr(model.get_submodule(parent), child, new[id(module)])
    return model


def _tied_elsewhere(model: nn.Module, candidates: Collection[str]) -> set[str]:
    """Return the candidates whose weight is also a parameter of another module."""
    owners: dict[int, set[int]] = {}
    for module in model.modules():
        for parameter in module.parameters(recurse=False):
            owners.setdefault(id(parameter), set()).add(id(module))
    return {name for name in candidates if len(owners[id(model.get_submodule(name).weight)]) > 1}
