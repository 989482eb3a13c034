"""Constants, folding and cutting of single layers (docs/theory-networks.md, section 5).

Constants are tensors (n,) with the value of every channel that is constant and NaN elsewhere.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

NORMS = (nn.BatchNorm1d, nn.BatchNorm2d)


@dataclass(frozen=True)
class Use:
    """A layer that reads a dependency group: its module, and the node that it reads."""

    module: nn.Linear | nn.Conv2d
    node: fx.Node


def device_of(model: nn.Module) -> torch.device:
    """Return the device of the first parameter, the CPU without parameters."""
    return next((p.device for p in model.parameters()), torch.device("cpu"))


def kept(removed: Tensor) -> Tensor:
    """Return which channels stay: those not removed, and at least the first."""
    keep = ~removed
    if not bool(keep.any()):
        keep[0] = True
    return keep


def any_of(value: Any) -> bool:
    """Return whether a number, or any of several, is not zero."""
    return any(value) if isinstance(value, (tuple, list)) else bool(value)


def bias_where_dead(module: nn.Linear | nn.Conv2d) -> Tensor:
    """Return the bias of the outputs whose weights are all zero, NaN elsewhere, (n_out,)."""
    weight = module.weight.flatten(1)
    dead = ~weight.any(dim=1)
    bias = torch.zeros(len(weight), device=weight.device) if module.bias is None else module.bias
    return torch.where(dead, bias.to(weight.dtype), math.nan)


def depthwise(module: nn.Conv2d, value: Tensor | None) -> Tensor | None:
    """Return the constants after a depthwise convolution."""
    constant = bias_where_dead(module)
    if value is None:
        return constant
    bias = torch.zeros_like(value) if module.bias is None else module.bias
    inner = bias + torch.where(value == 0.0, 0.0, value * module.weight.flatten(1).sum(1))
    if pads_with_zeros(module):
        inner = torch.where(value == 0.0, bias, math.nan)
    return torch.where(torch.isnan(constant), inner, constant)


def normalised(module: Any, value: Tensor | None) -> Tensor | None:
    """Return the constants after a batch normalisation; a scale of zero makes any input constant."""
    scale = torch.rsqrt(module.running_var + module.eps)
    scale = scale if module.weight is None else scale * module.weight
    shift = torch.zeros_like(scale) if module.bias is None else module.bias
    inner = math.nan if value is None else shift + scale * (value - module.running_mean)
    return torch.where(scale == 0.0, shift, inner)


def apply_pointwise(value: Tensor | None, function: Callable[[Tensor], Tensor]) -> Tensor | None:
    """Return a pointwise function of the constants."""
    if value is None:
        return None
    return torch.where(torch.isnan(value), math.nan, function(torch.nan_to_num(value)))


def frozen(module: nn.Module) -> Callable[[Tensor], Tensor]:
    """Return the function of a module in evaluation mode, on a copy of its input."""

    def call(value: Tensor) -> Tensor:
        if isinstance(module, (nn.Dropout, nn.Dropout2d)):
            return value
        return module(value.clone())

    return call


def pointwise(name: str, node: fx.Node) -> Callable[[Tensor], Tensor]:
    """Return the traced pointwise function, on a copy of its input."""
    if name in ("dropout", "contiguous"):
        return lambda value: value
    function = node.target if callable(node.target) else getattr(torch, name, None) or getattr(F, name)
    return lambda value: function(value.clone(), *node.args[1:], **node.kwargs)


def only_zero(value: Tensor | None, restricted: bool) -> Tensor | None:
    """Return the constants; only zeros where an average may include padding (``restricted``)."""
    if value is None or not restricted:
        return value
    return torch.where(value == 0.0, value, math.nan)


def sum_of(a: Tensor | None, b: Tensor | None) -> Tensor | None:
    """Return the constants of a sum; None where nothing is known of an addend."""
    return None if a is None or b is None else a + b


def pads_with_zeros(module: nn.Conv2d) -> bool:
    """Return whether a convolution reads zeros beyond the border."""
    padding = module.padding
    padded = padding == "same" if isinstance(padding, str) else any_of(padding)
    return module.padding_mode == "zeros" and padded


def weight_blocks(module: nn.Linear | nn.Conv2d, n: int) -> Tensor:
    """Return the weights as (out, n channels, positions or kernel)."""
    return module.weight.reshape(len(module.weight), n, -1)


def unread(use: Use, n: int) -> Tensor:
    """Return the channels whose weights in the layer are all zero, (n,)."""
    return ~weight_blocks(use.module, n).any(dim=2).any(dim=0)


def foldable(use: Use, value: Tensor | None) -> Tensor | bool:
    """Return the channels whose constant can be folded into the bias of the layer, (n,)."""
    if value is None:
        return False
    if isinstance(use.module, nn.Conv2d) and pads_with_zeros(use.module):
        return value == 0.0
    return ~torch.isnan(value)


def fold(use: Use, value: Tensor | None, channels: Tensor) -> None:
    """Fold the constants of some channels into the bias, and set their weights to zero."""
    module, n = use.module, channels.numel()
    blocks = weight_blocks(module, n)
    if value is not None:
        amount = torch.where(channels & ~torch.isnan(value), value, 0.0)
        shift = torch.einsum("onp,n->o", blocks, amount)
        if module.bias is not None:
            module.bias += shift
        elif bool(shift.any()):
            module.bias = nn.Parameter(shift)
    zeroed = torch.where(channels[None, :, None], 0.0, blocks)
    module.weight.copy_(zeroed.reshape(module.weight.shape))


def cut_inputs(module: nn.Linear | nn.Conv2d, keep: Tensor) -> None:
    """Remove the other input channels of a layer, in place."""
    blocks = weight_blocks(module, keep.numel())[:, keep].detach().clone()
    if isinstance(module, nn.Linear):
        module.weight = nn.Parameter(blocks.reshape(len(blocks), -1))
        module.in_features = module.weight.shape[1]
    else:
        shape = (len(blocks), int(keep.sum()), *module.weight.shape[2:])
        module.weight = nn.Parameter(blocks.reshape(shape))
        module.in_channels = shape[1]


def cut_outputs(module: Any, keep: Tensor) -> None:
    """Remove the other output channels of a layer or a normalisation, in place."""
    for name in ("weight", "bias"):
        old = getattr(module, name)
        if old is not None:
            setattr(module, name, nn.Parameter(old[keep].detach().clone()))
    n = int(keep.sum())
    if isinstance(module, NORMS):
        assert module.running_mean is not None and module.running_var is not None
        module.running_mean, module.running_var = module.running_mean[keep], module.running_var[keep]
        module.num_features = n
    elif isinstance(module, nn.Linear):
        module.out_features = n
    else:
        if module.groups > 1:
            module.groups = module.in_channels = n
        module.out_channels = n
