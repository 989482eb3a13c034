"""Training of the posterior: epoch, step, call of the engine (docs/theory-networks.md, sections 2 to 5)."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from isac_toolbox.nn.export.codings import mean_run
from isac_toolbox.nn.export.files import open_bias_slots
from isac_toolbox.nn.export.shrink import Channels, simplify
from isac_toolbox.nn.layers import VariationalConv2d, VariationalLinear, gaussian_kl, to_plain
from isac_toolbox.nn.training import (
    accuracy,
    batch_norms,
    cosine,
    distillation_loss,
    epoch_seed,
    recalibrate,
    training_epoch,
)
from isac_toolbox.nn.turbo_vbi.prior import Curvature, LayerPrior
from isac_toolbox.nn.turbo_vbi.settings import CompressionSettings

__all__ = ["EpochRecord", "PosteriorTraining", "by_parameter", "dead_norm_channels"]

#: Largest precision of automatic relevance determination.
_MAX_RELEVANCE_PRECISION = 1e7

#: Batches for the moments of the normalisations in the validation of an epoch.
_VALIDATION_BATCHES = 20
#: Steps between updates of the posterior variances.
_VARIANCE_EVERY = 10


@dataclass(frozen=True)
class EpochRecord:
    """Figures of one epoch of ``fit``.

    Attributes
    ----------
    epoch : int
        Number of the epoch, from 0.
    loss, accuracy : float
        Mean negative log-likelihood and part of correct decisions in training, with drawn weights.
    val_accuracy : float
        Accuracy of the mean network under the current mask on the validation set; NaN without one.
    kl : float
        KL divergence of the posterior from the prior in nats.
    temperature : float
        ``T`` of the epoch.
    density : float
        Part of the weights with ``pi >= 0.5``.
    neurons : tuple of int
        Number of neurons (filters) of each layer with such a weight.
    mean_run : float
        Mean length of the runs of such weights in the first layer.
    seconds : float
        Duration of the epoch.
    n_connected : int
        Number of such weights on a path from an input to an output, which are kept if the fit ends here.
    """

    epoch: int
    loss: float
    accuracy: float
    val_accuracy: float
    kl: float
    temperature: float
    density: float
    neurons: tuple[int, ...]
    mean_run: float
    seconds: float
    n_connected: int = 0


class PosteriorTraining:
    """State and steps of the fit; ``TurboVBICompressor`` adds the loop and everything after it.

    Attributes
    ----------
    model : nn.Module
        The converted network.
    layers, priors, curvatures, precisions : dict
        Variational layer, prior, averages and ``rho`` by the name of the layer.
    optimiser : torch.optim.Optimizer
        Optimiser of the fit.
    history : list of EpochRecord
        Records of the epochs of the fit.
    """

    model: nn.Module
    original: nn.Module
    layers: dict[str, VariationalLinear | VariationalConv2d]
    priors: dict[str, LayerPrior]
    settings: CompressionSettings
    loss: Callable[[Tensor, Tensor], Tensor]
    seed: int
    input_shape: tuple[int, ...] | None
    optimiser: torch.optim.Optimizer
    history: list[EpochRecord]
    _teacher: nn.Module | None
    _distillation: float
    _channels: Channels | None = None

    def _start_priors(self) -> None:
        """Set priors, variances and averages to their start values."""
        self.priors = {}
        for name, layer in self.layers.items():
            self.priors[name] = LayerPrior(layer.weight, self.settings.prior_of(name))
            layer.start_variance()
        self.curvatures = {
            name: Curvature(layer.weight.detach(), self.settings.curvature_decay)
            for name, layer in self.layers.items()
        }
        self.load_precisions()

    def load_precisions(self) -> None:
        """Compute ``rho`` of all layers, by the engine's priors or from the posterior."""
        self.precisions = {name: self._precision_of(name) for name in self.layers}

    def _precision_of(self, name: str) -> Tensor:
        """Return the engine's ``rho``, or ``1 / E[w^2]`` for automatic relevance determination."""
        layer = self.layers[name]
        if self.settings.precision == "mixture":
            return self.priors[name].precision.to(layer.weight.device)
        power = layer.weight.detach().square() + layer.variance
        return power.reciprocal_().clamp_(max=_MAX_RELEVANCE_PRECISION)

    def _epoch(self, loader: Any, val_loader: Any, epoch: int, epochs: int, size: int) -> EpochRecord:
        """Train for one epoch and return its record."""
        start = time.perf_counter()
        chosen, n_batches = self.settings, len(loader)
        temperature, n_updates = chosen.temperature_at(epoch, epochs), chosen.updates_per_epoch
        updates = {round((k + 1) * n_batches / n_updates) for k in range(n_updates)}
        total, right, seen = 0.0, 0, 0
        self.model.train()
        self._set_sampling(epoch_seed(self.seed, epoch, 1))
        with training_epoch(self.seed, epoch, loader):
            for i, (x, y) in enumerate(loader, start=1):
                rate = chosen.learning_rate * cosine((epoch + i / n_batches) / epochs)
                self.optimiser.param_groups[0]["lr"] = rate
                loss, hits = self._step(x, y, temperature / size)
                if not math.isfinite(loss):
                    raise FloatingPointError(f"the loss is {loss} in epoch {epoch}, batch {i}")
                total, right, seen = total + loss * len(y), right + hits, seen + len(y)
                if i % _VARIANCE_EVERY == 0 or i == n_batches:
                    steps = i % _VARIANCE_EVERY or _VARIANCE_EVERY
                    self._update_variances(temperature / size, steps / n_batches)
                if epoch >= chosen.warmup_epochs and i in updates:
                    self._update_priors(temperature, size)
        self._set_sampling(None)
        self.model.eval()
        support = self.support()
        return EpochRecord(
            epoch=epoch,
            loss=total / seen,
            accuracy=right / seen,
            val_accuracy=math.nan
            if val_loader is None
            else self._masked_accuracy(support, loader, val_loader),
            kl=self.kl(),
            temperature=temperature,
            density=sum(int(m.sum()) for m in support.values()) / sum(m.numel() for m in support.values()),
            neurons=tuple(int(m.flatten(1).any(dim=1).sum()) for m in support.values()),
            mean_run=mean_run(next(iter(support.values())).numpy(force=True)),
            seconds=time.perf_counter() - start,
            n_connected=self._n_connected(support),
        )

    def _step(self, x: Tensor, y: Tensor, scale: float) -> tuple[float, int]:
        """Train on one minibatch; return loss and number of correct decisions.

        The averages take the gradients of the likelihood before the gradient of the prior is added.
        """
        self.input_shape = tuple(x.shape[1:])
        self.optimiser.zero_grad(set_to_none=True)
        for layer in self.layers.values():
            layer.track_variance(True)
        output = self.model(x)
        loss = self._likelihood(output, x, y)
        loss.backward()
        for name, layer in self.layers.items():
            weight, slope = layer.weight, layer.variance.grad
            if weight.grad is None or slope is None:  # the forward pass did not use this layer
                continue
            self.curvatures[name].add(weight.grad, slope)
            factor = self.settings.factor(name)
            weight.grad.addcmul_(weight.detach(), self.precisions[name], value=factor * scale)
            layer.track_variance(False)
        self.optimiser.step()
        return float(loss.detach()), int((output.detach().argmax(1) == y).sum())

    def _likelihood(self, output: Tensor, x: Tensor, y: Tensor) -> Tensor:
        """Return the mean negative log-likelihood of the labels, mixed with the teacher's term if any."""
        if self._teacher is None:
            return self.loss(output, y)
        with torch.no_grad():
            hint = self._teacher(x)
        return distillation_loss(output, y, hint, self._distillation, hard_loss=self.loss)

    def _update_variances(self, scale: float, part: float = 0.0) -> None:
        """Set ``sigma^2 = 1 / (N h / T + rho)`` with ``scale = T / N``.

        Where the growth is limited, ``part`` is the part of an epoch since the last update.
        """
        for name, layer in self.layers.items():
            layer_scale = scale * self.settings.factor(name)
            precision = self.curvatures[name].mean_curvature / layer_scale + self.precisions[name]
            variance = precision.reciprocal_()
            if math.isfinite(self.settings.growth_limit):
                limit = layer.variance * math.exp(self.settings.growth_limit * part)
                variance = torch.minimum(variance, limit)
            layer.variance.copy_(variance)
            if self.settings.precision == "relevance":
                self.precisions[name] = self._precision_of(name)

    def _update_priors(self, temperature: float, size: int) -> None:
        """Update support, slab and graph of every layer by the message of the data, then the precisions."""
        for name, layer in self.layers.items():
            curvature, prior = self.curvatures[name], self.priors[name]
            of_layer = temperature * self.settings.support_factor * self.settings.factor(name)
            message = prior.message(
                layer.weight, curvature.mean_gradient, curvature.mean_curvature, of_layer, size
            )
            prior.update(message, layer.weight, layer.variance)
        self.load_precisions()
        self._update_variances(temperature / size)

    def kl(self) -> float:
        """Return the KL divergence of the posterior from the current prior in nats."""
        with torch.no_grad():
            return sum(
                float(gaussian_kl(layer.weight, layer.variance, self.precisions[name]))
                for name, layer in self.layers.items()
            )

    # ---- checkpoint ----------------------------------------------------------------------------------

    def state(self) -> dict[str, Any]:
        """Return everything that a fit changes, as tensors and plain values."""
        return {
            "done": len(self.history),
            "model": self.model.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "priors": {name: prior.state_dict() for name, prior in self.priors.items()},
            "curvatures": {name: average.state_dict() for name, average in self.curvatures.items()},
            "history": [asdict(record) for record in self.history],
            "input_shape": list(self.input_shape or ()),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Restore what ``state`` returned.

        Raises
        ------
        RuntimeError
            If it belongs to another model.
        """
        if open_bias_slots(self.model, state["model"]):
            self.optimiser.param_groups[0]["params"] = list(self.model.parameters())
        self.model.load_state_dict(state["model"])
        self.optimiser.load_state_dict(state["optimiser"])
        for name, prior in self.priors.items():
            prior.load_state_dict(state["priors"][name])
        for name, average in self.curvatures.items():
            average.load_state_dict(state["curvatures"][name])
        self.load_precisions()
        self.history = [EpochRecord(**{**r, "neurons": tuple(r["neurons"])}) for r in state["history"]]
        self.input_shape = tuple(state["input_shape"])

    # ---- support -------------------------------------------------------------------------------------

    def support(self) -> dict[str, Tensor]:
        """Return the kept weights of each layer, bool: those with ``pi >= 0.5``; after ``fit``, the mask."""
        if all(layer.masked for layer in self.layers.values()):
            return {name: layer.mask.clone() for name, layer in self.layers.items()}
        return {name: self.priors[name].active.to(layer.mask.device) for name, layer in self.layers.items()}

    @property
    def channels(self) -> Channels:
        """Return the dependency groups of the network; they do not depend on its weights."""
        if self._channels is None:
            self._channels = Channels(self.original, self.input_shape)
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
                layer.generator = torch.Generator(layer.weight.device).manual_seed(seed + i)

    def _masked_accuracy(self, support: dict[str, Tensor], loader: Any, val_loader: Any) -> float:
        """Return the validation accuracy of the mean network under a mask, with moments of that network."""
        for name, layer in self.layers.items():
            layer.mask.copy_(support[name])
        norms = batch_norms(self.model)
        kept = [{key: value.clone() for key, value in norm.state_dict().items()} for norm in norms]
        self._set_masked(True)
        recalibrate(self.model, loader, self.seed, _VALIDATION_BATCHES)
        value = accuracy(self.model, val_loader)
        self._set_masked(False)
        for norm, state in zip(norms, kept):
            norm.load_state_dict(state)
        return value

    def _apply_masks(self, loader: Any) -> None:
        """Fix the mask, and set channels without input or without reader to zero.

        The moments of batch normalisations are computed again; those of training are of the noisy, unmasked
        network.
        """
        for name, layer in self.layers.items():
            layer.mask.copy_(self.priors[name].active)
        self._set_masked(True)
        self._tidy(silence=True)
        recalibrate(self.model, loader, self.seed)
        self.model.eval()

    def _tidy(self, silence: bool = False) -> None:
        """Fold constant channels into biases, and remove disconnected weights from the mask."""
        plain = to_plain(self.model).eval()
        simplify(plain, self.input_shape, silence=silence, channels=self.channels)
        modules: dict[str, Any] = dict(plain.named_modules())
        with torch.no_grad():
            for name, layer in self.layers.items():
                layer.mask &= modules[name].weight != 0.0
                if layer.bias is None and modules[name].bias is not None:
                    layer.bias = nn.Parameter(modules[name].bias.detach().clone())
            targets = dict(self.model.named_modules())
            for name, module in plain.named_modules():
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
