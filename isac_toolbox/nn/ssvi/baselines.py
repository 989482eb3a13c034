"""Baselines with the same interface and the same counts (docs/theory-ssvi.md, section 8)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from isac_toolbox._validation import check_choice, check_fraction
from isac_toolbox.nn._settings import check_known
from isac_toolbox.nn.ssvi.classifier import SparseClassifier
from isac_toolbox.nn.ssvi.layers import SparseLayer
from isac_toolbox.nn.ssvi.scores import SCORES, removal_score
from isac_toolbox.nn.ssvi.settings import SSVISettings
from isac_toolbox.nn.ssvi.training import SparseEpochRecord

__all__ = ["DenseVI", "MagnitudeSparse", "PrunedVI"]

_OPTIMISER = ("learning_rate", "momentum", "weight_decay", "initial_mean_sd", "sparse_below")
_POSTERIOR = ("prior_sd", "kl_weight", "initial_sigma", "noise", "sigma_step")
_SUPPORT = ("layer_density", "erk_power", "replace_fraction", "update_interval", "update_until")


class DenseVI(SparseClassifier):
    """Dense variational inference: the same posterior, loss and optimiser on all weights.

    Parameters
    ----------
    model : nn.Module
        As in ``SSVI``.
    exclude, loss, metric, seed
        As in ``SSVI``.
    **settings : float
        ``learning_rate``, ``momentum``, ``weight_decay``, ``initial_mean_sd``, ``prior_sd``, ``kl_weight``,
        ``initial_sigma``, ``noise``, ``sigma_step``, as in ``SSVISettings``.

    Raises
    ------
    TypeError, ValueError
        If an argument has the wrong type or range.

    Notes
    -----
    Source: docs/theory-ssvi.md, section 8.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        exclude: Iterable[str] = (),
        loss: Callable[[Any, Any], Tensor] = F.cross_entropy,
        metric: Callable[[Any, Any], Any] | None = None,
        seed: int = 0,
        **settings: Any,
    ) -> None:
        check_known("DenseVI", settings, _OPTIMISER + _POSTERIOR)
        super().__init__(model, SSVISettings(density=1.0, **settings), exclude, loss, seed, metric)


class MagnitudeSparse(SparseClassifier):
    """Sparse training of point estimates: the smallest ``|w|`` are removed, the largest gradients are added.

    Parameters
    ----------
    model : nn.Module
        As in ``SSVI``.
    density : float
        Active part of the weights.
    addition : {"gradient", "random"}
        As in ``SSVI``.
    exclude, loss, metric, seed
        As in ``SSVI``.
    **settings
        ``layer_density``, ``erk_power``, ``replace_fraction``, ``update_interval``, ``update_until``,
        ``learning_rate``, ``momentum``, ``weight_decay``, ``initial_mean_sd``, ``sparse_below``, as in
        ``SSVISettings``.

    Raises
    ------
    TypeError, ValueError
        If an argument has the wrong type or range.

    Notes
    -----
    Source: Evci, Gale, Menick, Castro, Elsen, "Rigging the lottery", ICML 2020, arXiv:1911.11134.
    """

    def __init__(
        self,
        model: nn.Module,
        density: float = 0.05,
        addition: str = "gradient",
        *,
        exclude: Iterable[str] = (),
        loss: Callable[[Any, Any], Tensor] = F.cross_entropy,
        metric: Callable[[Any, Any], Any] | None = None,
        seed: int = 0,
        **settings: Any,
    ) -> None:
        check_choice("addition", addition, ("gradient", "random"))
        check_known("MagnitudeSparse", settings, _OPTIMISER + _SUPPORT)
        chosen = SSVISettings(density, "magnitude", addition, posterior=False, **settings)
        super().__init__(model, chosen, exclude, loss, seed, metric)


