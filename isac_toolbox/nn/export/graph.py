"""Which channels of a network can be removed: its dependency groups (docs/theory-networks.md, section 5).

A *dependency group* is a set of channels that several tensors share. A layer starts one; activations, pooling
and batch normalisation pass it on; an addition merges the groups of its addends, so that a residual block
loses a channel only where every addend does.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn

from isac_toolbox.nn.export.surgery import (
    NORMS,
    Use,
    any_of,
    apply_pointwise,
    bias_where_dead,
    cut_inputs,
    cut_outputs,
    depthwise,
    device_of,
    fold,
    foldable,
    frozen,
    kept,
    normalised,
    only_zero,
    pointwise,
    sum_of,
    unread,
)

__all__ = ["ChannelGraph", "TraceError"]

_POINTWISE_MODULES = (
    *(nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.ELU, nn.CELU, nn.SELU, nn.GELU, nn.SiLU, nn.Mish, nn.Tanh),
    *(nn.Sigmoid, nn.Hardtanh, nn.Hardswish, nn.Hardsigmoid, nn.Softplus, nn.Identity),
    *(nn.Dropout, nn.Dropout2d),
)
_POINTWISE_NAMES = {
    *("relu", "relu_", "relu6", "leaky_relu", "elu", "selu", "gelu", "silu", "mish", "tanh", "sigmoid"),
    *("hardtanh", "hardswish", "hardsigmoid", "softplus", "contiguous", "dropout"),
}
_POOL_NAMES = {"max_pool2d", "avg_pool2d", "adaptive_avg_pool2d", "adaptive_max_pool2d"}
_POOLS = (nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d)
_SHAPES = {"size", "dim"}

Constants = dict[fx.Node, Tensor]


class TraceError(ValueError):
    """The model's graph cannot be traced."""


@dataclass(frozen=True)
class _Carried:
    """Channels of a node's output: their dependency group, their number and their axis.

    ``kind`` is ``maps`` (axis 1, then positions), ``flat`` (axis 1, the positions of a channel side by side)
    or ``features`` (last axis, as after a Linear layer).
    """

    group: int
    n: int
    kind: str


