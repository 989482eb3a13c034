"""Linear and Conv2d layers that store only their active weights (docs/theory-ssvi.md, sections 1 and 5)."""

from __future__ import annotations

import math
from collections.abc import Iterable
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from isac_toolbox.nn.layers import convert, replace_modules, variational_layers
from isac_toolbox.nn.ssvi.sparse_linear import CROSSOVER_DENSITY, compressed_rows, sparse_linear

__all__ = [
    "SparseGaussianConv2d",
    "SparseGaussianLinear",
    "active_kl",
    "convert_sparse",
    "descend_in_sigma",
    "inverse_softplus",
    "sparse_layers",
    "to_plain",
]

#: Smallest output variance under the square root.
_TINY = 1e-16
#: Largest relative change of sigma by one gradient.
_MAX_CHANGE = 0.01
_PLAIN_CONV = ("in_channels", "out_channels", "kernel_size", "stride", "padding", "dilation", "groups")


def inverse_softplus(sigma: float) -> float:
    """Return ``rho`` with ``softplus(rho) = sigma``."""
    return sigma + math.log(-math.expm1(-sigma))


class _SparseGaussian:
    """Base of both layers.

    Attributes
    ----------
    mean, rho : Parameter, shape (n_active,)
        ``mu`` and ``rho``, ``sigma = softplus(rho)``, in the order of ``index``; ``rho`` is None for a point
        estimate.
    index : Tensor of int64, shape (n_active,), or None
        Flat positions of the active weights, ascending; None if all are active.
    dense_shape : torch.Size
        Shape of the full weight tensor.
    like : Tensor
        Empty tensor with the device and the number type of the weights.
    sampling : bool
        Whether the forward pass draws the weights; otherwise it uses the mean.
    probing : bool
        Whether the next backward pass stores the gradient of *all* positions in ``probe.grad``.
    generator : torch.Generator or None
        Source of the noise.
    sparse_below : float
        Density below which a Linear layer uses the sparse product.
    noisy_outputs : bool
        Whether a Linear layer draws its outputs instead of its weights.
    """

    mean: Any
    rho: Any
    index: Any
    bias: Any
    dense_shape: torch.Size
    like: Tensor
    sampling: bool
    probing: bool
    probe: Tensor | None
    generator: torch.Generator | None
    sparse_below: float
    noisy_outputs: bool

    def _adopt(self: Any, plain: nn.Linear | nn.Conv2d, sparse_below: float) -> None:
        """Use the bias of a plain layer; ``set_support`` gives the weights."""
        self.dense_shape, self.bias = plain.weight.shape, plain.bias
        self.like = plain.weight.detach().new_empty(0)
        del self._parameters["weight"]
        for name in ("mean", "rho"):
            self.register_parameter(name, None)
        self.register_buffer("index", None)
        self.sampling, self.probing, self.probe, self.generator = False, False, None, None
        self.sparse_below, self._rows = sparse_below, None
        self.noisy_outputs = False
        self.training = plain.training
        self.register_load_state_dict_post_hook(_refresh)

    def _apply(self: Any, change: Any, recurse: bool = True) -> Any:
        """Move or convert the tensors, and compute what depends on them again."""
        super()._apply(change, recurse)  # type: ignore[misc]
        _refresh(self)
        return self

    def set_support(self, index: Tensor | None, mean: Tensor, rho: Tensor | None) -> None:
        """Replace support and weights; a number that stays the same keeps the optimiser's parameters."""
        if self.mean is not None and self.mean.shape == mean.shape:
            self.mean.data.copy_(mean)
            if rho is not None:
                self.rho.data.copy_(rho)
        else:
            self.mean = nn.Parameter(mean)
            self.rho = None if rho is None else nn.Parameter(rho)
        self.index = index
        self.refresh()

    def refresh(self: Any) -> None:
        """Compute the compressed rows of ``index``, for layers that use them."""
        self._rows = None
        if self.uses_sparse_product:
            self._rows = compressed_rows(self.index, *self.dense_shape)

    @property
    def n_active(self) -> int:
        """Return the number of active weights."""
        return int(self.mean.numel())

    @property
    def n_weights(self) -> int:
        """Return the number of all positions."""
        return self.dense_shape.numel()

    @property
    def uses_sparse_product(self) -> bool:
        """Return whether the forward pass multiplies the active weights alone."""
        few = self.n_active < self.sparse_below * self.n_weights
        on_cpu = self.mean.device.type == "cpu" and self.mean.dtype == torch.float32
        return isinstance(self, nn.Linear) and self.index is not None and few and on_cpu

    @property
    def n_products(self) -> int:
        """Return the number of products of a forward pass in training."""
        return 2 if self.noisy_outputs and isinstance(self, nn.Linear) else 1

    @property
    def sigma(self) -> Tensor | None:
        """Return the standard deviations of the active weights, None for a point estimate."""
        return None if self.rho is None else F.softplus(self.rho)

    @property
    def mask(self) -> Tensor:
        """Return the active positions, bool, in the shape of the weight."""
        if self.index is None:
            return torch.ones(self.dense_shape, dtype=torch.bool, device=self.mean.device)
        flat = torch.zeros(self.n_weights, dtype=torch.bool, device=self.mean.device)
        flat[self.index] = True
        return flat.reshape(self.dense_shape)

    def values(self) -> Tensor:
        """Return the active weights, drawn or mean."""
        if not self.sampling or self.rho is None:
            return self.mean
        like = self.mean
        noise = torch.randn(like.shape, generator=self.generator, device=like.device, dtype=like.dtype)
        return like + F.softplus(self.rho) * noise

    def expand(self, values: Tensor) -> Tensor:
        """Return a full weight tensor with values at the active positions, zero elsewhere."""
        if self.index is None:
            return values.reshape(self.dense_shape)
        return values.new_zeros(self.n_weights).scatter(0, self.index, values).reshape(self.dense_shape)

    def _whole_weight(self, values: Tensor) -> Tensor:
        """Return the full weight tensor, which keeps its gradient while probing."""
        weight = self.expand(values)
        if self.probing and self.index is not None:
            weight.retain_grad()
            self.probe = weight
        return weight

    def buffers_bytes(self: Any) -> int:
        """Return the bytes of the positions."""
        tensors = [self.index, *(self._rows or ())]
        return sum(t.numel() * t.element_size() for t in tensors if t is not None)


