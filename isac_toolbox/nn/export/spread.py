"""How operations carry labels of channels from tensor to tensor (docs/theory-networks.md, section 5.2)."""

from __future__ import annotations

import math
import operator
import string
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

from isac_toolbox.nn.export.capture import Node, Traced, shape_of
from isac_toolbox.nn.export.labels import Factor, Labels, compressed, support

__all__ = ["MOVES", "SAME", "Product", "Reader", "Spread", "is_pointwise", "move", "name_of", "reduced_axes"]

#: Operations that only move entries: run on the labels themselves.
MOVES = {
    *("view", "reshape", "_unsafe_view", "flatten", "unflatten", "permute", "transpose", "t", "squeeze"),
    *("unsqueeze", "expand", "split", "split_with_sizes", "chunk", "tensor_split", "narrow", "slice"),
    *("select", "unbind", "movedim", "flip", "roll", "pixel_shuffle", "pixel_unshuffle", "channel_shuffle"),
    *("native_channel_shuffle", "repeat", "repeat_interleave", "tile", "swapaxes", "numpy_T", "mT"),
}
#: Operations whose output has the entries of the first input, in another format or with noise.
SAME = {
    *("_to_copy", "to", "type_as", "alias", "clone", "contiguous", "detach", "lift_fresh_copy", "dropout"),
    *("native_dropout", "feature_dropout", "alpha_dropout", "tril", "triu", "nan_to_num"),
}
#: Pointwise operations that torch does not mark as such.
_POINTWISE = {"hardswish", "hardsigmoid", "log_sigmoid", "hardshrink", "softshrink", "rrelu", "fill"}
_ALONG = {"softmax", "_softmax", "log_softmax", "_log_softmax", "cumsum", "cumprod", "sort", "argsort"}
_REDUCTIONS = {
    *("mean", "sum", "amax", "amin", "max", "min", "var", "std", "logsumexp", "prod", "norm", "argmax"),
    *("linalg_vector_norm", "var_mean", "any", "all", "argmin"),
}
_MIXED = "an operation mixes these channels"


def name_of(node: Node) -> str:
    """Return the name of a node's operation, without its overload."""
    packet = getattr(node.target, "overloadpacket", None)
    return packet.__name__ if packet is not None else getattr(node.target, "__name__", str(node.target))


def move(node: Node) -> Any:
    """Return the operation of a node that moves entries, for tensors of any layout in memory."""
    return torch.reshape if name_of(node) in ("view", "_unsafe_view") else node.target


def is_pointwise(node: Node) -> bool:
    """Return whether every entry of the output depends on the same entry of the inputs alone."""
    return torch.Tag.pointwise in getattr(node.target, "tags", ()) or name_of(node) in _POINTWISE


def reduced_axes(node: Node) -> list[int]:
    """Return the axes that a reduction removes."""
    n_axes = len(shape_of(node.args[0]))
    name = name_of(node)
    at = 2 if name in ("norm", "linalg_vector_norm") else 1
    given = node.args[at] if len(node.args) > at else node.kwargs.get("dim")
    if isinstance(given, int):
        given = [given]
    return [axis % n_axes for axis in given] if given else list(range(n_axes))


@dataclass(frozen=True)
class Reader:
    """An operation that sums over channels.

    Attributes
    ----------
    node : Node
        The operation.
    labels : Tensor of int, shape (n,)
        Labels of the channels.
    source, weight : (Node, int)
        The operands and their axes of the channels; ``weight`` is None for a plain sum.
    groups : int
        Groups of a convolution, of which each has these channels.
    folds : bool
        Whether a constant channel is the same as another bias.
    padded : bool
        Whether that holds for the constant zero alone.
    bias : Node or None
        The bias.
    """

    node: Node
    labels: Tensor
    source: tuple[Node, int]
    weight: tuple[Node, int] | None
    groups: int = 1
    folds: bool = False
    padded: bool = False
    bias: Node | None = None


