"""Iterative magnitude pruning with fine-tuning."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

from torch import nn

from isac_toolbox._validation import check_fraction, check_integer
from isac_toolbox.nn.baselines.common import (
    BaselineResult,
    Finetuning,
    Masks,
    apply_masks,
    finish,
    keep_largest,
    prunable,
    weight_budget,
)

__all__ = ["magnitude"]


def magnitude(
    model: nn.Module,
    loader: Any,
    *,
    density: float,
    epochs: int,
    steps: int = 1,
    pruning_part: float = 0.6,
    tuning: Finetuning | None = None,
) -> BaselineResult:
    """Prune the smallest weights of all layers, with fine-tuning.

    Parameters
    ----------
    model : nn.Module
        Trained model; it is not changed.
    loader : iterable of (x, y)
        Training batches.
    density : float
        Part of the weights that are kept.
    epochs : int
        Epochs of training.
    steps : int
        Number of pruning steps: 1 prunes at once; more follow the cubic schedule over the first
        ``pruning_part`` of the epochs.
    pruning_part : float
        Part of the epochs over which several steps are spread.
    tuning : Finetuning, optional
        Learning rate, teacher, seed.

    Returns
    -------
    BaselineResult

    Notes
    -----
    Sources: Han, Pool, Tran, Dally, NeurIPS 2015; Zhu, Gupta, arXiv:1710.01878 (cubic schedule).
    """
    density = check_fraction("density", density, high_open=False)
    epochs, steps = check_integer("epochs", epochs, 0), check_integer("steps", steps, 1)
    check_fraction("pruning_part", pruning_part)
    tuning, net = tuning or Finetuning(), deepcopy(model)
    budget = weight_budget(net, density)
    if steps == 1:
        return finish(net, _largest_weights(net, budget), loader, epochs, 0, tuning)
    total = sum(layer.weight.numel() for layer in prunable(net).values())
    length = max(round(pruning_part * epochs), 1) * len(loader)
    every = max(length // steps, 1)
    masks: Masks = {}
    count = 0

    def prune() -> None:
        nonlocal count
        if count % every == 0 and count <= length:
            part = min((count // every + 1) / steps, 1.0)
            kept = budget + (total - budget) * (1.0 - part) ** 3
            masks.update(_largest_weights(net, round(kept)))
        count += 1
        apply_masks(net, masks)

    tuning.run(net, loader, epochs, 0, after_step=prune)
    return finish(net, _largest_weights(net, budget), loader, 0, epochs, tuning)


def _largest_weights(model: nn.Module, n_keep: int) -> Masks:
    """Return masks of the largest weights over all layers."""
    return keep_largest({n: layer.weight.detach().abs() for n, layer in prunable(model).items()}, n_keep)
