"""Which channels are constant: one pass over a graph with all that the weights alone decide.

A value has size 1 along the axes where it does not change, so that the pass costs little more than reading
the weights.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Set
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx
from torch.nn import functional as F

from isac_toolbox.nn.export.capture import Node, Traced, shape_of
from isac_toolbox.nn.export.labels import compressed
from isac_toolbox.nn.export.spread import (
    MOVES,
    SAME,
    Reader,
    _argument,
    _several,
    is_pointwise,
    move,
    name_of,
    reduced_axes,
)

__all__ = ["Known", "Pass"]

_ROW_SUMS = {"softmax", "_softmax"}
_KEEP_UNIFORM = {"mean", "amax", "amin", "max", "min"}


@dataclass(frozen=True)
class Known:
    """What is known of a tensor: its entries, and which of them depend on the inputs of the network.

    Attributes
    ----------
    value : Tensor
        Entries that do not depend on the inputs; zero elsewhere.
    varies : Tensor of bool
        True where an entry may depend on the inputs. Both broadcast to the tensor.
    """

    value: Tensor
    varies: Tensor

    def full(self, shape: tuple[int, ...]) -> tuple[Tensor, Tensor]:
        """Return both in full size, without memory for it."""
        return self.value.expand(shape), self.varies.expand(shape)

    def along(self, axis: int, n: int) -> tuple[Tensor, Tensor]:
        """Return per index of an axis the value, and whether it is not one constant, each (n,)."""
        value = self.value.movedim(axis, 0).flatten(1)
        varies = self.varies.movedim(axis, 0).flatten(1)
        first = value[:, 0]
        moving = varies.any(1)
        if value.shape[1] > 1:
            moving = moving | (value != first[:, None]).any(1)
        return first.expand(n), moving.expand(n)

    def not_zero(self, axis: int, n: int) -> Tensor:
        """Return per index of an axis whether any entry may differ from zero, (n,)."""
        some = self.varies.movedim(axis, 0).flatten(1).any(1)
        return (some | (self.value != 0).movedim(axis, 0).flatten(1).any(1)).expand(n)


class Pass:
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

    def _unknown(self, output: Any) -> Known | None:
        if not isinstance(output, Tensor):
            return None
        shape = (1,) * output.ndim
        return Known(
            torch.zeros(shape, dtype=output.dtype, device=self._device),
            torch.ones(shape, dtype=torch.bool, device=self._device),
        )

    def get(self, node: Any) -> Known:
        """Return what is known of a node's output."""
        if node in self._tensors and node not in self.of:
            value = self._tensors[node].detach()
            for axis, removed in self._removed.get(node, []):
                shape = [-1 if a == axis else 1 for a in range(value.ndim)]
                filler = value.new_full((), 1.0 if node in self._ones else 0.0)
                value = torch.where(removed.reshape(shape), filler, value)
            self.of[node] = Known(
                value, torch.zeros((1,) * value.ndim, dtype=torch.bool, device=value.device)
            )
        found: Known = self.of[node]
        return found

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

    def _run(self, node: Node, replace: Callable[[Node], Any]) -> Any:
        """Call the operation of a node on other inputs."""
        assert callable(node.target)
        args, kwargs = fx.node.map_arg((node.args, dict(node.kwargs)), replace)
        return node.target(*args, **kwargs)

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
        always = bool(_argument(node, "train", False)) and float(node.args[1]) > 0.0
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

    # ---- layers --------------------------------------------------------------------------------------

    def _weights(self, node: Node) -> tuple[Tensor, Callable[[], Tensor]]:
        """Return which weights are not zero, (first axis, second axis), and their sums over the rest."""
        if node in self._patterns:
            pattern = self._patterns[node]
            for axis, removed in self._removed.get(node, []):
                if axis < 2:
                    pattern = pattern & ~(removed[:, None] if axis == 0 else removed[None])
            tensor = self._tensors[node].detach()
            return pattern, lambda: tensor.flatten(2).sum(2) if tensor.ndim > 2 else tensor
        known = self.get(node)
        value, varies = known.full(shape_of(node))
        nonzero = varies | (value != 0)
        if bool(varies.any()):
            return nonzero, lambda: torch.full_like(value, torch.nan)
        flat = nonzero.flatten(2).any(2) if nonzero.ndim > 2 else nonzero
        return flat, lambda: value.flatten(2).sum(2) if value.ndim > 2 else value

    def _rows(self, node: Any, n: int) -> Tensor:
        """Return which rows of a weight are removed, (n,)."""
        for axis, removed in self._removed.get(node, []):
            if axis == 0:
                return removed
        return torch.zeros(n, dtype=torch.bool, device=self._device)

    def _bias(self, node: Node, bias: Any, n: int, dtype: torch.dtype) -> Tensor:
        value = torch.zeros(n, dtype=dtype, device=self._device)
        if isinstance(bias, fx.Node):
            value = self.get(bias).value.expand(n)
        return value + self._extra[node] if node in self._extra else value

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
        groups, n_out = _argument(node, "groups", 1), shape_of(node)[1]
        padding = _argument(node, "padding", 0)
        padded = padding != "valid" if isinstance(padding, str) else any(_several(padding))
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

    def _channel_norm(self, node: Node) -> Any:
        x, n_axes = node.args[0], len(shape_of(node.args[0]))
        weight, shift, mean, var = node.args[1:5]
        n = shape_of(x)[1]
        name = name_of(node)
        eps = float(node.args[-1 if "no_training" in name else 7])
        running = isinstance(mean, fx.Node) and not (name == "instance_norm" and bool(node.args[5]))
        if name == "batch_norm" and bool(node.args[5]):
            running = False
        source = self.get(x)
        dtype, shape = (
            node.meta["val"][0].dtype if "native" in name else node.meta["val"].dtype,
            (1, n, *[1] * (n_axes - 2)),
        )
        scale = self._vector(weight, n, 1.0, dtype)
        offset = self._vector(shift, n, 0.0, dtype)
        if running:
            gain = scale * torch.rsqrt(self._vector(var, n, 1.0, dtype) + eps)
            gain, centre = gain.reshape(shape), self._vector(mean, n, 0.0, dtype).reshape(shape)
            value = offset.reshape(shape) + gain * (source.value - centre)
            varies = source.varies & (gain != 0)
        else:
            _, moving = source.along(1, n)
            moving = moving if name == "instance_norm" else torch.ones_like(moving)
            varies = (moving & (scale != 0)).reshape(shape)
            value = offset.reshape(shape) + torch.zeros_like(varies, dtype=dtype)
        removed = self._removed_channels(node, n).reshape(shape)
        value, varies = torch.where(removed | varies, torch.zeros_like(value), value), varies & ~removed
        found = Known(value, varies)
        several = isinstance(node.meta["val"], (tuple, list))
        return (found, *[self._unknown(o) for o in node.meta["val"][1:]]) if several else found

    def _removed_channels(self, node: Node, n: int) -> Tensor:
        for parameter in node.all_input_nodes[1:]:
            for _, removed in self._removed.get(parameter, []):
                return removed
        return torch.zeros(n, dtype=torch.bool, device=self._device)

    def _vector(self, node: Any, n: int, default: float, dtype: torch.dtype) -> Tensor:
        if not isinstance(node, fx.Node):
            return torch.full((n,), default, dtype=dtype, device=self._device)
        return self._tensors[node].detach() if node in self._tensors else self.get(node).value.expand(n)

    def _norm(self, node: Node) -> Any:
        """Normalisation over channels: constant only where its scale is zero."""
        name = name_of(node)
        weight, shift = node.args[2:4] if name == "group_norm" else (*node.args[2:4], None, None)[:2]
        if name == "rms_norm":
            shift = None
        if not isinstance(weight, fx.Node):
            return None
        scale = self.get(weight)
        n_axes = len(shape_of(node))
        wanted = (1, -1, *[1] * (n_axes - 2)) if name == "group_norm" else scale.value.shape
        offset = self.get(shift).value if isinstance(shift, fx.Node) else torch.zeros_like(scale.value)
        varies = ((scale.value != 0) | scale.varies).reshape(wanted)
        offset = torch.where(varies, torch.zeros_like(offset.reshape(wanted)), offset.reshape(wanted))
        lead = (1,) * (n_axes - varies.ndim)
        return Known(offset.reshape(*lead, *offset.shape), varies.reshape(*lead, *varies.shape))

    def _spatial(self, node: Node) -> Any:
        name = name_of(node)
        n = next((int(c) for c in reversed(name) if c.isdigit()), 2)
        source, n_axes = self.get(node.args[0]), len(shape_of(node.args[0]))
        value, varies = source.value, source.varies
        for axis in range(n_axes - n, n_axes):
            first = value.narrow(axis, 0, 1)
            varies = varies.any(axis, keepdim=True) | (value != first).any(axis, keepdim=True)
            value = first
        if name.startswith("avg_pool") and self._uneven(node):
            varies = varies | (value != 0)
        found = Known(torch.where(varies, torch.zeros_like(value), value), varies)
        several = isinstance(node.meta["val"], (tuple, list))
        return (found, self._unknown(node.meta["val"][1])) if several else found

    @staticmethod
    def _uneven(node: Node) -> bool:
        """Return whether an average may count positions beyond the border, or divides by another number."""
        padded = any(_several(_argument(node, "padding", 0)))
        return (
            padded
            or bool(_argument(node, "ceil_mode", False))
            or _argument(node, "divisor_override", None) is not None
        )

    def _prelu(self, node: Node) -> Known:
        x, slope = self.get(node.args[0]), self.get(node.args[1])
        n_axes = len(shape_of(node))
        weight = slope.value.reshape(1, -1, *[1] * (n_axes - 2)) if n_axes > 1 else slope.value
        return Known(
            torch.where(x.value > 0, x.value, weight * x.value), x.varies | torch.zeros_like(weight > 0)
        )

    def _glu(self, node: Node) -> Known:
        x, shape = self.get(node.args[0]), shape_of(node.args[0])
        axis = (int(node.args[1]) if len(node.args) > 1 else -1) % len(shape)
        wide = [shape[axis] if a == axis else -1 for a in range(len(shape))]
        (a, b), (moving_a, moving_b) = (t.expand(wide).chunk(2, axis) for t in (x.value, x.varies))
        zero = ~moving_a & (a == 0)
        varies = (moving_a | moving_b) & ~zero
        value = a * torch.sigmoid(b)
        return Known(torch.where(varies, torch.zeros_like(value), value), varies)

    def _cat(self, node: Node) -> Known:
        tensors = list(node.args[0])
        axis = (int(node.args[1]) if len(node.args) > 1 else node.kwargs.get("dim", 0)) % len(
            shape_of(tensors[0])
        )
        known = [self.get(t) for t in tensors]
        joined = []
        for values in ([k.value for k in known], [k.varies for k in known]):
            sizes = torch.broadcast_shapes(
                *[tuple(1 if a == axis else n for a, n in enumerate(v.shape)) for v in values]
            )
            parts = [
                v.expand([shape_of(t)[axis] if a == axis else n for a, n in enumerate(sizes)])
                for v, t in zip(values, tensors)
            ]
            joined.append(compressed(torch.cat(parts, axis)))
        return Known(joined[0], joined[1])

    def _embedding(self, node: Node) -> Known:
        table = self.get(node.args[0])
        value, varies = table.along(1, shape_of(node)[-1])
        shape = (*[1] * (len(shape_of(node)) - 1), -1)
        value = torch.where(varies, torch.zeros_like(value), value)
        return Known(value.reshape(shape), varies.reshape(shape))

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
