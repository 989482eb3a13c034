"""The engine's prior of one layer: tensors in, precisions out (docs/theory-networks.md, section 4)."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch
from torch import Tensor

from isac_toolbox._choices import SUPPORTS
from isac_toolbox.inference import (
    GatedChain,
    GaussianMessage,
    IndependentSupport,
    PriorState,
    ThreeLayerPrior,
)

__all__ = ["SUPPORTS", "Curvature", "LayerPrior", "PriorSettings", "is_kept"]

#: Smallest curvature relative to the mean of the layer; estimates scatter below zero.
_CURVATURE_FLOOR = 1e-3


def is_kept(probability: np.ndarray) -> np.ndarray:
    """Return which weights are kept: those whose support probability is at least one half."""
    return probability >= 0.5


@dataclass(frozen=True)
class PriorSettings:
    """Settings of the prior of one layer; the fields are those of ``CompressionSettings``."""

    support: str = "chain"
    rule: str = "extrinsic"
    spike_precision: float = 1e5
    gate: float = 0.5
    p01: float = 0.02
    p11: float = 0.8
    learn_support: bool = True
    damping: float = 0.3
    moment_matching: bool = False

    def graph(self, shape: torch.Size) -> GatedChain | IndependentSupport:
        """Return the support graph of a layer: a group per output neuron or filter."""
        n_groups, n = int(shape[0]), int(np.prod(shape))
        if self.support == "independent":
            return IndependentSupport(n, 0.5, learn_probability=self.learn_support)
        return GatedChain(
            np.full(n_groups, n // n_groups),
            gate=self.gate,
            p_first=0.5,
            p01=self.p01,
            p11=self.p11,
            learn_parameters=self.learn_support,
        )


class Curvature:
    """Exponential averages of the data term's gradient and diagonal curvature, per weight.

    Parameters
    ----------
    like : Tensor
        The weights.
    decay : float
        Factor on the averages per minibatch.

    Notes
    -----
    Source: docs/theory-networks.md, section 3 (Price's theorem).
    """

    def __init__(self, like: Tensor, decay: float = 0.998) -> None:
        self.gradient, self.curvature = torch.zeros_like(like), torch.zeros_like(like)
        self.decay, self.weight = decay, 0.0

    def add(self, gradient: Tensor, variance_gradient: Tensor) -> None:
        """Add a minibatch: ``g = dF/dmu`` and ``h = 2 dF/dsigma^2`` of the negative log-likelihood ``F``."""
        self.gradient.lerp_(gradient, 1.0 - self.decay)
        self.curvature.mul_(self.decay).add_(variance_gradient, alpha=2.0 * (1.0 - self.decay))
        self.weight = self.decay * self.weight + 1.0 - self.decay

    def state_dict(self) -> dict[str, Tensor | float]:
        """Return everything that changes."""
        return {"gradient": self.gradient, "curvature": self.curvature, "weight": self.weight}

    def load_state_dict(self, stored: dict[str, Any]) -> None:
        """Restore what ``state_dict`` returned."""
        self.gradient.copy_(stored["gradient"])
        self.curvature.copy_(stored["curvature"])
        self.weight = stored["weight"]

    @property
    def mean_gradient(self) -> Tensor:
        """Return ``g``, corrected for the start value."""
        return self.gradient / max(self.weight, 1e-12)

    @property
    def mean_curvature(self) -> Tensor:
        """Return ``h``, corrected for the start value, at least a fraction of the mean of the layer."""
        h = self.curvature / max(self.weight, 1e-12)
        floor = _CURVATURE_FLOOR * float(h.clamp(min=0.0).mean())
        return h.clamp(min=max(floor, 1e-12))


class LayerPrior:
    """Spike-slab prior and support graph of one layer, updated by the engine.

    Parameters
    ----------
    weight : Tensor, shape (n_groups, ...)
        Weights; their mean square sets the slab's start.
    settings : PriorSettings
        Start values and rule.

    Notes
    -----
    Source: docs/theory-networks.md, section 4; docs/theory.md, sections 3 and 4.
    """

    def __init__(self, weight: Tensor, settings: PriorSettings) -> None:
        self.shape, self.settings = weight.shape, settings
        n = weight.numel()
        power = float(weight.detach().square().mean())
        slab = min(1.0 / max(power, 1e-12), 0.1 * settings.spike_precision)
        self.prior = ThreeLayerPrior(
            np.array([slab]),
            settings.spike_precision,
            rule=settings.rule,
            is_complex=False,
            moment_matching=settings.moment_matching,
        )
        self.graph = settings.graph(weight.shape)
        self.classes = np.zeros(n, dtype=np.int64)
        self.state = PriorState.initial(n, slab)

    def message(
        self, mean: Tensor, gradient: Tensor, curvature: Tensor, temperature: float, dataset_size: int
    ) -> GaussianMessage:
        """Return the message of the data alone: ``v = T / (N h)``, ``r = mu - g / h``.

        The step ``g / h`` is limited to one standard deviation of the slab, because a small curvature makes
        it arbitrarily large. The prior has no part in the message: ``g`` and ``h`` are those of the
        likelihood.
        """
        step = (gradient / curvature).double().numpy(force=True).ravel()
        limit = 1.0 / np.sqrt(self.prior.slab_precision[0])
        r = mean.detach().double().numpy(force=True).ravel() - np.clip(step, -limit, limit)
        h = curvature.double().numpy(force=True).ravel()
        return GaussianMessage(r, temperature / (dataset_size * h))

    def update(self, message: GaussianMessage, mean: Tensor, variance: Tensor) -> None:
        """Let the engine update support, precision, slab and graph, damped on ``ln rho``."""
        mu = mean.detach().double().numpy(force=True).ravel()
        var = variance.detach().double().numpy(force=True).ravel()
        self.prior, self.state, self.graph = self.prior.sweep(
            self.state, message, mu, var, self.classes, self.graph, damping=self.settings.damping
        )

    @property
    def precision(self) -> Tensor:
        """Return ``rho`` in the shape of the weights, float32."""
        return torch.from_numpy(self.state.precision.astype(np.float32)).reshape(self.shape)

    @property
    def active(self) -> Tensor:
        """Return where ``pi >= 0.5``, in the shape of the weights; everywhere before the first update."""
        return torch.from_numpy(is_kept(self.state.probability)).reshape(self.shape)

    @property
    def log_odds(self) -> Tensor:
        """Return the posterior log-odds of the support in nats, in the shape of the weights."""
        return torch.from_numpy(self.state.log_likelihood_ratio + self.state.extrinsic_log_odds).reshape(
            self.shape
        )

    def state_dict(self) -> dict[str, Tensor]:
        """Return everything that changes, as tensors."""
        stored = {f.name: torch.tensor(getattr(self.state, f.name)) for f in fields(self.state)}
        stored["slab_precision"] = torch.tensor(self.prior.slab_precision)
        for name in self._graph_parameters():
            stored[name] = torch.tensor(float(getattr(self.graph, name)), dtype=torch.float64)
        return stored

    def load_state_dict(self, stored: dict[str, Tensor]) -> None:
        """Restore what ``state_dict`` returned."""
        self.state = PriorState(*(stored[f.name].numpy().copy() for f in fields(PriorState)))
        self.prior = self.prior.with_slab_precision(stored["slab_precision"].numpy().copy())
        self.graph = self.graph.with_parameters(
            **{name: float(stored[name]) for name in self._graph_parameters()}
        )

    def _graph_parameters(self) -> tuple[str, ...]:
        """Return the names of the parameters that EM learns."""
        chain = isinstance(self.graph, GatedChain)
        return ("gate", "p_first", "p01", "p11") if chain else ("probability",)
