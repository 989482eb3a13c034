"""The engine's prior of one layer: tensors in, precisions out (docs/theory-networks.md, section 4)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy.special import expit
from torch import Tensor

from isac_toolbox._choices import SUPPORTS
from isac_toolbox.inference import (
    GatedChain,
    GaussianMessage,
    IndependentSupport,
    PriorState,
    ThreeLayerPrior,
    compact_sweep,
    is_compact,
)
from isac_toolbox.nn.turbo_vbi.structure import AtMostSupport, BlockSupport, is_kept, levelled, n_of_blocks

LayerGraph = GatedChain | IndependentSupport | BlockSupport | AtMostSupport

__all__ = ["SUPPORTS", "Curvature", "LayerPrior", "PriorSettings"]

#: Smallest curvature relative to the mean of the layer; estimates scatter below zero.
_CURVATURE_FLOOR = 1e-3


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
    block: tuple[int, int] = (1, 1)
    n_of_m: tuple[int, int] | None = None
    gate_rows: int = 1

    def graph(self, shape: torch.Size) -> LayerGraph:
        """Return the support graph of a layer, whose weights are a matrix with a row per output.

        Raises
        ------
        ValueError
            If the rows of a gate do not divide those of the matrix.
        """
        matrix = int(shape[0]), int(np.prod(shape[1:]))
        if self.n_of_m is not None:
            return AtMostSupport(matrix, *self.n_of_m)
        if self.block != (1, 1):
            return BlockSupport(self._plain_graph(*n_of_blocks(matrix, self.block)), matrix, self.block)
        return self._plain_graph(*matrix)

    def _plain_graph(self, rows: int, columns: int) -> GatedChain | IndependentSupport:
        """Return a graph of single variables: a group per row, or per ``gate_rows`` of them."""
        if rows % self.gate_rows:
            raise ValueError(f"gate_rows must divide the rows of the layer, {rows}, got {self.gate_rows}")
        if self.support == "independent":
            return IndependentSupport(rows * columns, 0.5, learn_probability=self.learn_support)
        return GatedChain(
            np.full(rows // self.gate_rows, columns * self.gate_rows),
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
        number = torch.promote_types(like.dtype, torch.float32)  # in fewer digits small steps would be lost
        self.gradient = torch.zeros_like(like, dtype=number)
        self.curvature = torch.zeros_like(like, dtype=number)
        self.decay, self.weight = decay, 0.0

    def add(self, gradient: Tensor, variance_gradient: Tensor) -> None:
        """Add a minibatch: ``g = dF/dmu`` and ``h = 2 dF/dsigma^2`` of the negative log-likelihood ``F``."""
        number = self.gradient.dtype
        self.gradient.lerp_(gradient.to(number), 1.0 - self.decay)
        self.curvature.mul_(self.decay).add_(variance_gradient.to(number), alpha=2.0 * (1.0 - self.decay))
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

    Two numbers per weight are kept in single precision, which is finer than what decides; the engine computes
    in double precision from them.

    Parameters
    ----------
    weight : Tensor, shape (n_groups, ...)
        Weights; their mean square sets the slab's start.
    settings : PriorSettings
        Start values and rule.

    Attributes
    ----------
    rho : ndarray, shape (n,), float32
        Precisions.
    odds : ndarray, shape (n,), float32
        Posterior log-odds ``L + e`` of the support.

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
        self.rho = np.full(n, slab, dtype=np.float32)
        self.odds = np.zeros(n, dtype=np.float32)
        # the factorised rule has a mean logarithm of its own
        self._mean_log = np.log(self.rho) if settings.rule == "mean_field" else None

    def message(
        self, mean: Tensor, gradient: Tensor, curvature: Tensor, temperature: float, dataset_size: int
    ) -> GaussianMessage:
        """Return the message of the data alone: ``v = T / (N h)``, ``r = mu - g / h``, single precision.

        The step ``g / h`` is limited to one standard deviation of the slab, because a small curvature makes
        it arbitrarily large. The prior has no part in the message: ``g`` and ``h`` are those of the
        likelihood.
        """
        limit = float(1.0 / np.sqrt(self.prior.slab_precision[0]))
        r = mean.detach() - (gradient / curvature).clamp_(-limit, limit)
        v = curvature.reciprocal().mul_(temperature / dataset_size)
        return GaussianMessage(*(t.to(torch.float32).numpy(force=True).ravel() for t in (r, v)))

    def update(self, message: GaussianMessage, mean: Tensor, variance: Tensor) -> None:
        """Let the engine update support, precision, slab and graph, damped on ``ln rho``."""
        damping = self.settings.damping
        graph: Any = self.graph
        plain = isinstance(self.graph, (GatedChain, IndependentSupport))
        if plain and is_compact(self.prior, graph):
            self.prior, self.graph = compact_sweep(self.prior, graph, message, self.rho, self.odds, damping)
            return
        double = GaussianMessage(message.mean.astype(np.float64), message.variance.astype(np.float64))
        mu, var = (t.detach().double().numpy(force=True).ravel() for t in (mean, variance))
        rho, odds = self.rho.astype(np.float64), self.odds.astype(np.float64)
        mean_log = np.log(rho) if self._mean_log is None else self._mean_log.astype(np.float64)
        state = PriorState(rho, mean_log, expit(odds), odds, np.zeros_like(odds))
        classes = np.zeros(odds.size, dtype=np.int64)
        self.prior, state, self.graph = self.prior.sweep(
            state, double, mu, var, classes, graph, damping=damping
        )
        self.rho = state.precision.astype(np.float32)
        odds = state.log_likelihood_ratio + state.extrinsic_log_odds
        self.odds = levelled(self.graph, odds).astype(np.float32)
        if self._mean_log is not None:
            self._mean_log = state.log_precision.astype(np.float32)

    @property
    def precision(self) -> Tensor:
        """Return ``rho`` in the shape of the weights, float32, in the memory that an update changes."""
        return torch.from_numpy(self.rho).reshape(self.shape)

    @property
    def active(self) -> Tensor:
        """Return where ``pi >= 0.5``, in the shape of the weights; everywhere before the first update."""
        return torch.from_numpy(is_kept(self.odds, self.graph)).reshape(self.shape)

    @property
    def log_odds(self) -> Tensor:
        """Return the posterior log-odds of the support in nats, in the shape of the weights."""
        return torch.from_numpy(self.odds.copy()).reshape(self.shape)

    @property
    def n_bytes(self) -> int:
        """Return the bytes of the arrays with an entry per weight."""
        arrays = (self.rho, self.odds, self._mean_log)
        return sum(array.nbytes for array in arrays if array is not None)

    def state_dict(self) -> dict[str, Tensor]:
        """Return everything that changes, as tensors."""
        stored = {"precision": torch.tensor(self.rho), "odds": torch.tensor(self.odds)}
        if self._mean_log is not None:
            stored["mean_log_precision"] = torch.tensor(self._mean_log)
        stored["slab_precision"] = torch.tensor(self.prior.slab_precision)
        for name in self._graph_parameters():
            stored[f"graph_{name}"] = torch.tensor(float(getattr(self._inner, name)), dtype=torch.float64)
        return stored

    def load_state_dict(self, stored: dict[str, Tensor]) -> None:
        """Restore what ``state_dict`` returned."""
        self.rho, self.odds = (stored[name].numpy().copy() for name in ("precision", "odds"))
        if self._mean_log is not None:
            self._mean_log = stored["mean_log_precision"].numpy().copy()
        self.prior = self.prior.with_slab_precision(stored["slab_precision"].numpy().copy())
        graph: Any = self.graph
        self.graph = graph.with_parameters(
            **{name: float(stored[f"graph_{name}"]) for name in self._graph_parameters()}
        )

    def _graph_parameters(self) -> tuple[str, ...]:
        """Return the names of the parameters that EM learns."""
        if isinstance(self._inner, AtMostSupport):
            return ()
        chain = isinstance(self._inner, GatedChain)
        return ("gate", "p_first", "p01", "p11") if chain else ("probability",)

    @property
    def _inner(self) -> GatedChain | IndependentSupport | AtMostSupport:
        """Return the graph whose parameters are learned."""
        return self.graph.graph if isinstance(self.graph, BlockSupport) else self.graph
