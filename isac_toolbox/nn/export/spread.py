"""How operations carry labels of channels from tensor to tensor (docs/theory-networks.md, section 5.2)."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

from torch import Tensor

from isac_toolbox.nn.export.capture import Node, Traced, shape_of
from isac_toolbox.nn.export.carrier import Product, Reader
from isac_toolbox.nn.export.labels import Factor, Labels, compressed, support
from isac_toolbox.nn.export.operations import MOVES, SAME, is_pointwise, move, name_of, reduced_axes
from isac_toolbox.nn.export.spread_layers import LayerRules
from isac_toolbox.nn.export.spread_products import ProductRules

__all__ = ["Spread"]

_ALONG = {"softmax", "_softmax", "log_softmax", "_log_softmax", "cumsum", "cumprod", "sort", "argsort"}
_REDUCTIONS = {
    *("mean", "sum", "amax", "amin", "max", "min", "var", "std", "logsumexp", "prod", "norm", "argmax"),
    *("linalg_vector_norm", "var_mean", "any", "all", "argmin"),
}
_OWN = {
    *("pad", "constant_pad_nd", "prelu", "layer_norm", "rms_norm", "native_layer_norm", "group_norm"),
    *("instance_norm", "glu", "embedding", "cat", "stack", "linear", "matmul", "mm", "bmm", "addmm"),
    *("einsum", "scaled_dot_product_attention", "weight_norm"),
}


class Spread(LayerRules, ProductRules):
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

    def _pointwise(self, node: Node) -> list[Factor]:
        operands = [self._operand(n) for n in node.all_input_nodes if isinstance(n.meta["val"], Tensor)]
        return self._combined(operands, len(shape_of(node)), f"read by {name_of(node)}")
