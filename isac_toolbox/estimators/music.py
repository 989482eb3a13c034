"""MUSIC over direction and delay, evaluated on locations (docs/theory.md, section 7).

The pilot channel of every user is smoothed over subarrays, subcarrier windows and polyphase components,
forward and backward; its dominant eigenvectors span the signal subspace. A location's pseudo-spectrum adds
``-ln(1 - share)`` over users, the share being that of its atom inside a user's subspace.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import ArrayLike, NDArray

from isac_toolbox._validation import as_array, check_finite, check_positive
from isac_toolbox.channel.array import SPEED_OF_LIGHT_M_S, UniformPlanarArray
from isac_toolbox.channel.geometry import unit_vectors
from isac_toolbox.channel.observation import Geometry, UplinkObservation
from isac_toolbox.estimators._music_kernel import real_basis, subspace_shares
from isac_toolbox.estimators.even_grid import EvenGrid, even_channel
from isac_toolbox.estimators.symbols.block import ReceivedBlock
from isac_toolbox.estimators.symbols.statistics import (
    least_squares_channel,
    pilot_statistics,
    sounded_entries,
)

__all__ = ["MusicModel", "music_spectrum"]

RealArray = NDArray[np.float64]
ComplexArray = NDArray[np.complex128]

# Tuned: side of a subarray, of the array.
_SUBARRAY_SHARE = 0.75
# Tuned: width of a window, of the subcarriers.
_WINDOW_SHARE = 0.5
# Cost cap: windows over the subcarriers.
_WINDOW_STEPS = 8
# Cost cap: steps of subarrays along an axis.
_SUBARRAY_STEPS = 2
# Tuned: unambiguous delay kept by decimation, in spans of the possible delays.
_DELAY_GUARD = 1.5
# Cost cap: dimensions of a signal subspace.
_MAX_ORDER = 24
# Cost cap: locations evaluated at a time, so that a block stays in the cache.
_BLOCK_POINTS = 128
# Tuned: step of the scan for a clock offset, in resolution cells.
_LINE_OF_SIGHT_CELLS = 0.35
# Tuned: half width of that scan, in deviations of the clock.
_OFFSET_SCAN_STDS = 4.0


@dataclass(frozen=True, eq=False)
class MusicModel:
    """Signal subspaces of all users on a common subarray and subcarrier window.

    Attributes
    ----------
    array : UniformPlanarArray
        The subarray.
    wavenumbers_per_m : ndarray, shape (W,)
        ``2 pi f / c`` of the window's subcarriers.
    subspaces : tuple of ndarray of complex, each (W, M_sub, r_k)
        Orthonormal bases.
    bs_position_m, user_positions_m : ndarray, shape (3,), (K, 3)
    offsets_m : ndarray, shape (K,)
        Clock offsets read off the line of sight.
    length_cell_m : float
    """

    array: UniformPlanarArray
    wavenumbers_per_m: RealArray
    subspaces: tuple[ComplexArray, ...]
    bs_position_m: RealArray
    user_positions_m: RealArray
    offsets_m: RealArray
    length_cell_m: float

    @classmethod
    def from_observation(cls, obs: UplinkObservation) -> MusicModel:
        """Find subspaces and clock offsets from the pilots of a block.

        Raises
        ------
        ValueError
            If places are not given, or the array is no planar one.
        """
        if not isinstance(obs.array, UniformPlanarArray):
            raise ValueError(
                f"array must be a UniformPlanarArray for MUSIC, got {type(obs.array).__name__}; use the NOMP "
                "coarse stage"
            )
        places = obs.geometry_for("MUSIC")
        subarray = tuple(max(int(np.ceil(_SUBARRAY_SHARE * n)), 1) for n in obs.array.shape)
        shortest, longest = _length_limits(places)
        span = float(longest.max() - shortest.min())
        grid = EvenGrid.of(obs.subcarrier_frequencies_hz, span)
        decimation = _decimation(grid, span)
        n_decimated = grid.frequencies_hz.size // decimation
        window = max(int(_WINDOW_SHARE * n_decimated), 2)
        step = max((n_decimated - window) // max(_WINDOW_STEPS // decimation, 2), 1)
        subspaces = tuple(
            _signal_subspace(
                _snapshots(h.reshape(-1, *obs.array.shape), subarray, decimation, window, step)
            ).reshape(window, subarray[0] * subarray[1], -1)
            for h in _channels_on_grid(obs, grid, shortest, longest)
        )
        used = decimation * np.arange(window) * grid.step_hz
        model = cls(
            array=UniformPlanarArray(
                (subarray[0], subarray[1]),
                obs.array.spacings,
                obs.array.azimuth_rad,
                obs.array.elevation_rad,
            ),
            wavenumbers_per_m=2 * np.pi * (used - used.mean()) / SPEED_OF_LIGHT_M_S,
            subspaces=subspaces,
            bs_position_m=places.bs_position_m,
            user_positions_m=places.user_positions_m,
            offsets_m=np.zeros(obs.n_users),
            length_cell_m=SPEED_OF_LIGHT_M_S / (grid.frequencies_hz.size * grid.step_hz),
        )
        return model._with_offsets(SPEED_OF_LIGHT_M_S * obs.time_offset_stds_s)

    def _with_offsets(self, stds_m: RealArray) -> MusicModel:
        """Clock offsets by a scan of the line of sight's delay along each user's nominal direction."""
        direction, distance = unit_vectors(self.bs_position_m, self.user_positions_m)
        offsets = np.zeros(len(stds_m))
        for k, std in enumerate(stds_m):
            if std == 0:
                continue
            span = _OFFSET_SCAN_STDS * std
            scan = np.arange(-span, span, self.length_cell_m / 16)
            share = self.projection(k, distance[k] + scan, np.broadcast_to(direction[k], (scan.size, 3)))
            prior = -0.5 * (scan / std) ** 2
            offsets[k] = scan[np.argmax(prior - np.log(np.maximum(1 - share, 1e-3)))]
        return MusicModel(
            self.array,
            self.wavenumbers_per_m,
            self.subspaces,
            self.bs_position_m,
            self.user_positions_m,
            offsets,
            self.length_cell_m,
        )

    def projection(self, user: int, lengths_m: RealArray, directions: RealArray) -> RealArray:
        """Return the share of atoms (P,) inside a user's subspace, in [0, 1].

        Evaluated in blocks of points by matrix products, so memory does not grow with their number.
        """
        basis = self.subspaces[user]
        n_window, n_sub, order = basis.shape
        flat = np.ascontiguousarray(basis.conj().transpose(1, 0, 2)).reshape(n_sub, n_window * order)
        slopes = [2 * np.pi * spacing for spacing in self.array.spacings]
        cosines = np.stack(self.array.direction_cosines(directions))
        share = subspace_shares(
            cosines,
            np.asarray(lengths_m, dtype=np.float64),
            real_basis(flat),
            self.wavenumbers_per_m,
            self.array.shape,
            (slopes[0], slopes[1]),
            _BLOCK_POINTS,
        )
        return np.minimum(share / (n_sub * n_window), 1.0)

    def location_spectrum(self, points_m: RealArray, floor: float) -> RealArray:
        """Return ``sum_k ln((1 + floor) / (1 - share_k + floor))`` at points (P, 3), shape (P,).

        A user does not vote where the point's path is hardly longer than its line of sight.
        """
        direction, to_bs = unit_vectors(self.bs_position_m, points_m)
        total = np.zeros(len(points_m))
        for k, user in enumerate(self.user_positions_m):
            to_user = np.linalg.norm(points_m - user, axis=1)
            excess = to_user + to_bs - np.linalg.norm(user - self.bs_position_m)
            votes = excess > _LINE_OF_SIGHT_CELLS * self.length_cell_m
            lengths = to_user[votes] + to_bs[votes] + self.offsets_m[k]
            share = self.projection(k, lengths, direction[votes])
            total[votes] += np.log((1 + floor) / (1 - share + floor))
        return total


def music_spectrum(obs: UplinkObservation, points_m: ArrayLike, *, floor: float = 1e-2) -> RealArray:
    """Return the MUSIC location pseudo-spectrum of a block at given points.

    Parameters
    ----------
    obs : UplinkObservation
    points_m : array_like, shape (..., 3)
    floor : float
        Limits the height of a peak; the larger, the broader the peaks.

    Returns
    -------
    ndarray, shape (...,)
        ``sum over users of ln((1 + floor) / (1 - share + floor))``, never negative. A linear array sees one
        direction cosine: a path then gives a ridge, along all points of its cone and length.

    Raises
    ------
    ValueError
        For points of another shape.
    """
    points = as_array("points_m", points_m, float)
    if points.ndim == 0 or points.shape[-1] != 3:
        raise ValueError(f"points_m must have shape (..., 3), got {points.shape}")
    check_finite("points_m", points)
    check_positive("floor", floor)
    values = MusicModel.from_observation(obs).location_spectrum(points.reshape(-1, 3), floor)
    return values.reshape(points.shape[:-1])


def _length_limits(places: Geometry) -> tuple[RealArray, RealArray]:
    """Line of sight of every user, and its longest path through the region, shapes (K,)."""
    corners = np.stack(np.meshgrid(*places.region_m.T, indexing="ij"), axis=-1).reshape(-1, 3)
    to_bs = np.linalg.norm(corners - places.bs_position_m, axis=1)
    to_user = np.linalg.norm(corners[:, None] - places.user_positions_m, axis=2)
    direct = np.linalg.norm(places.user_positions_m - places.bs_position_m, axis=1)
    return direct, np.max(to_bs[:, None] + to_user, axis=0)


def _channels_on_grid(
    obs: UplinkObservation, grid: EvenGrid, shortest_m: RealArray, longest_m: RealArray
) -> list[ComplexArray]:
    """Least-squares channels of all users on an even grid, each (G, M), by the limits of their lengths."""
    frequencies = obs.subcarrier_frequencies_hz
    statistics = pilot_statistics(ReceivedBlock.of(obs))
    channel = least_squares_channel(statistics, frequencies)
    sounded: NDArray[np.bool_] = np.asarray(sounded_entries(statistics).any(axis=2))
    margin = _OFFSET_SCAN_STDS * SPEED_OF_LIGHT_M_S * obs.time_offset_stds_s
    windows = zip(shortest_m - margin, longest_m + margin, strict=True)
    return [
        even_channel(h, frequencies, tones, grid, window)
        for h, tones, window in zip(channel, sounded, windows, strict=True)
    ]


def _decimation(grid: EvenGrid, span_m: float) -> int:
    """Largest decimation of the subcarriers that leaves all delays from the region unambiguous."""
    unambiguous = SPEED_OF_LIGHT_M_S / grid.step_hz
    largest = grid.frequencies_hz.size // 16
    return max(1, min(int(unambiguous / (_DELAY_GUARD * span_m)), largest))


def _snapshots(
    channel: ComplexArray, subarray: tuple[int, ...], decimation: int, window: int, step: int
) -> ComplexArray:
    """Smoothed snapshots of a channel (N, M_h, M_v), forward and backward, shape (W * M_sub, snapshots)."""
    columns = []
    strides = [max((n - m) // _SUBARRAY_STEPS, 1) for n, m in zip(channel.shape[1:], subarray, strict=True)]
    for phase in range(decimation):
        comb = channel[phase::decimation]
        if comb.shape[0] < window:
            continue
        views = sliding_window_view(comb, (window, *subarray))[::step, :: strides[0], :: strides[1]]
        columns.append(views.reshape(-1, window * subarray[0] * subarray[1]))
    forward = np.concatenate(columns).T
    return np.concatenate([forward, forward[::-1].conj()], axis=1)


def _signal_subspace(snapshots: ComplexArray) -> ComplexArray:
    """Dominant left singular vectors (W * M_sub, r), with the order by minimum description length."""
    n_rows = snapshots.shape[0]
    values, vectors = np.linalg.eigh(snapshots.conj().T @ snapshots)
    rank = min(snapshots.shape)
    values, vectors = values[::-1][:rank], vectors[:, ::-1][:, :rank]
    order = _description_length_order(np.maximum(values, values[0] * 1e-15), n_rows)
    return snapshots @ (vectors[:, :order] / np.sqrt(values[:order]))


def _description_length_order(eigenvalues: RealArray, n_samples: int) -> int:
    """Order, at least one, of least description length (Wax and Kailath, IEEE TASSP 1985).

    The eigenvalues are those of the small Gram of snapshots, so a snapshot's length counts as samples.
    """
    size = eigenvalues.size
    largest = min(_MAX_ORDER, size - 1)
    logs = np.log(eigenvalues)
    costs = []
    for order in range(largest + 1):
        rest = eigenvalues[order:]
        likelihood = n_samples * rest.size * (np.log(rest.mean()) - logs[order:].mean())
        costs.append(likelihood + 0.5 * order * (2 * size - order) * np.log(n_samples))
    return max(int(np.argmin(costs)), 1)
