"""Constants after sums of products, and what attention keeps (docs/theory-networks.md, section 5.2)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from isac_toolbox.nn.export.capture import Node, shape_of
from isac_toolbox.nn.export.known import Knowledge, Known
from isac_toolbox.nn.export.operations import argument, name_of, several

__all__ = ["ProductValues"]


class ProductValues(Knowledge):
    """Rules of linear layers, convolutions, matrix products and attention."""

    def _affine(
        self, x: Known, pattern: Tensor, sums: Callable[[], Tensor], bias: Tensor, axis: int
    ) -> Known:
        """Return ``W x + b`` along an axis, from the pattern (out, in) of the weights."""
        n = pattern.shape[1]
        value, varies = torch.broadcast_tensors(x.value.movedim(axis, -1), x.varies.movedim(axis, -1))
        value, varies = (t.expand(*t.shape[:-1], n) for t in (value, varies))
        moving = varies.to(torch.float32) @ pattern.to(torch.float32).T > 0
        out = bias.expand(moving.shape)
        if bool((value != 0).any()):
            out = out + torch.where(varies, torch.zeros_like(value), value) @ sums().T
        out = torch.where(moving, torch.zeros_like(out), out)
        return Known(out.movedim(-1, axis), moving.movedim(-1, axis))

    def _linear(self, node: Node) -> Known:
        if name_of(node) == "addmm":
            bias, x, weight = node.args[:3]
            pattern, sums = self._weights(weight)
            n = shape_of(weight)[1]
            b = self._bias(node, bias, n, node.meta["val"].dtype)
            return self._affine(self.get(x), pattern.T, lambda: sums().T, b, len(shape_of(x)) - 1)
        x, weight = node.args[:2]
        bias = node.args[2] if len(node.args) > 2 else None
        pattern, sums = self._weights(weight)
        b = self._bias(node, bias, shape_of(weight)[0], node.meta["val"].dtype)
        b = torch.where(self._rows(weight, len(b)), torch.zeros_like(b), b)
        return self._affine(self.get(x), pattern, sums, b, len(shape_of(x)) - 1)

    def _convolution(self, node: Node) -> Known | None:
        x, weight = node.args[:2]
        bias = node.args[2] if len(node.args) > 2 else None
        n_axes, n_in = len(shape_of(x)), shape_of(x)[1]
        transposed = name_of(node).startswith("conv_transpose")
        groups, n_out = argument(node, "groups", 1), shape_of(node)[1]
        padding = argument(node, "padding", 0)
        padded = padding != "valid" if isinstance(padding, str) else any(several(padding))
        value, varies = self.get(x).along(1, n_in)
        if padded or transposed:
            varies = varies | (value != 0)
        pattern, sums = self._weights(weight)
        b = self._bias(node, bias, n_out, node.meta["val"].dtype)
        if not transposed:
            b = torch.where(self._rows(weight, n_out), torch.zeros_like(b), b)
        columns = Known(torch.where(varies, torch.zeros_like(value), value)[None], varies[None])
        if groups == 1:
            sums_of = (lambda: sums().T) if transposed else sums
            found = self._affine(columns, pattern.T if transposed else pattern, sums_of, b, 1)
        else:
            found = self._grouped(columns, pattern, sums, b, groups, transposed)
        shape = (1, n_out, *[1] * (n_axes - 2))
        return Known(found.value.reshape(shape), found.varies.reshape(shape))

    def _grouped(
        self,
        x: Known,
        pattern: Tensor,
        sums: Callable[[], Tensor],
        bias: Tensor,
        groups: int,
        transposed: bool,
    ) -> Known:
        """Return the constants after a convolution with several groups."""
        value, varies = x.value.reshape(groups, -1), x.varies.reshape(groups, -1)
        blocks, weights = (t.reshape(groups, -1, t.shape[1]) for t in (pattern, sums()))
        if transposed:
            blocks, weights = blocks.transpose(1, 2), weights.transpose(1, 2)
        moving = (blocks & varies[:, None]).any(2).flatten()
        out = bias + torch.einsum("goi,gi->go", weights, value).flatten()
        return Known(torch.where(moving, torch.zeros_like(out), out), moving)

    def _matmul(self, node: Node) -> Known | None:
        a, b = node.args[:2]
        n_a, n_b = len(shape_of(a)), len(shape_of(b))
        if n_a < 2 or n_b < 2:
            return None
        left, right = self.get(a), self.get(b)
        if n_b == 2 and not bool(right.varies.any()):
            pattern, sums = self._weights(b)
            zero = torch.zeros(shape_of(b)[1], dtype=node.meta["val"].dtype, device=self._device)
            return self._affine(left, pattern.T, lambda: sums().T, zero, n_a - 1)
        return self._attended(a, left, right, shape_of(a)[-1])

    def _attended(self, a: Any, left: Known, right: Known, n: int) -> Known:
        """Return a product of activations: zeros, and what a matrix with rows of sum 1 keeps."""
        some_a = left.varies | (left.value != 0)
        some_b = right.varies | (right.value != 0)
        some_a = some_a.expand(*some_a.shape[:-1], n)
        some_b = some_b.expand(*some_b.shape[:-2], n, some_b.shape[-1])
        moving = some_a.to(torch.float32) @ some_b.to(torch.float32) > 0
        out = torch.zeros_like(moving, dtype=right.value.dtype)
        if a in self._row_sums and right.value.shape[-2] == right.varies.shape[-2] == 1:
            out, moving = right.value + out, right.varies | torch.zeros_like(moving)
        return Known(out, moving)

    def _attention(self, node: Node) -> Known | None:
        value = self.get(node.args[2])
        if value.value.shape[-2] != 1 or value.varies.shape[-2] != 1:
            moving = (value.varies | (value.value != 0)).any(-2, keepdim=True)
            return Known(torch.zeros_like(moving, dtype=value.value.dtype), moving)
        return value
