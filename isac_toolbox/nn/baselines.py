"""Other ways to compress the same trained network, with one interface (docs/theory-networks.md, section 8).

Every function takes the trained dense model, the same loader and the same number of epochs, and returns the
masked model with its report at the density asked for.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from isac_toolbox.nn._baseline_common import (
    BaselineResult,
    Finetuning,
    Masks,
    apply_masks,
    finish,
    keep_largest,
    prunable,
    weight_budget,
)
from isac_toolbox.nn._checks import check_choice, check_fraction, check_integer, check_positive
from isac_toolbox.nn._torch_pruning import torch_pruning
from isac_toolbox.nn.export import simplify
from isac_toolbox.nn.layers import convert, to_plain, variational_layers
from isac_toolbox.nn.training import cosine, dataset_size_of, epoch_seed, training_epoch

__all__ = [
    "BaselineResult",
    "Finetuning",
    "group_lasso",
    "magnitude",
    "sparse_variational_dropout",
    "torch_pruning",
]


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
    """Global magnitude pruning with fine-tuning.

    Parameters
    ----------
    model : nn.Module
        Trained model; it is not changed.
    loader : iterable of (x, y)
        Training batches.
    density : float
        Part of the weights that stay.
    epochs : int
        Epochs of training.
    steps : int
        1 prunes at once; more prune step by step, on the cubic schedule, over the first `pruning_part` of the
        epochs.
    pruning_part : float
        Part of the epochs over which an iterative run prunes.
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
    return keep_largest({n: layer.weight.detach().abs() for n, layer in prunable(model).items()}, n_keep)


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
    """Group lasso: proximal training, then the strongest groups stay.

    Parameters
    ----------
    model, loader, density, tuning
        As in `magnitude`.
    epochs, finetune_epochs : int
        Epochs with the penalty, and after it.
    strength : float
        Weight of `sum_g sqrt(|g|) ||w_g||`.
    group : {"in", "out"}
        Groups of a Linear layer: the weights that leave an input (the paper's), or that enter an output.
        Those of a Conv2d are whole filters.

    Returns
    -------
    BaselineResult

    Notes
    -----
    Source: Scardapane, Comminiello, Hussain, Uncini, "Group sparse regularization for deep neural networks",
    Neurocomputing 241, 2017. Norms are compared relative to the mean of their layer, or a layer of small
    weights would vanish as a whole; with `group="out"` the network's outputs stay.
    """
    density = check_fraction("density", density, high_open=False)
    check_positive("strength", strength)
    check_choice("group", group, ("in", "out"))
    tuning, net = tuning or Finetuning(), deepcopy(model)
    total_steps = max(epochs * len(loader), 1)
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
    masks = _whole_groups(net, scores, weight_budget(net, density))
    return finish(net, masks, loader, finetune_epochs, epochs, tuning)


def _group_norm(layer: nn.Linear | nn.Conv2d, group: str) -> tuple[Tensor, int]:
    """Norm of every group, broadcastable to the weights, and the size of a group."""
    weight = layer.weight.detach()
    if isinstance(layer, nn.Conv2d):
        return weight.flatten(1).norm(dim=1).reshape(-1, 1, 1, 1), weight[0].numel()
    axis = 0 if group == "in" else 1
    return weight.norm(dim=axis, keepdim=True), weight.shape[axis]


def _whole_groups(model: nn.Module, scores: Mapping[str, Tensor], n_keep: int) -> Masks:
    """Masks of the strongest groups that fit into the budget once what leads nowhere is gone as well."""
    values = torch.unique(torch.cat([score.flatten() for score in scores.values()]), sorted=True)
    low, high = 0, len(values) - 1  # a higher threshold keeps less
    while low < high:
        middle = (low + high) // 2
        masks = {name: score > values[middle] for name, score in scores.items()}
        trial = deepcopy(model).eval()
        apply_masks(trial, masks)
        kept = sum(int(layer.weight.count_nonzero()) for layer in prunable(simplify(trial)).values())
        low, high = (low, middle) if kept <= n_keep else (middle + 1, high)
    return {name: score > values[low] for name, score in scores.items()}


