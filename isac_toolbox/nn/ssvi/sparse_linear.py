"""Product with a sparse matrix, forward and backward (docs/theory-ssvi.md, section 6).

The cost of both passes is ``active weights * batch``; the batch is the contiguous axis of every array.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numba import njit
from torch import Tensor

__all__ = ["CROSSOVER_DENSITY", "compressed_rows", "sparse_linear"]

#: Below this density a layer uses the sparse product; benchmarks/nn/ssvi_crossover.py measured 0.32 for
#: 784 -> 300 and 0.42 for 2048 -> 2048, batch 128, one core.
CROSSOVER_DENSITY = 0.3


@njit(cache=True, fastmath=True, nogil=True)
def _forward(starts: Any, columns: Any, values: Any, x: Any, y: Any) -> None:
    """Compute ``y[o] = sum_k values[k] x[columns[k]]`` over the weights ``k`` of row ``o``."""
    for row in range(starts.size - 1):
        out = y[row]
        out[:] = 0.0
        for k in range(starts[row], starts[row + 1]):
            value, source = values[k], x[columns[k]]
            for b in range(out.size):
                out[b] += value * source[b]


@njit(cache=True, fastmath=True, nogil=True)
def _backward_values(starts: Any, columns: Any, x: Any, dy: Any, dvalues: Any) -> None:
    """Compute the gradient of the active values alone."""
    for row in range(starts.size - 1):
        slope = dy[row]
        for k in range(starts[row], starts[row + 1]):
            source, total = x[columns[k]], np.float32(0.0)
            for b in range(slope.size):
                total += slope[b] * source[b]
            dvalues[k] = total


@njit(cache=True, fastmath=True, nogil=True)
def _backward(starts: Any, columns: Any, values: Any, x: Any, dy: Any, dx: Any, dvalues: Any) -> None:
    """Compute the gradients of the active values and of the input."""
    for row in range(starts.size - 1):
        slope = dy[row]
        for k in range(starts[row], starts[row + 1]):
            value, source, target = values[k], x[columns[k]], dx[columns[k]]
            total = np.float32(0.0)
            for b in range(slope.size):
                total += slope[b] * source[b]
                target[b] += value * slope[b]
            dvalues[k] = total


def compressed_rows(index: Tensor, n_rows: int, n_columns: int) -> tuple[Tensor, Tensor]:
    """Return row starts (n_rows + 1,) and columns, int32, of ascending flat positions."""
    rows = torch.div(index, n_columns, rounding_mode="floor")
    counts = torch.bincount(rows, minlength=n_rows)
    starts = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
    return starts.int(), (index - rows * n_columns).int()


class _SparseLinear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, values: Tensor, starts: Tensor, columns: Tensor) -> Tensor:
        wide = x.t().contiguous()
        ctx.save_for_backward(wide, values, starts, columns)
        y = wide.new_empty((starts.numel() - 1, wide.shape[1]))
        _forward(starts.numpy(), columns.numpy(), values.detach().numpy(), wide.detach().numpy(), y.numpy())
        return y.t()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor, None, None]:
        x, values, starts, columns = ctx.saved_tensors
        dy = gradients[0].t().contiguous()
        rows, inputs, slope = (starts.numpy(), columns.numpy()), x.numpy(), dy.numpy()
        dvalues = torch.empty_like(values)
        if not ctx.needs_input_grad[0]:
            _backward_values(rows[0], rows[1], inputs, slope, dvalues.numpy())
            return None, dvalues, None, None
        dx = torch.zeros_like(x)
        weights = values.detach().numpy()
        _backward(rows[0], rows[1], weights, inputs, slope, dx.numpy(), dvalues.numpy())
        return dx.t(), dvalues, None, None


def sparse_linear(x: Tensor, values: Tensor, starts: Tensor, columns: Tensor) -> Tensor:
    """Return ``x W^T`` of a sparse ``W`` in compressed rows, with gradients of ``x`` and of ``values``.

    Parameters
    ----------
    x : Tensor, shape (..., n_columns), float32
        Inputs, on the CPU.
    values : Tensor, shape (n_active,), float32
        Active weights, row by row.
    starts : Tensor of int32, shape (n_rows + 1,)
        First active weight of every row.
    columns : Tensor of int32, shape (n_active,)
        Column of every active weight.

    Returns
    -------
    Tensor, shape (..., n_rows)

    Notes
    -----
    Source: docs/theory-ssvi.md, section 6.
    """
    flat = x.reshape(-1, x.shape[-1])
    product: Tensor = _SparseLinear.apply(flat, values.contiguous(), starts, columns)
    return product.reshape(*x.shape[:-1], starts.numel() - 1)
