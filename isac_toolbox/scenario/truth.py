"""What a simulation returns: an observation, and the truth behind it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from isac_toolbox.channel.array import UniformPlanarArray
from isac_toolbox.channel.doppler import Turning, path_dopplers, velocities_of
from isac_toolbox.channel.environment import Environment
from isac_toolbox.channel.evolution import check_symbol_indices
from isac_toolbox.channel.observation import UplinkObservation
from isac_toolbox.channel.paths import UnlocatedPaths
from isac_toolbox.channel.rays import Rays
from isac_toolbox.channel.uplink import Block

__all__ = ["Simulation", "Truth", "truth_of", "with_diffuse", "with_motion"]


@dataclass(frozen=True, eq=False)
class Truth:
    """What the simulation knows and no estimator sees.

    Attributes
    ----------
    channel : ndarray of complex, shape (K, N, M)
        Of a block with motion at the reference time, the mean of the symbols' times.
    scatterer_positions_m : ndarray, shape (S, 3)
        Only scatterers that some user sees; centres, where they are bodies.
    visibility : ndarray of bool, shape (K, S)
    user_positions_m : ndarray, shape (K, 3)
    time_offsets_s : ndarray, shape (K,)
    symbols : ndarray of complex, shape (K, N, T)
    symbol_indices : ndarray of int, shape (K, N, T)
        -1 at pilots.
    noise_variance : float
    line_of_sight : ndarray of bool, shape (K,)
    line_of_sight_gain : ndarray of complex, shape (K,)
    scatterer_gain : ndarray of complex, shape (K, S)
        Of a body the sum over its rays.
    unlocated_paths : UnlocatedPaths
        Paths with more than one bounce.
    environment : Environment
        As drawn or given: before bodies, clusters and a diffuse tail are added.
    rays : UnlocatedPaths
        Rays of clusters, which count neither as scatterers nor as unlocated paths.
    diffuse_channel : ndarray of complex, shape (K, N, M), or None
        What of ``channel`` the line of sight, the scatterers and the unlocated paths do not make up: rays,
        the extent of bodies, a diffuse tail. None without any.
    user_velocities_m_s, scatterer_velocities_m_s : ndarray, shape (K, 3) and (S, 3)
    frequency_offsets_hz : ndarray, shape (K,)
    symbol_phase_rad : ndarray, shape (T,)
        Phase of the station's oscillator over the symbols, of mean zero.
    user_symbol_phase_rad : ndarray, shape (K, T)
        Phases of the users' oscillators, each of mean zero.
    channel_over_time : ndarray of complex, shape (K, N, M, T), or None
        With motion and phases; None for a static block. :meth:`channel_at` has it for any block.
    element_response : ndarray of complex, shape (M,)
        Gain and phase of every element, zero for dead ones. It is part of all channels, and so are the next
        three; gains of paths are those before.
    array_rotation_rad : ndarray, shape (3,)
        Rotation of the array off its stated orientation about its own axes: boresight, horizontal, vertical.
    element_displacements_m : ndarray, shape (M, 3)
        Of the elements off their places, along the same axes.
    coupling_matrix : ndarray of complex, shape (M, M), or None
        What every element hears of the others; None without coupling.
    noise_covariance : ndarray, shape (M, M), or None
        Shape of the noise, of trace M and without interferers; None where it is white.
    interferer_directions : ndarray, shape (I, 3)
        Unit vectors towards the interferers, world frame.
    interference_covariance : ndarray of complex, shape (M, M), or None
        Of all interferers together over the elements, mean over the band; None without any.
    """

    channel: NDArray[np.complex128]
    scatterer_positions_m: NDArray[np.float64]
    visibility: NDArray[np.bool_]
    user_positions_m: NDArray[np.float64]
    time_offsets_s: NDArray[np.float64]
    symbols: NDArray[np.complex128]
    symbol_indices: NDArray[np.int64]
    noise_variance: float
    line_of_sight: NDArray[np.bool_]
    line_of_sight_gain: NDArray[np.complex128]
    scatterer_gain: NDArray[np.complex128]
    unlocated_paths: UnlocatedPaths
    environment: Environment
    rays: UnlocatedPaths = field(default_factory=UnlocatedPaths.none)
    diffuse_channel: NDArray[np.complex128] | None = None
    user_velocities_m_s: NDArray[np.float64] = field(default_factory=lambda: np.zeros((0, 3)))
    scatterer_velocities_m_s: NDArray[np.float64] = field(default_factory=lambda: np.zeros((0, 3)))
    frequency_offsets_hz: NDArray[np.float64] = field(default_factory=lambda: np.zeros(0))
    symbol_phase_rad: NDArray[np.float64] = field(default_factory=lambda: np.zeros(0))
    user_symbol_phase_rad: NDArray[np.float64] = field(default_factory=lambda: np.zeros((0, 0)))
    channel_over_time: NDArray[np.complex128] | None = None
    element_response: NDArray[np.complex128] = field(default_factory=lambda: np.zeros(0, complex))
    array_rotation_rad: NDArray[np.float64] = field(default_factory=lambda: np.zeros(3))
    element_displacements_m: NDArray[np.float64] = field(default_factory=lambda: np.zeros((0, 3)))
    coupling_matrix: NDArray[np.complex128] | None = None
    noise_covariance: NDArray[np.float64] | None = None
    interferer_directions: NDArray[np.float64] = field(default_factory=lambda: np.zeros((0, 3)))
    interference_covariance: NDArray[np.complex128] | None = None

    def channel_at(self, symbols: Sequence[int]) -> NDArray[np.complex128]:
        """Return the channel at OFDM symbols, motion and phases included, shape (K, N, M, len(symbols)).

        Raises
        ------
        TypeError, ValueError
            If they are no indices of symbols.
        """
        index = check_symbol_indices(symbols, self.symbols.shape[2])
        if self.channel_over_time is None:
            return np.repeat(self.channel[..., None], index.size, axis=3)
        return self.channel_over_time[..., index]


@dataclass(frozen=True, eq=False)
class Simulation:
    """An observation and the truth behind it."""

    observation: UplinkObservation
    truth: Truth


def truth_of(
    listed: Environment,
    array: UniformPlanarArray,
    channel: NDArray[np.complex128],
    scale: NDArray[np.float64],
    offsets_s: NDArray[np.float64],
    block: Block,
    noise_variance: float,
) -> Truth:
    """Return the truth of a block at rest; ``scale`` (K,) is what the users' amplitudes are set by."""
    unlocated = UnlocatedPaths(
        user=listed.extra_user,
        direction_cosines=np.stack(array.direction_cosines(listed.extra_direction), axis=-1),
        delay_s=listed.extra_delay_s,
        gain=listed.extra_gain * scale[listed.extra_user],
        probability=np.ones(listed.extra_user.size),
    )
    return Truth(
        channel=channel,
        scatterer_positions_m=listed.scatterer_positions_m,
        visibility=listed.scatterer_gain != 0,
        user_positions_m=listed.user_positions_m,
        time_offsets_s=offsets_s,
        symbols=block.symbols,
        symbol_indices=block.indices,
        noise_variance=noise_variance,
        line_of_sight=listed.line_of_sight_gain != 0,
        line_of_sight_gain=listed.line_of_sight_gain * scale,
        scatterer_gain=listed.scatterer_gain * scale[:, None],
        unlocated_paths=unlocated,
        environment=listed,
    )


