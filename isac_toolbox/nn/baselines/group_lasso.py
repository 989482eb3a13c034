"""Group lasso: an L2 penalty on the norm of whole neurons and filters."""

from __future__ import annotations

import math
from collections.abc import Mapping
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn

from isac_toolbox._validation import check_choice, check_fraction, check_positive
from isac_toolbox.nn._batches import Batch, dataset_size_of, first_batch, n_batches_of
from isac_toolbox.nn.baselines.common import (
    BaselineResult,
    Finetuning,
    Masks,
    apply_masks,
    finish,
    prunable,
    weight_budget,
)
from isac_toolbox.nn.export.shrink import Channels, simplify
from isac_toolbox.nn.training import cosine

__all__ = ["group_lasso"]


def group_lasso(
    model: nn.Module,
    loader: Any,
    *,
    density: float,
    epochs: int,
    finetune_epochs: int,
    strength: float = 0.1,
    group: str = "in",
    tuning: Finetuning | None = None,
) -> BaselineResult:
    """Train with the group lasso, keep the groups of largest norm, and fine-tune.

    Parameters
    ----------
    model, loader, density, tuning
        As in ``magnitude``.
    epochs, finetune_epochs : int
        Epochs with the penalty, and after it.
    strength : float
        Weight of ``sum_g sqrt(|g|) ||w_g||``.
    group : {"in", "out"}
        Groups of a Linear layer: the weights of an input (as in the paper) or of an output. Those of a Conv2d
        layer are whole filters.

    Returns
    -------
    BaselineResult

    Notes
    -----
    Source: Scardapane, Comminiello, Hussain, Uncini, "Group sparse regularization for deep neural networks",
    Neurocomputing 241, 2017. Norms are compared relative to the mean of their layer, because a layer of small
    weights would otherwise be removed as a whole; with ``group="out"`` the outputs of the network are kept.
    """
    density = check_fraction("density", density, high_open=False)
    check_positive("strength", strength)
    check_choice("group", group, ("in", "out"))
    tuning, net = tuning or Finetuning(), deepcopy(model)
    first = first_batch(loader, net).size
    total_steps = max(epochs * n_batches_of(loader, dataset_size_of(loader, None), first), 1)
    count = 0

    def shrink_groups() -> None:
        nonlocal count
        rate = tuning.learning_rate * cosine(count / total_steps)
        count += 1
        with torch.no_grad():
            for layer in prunable(net).values():
                norm, size = _group_norm(layer, group)
                layer.weight.mul_(
                    (1.0 - rate * strength * math.sqrt(size) / norm.clamp(min=1e-12)).clamp(min=0.0)
                )

    # the penalty acts on the loss's scale under Adam, whose steps are about one learning rate each
    tuning.run(net, loader, epochs, 0, after_step=shrink_groups)
    scores = {}
    for name, layer in prunable(net).items():
        norm, _ = _group_norm(layer, group)
        scores[name] = (norm / norm.mean().clamp(min=1e-12)).expand_as(layer.weight).detach()
    if group == "out":
        scores[name] = torch.full_like(scores[name], math.inf)
    masks = _whole_groups(net, scores, weight_budget(net, density), first_batch(loader, net))
    return finish(net, masks, loader, finetune_epochs, epochs, tuning)


def _group_norm(layer: nn.Linear | nn.Conv2d, group: str) -> tuple[Tensor, int]:
    """Return the norm of every group, broadcastable to the weights, and the size of a group."""
    weight = layer.weight.detach()
    if isinstance(layer, nn.Conv2d):
        return weight.flatten(1).norm(dim=1).reshape(-1, 1, 1, 1), weight[0].numel()
    axis = 0 if group == "in" else 1
    return weight.norm(dim=axis, keepdim=True), weight.shape[axis]


def _whole_groups(model: nn.Module, scores: Mapping[str, Tensor], n_keep: int, example: Batch) -> Masks:
    """Return masks of the groups of largest norm that meet the budget without disconnected weights."""
    values = torch.unique(torch.cat([score.flatten() for score in scores.values()]), sorted=True)
    channels = Channels(model, example)
    low, high = 0, len(values) - 1  # a higher threshold keeps less
    while low < high:
        middle = (low + high) // 2
        masks = {name: score > values[middle] for name, score in scores.items()}
        trial = deepcopy(model).eval()
        apply_masks(trial, masks)
        simplify(trial, example, channels=channels)
        kept = sum(int(layer.weight.count_nonzero()) for layer in prunable(trial).values())
        low, high = (low, middle) if kept <= n_keep else (middle + 1, high)
    return {name: score > values[low] for name, score in scores.items()}
