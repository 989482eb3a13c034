"""Kernels of the matched-filter search and of the fusion of points."""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

__all__ = ["local_maxima", "pair_evidence"]


@njit(cache=True, nogil=True, error_model="numpy")
def local_maxima(power, candidates, reach, is_peak):  # type: ignore[no-untyped-def]
    """Fill in which candidates (flat indices) no bin within ``reach`` exceeds; directions wrap around."""
    n_g, n_h, n_v = power.shape
    for c in range(candidates.size):
        g, h, v = candidates[c] // (n_h * n_v), candidates[c] // n_v % n_h, candidates[c] % n_v
        value, highest = power[g, h, v], power[g, h, v]
        for a in range(g - reach, g + reach + 1):
            if 0 <= a < n_g and highest <= value:
                for b in range(h - reach, h + reach + 1):
                    for d in range(v - reach, v + reach + 1):
                        near = power[a, b % n_h, d % n_v]
                        highest = near if near > highest else highest
        is_peak[c] = highest <= value


@njit(cache=True, nogil=True, error_model="numpy")
def _pair_evidence(mean, covariance, points, first, second, v, d, evidence):  # type: ignore[no-untyped-def]
    """Fill in ``-1/2 ln det(2 pi V) - 1/2 d^T V^-1 d`` of pairs of points, ``d`` apart with covariance ``V``.

    By ``V = L D L^T`` with ``L`` of unit diagonal: ``D_11 = V_11`` and so on; ``v`` (3, 3) and ``d`` (3,) are
    room.
    """
    for pair in range(first.size):
        a, b = 3 * points[first[pair]], 3 * points[second[pair]]
        for r in range(3):
            d[r] = mean[a + r] - mean[b + r]
            for c in range(r + 1):
                v[r, c] = covariance[a + r, a + c] + covariance[b + r, b + c]
                v[r, c] -= covariance[a + r, b + c] + covariance[b + r, a + c]
        log_det, squared = 3 * np.log(2 * np.pi), 0.0
        for r in range(3):
            log_det += np.log(abs(v[r, r]))
            squared += d[r] ** 2 / v[r, r]
            for s in range(r + 1, 3):
                ratio = v[s, r] / v[r, r]
                d[s] -= ratio * d[r]
                for c in range(r + 1, s + 1):
                    v[s, c] -= ratio * v[c, r]
        evidence[pair] = -0.5 * log_det - 0.5 * squared


def pair_evidence(
    mean: NDArray[np.float64],
    covariance: NDArray[np.float64],
    points: NDArray[np.int64],
    first: NDArray[np.int64],
    second: NDArray[np.int64],
) -> NDArray[np.float64]:
    """Return the log density of coincidence of pairs of points, from their joint Gaussian.

    ``-1/2 ln det(2 pi V) - 1/2 d^T V^-1 d`` of points ``d`` apart with covariance ``V``.
    """
    evidence = np.empty(first.size)
    _pair_evidence(mean, covariance, points, first, second, np.empty((3, 3)), np.empty(3), evidence)
    return evidence
