"""Units and references that physics makes unlikely or impossible: delays, frequencies, positions."""

from __future__ import annotations

import sys
import warnings

import numpy as np
from numpy.typing import NDArray

from isac_toolbox.channel.array import SPEED_OF_LIGHT_M_S, AntennaArray

__all__ = [
    "ImplausibleValueWarning",
    "check_longest_delay",
    "check_path_delays",
    "warn_implausible",
    "warn_of_implausible_block",
    "warn_of_implausible_delays",
    "warn_of_implausible_times",
    "warn_of_interference",
]

RealArray = NDArray[np.float64]
_PACKAGE = __name__.partition(".")[0]

# Longer is farther than the moon.
_LONGEST_DELAY_S = 1.0
# Of a path's length and in metres: what rounded positions and delays of a ray tracer may amount to.
_SLACK, _SLACK_M = 0.1, 1.0
# Nanoseconds, microseconds, milliseconds and kilometres are all off by more.
_OTHER_UNIT = 30.0
# Spreading alone costs a path a thousand times longer than the scene 60 dB.
_LONGEST_OF_SCENE = 1000.0
# Radio OFDM, from digital short wave at 42 Hz to sub-terahertz links at megahertz, stays below a twentieth.
_WALKING_M_S, _DOPPLER_OF_SPACING = 1.5, 0.1
# Digital short wave has the narrowest spacing of all radio OFDM, 42 Hz.
_NARROWEST_SPACING_HZ = 40.0
# A scene shorter than a tenth of a range cell is one point to all delays.
_SHORTEST_OF_CELL = 0.1
# A scene of tens of unambiguous ranges would need a cyclic prefix of tens of symbols.
_LONGEST_OF_RANGE = 30.0
# An OFDM symbol lasts at least the inverse of the subcarrier spacing, less what rounded times amount to.
_SHORTEST_OF_SYMBOL = 0.9


class ImplausibleValueWarning(UserWarning):
    """A value is possible but unlikely, as in a wrong unit or counted from another origin."""


def warn_implausible(text: str) -> None:
    """Warn at the line outside the package that led here."""
    level, frame = 1, sys._getframe()
    while frame.f_back is not None and frame.f_globals["__name__"].startswith(f"{_PACKAGE}."):
        level, frame = level + 1, frame.f_back
    warnings.warn(text, ImplausibleValueWarning, stacklevel=level)


def check_path_delays(name: str, delay_s: RealArray, user: NDArray[np.int64], length_m: RealArray) -> None:
    """Compare delays (P,) with the lengths (P,) of paths whose points are all known.

    Raises
    ------
    ValueError
        If a path is many times longer than its points are apart, as in another unit.

    Warns
    -----
    ImplausibleValueWarning
        If they differ by more than rounding: relative to a first path, or of another scene.
    """
    flight_m = SPEED_OF_LIGHT_M_S * delay_s
    far = flight_m > _OTHER_UNIT * (length_m + _SLACK_M)
    off = np.abs(flight_m - length_m) > _SLACK_M + _SLACK * length_m
    for p in np.flatnonzero(far if far.any() else off)[:1]:
        text = (
            f"{name} must hold seconds from user to base station, not relative to a first path; "
            f"a path of user {user[p]} has {delay_s[p]:.4g} s = {flight_m[p]:.4g} m of flight, but its "
            f"points are {length_m[p]:.4g} m apart"
        )
        if far.any():
            raise ValueError(f"{text}; positions are in metres")
        warn_implausible(f"{text}; {np.count_nonzero(off)} such path(s), whose places are believed")


def check_longest_delay(name: str, delay_s: RealArray) -> None:
    """Raise for negative delays and for those that no radio link has."""
    if np.any(delay_s < 0):
        raise ValueError(f"{name} must be non-negative, got {np.min(delay_s):.4g} s")
    if np.any(delay_s > _LONGEST_DELAY_S):
        raise ValueError(
            f"{name} must be in seconds, got {np.max(delay_s):.4g} s, which is farther than the moon: "
            "nanoseconds?"
        )


def warn_of_implausible_delays(name: str, delay_s: RealArray, direct_m: RealArray, scene_m: float) -> None:
    """Warn of delays (P,) shorter than the straight line (P,), or out of all proportion to the scene."""
    length_m = SPEED_OF_LIGHT_M_S * delay_s
    short = length_m < direct_m * (1 - _SLACK) - _SLACK_M
    if np.any(short):
        p = int(np.flatnonzero(short)[0])
        warn_implausible(
            f"{name}: {np.count_nonzero(short)} path(s) are shorter than the straight line from user to "
            f"base station, path {p} with {delay_s[p]:.4g} s = {length_m[p]:.4g} m against "
            f"{direct_m[p]:.4g} m; delays are absolute, not relative to the first path"
        )
    if np.any(length_m > _LONGEST_OF_SCENE * max(scene_m, 1.0)):
        warn_implausible(
            f"{name}: the longest delay is {np.max(delay_s):.4g} s = {np.max(length_m):.4g} m of flight, "
            f"in a scene of {scene_m:.4g} m; delays are in seconds, positions in metres"
        )


