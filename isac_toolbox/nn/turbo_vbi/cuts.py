"""Weights that leave while the network recovers from the last ones (docs/theory-networks.md, section 5.5)."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor

from isac_toolbox.nn.turbo_vbi.masking import by_parameter
from isac_toolbox.nn.turbo_vbi.trials import Trials

__all__ = ["Cuts", "Rung"]

#: Guard: how many times the allowed loss a network may show just after the first cut.
_FIRST_LIMIT = 5.0
#: Guard: factors on what a cut may lose: after one that was recovered from at once, and one that was not.
_BOLDER, _MEEKER = 2.0, 0.25
#: Cost cap: factor between the numbers of weights of networks that are kept.
_NEXT_RUNG = 1.4
#: Parts of the weights that may stay at a cut.
_PARTS = (0.5, 0.6, 0.7, 0.8, 0.9, 0.95)
#: Guard: least part of the weights on a path from input to output that stays at a cut.
_LEAST_CONNECTED = 0.4
#: Nats below the smallest scores at which a search for a threshold starts; there everything is kept.
_WIDE = 4.0
#: Precision of the logarithm of a threshold.
_PRECISION = 0.01


class Rung(NamedTuple):
    """A network before a cut: its number of weights and its state."""

    n: int
    state: dict[str, Tensor]


class Cuts:
    """Cuts of the least important weights, each as deep as the network can be expected to recover from.

    Two orders are tried: by the magnitude of each weight relative to its layer, and by this with the messages
    of the support graph. The second, which keeps neurons and runs together, is taken where it costs hardly
    more.

    Parameters
    ----------
    trials : Trials
        Measures networks.
    patience : int
        Calls that a network has to recover from a cut.

    Attributes
    ----------
    rungs : list of Rung
        Networks from which a cut was made, the sparsest last.
    """

    def __init__(self, trials: Trials, patience: int) -> None:
        self.trials, self.compressor, self.watch = trials, trials.compressor, trials.watch
        self.patience = patience
        self.rungs: list[Rung] = []
        self.limit, self.n_waits = self.watch.times(_FIRST_LIMIT), 0

    def next_support(self, bound: float) -> dict[str, Tensor] | None:
        """Return the mask of the next cut, or None where the network has not recovered from the last one.

        Parameters
        ----------
        bound : float
            Bound on what the network has lost by now.
        """
        if not self.trials.n_kept:
            return None
        if self.has_recovered(bound):
            if self.rungs and not self.n_waits:
                self.limit = max(self.limit, min(_BOLDER * self.limit, self.watch.times(math.inf)))
            self._climb()
        else:
            self.n_waits += 1
            if not self.rungs or self.n_waits < self.patience:
                return None
            self.compressor.load_masked(self.rungs[-1].state)
            self.limit *= _MEEKER
            self.patience *= 2
        self.n_waits = 0
        return self._deepest()

    def has_recovered(self, bound: float) -> bool:
        """Return whether a network has lost so little that another cut may be made."""
        return bound <= self.watch.max_loss_drop

    def _climb(self) -> None:
        """Keep the network, in place of the last one if that is about as large."""
        n = self.trials.n_kept
        if len(self.rungs) > 1 and self.rungs[-2].n <= _NEXT_RUNG * n:
            self.rungs.pop()
        self.rungs.append(Rung(n, self.compressor.network_state()))

    def denser_than(self, n_low: float, n_high: float) -> Rung | None:
        """Return a network of more weights, and of fewer than ``n_high``, None if there is none.

        It is the one in the middle, in logarithms.
        """
        inside = [rung for rung in self.rungs if n_low < rung.n < n_high]
        middle = 0.5 * (math.log(n_low) + math.log(n_high))
        return min(inside, key=lambda rung: abs(math.log(rung.n) - middle), default=None)

    def _deepest(self) -> dict[str, Tensor]:
        """Return the smallest support that loses at most what a cut may."""
        scores, n = self.compressor._scores(), self.trials.n_kept
        order = self.compressor._most_salient_first(scores)
        low, high = 0, len(_PARTS)
        lost, support = math.inf, self._first_of(order, _PARTS[-1] * n)
        while low < high:
            middle = (low + high) // 2
            trial = self._first_of(order, _PARTS[middle] * n)
            lost_now = self._lost(trial, n)
            if lost_now <= self.limit:
                high, lost, support = middle, lost_now, trial
            else:
                low = middle + 1
        together = self._connected(self._by_graph(scores, _PARTS[min(high, len(_PARTS) - 1)] * n))
        most = min(lost + self.watch.max_loss_drop, self.limit)
        return together if self._lost(together, n) <= most else support

    def _lost(self, support: dict[str, Tensor], n: int) -> float:
        """Return what a cut of ``n`` weights loses, infinite where it cuts the network in two."""
        return self.trials.lost(support) if _n(support) >= _LEAST_CONNECTED * n else math.inf

    def _first_of(self, order: Tensor, n: float) -> dict[str, Tensor]:
        return self._connected(self.trials.first_of(order, max(round(n), 1)))

    def _connected(self, support: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return the weights of a support that are on a path from an input to an output."""
        given = by_parameter(support)
        found = self.compressor.channels.connected(self.compressor.model, given)
        return {name: found[key] for name, key in zip(support, given)}

    def _by_graph(self, scores: dict[str, Tensor], target: float) -> dict[str, Tensor]:
        """Return a support by the evidence of each weight and of its neighbours in the support graph."""
        positive = torch.cat([value[value > 0.0] for value in scores.values()])
        low, high = math.log(float(positive.min())) - _WIDE, math.log(float(positive.max()))
        while high - low > _PRECISION:
            middle = 0.5 * (low + high)
            support = self.compressor._support_above(scores, math.exp(middle))
            low, high = (middle, high) if _n(support) > target else (low, middle)
        return self.compressor._support_above(scores, math.exp(high))

    # ---- checkpoint ----------------------------------------------------------------------------------

    def state(self) -> dict[str, Any]:
        """Return everything that changes."""
        values = {name: getattr(self, name) for name in ("limit", "n_waits", "patience")}
        return values | {"rungs": [tuple(rung) for rung in self.rungs]}

    def restore(self, state: dict[str, Any]) -> None:
        """Restore what ``state`` returned."""
        for name, value in state.items():
            setattr(self, name, value)
        self.rungs = [Rung(*rung) for rung in state["rungs"]]


def _n(support: dict[str, Tensor]) -> int:
    return sum(int(mask.sum()) for mask in support.values())