def _refresh(layer: Any, _: Any = None) -> None:
    """Compute the compressed rows of a layer again if it has weights."""
    if getattr(layer, "mean", None) is not None:
        layer.refresh()


class SparseGaussianLinear(_SparseGaussian, nn.Linear):
    """Linear layer with a Gaussian posterior on a support of fixed size.

    Notes
    -----
    Source: docs/theory-ssvi.md, sections 1, 5 and 6.
    """

    @classmethod
    def from_plain(cls, plain: nn.Linear, sparse_below: float = CROSSOVER_DENSITY) -> SparseGaussianLinear:
        """Return a layer with the bias of ``plain`` and no weights yet."""
        layer = cls(plain.in_features, plain.out_features, plain.bias is not None, device="meta")
        layer._adopt(plain, sparse_below)
        return layer

    def to_plain(self) -> nn.Linear:
        """Return a plain layer with the mean."""
        return _fill(
            nn.Linear(self.in_features, self.out_features, self.bias is not None, device="meta"), self
        )

    def forward(self: Any, input: Tensor) -> Tensor:
        """Return the output, (..., out_features)."""
        if not (self.sampling and self.noisy_outputs):
            return self._product(input, self.values())
        mean = self._product(input, self.mean)
        whole = self._rows is None or self.probing
        spread, power = self.sigma.square(), input.square()
        if whole:
            variance = F.linear(power, self.expand(spread))
        else:
            variance = sparse_linear(power, spread, *self._rows)
        noise = torch.randn(mean.shape, generator=self.generator, device=mean.device, dtype=mean.dtype)
        return mean + torch.sqrt(variance + _TINY) * noise

    def _product(self: Any, input: Tensor, values: Tensor) -> Tensor:
        """Return the output for given values of the active weights."""
        if self._rows is None or self.probing:
            return F.linear(input, self._whole_weight(values), self.bias)
        product = sparse_linear(input, values, *self._rows)
        return product if self.bias is None else product + self.bias


