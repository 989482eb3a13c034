"""Noise that the antennas share, made white by a matrix over the array (docs/theory.md, section 2.7)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

__all__ = ["Whitening"]

ComplexArray = NDArray[np.complex128]
BoolArray = NDArray[np.bool_]

# Smallest eigenvalue of a covariance relative to its largest; whitening loses no more digits than that.
_SMALLEST = 1e-12


@dataclass(frozen=True, eq=False)
class Whitening:
    """Shape of the noise over the array, and the matrices that make it white and undo that.

    Attributes
    ----------
    covariance : ndarray of complex, shape (M, M)
        Of determinant one; identity for elements that are not in use.
    scale : float
        By which the covariance that came was multiplied for that.
    """

    covariance: ComplexArray
    scale: float = 1.0

    @classmethod
    def of(cls, covariance: ComplexArray, in_use: BoolArray | None = None) -> Whitening:
        """Return the whitening of a covariance (M, M) of any scale, over the elements in use (M,)."""
        n = len(covariance)
        used = np.arange(n) if in_use is None else np.flatnonzero(in_use)
        block = covariance[np.ix_(used, used)]
        _, log_determinant = np.linalg.slogdet(block)
        whole, scale = np.eye(n, dtype=complex), float(np.exp(-log_determinant / used.size))
        whole[np.ix_(used, used)] = scale * block
        return cls(whole, scale)

    @cached_property
    def _modes(self) -> tuple[NDArray[np.float64], ComplexArray]:
        values, vectors = np.linalg.eigh(self.covariance)
        return np.maximum(values, _SMALLEST * values[-1]), vectors

    @cached_property
    def matrix(self) -> ComplexArray:
        """``C^(-1/2)``, Hermitian, shape (M, M)."""
        values, vectors = self._modes
        return np.asarray((vectors / np.sqrt(values)) @ vectors.conj().T)

    @cached_property
    def inverse(self) -> ComplexArray:
        """``C^(1/2)``, Hermitian, shape (M, M)."""
        values, vectors = self._modes
        return np.asarray((vectors * np.sqrt(values)) @ vectors.conj().T)

    def apply(self, values: ComplexArray) -> ComplexArray:
        """Return values (..., M) over the array whitened."""
        return np.asarray(values @ self.matrix.T)

    def undo(self, values: ComplexArray) -> ComplexArray:
        """Return whitened values (..., M) as they were."""
        return np.asarray(values @ self.inverse.T)

    def power(self, in_use: BoolArray | None = None) -> float:
        """Mean variance of elements in use, where whitened noise has one."""
        variance = np.real(np.diag(self.covariance))
        return float(np.mean(variance if in_use is None else variance[in_use]))

    def share_of_white(self, doubt: float) -> ComplexArray:
        """Return by how much more than of all dimensions of a white signal is known of each, shape (M, M).

        Of a signal that was white before the whitening, estimated as if it were so after it; ``doubt`` is the
        share of its variance that is left then.
        """
        values, vectors = self._modes
        return np.asarray((vectors / (1 + (values - 1) * doubt)) @ vectors.conj().T)

    def distance(self, other: Whitening) -> float:
        """Mean squared deviation from white that noise of the other's covariance has after this whitening."""
        left = self.matrix @ other.covariance @ self.matrix - np.eye(len(self.matrix))
        return float(np.sum(np.abs(left) ** 2)) / len(left)
