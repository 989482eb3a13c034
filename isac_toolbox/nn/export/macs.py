"""Multiply-accumulate operations (MACs) of any network (docs/theory-networks.md, section 6)."""

from __future__ import annotations

import math
import warnings
from typing import Any

from torch import Tensor, nn

from isac_toolbox._validation import check_positive
from isac_toolbox.nn.export.counter import counted
from isac_toolbox.nn.export.inputs import inputs_of
from isac_toolbox.nn.export.shrink import Channels

__all__ = ["count_macs", "filter_macs", "mac_gates", "output_positions", "uncounted"]

#: Log-odds below which a probability is zero in float64.
_MOST_NATS = 700.0


def output_positions(model: nn.Module, example: Any) -> dict[str, int]:
    """Return how often each weight of every layer is used for one example.

    Parameters
    ----------
    model : nn.Module
        Any module; it is run once in evaluation mode.
    example : Tensor, tuple of Tensor, mapping of str to Tensor, or tuple of int
        Inputs of a batch, or the shape of one example, which stands for noise.

    Returns
    -------
    dict of str to int
        Output positions by layer name: height times width of the output of a convolution.
    """
    modules: dict[str, Any] = dict(model.named_modules())
    found = {}
    for name, macs in count_macs(model, example).items():
        weight = getattr(modules[name], "weight", None)
        if isinstance(weight, Tensor):
            found[name] = macs // weight.numel()
    return found


def count_macs(model: nn.Module, example: Any, kept: dict[str, Tensor] | None = None) -> dict[str, int]:
    """Return the MACs of one example by module.

    ``torch.utils.flop_counter`` counts the operations that the model calls, whatever calls them: half its
    number of matrix products, convolutions and attention. Biases, normalisations and pointwise functions are
    not counted.

    Parameters
    ----------
    model : nn.Module
        Any module; it is run once in evaluation mode.
    example : Tensor, tuple of Tensor, mapping of str to Tensor, or tuple of int
        Inputs of a batch, or the shape of one example, which stands for noise.
    kept : dict of str to Tensor of bool, optional
        Masks by layer name; only kept weights are counted there.

    Returns
    -------
    dict of str to int
        By the name of the innermost module that calls the operation, ``""`` for the model itself. All Linear
        and convolution layers that are called are there, others only with operations of their own.

    Warns
    -----
    UserWarning
        If the model has operations with products that are not counted; it names them.

    Notes
    -----
    Source: docs/theory-networks.md, section 6.
    """
    counts, missed = counted(model, inputs_of(example, model))
    if missed:
        text = "; ".join(
            f"{', '.join(names)} in {name or 'the model itself'!r}" for name, names in missed.items()
        )
        warnings.warn(f"operations that are not counted: {text}", stacklevel=2)
    modules: dict[str, Any] = dict(model.named_modules())
    for name, mask in (kept or {}).items():
        if name in counts:
            counts[name] = counts[name] // modules[name].weight.numel() * int(mask.sum())
    return counts


def uncounted(model: nn.Module, example: Any) -> dict[str, list[str]]:
    """Return operations with products that ``count_macs`` does not count, by the name of the module."""
    return counted(model, inputs_of(example, model))[1]


def filter_macs(model: nn.Module, example: Any) -> dict[str, int]:
    """Return the MACs of one example that one neuron (filter) of each layer costs.

    They are those of the neuron and of everything that reads it: what ``shrink`` saves once it is zero.
    Zero where a channel cannot be removed alone (outputs).

    Parameters
    ----------
    model : nn.Module
        Plain model.
    example : Tensor, tuple of Tensor, mapping of str to Tensor, or tuple of int
        Inputs of a batch, or the shape of one example, which stands for noise.

    Returns
    -------
    dict of str to int

    Notes
    -----
    Source: docs/theory-networks.md, section 6.
    """
    return Channels(model, example).costs(model)


def mac_gates(model: nn.Module, example: Any, nats: float) -> dict[str, float]:
    """Return cost-aware gates: the evidence that a neuron (filter) needs is in proportion to its MACs.

    ``logit gate = -nats * macs / max macs``, with ``filter_macs``.

    Parameters
    ----------
    model : nn.Module
        Plain model.
    example : Tensor, tuple of Tensor, mapping of str to Tensor, or tuple of int
        Inputs of a batch, or the shape of one example, which stands for noise.
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
    costs = filter_macs(model, example)
    largest = max(costs.values(), default=0)
    if largest <= 0:
        raise ValueError("no channel of this model can be removed alone, so none has a cost")
    return {name: 1.0 / (1.0 + math.exp(nats * cost / largest)) for name, cost in costs.items()}
