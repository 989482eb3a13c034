"""Kernels around the Cholesky factorisation of a Gaussian posterior (docs/theory.md, section 5)."""

from __future__ import annotations

import numpy as np
from numba import njit

__all__ = ["hermitian_inverse", "scaled_precision"]


@njit(cache=True, nogil=True, error_model="numpy")
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


@njit(cache=True, nogil=True, error_model="numpy")
def hermitian_inverse(transposed, scale, full):  # type: ignore[no-untyped-def]
    """Fill in ``diag(scale) A diag(scale)``, exactly Hermitian, ``A`` by its lower triangle, transposed."""
    n = scale.size
    for i in range(n):
        for j in range(i):
            value = transposed[j, i] * (scale[i] * scale[j])
            full[i, j] = value
            full[j, i] = np.conj(value)
        full[i, i] = transposed[i, i].real * (scale[i] * scale[i])
