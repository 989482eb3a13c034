"""Priors that look like those in another unit: degrees, decibels, percent, nanoseconds, kilohertz."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from isac_toolbox.channel.array import AntennaArray, UniformPlanarArray
from isac_toolbox.channel.panels import PanelArray
from isac_toolbox.channel.plausibility import warn_implausible

__all__ = [
    "warn_of_implausible_array",
    "warn_of_implausible_clocks",
    "warn_of_implausible_hardware",
    "warn_of_implausible_motion",
]

RealArray = NDArray[np.float64]

# Phases of which nothing is known are uniform and deviate by pi / sqrt(3), rounded up.
_UNKNOWN_PHASE_RAD = 1.82
# The model of a turned array is one of small angles.
_LARGEST_ROTATION_RAD = 0.25
# Gains that deviate by a factor of two or a half, 6 dB, are not those of one kind of element.
_LARGEST_GAIN = 0.7
# A neighbour that couples as strongly as the element itself.
_LARGEST_COUPLING = 1.0
# An image as strong as the signal.
_LARGEST_IMAGE = 1.0
# Clocks that no cyclic prefix would catch: a prefix is a small part of a symbol.
_LATEST_OF_SYMBOL = 30.0
# Satellites in low orbits have 8 km/s.
_FASTEST_M_S = 1.2e4
# Over longer blocks neither velocities nor path lengths are constant.
_LONGEST_BLOCK_S = 0.5
# Elements closer or farther apart are no array for this carrier.
_SPACING_WAVELENGTHS = (0.1, 20.0)


def warn_of_implausible_array(array: AntennaArray) -> None:
    """Warn of angles in degrees, and of spacings in metres or millimetres."""
    panels = array.panels if isinstance(array, PanelArray) else (array,)
    for panel in panels:
        for name, largest in (("azimuth_rad", 2 * np.pi), ("elevation_rad", np.pi / 2)):
            angle = float(getattr(panel, name))
            if abs(angle) > largest * (1 + 1e-9):
                warn_implausible(
                    f"array.{name} is {angle:.4g}, beyond {largest:.3g} rad: in radians, not degrees"
                )
        if isinstance(panel, UniformPlanarArray):
            _warn_of_spacings(panel)


def _warn_of_spacings(panel: UniformPlanarArray) -> None:
    low, high = _SPACING_WAVELENGTHS
    used = [spacing for spacing, count in zip(panel.spacings, panel.shape, strict=True) if count > 1]
    for spacing in [spacing for spacing in used if not low <= spacing <= high][:1]:
        warn_implausible(
            f"array.spacing_wavelengths is {spacing:.4g}, where elements are {low:g} to {high:g} wavelengths "
            "apart; it is in wavelengths, not metres or millimetres"
        )


def warn_of_implausible_clocks(time_offset_std_s: RealArray, frequencies_hz: RealArray) -> None:
    """Warn of clocks that are off by many OFDM symbols, as those in nanoseconds are."""
    symbol_s = 1 / float(np.median(np.diff(np.sort(frequencies_hz))))
    largest = float(np.max(time_offset_std_s))
    if largest > _LATEST_OF_SYMBOL * symbol_s:
        warn_implausible(
            f"time_offset_std_s is {largest:.4g} s, which is {largest / symbol_s:.3g} times the period in "
            f"delay of subcarriers {1 / symbol_s:.4g} Hz apart; it is in seconds, not nanoseconds"
        )


def warn_of_implausible_hardware(values: Mapping[str, Any]) -> None:
    """Warn of element errors in degrees, decibels or percent, among the ``HARDWARE_FIELDS`` given."""
    for name, largest, why in (
        ("element_gain_std", _LARGEST_GAIN, "relative deviations, not decibels or percent"),
        ("element_phase_std_rad", _UNKNOWN_PHASE_RAD, f"more than phases at random have; {_RADIANS}"),
        ("array_rotation_std_rad", _LARGEST_ROTATION_RAD, f"small angles are modelled; {_RADIANS}"),
        ("coupling_std", _LARGEST_COUPLING, "relative to the element itself, not decibels or percent"),
        ("panel_phase_std_rad", _UNKNOWN_PHASE_RAD, f"more than phases at random have; {_RADIANS}"),
        ("iq_image_std", _LARGEST_IMAGE, "relative to the signal, not decibels or percent"),
        ("user_iq_image_std", _LARGEST_IMAGE, "relative to the signal, not decibels or percent"),
    ):
        _warn_above(name, values.get(name), largest, why)


def warn_of_implausible_motion(values: Mapping[str, Any], frequencies_hz: RealArray) -> None:
    """Warn of motion in other units, among the ``MOTION_FIELDS`` given."""
    for name in ("phase_noise_std_rad", "user_phase_noise_std_rad"):
        _warn_above(
            name, values.get(name), _UNKNOWN_PHASE_RAD, f"more than phases at random have; {_RADIANS}"
        )
    for name in ("user_velocities_m_s", "user_velocity_std_m_s", "scatterer_velocity_std_m_s"):
        _warn_above(name, values.get(name), _FASTEST_M_S, "faster than satellites; velocities are in m/s")
    spacing_hz = float(np.median(np.diff(np.sort(frequencies_hz))))
    _warn_above(
        "frequency_offset_std_hz",
        values.get("frequency_offset_std_hz"),
        spacing_hz / 2,
        f"more than half the {spacing_hz:.4g} Hz from subcarrier to subcarrier; offsets are in Hz",
    )
    times = values.get("symbol_times_s")
    turns = any(np.any(value) for name, value in values.items() if name != "symbol_times_s")
    if times is not None and turns and np.ptp(times) > _LONGEST_BLOCK_S:
        warn_implausible(
            f"symbol_times_s extend over {np.ptp(times):.4g} s, longer than anything moves evenly; they are "
            "in seconds, not counted or in microseconds"
        )


_RADIANS = "in radians, not degrees"


def _warn_above(name: str, value: Any, largest: float, why: str) -> None:
    found = 0.0 if value is None else float(np.max(np.abs(value)))
    if found > largest:
        warn_implausible(f"{name} is {found:.4g}, above {largest:.3g}: {why}")
