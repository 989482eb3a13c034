"""The multi-user channel of an environment as a receiver's array and subcarriers see it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from isac_toolbox.channel.array import AntennaArray, UniformPlanarArray
from isac_toolbox.channel.doppler import path_dopplers
from isac_toolbox.channel.environment import Environment
from isac_toolbox.channel.geometry import (
    bistatic_delays_s,
    delay_response,
    line_of_sight_delays_s,
    unit_vectors,
)

__all__ = ["moving_channel", "multi_user_channel", "normalise_power", "response_towards"]

Factors = NDArray[np.complex128] | None


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
    array: AntennaArray,
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
    paths = _PathSums(
        environment, array, subcarrier_frequencies_hz, time_offsets_s, wavefront, carrier_hz, beam_squint
    )
    return np.stack([paths.of_user(k)(None, None) for k in range(environment.n_users)])


def moving_channel(
    environment: Environment,
    array: AntennaArray,
    subcarrier_frequencies_hz: NDArray[np.float64],
    time_offsets_s: NDArray[np.float64],
    wavefront: str,
    carrier_hz: float,
    beam_squint: bool,
    times_s: NDArray[np.float64],
) -> NDArray[np.complex128]:
    """Return the channel of every user at times (T,) from the reference on, shape (K, N, M, T).

    Each path of :func:`multi_user_channel` turns by ``exp(j 2 pi nu t)`` at the constant Doppler shift of
    :func:`~isac_toolbox.channel.doppler.path_dopplers`; frequency offsets and phases are not in it.
    """
    frequencies = subcarrier_frequencies_hz
    paths = _PathSums(environment, array, frequencies, time_offsets_s, wavefront, carrier_hz, beam_squint)
    dopplers = path_dopplers(environment, carrier_hz)
    shape = (environment.n_users, frequencies.size, array.n_elements, times_s.size)
    channel = np.empty(shape, complex)
    for k in range(environment.n_users):
        of_user = paths.of_user(k)
        own = np.concatenate([dopplers.line_of_sight[k : k + 1], dopplers.scatterer[k]])
        further = np.concatenate([dopplers.extra, dopplers.rays])[paths.further_user == k]
        for t, time_s in enumerate(times_s):
            channel[k, :, :, t] = of_user(
                np.exp(2j * np.pi * own * time_s), np.exp(2j * np.pi * further * time_s)
            )
    return channel


@dataclass(frozen=True, eq=False)
class _PathSums:
    """The sums over paths that the users' channels are; fields as in :func:`multi_user_channel`."""

    environment: Environment
    array: AntennaArray
    frequencies: NDArray[np.float64]
    time_offsets_s: NDArray[np.float64]
    wavefront: str
    carrier_hz: float | None
    beam_squint: bool

    @property
    def further_user(self) -> NDArray[np.int64]:
        """User of every further path and ray, shape (P + R,)."""
        return np.concatenate([self.environment.extra_user, self.environment.rays.user])

    def of_user(self, k: int) -> Callable[[Factors, Factors], NDArray[np.complex128]]:
        """Return a function from factors of placed paths (1 + S,) and of further ones to the channel (N, M).

        None stands for factors of one.
        """
        environment, array, bs = self.environment, self.array, self.environment.bs_position_m
        user, points = environment.user_positions_m[k : k + 1], environment.scatterer_positions_m
        rays, extra = environment.rays, self.further_user == k
        targets = np.vstack([user, points])
        delays = np.concatenate([line_of_sight_delays_s(user, bs), bistatic_delays_s(user, points, bs)[0]])
        gains = np.concatenate([environment.line_of_sight_gain[k : k + 1], environment.scatterer_gain[k]])
        extra_delays = np.concatenate([environment.extra_delay_s, rays.delay_s])[extra]
        extra_gains = np.concatenate([environment.extra_gain, rays.gain])[extra]
        extra_directions = np.concatenate([environment.extra_direction, rays.direction])[extra]
        offset_s = self.time_offsets_s[k]
        weights = gains * delay_response(delays + offset_s, self.frequencies).T
        extra_weights = extra_gains * delay_response(extra_delays + offset_s, self.frequencies).T
        cosines = np.stack(
            array.direction_cosines(np.vstack([unit_vectors(bs, targets)[0], extra_directions]))
        )
        if self.beam_squint:
            if self.carrier_hz is None:
                raise ValueError("carrier_hz is needed for beam_squint=True, got None")
            relative = self.frequencies / self.carrier_hz

            def squinted(own: Factors, further: Factors) -> NDArray[np.complex128]:
                both = np.hstack([_turned(weights, own), _turned(extra_weights, further)])
                return _squinted_sum(both, cosines, array, relative)

            return squinted
        responses = response_towards(targets, array, bs, self.wavefront, self.carrier_hz)
        extra_responses = array.steering_from_cosines(*cosines[:, len(targets) :])

        def summed(own: Factors, further: Factors) -> NDArray[np.complex128]:
            return _turned(weights, own) @ responses + _turned(extra_weights, further) @ extra_responses

        return summed


def _turned(weights: NDArray[np.complex128], factors: Factors) -> NDArray[np.complex128]:
    return weights if factors is None else weights * factors


def _squinted_sum(
    weights: NDArray[np.complex128],
    cosines: NDArray[np.float64],
    array: AntennaArray,
    relative_frequencies: NDArray[np.float64],
) -> NDArray[np.complex128]:
    """Sum of paths of weights (N, L) and direction cosines (2, L) with exact beam squint, shape (N, M)."""
    if not isinstance(array, UniformPlanarArray):
        phases = 1j * array.phases(*cosines)
        of_tones = [w @ np.exp((1 + f) * phases) for w, f in zip(weights, relative_frequencies, strict=True)]
        return np.stack(of_tones)
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
