"""The multi-user channel of an environment as a receiver's array and subcarriers see it."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from isac_toolbox.channel.array import AntennaArray, UniformPlanarArray
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
    array: AntennaArray,
    bs_position_m: NDArray[np.float64],
    wavefront: str = "planar",
    carrier_hz: float | None = None,
) -> NDArray[np.complex128]:
    """Return the array response towards points (..., 3), shape (..., M), planar or spherical wavefront."""
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
    beam_squint: bool = False,
) -> NDArray[np.complex128]:
    """Return the channel of every user, shape (K, N, M) (docs/theory.md, section 1).

    ``h_kn = x_k0 b_n(tau_k0 + delta_k) a(p_k) + sum_q x_kq b_n(tau_kq + delta_k) a(p_q)`` plus the
    environment's further paths and rays. With ``beam_squint`` the array's phase is that of the subcarrier's
    own frequency, ``1 + f_n / f_c`` times the carrier's.
    """
    bs, users, points = (
        environment.bs_position_m,
        environment.user_positions_m,
        environment.scatterer_positions_m,
    )
    frequencies = subcarrier_frequencies_hz
    sight_delay = line_of_sight_delays_s(users, bs) + time_offsets_s
    delay = bistatic_delays_s(users, points, bs) + time_offsets_s[:, None]
    rays = environment.rays
    further_user = np.concatenate([environment.extra_user, rays.user])
    further_direction = np.concatenate([environment.extra_direction, rays.direction])
    further_delay_s = np.concatenate([environment.extra_delay_s, rays.delay_s])
    further_gain = np.concatenate([environment.extra_gain, rays.gain])
    channel = np.empty((len(users), frequencies.size, array.n_elements), complex)
    for k in range(len(users)):
        extra = further_user == k
        targets = np.vstack([users[k : k + 1], points])
        delays = np.concatenate([sight_delay[k : k + 1], delay[k]])
        gains = np.concatenate([environment.line_of_sight_gain[k : k + 1], environment.scatterer_gain[k]])
        extra_delays = further_delay_s[extra] + time_offsets_s[k]
        weights = gains * delay_response(delays, frequencies).T
        extra_weights = further_gain[extra] * delay_response(extra_delays, frequencies).T
        directions = np.vstack([unit_vectors(bs, targets)[0], further_direction[extra]])
        cosines = np.stack(array.direction_cosines(directions))
        if beam_squint:
            if carrier_hz is None:
                raise ValueError("carrier_hz is needed for beam_squint=True, got None")
            weights = np.hstack([weights, extra_weights])
            channel[k] = _squinted_sum(weights, cosines, array, frequencies / carrier_hz)
        else:
            responses = response_towards(targets, array, bs, wavefront, carrier_hz)
            extra_responses = array.steering_from_cosines(*cosines[:, len(targets) :])
            channel[k] = weights @ responses + extra_weights @ extra_responses
    return channel


def _squinted_sum(
    weights: NDArray[np.complex128],
    cosines: NDArray[np.float64],
    array: UniformPlanarArray,
    relative_frequencies: NDArray[np.float64],
) -> NDArray[np.complex128]:
    """Sum of paths of weights (N, L) and direction cosines (2, L) with exact beam squint, shape (N, M)."""
    stretch = 1 + relative_frequencies[:, None, None]
    slope_h, slope_v = array.phase_slopes
    a_h = np.exp(1j * stretch * cosines[0, :, None] * slope_h)
    a_v = np.exp(1j * stretch * cosines[1, :, None] * slope_v)
    summed = np.matmul((weights[:, :, None] * a_h).transpose(0, 2, 1), a_v)
    return summed.reshape(len(weights), array.n_elements)


def normalise_power(channel: NDArray[np.complex128], power_control: bool) -> NDArray[np.float64]:
    """Return the amplitude factor of every user, shape (K,), that makes the mean of ``|h|^2`` one.

    With ``power_control`` every user's own mean becomes one, otherwise the mean over all users.

    Raises
    ------
    ValueError
        If a user's channel has no power that a float holds.
    """
    with np.errstate(over="ignore"):
        power = np.mean(np.abs(channel) ** 2, axis=(1, 2))
    lost = np.flatnonzero(~((power > 0) & np.isfinite(power)))
    if lost.size:
        raise ValueError(
            f"the gains of user(s) {lost.tolist()} must give a channel with power, got paths that are zero, "
            "cancel, or have squares beyond a float (1e-154 to 1e154)"
        )
    reference = power if power_control else np.full_like(power, np.mean(power))
    return 1 / np.sqrt(reference)
