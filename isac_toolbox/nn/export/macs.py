"""Multiply-accumulate operations (MACs) of Linear and Conv2d layers (docs/theory-networks.md, section 6)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn

from isac_toolbox._validation import check_positive
from isac_toolbox.nn.export.shrink import shrink, simplify

__all__ = ["count_macs", "filter_macs", "mac_gates", "output_positions"]

#: Log-odds below which a probability is zero in float64.
_MOST_NATS = 700.0


def output_positions(model: nn.Module, input_shape: Sequence[int]) -> dict[str, int]:
    """Return how often each weight of every Linear and Conv2d layer is used for one example.

    Parameters
    ----------
    model : nn.Module
        Any module; it is run once on zeros in evaluation mode.
    input_shape : sequence of int
        Shape of one example, without the batch.

    Returns
    -------
    dict of str to int
        Output positions by layer name: height times width of the output of a convolution.
    """
    positions: dict[str, int] = {}
    handles = []
    for name, module in model.named_modules():
        if isinstance(module, (nn.Linear, nn.Conv2d)):
            handles.append(module.register_forward_hook(_recorder(positions, name)))
    was_training = {module: module.training for module in model.modules()}
    reference = next(model.parameters())
    try:
        model.eval()
        with torch.no_grad():
            model(torch.zeros((1, *input_shape), dtype=reference.dtype, device=reference.device))
    finally:
        for handle in handles:
            handle.remove()
        for module, flag in was_training.items():
            module.training = flag
    return positions


def _recorder(positions: dict[str, int], name: str) -> Any:
    def record(module: nn.Module, _: Any, output: Tensor) -> None:
        width = module.out_features if isinstance(module, nn.Linear) else module.out_channels
        assert isinstance(width, int)
        positions[name] = positions.get(name, 0) + output[0].numel() // width

    return record


def count_macs(
    model: nn.Module, input_shape: Sequence[int], kept: dict[str, Tensor] | None = None
) -> dict[str, int]:
    """Return the MACs of one example in every Linear and Conv2d layer.

    ``MACs = number of weights * output positions``: ``out * in`` for Linear, and
    ``out * (in / groups) * kh * kw * H_out * W_out`` for Conv2d. Biases and normalisation are not counted.

    Parameters
    ----------
    model : nn.Module
        Any module.
    input_shape : sequence of int
        Shape of one example, without the batch.
    kept : dict of str to Tensor of bool, optional
        Masks by layer name; only kept weights are counted there.

    Returns
    -------
    dict of str to int

    Notes
    -----
    Source: docs/theory-networks.md, section 6.
    """
    modules: dict[str, Any] = dict(model.named_modules())
    counts = {}
    for name, n in output_positions(model, input_shape).items():
        mask = (kept or {}).get(name)
        counts[name] = n * (modules[name].weight.numel() if mask is None else int(mask.sum()))
    return counts


def filter_macs(model: nn.Module, input_shape: Sequence[int]) -> dict[str, int]:
    """Return the MACs of one example that one neuron (filter) of each layer costs.

    They are those of the neuron and of everything that reads it: what ``shrink`` saves once it is zero.
    Zero where a channel cannot be removed alone (outputs).

    Parameters
    ----------
    model : nn.Module
        Plain model.
    input_shape : sequence of int
        Shape of one example, without the batch.

    Returns
    -------
    dict of str to int

    Notes
    -----
    Source: docs/theory-networks.md, section 6.
    """
    whole = sum(count_macs(shrink(model), input_shape).values())
    costs = {}
    for name, module in model.named_modules():
        if not isinstance(module, (nn.Linear, nn.Conv2d)):
            continue
        silent = deepcopy(model).eval()
        layer: Any = silent.get_submodule(name)
        with torch.no_grad():
            layer.weight[0] = 0.0
            if layer.bias is not None:
                layer.bias[0] = 0.0
        smaller = shrink(simplify(silent, silence=True))
        costs[name] = whole - sum(count_macs(smaller, input_shape).values())
    return costs


def mac_gates(model: nn.Module, input_shape: Sequence[int], nats: float) -> dict[str, float]:
    """Return cost-aware gates: the evidence that a neuron (filter) needs is in proportion to its MACs.

    ``logit gate = -nats * macs / max macs``, with ``filter_macs``.

    Parameters
    ----------
    model : nn.Module
        Plain model.
    input_shape : sequence of int
        Shape of one example, without the batch.
    nats : float
        Evidence that the most expensive kind of filter needs, at most 700.

    Returns
    -------
    dict of str to float
        For the argument ``gate`` of ``TurboVBICompressor``, with ``learn_support=False``.

    Raises
    ------
    ValueError
        If ``nats`` is not in (0, 700], or no channel can be removed.

    Notes
    -----
    Source: docs/theory-networks.md, section 4.2.
    """
    check_positive("nats", nats)
    if nats > _MOST_NATS:
        raise ValueError(f"nats must be at most {_MOST_NATS:.0f}, got {nats}")
    costs = filter_macs(model, input_shape)
    largest = max(costs.values(), default=0)
    if largest <= 0:
        raise ValueError("no channel of this model can be removed alone, so none has a cost")
    return {name: 1.0 / (1.0 + math.exp(nats * cost / largest)) for name, cost in costs.items()}
