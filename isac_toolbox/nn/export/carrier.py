"""What all rules for labels of channels need (docs/theory-networks.md, section 5.2)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, fx

from isac_toolbox.nn.export.capture import Node, shape_of
from isac_toolbox.nn.export.labels import Factor, Labels, support

__all__ = ["Carrier", "Operand", "Product", "Reader"]


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


class Carrier:
    """Labels of all tensors, and what every rule needs to read and to combine them.

    Attributes
    ----------
    labels : Labels
    factors : dict of Node to list of Factor
        Factors of every node; a tuple of lists for operations with several outputs.
    readers : list of Reader
    products : list of Product
    """

    labels: Labels
    factors: dict[Node, Any]
    readers: list[Reader]
    products: list[Product]

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
