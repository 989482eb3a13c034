"""Kernels around the Cholesky factorisation of a Gaussian posterior (docs/theory.md, section 5)."""

from __future__ import annotations

import numpy as np
from numba import njit

__all__ = ["hermitian_inverse", "mean_and_log_det", "scaled_precision"]


@njit(cache=True, error_model="numpy")
def scaled_precision(gram, gamma, rho, transposed, scale):  # type: ignore[no-untyped-def]
    """Fill in the lower triangle of ``gamma G + diag(rho)``, scaled to a unit diagonal, and the scale.

    The triangle is filled into the transposed, as LAPACK reads columns first. Returns whether every diagonal
    entry is positive and finite.
    """
    n = rho.size
    for i in range(n):
        diagonal = gamma * gram[i, i].real + rho[i]
        if not (np.isfinite(diagonal) and diagonal > 0.0):
            return False
        scale[i] = 1.0 / np.sqrt(diagonal)
    for i in range(n):
        weight = gamma * scale[i]
        for j in range(i):
            transposed[j, i] = gram[i, j] * (weight * scale[j])
        transposed[i, i] = 1.0
    return True


@njit(cache=True, error_model="numpy")
def mean_and_log_det(transposed, scale, solution):  # type: ignore[no-untyped-def]
    """Scale the solution to the mean, in place, and return ``ln det Sigma``, by the transposed factor."""
    log_det = 0.0
    for i in range(scale.size):
        solution[i] *= scale[i]
        log_det += np.log(scale[i] / transposed[i, i].real)
    return 2.0 * log_det


@njit(cache=True, error_model="numpy")
def hermitian_inverse(transposed, scale):  # type: ignore[no-untyped-def]
    """Return ``diag(scale) A diag(scale)``, exactly Hermitian, of ``A`` by its lower triangle, transposed."""
    n = scale.size
    full = np.empty((n, n), transposed.dtype)
    for i in range(n):
        for j in range(i):
            value = transposed[j, i] * (scale[i] * scale[j])
            full[i, j] = value
            full[j, i] = np.conj(value)
        full[i, i] = transposed[i, i].real * (scale[i] * scale[i])
    return full
