"""Clustered delay lines CDL-A to CDL-E of 3GPP TR 38.901, section 7.7.1, as a base station receives them."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from isac_toolbox._validation import (
    as_array,
    check_choice,
    check_finite,
    check_has,
    check_integer,
    check_positive,
    check_shape,
)
from isac_toolbox.channel.array import SPEED_OF_LIGHT_M_S, UniformPlanarArray
from isac_toolbox.channel.cdl_tables import CLUSTER_TABLES, RAY_OFFSETS
from isac_toolbox.channel.environment import DrawSettings, Environment, draw_apart_users
from isac_toolbox.channel.geometry import delay_response, unit_vectors
from isac_toolbox.channel.rays import Rays

__all__ = [
    "CDL_MODELS",
    "CdlSettings",
    "cdl_channel",
    "cdl_dopplers",
    "cdl_environment",
    "cdl_rays",
    "directions_of",
]

RealArray = NDArray[np.float64]

#: Names of the models; D and E have a line of sight.
CDL_MODELS = tuple(CLUSTER_TABLES)


class _Clusters(NamedTuple):
    """A model as seen from one end: normalised delays, powers of sum one, angles, spreads (rad)."""

    delays: RealArray
    powers: RealArray
    azimuths: RealArray
    zeniths: RealArray
    azimuth_spread: float
    zenith_spread: float
    has_line_of_sight: bool

    @property
    def centre(self) -> tuple[float, float]:
        """Azimuth and zenith of the line of sight, or else the power-weighted mean angles (Annex A)."""
        if self.has_line_of_sight:
            return float(self.azimuths[0]), float(self.zeniths[0])
        mean = (self.powers * np.exp(1j * np.stack([self.azimuths, self.zeniths]))).sum(axis=1)
        return float(np.angle(mean[0])), float(np.angle(mean[1]))

    @property
    def ray_counts(self) -> NDArray[np.int64]:
        """Rays of every cluster: one of the line of sight, 20 of the others."""
        counts = np.full(self.delays.size, RAY_OFFSETS.size)
        counts[: int(self.has_line_of_sight)] = 1
        return counts

    @property
    def offsets(self) -> RealArray:
        """Ray offsets of the clusters that have 20 rays, for a spread of one, shape (C, 20)."""
        return np.tile(RAY_OFFSETS, (self.delays.size - int(self.has_line_of_sight), 1))

    def ray_directions(
        self, towards: RealArray, azimuth_offsets: RealArray, zenith_offsets: RealArray
    ) -> RealArray:
        """Return unit vectors (R, 3) of the rays, the centre turned to a unit vector (3,).

        ``azimuth_offsets`` and ``zenith_offsets`` are ``offsets`` in any order of the rays.
        """
        sight = np.zeros(int(self.has_line_of_sight))
        centre_azimuth, centre_zenith = self.centre
        azimuth = (self.azimuths - centre_azimuth).repeat(self.ray_counts)
        azimuth = azimuth + np.concatenate([sight, self.azimuth_spread * azimuth_offsets.ravel()])
        zenith = (self.zeniths - centre_zenith).repeat(self.ray_counts)
        to_azimuth = np.arctan2(towards[1], towards[0])
        to_zenith = np.arccos(np.clip(towards[2], -1, 1))
        coupled = np.concatenate([sight, self.zenith_spread * zenith_offsets.ravel()])
        return directions_of(azimuth + to_azimuth, zenith + to_zenith + coupled)


def _clusters_of(model: str, at_user: bool = False) -> _Clusters:
    """By reciprocity the uplink arrives where the tables, of the downlink, depart, and departs where they
    arrive.
    """
    table = CLUSTER_TABLES[check_choice("model", model, CDL_MODELS)]
    delays, power_db, aod, aoa, zod, zoa = table.rows.T
    azimuth, zenith = (aoa, zoa) if at_user else (aod, zod)
    spreads = (table.c_asa_deg, table.c_zsa_deg) if at_user else (table.c_asd_deg, table.c_zsd_deg)
    powers = 10 ** (power_db / 10)
    return _Clusters(
        delays,
        powers / powers.sum(),
        np.radians(azimuth),
        np.radians(zenith),
        float(np.radians(spreads[0])),
        float(np.radians(spreads[1])),
        table.has_line_of_sight,
    )


def directions_of(azimuth_rad: RealArray, zenith_rad: RealArray) -> RealArray:
    """Return unit vectors (..., 3); a zenith beyond 0 or pi comes back as its mirror image (7.5, step 7)."""
    zenith = np.abs((zenith_rad + np.pi) % (2 * np.pi) - np.pi)
    sine = np.sin(zenith)
    return np.stack([sine * np.cos(azimuth_rad), sine * np.sin(azimuth_rad), np.cos(zenith)], axis=-1)


def cdl_rays(model: str, towards: RealArray, delay_spread_s: float, rng: np.random.Generator) -> Rays:
    """Draw the rays of a model for every user, powers of sum one a user, delays from the first path on.

    The line of sight of CDL-D and CDL-E is the first ray of each user; every other cluster has 20. Azimuth
    and zenith offsets of a cluster are coupled at random, phases are uniform. One user's draw does not depend
    on how many there are.

    Parameters
    ----------
    model : {"CDL-A", "CDL-B", "CDL-C", "CDL-D", "CDL-E"}
    towards : ndarray, shape (K, 3)
        Unit vectors to which the model's centre is turned: angles move by the difference (7.7.5.1).
    delay_spread_s : float
        RMS delay spread that the normalised delays are multiplied by (7.7.3).
    rng : numpy.random.Generator

    Returns
    -------
    Rays
    """
    clusters = _clusters_of(model)
    offsets, count = clusters.offsets, clusters.ray_counts
    amplitude = np.sqrt(clusters.powers / count).repeat(count)
    parts = []
    for k, direction in enumerate(towards):
        phase = np.exp(2j * np.pi * rng.random(amplitude.size))
        parts.append(
            Rays(
                user=np.full(amplitude.size, k),
                direction=clusters.ray_directions(direction, offsets, rng.permuted(offsets, axis=1)),
                delay_s=delay_spread_s * clusters.delays.repeat(count),
                gain=amplitude * phase,
            )
        )
    return Rays.joined(parts)


def cdl_dopplers(
    model: str, environment: Environment, carrier_hz: float, rng: np.random.Generator
) -> Environment:
    """Give the rays of :func:`cdl_environment` the Doppler shifts of their users' velocities.

    Rays leave the user where the tables, which are of the downlink, arrive (AOA, ZOA, c_ASA, c_ZSA), their
    centre turned to the base station; which of a cluster's directions at both ends belong to one ray is drawn
    (7.5, steps 8 and 11).
    """
    clusters = _clusters_of(model, at_user=True)
    first, offsets = int(clusters.has_line_of_sight), clusters.offsets
    towards, _ = unit_vectors(environment.user_positions_m, environment.bs_position_m)
    velocities = environment.user_velocities_m_s
    if velocities is None:
        raise ValueError("environment must have user_velocities_m_s for Doppler shifts, got None")
    approach_m_s = []
    for direction, velocity in zip(towards, velocities, strict=True):
        departures = clusters.ray_directions(
            direction, rng.permuted(offsets, axis=1), rng.permuted(offsets, axis=1)
        )
        approach_m_s.append(departures[first:] @ velocity)
    doppler_hz = carrier_hz / SPEED_OF_LIGHT_M_S * np.concatenate(approach_m_s)
    return replace(environment, rays=replace(environment.rays, doppler_hz=doppler_hz))


def cdl_channel(
    model: str,
    array: UniformPlanarArray,
    subcarrier_frequencies_hz: ArrayLike,
    *,
    n_users: int = 1,
    delay_spread_s: float = 100e-9,
    towards: ArrayLike | None = None,
    seed: int | np.random.SeedSequence | np.random.Generator = 0,
) -> NDArray[np.complex128]:
    """Draw channels of a clustered delay line of 3GPP TR 38.901 (section 7.7.1), users independently.

    Parameters
    ----------
    model : {"CDL-A", "CDL-B", "CDL-C", "CDL-D", "CDL-E"}
    array : UniformPlanarArray
        Of the base station, which receives; a user has one antenna of the same polarisation.
    subcarrier_frequencies_hz : array_like, shape (N,)
    n_users : int
        Number of users K.
    delay_spread_s : float
        RMS delay spread.
    towards : array_like, shape (3,) or (K, 3), optional
        Unit vectors, of all users or of each, that the model is turned to: its line of sight, or else the
        power-weighted mean of its angles. The array's boresight if not given.
    seed : int, SeedSequence or Generator

    Returns
    -------
    ndarray of complex, shape (K, N, M)
        Mean power one over draws. Delays count from the first path: the time of flight is missing, so that
        an observation made of it needs a ``time_offset_std_s`` wide enough for that.

    Raises
    ------
    TypeError, ValueError
        Naming the argument, what came and what is allowed.

    Notes
    -----
    The tables are of the downlink; by reciprocity an uplink arrives at the base station from where they
    depart (AOD, ZOD, c_ASD, c_ZSD). Elements are isotropic, so that a cluster behind the array is heard as
    its mirror image in front. Rays keep their delay within a cluster; neither cross-polarisation nor
    motion is modelled.

    Examples
    --------
    >>> import numpy as np
    >>> import isac_toolbox as isac
    >>> frequencies_hz = (np.arange(64) - 31.5) * 30e3
    >>> array = isac.UniformPlanarArray((8, 8))
    >>> isac.channel.cdl_channel("CDL-C", array, frequencies_hz, n_users=2, seed=1).shape
    (2, 64, 64)
    """
    check_choice("model", model, CDL_MODELS)
    check_has("array", array, "a UniformPlanarArray", ("steering", "axes"))
    frequencies = as_array("subcarrier_frequencies_hz", subcarrier_frequencies_hz, float)
    check_shape("subcarrier_frequencies_hz", frequencies, (None,), "(N,)")
    check_finite("subcarrier_frequencies_hz", frequencies)
    n_users = check_integer("n_users", n_users)
    spread_s = check_positive("delay_spread_s", delay_spread_s)
    directions = _directions(array.axes[0] if towards is None else towards, n_users)
    rays = cdl_rays(model, directions, spread_s, np.random.default_rng(seed))
    channel = np.empty((n_users, frequencies.size, array.n_elements), complex)
    for k, own in enumerate(np.arange(len(rays)).reshape(n_users, -1)):
        weights = rays.gain[own] * delay_response(rays.delay_s[own], frequencies).T
        channel[k] = weights @ array.steering(rays.direction[own])
    return channel


def _directions(towards: ArrayLike, n_users: int) -> RealArray:
    """Return unit vectors (K, 3)."""
    given = as_array("towards", towards, float)
    if given.shape not in ((3,), (n_users, 3)):
        raise ValueError(f"towards must have shape (3,) or (K, 3) = ({n_users}, 3), got {given.shape}")
    check_finite("towards", given)
    length = np.linalg.norm(given, axis=-1)
    if np.any(np.abs(length - 1) > 1e-6):
        raise ValueError(f"towards must hold unit vectors, got one of length {length.flat[0]:.6g}")
    return np.broadcast_to(given, (n_users, 3))


class CdlSettings(DrawSettings, Protocol):
    """What :func:`cdl_environment` needs to know; :class:`isac_toolbox.Scenario` has it."""

    @property
    def cdl(self) -> str | None: ...
    @property
    def delay_spread_s(self) -> float: ...


def cdl_environment(settings: CdlSettings, rng: np.random.Generator) -> Environment:
    """Draw users in their region, each with a clustered delay line turned to it, and no scatterers.

    The line of sight of CDL-D and CDL-E is that of the user. All delays include its time of flight, all
    amplitudes the free-space loss of that length.

    Parameters
    ----------
    settings : CdlSettings
        Anything with these fields, such as a scenario.
    rng : numpy.random.Generator

    Returns
    -------
    Environment
    """
    if settings.cdl is None:
        raise ValueError(f"cdl must be one of {CDL_MODELS}, got None")
    users = draw_apart_users(settings, rng)
    bs = np.asarray(settings.bs_position_m, dtype=float)
    towards, length_m = unit_vectors(bs, users)
    rays = cdl_rays(settings.cdl, towards, settings.delay_spread_s, rng)
    gain = rays.gain / length_m[rays.user]
    is_sight = np.zeros(len(rays), bool)
    if CLUSTER_TABLES[settings.cdl].has_line_of_sight:
        is_sight[np.unique(rays.user, return_index=True)[1]] = True
    sight_gain = np.zeros(len(users), complex)
    sight_gain[rays.user[is_sight]] = gain[is_sight]
    rest = ~is_sight
    return Environment(
        bs_position_m=bs,
        user_positions_m=users,
        scatterer_positions_m=np.zeros((0, 3)),
        line_of_sight_gain=sight_gain,
        scatterer_gain=np.zeros((len(users), 0), complex),
        extra_user=np.zeros(0, np.int64),
        extra_direction=np.zeros((0, 3)),
        extra_delay_s=np.zeros(0),
        extra_gain=np.zeros(0, complex),
        region_m=np.asarray(settings.region_m, dtype=float),
        name=settings.cdl,
        rays=Rays(
            user=rays.user[rest],
            direction=rays.direction[rest],
            delay_s=rays.delay_s[rest] + length_m[rays.user[rest]] / SPEED_OF_LIGHT_M_S,
            gain=gain[rest],
        ),
    )
