"""What a real uplink has beside points: bodies of many rays, clusters without a place, a diffuse tail."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from isac_toolbox.channel.array import SPEED_OF_LIGHT_M_S
from isac_toolbox.channel.cdl import directions_of
from isac_toolbox.channel.cdl_tables import RAY_OFFSETS
from isac_toolbox.channel.environment import Environment
from isac_toolbox.channel.geometry import (
    bistatic_delays_s,
    delay_response,
    line_of_sight_delays_s,
    unit_vectors,
)
from isac_toolbox.channel.rays import Rays

__all__ = ["draw_clusters", "draw_diffuse", "first_delays_s", "path_powers", "spread_scatterers"]

RealArray = NDArray[np.float64]

# 3GPP TR 38.901, table 7.5-6, UMi without line of sight: delay scaling, shadowing per cluster.
_DELAY_SCALING, _SHADOWING_DB = 2.1, 3.0
# The same table, departure: azimuth spread of the rays of a cluster; of zenith 3/8 of a degree (step 7).
_RAY_AZIMUTH_RAD, _RAY_ZENITH_RAD = np.radians(10.0), np.radians(0.375)
# Table 7.5-8: zenith spread of departure some 60 m away.
_ZENITH_SPREAD_RAD = np.radians(1.0)


def spread_scatterers(
    environment: Environment, rays_per_scatterer: int, extent_m: float, rng: np.random.Generator
) -> Environment:
    """Turn every scatterer into a body of rays, uniform within ``extent_m`` of it, of the same mean power.

    Users share the places of a body's rays, which move alike; phases are of each user and ray. Scatterer
    ``q`` becomes the scatterers ``q R`` to ``q R + R - 1``.
    """
    n_scatterers = len(environment.scatterer_positions_m)
    outward = rng.standard_normal((n_scatterers, rays_per_scatterer, 3))
    outward /= np.linalg.norm(outward, axis=-1, keepdims=True)
    radius_m = extent_m * rng.random((n_scatterers, rays_per_scatterer, 1)) ** (1 / 3)
    places = environment.scatterer_positions_m[:, None] + radius_m * outward
    phase = np.exp(2j * np.pi * rng.random((environment.n_users, n_scatterers, rays_per_scatterer)))
    gain = environment.scatterer_gain[:, :, None] * phase / np.sqrt(rays_per_scatterer)
    velocities = environment.scatterer_velocities_m_s
    if velocities is not None:
        velocities = np.repeat(velocities, rays_per_scatterer, axis=0)
    return replace(
        environment,
        scatterer_velocities_m_s=velocities,
        scatterer_positions_m=places.reshape(-1, 3),
        scatterer_gain=gain.reshape(environment.n_users, -1),
    )


def draw_clusters(
    environment: Environment,
    n_clusters: int,
    power_db: float,
    delay_spread_s: float,
    azimuth_spread_rad: float,
    rng: np.random.Generator,
) -> Rays:
    """Draw clusters of 20 rays for every user, without a place, as in a street canyon of 3GPP TR 38.901.

    Delays after the line of sight's are exponential and powers fall with them under a lognormal shadowing
    (7.5, steps 5 and 6); azimuths are Gaussian around the user's direction. The sum of a user's ray powers is
    ``power_db`` relative to that of its paths.
    """
    towards, length_m = unit_vectors(environment.bs_position_m, environment.user_positions_m)
    n_rays = RAY_OFFSETS.size
    offsets = np.tile(RAY_OFFSETS, (n_clusters, 1))
    wanted = path_powers(environment) * 10 ** (power_db / 10)
    parts = []
    for k, direction in enumerate(towards):
        late_s = _DELAY_SCALING * delay_spread_s * rng.exponential(size=n_clusters)
        late_s -= late_s.min()
        shadowing_db = _SHADOWING_DB * rng.standard_normal(n_clusters)
        falling = np.exp(-late_s * (_DELAY_SCALING - 1) / (_DELAY_SCALING * delay_spread_s))
        power = falling * 10 ** (-shadowing_db / 10)
        azimuth = np.arctan2(direction[1], direction[0])
        azimuth += azimuth_spread_rad * rng.standard_normal((n_clusters, 1)) + _RAY_AZIMUTH_RAD * offsets
        zenith = np.arccos(np.clip(direction[2], -1, 1))
        zenith += _ZENITH_SPREAD_RAD * rng.standard_normal((n_clusters, 1))
        zenith = zenith + _RAY_ZENITH_RAD * rng.permuted(offsets, axis=1)
        amplitude = np.sqrt(wanted[k] * power / power.sum() / n_rays).repeat(n_rays)
        parts.append(
            Rays(
                user=np.full(n_clusters * n_rays, k),
                direction=directions_of(azimuth, zenith).reshape(-1, 3),
                delay_s=(late_s + length_m[k] / SPEED_OF_LIGHT_M_S).repeat(n_rays),
                gain=amplitude * np.exp(2j * np.pi * rng.random(amplitude.size)),
            )
        )
    return Rays.joined(parts)


def draw_diffuse(
    powers: RealArray,
    start_s: RealArray,
    decay_s: float,
    subcarrier_frequencies_hz: RealArray,
    n_elements: int,
    rng: np.random.Generator,
) -> NDArray[np.complex128]:
    """Draw Gaussian tails (K, N, M) of these mean powers (K,), exponential in delay, white over elements.

    The power-delay profile ``exp(-(tau - start) / decay) / decay`` correlates subcarriers by
    ``exp(-j 2 pi (f - f') start) / (1 + j 2 pi (f - f') decay)``.
    """
    apart_hz = subcarrier_frequencies_hz[:, None] - subcarrier_frequencies_hz
    values, vectors = np.linalg.eigh(1 / (1 + 2j * np.pi * apart_hz * decay_s))
    root = vectors * np.sqrt(np.maximum(values, 0))
    drawn = rng.standard_normal((powers.size, apart_hz.shape[0], n_elements, 2)) @ [1, 1j]
    tail = np.sqrt(powers / 2)[:, None, None] * (root @ drawn)
    return tail * delay_response(start_s, subcarrier_frequencies_hz)[:, :, None]


def path_powers(environment: Environment) -> RealArray:
    """Return the sum of ``|gain|^2`` over the paths and rays of every user, shape (K,)."""
    extra = np.bincount(
        environment.extra_user,
        weights=np.abs(environment.extra_gain) ** 2,
        minlength=environment.n_users,
    )
    located = np.abs(environment.line_of_sight_gain) ** 2 + np.sum(
        np.abs(environment.scatterer_gain) ** 2, axis=1
    )
    return located + extra + environment.rays.powers(environment.n_users)


def first_delays_s(environment: Environment) -> RealArray:
    """Return the delay of every user's earliest path or ray, shape (K,)."""
    users, bs = environment.user_positions_m, environment.bs_position_m
    delays = bistatic_delays_s(users, environment.scatterer_positions_m, bs)
    first = np.min(np.where(environment.scatterer_gain != 0, delays, np.inf), axis=1, initial=np.inf)
    sight = np.where(environment.line_of_sight_gain != 0, line_of_sight_delays_s(users, bs), np.inf)
    first = np.minimum(first, sight)
    np.minimum.at(first, environment.extra_user, environment.extra_delay_s)
    np.minimum.at(first, environment.rays.user, environment.rays.delay_s)
    return first