class PrunedVI(SparseClassifier):
    """Dense variational inference that is pruned, then fine-tuned on the fixed support.

    Parameters
    ----------
    model : nn.Module
        As in ``SSVI``.
    density : float
        Part of the weights that are kept, over all layers together.
    score : str
        Score of the weights, the highest of which are kept: a removal score of ``SSVI`` without a rate.
    finetune_part : float
        Part of the epochs after pruning, in [0, 1), with a second learning-rate schedule. With 0 the network
        is pruned after the last epoch.
    exclude, loss, metric, seed
        As in ``SSVI``.
    **settings : float
        As in ``DenseVI``.

    Raises
    ------
    TypeError, ValueError
        If an argument has the wrong type or range.

    Notes
    -----
    Source: docs/theory-ssvi.md, section 8.
    """

    def __init__(
        self,
        model: nn.Module,
        density: float = 0.05,
        score: str = "snr",
        *,
        finetune_part: float = 0.25,
        exclude: Iterable[str] = (),
        loss: Callable[[Any, Any], Tensor] = F.cross_entropy,
        metric: Callable[[Any, Any], Any] | None = None,
        seed: int = 0,
        **settings: Any,
    ) -> None:
        check_choice("score", score, [name for name in SCORES if not name.startswith("exp")])
        self.finetune_part = check_fraction("finetune_part", finetune_part, low_open=False)
        check_known("PrunedVI", settings, _OPTIMISER + _POSTERIOR)
        chosen = SSVISettings(density, score, replace_fraction=0.0, update_until=0.0, **settings)
        super().__init__(model, chosen, exclude, loss, seed, metric)

    def _budgets(self) -> dict[str, int]:
        self._pruned = False
        return {name: layer.n_weights for name, layer in self.layers.items()}

    def _dense_part(self, epochs: int) -> int:
        """Return the number of epochs before pruning."""
        return max(epochs - round(self.finetune_part * epochs), 1)

    def _epoch(self, loader: Any, val_loader: Any, epoch: int, epochs: int, size: int) -> SparseEpochRecord:
        self._change = self._dense_part(epochs) / epochs
        if epoch == self._dense_part(epochs):
            self.prune()
        record = super()._epoch(loader, val_loader, epoch, epochs, size)
        if epoch + 1 == epochs and not self._pruned:
            self.prune()
        return record

    def _progress(self, n_steps: int) -> float:
        done = self.step_count / n_steps
        return (done - self._change) / (1.0 - self._change) if self._pruned else done / self._change

    def prune(self) -> None:
        """Keep the best scores over all layers, at least one weight in each."""
        scores = [removal_score(self.settings.removal, *_moments(layer)) for layer in self.layers.values()]
        flat = torch.cat(scores)
        budget = max(round(self.settings.density * flat.numel()), 1)
        kept = torch.zeros(flat.numel(), dtype=torch.bool, device=flat.device)
        kept[torch.topk(flat, budget).indices] = True
        parts = kept.split([score.numel() for score in scores])
        for layer, part, score in zip(self.layers.values(), parts, scores):
            if not bool(part.any()):
                part[score.argmax()] = True
            self._keep(layer, part.nonzero().flatten())
        self._pruned, self.optimiser = True, self._make_optimiser()

    def _keep(self, layer: SparseLayer, index: Tensor) -> None:
        """Remove the other weights of a dense layer."""
        if index.numel() < layer.n_weights:
            mean, rho = layer.mean.detach(), layer.rho.detach()
            layer.set_support(index, mean[index].clone(), rho[index].clone())

    def _adopt_shapes(self, state: Mapping[str, Tensor]) -> None:
        """Prune to the size of a state that was stored after pruning."""
        if not all(f"{name}.mean" in state for name in self.layers):
            return
        if not any(f"{name}.index" in state for name in self.layers):
            return
        for name, layer in self.layers.items():
            n = state[f"{name}.mean"].numel()
            if n < layer.n_weights:
                self._keep(layer, torch.arange(n, device=layer.mean.device))
        self._pruned, self.optimiser = True, self._make_optimiser()


def _moments(layer: SparseLayer) -> tuple[Tensor, Tensor]:
    """Return means and standard deviations."""
    sigma = layer.sigma
    assert sigma is not None
    return layer.mean.detach(), sigma.detach()
