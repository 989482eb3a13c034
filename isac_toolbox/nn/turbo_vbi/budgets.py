"""Budgets of the support between fit and fine-tuning (docs/theory-networks.md, section 5)."""

from __future__ import annotations

from typing import Self

import numpy as np
import torch
from torch import Tensor

from isac_toolbox._validation import check_integer
from isac_toolbox.inference import IndependentSupport
from isac_toolbox.nn.turbo_vbi.masking import by_parameter
from isac_toolbox.nn.turbo_vbi.order import (
    drop_until,
    layer_adaptive_scores,
    least_certain_first,
    least_evidence_per_mac_first,
)
from isac_toolbox.nn.turbo_vbi.structure import AtMostSupport, BlockSupport, allowed, is_kept, levelled
from isac_toolbox.nn.turbo_vbi.trainer import PosteriorTraining
from isac_toolbox.nn.turbo_vbi.watch import Watch

__all__ = ["SupportBudgets"]

#: Largest evidence of one weight in nats, with more its neighbours have no effect; precision of a threshold.
_MOST_EVIDENCE, _PRECISION = 20.0, 1e-4


class SupportBudgets(PosteriorTraining):
    """Methods that change the kept weights between fit and fine-tuning."""

    _tuned_epochs: int
    _watch: Watch | None = None

    def fill_neurons(self) -> Self:
        """Keep every weight between two kept neurons (filters); added weights start at zero.

        In the exported network a zero between two kept neurons saves no MACs.

        Returns
        -------
        Self
            This object; the outputs of the network do not change before ``finetune``.

        Raises
        ------
        RuntimeError
            If ``fit`` has not been called.
        """
        self._require_fit("fill_neurons")
        self._refuse_patterns("fill_neurons")
        with torch.no_grad():
            for layer in self.layers.values():
                writes = layer.mask.flatten(1).any(dim=1)
                reads = (
                    layer.mask.flatten(2).any(dim=2).any(dim=0) if layer.mask.ndim > 2 else layer.mask.any(0)
                )
                full = writes[:, None] & reads
                layer.mean[~layer.mask] = 0.0
                layer.mask.copy_(
                    full.reshape(*full.shape, *[1] * (layer.mask.ndim - 2)).expand_as(layer.mask)
                )
        return self

    def keep_at_most(self, n_weights: int) -> Self:
        """Raise the threshold on the support's log-odds until at most so many weights are left.

        A temperature sets the number of weights only roughly; this method meets a budget. The least certain
        weights of all layers are dropped first, together with weights that are then disconnected; after a fit
        with ``max_loss_drop``, which ends without noise, those of the smallest magnitude relative to their
        layer. After ``finetune`` the support is chosen by the fine-tuned weights; for a tight budget, two or
        three steps, each followed by fine-tuning, give a better support than one.

        Parameters
        ----------
        n_weights : int
            Largest number of weights of all converted layers.

        Returns
        -------
        Self
            This object.

        Raises
        ------
        TypeError, ValueError
            If ``n_weights`` is no positive integer.
        RuntimeError
            If ``fit`` has not been called.
        """
        check_integer("n_weights", n_weights, 1)
        self._require_fit("keep_at_most")
        if self._watch is None and self._tuned_epochs:
            return self._keep(self._chosen_again(n_weights))
        order = self._by_odds() if self._watch is None else self._by_score()
        return self._keep(drop_until(self.support(), order, lambda s: self._n_connected(s) <= n_weights))

    def keep_macs_at_most(self, macs: int) -> Self:
        """Drop whole neurons (filters) until the exported network has at most so many MACs per example.

        Those with the least evidence per MAC are dropped first: the sum of the positive log-odds of their
        kept weights over ``filter_macs``.

        Parameters
        ----------
        macs : int
            Largest number of MACs.

        Returns
        -------
        Self
            This object.

        Raises
        ------
        TypeError, ValueError
            If ``macs`` is no positive integer, or less than one neuron in every layer needs.
        RuntimeError
            If ``fit`` has not been called.
        """
        check_integer("macs", macs, 1)
        self._require_fit("keep_macs_at_most")
        support = self.support()
        least = self._exported_macs({name: torch.zeros_like(mask) for name, mask in support.items()})
        if macs < least:
            raise ValueError(f"macs must be at least {least}, one neuron in every layer, got {macs}")
        order = least_evidence_per_mac_first(support, self._log_odds(), self.channels.costs(self.original))
        return self._keep(drop_until(support, order, lambda s: self._exported_macs(s) <= macs))

    def _refuse_patterns(self, what: str) -> None:
        """Raise an error where added weights would break a pattern."""
        if any(isinstance(prior.graph, (AtMostSupport, BlockSupport)) for prior in self.priors.values()):
            raise ValueError(f"{what} adds weights and would break the pattern of block or n_of_m")

    def _by_odds(self) -> Tensor:
        """Return the kept positions, those of the smallest log-odds first."""
        layers = self.layers.items()
        power = {n: self._levelled(n, layer.mean.detach().square() / layer.variance) for n, layer in layers}
        return least_certain_first(self.support(), self._log_odds(), power)

    def _by_score(self) -> Tensor:
        """Return the kept positions, those of the smallest score first."""
        order = self._most_salient_first(self._scores()).flip(0)
        kept = torch.cat([mask.flatten() for mask in self.support().values()])
        return order[kept[order]]

    def _log_odds(self) -> dict[str, Tensor]:
        """Return the log-odds of all layers after the fit."""
        return {name: self.priors[name].log_odds.to(layer.mask.device) for name, layer in self.layers.items()}

    def _chosen_again(self, n_weights: int) -> dict[str, Tensor]:
        """Return the support of the fine-tuned weights, at the lowest threshold that meets the budget."""
        saliency = self._saliency()
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

    def _saliency(self) -> dict[str, Tensor]:
        """Return ``mu^2 h`` of the kept weights, the mean of its block for each where there are blocks."""
        return {
            name: self._levelled(
                name, (layer.mean.detach() * layer.mask).square() * self.curvatures[name].mean_curvature
            )
            for name, layer in self.layers.items()
        }

    def _scores(self) -> dict[str, Tensor]:
        """Return the layer-adaptive scores of the kept weights, the mean of its block for each."""
        power = {n: (layer.mean.detach() * layer.mask).square() for n, layer in self.layers.items()}
        return {n: self._levelled(n, layer_adaptive_scores(self._levelled(n, p))) for n, p in power.items()}

    def _levelled(self, name: str, values: Tensor) -> Tensor:
        """Return the mean of its block for each weight of a layer."""
        graph = self.priors[name].graph
        if not isinstance(graph, BlockSupport):
            return values
        means = levelled(graph, values.double().numpy(force=True).ravel())
        return torch.from_numpy(means).reshape(values.shape).to(values)

    def _most_salient_first(self, saliency: dict[str, Tensor]) -> Tensor:
        """Return the positions of all layers by falling saliency, without those that the pattern forbids."""
        value = torch.cat([part.flatten() for part in saliency.values()])
        free = [
            torch.from_numpy(allowed(self.priors[name].graph, part.numpy(force=True).ravel()))
            for name, part in saliency.items()
        ]
        order = value.argsort(descending=True, stable=True)
        return order[torch.cat(free).to(order.device)[order]]

    def _support_above(self, saliency: dict[str, Tensor], threshold: float) -> dict[str, Tensor]:
        """Return the support by the saliency of the kept weights and of their neighbours in the graph."""
        support = {}
        for name, layer in self.layers.items():
            graph = self.priors[name].graph
            scaled = saliency[name].double().numpy(force=True).ravel() / threshold
            odds = np.where(scaled > 0.0, np.minimum(0.5 * (scaled - 1.0), _MOST_EVIDENCE), -_MOST_EVIDENCE)
            if not isinstance(graph, IndependentSupport):
                odds += graph.extrinsic_log_odds(odds)
            kept = torch.from_numpy(is_kept(odds, graph, rank=scaled)).reshape(layer.mask.shape)
            support[name] = layer.mask & kept.to(layer.mask.device)
        return support

    def _exported_macs(self, support: dict[str, Tensor]) -> int:
        """Return the MACs of the network that a support would export."""
        return self.channels.macs(self.model, by_parameter(support))

    def _keep(self, support: dict[str, Tensor]) -> Self:
        """Use a smaller support as the mask, without its disconnected weights."""
        if any(not torch.equal(support[name], layer.mask) for name, layer in self.layers.items()):
            for name, layer in self.layers.items():
                layer.mask.copy_(support[name])
            self._tidy(silence=True)
            self._name_empty()
        return self
