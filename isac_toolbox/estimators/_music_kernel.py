"""Kernel of the MUSIC spectrum: the grid streamed through blocks that stay in the cache."""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

__all__ = ["real_basis", "subspace_shares"]


def real_basis(basis: NDArray[np.complex128]) -> NDArray[np.float64]:
    """A conjugate basis (M, Q) for real parts, then imaginary parts, of half a centred steering vector.

    Opposite elements of a centred array are conjugate, so ``sum_m conj(u_m) a_m`` is the sum over half the
    elements of ``Re a_m (conj u_m + conj u_-m) + j Im a_m (conj u_m - conj u_-m)``: real matrix products of
    half the cost. Shape (2 ceil(M / 2), 2 Q), real and imaginary parts of a column side by side.
    """
    n, half = len(basis), (len(basis) + 1) // 2
    first, last = basis[:half], basis[::-1][:half].copy()
    if n % 2:
        last[-1] = 0
    return np.ascontiguousarray(np.concatenate([first + last, 1j * (first - last)])).view(np.float64)


@njit(cache=True, fastmath=True)
def _phasors(cosine, slope, out):  # type: ignore[no-untyped-def]
    """Responses ``exp(j slope m u)`` of centred elements m, filled in by a recurrence."""
    n = out.size
    half = 0.5 * slope * cosine
    root = complex(np.cos(half), np.sin(half))
    step = root * root
    value = root if n % 2 == 0 else complex(1.0, 0.0)
    for m in range(n // 2, n):
        out[m] = value
        out[n - 1 - m] = np.conj(value)
        value *= step


@njit(cache=True, fastmath=True)
def subspace_shares(cosines, lengths, basis, wavenumbers, shape, slopes, block):  # type: ignore[no-untyped-def]
    """``|U^H (b (x) a)|^2`` of points (P,), from a :func:`real_basis`, its columns window before vector.

    Per block of points: half the steering vectors by recurrences, one real matrix product with the basis,
    then the sum over the window's subcarriers. Memory does not grow with the number of points.
    """
    n_points, n_window = lengths.size, wavenumbers.size
    order = basis.shape[1] // (2 * n_window)
    n_h, n_v = shape
    half = basis.shape[0] // 2
    shares = np.empty(n_points)
    steering = np.empty((block, 2 * half))
    over_space = np.empty((block, basis.shape[1]))
    a_h, a_v = np.empty(n_h, np.complex128), np.empty(n_v, np.complex128)
    total = np.empty(order, np.complex128)
    for start in range(0, n_points, block):
        size = min(block, n_points - start)
        for i in range(size):
            _phasors(cosines[0, start + i], slopes[0], a_h)
            _phasors(cosines[1, start + i], slopes[1], a_v)
            m = 0
            for h in range((n_h + 1) // 2):
                for v in range(n_v):
                    if m == half:
                        break
                    value = a_h[h] * a_v[v]
                    steering[i, m], steering[i, half + m] = value.real, value.imag
                    m += 1
        np.dot(steering[:size], basis, over_space[:size])
        for i in range(size):
            share = 0.0
            if n_window == 1:
                for r in range(2 * order):
                    share += over_space[i, r] ** 2
                shares[start + i] = share
                continue
            total[:] = 0.0
            for w in range(n_window):
                turn = -wavenumbers[w] * lengths[start + i]
                b = complex(np.cos(turn), np.sin(turn))
                for r in range(order):
                    at = 2 * (w * order + r)
                    total[r] += b * complex(over_space[i, at], over_space[i, at + 1])
            for r in range(order):
                share += total[r].real ** 2 + total[r].imag ** 2
            shares[start + i] = share
    return shares
