"""Which channels are constant: one pass over a graph with all that the weights alone decide."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Set
from typing import Any

import torch
from torch import Tensor, fx
from torch.nn import functional as F

from isac_toolbox.nn.export.capture import Node, Traced, shape_of
from isac_toolbox.nn.export.carrier import Reader
from isac_toolbox.nn.export.known import Known
from isac_toolbox.nn.export.labels import compressed
from isac_toolbox.nn.export.operations import MOVES, SAME, argument, is_pointwise, move, name_of, reduced_axes
from isac_toolbox.nn.export.values_layers import LayerValues
from isac_toolbox.nn.export.values_products import ProductValues

__all__ = ["Pass"]

_ROW_SUMS = {"softmax", "_softmax"}
_KEEP_UNIFORM = {"mean", "amax", "amin", "max", "min"}


class Pass(LayerValues, ProductValues):
    """One pass over a graph.

    Parameters
    ----------
    traced : Traced
    tensors : mapping of Node to Tensor
        Parameters and buffers.
    patterns : mapping of Node to Tensor
        Which weights are not zero by weight node, any over the axes from the third on.
    removed : mapping of Node to list of (int, Tensor)
        Removed indices of parameters: axis, and bool (n,).
    extra_bias : mapping of Node to Tensor
        Biases of operations that have none in the graph.
    ones : set of Node
        Parameters that are one, not zero, where channels are removed.
    """

    def __init__(
        self,
        traced: Traced,
        tensors: Mapping[Node, Tensor],
        patterns: Mapping[Node, Tensor],
        removed: Mapping[Node, list[tuple[int, Tensor]]],
        extra_bias: Mapping[Node, Tensor],
        ones: Set[Any],
    ) -> None:
        self._tensors, self._patterns, self._removed, self._extra = tensors, patterns, removed, extra_bias
        self._ones = ones
        self.of: dict[Node, Any] = {}
        self._row_sums: set[Node] = set()
        self._device = next((t.device for t in tensors.values()), torch.device("cpu"))
        for node in traced.nodes:
            if node in traced.owned:
                continue  # read when an operation wants them
            if node in traced.constants:
                constant = compressed(traced.constants[node].detach().to(self._device))
                self.of[node] = Known(constant, torch.zeros_like(constant, dtype=torch.bool))
            elif node.op != "output":
                self.of[node] = self._value(node)

    # ---- values of nodes -----------------------------------------------------------------------------

    def _varying(self, node: Node) -> Any:
        """Return that nothing is known."""
        outputs = node.meta.get("val")
        if isinstance(outputs, (tuple, list)):
            return tuple(self._unknown(o) for o in outputs)
        return self._unknown(outputs)

    def _value(self, node: Node) -> Any:
        if node.op != "call_function":
            return self._varying(node)
        try:
            found = self._rule(node)(node)
        except (RuntimeError, TypeError, IndexError, ValueError, NotImplementedError):
            found = None  # an argument that the rule does not expect: nothing is known
        return self._varying(node) if found is None else found

    def _rule(self, node: Node) -> Callable[[Node], Any]:
        name = name_of(node)
        if node.target is operator.getitem:
            return lambda n: self.of[n.args[0]][n.args[1]] if isinstance(self.of[n.args[0]], tuple) else None
        if name in ("dropout", "native_dropout", "feature_dropout", "alpha_dropout"):
            return self._dropout
        if name in SAME:
            return self._same if name not in ("tril", "triu") else self._move
        if name in MOVES:
            return self._move
        if name in ("pad", "constant_pad_nd"):
            return self._pad
        if name in ("linear", "addmm"):
            return self._linear
        if name.startswith("conv"):
            return self._convolution
        if name in ("matmul", "mm", "bmm"):
            return self._matmul
        if "batch_norm" in name or name == "instance_norm":
            return self._channel_norm
        if "pool" in name or name.startswith("upsample"):
            return self._spatial
        if name in _KEEP_UNIFORM or name == "sum":
            return self._reduce
        own = {
            "prelu": self._prelu,
            "glu": self._glu,
            "cat": self._cat,
            "embedding": self._embedding,
            "layer_norm": self._norm,
            "group_norm": self._norm,
            "rms_norm": self._norm,
            "scaled_dot_product_attention": self._attention,
        }.get(name)
        if own is not None:
            return own
        if is_pointwise(node):
            return self._pointwise
        if name in _ROW_SUMS and int(node.args[1]) % len(shape_of(node)) == len(shape_of(node)) - 1:
            self._row_sums.add(node)
        return self._evaluated

    def _evaluated(self, node: Node) -> Any:
        """Run an operation whose inputs are all known."""
        inputs = node.all_input_nodes
        if torch.Tag.nondeterministic_seeded in getattr(node.target, "tags", ()):
            return None
        if any(not isinstance(n.meta.get("val"), Tensor) for n in inputs):
            return None
        if any(bool(self.get(n).varies.any()) for n in inputs):
            return None
        out = self._run(node, lambda n: self.get(n).value.expand(shape_of(n)))
        if isinstance(out, Tensor):
            small = compressed(out.to(self._device))
            return Known(small, torch.zeros((1,) * small.ndim, dtype=torch.bool, device=self._device))
        return None

    def _same(self, node: Node) -> Known:
        source = self.get(node.args[0])
        if node.args[0] in self._row_sums:
            self._row_sums.add(node)
        value = source.value
        if name_of(node) in ("_to_copy", "to", "type_as"):
            value = value.to(node.meta["val"].dtype)
        return Known(value, source.varies)

    def _dropout(self, node: Node) -> Any:
        source = self.get(node.args[0])
        always = bool(argument(node, "train", False)) and float(node.args[1]) > 0.0
        if node.args[0] in self._row_sums and not always:
            self._row_sums.add(node)
        found = Known(source.value, source.varies | (source.value != 0)) if always else source
        several = isinstance(node.meta["val"], (tuple, list))
        return (found, self._unknown(node.meta["val"][1])) if several else found

    def _move(self, node: Node) -> Any:
        if len(node.all_input_nodes) != 1:
            return None
        source = node.args[0]
        value, varies = self.get(source).full(shape_of(source))
        moved, moving = (move(node)(t, *node.args[1:], **node.kwargs) for t in (value, varies))
        if isinstance(moved, Tensor):
            return Known(compressed(moved), compressed(moving))
        return tuple(Known(compressed(a), compressed(b)) for a, b in zip(moved, moving))

    def _pad(self, node: Node) -> Any:
        source = node.args[0]
        value, varies = self.get(source).full(shape_of(source))
        moved = self._run(node, lambda _: value)
        mode = node.args[2] if len(node.args) > 2 and isinstance(node.args[2], str) else "constant"
        moving = F.pad(varies.to(value.dtype), list(node.args[1]), mode=mode) != 0
        return Known(compressed(moved), compressed(moving))

    def _pointwise(self, node: Node) -> Any:
        name, inputs = name_of(node), node.all_input_nodes
        known = {n: self.get(n) for n in inputs}
        n_axes = len(shape_of(node))
        varies = torch.zeros((1,) * n_axes, dtype=torch.bool, device=self._device)
        for of in known.values():
            varies = varies | of.varies
        value = self._run(node, lambda n: known[n].value)
        if name in ("mul", "div") and isinstance(node.args[0], fx.Node):
            zero = ~known[node.args[0]].varies & (known[node.args[0]].value == 0)
            if name == "mul" and isinstance(node.args[1], fx.Node):
                zero = zero | (~known[node.args[1]].varies & (known[node.args[1]].value == 0))
            value, varies = torch.where(zero, torch.zeros_like(value), value), varies & ~zero
        return Known(torch.where(varies, torch.zeros_like(value), value), varies)

    def _reduce(self, node: Node) -> Any:
        source = node.args[0]
        axes = reduced_axes(node)
        value, varies = self.get(source).full(shape_of(source))
        if len(axes) < len(shape_of(source)) and name_of(node) in _KEEP_UNIFORM:
            # the mean of equal entries is the entry: no need to write them out
            value, varies = (
                t
                if any(t.stride(a) for a in axes)
                else t[tuple(slice(0, 1) if a in axes else slice(None) for a in range(t.ndim))]
                for t in (value, varies)
            )
            value, varies = torch.broadcast_tensors(value, varies)
        out = self._run(node, lambda _: value)
        if not isinstance(out, Tensor):
            out = out[0]
        moving = varies.sum(axes, keepdim=out.ndim == value.ndim) > 0
        moving = moving.reshape(out.shape)
        found = Known(compressed(torch.where(moving, torch.zeros_like(out), out)), compressed(moving))
        several = isinstance(node.meta["val"], (tuple, list))
        return (found, self._unknown(node.meta["val"][1])) if several else found

    # ---- readers -------------------------------------------------------------------------------------

    def unread(self, reader: Reader) -> Tensor:
        """Return the channels that a reader multiplies by zeros alone, (n,)."""
        n = len(reader.labels)
        if reader.weight is None:
            return torch.zeros(n, dtype=torch.bool, device=self._device)
        weight, axis = reader.weight
        if weight in self._patterns and axis < 2:
            pattern, _ = self._weights(weight)
            if reader.groups > 1 and axis == 0:
                return ~pattern.any(1).reshape(reader.groups, -1).any(0)
            return ~pattern.any(1 - axis)
        some = self.get(weight).not_zero(axis, shape_of(weight)[axis])
        return ~some

    def constant(self, reader: Reader) -> tuple[Tensor, Tensor]:
        """Return the constants that a reader reads, and where its channels are not constant, each (n,)."""
        source, axis = reader.source
        n = shape_of(source)[axis]
        value, varies = self.get(source).along(axis, n)
        if reader.groups > 1:
            value, varies = value.reshape(reader.groups, -1), varies.reshape(reader.groups, -1)
            varies = varies.any(0) | (value != value[:1]).any(0)
            value = value[0]
        return value, varies
