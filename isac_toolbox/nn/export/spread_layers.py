"""How layers without sums of products carry labels of channels (docs/theory-networks.md, section 5.2)."""

from __future__ import annotations

import math
from typing import Any

import torch

from isac_toolbox.nn.export.capture import Node, shape_of
from isac_toolbox.nn.export.carrier import Carrier, Operand
from isac_toolbox.nn.export.labels import Factor, support
from isac_toolbox.nn.export.operations import name_of

__all__ = ["LayerRules"]


class LayerRules(Carrier):
    """Rules of pooling, padding, normalisations, gates, embeddings and joins."""

    def _spatial(self, node: Node) -> list[Factor]:
        """Carry examples and channels through pooling and interpolation."""
        name = name_of(node)
        n = next((int(c) for c in reversed(name) if c.isdigit()), 2)
        n_axes = len(shape_of(node.args[0]))
        factors = self._without(self._of(node.args[0]), range(n_axes - n, n_axes), f"read by {name}")
        several = isinstance(node.meta["val"], (tuple, list))
        return (factors, factors) if several else factors  # type: ignore[return-value]

    def _pad(self, node: Node) -> list[Factor] | None:
        source, pad = node.args[0], list(node.args[1])
        n_axes = len(shape_of(source))
        around = {n_axes - 1 - i // 2 for i, n in enumerate(pad) if n}
        mode = node.args[2] if len(node.args) > 2 else node.kwargs.get("mode", "constant")
        found: list[Factor] = []
        for factor in self._of(source):
            if mode != "constant":
                found += self._without([factor], sorted(around), "padded with other channels")
                continue
            for axis in support(factor):
                i = 2 * (n_axes - 1 - axis)
                if axis in around:
                    zeros = [
                        torch.zeros_like(factor.narrow(axis, 0, 1)).expand(
                            [abs(n) if k == axis else s for k, s in enumerate(factor.shape)]
                        )
                        for n in pad[i : i + 2]
                    ]
                    if min(pad[i : i + 2]) < 0:
                        return None
                    factor = torch.cat([zeros[0], factor, zeros[1]], axis)
            found.append(factor)
        return found

    _constant_pad_nd = _pad

    def _channel_norm(self, node: Node) -> Any:
        """Batch and instance normalisation, whose parameters belong to axis 1."""
        source = node.args[0]
        factors, shape = self._operand(source)
        if name_of(node) == "instance_norm":
            factors = self._without(factors, range(2, len(shape)), "read by instance_norm")
        operands: list[Operand] = [(factors, shape)]
        for parameter in node.all_input_nodes:
            if parameter is not source:
                operands.append(self._on_axis_1(parameter, len(shape)))
        found = self._combined(operands, len(shape), f"read by {name_of(node)}")
        several = isinstance(node.meta["val"], (tuple, list))
        return (found, [], [], *[[] for _ in node.meta["val"][3:]]) if several else found

    _instance_norm = _channel_norm

    def _on_axis_1(self, parameter: Node, n_axes: int) -> Operand:
        wanted = (1, -1, *[1] * (n_axes - 2))
        size = math.prod(shape_of(parameter))
        return [f.reshape(wanted) for f in self._of(parameter)], (1, size, *[1] * (n_axes - 2))

    def _weight_norm(self, node: Node) -> list[Factor]:
        direction, size = node.args[:2]
        axis = int(node.args[2]) if len(node.args) > 2 else 0
        shape = shape_of(direction)
        others = [a for a in range(len(shape)) if a != axis]
        factors = self._without(self._of(direction), others, "read by a norm of weights")
        return self._combined(
            [(factors, shape), self._operand(size)], len(shape), "read by a norm of weights"
        )

    def _prelu(self, node: Node) -> list[Factor]:
        factors, shape = self._operand(node.args[0])
        slopes = self._on_axis_1(node.args[1], len(shape)) if len(shape) > 1 else self._operand(node.args[1])
        return self._combined([(factors, shape), slopes], len(shape), "read by prelu")

    def _layer_norm(self, node: Node) -> Any:
        source, n = node.args[0], len(node.args[1])
        self._fix_parameters(node, source)
        n_axes = len(shape_of(source))
        found = self._without(self._of(source), range(n_axes - n, n_axes), f"read by {name_of(node)}")
        several = isinstance(node.meta["val"], (tuple, list))
        return (found, *[[] for _ in node.meta["val"][1:]]) if several else found

    _rms_norm = _native_layer_norm = _layer_norm

    def _group_norm(self, node: Node) -> list[Factor]:
        source = node.args[0]
        self._fix_parameters(node, source)
        return self._without(self._of(source), range(1, len(shape_of(source))), "read by group_norm")

    def _fix_parameters(self, node: Node, source: Any) -> None:
        for parameter in node.all_input_nodes:
            if parameter is not source:
                for factor in self._of(parameter):
                    self.labels.fix(factor, f"read by {name_of(node)}")

    def _glu(self, node: Node) -> Any:
        source = node.args[0]
        factors, shape = self._operand(source)
        axis = (int(node.args[1]) if len(node.args) > 1 else -1) % len(shape)
        half = shape[axis] // 2
        found = []
        for factor in factors:
            if factor.shape[axis] > 1:
                first, second = factor.split(half, axis)
                self.labels.join(first, second)
                factor = first
            if support(factor):
                found.append(factor)
            else:
                self.labels.fix(factor, "read by glu")
        return found

    def _embedding(self, node: Node) -> list[Factor]:
        table, index = node.args[0], node.args[1]
        new = (1,) * len(shape_of(index))
        columns = self._without(self._of(table), [0], "rows of an embedding")
        for factor in self._of(index):
            self.labels.fix(factor, "an index")
        return [f.reshape(*new, -1) for f in columns]

    def _cat(self, node: Node) -> Any:
        tensors = list(node.args[0])
        shapes = [shape_of(t) for t in tensors]
        axis = (int(node.args[1]) if len(node.args) > 1 else node.kwargs.get("dim", 0)) % len(shapes[0])
        across, rows = [], []
        for tensor, shape in zip(tensors, shapes):
            inside = [f for f in self._of(tensor) if f.shape[axis] > 1]
            others = [f for f in self._of(tensor) if f.shape[axis] == 1]
            across.append((others, tuple(1 if a == axis else n for a, n in enumerate(shape))))
            alone = [
                self.labels.coarse(f, [a for a in support(f) if a != axis], "joined with others")
                for f in inside
            ]
            for factor in alone[1:]:
                self.labels.join(alone[0], factor)
            blank = torch.zeros([n if a == axis else 1 for a, n in enumerate(shape)], dtype=torch.int32)
            rows.append(alone[0] if alone else blank)
        joined = torch.cat(rows, axis)
        found = self._combined(across, len(shapes[0]), "joined with others")
        return [*found, joined] if bool(joined.any()) and joined.numel() > 1 else found

    def _stack(self, node: Node) -> list[Factor]:
        tensors = list(node.args[0])
        n_axes = len(shape_of(tensors[0]))
        axis = (int(node.args[1]) if len(node.args) > 1 else node.kwargs.get("dim", 0)) % (n_axes + 1)
        found = self._combined([self._operand(t) for t in tensors], n_axes, "stacked with others")
        return [f.unsqueeze(axis) for f in found]
