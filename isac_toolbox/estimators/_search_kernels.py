"""Kernels of the matched-filter search and of the fusion of points."""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

__all__ = ["local_maxima", "pair_evidence"]

RealArray = NDArray[np.float64]
IntArray = NDArray[np.int64]


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


def pair_evidence(
    mean: RealArray, covariance: RealArray, points: IntArray, first: IntArray, second: IntArray
) -> RealArray:
    """Return ``-1/2 ln det(2 pi V) - 1/2 d^T V^-1 d`` of pairs of points, ``d`` apart with covariance ``V``.

    By ``V = L D L^T`` with ``L`` of unit diagonal: ``D_11 = V_11`` and so on, all pairs together.
    """
    xyz = np.arange(3)
    a, b = 3 * points[first, None] + xyz, 3 * points[second, None] + xyz
    d = (mean[a] - mean[b]).T
    across = covariance[a[:, :, None], b[:, None, :]]
    v = covariance[a[:, :, None], a[:, None, :]] + covariance[b[:, :, None], b[:, None, :]]
    v = (v - across - across.transpose(0, 2, 1)).transpose(1, 2, 0)
    evidence = np.full(first.size, -1.5 * np.log(2 * np.pi))
    for r in range(3):
        evidence -= 0.5 * (np.log(np.abs(v[r, r])) + d[r] ** 2 / v[r, r])
        ratio = v[r + 1 :, r] / v[r, r]
        d[r + 1 :] -= ratio * d[r]
        v[r + 1 :, r + 1 :] -= ratio[:, None] * v[r, r + 1 :]
    return evidence
