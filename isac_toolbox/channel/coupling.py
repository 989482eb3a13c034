"""What elements of a planar array hear of each other, as few numbers (docs/theory.md, section 6.12)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

from isac_toolbox.channel.array import UniformPlanarArray

__all__ = ["CouplingKinds"]

RealArray = NDArray[np.float64]
ComplexArray = NDArray[np.complex128]

# Cost cap: pairs of elements that are told apart by their distance in columns and rows, the closest.
_MOST_KINDS = 96
# How the deviation of a coefficient falls with the distance: as the field of a small antenna's near zone,
# which falls between the first power, of waves, and the third.
_DECAY = 2.0


@dataclass(frozen=True, eq=False)
class CouplingKinds:
    """Pairs of elements that couple alike: those as far apart in columns and in rows.

    Attributes
    ----------
    shape : (int, int)
        Of the array.
    offsets : ndarray of int, shape (R, 2)
        Distances in columns and rows of every kind, the closest first.
    relative_stds : ndarray, shape (R,)
        Deviations of the coefficients, that of the closest one.
    """

    shape: tuple[int, int]
    offsets: NDArray[np.int64]
    relative_stds: RealArray

    @classmethod
    def of(cls, array: UniformPlanarArray) -> CouplingKinds:
        """Return the kinds of an array, at most 96 of them."""
        n_h, n_v = array.shape
        offsets = np.stack(np.meshgrid(np.arange(n_h), np.arange(n_v), indexing="ij"), axis=-1).reshape(-1, 2)
        distance = np.linalg.norm(offsets * np.array(array.spacings), axis=1)
        order = np.argsort(distance, kind="stable")[1 : 1 + _MOST_KINDS]
        distance = distance[order]
        return cls(array.shape, offsets[order], (distance / distance[:1]) ** -_DECAY)

    @cached_property
    def matrices(self) -> csr_matrix:
        """One row for each kind: which pairs (M * M) belong to it."""
        n_h, n_v = self.shape
        column, row = np.divmod(np.arange(n_h * n_v), n_v)
        apart = np.abs(column[:, None] - column) * n_v + np.abs(row[:, None] - row)
        kind = np.full(n_h * n_v, -1)
        kind[self.offsets[:, 0] * n_v + self.offsets[:, 1]] = np.arange(len(self.offsets))
        of_pair = kind[apart.ravel()]
        pairs = np.flatnonzero(of_pair >= 0)
        ones = np.ones(pairs.size)
        return csr_matrix((ones, (of_pair[pairs], pairs)), shape=(len(self.offsets), apart.size))

    @cached_property
    def _stacked(self) -> csr_matrix:
        """The matrices of all kinds below each other, shape (R M, M)."""
        n_elements = self.shape[0] * self.shape[1]
        kind, pair = self.matrices.nonzero()
        element, other = np.divmod(pair, n_elements)
        size = (len(self.offsets) * n_elements, n_elements)
        return csr_matrix((np.ones(pair.size), (kind * n_elements + element, other)), shape=size)

    def applied(self, values: ComplexArray) -> ComplexArray:
        """Return what every kind alone, of coefficient one, makes of values (M, X), shape (R, M, X)."""
        return np.asarray((self._stacked @ values).reshape(len(self.offsets), *values.shape))

    def matrix(self, coefficients: ComplexArray) -> ComplexArray:
        """Return what elements hear of each other, one on the diagonal, shape (M, M)."""
        n_elements = self.shape[0] * self.shape[1]
        coupled = (self.matrices.T @ coefficients).reshape(n_elements, n_elements)
        return np.asarray(np.eye(n_elements) + coupled)

    def sums(self, values: ComplexArray) -> ComplexArray:
        """Return the sums of values (M, M, ...) over the pairs of every kind, shape (R, ...)."""
        flat = values.reshape(values.shape[0] * values.shape[1], -1)
        return np.asarray((self.matrices @ flat).reshape(len(self.offsets), *values.shape[2:]))

    def sums_of(self, values: ComplexArray) -> ComplexArray:
        """Return the same sums of many matrices (S, M, M), shape (R, S)."""
        return np.asarray(self.matrices @ values.reshape(len(values), -1).T)
