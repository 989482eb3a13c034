"""The multi-user channel of an environment as a receiver's array and subcarriers see it."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from isac_toolbox.channel.array import UniformPlanarArray
from isac_toolbox.channel.environment import Environment
from isac_toolbox.channel.geometry import (
    bistatic_delays_s,
    delay_response,
    line_of_sight_delays_s,
    unit_vectors,
)

__all__ = ["multi_user_channel", "normalise_power", "response_towards"]


def response_towards(
    points_m: NDArray[np.float64],
    array: UniformPlanarArray,
    bs_position_m: NDArray[np.float64],
    wavefront: str = "planar",
    carrier_hz: float | None = None,
) -> NDArray[np.complex128]:
    """Array response towards points (..., 3), shape (..., M), planar or spherical wavefront."""
    if wavefront == "spherical":
        if carrier_hz is None:
            raise ValueError("carrier_hz is needed for wavefront='spherical', got None")
        return array.spherical_steering(points_m - bs_position_m, carrier_hz)
    return array.steering_from_cosines(*array.direction_cosines(unit_vectors(bs_position_m, points_m)[0]))


def multi_user_channel(
    environment: Environment,
    array: UniformPlanarArray,
    subcarrier_frequencies_hz: NDArray[np.float64],
    time_offsets_s: NDArray[np.float64],
    wavefront: str = "planar",
    carrier_hz: float | None = None,
) -> NDArray[np.complex128]:
    """Channel of every user, shape (K, N, M) (docs/theory.md, section 1).

    ``h_kn = x_k0 b_n(tau_k0 + delta_k) a(p_k) + sum_q x_kq b_n(tau_kq + delta_k) a(p_q)`` plus the
    environment's further paths.
    """
    bs, users, points = (
        environment.bs_position_m,
        environment.user_positions_m,
        environment.scatterer_positions_m,
    )
    los_delay = line_of_sight_delays_s(users, bs) + time_offsets_s
    delay = bistatic_delays_s(users, points, bs) + time_offsets_s[:, None]
    frequencies = subcarrier_frequencies_hz
    b_los = delay_response(los_delay, frequencies) * environment.line_of_sight_gain[:, None]
    b = delay_response(delay, frequencies) * environment.scatterer_gain[:, :, None]
    a = response_towards(points, array, bs, wavefront, carrier_hz)
    channel = b_los[:, :, None] * response_towards(users, array, bs, wavefront, carrier_hz)[:, None, :]
    channel = channel + np.einsum("ksn,sm->knm", b, a, optimize=True)
    extra_delay = environment.extra_delay_s + time_offsets_s[environment.extra_user]
    b_extra = delay_response(extra_delay, frequencies) * environment.extra_gain[:, None]
    a_extra = array.steering_from_cosines(*array.direction_cosines(environment.extra_direction))
    for k in range(environment.n_users):
        own = environment.extra_user == k
        channel[k] += b_extra[own].T @ a_extra[own]
    return channel


def normalise_power(channel: NDArray[np.complex128], power_control: bool) -> NDArray[np.float64]:
    """Amplitude factor of every user, shape (K,), that makes the mean of ``|h|^2`` one.

    With ``power_control`` every user's own mean becomes one, otherwise the mean over all users.
    """
    power = np.mean(np.abs(channel) ** 2, axis=(1, 2))
    reference = power if power_control else np.full_like(power, np.mean(power))
    return 1 / np.sqrt(reference)
