"""From one simulated block to the next (docs/theory.md, section 11.1)."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from isac_toolbox.channel.array import SPEED_OF_LIGHT_M_S
from isac_toolbox.channel.doppler import path_dopplers, velocities_of
from isac_toolbox.channel.environment import Environment
from isac_toolbox.channel.geometry import bistatic_delays_s, line_of_sight_delays_s
from isac_toolbox.channel.process import ConstantVelocity

__all__ = ["UserErrors", "next_block"]

RealArray = NDArray[np.float64]
ComplexArray = NDArray[np.complex128]


@dataclass(frozen=True, eq=False)
class UserErrors:
    """What is not known of users.

    Attributes
    ----------
    position_m : ndarray, shape (K, 3)
        Errors of the nominal positions.
    clock_s : ndarray, shape (K,)
    frequency_offsets_hz : ndarray, shape (K,), optional
        Drawn by the block if not given.
    """

    position_m: RealArray
    clock_s: RealArray
    frequency_offsets_hz: RealArray | None = None


def next_block(
    scene: Environment,
    errors: UserErrors,
    interval_s: float,
    process: ConstantVelocity | None,
    carrier_hz: float,
    rng: np.random.Generator,
) -> tuple[Environment, UserErrors]:
    """Return scene and users' errors an interval later.

    Without a process velocities, clocks and carriers stay as they are. Accelerations are horizontal, and of
    those alone that move.
    """
    process = ConstantVelocity(np.zeros(3), np.zeros(3), 0.0, 0.0) if process is None else process
    users_m_s, points_m_s = velocities_of(scene)
    n_users, root = scene.n_users, np.sqrt(interval_s)
    pushed = _pushes(users_m_s, process.user_acceleration_std_m_s2, rng)
    shaken = _pushes(points_m_s, process.scatterer_acceleration_std_m_s2, rng)
    clocks = errors.clock_s + process.clock_drift_std_s * root * rng.standard_normal(n_users)
    offsets = errors.frequency_offsets_hz
    walked = process.offset_drift_std_hz * root * rng.standard_normal(n_users)
    users_m = scene.user_positions_m + interval_s * (users_m_s + interval_s / 2 * pushed)
    points_m = scene.scatterer_positions_m + interval_s * (points_m_s + interval_s / 2 * shaken)
    moved = replace(scene, user_positions_m=users_m, scatterer_positions_m=points_m)
    if scene.user_velocities_m_s is not None or scene.scatterer_velocities_m_s is not None:
        moved = replace(
            moved,
            user_velocities_m_s=users_m_s + interval_s * pushed,
            scatterer_velocities_m_s=points_m_s + interval_s * shaken,
        )
    after = _with_gains(scene, moved, interval_s, carrier_hz)
    return after, UserErrors(errors.position_m, clocks, None if offsets is None else offsets + walked)


def _pushes(velocities_m_s: RealArray, std_m_s2: RealArray, rng: np.random.Generator) -> RealArray:
    """Horizontal accelerations (n, 3) of those that move."""
    drawn = rng.standard_normal(velocities_m_s.shape) * std_m_s2 * np.array([1.0, 1.0, 0.0])
    return np.where(np.any(velocities_m_s != 0, axis=1, keepdims=True), drawn, 0.0)


def _with_gains(before: Environment, after: Environment, interval_s: float, carrier_hz: float) -> Environment:
    """The later environment with amplitudes and phases of its path lengths."""
    bs = before.bs_position_m

    def gone_on(gain: ComplexArray, old_s: RealArray, new_s: RealArray) -> ComplexArray:
        nearest_s = 1e-3 / SPEED_OF_LIGHT_M_S
        amplitude = np.maximum(old_s, nearest_s) / np.maximum(new_s, nearest_s)
        return np.asarray(gain * amplitude * np.exp(-2j * np.pi * carrier_hz * (new_s - old_s)))

    both = (before, after)
    sights = [line_of_sight_delays_s(scene.user_positions_m, bs) for scene in both]
    points = [bistatic_delays_s(scene.user_positions_m, scene.scatterer_positions_m, bs) for scene in both]
    shifts = path_dopplers(before, carrier_hz)
    rays = before.rays
    return replace(
        after,
        line_of_sight_gain=gone_on(before.line_of_sight_gain, *sights),
        scatterer_gain=gone_on(before.scatterer_gain, *points),
        extra_gain=before.extra_gain * np.exp(2j * np.pi * shifts.extra * interval_s),
        rays=replace(rays, gain=rays.gain * np.exp(2j * np.pi * shifts.rays * interval_s)),
    )
