"""Kernels of the matched-filter search and of the fusion of points."""

from __future__ import annotations

import numpy as np
from numba import njit

__all__ = ["local_maxima", "pair_evidence"]


@njit(cache=True, error_model="numpy")
def local_maxima(power, candidates, reach):  # type: ignore[no-untyped-def]
    """Return which candidates (flat indices) no bin within ``reach`` exceeds; directions wrap around."""
    n_g, n_h, n_v = power.shape
    is_peak = np.ones(candidates.size, np.bool_)
    width = 2 * reach + 1
    for c in range(candidates.size):
        g, rest = divmod(candidates[c], n_h * n_v)
        h, v = divmod(rest, n_v)
        value = power[g, h, v]
        for near in range(max(g - reach, 0) * width**2, min(g + reach + 1, n_g) * width**2):
            a, rest = divmod(near, width * width)
            b, d = divmod(rest, width)
            if power[a, (h + b - reach) % n_h, (v + d - reach) % n_v] > value:
                is_peak[c] = False
                break
    return is_peak


@njit(cache=True, error_model="numpy")
def pair_evidence(mean, covariance, points, first, second):  # type: ignore[no-untyped-def]
    """Return ``-1/2 ln det(2 pi V) - 1/2 d^T V^-1 d`` of pairs of points, ``d`` apart with covariance ``V``.

    By ``V = L D L^T`` with ``L`` of unit diagonal: ``D_11 = V_11`` and so on.
    """
    evidence = np.empty(first.size)
    v, d = np.empty((3, 3)), np.empty(3)
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
    return evidence
