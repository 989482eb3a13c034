"""Budgets of the support between fit and fine-tuning (docs/theory-networks.md, section 5)."""

from __future__ import annotations

from typing import Self

import numpy as np
import torch
from scipy.special import expit
from torch import Tensor, nn

from isac_toolbox._validation import check_integer
from isac_toolbox.inference import IndependentSupport
from isac_toolbox.nn.export.macs import count_macs, filter_macs
from isac_toolbox.nn.export.shrink import shrink
from isac_toolbox.nn.turbo_vbi.order import drop_until, least_certain_first, least_evidence_per_mac_first
from isac_toolbox.nn.turbo_vbi.prior import is_kept
from isac_toolbox.nn.turbo_vbi.trainer import PosteriorTraining

__all__ = ["SupportBudgets"]

#: Evidence of one weight, nats, beyond which its neighbours no longer matter; relative width of a threshold.
_MOST_EVIDENCE, _PRECISION = 20.0, 1e-4


class SupportBudgets(PosteriorTraining):
    """What may be done to the kept weights once a fit has chosen them."""

    original: nn.Module
    _tuned_epochs: int

    def fill_neurons(self) -> Self:
        """Keep every weight between living neurons (filters); those that join start at zero.

        For a goal in MACs of the exported network: there a zero between living neurons saves nothing.

        Returns
        -------
        Self
            Itself; the function of the network stays the same until `finetune`.

        Raises
        ------
        RuntimeError
            If `fit` has not been called.
        """
        self._require_fit("fill_neurons")
        with torch.no_grad():
            for layer in self.layers.values():
                writes = layer.mask.flatten(1).any(dim=1)
                reads = (
                    layer.mask.flatten(2).any(dim=2).any(dim=0) if layer.mask.ndim > 2 else layer.mask.any(0)
                )
                full = writes[:, None] & reads
                layer.weight[~layer.mask] = 0.0
                layer.mask.copy_(
                    full.reshape(*full.shape, *[1] * (layer.mask.ndim - 2)).expand_as(layer.mask)
                )
        return self

    def keep_at_most(self, n_weights: int) -> Self:
        """Raise the threshold on the support's log-odds until at most so many weights are left.

        A temperature sets the number of weights only roughly; this meets a budget. The least certain weights
        of all layers leave first, and with them what then leads nowhere. After `finetune` the engine judges
        the fine-tuned weights: a tight budget that is met in two or three steps, each fine-tuned, keeps a
        better support than one step.

        Parameters
        ----------
        n_weights : int
            Largest number of weights of all converted layers; more than there are changes nothing.

        Returns
        -------
        Self
            Itself.

        Raises
        ------
        TypeError, ValueError
            If `n_weights` is no positive integer.
        RuntimeError
            If `fit` has not been called.
        """
        check_integer("n_weights", n_weights, 1)
        self._require_fit("keep_at_most")
        if self._tuned_epochs:
            return self._keep(self._judged_again(n_weights))
        layers = self.layers.items()
        power = {name: layer.weight.detach().square() / layer.variance for name, layer in layers}
        order = least_certain_first(self.support(), self._log_odds(), power)
        return self._keep(drop_until(self.support(), order, lambda s: self._n_connected(s) <= n_weights))

    def keep_macs_at_most(self, macs: int) -> Self:
        """Drop whole neurons (filters) until the exported network has at most so many MACs per example.

        Those with the least evidence per MAC leave first: the sum of the log-odds of their kept weights over
        `filter_macs`.

        Parameters
        ----------
        macs : int
            Largest number of MACs; more than there are changes nothing.

        Returns
        -------
        Self
            Itself.

        Raises
        ------
        TypeError, ValueError
            If `macs` is no positive integer, or one neuron in every layer has more.
        RuntimeError
            If `fit` has not been called.
        """
        check_integer("macs", macs, 1)
        self._require_fit("keep_macs_at_most")
        least = self._exported_macs({name: torch.zeros_like(m) for name, m in self.support().items()})
        if macs < least:
            raise ValueError(f"macs must be at least {least}, one neuron in every layer, got {macs}")
        costs = filter_macs(self.original, self.input_shape or ())
        order = least_evidence_per_mac_first(self.support(), self._log_odds(), costs)
        return self._keep(drop_until(self.support(), order, lambda s: self._exported_macs(s) <= macs))

    def _log_odds(self) -> dict[str, Tensor]:
        return {name: self.priors[name].log_odds.to(layer.mask.device) for name, layer in self.layers.items()}

    def _judged_again(self, n_weights: int) -> dict[str, Tensor]:
        """Support of the fine-tuned weights at the lowest threshold that leaves at most so many."""
        saliency = {
            name: (layer.weight.detach() * layer.mask).square() * self.curvatures[name].mean_curvature
            for name, layer in self.layers.items()
        }
        if self._n_connected(self.support()) <= n_weights:
            return self.support()
        positive = torch.cat([value[value > 0.0] for value in saliency.values()])
        low = float(positive.min()) / (1.0 + 2.0 * _MOST_EVIDENCE)  # here every weight has the most evidence
        high = float(positive.max())
        while high - low > _PRECISION * high:
            middle = 0.5 * (low + high)
            if self._n_connected(self._support_above(saliency, middle)) <= n_weights:
                high = middle
            else:
                low = middle
        return self._support_above(saliency, high)

    def _support_above(self, saliency: dict[str, Tensor], threshold: float) -> dict[str, Tensor]:
        """Kept weights whose saliency speaks for them, given what the graph says of their neighbours."""
        support = {}
        for name, layer in self.layers.items():
            graph = self.priors[name].graph
            scaled = saliency[name].double().numpy(force=True).ravel() / threshold
            odds = np.where(scaled > 0.0, np.minimum(0.5 * (scaled - 1.0), _MOST_EVIDENCE), -_MOST_EVIDENCE)
            if not isinstance(graph, IndependentSupport):
                odds += graph.extrinsic_log_odds(odds)
            kept = torch.from_numpy(is_kept(expit(odds))).reshape(layer.mask.shape)
            support[name] = layer.mask & kept.to(layer.mask.device)
        return support

    def _exported_macs(self, support: dict[str, Tensor]) -> int:
        assert self.input_shape is not None
        return sum(count_macs(shrink(self._simplified(support)), self.input_shape).values())

    def _keep(self, support: dict[str, Tensor]) -> Self:
        """Make a smaller support the mask; what then leads nowhere leaves as well."""
        if any(not torch.equal(support[name], layer.mask) for name, layer in self.layers.items()):
            for name, layer in self.layers.items():
                layer.mask.copy_(support[name])
            self._tidy(silence=True)
        return self

    def _require_fit(self, what: str) -> None:
        if self.input_shape is None or not self.history:
            raise RuntimeError(f"{what} needs a fitted network; call fit first")
