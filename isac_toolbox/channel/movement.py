"""What moves and turns in a simulation, and what is known of it beforehand."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from isac_toolbox.channel.cdl import cdl_dopplers
from isac_toolbox.channel.doppler import Turning, fill_dopplers, velocities_of
from isac_toolbox.channel.environment import Environment

__all__ = [
    "MovementSettings",
    "draw_turning",
    "draw_velocities",
    "motion_priors",
    "moves",
    "moving_environment",
    "turning_of",
]

RealArray = NDArray[np.float64]
Speed = float | tuple[float, float]


class MovementSettings(Protocol):
    """What the drawing of motion needs to know; :class:`isac_toolbox.Scenario` has it."""

    @property
    def carrier_hz(self) -> float: ...
    @property
    def user_speed_m_s(self) -> Speed: ...
    @property
    def scatterer_speed_m_s(self) -> Speed: ...
    @property
    def moving_share(self) -> float: ...
    @property
    def frequency_offset_std_hz(self) -> float: ...
    @property
    def phase_noise_std_rad(self) -> float: ...
    @property
    def user_phase_noise_std_rad(self) -> float: ...
    @property
    def cdl(self) -> str | None: ...
    @property
    def link(self) -> str: ...
    @property
    def has_times(self) -> bool: ...
    @property
    def user_velocity_std_m_s(self) -> float | tuple[float, float, float] | None: ...
    @property
    def scatterer_velocity_std_m_s(self) -> float | None: ...


def moves(value: Any) -> bool:
    """Whether a speed, velocities or Doppler shifts are given and not all zero."""
    return value is not None and bool(np.any(value))


def moving_environment(
    settings: MovementSettings, scene: Environment, rng: np.random.Generator
) -> Environment:
    """Return the environment with velocities and Doppler shifts, itself where nothing moves.

    Raises
    ------
    ValueError
        If a given environment moves, but it is not known when symbols are.
    """
    drawn = moves(settings.user_speed_m_s) or (moves(settings.scatterer_speed_m_s) and settings.moving_share)
    given = (scene.user_velocities_m_s, scene.scatterer_velocities_m_s, scene.extra_doppler_hz)
    if not drawn and not any(map(moves, (*given, scene.rays.doppler_hz))):
        return scene
    if not settings.has_times:
        raise ValueError("environment moves: numerology or symbol_period_s must say when symbols are")
    moving = draw_velocities(settings, scene, rng)
    if settings.cdl is not None and scene.name == settings.cdl and scene.rays.doppler_hz is None:
        moving = cdl_dopplers(settings.cdl, moving, settings.carrier_hz, rng)
    return fill_dopplers(settings.carrier_hz, moving, rng)


def draw_velocities(
    settings: MovementSettings, environment: Environment, rng: np.random.Generator
) -> Environment:
    """Give users and scatterers the velocities that they lack.

    Speeds are uniform between their limits, directions uniform in the horizontal plane; a scatterer moves
    with the probability ``moving_share``.
    """
    users, points = environment.user_velocities_m_s, environment.scatterer_velocities_m_s
    drawn_users = _horizontal(settings.user_speed_m_s, environment.n_users, rng)
    drawn_points = _horizontal(settings.scatterer_speed_m_s, len(environment.scatterer_positions_m), rng)
    drawn_points *= rng.random((len(drawn_points), 1)) < settings.moving_share
    return replace(
        environment,
        user_velocities_m_s=drawn_users if users is None else users,
        scatterer_velocities_m_s=drawn_points if points is None else points,
    )


def _horizontal(speed: Speed, count: int, rng: np.random.Generator) -> RealArray:
    """Draw velocities (count, 3)."""
    low, high = (speed, speed) if isinstance(speed, (int, float)) else speed
    speeds, angle = rng.uniform(low, high, count), 2 * np.pi * rng.random(count)
    return np.stack([speeds * np.cos(angle), speeds * np.sin(angle), np.zeros(count)], axis=-1)


def turning_of(
    settings: MovementSettings, scene: Environment, times_s: RealArray | None, rng: np.random.Generator
) -> Turning | None:
    """Return frequency offsets and phases over symbols at these times (T,); None for a static block."""
    turns = (
        settings.frequency_offset_std_hz,
        settings.phase_noise_std_rad,
        settings.user_phase_noise_std_rad,
    )
    if times_s is None or (scene.user_velocities_m_s is None and not any(turns)):
        return None
    return draw_turning(settings, times_s, scene.n_users, rng)


def draw_turning(
    settings: MovementSettings, times_s: RealArray, n_users: int, rng: np.random.Generator
) -> Turning:
    """Draw frequency offsets and the phases of all oscillators over symbols at these times (T,)."""
    offsets = settings.frequency_offset_std_hz * rng.standard_normal(n_users)
    gaps = np.diff(times_s)
    scale = np.sqrt(gaps / np.min(gaps, initial=np.inf)) if gaps.size else gaps
    steps = scale * rng.standard_normal((1 + n_users, gaps.size))
    walks = np.concatenate([np.zeros((1 + n_users, 1)), np.cumsum(steps, axis=1)], axis=1)
    walks -= walks.mean(axis=1, keepdims=True)
    return Turning(
        times_s=times_s - np.mean(times_s),
        frequency_offsets_hz=offsets,
        symbol_phase_rad=settings.phase_noise_std_rad * walks[0],
        user_symbol_phase_rad=settings.user_phase_noise_std_rad * walks[1:],
    )


def motion_priors(
    settings: MovementSettings, scene: Environment, times_s: RealArray | None
) -> dict[str, Any]:
    """Return what an observation says of motion and oscillators beforehand, as its fields."""
    if times_s is None:
        return {}
    deviations = {
        "frequency_offset_std_hz": settings.frequency_offset_std_hz,
        "phase_noise_std_rad": settings.phase_noise_std_rad,
        "user_phase_noise_std_rad": settings.user_phase_noise_std_rad,
        "user_velocity_std_m_s": _user_velocity_std(settings, scene),
        "scatterer_velocity_std_m_s": _scatterer_velocity_std(settings, scene),
    }
    given = {name: np.asarray(value) for name, value in deviations.items() if np.any(value)}
    return {"symbol_times_s": times_s, **given}


def _user_velocity_std(settings: MovementSettings, scene: Environment) -> Any:
    """As given, or of the speeds, horizontal; of an environment's own velocities along every axis."""
    if settings.user_velocity_std_m_s is not None or settings.link == "monostatic":
        return settings.user_velocity_std_m_s or 0.0
    if moves(settings.user_speed_m_s) or scene.user_velocities_m_s is None:
        return _rms_speed(settings.user_speed_m_s) / np.sqrt(2) * np.array([1.0, 1.0, 0.0])
    return np.sqrt(np.mean(scene.user_velocities_m_s**2, axis=0))


def _scatterer_velocity_std(settings: MovementSettings, scene: Environment) -> float:
    """As given, or of the horizontal speed of those that move; one number for all axes."""
    if settings.scatterer_velocity_std_m_s is not None:
        return settings.scatterer_velocity_std_m_s
    if moves(settings.scatterer_speed_m_s):
        return float(_rms_speed(settings.scatterer_speed_m_s) / np.sqrt(2) * (settings.moving_share > 0))
    velocities = velocities_of(scene)[1]
    moving = velocities[np.any(velocities != 0, axis=1)]
    return float(np.sqrt(np.sum(moving**2) / max(2 * len(moving), 1)))


def _rms_speed(speed: Speed) -> float:
    """Return the root mean square of a speed, or of one uniform between two."""
    low, high = (speed, speed) if isinstance(speed, (int, float)) else speed
    return float(np.sqrt((low * low + low * high + high * high) / 3))
