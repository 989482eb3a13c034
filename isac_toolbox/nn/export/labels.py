"""Labels of channels: which indices of which tensors are removed together.

Every index of every axis of every parameter starts with a label of its own; operations make labels equal. A
*factor* of a tensor is an integer tensor of the same number of axes, of full size along the axes where the
label depends on the index, and of size 1 along the others. ``FIXED`` labels what must stay.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from torch import Tensor

__all__ = ["FIXED", "Factor", "Labels", "compressed", "support"]

FIXED = 0

Factor = Tensor


def support(factor: Factor) -> tuple[int, ...]:
    """Return the axes along which the labels depend on the index."""
    return tuple(axis for axis, n in enumerate(factor.shape) if n > 1)


def compressed(full: Tensor) -> Tensor:
    """Return a tensor with size 1 along all axes where it does not change."""
    for axis in range(full.ndim):
        if full.shape[axis] > 1:
            first = full.narrow(axis, 0, 1)
            if bool((full == first).all()):
                full = first
    return full


class Labels:
    """Equalities of labels, collected while operations are read and resolved at once."""

    def __init__(self) -> None:
        self.n = 1
        self._pairs: list[np.ndarray] = []
        self._reasons: list[tuple[np.ndarray, str]] = []

    def fresh(self, size: int, axis: int, n_axes: int) -> Factor:
        """Return new labels along one axis."""
        shape = [1] * n_axes
        shape[axis] = size
        self.n += size
        return torch.arange(self.n - size, self.n, dtype=torch.int32).reshape(shape)

    def join(self, a: Factor, b: Factor) -> None:
        """Make labels equal, element by element with broadcasting."""
        a, b = torch.broadcast_tensors(a, b)
        pairs = np.stack([a.numpy().ravel(), b.numpy().ravel()], axis=1)
        self._pairs.append(np.unique(pairs[pairs[:, 0] != pairs[:, 1]], axis=0))

    def fix(self, factor: Factor, reason: str) -> None:
        """Keep the indices with these labels."""
        self.join(factor, torch.zeros_like(factor))
        self._reasons.append((np.unique(factor.numpy()), reason))

    def coarse(self, factor: Factor, axes: Sequence[int], reason: str) -> Factor:
        """Return the factor without dependence on some axes; indices along them are removed together.

        Where no axis is left, the labels are fixed.
        """
        for axis in axes:
            if factor.shape[axis] > 1:
                first = factor.narrow(axis, 0, 1)
                self.join(factor, first)
                factor = first
        if not support(factor):
            self.fix(factor, reason)
        return factor

    def merged(self, factors: Sequence[Factor], reason: str) -> list[Factor]:
        """Return factors whose axes do not overlap; those that did have become one.

        Two factors on the same axes become equal. Where one depends on an axis that the other does not, the
        tensors stay rectangular only if the labels do not depend on it.
        """
        result: list[Factor] = []
        for factor in factors:
            if not support(factor):
                continue
            merging = True
            while merging:
                merging = False
                for i, other in enumerate(result):
                    common = set(support(factor)) & set(support(other))
                    if common:
                        del result[i]
                        factor = self._matched(factor, other, common, reason)
                        merging = True
                        break
            if support(factor):
                result.append(factor)
        return result

    def _matched(self, a: Factor, b: Factor, axes: set[int], reason: str) -> Factor:
        a = self.coarse(a, [axis for axis in support(a) if axis not in axes], reason)
        b = self.coarse(b, [axis for axis in support(b) if axis not in axes], reason)
        self.join(a, b)
        return a

    def resolve(self, factors: Sequence[Factor]) -> np.ndarray:
        """Return the class of every label, (n,), ``FIXED`` for what must stay.

        Parameters
        ----------
        factors : sequence of Factor
            All factors of all tensors. What is removed of a tensor must be whole slices: where the class
            depends on several axes, it is made to depend on the one with most different slices.
        """
        joint = [factor for factor in factors if len(support(factor)) > 1]
        while True:
            classes = self._classes()
            changed = False
            for factor in joint:
                changed |= self._made_rectangular(factor, classes)
            if not changed:
                return classes

    def _classes(self, with_fixed: bool = True) -> np.ndarray:
        pairs = np.concatenate([*self._pairs, np.zeros((0, 2), np.int32)])
        if not with_fixed:
            pairs = pairs[(pairs != FIXED).all(axis=1)]
        graph = coo_array((np.ones(len(pairs), np.int8), (pairs[:, 0], pairs[:, 1])), shape=(self.n, self.n))
        _, classes = connected_components(graph, directed=False)
        first = classes[FIXED]  # the class of label 0 shall have number 0
        return np.where(classes == first, FIXED, np.where(classes == FIXED, first, classes))

    def _made_rectangular(self, factor: Factor, classes: np.ndarray) -> bool:
        """Join labels until the class depends on one axis alone; return whether that was needed."""
        of = torch.from_numpy(classes)[factor.long()]
        varies = [axis for axis in support(of) if bool((of != of.narrow(axis, 0, 1)).any())]
        if len(varies) < 2:
            return False
        slices = [len(torch.unique(of.movedim(axis, 0).flatten(1), dim=0)) for axis in varies]
        kept = min(zip(slices, varies), key=lambda item: (-item[0], factor.shape[item[1]], -item[1]))[1]
        self.coarse(factor, [axis for axis in varies if axis != kept], "channels of several axes are mixed")
        return True

    def reasons(self, labels: Tensor) -> list[str]:
        """Return in words why these labels are fixed."""
        classes = self._classes(with_fixed=False)
        wanted = np.unique(classes[labels.numpy().ravel()])
        found = [
            why for fixed, why in self._reasons if np.isin(classes[fixed], wanted[wanted != FIXED]).any()
        ]
        return list(dict.fromkeys(found))
