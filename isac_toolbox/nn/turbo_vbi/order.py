"""Order in which a budget drops kept weights (docs/theory-networks.md, section 5)."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

__all__ = ["drop_until", "least_certain_first", "least_evidence_per_mac_first"]


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
) -> Tensor:
    """Return the kept positions neuron by neuron, by the positive log-odds of a neuron per MAC.

    Neurons that cannot be removed alone (a cost of 0) are not among them.
    """
    scores = {}
    for name, mask in support.items():
        evidence = (log_odds[name].clamp(min=0.0) * mask).flatten(1).sum(1)
        per_mac = evidence / costs[name] if costs[name] else torch.full_like(evidence, torch.inf)
        scores[name] = per_mac.repeat_interleave(mask[0].numel())
    score = _flat(scores, support)
    position = (_flat(support, support) & score.isfinite()).nonzero().flatten()
    return position[score[position].argsort(stable=True)]


def drop_until(
    support: Mapping[str, Tensor], order: Tensor, met: Callable[[dict[str, Tensor]], bool]
) -> dict[str, Tensor]:
    """Return the support without the first positions of ``order``, as few as meet the budget."""
    low, high = 0, order.numel()
    while low < high:
        middle = (low + high) // 2
        if met(_without(support, order[:middle])):
            high = middle
        else:
            low = middle + 1
    return _without(support, order[:low])


def _flat(values: Mapping[str, Tensor], names: Mapping[str, Tensor]) -> Tensor:
    """Return the tensors of some layers as one vector."""
    return torch.cat([values[name].flatten() for name in names])


def _without(support: Mapping[str, Tensor], dropped: Tensor) -> dict[str, Tensor]:
    """Return a copy of the support without some positions."""
    flat = _flat(support, support)
    flat[dropped] = False
    parts = flat.split([mask.numel() for mask in support.values()])
    return {name: part.reshape(mask.shape) for (name, mask), part in zip(support.items(), parts)}