class ChannelGraph:
    """Dependency groups of the channels of a plain model.

    Parameters
    ----------
    model : nn.Module
        Plain model whose dropped weights are exactly zero. ``simplify`` and ``slice`` change it in place.

    Raises
    ------
    TraceError
        If torch.fx cannot trace the model.
    """

    def __init__(self, model: nn.Module) -> None:
        try:
            self.nodes = list(fx.Tracer().trace(model).nodes)
        except Exception as error:  # fx raises whatever the model raises
            raise TraceError(f"torch.fx cannot trace {type(model).__name__}: {error}") from error
        self.model = model
        self.modules: dict[str, Any] = dict(model.named_modules())
        self._parent: list[int] = []
        self._protected: set[int] = set()
        self.carried: dict[fx.Node, _Carried] = {}
        self.producers: dict[str, int] = {}
        self.consumers: dict[str, tuple[int, Use]] = {}
        self.followers: dict[str, int] = {}
        self._constant: dict[fx.Node, Callable[[Constants], Tensor | None]] = {}
        self._calls = Counter(str(n.target) for n in self.nodes if n.op == "call_module")
        for node in self.nodes:
            self._read(node)
        none = [torch.zeros(c.n, dtype=torch.bool, device=device_of(model)) for c in self.carried.values()]
        self.removed = {self.find(c.group): mask for c, mask in zip(self.carried.values(), none)}

    # ---- building ------------------------------------------------------------------------------------

    def find(self, group: int) -> int:
        """Return the representative of a dependency group."""
        while self._parent[group] != group:
            group = self._parent[group]
        return group

    def is_protected(self, group: int) -> bool:
        """Return whether the channels of a dependency group must stay."""
        return any(self.find(g) == self.find(group) for g in self._protected)

    def _new_group(self) -> int:
        self._parent.append(len(self._parent))
        return self._parent[-1]

    def _protect(self, node: fx.Node) -> None:
        """Keep every channel that this operation reads, because its effect on channels is not known."""
        for source in node.all_input_nodes:
            if source in self.carried:
                self._protected.add(self.carried[source].group)

    def _read(self, node: fx.Node) -> None:
        if node.op == "placeholder" or node.op == "get_attr":
            return
        if node.op == "call_module":
            handled = self._read_module(node, self.modules[str(node.target)])
        elif node.op in ("call_function", "call_method"):
            handled = self._read_function(node)
        else:
            handled = False
        if not handled:
            self._protect(node)

    def _source(self, node: fx.Node) -> _Carried | None:
        first = node.args[0] if node.args else None
        return self.carried.get(first) if isinstance(first, fx.Node) else None

    def _pass_on(self, node: fx.Node, kind: str | None = None, constant: Any = None) -> bool:
        """Record that the output has the channels of the input."""
        source = self._source(node)
        if source is not None:
            self.carried[node] = _Carried(source.group, source.n, kind or source.kind)
            first = node.args[0]
            self._constant[node] = constant or (lambda known: known.get(first))
        return True

    def _read_module(self, node: fx.Node, module: Any) -> bool:
        if isinstance(module, (nn.Linear, nn.Conv2d)):
            return self._read_layer(node, module)
        source = self._source(node)
        if isinstance(module, NORMS):
            if source is None or source.kind == "flat" or module.running_mean is None or self._reused(node):
                return False
            self.followers[str(node.target)] = source.group
            return self._pass_on(node, constant=lambda known: normalised(module, known.get(node.args[0])))
        if isinstance(module, _POINTWISE_MODULES):
            return self._pass_on(
                node, constant=lambda known: apply_pointwise(known.get(node.args[0]), frozen(module))
            )
        if isinstance(module, _POOLS):
            if source is not None and source.kind != "maps":
                return False
            padded = bool(getattr(module, "ceil_mode", False)) or any_of(getattr(module, "padding", 0))
            averaged = isinstance(module, nn.AvgPool2d) and padded
            return self._pass_on(node, constant=lambda known: only_zero(known.get(node.args[0]), averaged))
        if isinstance(module, nn.Flatten):
            return module.start_dim == 1 and module.end_dim == -1 and self._flatten(node)
        return False

    def _reused(self, node: fx.Node) -> bool:
        return self._calls[str(node.target)] > 1

    def _read_layer(self, node: fx.Node, module: nn.Linear | nn.Conv2d) -> bool:
        name, source = str(node.target), self._source(node)
        if self._reused(node):
            return False
        if isinstance(module, nn.Conv2d) and module.groups > 1:
            if source is None or not (module.groups == module.in_channels == module.out_channels):
                self._protect(node)
                return True  # a grouped convolution keeps its shape; its output channels are not tracked
            self.followers[name] = source.group
            return self._pass_on(node, constant=lambda known: depthwise(module, known.get(node.args[0])))
        if source is not None:
            if self._fits(source, module):
                assert isinstance(node.args[0], fx.Node)
                self.consumers[name] = (source.group, Use(module, node.args[0]))
            else:
                self._protect(node)
        n_out = module.out_features if isinstance(module, nn.Linear) else module.out_channels
        kind = "features" if isinstance(module, nn.Linear) else "maps"
        assert isinstance(n_out, int)
        self.carried[node] = _Carried(self._new_group(), n_out, kind)
        self.producers[name] = self.carried[node].group
        self._constant[node] = lambda known: bias_where_dead(module)
        return True

    @staticmethod
    def _fits(source: _Carried, module: nn.Linear | nn.Conv2d) -> bool:
        """Return whether the layer's inputs are these channels, in blocks of equal size."""
        if isinstance(module, nn.Conv2d):
            return source.kind == "maps" and module.in_channels == source.n
        if source.kind == "flat":
            return module.in_features % source.n == 0
        return source.kind == "features" and module.in_features == source.n

    def _read_function(self, node: fx.Node) -> bool:
        name = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "")
        if name in _SHAPES or (name == "getattr" and len(node.args) > 1 and node.args[1] == "shape"):
            return True
        if name in ("add", "iadd", "add_"):
            return self._add(node)
        if name in _POINTWISE_NAMES and len(node.all_input_nodes) == 1:
            return self._pass_on(
                node, constant=lambda known: apply_pointwise(known.get(node.args[0]), pointwise(name, node))
            )
        source = self._source(node)
        if name in _POOL_NAMES and len(node.all_input_nodes) == 1 and source and source.kind == "maps":
            cautious = name == "avg_pool2d"
            return self._pass_on(node, constant=lambda known: only_zero(known.get(node.args[0]), cautious))
        if name == "flatten" and list(node.args[1:]) + list(node.kwargs.values()) in ([1], [1, -1]):
            return self._flatten(node)
        if name in ("view", "reshape") and len(node.args) == 3 and node.args[2] == -1:
            return self._flatten(node)
        if name == "mean" and source and source.kind == "maps" and not node.kwargs.get("keepdim"):
            axes = node.args[1] if len(node.args) > 1 else node.kwargs.get("dim")
            if isinstance(axes, (list, tuple)) and sorted(a % 4 for a in axes) == [2, 3]:
                return self._pass_on(node, kind="flat")
        return False

    def _flatten(self, node: fx.Node) -> bool:
        source = self._source(node)
        if source is not None and source.kind == "features":
            return self._pass_on(node)
        return self._pass_on(node, kind="flat")

    def _add(self, node: fx.Node) -> bool:
        """Merge the dependency groups of two addends."""
        addends = [self.carried.get(a) for a in node.all_input_nodes]
        first = addends[0] if addends else None
        if first is None or len(addends) != 2 or node.kwargs or len(node.args) != 2:
            return False
        second = addends[1]
        if second is None or first.n != second.n or first.kind != second.kind:
            return False
        self._parent[self.find(second.group)] = self.find(first.group)
        self.carried[node] = first
        a, b = node.all_input_nodes
        self._constant[node] = lambda known: sum_of(known.get(a), known.get(b))
        return True

    # ---- removing ------------------------------------------------------------------------------------

    def constants(self) -> Constants:
        """Return the constant value of every channel of every node, (n,), NaN where it is not constant."""
        known: Constants = {}
        with torch.no_grad():
            for node in self.nodes:
                value = self._constant[node](known) if node in self._constant else None
                if value is not None:
                    known[node] = value
        return known

    def groups(self) -> Iterator[int]:
        """Yield the dependency groups whose channels may be removed."""
        for group in self.removed:
            if not self.is_protected(group):
                yield group

    def simplify(self) -> dict[int, Tensor]:
        """Zero every channel that is constant or that nothing reads; the outputs do not change.

        A constant is folded into the biases of the layers that read it.

        Returns
        -------
        dict of int to Tensor of bool
            Removed channels of each dependency group.
        """
        changed = True
        while changed:
            changed = max(map(self._simplify_group, list(self.groups())), default=False)
        return self.removed

    def _simplify_group(self, group: int) -> bool:
        known = self.constants()
        uses = [use for read, use in self.consumers.values() if self.find(read) == group]
        removable = ~self.removed[group]
        for use in uses:
            removable &= unread(use, removable.numel()) | foldable(use, known.get(use.node))
        if not bool(removable.any()):
            return False
        with torch.no_grad():
            for use in uses:
                fold(use, known.get(use.node), removable)
            self._silence(group, removable)
        self.removed[group] |= removable
        return True

    def silence_constants(self) -> None:
        """Set channels to zero that are constant but cannot be folded; this changes the outputs.

        A zero can be folded wherever the activation keeps it; fine-tuning compensates for the change.
        """
        known = self.constants()
        with torch.no_grad():
            for group in self.groups():
                stuck = ~self.removed[group]
                for read, use in self.consumers.values():
                    if self.find(read) == group:
                        value = known.get(use.node)
                        stuck &= unread(use, stuck.numel()) | (value is not None and ~torch.isnan(value))
                self._silence(group, stuck)

    def _silence(self, group: int, channels: Tensor) -> None:
        """Make the channels exactly zero in every tensor of the dependency group."""
        for name in self._owners(group):
            module = self.modules[name]
            if isinstance(module, NORMS):
                assert module.running_mean is not None and module.running_var is not None
                module.running_mean[channels], module.running_var[channels] = 0.0, 1.0
            if module.weight is not None:
                module.weight[channels] = 0.0
            if module.bias is not None:
                module.bias[channels] = 0.0

    def _owners(self, group: int) -> list[str]:
        """Return the layers and normalisations whose first axis is the dependency group."""
        both = {**self.producers, **self.followers}
        return [name for name, first in both.items() if self.find(first) == group]

    def slice(self) -> None:
        """Cut the removed channels out of every layer, in place; at least one of each group stays."""
        keep = {group: kept(removed) for group, removed in self.removed.items()}
        for name, (group, _) in self.consumers.items():
            if not self.is_protected(group):
                cut_inputs(self.modules[name], keep[self.find(group)])
        for name, group in {**self.producers, **self.followers}.items():
            if not self.is_protected(group):
                cut_outputs(self.modules[name], keep[self.find(group)])
