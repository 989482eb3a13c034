"""Channels UMi and UMa of 3GPP TR 38.901 as `sionna-no-rt` draws them, with the rays behind them.

Needs the extra ``sionna``. Conventions that differ from the toolbox's are turned here: elements are counted
column by column from the top row down, and delays are relative to the first path.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from sionna.phy import config
from sionna.phy.channel.tr38901 import PanelArray, UMa, UMi

import isac_toolbox as isac
from isac_toolbox.channel.array import SPEED_OF_LIGHT_M_S
from isac_toolbox.channel.paths import UnlocatedPaths

CARRIER_HZ = 3.5e9
#: Rays of the three sub-clusters of the two strongest clusters, and their delays over the cluster delay
#: spread (TR 38.901, table 7.5-5 and equation 7.5-26).
SUB_CLUSTERS = ((0, 1, 2, 3, 4, 5, 6, 7, 18, 19), (8, 9, 10, 11, 16, 17), (12, 13, 14, 15))
SUB_CLUSTER_DELAYS = (0.0, 1.28, 2.56)


@dataclass(frozen=True)
class Family:
    """Site of a family: heights, and where users are, seen from the base station."""

    model: type
    bs_height_m: float
    distance_m: tuple[float, float]


FAMILIES = {"UMi": Family(UMi, 10.0, (20.0, 150.0)), "UMa": Family(UMa, 25.0, (40.0, 300.0))}
USER_HEIGHT_M = 1.5
HALF_SECTOR_RAD = np.deg2rad(55.0)


@dataclass(frozen=True)
class Drop:
    """Channels of some users at one site.

    Attributes
    ----------
    channel : ndarray of complex, shape (K, N, M)
        Delays from the users' places on, without clock offsets; mean power one for every user.
    over_time : ndarray of complex, shape (K, N, M, T)
        The same in every OFDM symbol, of which the first is that of ``channel``.
    rays : UnlocatedPaths
        What the channel is a sum of, with random phases: a ray's gain is the root of its mean power.
    bs_position_m, user_positions_m : ndarray, shape (3,), (K, 3)
    """

    channel: np.ndarray
    over_time: np.ndarray
    rays: UnlocatedPaths
    bs_position_m: np.ndarray
    user_positions_m: np.ndarray


def draw_drop(
    family: str,
    line_of_sight: bool,
    array: isac.UniformPlanarArray,
    frequencies_hz: np.ndarray,
    n_users: int,
    seed: int,
    speed_m_s: float = 0.0,
    symbol_period_s: float = 1.0,
    n_symbols: int = 1,
) -> Drop:
    """Outdoor users in a sector of 110 degrees in front of the array, which looks along x.

    Their directions of motion are horizontal and drawn; the phases of their rays turn from symbol to symbol.
    """
    site = FAMILIES[family]
    rng = np.random.default_rng([seed, 38901])
    distance = rng.uniform(*site.distance_m, n_users)
    azimuth = rng.uniform(-HALF_SECTOR_RAD, HALF_SECTOR_RAD, n_users)
    height = np.full(n_users, USER_HEIGHT_M)
    users_m = np.column_stack([distance * np.cos(azimuth), distance * np.sin(azimuth), height])
    bs_m = np.array([0.0, 0.0, site.bs_height_m])
    heading = rng.uniform(0, 2 * np.pi, n_users)
    velocities = speed_m_s * np.column_stack([np.cos(heading), np.sin(heading), np.zeros(n_users)])
    config.seed = seed
    model = _model(site, array)
    _place(model, users_m, bs_m, line_of_sight, velocities)
    coefficients, delays, drawn = model(n_symbols, 1 / symbol_period_s)
    gains = coefficients[0, 0, :, :, 0].numpy().transpose(1, 3, 0, 2)  # (K, T, M, P)
    first_s = np.linalg.norm(users_m - bs_m, axis=1) / SPEED_OF_LIGHT_M_S
    delay_s = delays[0, 0].numpy() + first_s[:, None]
    tones = np.exp(-2j * np.pi * delay_s[:, None, :] * frequencies_hz[:, None])  # (K, N, P)
    over_time = np.stack(
        [tones @ at[:, _element_order(array)].transpose(0, 2, 1) for at in gains.swapaxes(0, 1)], axis=-1
    )
    over_time /= np.sqrt(np.mean(np.abs(over_time[..., :1]) ** 2, axis=(1, 2, 3), keepdims=True))
    rays = _rays(model, drawn, array, users_m - bs_m, line_of_sight)
    return Drop(over_time[..., 0], over_time, rays, bs_m, users_m)


def _model(site: Family, array: isac.UniformPlanarArray) -> UMi | UMa:
    """The channel model with the array as its base station, omnidirectional vertical elements everywhere."""
    elements = {
        "polarization": "single",
        "polarization_type": "V",
        "antenna_pattern": "omni",
        "carrier_frequency": CARRIER_HZ,
        "precision": "double",
    }
    n_columns, n_rows = array.shape
    horizontal, vertical = array.spacings
    panel = PanelArray(
        n_rows,
        n_columns,
        element_vertical_spacing=vertical,
        element_horizontal_spacing=horizontal,
        **elements,
    )
    single = PanelArray(1, 1, **elements)
    model = site.model(
        CARRIER_HZ,
        "low",
        single,
        panel,
        "uplink",
        enable_pathloss=False,
        enable_shadow_fading=False,
        precision="double",
    )
    model.return_rays = True
    return model


def _place(
    model: UMi | UMa, users_m: np.ndarray, bs_m: np.ndarray, line_of_sight: bool, velocities: np.ndarray
) -> None:
    def batch(values: np.ndarray) -> torch.Tensor:
        return torch.as_tensor(values, dtype=torch.float64)[None]

    model.set_topology(
        batch(users_m),
        batch(bs_m[None]),
        batch(np.zeros_like(users_m)),
        batch(np.zeros((1, 3))),
        batch(velocities),
        torch.zeros((1, len(users_m)), dtype=torch.bool),
        los=line_of_sight,
    )


def _element_order(array: isac.UniformPlanarArray) -> np.ndarray:
    """Which of the model's elements is each of the toolbox's: there from the top row down, here up."""
    n_columns, n_rows = array.shape
    column, row = np.divmod(np.arange(n_columns * n_rows), n_rows)
    return column * n_rows + n_rows - 1 - row


def _rays(
    model: UMi | UMa,
    drawn: object,
    array: isac.UniformPlanarArray,
    towards_users_m: np.ndarray,
    line_of_sight: bool,
) -> UnlocatedPaths:
    """Rays of all clusters, the line of sight among them; powers of a user add up to one."""
    spread_s = model._scenario.get_param("cDS")[0, 0].numpy() * 1e-9
    k_factor = model._lsp.k_factor[0, 0].numpy() if line_of_sight else np.zeros(len(towards_users_m))
    parts = []
    for k, towards in enumerate(towards_users_m):
        distance = np.linalg.norm(towards)
        power, delay, azimuth, zenith = (
            getattr(drawn, name)[0, k, 0].numpy() for name in ("powers", "delays", "aoa", "zoa")
        )
        delays = np.repeat(delay[:, None], azimuth.shape[1], axis=1)
        for cluster in np.argsort(-power)[:2]:
            for members, factor in zip(SUB_CLUSTERS, SUB_CLUSTER_DELAYS):
                delays[cluster, members] += factor * spread_s[k]
        directions = np.stack(
            [np.sin(zenith) * np.cos(azimuth), np.sin(zenith) * np.sin(azimuth), np.cos(zenith)], axis=-1
        )
        scattered = np.repeat(power / azimuth.shape[1], azimuth.shape[1]) / (power.sum() * (1 + k_factor[k]))
        direction = np.vstack([directions.reshape(-1, 3), towards / distance])
        powers = np.append(scattered, k_factor[k] / (1 + k_factor[k]))
        delay_s = np.append(delays.ravel(), 0.0) + distance / SPEED_OF_LIGHT_M_S
        heard = powers > 0
        parts.append((np.full(heard.sum(), k), direction[heard], delay_s[heard], np.sqrt(powers[heard])))
    user, direction, delay_s, gain = (np.concatenate(values) for values in zip(*parts, strict=True))
    cosines = np.stack(array.direction_cosines(direction), axis=1)
    return UnlocatedPaths(user, cosines, delay_s, gain + 0j, np.ones(user.size))
