"""Structured magnitude pruning by the package torch-pruning (docs/theory-networks.md, section 8)."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn

from isac_toolbox._validation import import_optional
from isac_toolbox.nn.baselines.common import (
    BaselineResult,
    Finetuning,
    example_shape,
    prunable,
    weight_budget,
)
from isac_toolbox.nn.export.inputs import device_of
from isac_toolbox.nn.export.macs import count_macs
from isac_toolbox.nn.export.report import make_report


def torch_pruning(
    model: nn.Module,
    loader: Any,
    *,
    density: float | None = None,
    macs: int | None = None,
    epochs: int,
    global_pruning: bool = True,
    tuning: Finetuning | None = None,
) -> BaselineResult:
    """Prune whole channels by the MagnitudePruner of torch-pruning, and fine-tune.

    Parameters
    ----------
    model, loader, epochs, tuning
        As in ``magnitude``.
    density : float, optional
        Part of the weights that are kept; the pruning ratio is found by bisection.
    macs : int, optional
        Largest number of MACs, instead of ``density``.
    global_pruning : bool
        Whether channels of all layers compete, where a layer may keep a single one; otherwise every layer
        keeps the same part.

    Returns
    -------
    BaselineResult

    Raises
    ------
    ImportError
        If torch-pruning is not installed.
    ValueError
        Unless exactly one of ``density`` and ``macs`` is given.
    """
    if (density is None) == (macs is None):
        raise ValueError(f"give either density or macs, got density={density!r} and macs={macs!r}")
    tuning, shape = tuning or Finetuning(), example_shape(loader)

    def fits(net: nn.Module) -> bool:
        if density is not None:
            n_weights = sum(layer.weight.numel() for layer in prunable(net).values())
            return n_weights <= weight_budget(model, density)
        assert macs is not None
        return sum(count_macs(net, shape).values()) <= macs

    low, high = 0.0, 1.0
    for _ in range(12):
        ratio = 0.5 * (low + high)
        low, high = (low, ratio) if fits(_pruned(model, shape, ratio, global_pruning)) else (ratio, high)
    small = _pruned(model, shape, high, global_pruning)
    masks = {n: _where_kept(layer.weight, prunable(small)[n].weight) for n, layer in prunable(model).items()}
    tuning.run(small, loader, epochs)
    return BaselineResult(small.eval(), masks, make_report(model, masks, shape, small))


def _pruned(model: nn.Module, shape: Sequence[int], ratio: float, global_pruning: bool) -> nn.Module:
    """Return a copy without a part of its channels; the outputs are kept."""
    tp = import_optional("torch_pruning", "torch-pruning", "bench", "this baseline")
    net = deepcopy(model).eval()
    last = list(prunable(net).values())[-1]
    pruner = tp.pruner.MagnitudePruner(
        net,
        torch.zeros((1, *shape), device=device_of(net)),
        importance=tp.importance.GroupMagnitudeImportance(),
        global_pruning=global_pruning,
        pruning_ratio=ratio,
        max_pruning_ratio=0.98,
        ignored_layers=[last],
    )
    pruner.step()
    return net


def _where_kept(old: Tensor, new: Tensor) -> Tensor:
    """Return the mask of the rows and columns of ``old`` that are in ``new``, found by their values."""
    found = (
        torch.isin(old.detach(), new.detach()).flatten(2) if old.ndim > 2 else torch.isin(old, new)[..., None]
    )
    hits = found.float().sum(2)
    positions = found.shape[2]
    rows = old.new_zeros(len(old), dtype=torch.bool)
    columns = old.new_zeros(old.shape[1], dtype=torch.bool)
    columns[torch.topk(hits.sum(0), new.shape[1]).indices] = True
    rows[torch.topk(hits[:, columns].sum(1), new.shape[0]).indices] = True
    mask = rows[:, None, None] & columns[None, :, None]
    return mask.expand(-1, -1, positions).reshape(old.shape).clone()
