"""Support of a posterior as a mask on the network (docs/theory-networks.md, section 5)."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from isac_toolbox.nn._fits import Fit
from isac_toolbox.nn.export.shrink import Channels, simplify
from isac_toolbox.nn.layers import VariationalConv2d, VariationalLinear, to_plain
from isac_toolbox.nn.training import batch_norms, recalibrate
from isac_toolbox.nn.turbo_vbi.prior import Curvature, LayerPrior
from isac_toolbox.nn.turbo_vbi.records import EpochRecord

__all__ = ["Masking", "by_parameter", "dead_norm_channels"]

#: Batches for the moments of the normalisations in the validation of an epoch.
_VALIDATION_BATCHES = 20


class Masking(Fit):
    """What is kept of every layer, and the network under that mask.

    Attributes
    ----------
    layers, priors, curvatures : dict
        Variational layer, prior and averages by the name of the layer.
    history : list of EpochRecord
        Records of the epochs of the fit.
    reached : set of str
        Layers that got a gradient.
    """

    original: nn.Module
    layers: dict[str, VariationalLinear | VariationalConv2d]
    priors: dict[str, LayerPrior]
    curvatures: dict[str, Curvature]
    history: list[EpochRecord]
    reached: set[str]
    _channels: Channels | None = None

    def _unused(self) -> list[str]:
        """Return the layers that never got a gradient in this fit."""
        return [name for name in self.layers if name not in self.reached]

    def _name_unused(self) -> None:
        """Warn once of layers without gradient."""
        unused = self._unused()
        if unused and unused != getattr(self, "_named_unused", None):
            self._named_unused = unused
            warnings.warn(
                f"no gradient has reached the layers {unused}: they keep all their weights", stacklevel=6
            )

    def support(self) -> dict[str, Tensor]:
        """Return the kept weights of each layer, bool: those with ``pi >= 0.5``; after ``fit``, the mask."""
        if all(layer.masked for layer in self.layers.values()):
            return {name: layer.mask.clone() for name, layer in self.layers.items()}
        unused = self._unused() if self.reached else []
        return {
            name: torch.ones_like(layer.mask)
            if name in unused
            else self.priors[name].active.to(layer.mask.device)
            for name, layer in self.layers.items()
        }

    @property
    def channels(self) -> Channels:
        """Return the dependency groups of the network; they do not depend on its weights."""
        if self._channels is None:
            self._channels = Channels(self.original, self.example)
            self._channels.warn_untraced()
        return self._channels

    def _n_connected(self, support: dict[str, Tensor]) -> int:
        """Return the number of weights of a support on a path from an input to an output."""
        masks = self.channels.connected(self.model, by_parameter(support))
        return sum(int(mask.sum()) for mask in masks.values())

    def _set_masked(self, on: bool) -> None:
        """Turn the masks on or off."""
        for layer in self.layers.values():
            layer.masked = on

    def _set_sampling(self, seed: int | None) -> None:
        """Turn the noise on with a seed, or off."""
        for i, layer in enumerate(self.layers.values()):
            layer.sampling = seed is not None
            layer.track_variance(False)
            layer.generator = None
            if seed is not None:
                layer.generator = torch.Generator(layer.mean.device).manual_seed(seed + i)

    @contextmanager
    def _without_noise(self) -> Iterator[None]:
        """Use the means for a while, and go on with the same noise and the same modes."""
        noise = [(layer, layer.sampling, layer.generator) for layer in self.layers.values()]
        modes = {module: module.training for module in self.model.modules()}
        for layer in self.layers.values():
            layer.sampling = False
        try:
            yield
        finally:
            for layer, sampling, generator in noise:
                layer.sampling, layer.generator = sampling, generator
            for module, mode in modes.items():
                module.training = mode

    @contextmanager
    def _masked(self, support: dict[str, Tensor], loader: Any) -> Iterator[None]:
        """Apply a mask for a while, with moments of the normalisations of that network."""
        own = {name: (layer.mask.clone(), layer.masked) for name, layer in self.layers.items()}
        for name, layer in self.layers.items():
            layer.mask.copy_(support[name])
        norms = batch_norms(self.model, self.frozen)
        kept = [{key: value.clone() for key, value in norm.state_dict().items()} for norm in norms]
        self._set_masked(True)
        recalibrate(self.model, loader, self.seed, _VALIDATION_BATCHES, self.frozen)
        try:
            yield
        finally:
            for name, (mask, masked) in own.items():
                self.layers[name].mask.copy_(mask)
                self.layers[name].masked = masked
            for norm, state in zip(norms, kept):
                norm.load_state_dict(state)

    def _masked_quality(
        self, support: dict[str, Tensor], loader: Any, val_loader: Any
    ) -> tuple[float, float]:
        """Return validation loss and metric of the mean network under a mask."""
        with self._masked(support, loader):
            return self.objective.evaluate(self.model, val_loader, "val_loader")

    def _apply_masks(self, loader: Any) -> None:
        """Fix the mask, and set channels without input or without reader to zero.

        The moments of batch normalisations are computed again; those of training are of the noisy, unmasked
        network.
        """
        for name, mask in self.support().items():
            self.layers[name].mask.copy_(mask)
        self._set_masked(True)
        self._tidy(silence=True)
        recalibrate(self.model, loader, self.seed, frozen=self.frozen)
        self.model.eval()
        self._name_empty()

    def _name_empty(self) -> None:
        """Warn where layers have no weight left."""
        empty = [name for name, layer in self.layers.items() if not bool(layer.mask.any())]
        if empty:
            whole = len(empty) == len(self.layers)
            warnings.warn(
                f"no weight is left in {'any layer' if whole else f'the layers {empty}'}: "
                + ("the network is constant" if whole else "what they compute is constant")
                + "; a lower temperature or support_temperature keeps more, max_loss_drop limits the loss",
                stacklevel=4,
            )

    def _tidy(self, silence: bool = False) -> None:
        """Fold constant channels into biases, and remove disconnected weights from the mask."""
        plain = to_plain(self.model).eval()
        simplify(plain, self.example, silence=silence, channels=self.channels)
        modules: dict[str, Any] = dict(plain.named_modules())
        with torch.no_grad():
            for name, layer in self.layers.items():
                layer.mask &= modules[name].weight != 0.0
                if layer.bias is None and modules[name].bias is not None:
                    layer.register_parameter("bias", nn.Parameter(modules[name].bias.detach().clone()))
            targets = dict(self.model.named_modules())
            for name, module in plain.named_modules():
                if name not in self.frozen:
                    _copy_small(module, targets[name])


def by_parameter(support: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return masks of layers by the name of their weights."""
    return {f"{name}.weight" if name else "weight": mask for name, mask in support.items()}


def _copy_small(source: Any, target: Any) -> None:
    """Copy the bias of a layer, or a batch normalisation; weights need no copy, the mask hides them."""
    if isinstance(source, (nn.Linear, nn.Conv2d)):
        if source.bias is not None:
            target.bias.copy_(source.bias)
    elif isinstance(source, (nn.BatchNorm1d, nn.BatchNorm2d)):
        target.load_state_dict(source.state_dict())


def dead_norm_channels(model: nn.Module) -> list[tuple[Tensor, Tensor]]:
    """Return scales and shifts of batch normalisations, each with the channels that must stay zero."""
    held: list[tuple[Tensor, Tensor]] = []
    for module in model.modules():
        if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d)) and module.weight is not None:
            silent = (module.weight == 0.0) & (module.bias == 0.0)
            if bool(silent.any()):
                held += [(module.weight, silent), (module.bias, silent)]
    return held