def warn_of_implausible_block(
    frequencies_hz: RealArray,
    carrier_hz: float | None,
    array: AntennaArray,
    places_m: RealArray | None,
) -> None:
    """Warn of frequencies and positions that look like those in another unit.

    Parameters
    ----------
    frequencies_hz : ndarray, shape (N,)
        Of the subcarriers, distinct.
    carrier_hz : float, optional
    array : AntennaArray
    places_m : ndarray, shape (P, 3), optional
        Users, and corners of the region, seen from the base station; None where they are not known.

    Raises
    ------
    ValueError
        If subcarriers lie below the frequency zero.
    """
    ordered = np.sort(frequencies_hz)
    span_hz, spacing_hz = float(ordered[-1] - ordered[0]), float(np.median(np.diff(ordered)))
    _check_carrier(ordered, carrier_hz)
    _warn_of_centre(ordered, span_hz)
    _warn_of_spacing(spacing_hz, carrier_hz)
    if places_m is None:
        return
    scene_m = float(np.max(np.linalg.norm(places_m, axis=1)))
    _warn_of_scene(span_hz, scene_m)
    _warn_of_extent(spacing_hz, float(np.linalg.norm(np.ptp(places_m, axis=0))))
    if carrier_hz is not None:
        _warn_of_aperture(array, carrier_hz, scene_m)


def warn_of_implausible_times(times_s: RealArray, frequencies_hz: RealArray) -> None:
    """Warn of symbols (T,) that follow faster than subcarriers (N,) so far apart allow."""
    spacing_hz = float(np.median(np.diff(np.sort(frequencies_hz))))
    apart_s = float(np.min(np.diff(times_s), initial=np.inf))
    if apart_s < _SHORTEST_OF_SYMBOL / spacing_hz:
        warn_implausible(
            f"symbol_times_s are down to {apart_s:.4g} s apart, but an OFDM symbol with subcarriers "
            f"{spacing_hz:.4g} Hz apart lasts at least {1 / spacing_hz:.4g} s; they are centre times in s"
        )


def warn_of_interference(power: RealArray, noise_variance: float) -> None:
    """Warn where users' inter-carrier interference (K,), which is not simulated, would exceed the noise."""
    if power.sum() > noise_variance:
        warn_implausible(
            "inter-carrier interference by Doppler shifts and frequency offsets is left out, but would have "
            f"{power.sum():.3g}, more than the noise's {noise_variance:.3g}, most of it from user "
            f"{np.argmax(power)}; slower users, smaller offsets, wider subcarriers and lower SNR have less"
        )


def _check_carrier(ordered_hz: RealArray, carrier_hz: float | None) -> None:
    """A carrier in GHz or MHz is smaller than the band around it, which no wave can be."""
    if carrier_hz is not None and carrier_hz + ordered_hz[0] <= 0:
        raise ValueError(
            f"carrier_hz must exceed the subcarriers' offsets from it, got {carrier_hz:.4g} Hz with "
            f"subcarrier_frequencies_hz down to {ordered_hz[0]:.4g} Hz; are both in Hz?"
        )


def _warn_of_centre(ordered_hz: RealArray, span_hz: float) -> None:
    centre_hz = float(ordered_hz[0] + ordered_hz[-1]) / 2
    if abs(centre_hz) > 2 * span_hz:
        warn_implausible(
            f"subcarrier_frequencies_hz are centred around {centre_hz:.4g} Hz, far from zero for a span of "
            f"{span_hz:.4g} Hz; they are baseband frequencies, without the carrier"
        )


def _warn_of_spacing(spacing_hz: float, carrier_hz: float | None) -> None:
    """A walk must not carry a wave from one subcarrier into the next; without a carrier, what radio has."""
    if carrier_hz is None:
        if spacing_hz < _NARROWEST_SPACING_HZ:
            warn_implausible(
                f"subcarrier_frequencies_hz are {spacing_hz:.4g} Hz apart, closer than in any radio "
                "standard; they are in Hz, not in kHz or counted"
            )
        return
    doppler_hz = _WALKING_M_S * carrier_hz / SPEED_OF_LIGHT_M_S
    if doppler_hz > _DOPPLER_OF_SPACING * spacing_hz:
        warn_implausible(
            f"subcarrier_frequencies_hz are {spacing_hz:.4g} Hz apart, where walking pace alone shifts a "
            f"carrier of {carrier_hz:.4g} Hz by {doppler_hz:.3g} Hz; they are in Hz, not in kHz or counted"
        )


def _warn_of_scene(span_hz: float, scene_m: float) -> None:
    cell_m = SPEED_OF_LIGHT_M_S / span_hz
    if 2 * scene_m < _SHORTEST_OF_CELL * cell_m:
        warn_implausible(
            f"subcarrier_frequencies_hz span {span_hz:.4g} Hz, which tells lengths of {cell_m:.4g} m apart, "
            f"but users and region_m lie within {scene_m:.4g} m of the base station, so that delays say "
            "little about places; frequencies are in Hz, positions in metres"
        )


def _warn_of_extent(spacing_hz: float, extent_m: float) -> None:
    range_m = SPEED_OF_LIGHT_M_S / spacing_hz
    if 2 * extent_m > _LONGEST_OF_RANGE * range_m:
        warn_implausible(
            f"users and region_m extend over {extent_m:.4g} m, but subcarriers {spacing_hz:.4g} Hz apart "
            f"tell lengths up to {range_m:.4g} m only; frequencies are in Hz, positions in metres"
        )


def _warn_of_aperture(array: AntennaArray, carrier_hz: float, scene_m: float) -> None:
    """A whole scene within the array is one in kilometres."""
    aperture_m = float(np.max(np.ptp(array.element_offsets_m(carrier_hz), axis=0)))
    if scene_m < aperture_m:
        warn_implausible(
            f"users and region_m lie within {scene_m:.4g} m of the base station, closer than its array "
            f"is wide ({aperture_m:.4g} m); positions are in metres, carrier_hz in Hz"
        )
