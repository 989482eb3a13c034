"""Order in which a budget drops kept weights (docs/theory-networks.md, section 5)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import accumulate

import torch
from torch import Tensor

__all__ = ["drop_until", "layer_adaptive_scores", "least_certain_first", "least_evidence_per_mac_first"]


def least_certain_first(
    support: Mapping[str, Tensor], log_odds: Mapping[str, Tensor], power: Mapping[str, Tensor]
) -> Tensor:
    """Return the kept positions of all layers by rising log-odds, equal ones by ``mu^2 / sigma^2``.

    Positions are numbered through the flattened layers in the order of ``support``.
    """
    position = _flat(support, support).nonzero().flatten()
    position = position[_flat(power, support)[position].argsort(stable=True)]
    return position[_flat(log_odds, support)[position].argsort(stable=True)]


def least_evidence_per_mac_first(
    support: Mapping[str, Tensor], log_odds: Mapping[str, Tensor], costs: Mapping[str, int]
) -> list[Tensor]:
    """Return the kept positions of each neuron, ordered by its positive log-odds per MAC.

    Neurons that cannot be removed alone (a cost of 0) are not among them.
    """
    scores, neurons, start = [], [], 0
    for name, mask in support.items():
        rows = mask.flatten(1)
        evidence = (log_odds[name].clamp(min=0.0) * mask).flatten(1).sum(1)
        for i in rows.any(1).nonzero().flatten().tolist() if costs[name] else ():
            scores.append(float(evidence[i]) / costs[name])
            neurons.append(rows[i].nonzero().flatten() + (start + i * rows.shape[1]))
        start += mask.numel()
    return [neurons[i] for i in sorted(range(len(scores)), key=scores.__getitem__)]


def drop_until(
    support: Mapping[str, Tensor], order: Tensor | list[Tensor], met: Callable[[dict[str, Tensor]], bool]
) -> dict[str, Tensor]:
    """Return the support without the first positions of ``order``, as few as meet the budget.

    Of a list of tensors, the positions of each leave together.
    """
    parts = order if isinstance(order, list) else []
    positions = order if isinstance(order, Tensor) else torch.cat([torch.zeros(0, dtype=torch.int64), *parts])
    whole: Sequence[int] = [0, *accumulate(part.numel() for part in parts)]
    stops = whole if isinstance(order, list) else range(len(order) + 1)
    low, high = 0, len(stops) - 1
    while low < high:
        middle = (low + high) // 2
        if met(_without(support, positions[: stops[middle]])):
            high = middle
        else:
            low = middle + 1
    return _without(support, positions[: stops[low]])


def _flat(values: Mapping[str, Tensor], names: Mapping[str, Tensor]) -> Tensor:
    """Return the tensors of some layers as one vector."""
    return torch.cat([values[name].flatten() for name in names])


def _without(support: Mapping[str, Tensor], dropped: Tensor) -> dict[str, Tensor]:
    """Return a copy of the support without some positions."""
    flat = _flat(support, support)
    flat[dropped] = False
    parts = flat.split([mask.numel() for mask in support.values()])
    return {name: part.reshape(mask.shape) for (name, mask), part in zip(support.items(), parts)}


def layer_adaptive_scores(power: Tensor) -> Tensor:
    """Return each squared weight over the sum of those of its layer that are not smaller, in (0, 1].

    Layers of different scale can be compared by it, and the largest weight of a layer has 1, so that no
    layer loses all its weights before another has lost all but one.

    Parameters
    ----------
    power : Tensor
        Squared weights of a layer, zero where a weight is dropped.

    Notes
    -----
    Source: Lee, Park, Mo, Ahn, Shin, "Layer-adaptive sparsity for the magnitude-based pruning", ICLR 2021,
    arXiv:2010.07611.
    """
    flat = power.flatten().double()
    order = flat.argsort(descending=True, stable=True)
    scores = torch.empty_like(flat)
    scores[order] = flat[order] / flat[order].cumsum(0).clamp(min=torch.finfo(flat.dtype).tiny)
    return scores.reshape(power.shape)