class SparseGaussianConv2d(_SparseGaussian, nn.Conv2d):
    """Convolution with a Gaussian posterior on a support of fixed size; it multiplies the full kernel.

    Notes
    -----
    Source: docs/theory-ssvi.md, sections 1 and 5.
    """

    @classmethod
    def from_plain(cls, plain: nn.Conv2d, sparse_below: float = CROSSOVER_DENSITY) -> SparseGaussianConv2d:
        """Return a layer with the bias of ``plain`` and no weights yet."""
        layer = cls(**_conv_arguments(plain))
        layer._adopt(plain, sparse_below)
        return layer

    def to_plain(self) -> nn.Conv2d:
        """Return a plain layer with the mean."""
        return _fill(nn.Conv2d(**_conv_arguments(self)), self)

    def forward(self, input: Tensor) -> Tensor:
        """Return the output, (batch, out_channels, height, width)."""
        return self._conv_forward(input, self._whole_weight(self.values()), self.bias)


SparseLayer = SparseGaussianLinear | SparseGaussianConv2d


def _conv_arguments(conv: nn.Conv2d) -> dict[str, Any]:
    """Return constructor arguments of the same convolution, without memory for its weights."""
    given: dict[str, Any] = {name: getattr(conv, name) for name in _PLAIN_CONV}
    return given | {"padding_mode": conv.padding_mode, "bias": conv.bias is not None, "device": "meta"}


def _fill(plain: Any, source: Any) -> Any:
    """Return a plain layer with mean and bias."""
    plain.weight = nn.Parameter(source.expand(source.mean.detach()).clone())
    if source.bias is not None:
        plain.bias = nn.Parameter(source.bias.detach().clone())
    plain.training = source.training
    return plain


def active_kl(mean: Tensor, sigma: Tensor, prior_sd: float) -> Tensor:
    """Return ``KL(N(mu, sigma^2) || N(0, prior_sd^2))`` summed over the active weights, in nats."""
    scaled = sigma / prior_sd
    return torch.sum(0.5 * ((mean / prior_sd).square() + scaled.square() - 1.0) - torch.log(scaled))


def descend_in_sigma(rho: Any, learning_rate: float) -> None:
    """Replace the gradient of ``rho`` by the one whose step moves sigma by ``-learning_rate dL/dsigma``.

    With ``J = dsigma/drho = 1 - exp(-sigma)`` that is the gradient over ``J^2``. The change of sigma is
    limited to 1 % of sigma, so that sigma stays positive and the noise of one draw has little effect.

    Parameters
    ----------
    rho : Parameter or None
        Parameter whose gradient is changed in place; nothing happens to None or without a gradient.
    learning_rate : float
        Learning rate of the step.

    Notes
    -----
    Source: docs/theory-ssvi.md, section 5.
    """
    if rho is None or rho.grad is None:
        return
    with torch.no_grad():
        sigma = F.softplus(rho)
        slope = -torch.expm1(-sigma)
        limit = _MAX_CHANGE * sigma / (slope * max(learning_rate, 1e-12))
        rho.grad.div_(slope.square()).clamp_(-limit, limit)


def sparse_layers(model: nn.Module) -> dict[str, SparseLayer]:
    """Return the sparse layers of a model by name, in the order of its modules."""
    kinds = (SparseGaussianLinear, SparseGaussianConv2d)
    return {name: module for name, module in model.named_modules() if isinstance(module, kinds)}


def convert_sparse(
    model: nn.Module, exclude: Iterable[str] = (), sparse_below: float = CROSSOVER_DENSITY
) -> nn.Module:
    """Return a copy of the model with sparse Linear and Conv2d layers, which have no weights yet.

    Raises
    ------
    TypeError, ValueError
        As ``isac_toolbox.nn.layers.convert``.
    """
    converted = convert(model, exclude)

    def make(module: Any) -> nn.Module:
        plain = module.to_plain()
        kind: Any = SparseGaussianLinear if isinstance(plain, nn.Linear) else SparseGaussianConv2d
        return kind.from_plain(plain, sparse_below)

    return replace_modules(converted, set(variational_layers(converted)), make)


def to_plain(model: nn.Module) -> nn.Module:
    """Return a plain copy with the means, zero outside the support, in evaluation mode."""
    held = {name: (layer.generator, layer.probe) for name, layer in sparse_layers(model).items()}
    for layer in sparse_layers(model).values():  # neither can be copied
        layer.generator, layer.probe = None, None
    copy = deepcopy(model)
    for name, layer in sparse_layers(model).items():
        layer.generator, layer.probe = held[name]
    return replace_modules(copy, set(sparse_layers(copy)), lambda module: module.to_plain()).eval()
