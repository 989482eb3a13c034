"""Linear layers whose weights are stored in blocks, and are faster for it (docs/theory-networks.md, 4.4)."""

from __future__ import annotations

import warnings
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from isac_toolbox._validation import check_fraction, check_integer
from isac_toolbox.nn.layers import replace_modules

__all__ = ["BlockSparseLinear", "to_block_sparse"]

#: Blocks with a weight, as a part of all, below which the product in blocks is the faster one;
#: benchmarks/nn/hardware.py measures it.
_FASTER_BELOW = 0.2


class BlockSparseLinear(nn.Module):
    """Linear layer for inference that stores and multiplies only square blocks with a weight.

    Parameters
    ----------
    linear : nn.Linear
        Layer whose weights and bias are taken over.
    block : int
        Side of the blocks; the last ones are filled up with zeros.

    Attributes
    ----------
    filled : float
        Part of the blocks that are stored.
    """

    def __init__(self, linear: nn.Linear, block: int = 4) -> None:
        super().__init__()
        block = check_integer("block", block, 1)
        self.in_features, self.out_features, self.block = linear.in_features, linear.out_features, block
        self.padding = -linear.in_features % block
        weight = F.pad(linear.weight.detach(), (0, self.padding, 0, -linear.out_features % block))
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Sparse BSR")
            stored = weight.to_sparse_bsr((block, block))
        self.shape = tuple(weight.shape)
        self.register_buffer("rows", stored.crow_indices())
        self.register_buffer("columns", stored.col_indices())
        self.register_buffer("values", stored.values())
        self.register_buffer("bias", None if linear.bias is None else linear.bias.detach().clone())

    @property
    def filled(self) -> float:
        """Return the part of the blocks that are stored."""
        blocks: Any = self.columns
        return float(blocks.numel() * self.block**2 / (self.shape[0] * self.shape[1]))

    def forward(self, x: Tensor) -> Tensor:
        """Return ``x W^T + b``, (..., out_features), without gradients of the weights."""
        rows: Any = self.rows
        columns: Any = self.columns
        values: Any = self.values
        weight = torch.sparse_bsr_tensor(rows, columns, values, self.shape, check_invariants=False)
        flat = F.pad(x.reshape(-1, self.in_features), (0, self.padding))
        y = (weight @ flat.t().contiguous())[: self.out_features].t().reshape(*x.shape[:-1], -1)
        bias: Any = self.bias
        return y if bias is None else y + bias

    def extra_repr(self) -> str:
        """Return sizes for ``print``."""
        return f"{self.in_features}, {self.out_features}, block={self.block}, filled={self.filled:.3f}"


def to_block_sparse(model: nn.Module, block: int = 4, *, below: float = _FASTER_BELOW) -> nn.Module:
    """Return a copy whose sparse linear layers store and multiply only blocks with a weight.

    Parameters
    ----------
    model : nn.Module
        Plain network, such as ``compressor.export()`` of a fit with ``block``; it is not changed.
    block : int
        Side of the square blocks, that of the fit.
    below : float
        Layers of which a smaller part of the blocks has a weight are replaced, in (0, 1]. The others, and
        convolutions, stay as they are.

    Returns
    -------
    nn.Module
        For inference; the outputs are those of ``model`` up to rounding.

    Raises
    ------
    TypeError, ValueError
        If an argument is wrong.

    Warns
    -----
    UserWarning
        If no layer is replaced.

    Examples
    --------
    >>> import torch
    >>> layer = torch.nn.Linear(32, 16)
    >>> _ = layer.weight.data[:, 4:].zero_()
    >>> to_block_sparse(torch.nn.Sequential(layer))[0].filled
    0.125
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, got {type(model).__name__}")
    block = check_integer("block", block, 1)
    check_fraction("below", below, high_open=False)
    copy = deepcopy(model).eval()
    made = {
        name: BlockSparseLinear(module, block)
        for name, module in copy.named_modules()
        if type(module) is nn.Linear
    }
    chosen = {name for name, layer in made.items() if layer.filled < below}
    if not chosen:
        filled = {name: round(layer.filled, 2) for name, layer in made.items()}
        warnings.warn(
            f"no linear layer has weights in fewer than {below:.0%} of its blocks of {block} x {block}, so "
            f"none is replaced; filled parts: {filled}",
            stacklevel=2,
        )
    names = {id(copy.get_submodule(name)): name for name in chosen}
    return replace_modules(copy, chosen, lambda module: made[names[id(module)]])