@dataclass(frozen=True)
class Product:
    """Multiply-accumulate operations of a node for the whole batch, and the factors that they depend on."""

    node: Node
    macs: int
    factors: tuple[Factor, ...]


Operand = tuple[list[Factor], tuple[int, ...]]


class Spread:
    """Labels of all tensors of a traced module.

    Parameters
    ----------
    traced : Traced

    Attributes
    ----------
    labels : Labels
    factors : dict of Node to list of Factor
        Factors of every node; a tuple of lists for operations with several outputs.
    readers : list of Reader
    products : list of Product
    """

    def __init__(self, traced: Traced) -> None:
        self.labels = Labels()
        self.factors: dict[Node, Any] = {}
        self.readers: list[Reader] = []
        self.products: list[Product] = []
        own = dict(traced.module.named_parameters(remove_duplicate=False))
        shared: dict[int, list[Factor]] = {}  # a parameter may have two names
        for node in traced.nodes:
            if node in traced.owned:
                key = id(own.get(traced.owned[node], node))
                if key not in shared:
                    shape = shape_of(node)
                    fresh = [self.labels.fresh(n, axis, len(shape)) for axis, n in enumerate(shape) if n > 1]
                    shared[key] = fresh
                self.factors[node] = shared[key]
            elif name_of(node).startswith("_assert") or node.op == "placeholder":
                self.factors[node] = []
            elif node.op == "output":
                self._fix_inputs(node, "an output of the network")
            else:
                self._read(node)

    def all_factors(self) -> list[Factor]:
        """Return the factors of all tensors."""
        found: list[Factor] = []
        for of in self.factors.values():
            for part in of if isinstance(of, tuple) else (of,):
                found += part
        return found

    # ---- one operation -------------------------------------------------------------------------------

    def _read(self, node: Node) -> None:
        name = name_of(node)
        if node.target is operator.getitem:
            of = self.factors[node.args[0]]
            self.factors[node] = of[node.args[1]] if isinstance(of, tuple) else of
            return
        rule = self._rule(node, name)
        found = None
        if rule is not None:
            found = rule(node)
        if found is None:
            self._fix_inputs(node, f"read by {name}")
            found = []
        self.factors[node] = found

    def _rule(self, node: Node, name: str) -> Callable[[Node], Any] | None:
        if name in MOVES:
            return self._move
        if name in SAME:
            return lambda n: self._of(n.args[0])
        if name in _ALONG:
            return self._along
        if name in _REDUCTIONS:
            return self._reduce
        if name.startswith(("conv_transpose", "conv1d", "conv2d", "conv3d", "convolution")):
            return self._convolution
        if "pool" in name or name.startswith("upsample") or name == "reflection_pad":
            return self._spatial
        if name.lstrip("_") in _OWN:
            rule: Callable[[Node], Any] = getattr(self, f"_{name.lstrip('_')}")
            return rule
        if name.startswith(("_native_batch_norm", "batch_norm", "native_batch_norm")):
            return self._channel_norm
        return self._pointwise if is_pointwise(node) else None

    def _of(self, node: Any) -> list[Factor]:
        found = self.factors.get(node, []) if isinstance(node, fx.Node) else []
        return [] if isinstance(found, tuple) else found

    def _operand(self, node: Any) -> Operand:
        return self._of(node), shape_of(node)

    def _fix_inputs(self, node: Node, reason: str) -> None:
        for source in node.all_input_nodes:
            of = self.factors.get(source, [])
            for part in of if isinstance(of, tuple) else (of,):
                for factor in part:
                    self.labels.fix(factor, reason)

    def _without(self, factors: Sequence[Factor], axes: Sequence[int], reason: str) -> list[Factor]:
        """Return the factors without dependence on some axes; what depends on them alone must stay."""
        coarse = [self.labels.coarse(f, [a for a in axes if f.shape[a] > 1], reason) for f in factors]
        return [factor for factor in coarse if support(factor)]

    # ---- families of operations ----------------------------------------------------------------------

    def _move(self, node: Node) -> Any:
        if len(node.all_input_nodes) != 1:
            return None
        source = node.args[0]
        shape, outputs = shape_of(source), node.meta["val"]
        several = isinstance(outputs, (tuple, list))
        found: list[list[Factor]] = [[] for _ in outputs] if several else [[]]
        for factor in self._of(source):
            moved = move(node)(factor.expand(shape), *node.args[1:], **node.kwargs)
            for i, part in enumerate(moved if several else [moved]):
                small = compressed(part)
                if support(small):
                    found[i].append(small)
                elif small.numel():
                    self.labels.fix(small, "one channel is taken out")
        return tuple(found) if several else found[0]

    def _along(self, node: Node) -> list[Factor]:
        axis = int(node.args[1]) % len(shape_of(node.args[0]))
        return self._without(self._of(node.args[0]), [axis], f"read by {name_of(node)}")

    def _reduce(self, node: Node) -> Any:
        axes, kept = reduced_axes(node), node.meta["val"]
        shape = shape_of(node.args[0])
        factors: list[Factor] = []
        for factor in self._of(node.args[0]):
            inside = support(factor)
            if name_of(node) == "sum" and len(inside) == 1 and inside[0] in axes:
                self._sum(node, factor, inside[0])
            else:
                factors += self._without([factor], axes, f"read by {name_of(node)}")
        several = isinstance(kept, (tuple, list))
        if len((kept[0] if several else kept).shape) < len(shape):
            others = [axis for axis in range(len(shape)) if axis not in axes]
            factors = [f.reshape([f.shape[axis] for axis in others]) for f in factors]
        return (factors, factors) if several else factors

    def _sum(self, node: Node, factor: Factor, axis: int) -> None:
        self.readers.append(Reader(node, factor.flatten(), (node.args[0], axis), None))

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

    def _pointwise(self, node: Node) -> list[Factor]:
        operands = [self._operand(n) for n in node.all_input_nodes if isinstance(n.meta["val"], Tensor)]
        return self._combined(operands, len(shape_of(node)), f"read by {name_of(node)}")

    def _combined(self, operands: Sequence[Operand], n_axes: int, reason: str) -> list[Factor]:
        """Return the factors of a pointwise function of some tensors, aligned at the last axis."""
        lifted = []
        for factors, shape in operands:
            new = (1,) * (n_axes - len(shape))
            lifted.append(([f.reshape(*new, *f.shape) for f in factors], (*new, *shape)))
        found: list[Factor] = []
        for i, (factors, _) in enumerate(lifted):
            for factor in factors:
                bare = [
                    axis
                    for axis in support(factor)
                    for j, (others, shape) in enumerate(lifted)
                    if j != i and shape[axis] > 1 and not any(other.shape[axis] > 1 for other in others)
                ]
                found.append(self.labels.coarse(factor, bare, reason))
        return self.labels.merged(found, reason)

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

    # ---- sums of products ----------------------------------------------------------------------------

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
        groups = _argument(node, "groups", 1)
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
            padding = _argument(node, "padding", 0)
            padded = padding != "valid" if isinstance(padding, str) else any(_several(padding))
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


_OWN = {
    *("pad", "constant_pad_nd", "prelu", "layer_norm", "rms_norm", "native_layer_norm", "group_norm"),
    *("instance_norm", "glu", "embedding", "cat", "stack", "linear", "matmul", "mm", "bmm", "addmm"),
    *("einsum", "scaled_dot_product_attention", "weight_norm"),
}


def _argument(node: Node, name: str, default: Any) -> Any:
    """Return an argument of a torch operation by its name in the schema."""
    if name in node.kwargs:
        return node.kwargs[name]
    schema: Any = node.target
    for i, argument in enumerate(schema._schema.arguments):
        if argument.name == name:
            return node.args[i] if len(node.args) > i else default
    return default


def _several(value: Any) -> list[Any]:
    return list(value) if isinstance(value, (tuple, list)) else [value]
