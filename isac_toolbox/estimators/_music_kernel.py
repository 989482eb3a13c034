"""Kernel of the MUSIC spectrum: the grid streamed through blocks that stay in the cache."""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

__all__ = ["real_basis", "subspace_shares"]


def real_basis(basis: NDArray[np.complex128]) -> NDArray[np.float64]:
    """Return a conjugate basis (M, Q) of half a centred steering vector, real parts before imaginary ones.

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
def _phasors(cosines, slope, real, imag):  # type: ignore[no-untyped-def]
    """Responses ``exp(j slope m u)`` of centred elements m at points, filled into (M, P) by a recurrence."""
    n, middle = len(real), len(real) // 2
    step_real, step_imag = np.empty(cosines.size), np.empty(cosines.size)
    for i in range(cosines.size):
        half = 0.5 * slope * cosines[i]
        c, s = np.cos(half), np.sin(half)
        step_real[i], step_imag[i] = c * c - s * s, 2 * c * s
        real[middle, i], imag[middle, i] = (c, s) if n % 2 == 0 else (1.0, 0.0)
    for m in range(middle + 1, n):
        for i in range(cosines.size):
            real[m, i] = real[m - 1, i] * step_real[i] - imag[m - 1, i] * step_imag[i]
            imag[m, i] = real[m - 1, i] * step_imag[i] + imag[m - 1, i] * step_real[i]
    for m in range(middle):
        for i in range(cosines.size):
            real[m, i], imag[m, i] = real[n - 1 - m, i], -imag[n - 1 - m, i]


@njit(cache=True, fastmath=True)
def _half_steering(cosines, slopes, shape, factors, out):  # type: ignore[no-untyped-def]
    """Real parts, then imaginary parts, of the first half of the steering vectors of points, (2 half, P)."""
    h_real, h_imag, v_real, v_imag = factors
    _phasors(cosines[0], slopes[0], h_real, h_imag)
    _phasors(cosines[1], slopes[1], v_real, v_imag)
    half = len(out) // 2
    for m in range(half):
        h, v = divmod(m, shape[1])
        for i in range(cosines.shape[1]):
            out[m, i] = h_real[h, i] * v_real[v, i] - h_imag[h, i] * v_imag[v, i]
            out[half + m, i] = h_real[h, i] * v_imag[v, i] + h_imag[h, i] * v_real[v, i]


@njit(cache=True, fastmath=True)
def _summed_power(products, turns, wavenumbers, shares):  # type: ignore[no-untyped-def]
    """``sum_r |sum_w exp(j w l) c_wr|^2`` of products (2 Q, P), real and imaginary rows in turn, into (P,).

    Wavenumbers are equally spaced; ``turns`` are the points' lengths with their sign turned.
    """
    n_window = wavenumbers.size
    order, size = len(products) // (2 * n_window), turns.size
    shares[:] = 0.0
    if n_window == 1:
        for r in range(2 * order):
            for i in range(size):
                shares[i] += products[r, i] ** 2
        return
    total = np.zeros((2 * order, size))
    b_real, b_imag = np.cos(wavenumbers[0] * turns), np.sin(wavenumbers[0] * turns)
    spacing = wavenumbers[1] - wavenumbers[0]
    step_real, step_imag = np.cos(spacing * turns), np.sin(spacing * turns)
    for w in range(n_window):
        for r in range(order):
            real, imag = products[2 * (w * order + r)], products[2 * (w * order + r) + 1]
            for i in range(size):
                total[2 * r, i] += b_real[i] * real[i] - b_imag[i] * imag[i]
                total[2 * r + 1, i] += b_real[i] * imag[i] + b_imag[i] * real[i]
        for i in range(size):
            b = b_real[i] * step_real[i] - b_imag[i] * step_imag[i]
            b_imag[i] = b_real[i] * step_imag[i] + b_imag[i] * step_real[i]
            b_real[i] = b
    for r in range(2 * order):
        for i in range(size):
            shares[i] += total[r, i] ** 2


@njit(cache=True, fastmath=True)
def subspace_shares(cosines, lengths, basis, wavenumbers, shape, slopes, block):  # type: ignore[no-untyped-def]
    """Return ``|U^H (b (x) a)|^2`` of points (P,), from a :func:`real_basis` with columns window by vector.

    Per block of points: half the steering vectors by recurrences, one real matrix product with the basis,
    then the sum over the window's subcarriers; every inner loop runs over points. Memory does not grow with
    their number.
    """
    n_points = lengths.size
    shares = np.empty(n_points)
    steering = np.zeros((len(basis), block))
    products = np.empty((basis.shape[1], block))
    factors = (
        np.empty((shape[0], block)),
        np.empty((shape[0], block)),
        np.empty((shape[1], block)),
        np.empty((shape[1], block)),
    )
    for start in range(0, n_points, block):
        stop = min(start + block, n_points)
        _half_steering(cosines[:, start:stop], slopes, shape, factors, steering)
        np.dot(basis.T, steering, products)
        _summed_power(products, -lengths[start:stop], wavenumbers, shares[start:stop])
    return shares
