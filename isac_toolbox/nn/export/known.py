"""What the weights of a network alone decide of its tensors.

A value has size 1 along the axes where it does not change, so that a pass over a graph costs little more than
reading the weights.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Set
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

from isac_toolbox.nn.export.capture import Node, shape_of

__all__ = ["Knowledge", "Known"]


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


class Knowledge:
    """Parameters of a graph, what is known of its nodes so far, and what every rule needs to read both."""

    of: dict[Node, Any]
    _tensors: Mapping[Node, Tensor]
    _patterns: Mapping[Node, Tensor]
    _removed: Mapping[Node, list[tuple[int, Tensor]]]
    _extra: Mapping[Node, Tensor]
    _ones: Set[Any]
    _row_sums: set[Node]
    _device: torch.device

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

    def _run(self, node: Node, replace: Callable[[Node], Any]) -> Any:
        """Call the operation of a node on other inputs."""
        assert callable(node.target)
        args, kwargs = fx.node.map_arg((node.args, dict(node.kwargs)), replace)
        return node.target(*args, **kwargs)

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
