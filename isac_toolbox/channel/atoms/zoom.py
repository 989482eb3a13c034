"""Sums over an even raster at a short stretch of lengths: a Fourier transform of what is asked for alone.

A block of many subcarriers tells lengths over kilometres, of which a scene needs a few hundred metres. Places
are gathered by a kernel onto a raster as much coarser as the stretch is shorter than a period, and the sums
are taken over that (docs/theory.md, section 2.4).
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = ["SHARPNESS", "TAPS", "kernel_transform", "zoom_pays", "zoomed"]

RealArray = NDArray[np.float64]
ComplexArray = NDArray[Any]

# With twofold oversampling the kernel exp(sharpness (sqrt(1 - z^2) - 1)) is exact to about 1e-13.
TAPS = 14
SHARPNESS = 2.30 * TAPS
# Places gathered into one from which on this costs less than a fast transform of the whole period.
_LEAST_GATHERED = 8


class _Zoom(NamedTuple):
    """Kernel of the places in a cell towards the coarse points (taps + 1, D), and sums over those (L, J)."""

    gather: ComplexArray
    transform: ComplexArray


def kernel_transform(angle: NDArray[Any]) -> RealArray:
    """Return ``int exp(sharpness (sqrt(1 - z^2) - 1)) cos(angle z) dz`` over -1 <= z <= 1."""
    nodes, weights = np.polynomial.legendre.leggauss(200)
    value = np.exp(SHARPNESS * (np.sqrt(1 - nodes**2) - 1)) * weights
    return np.asarray(np.cos(np.multiply.outer(angle, nodes)) @ value)


def zoom_pays(step: float, count: int) -> bool:
    """Return whether :func:`zoomed` costs less than a transform of a whole period."""
    return _n_gathered(step, count) >= _LEAST_GATHERED


def zoomed(columns: ComplexArray, first: float, step: float, count: int, origin: float) -> ComplexArray:
    """Return ``sum_n g_n exp(2 pi j (first + i step) (n - origin))`` for i < count, shape (count, C).

    Parameters
    ----------
    columns : ndarray of complex, shape (N, C)
        Values at the places of the raster.
    first, step : float
        Turns from one place to the next, at the first sum and from sum to sum.
    count : int
        Number of sums, over at most half a turn.
    origin : float
        Place without a phase.
    """
    n_places, n_columns = columns.shape
    zoom = _zoom(n_places, first, step, count, origin, columns.dtype.char)
    n_taps, n_gathered = zoom.gather.shape
    n_cells = -(-n_places // n_gathered)
    whole = columns
    if n_places < n_cells * n_gathered:
        whole = np.zeros((n_cells * n_gathered, n_columns), columns.dtype)
        whole[:n_places] = columns
    towards = np.matmul(zoom.gather, whole.reshape(n_cells, n_gathered, n_columns))
    coarse = np.zeros((n_cells + n_taps - 1, n_columns), columns.dtype)
    for tap in range(n_taps):
        coarse[tap : tap + n_cells] += towards[:, tap]
    return np.asarray(zoom.transform @ coarse)


def _n_gathered(step: float, count: int) -> int:
    """Places per coarse point, which tells twice as many turns apart as are asked for."""
    return int(1 / (2 * step * count))


@lru_cache(maxsize=16)
def _zoom(n_places: int, first: float, step: float, count: int, origin: float, dtype: str) -> _Zoom:
    """The matrices of a transform."""
    n_gathered = _n_gathered(step, count)
    half_width = 0.5 * TAPS * n_gathered
    taps = np.arange(-(TAPS // 2), TAPS // 2 + 1)
    distance = np.arange(n_gathered) - n_gathered * taps[:, None]
    inside = np.maximum(1 - (distance / half_width) ** 2, 0.0)
    kernel = np.where(inside > 0, np.exp(SHARPNESS * (np.sqrt(inside) - 1)), 0.0)
    middle = first + 0.5 * step * (count - 1)
    turns = first + step * np.arange(count)
    response = half_width * kernel_transform(2 * np.pi * (turns - middle) * half_width) / n_gathered
    places = n_gathered * np.arange(taps[0], -(-n_places // n_gathered) + taps[-1])
    transform = np.exp(2j * np.pi * np.multiply.outer(turns, places - origin)) / response[:, None]
    gather = kernel * np.exp(2j * np.pi * middle * distance)
    return _Zoom(gather.astype(dtype), transform.astype(dtype))