def sparse_variational_dropout(
    model: nn.Module,
    loader: Any,
    *,
    density: float,
    epochs: int,
    finetune_epochs: int,
    kl_weight: float = 1.0,
    warmup_part: float = 0.5,
    dataset_size: int | None = None,
    tuning: Finetuning | None = None,
) -> BaselineResult:
    """Sparse variational dropout: log-uniform prior, weights with the least `log alpha` stay.

    Parameters
    ----------
    model, loader, density, tuning
        As in `magnitude`.
    epochs, finetune_epochs : int
        Epochs of variational training, and after it.
    kl_weight : float
        Final weight of the KL term, times 1/N.
    warmup_part : float
        Part of the epochs over which the KL term grows linearly.
    dataset_size : int, optional
        `N`; read from the loader if not given.

    Returns
    -------
    BaselineResult

    Notes
    -----
    Source: Molchanov, Ashukha, Vetrov, "Variational dropout sparsifies deep neural networks", ICML 2017; the
    approximation of the KL divergence is theirs.
    """
    density = check_fraction("density", density, high_open=False)
    check_positive("kl_weight", kl_weight)
    warmup_part = check_fraction("warmup_part", warmup_part)
    epochs, size = check_integer("epochs", epochs, 1), dataset_size_of(loader, dataset_size)
    tuning = tuning or Finetuning()
    net = convert(model)
    layers = variational_layers(net)
    logs = {name: nn.Parameter(torch.full_like(layer.weight, -10.0)) for name, layer in layers.items()}
    optimiser = torch.optim.Adam([*net.parameters(), *logs.values()], lr=tuning.learning_rate, fused=True)
    for epoch in range(epochs):
        net.train()
        for i, layer in enumerate(layers.values()):
            layer.sampling = True
            layer.generator = torch.Generator(layer.weight.device).manual_seed(
                epoch_seed(tuning.seed, epoch, 1) + i
            )
        with training_epoch(tuning.seed, epoch, loader):
            for i, (x, y) in enumerate(loader):
                part = (epoch + i / len(loader)) / epochs
                optimiser.param_groups[0]["lr"] = tuning.learning_rate * cosine(part)
                for name, layer in layers.items():
                    layer.variance = logs[name].exp()
                kl: Any = sum(_molchanov_kl(layers[n].weight, logs[n]) for n in layers)
                loss = F.cross_entropy(net(x), y) + kl_weight * min(part / warmup_part, 1.0) / size * kl
                optimiser.zero_grad(set_to_none=True)
                loss.backward()
                optimiser.step()
    for name, layer in layers.items():
        layer.sampling, layer.generator = False, None
        layer.variance = logs[name].detach().exp()
    scores = {n: -_log_alpha(layer.weight, logs[n]).detach() for n, layer in layers.items()}
    plain = to_plain(net)
    return finish(
        plain, keep_largest(scores, weight_budget(plain, density)), loader, finetune_epochs, epochs, tuning
    )


def _log_alpha(weight: Tensor, log_variance: Tensor) -> Tensor:
    """`ln(sigma^2 / mu^2)`, clipped as in the paper's code."""
    return (log_variance - torch.log(weight.square() + 1e-16)).clamp(-10.0, 10.0)


def _molchanov_kl(weight: Tensor, log_variance: Tensor) -> Tensor:
    """Approximate KL from the log-uniform prior (equation 14 of the paper)."""
    log_alpha = _log_alpha(weight, log_variance)
    negative = 0.63576 * torch.sigmoid(1.87320 + 1.48695 * log_alpha) - 0.5 * F.softplus(-log_alpha) - 0.63576
    return -negative.sum()
