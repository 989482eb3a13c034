"""Doppler shifts of an environment's paths, and what else turns from symbol to symbol."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from isac_toolbox.channel.array import SPEED_OF_LIGHT_M_S
from isac_toolbox.channel.environment import Environment
from isac_toolbox.channel.geometry import unit_vectors

__all__ = [
    "PathDopplers",
    "Turning",
    "draw_diffuse_dopplers",
    "fill_dopplers",
    "interference_power",
    "path_dopplers",
    "velocities_of",
]

RealArray = NDArray[np.float64]
ComplexArray = NDArray[np.complex128]


class PathDopplers(NamedTuple):
    """Doppler shifts in Hz: lines of sight (K,), scatterers (K, S), further paths (P,), rays (R,)."""

    line_of_sight: RealArray
    scatterer: RealArray
    extra: RealArray
    rays: RealArray


@dataclass(frozen=True, eq=False)
class Turning:
    """What turns all paths of a user alike.

    Attributes
    ----------
    times_s : ndarray, shape (T,)
        Centres of the symbols, relative to their mean.
    frequency_offsets_hz : ndarray, shape (K,)
    symbol_phase_rad : ndarray, shape (T,)
        Phase of the station's oscillator, of mean zero over the block.
    user_symbol_phase_rad : ndarray, shape (K, T)
        Phases of the users' oscillators, each of mean zero over the block.
    """

    times_s: RealArray
    frequency_offsets_hz: RealArray
    symbol_phase_rad: RealArray
    user_symbol_phase_rad: RealArray

    @property
    def factors(self) -> ComplexArray:
        """``exp(j (2 pi eps_k t + psi_t + phi_kt))``, shape (K, T)."""
        linear = 2 * np.pi * np.outer(self.frequency_offsets_hz, self.times_s)
        return np.exp(1j * (linear + self.symbol_phase_rad + self.user_symbol_phase_rad))


def path_dopplers(environment: Environment, carrier_hz: float) -> PathDopplers:
    """Return the Doppler shifts of all paths by motion alone (docs/theory.md, section 1.7).

    ``nu = -(f_c / c) d(length)/dt`` at the reference time, positive where a path shortens. Velocities that
    are not given count as zero, and so do shifts of further paths and rays that are not known.
    """
    users, points, bs = (
        environment.user_positions_m,
        environment.scatterer_positions_m,
        environment.bs_position_m,
    )
    user_velocities, point_velocities = velocities_of(environment)
    to_bs, _ = unit_vectors(users, bs)
    onward, _ = unit_vectors(points, bs)
    to_point, _ = unit_vectors(users[:, None], points[None])
    sight_m_s = np.sum(to_bs * user_velocities, axis=-1)
    user_m_s = np.einsum("kqx,kx->kq", to_point, user_velocities)
    point_m_s = np.einsum("kqx,qx->kq", onward[None] - to_point, point_velocities)
    extra = environment.extra_doppler_hz
    per_m_s = carrier_hz / SPEED_OF_LIGHT_M_S
    return PathDopplers(
        line_of_sight=per_m_s * sight_m_s,
        scatterer=per_m_s * (user_m_s + point_m_s),
        extra=np.zeros(environment.extra_user.size) if extra is None else np.nan_to_num(extra),
        rays=np.nan_to_num(environment.rays.known_dopplers_hz),
    )


def velocities_of(environment: Environment) -> tuple[RealArray, RealArray]:
    """Return velocities of users (K, 3) and scatterers (S, 3), zero where not given."""
    users, points = environment.user_velocities_m_s, environment.scatterer_velocities_m_s
    return (
        np.zeros_like(environment.user_positions_m) if users is None else users,
        np.zeros_like(environment.scatterer_positions_m) if points is None else points,
    )


def fill_dopplers(carrier_hz: float, environment: Environment, rng: np.random.Generator) -> Environment:
    """Draw the Doppler shifts of further paths and rays that are not known.

    They leave a user of known velocity in an unknown direction: one in the horizontal plane, uniform.
    """
    extra, rays = environment.extra_doppler_hz, environment.rays
    if extra is None:
        extra = np.full(environment.extra_user.size, np.nan)
    user = np.concatenate([environment.extra_user, rays.user])
    given = np.concatenate([extra, rays.known_dopplers_hz])
    velocities = velocities_of(environment)[0][user]
    drawn = _departing_dopplers(carrier_hz, velocities, rng)
    dopplers = np.where(np.isnan(given), drawn, given)
    n_extra = environment.extra_user.size
    return replace(
        environment,
        extra_doppler_hz=dopplers[:n_extra],
        rays=replace(rays, doppler_hz=dopplers[n_extra:]),
    )


def _departing_dopplers(carrier_hz: float, velocities: RealArray, rng: np.random.Generator) -> RealArray:
    """Doppler shifts (P,) of paths that leave users of these velocities (P, 3) somewhere horizontally."""
    angle = 2 * np.pi * rng.random(len(velocities))
    approach_m_s = velocities[:, 0] * np.cos(angle) + velocities[:, 1] * np.sin(angle)
    return np.asarray(carrier_hz / SPEED_OF_LIGHT_M_S * approach_m_s)


def draw_diffuse_dopplers(
    carrier_hz: float, environment: Environment, n_parts: int, rng: np.random.Generator
) -> RealArray:
    """Draw a Doppler shift for every part of the users' diffuse tails, shape (K, n_parts)."""
    velocities = velocities_of(environment)[0].repeat(n_parts, axis=0)
    return _departing_dopplers(carrier_hz, velocities, rng).reshape(environment.n_users, n_parts)


def interference_power(
    environment: Environment, carrier_hz: float, offsets_hz: RealArray, spacing_hz: float
) -> RealArray:
    """Return the power of every user's inter-carrier interference, shape (K,), of unit symbols.

    A tone of frequency ``nu`` loses ``(pi nu / spacing)^2 / 3`` of its power to its neighbours, to second
    order (docs/theory.md, section 1.7).
    """
    n_users, rays = environment.n_users, environment.rays
    dopplers = path_dopplers(environment, carrier_hz)

    def of_paths(power: RealArray, user: NDArray[np.int64], doppler_hz: RealArray) -> RealArray:
        weights = power * (np.pi * (doppler_hz + offsets_hz[user]) / spacing_hz) ** 2 / 3
        return np.bincount(user, weights=weights, minlength=n_users).astype(np.float64)

    everyone = np.arange(n_users)
    n_points = environment.scatterer_gain.shape[1]
    return (
        of_paths(np.abs(environment.line_of_sight_gain) ** 2, everyone, dopplers.line_of_sight)
        + of_paths(
            np.abs(environment.scatterer_gain).ravel() ** 2,
            everyone.repeat(n_points),
            dopplers.scatterer.ravel(),
        )
        + of_paths(np.abs(environment.extra_gain) ** 2, environment.extra_user, dopplers.extra)
        + of_paths(np.abs(rays.gain) ** 2, rays.user, dopplers.rays)
    )
