"""Kernel of the MUSIC spectrum: the grid streamed through blocks that stay in the cache."""

from __future__ import annotations

import numpy as np
from numba import njit

__all__ = ["subspace_shares"]


@njit(cache=True, fastmath=True)
def _phasors(cosine, slope, out):  # type: ignore[no-untyped-def]
    """Powers ``exp(j slope m u)`` of centred elements m, filled in by a recurrence."""
    n = out.size
    turn = slope * cosine
    step = complex(np.cos(turn), np.sin(turn))
    first = -0.5 * (n - 1) * turn
    value = complex(np.cos(first), np.sin(first))
    for m in range(n):
        out[m] = value
        value *= step


@njit(cache=True, fastmath=True)
def subspace_shares(cosines, lengths, basis, wavenumbers, shape, slopes, block):  # type: ignore[no-untyped-def]
    """``|U^H (b (x) a)|^2`` of points (P,), from a conjugate basis (M, W r) with window w before vector.

    Per block of points: steering vectors by recurrences, one matrix product with the basis, then the sum over
    the window's subcarriers. Memory does not grow with the number of points.
    """
    n_points, n_window = lengths.size, wavenumbers.size
    order = basis.shape[1] // n_window
    n_h, n_v = shape
    shares = np.empty(n_points)
    steering = np.empty((block, n_h * n_v), np.complex128)
    over_space = np.empty((block, basis.shape[1]), np.complex128)
    a_h, a_v = np.empty(n_h, np.complex128), np.empty(n_v, np.complex128)
    total = np.empty(order, np.complex128)
    for start in range(0, n_points, block):
        size = min(block, n_points - start)
        for i in range(size):
            _phasors(cosines[0, start + i], slopes[0], a_h)
            _phasors(cosines[1, start + i], slopes[1], a_v)
            for h in range(n_h):
                for v in range(n_v):
                    steering[i, h * n_v + v] = a_h[h] * a_v[v]
        np.dot(steering[:size], basis, over_space[:size])
        for i in range(size):
            total[:] = 0.0
            for w in range(n_window):
                turn = -wavenumbers[w] * lengths[start + i]
                b = complex(np.cos(turn), np.sin(turn))
                for r in range(order):
                    total[r] += b * over_space[i, w * order + r]
            share = 0.0
            for r in range(order):
                share += total[r].real ** 2 + total[r].imag ** 2
            shares[start + i] = share
    return shares
