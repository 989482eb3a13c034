"""Multiply-accumulate operations (MACs) of Linear and Conv2d layers (docs/theory-networks.md, section 6)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["count_macs", "output_positions"]


def output_positions(model: nn.Module, input_shape: Sequence[int]) -> dict[str, int]:
    """Return how often each weight of every Linear and Conv2d acts for one example.

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

    `MACs = number of weights * output positions`: `out * in` for Linear, and
    `out * (in / groups) * kh * kw * H_out * W_out` for Conv2d. Biases and normalisation are not counted.

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
