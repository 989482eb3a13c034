"""MUSIC coarse stage: peaks of the location pseudo-spectrum by a multi-resolution search.

docs/theory.md, section 7.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from isac_toolbox.channel.atoms.scene import Scene
from isac_toolbox.estimators.music import MusicModel

__all__ = ["music_points", "music_scene"]

RealArray = NDArray[np.float64]

# Tuned: floor of the pseudo-spectrum on the coarse grid; high, so that peaks are as broad as its steps.
_COARSE_FLOOR = 0.3
# Tuned: floor at the finest level.
_FINE_FLOOR = 1e-2
# Tuned: share of a user's subspace that an atom must have for its peak to count.
_KEPT_SHARE = 0.5
# Tuned: halvings of the grid step, to 1/64 of it.
_LEVELS = 6
# Cost cap: candidates kept, the highest.
_MAX_POINTS = 60
# Cost cap: points of the coarse grid; beyond, its steps grow.
_MAX_GRID_POINTS = 200_000


def music_scene(model: MusicModel, region_m: RealArray) -> Scene:
    """Return the scene of the spectrum's peaks, clocks from the lines of sight, users as nominal."""
    points = music_points(model, region_m)
    return Scene(points, model.user_positions_m, model.offsets_m, np.zeros((0, 3)))


def music_points(model: MusicModel, region_m: RealArray) -> RealArray:
    """Return the peaks (S, 3) of the location spectrum in a box, highest first.

    A grid of half the delay resolution (coarser in a large region) with broad peaks, by a high floor, gives
    the local maxima; each is then followed to finer steps with ever sharper peaks. Peaks that run into one
    another are one.
    """
    extent = region_m[1] - region_m[0]
    step = max(model.length_cell_m / 2, float(np.cbrt(np.prod(extent) / _MAX_GRID_POINTS)))
    grid, shape = _grid(region_m, step)
    values = model.location_spectrum(grid, _COARSE_FLOOR)
    peaks = grid[_local_maxima(values.reshape(shape)).ravel()]
    if not len(peaks):
        return peaks
    floors = np.geomspace(_COARSE_FLOOR, _FINE_FLOOR, _LEVELS)
    for floor in floors:
        step /= 2
        peaks = _climb(model, peaks, step, float(floor), region_m)
    heights = model.location_spectrum(peaks, _FINE_FLOOR)
    order = np.argsort(-heights, kind="stable")
    chosen = _apart(peaks[order], 0.5 * model.length_cell_m)
    least = np.log((1 + _FINE_FLOOR) / (1 - _KEPT_SHARE + _FINE_FLOOR))
    kept = heights[order][chosen] > least
    return peaks[order][chosen][kept][:_MAX_POINTS]


def _grid(region_m: RealArray, step_m: float) -> tuple[RealArray, tuple[int, ...]]:
    axes = [np.linspace(a, b, max(int(np.ceil((b - a) / step_m)), 1) + 1) for a, b in region_m.T]
    mesh = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1)
    return mesh.reshape(-1, 3), mesh.shape[:3]


def _local_maxima(values: RealArray) -> NDArray[np.bool_]:
    """Grid points not below any of their six neighbours."""
    maxima = values > 0
    for axis in range(values.ndim):
        padded = np.pad(
            values, [(1, 1) if a == axis else (0, 0) for a in range(values.ndim)], constant_values=-1
        )
        length = values.shape[axis]
        maxima &= values >= np.take(padded, np.arange(length), axis)
        maxima &= values >= np.take(padded, np.arange(2, length + 2), axis)
    return maxima


def _climb(
    model: MusicModel, points: RealArray, step_m: float, floor: float, region_m: RealArray
) -> RealArray:
    """Move every point to the best of its 27 neighbours, twice."""
    offsets = step_m * (np.stack(np.meshgrid(*[[-1, 0, 1]] * 3, indexing="ij"), axis=-1).reshape(-1, 3))
    for _ in range(2):
        around = np.clip(points[:, None] + offsets, region_m[0], region_m[1])
        values = model.location_spectrum(around.reshape(-1, 3), floor).reshape(len(points), -1)
        points = around[np.arange(len(points)), np.argmax(values, axis=1)]
    return points


def _apart(points: RealArray, separation_m: float) -> NDArray[np.int64]:
    """Indices of points, in order, that are at least ``separation_m`` from all kept before."""
    kept: list[int] = []
    for i, point in enumerate(points):
        if not kept or np.min(np.linalg.norm(points[kept] - point, axis=1)) >= separation_m:
            kept.append(i)
    return np.array(kept, dtype=np.int64)
