"""Gains and phases of elements that are not independent beforehand (docs/theory.md, section 6.9)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

__all__ = ["JointPrior", "posterior_of"]

RealArray = NDArray[np.float64]

# Guard: variance relative to the largest by which a prior of few common errors becomes invertible.
_LEAST_VARIANCE = 1e-10


def posterior_of(
    covariance: RealArray, information: RealArray, vector: RealArray
) -> tuple[RealArray, RealArray]:
    """Return mean (P,) and covariance (P, P) of a Gaussian of mean zero that data were added to.

    Of the prior ``covariance``, which may be singular, and the likelihood ``b^T x - x^T J x / 2`` with
    ``J = information`` (P, P) and ``b = vector`` (P,): ``(1 + P J)^-1 P``.
    """
    after = np.linalg.solve(np.eye(len(covariance)) + covariance @ information, covariance)
    after = (after + after.T) / 2
    return after @ vector, after


@dataclass(frozen=True, eq=False)
class JointPrior:
    """Gaussian prior of all relative gains, then all phases, of mean zero.

    Attributes
    ----------
    covariance : ndarray, shape (2 M, 2 M)
    shared : ndarray, shape (2 M, C)
        Columns that paths and directions have as well: the mean of the gains, mean and slopes of the phases.
    """

    covariance: RealArray
    shared: RealArray

    @cached_property
    def _least_squares(self) -> tuple[RealArray, RealArray]:
        """What fits the shared columns with the prior's weights, (C, 2 M), and its covariance (C, C)."""
        size = len(self.covariance)
        floor = _LEAST_VARIANCE * max(float(np.trace(self.covariance)) / size, 1e-300)
        whitened = np.linalg.solve(self.covariance + floor * np.eye(size), self.shared)
        inverse = np.linalg.pinv(self.shared.T @ whitened, hermitian=True)
        return inverse @ whitened.T, inverse

    def without_shared(self, values: RealArray) -> RealArray:
        """Return values (2 M,) less the shared columns' part in them."""
        return values - self.shared @ (self._least_squares[0] @ values)

    @property
    def slope_stds(self) -> RealArray:
        """Deviations of the slopes that the phases have beforehand, shape (2,)."""
        variances = np.diag(self._least_squares[1])[-2:]
        floor = _LEAST_VARIANCE * float(np.max(np.diag(self.covariance), initial=0.0))
        return np.sqrt(np.where(variances > floor, variances, 0.0))
