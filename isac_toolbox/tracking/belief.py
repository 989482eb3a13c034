"""Gaussian beliefs, predicted, informed and smoothed (docs/theory.md, sections 11.1, 11.2 and 11.5).

Written out because informations here are singular and the state grows and shrinks, which filter libraries
with a fixed state and measurement model do not offer.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["Belief", "smoothed"]

RealArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

# Guard: share of the largest eigenvalue of a scaled covariance below which a direction counts as known.
_KNOWN = 1e-12


@dataclass(frozen=True, eq=False)
class Belief:
    """A Gaussian of D entries, of which some may be known.

    Attributes
    ----------
    mean : ndarray, shape (D,)
    covariance : ndarray, shape (D, D)
    """

    mean: RealArray
    covariance: RealArray

    @classmethod
    def independent(cls, mean: RealArray, std: RealArray) -> Belief:
        """Return the belief of independent entries; a zero deviation means known."""
        return cls(np.array(mean, dtype=float), np.diag(np.asarray(std, dtype=float) ** 2))

    def predicted(self, transition: RealArray, noise: RealArray) -> Belief:
        """Return the belief of ``transition x`` plus noise of a covariance."""
        return Belief(transition @ self.mean, transition @ self.covariance @ transition.T + noise)

    def informed(self, matrix: RealArray, vector: RealArray, index: IntArray) -> Belief:
        """Return the belief after a log likelihood ``b^T z - z^T J z / 2`` of some entries ``z``.

        Parameters
        ----------
        matrix, vector : ndarray, shape (I, I) and (I,)
            ``J``, which may be singular, and ``b``.
        index : ndarray of int, shape (I,)
            Which entries.
        """
        root = _root(self.covariance)
        seen = root[index]
        inner = np.eye(root.shape[1]) + seen.T @ matrix @ seen
        factor = np.linalg.solve(np.linalg.cholesky(inner), root.T)
        covariance = factor.T @ factor
        slope = vector - matrix @ self.mean[index]
        return Belief(self.mean + covariance[:, index] @ slope, covariance)

    def joined(self, other: Belief) -> Belief:
        """Return the belief of both, independent of each other."""
        size = self.mean.size
        covariance = np.zeros((size + other.mean.size,) * 2)
        covariance[:size, :size], covariance[size:, size:] = self.covariance, other.covariance
        return Belief(np.concatenate([self.mean, other.mean]), covariance)

    def taken(self, index: IntArray) -> Belief:
        """Return the belief of some entries."""
        return Belief(self.mean[index], self.covariance[np.ix_(index, index)])

    @property
    def std(self) -> RealArray:
        """Standard deviations, shape (D,)."""
        return np.asarray(np.sqrt(np.maximum(np.diag(self.covariance), 0.0)))


def smoothed(
    filtered: Belief, transition: RealArray, predicted: Belief, later: Belief, index: IntArray
) -> Belief:
    """Return a belief with what came later (Rauch, Tung and Striebel).

    Parameters
    ----------
    filtered : Belief
        With all blocks up to its own.
    transition : ndarray, shape (D, D)
        From it to the prediction.
    predicted : Belief
        Of the next block, before it was seen.
    later : Belief
        Of I entries of the next block, with all that came later.
    index : ndarray of int, shape (I,)
        Which entries of the prediction these are.
    """
    expected = predicted.taken(index)
    across = filtered.covariance @ transition[index].T
    scale = np.where(expected.std > 0, expected.std, 1.0)
    inverse = np.linalg.pinv(expected.covariance / np.outer(scale, scale), rcond=_KNOWN, hermitian=True)
    gain = across / scale @ inverse / scale
    mean = filtered.mean + gain @ (later.mean - expected.mean)
    covariance = filtered.covariance + gain @ (later.covariance - expected.covariance) @ gain.T
    return Belief(mean, (covariance + covariance.T) / 2)


def _root(covariance: RealArray) -> RealArray:
    """``L`` (D, R) with ``L L^T`` the covariance; known entries have zero rows."""
    std = np.sqrt(np.maximum(np.diag(covariance), 0.0))
    scale = np.where(std > 0, std, 1.0)
    values, vectors = np.linalg.eigh(covariance / np.outer(scale, scale))
    used = values > 0
    return np.asarray(scale[:, None] * vectors[:, used] * np.sqrt(values[used]))
