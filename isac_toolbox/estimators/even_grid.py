"""A channel on equally spaced subcarriers, from any subcarriers, by what delays allow.

docs/theory.md, section 7.5: smoothing over subcarriers needs equal steps.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from isac_toolbox.channel.array import SPEED_OF_LIGHT_M_S
from isac_toolbox.channel.atoms.receiver import Raster

__all__ = ["EvenGrid", "even_channel"]

RealArray = NDArray[np.float64]
ComplexArray = NDArray[np.complex128]

# Guard: unambiguous length of a grid for irregular subcarriers, in spans of the possible lengths.
_LENGTH_GUARD = 1.5
# Tuned: places of that grid at least, where there are as many subcarriers; more have noise in common.
_LEAST_PLACES = 32
# Cost cap: places of that grid, in subcarriers.
_PLACES_PER_TONE = 4
# Tuned: lengths that stand for a window, per resolution cell.
_LENGTHS_PER_CELL = 2
# Guard: lengths beyond either end of the window, in resolution cells, so that its borders are no worse.
_BORDER_CELLS = 1
# Cost cap: lengths in all.
_MOST_LENGTHS = 1000
# Guard: ratios of noise to the power of a length that are tried.
_NOISE_RATIOS = np.geomspace(1e-10, 1e2, 49)


@dataclass(frozen=True, eq=False)
class EvenGrid:
    """Equally spaced, ascending subcarriers beside those of a block.

    Attributes
    ----------
    frequencies_hz : ndarray, shape (G,)
    step_hz : float
    place : ndarray of int, shape (N,), optional
        Of the block's subcarriers on the grid; None where they are not on it.
    """

    frequencies_hz: RealArray
    step_hz: float
    place: NDArray[np.int64] | None

    @classmethod
    def of(cls, frequencies_hz: RealArray, span_m: float) -> EvenGrid:
        """Return the raster of subcarriers, or a grid over their band that tells ``span_m`` of lengths.

        Parameters
        ----------
        frequencies_hz : ndarray, shape (N,)
        span_m : float
            From the shortest path length to the longest.
        """
        raster = Raster.of(frequencies_hz)
        lowest = float(frequencies_hz.min())
        if raster is not None:
            return cls(_steps(lowest, raster.step_hz, raster.size), raster.step_hz, raster.place)
        band = float(np.ptp(frequencies_hz))
        n_tones = frequencies_hz.size
        needed = int(np.ceil(_LENGTH_GUARD * span_m * band / SPEED_OF_LIGHT_M_S)) + 1
        size = min(max(needed, min(n_tones, _LEAST_PLACES)), _PLACES_PER_TONE * n_tones)
        step = band / (size - 1)
        return cls(_steps(lowest, step, size), step, None)


def _steps(first: float, step: float, count: int) -> RealArray:
    return np.asarray(first + step * np.arange(count), dtype=np.float64)


def even_channel(
    channel: ComplexArray,
    frequencies_hz: RealArray,
    sounded: NDArray[np.bool_],
    grid: EvenGrid,
    window_m: tuple[float, float],
) -> ComplexArray:
    """Return a user's channel on an even grid, shape (G, M).

    Sounded values of subcarriers on the grid are kept. All others are conditional means under path lengths
    with independent gains of equal power over a window, and noise of the ratio to it that makes the channel
    likeliest.

    Parameters
    ----------
    channel : ndarray of complex, shape (N, M)
    frequencies_hz : ndarray, shape (N,)
    sounded : ndarray of bool, shape (N,)
        Subcarriers whose channel counts.
    grid : EvenGrid
    window_m : tuple of float
        Shortest and longest path length.
    """
    place = None if grid.place is None else grid.place[sounded]
    channel, frequencies_hz = channel[sounded], frequencies_hz[sounded]
    if place is not None and place.size == grid.frequencies_hz.size:
        return channel[np.argsort(place)]
    lengths = _lengths(window_m, float(np.ptp(grid.frequencies_hz)) + grid.step_hz)
    responses, on_grid = (
        np.exp(-2j * np.pi / SPEED_OF_LIGHT_M_S * np.multiply.outer(f, lengths))
        for f in (frequencies_hz, grid.frequencies_hz)
    )
    left, strengths, right = np.linalg.svd(responses, full_matrices=False)
    seen = left.conj().T @ channel
    outside = float(np.sum(np.abs(channel) ** 2) - np.sum(np.abs(seen) ** 2))
    ratio = _likeliest_ratio(strengths, seen, max(outside, 0.0), channel.size)
    gains = right.conj().T @ ((strengths / (strengths**2 + ratio))[:, None] * seen)
    even = on_grid @ gains
    if place is not None:
        even[place] = channel
    return np.asarray(even)


def _lengths(window_m: tuple[float, float], bandwidth_hz: float) -> RealArray:
    """Path lengths (L,) that stand for all of a window."""
    cell = SPEED_OF_LIGHT_M_S / bandwidth_hz
    first, last = window_m[0] - _BORDER_CELLS * cell, window_m[1] + _BORDER_CELLS * cell
    count = min(int(np.ceil(_LENGTHS_PER_CELL * (last - first) / cell)) + 1, _MOST_LENGTHS)
    return np.linspace(first, last, count)


def _likeliest_ratio(strengths: RealArray, seen: ComplexArray, outside: float, n_values: int) -> float:
    """Ratio of noise to power per length of the largest likelihood, the power itself taken at its best.

    ``seen`` (R, M) are the channel's components along singular vectors of ``strengths`` (R,); ``outside`` is
    the energy beside them.
    """
    energies = np.sum(np.abs(seen) ** 2, axis=1)
    n_columns = seen.shape[1]
    n_outside = n_values - seen.size
    costs = []
    for ratio in _NOISE_RATIOS:
        variance = strengths**2 + ratio
        power = (np.sum(energies / variance) + outside / ratio) / n_values
        logs = n_columns * np.sum(np.log(variance)) + n_outside * np.log(ratio)
        costs.append(logs + n_values * np.log(max(power, np.finfo(float).tiny)))
    return float(_NOISE_RATIOS[int(np.argmin(costs))])
