"""How sums of products carry labels of channels (docs/theory-networks.md, section 5.2)."""

from __future__ import annotations

import math
import string
from collections.abc import Sequence
from typing import Any

import torch
from torch import fx

from isac_toolbox.nn.export.capture import Node, shape_of
from isac_toolbox.nn.export.carrier import Carrier, Operand, Product, Reader
from isac_toolbox.nn.export.labels import Factor, support
from isac_toolbox.nn.export.operations import argument, name_of, several

__all__ = ["ProductRules"]

_MIXED = "an operation mixes these channels"


class ProductRules(Carrier):
    """Rules of linear layers, matrix products, attention and convolutions."""

    def _contract(
        self, node: Node, operands: Sequence[Operand], letters: Sequence[str], out: str, times: int = 1
    ) -> tuple[list[Factor], list[Factor]]:
        """Return the factors of a sum of products, and those of the axes that it sums over.

        Axes are named by letters, as in ``einsum``; letters that ``out`` does not have are summed over.
        """
        space = list(dict.fromkeys("".join(letters) + out))
        lifted: list[Operand] = []
        sizes = [1] * len(space)
        for (factors, shape), axes in zip(operands, letters):
            order = sorted(range(len(axes)), key=lambda i: space.index(axes[i]))
            where = {space.index(axes[i]): shape[i] for i in order}
            sizes = [max(n, where.get(k, 1)) for k, n in enumerate(sizes)]
            full = tuple(where.get(k, 1) for k in range(len(space)))
            moved = []
            for factor in factors:
                by = {space.index(letter): factor.shape[i] for i, letter in enumerate(axes)}
                moved.append(factor.permute(order).reshape([by.get(k, 1) for k in range(len(space))]))
            lifted.append((moved, full))
        merged = self._combined(lifted, len(space), _MIXED)
        summed = [k for k, letter in enumerate(space) if letter not in out]
        pure, kept = [], []
        for factor in merged:
            inside = [k for k in support(factor) if k in summed]
            if len(inside) == len(support(factor)):
                pure.append(factor)
            else:
                kept.append(self.labels.coarse(factor, inside, _MIXED))
        self.products.append(Product(node, times * math.prod(sizes), (*kept, *pure)))
        order = [space.index(letter) for letter in out]
        rest = [k for k in range(len(space)) if k not in order]
        return [f.permute([*order, *rest]).reshape([f.shape[k] for k in order]) for f in kept], pure

    def _with_bias(self, factors: list[Factor], node: Node, bias: Any, axis: int) -> list[Factor]:
        if not isinstance(bias, fx.Node):
            return factors
        shape = shape_of(node)
        size = math.prod(shape_of(bias))
        wanted = [size if a == axis else 1 for a in range(len(shape))]
        of = [f.reshape(wanted) for f in self._of(bias)]
        return self._combined([(factors, shape), (of, tuple(wanted))], len(shape), "added to a bias")

    def _linear(self, node: Node) -> list[Factor]:
        x, weight = node.args[0], node.args[1]
        bias = node.args[2] if len(node.args) > 2 else None
        free = string.ascii_lowercase[: len(shape_of(x)) - 1]
        found, pure = self._contract(
            node, [self._operand(x), self._operand(weight)], [free + "z", "yz"], free + "y"
        )
        for factor in pure:
            self.readers.append(
                Reader(node, factor.flatten(), (x, len(free)), (weight, 1), folds=True, bias=bias)
            )
        return self._with_bias(found, node, bias, len(free))

    def _matmul(self, node: Node) -> Any:
        a, b = node.args[0], node.args[1]
        return self._multiplied(node, a, b, None)

    _mm = _bmm = _matmul

    def _multiplied(self, node: Node, a: Any, b: Any, bias: Any) -> Any:
        n_a, n_b = len(shape_of(a)), len(shape_of(b))
        if n_a < 2 or n_b < 2:
            return None
        batch = string.ascii_lowercase[: max(n_a, n_b) - 2]
        letters = [batch[len(batch) - (n_a - 2) :] + "xz", batch[len(batch) - (n_b - 2) :] + "zy"]
        found, pure = self._contract(node, [self._operand(a), self._operand(b)], letters, batch + "xy")
        for factor in pure:
            folds = n_b == 2 and bias is not None
            self.readers.append(
                Reader(node, factor.flatten(), (a, n_a - 1), (b, n_b - 2), folds=folds, bias=bias)
            )
        return found

    def _addmm(self, node: Node) -> Any:
        bias, a, b = node.args[:3]
        if node.kwargs or len(shape_of(bias)) != 1:
            return None
        return self._with_bias(self._multiplied(node, a, b, bias), node, bias, len(shape_of(node)) - 1)

    def _einsum(self, node: Node) -> Any:
        equation, tensors = str(node.args[0]).replace(" ", ""), list(node.args[1])
        left, arrow, out = equation.partition("->")
        letters = left.split(",")
        plain = arrow and "." not in equation and all(len(set(part)) == len(part) for part in letters)
        if not plain or len(tensors) != 2:
            return None
        found, pure = self._contract(node, [self._operand(t) for t in tensors], letters, out)
        space = list(dict.fromkeys("".join(letters) + out))
        for factor in pure:
            inside = [space[k] for k in support(factor)]
            if len(inside) > 1 or any(inside[0] not in part for part in letters):
                self.labels.fix(factor, "read by einsum")
                continue
            at = [(t, part.index(inside[0])) for t, part in zip(tensors, letters)]
            self.readers.append(Reader(node, factor.flatten(), at[0], at[1]))
        return found

    def _scaled_dot_product_attention(self, node: Node) -> Any:
        query, key, value = node.args[:3]
        given = dict(zip(("attn_mask", "dropout_p", "is_causal"), node.args[3:])) | node.kwargs
        if given.get("enable_gqa") or len({len(shape_of(t)) for t in (query, key, value)}) > 1:
            return None
        n_axes = len(shape_of(query))
        free = string.ascii_lowercase[: n_axes - 2]
        scores, pure = self._contract(
            node, [self._operand(query), self._operand(key)], [free + "xz", free + "yz"], free + "xy"
        )
        for factor in pure:
            if given.get("scale") is None:
                self.labels.fix(factor, "attention is scaled by the width of its heads")
            else:
                self.readers.append(Reader(node, factor.flatten(), (query, n_axes - 1), (key, n_axes - 1)))
        shape = (*shape_of(query)[:-1], shape_of(key)[-2])
        operands: list[Operand] = [(scores, shape)]
        if isinstance(given.get("attn_mask"), fx.Node):
            operands.append(self._operand(given["attn_mask"]))
        scores = self._combined(operands, n_axes, "read by attention")
        scores = self._without(scores, [n_axes - 1], "read by attention")
        found, pure = self._contract(
            node, [(scores, shape), self._operand(value)], [free + "xz", free + "zy"], free + "xy"
        )
        for factor in pure:
            self.labels.fix(factor, "read by attention")
        return found

    def _convolution(self, node: Node) -> Any:
        x, weight = node.args[0], node.args[1]
        bias = node.args[2] if len(node.args) > 2 else None
        n = len(shape_of(weight)) - 2
        if len(shape_of(x)) != n + 2:
            return None
        transposed = name_of(node).startswith("conv_transpose")
        groups = argument(node, "groups", 1)
        positions = range(2, n + 2)
        inputs = self._without(self._of(x), positions, "positions of a convolution")
        kernels = self._without(self._of(weight), positions, "a kernel")
        flat = [[f.reshape(f.shape[:2]) for f in of] for of in (inputs, kernels)]
        shapes = [shape_of(x)[:2], shape_of(weight)[:2]]
        times = math.prod(shape_of(weight)[2:]) * math.prod(shape_of(x if transposed else node)[2:])
        if groups > 1:
            found, pure = self._grouped(node, flat, shapes, groups, transposed, times)
        else:
            letters = ["nz", "zy" if transposed else "yz"]
            found, pure = self._contract(
                node, [(flat[0], shapes[0]), (flat[1], shapes[1])], letters, "ny", times
            )
        for factor in pure:
            padding = argument(node, "padding", 0)
            padded = padding != "valid" if isinstance(padding, str) else any(several(padding))
            axis = 0 if transposed else 1
            self.readers.append(
                Reader(
                    node,
                    factor.flatten(),
                    (x, 1),
                    (weight, axis),
                    groups=groups,
                    folds=groups == 1 and not transposed,
                    padded=padded,
                    bias=bias,
                )
            )
        found = [f.reshape(*f.shape, *[1] * n) for f in found]
        return self._with_bias(found, node, bias, 1)

    def _grouped(
        self,
        node: Node,
        flat: list[list[Factor]],
        shapes: list[Any],
        groups: int,
        transposed: bool,
        times: int,
    ) -> tuple[list[Factor], list[Factor]]:
        """Each group of a convolution keeps the same channels; a group of one is a channel by itself."""
        (_, n_in), (first, second) = shapes
        n_out = second * groups if transposed else first
        rows = n_in if transposed else n_out
        inputs = [f for f in flat[0] if f.shape[1] > 1]
        examples = [f for f in flat[0] if f.shape[1] == 1]
        inputs = self._without(inputs, [0], _MIXED)
        blank = torch.zeros((1, n_in), dtype=torch.int32)
        label = self.labels.merged(inputs, _MIXED)[0] if inputs else blank
        outer = next((f for f in flat[1] if f.shape[0] > 1), torch.zeros((rows, 1), dtype=torch.int32))
        inner = next((f for f in flat[1] if f.shape[1] > 1), None)
        total = times * shapes[0][0] * n_in * n_out // groups
        if n_in == groups:  # depthwise
            ratio = n_out // groups
            wide = label.reshape(groups, 1)
            if transposed:
                self.labels.join(outer, label.reshape(-1, 1))
                if inner is not None:
                    self.labels.fix(inner, "read by a depthwise convolution")
                found = label.reshape(groups, 1).expand(groups, ratio)
            else:
                self.labels.join(outer.reshape(groups, ratio), wide)
                found = wide.expand(groups, ratio)
            out = found.reshape(1, n_out).contiguous()
            self.products.append(Product(node, total, (*examples, out)))
            return [*examples, out], []
        by_group = label.reshape(groups, n_in // groups)
        self.labels.join(by_group, by_group[:1])
        if transposed:
            self.labels.join(outer.reshape(groups, -1), by_group)
            last = torch.zeros((1, second), dtype=torch.int32) if inner is None else inner
            found = last.expand(groups, second).reshape(1, n_out)
        else:
            if inner is None:
                self.labels.fix(by_group[:1], "read by a grouped convolution")
            else:
                self.labels.join(by_group[:1], inner)
            by_output = outer.reshape(groups, -1)
            self.labels.join(by_output, by_output[:1])
            found = outer.reshape(1, n_out)
        found = found.contiguous()
        self.products.append(Product(node, total, (*examples, found, by_group[:1])))
        return [*examples, found], [by_group[:1]]