def with_motion(
    truth: Truth,
    listed: Environment,
    carrier_hz: float,
    turning: Turning | None,
    over_time: NDArray[np.complex128] | None,
) -> Truth:
    """Return the truth with what it says of motion and oscillators, zeros of a static block."""
    n_users, n_symbols = truth.symbols.shape[0], truth.symbols.shape[2]
    users_m_s, points_m_s = velocities_of(listed)
    if turning is None:
        turning = Turning(
            np.zeros(n_symbols), np.zeros(n_users), np.zeros(n_symbols), np.zeros((n_users, n_symbols))
        )
    unlocated = truth.unlocated_paths
    if over_time is not None:
        unlocated = replace(unlocated, doppler_hz=path_dopplers(listed, carrier_hz).extra)
    return replace(
        truth,
        unlocated_paths=unlocated,
        user_velocities_m_s=users_m_s,
        scatterer_velocities_m_s=points_m_s,
        frequency_offsets_hz=turning.frequency_offsets_hz,
        symbol_phase_rad=turning.symbol_phase_rad,
        user_symbol_phase_rad=turning.user_symbol_phase_rad,
        channel_over_time=over_time,
    )


def with_diffuse(
    truth: Truth,
    scene: Environment,
    rays: Rays,
    array: UniformPlanarArray,
    scale: NDArray[np.float64],
    diffuse: NDArray[np.complex128],
) -> Truth:
    """Return the truth with what of the channel it does not list; ``scene`` is as drawn or given."""
    return replace(
        truth,
        visibility=scene.scatterer_gain != 0,
        environment=scene,
        rays=_ray_paths(rays, array, scale),
        diffuse_channel=diffuse * scale[:, None, None],
    )


def _ray_paths(rays: Rays, array: UniformPlanarArray, scale: NDArray[np.float64]) -> UnlocatedPaths:
    """Return the rays as the array sees them, gains scaled like the channel."""
    return UnlocatedPaths(
        user=rays.user,
        direction_cosines=np.stack(array.direction_cosines(rays.direction), axis=-1),
        delay_s=rays.delay_s,
        gain=rays.gain * scale[rays.user],
        probability=np.ones(len(rays)),
    )
