"""Training of the posterior: epoch, step, call of the engine (docs/theory-networks.md, sections 2 to 5)."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from isac_toolbox.nn._batches import Batch, batches, n_batches_of
from isac_toolbox.nn._records import Means
from isac_toolbox.nn.export.codings import mean_run
from isac_toolbox.nn.layers import gaussian_kl
from isac_toolbox.nn.training import (
    adam,
    cosine,
    epoch_seed,
    set_rate,
    set_training,
    training_epoch,
)
from isac_toolbox.nn.turbo_vbi.masking import Masking
from isac_toolbox.nn.turbo_vbi.prior import Curvature, LayerPrior
from isac_toolbox.nn.turbo_vbi.records import EpochRecord, Schedule
from isac_toolbox.nn.turbo_vbi.settings import CompressionSettings

__all__ = ["EpochRecord", "PosteriorTraining"]

#: Largest precision of automatic relevance determination.
_MAX_RELEVANCE_PRECISION = 1e7
#: Steps between updates of the posterior variances.
_VARIANCE_EVERY = 10


class PosteriorTraining(Masking):
    """State and steps of the fit; ``TurboVBICompressor`` adds the loop and everything after it.

    Attributes
    ----------
    precisions : dict
        ``rho`` by the name of the layer.
    optimiser : torch.optim.Optimizer
        Optimiser of the fit.
    """

    settings: CompressionSettings
    optimiser: torch.optim.Optimizer
    _teacher: nn.Module | None
    _distillation: float

    def _start_priors(self) -> None:
        """Set priors, variances and averages to their start values."""
        self.priors, self.reached = {}, set()
        for name, layer in self.layers.items():
            self.priors[name] = LayerPrior(layer.mean, self.settings.prior_of(name))
            layer.start_variance()
        self.curvatures = {
            name: Curvature(layer.mean.detach(), self.settings.curvature_decay)
            for name, layer in self.layers.items()
        }
        self.load_precisions()

    def load_precisions(self) -> None:
        """Compute ``rho`` of all layers, by the engine's priors or from the posterior."""
        self.precisions = {name: self._precision_of(name) for name in self.layers}

    def _precision_of(self, name: str) -> Tensor:
        """Return the engine's ``rho``, or ``1 / E[w^2]`` for automatic relevance determination."""
        layer = self.layers[name]
        number = torch.promote_types(layer.mean.dtype, torch.float32)
        if self.settings.precision == "mixture":
            return self.priors[name].precision.to(layer.mean.device, number)
        power = layer.mean.detach().to(number).square() + layer.variance
        return power.reciprocal_().clamp_(max=_MAX_RELEVANCE_PRECISION)

    def _epoch(
        self,
        loader: Any,
        val_loader: Any,
        epoch: int,
        schedule: Schedule,
        size: int,
        update: Callable[[float, int], None] | None = None,
    ) -> EpochRecord:
        """Train for one epoch and return its record."""
        start = time.perf_counter()
        chosen, n_updates, n, updates = self.settings, self.settings.updates_per_epoch, 0, set[int]()
        means = Means()
        set_training(self.model, self.frozen)
        self._set_sampling(epoch_seed(self.seed, epoch, 1))
        with training_epoch(self.seed, epoch, loader):
            for i, batch in enumerate(batches(loader, self.model, "train_loader"), start=1):
                if not n:
                    n = n_batches_of(loader, size, batch.size)
                    updates = {round((k + 1) * n / n_updates) for k in range(n_updates)}
                temperature = schedule.temperature(epoch)
                set_rate(self.optimiser, chosen.learning_rate * cosine(schedule.part(epoch, i / n)))
                loss, part = self._step(batch, temperature / size)
                if not math.isfinite(loss):
                    raise FloatingPointError(f"the loss is {loss} in epoch {epoch}, batch {i}")
                means.add(batch.size, loss, part)
                if i % _VARIANCE_EVERY == 0 or i == n:
                    steps = i % _VARIANCE_EVERY or _VARIANCE_EVERY
                    self._update_variances(temperature / size, steps / n)
                if epoch >= schedule.first_update and i in updates:
                    (update or self._update_priors)(temperature, size)
        self._set_sampling(None)
        self.model.eval()
        self._name_unused()
        support = self.support()
        return self._record(
            support,
            epoch=epoch,
            loss=means.loss,
            accuracy=means.quality,
            validation=None if val_loader is None else self._masked_quality(support, loader, val_loader),
            temperature=schedule.temperature(epoch),
            seconds=time.perf_counter() - start,
        )

    def _record(
        self, support: dict[str, Tensor], validation: tuple[float, float] | None, **figures: Any
    ) -> EpochRecord:
        """Return the record of an epoch, with the figures of a support."""
        val_loss, val_accuracy = (math.nan, math.nan) if validation is None else validation
        return EpochRecord(
            val_loss=val_loss,
            val_accuracy=val_accuracy,
            kl=self.kl(),
            density=sum(int(m.sum()) for m in support.values()) / sum(m.numel() for m in support.values()),
            neurons=tuple(int(m.flatten(1).any(dim=1).sum()) for m in support.values()),
            mean_run=mean_run(next(iter(support.values())).numpy(force=True)),
            n_connected=self._n_connected(support),
            **figures,
        )

    def _step(self, batch: Batch, scale: float) -> tuple[float, float]:
        """Train on one minibatch; return loss and metric."""
        self._remember(batch)
        self.optimiser.zero_grad(set_to_none=True)
        self._track_variances()
        value, quality = self.objective.training_loss(self.model, batch, self._teacher, self._distillation)
        value.backward()
        self._absorb(scale)
        self.optimiser.step()
        return float(value.detach()), quality

    def _track_variances(self) -> None:
        """Let the next backward pass compute the gradients of the variances."""
        for layer in self.layers.values():
            layer.track_variance(True)

    def _absorb(self, scale: float) -> None:
        """Take the gradients of the likelihood into the averages, then add the gradient of the prior.

        Layers that the forward pass did not use are left as they are.
        """
        for name, layer in self.layers.items():
            weight, slope = layer.mean, layer.variance.grad
            layer.track_variance(False)
            if weight.grad is None or slope is None:
                continue
            self.reached.add(name)
            self.curvatures[name].add(weight.grad, slope)
            pull, factor = self.precisions[name], self.settings.factor(name) * scale
            if pull.dtype == weight.grad.dtype:
                weight.grad.addcmul_(weight.detach(), pull, value=factor)
            else:
                weight.grad.add_((factor * pull * weight.detach()).to(weight.grad.dtype))

    def _update_variances(self, scale: float, part: float = 0.0) -> None:
        """Set ``sigma^2 = 1 / (N h / T + rho)`` with ``scale = T / N``.

        Where the growth is limited, ``part`` is the part of an epoch since the last update.
        """
        for name, layer in self.layers.items():
            if self.curvatures[name].weight == 0.0:
                continue
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
            if curvature.weight == 0.0:
                continue
            of_layer = temperature * self.settings.support_factor * self.settings.factor(name)
            message = prior.message(
                layer.mean, curvature.mean_gradient, curvature.mean_curvature, of_layer, size
            )
            prior.update(message, layer.mean, layer.variance)
        self.load_precisions()
        self._update_variances(temperature / size)

    def kl(self) -> float:
        """Return the KL divergence of the posterior from the current prior in nats."""
        with torch.no_grad():
            return sum(
                float(gaussian_kl(layer.mean, layer.variance, self.precisions[name]))
                for name, layer in self.layers.items()
            )

    # ---- checkpoint ----------------------------------------------------------------------------------

    def posterior_state(self) -> dict[str, Any]:
        """Return a copy of network, priors, averages and momenta, as tensors and plain values."""
        return _copied(
            {
                "model": self.model.state_dict(),
                "optimiser": self.optimiser.state_dict(),
                "priors": {name: prior.state_dict() for name, prior in self.priors.items()},
                "curvatures": {name: average.state_dict() for name, average in self.curvatures.items()},
            }
        )

    def prior_state(self) -> dict[str, Any]:
        """Return a copy of what a call of the engine changes."""
        return _copied(
            {
                "priors": {name: prior.state_dict() for name, prior in self.priors.items()},
                "variances": {name: layer.variance for name, layer in self.layers.items()},
            }
        )

    def load_priors(self, state: dict[str, Any]) -> None:
        """Restore what ``prior_state`` returned."""
        for name, layer in self.layers.items():
            self.priors[name].load_state_dict(state["priors"][name])
            layer.variance.copy_(state["variances"][name])
        self.load_precisions()

    def load_posterior(self, state: dict[str, Any]) -> None:
        """Restore what ``posterior_state`` returned.

        Raises
        ------
        RuntimeError
            If it belongs to another model.
        """
        self._load_network(state["model"])
        self.optimiser.load_state_dict(_copied(state["optimiser"]))
        for name, prior in self.priors.items():
            prior.load_state_dict(state["priors"][name])
        for name, average in self.curvatures.items():
            average.load_state_dict(state["curvatures"][name])
        self.load_precisions()

    def network_state(self) -> dict[str, Tensor]:
        """Return a copy of parameters, variances, masks and moments of the network."""
        return dict(_copied(self.model.state_dict()))

    def load_masked(self, state: dict[str, Tensor]) -> None:
        """Restore a network whose support is the mask, with empty momenta."""
        self._load_network(state)
        self._set_masked(True)
        self._new_optimiser()

    def _load_network(self, state: dict[str, Tensor]) -> None:
        """Restore what ``network_state`` returned."""
        for name, layer in self.layers.items():  # a fit may have added a bias
            given = state.get(f"{name}.bias" if name else "bias")
            if (layer.bias is None) != (given is None):
                layer.register_parameter("bias", None if given is None else nn.Parameter(given.clone()))
                self._new_optimiser()
        self.model.load_state_dict(state)

    def _new_optimiser(self) -> None:
        """Start Adam with empty momenta."""
        self.optimiser = adam(self.model.parameters(), self.settings.learning_rate)

    def state(self) -> dict[str, Any]:
        """Return everything that a fit changes, as tensors and plain values."""
        return self.posterior_state() | {"reached": sorted(self.reached)} | self._stored_figures()

    def restore(self, state: dict[str, Any]) -> None:
        """Restore what ``state`` returned.

        Raises
        ------
        RuntimeError
            If it belongs to another model.
        """
        self.load_posterior(state)
        self.reached = set(state["reached"])
        self._restore_figures(state, EpochRecord)


def _copied(value: Any) -> Any:
    """Return nested collections with copies of their tensors."""
    if isinstance(value, Tensor):
        return value.detach().clone()
    if isinstance(value, Mapping):
        return {key: _copied(item) for key, item in value.items()}
    return [_copied(item) for item in value] if isinstance(value, list) else value
