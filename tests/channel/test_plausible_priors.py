"""Priors in other units are said by name; those of unusual hardware and motion are not."""

from __future__ import annotations

import warnings
from dataclasses import replace

import numpy as np
import pytest

import isac_toolbox as isac
from helpers.scenes import SMALL

MOVING = SMALL.replace(symbol_period_s=1e-4, frequency_offset_std_hz=100.0, user_speed_m_s=3.0)


@pytest.fixture(scope="module")
def block() -> isac.UplinkObservation:
    return MOVING.simulate(0).observation


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"time_offset_std_s": 5.0}, r"time_offset_std_s is 5 s.*not nanoseconds"),
        ({"time_offset_std_s": [1e-9, 5e-3]}, r"time_offset_std_s is 0\.005 s"),
        ({"element_phase_std_rad": 5.0}, r"element_phase_std_rad is 5.*not degrees"),
        ({"element_gain_std": 1.0}, r"element_gain_std is 1,.*not decibels or percent"),
        ({"array_rotation_std_rad": [0.0, 0.0, 1.0]}, r"array_rotation_std_rad is 1,.*not degrees"),
        ({"coupling_std": 20.0}, r"coupling_std is 20.*not decibels"),
        ({"iq_image_std": 25.0}, r"iq_image_std is 25.*not decibels"),
        ({"user_iq_image_std": 5.0}, r"user_iq_image_std is 5.*not decibels"),
        ({"phase_noise_std_rad": 2.0}, r"^phase_noise_std_rad is 2.*not degrees"),
        ({"user_phase_noise_std_rad": 2.0}, r"^user_phase_noise_std_rad is 2"),
        ({"frequency_offset_std_hz": 2e6}, r"frequency_offset_std_hz is 2e\+06.*in Hz"),
        ({"user_velocity_std_m_s": 5e4}, r"user_velocity_std_m_s is 5e\+04.*m/s"),
        ({"user_velocities_m_s": np.full((2, 3), -5e4)}, r"user_velocities_m_s is 5e\+04"),
        ({"scatterer_velocity_std_m_s": 5e4}, r"scatterer_velocity_std_m_s is 5e\+04"),
        ({"symbol_times_s": np.arange(8)}, r"symbol_times_s extend over 7 s.*not counted"),
        (
            {"array": isac.UniformPlanarArray((6, 4), azimuth_rad=30.0)},
            r"array\.azimuth_rad is 30.*not degrees",
        ),
        ({"array": isac.UniformPlanarArray((6, 4), elevation_rad=-10.0)}, r"array\.elevation_rad is -10"),
        ({"array": isac.UniformPlanarArray((6, 4), 43.0)}, r"spacing_wavelengths is 43.*millimetres"),
        ({"array": isac.UniformPlanarArray((6, 4), (0.5, 0.043))}, r"spacing_wavelengths is 0\.043.*metres"),
    ],
)
def test_other_units_are_said_once(block, changes, said):
    with pytest.warns(isac.ImplausibleValueWarning, match=said) as caught:
        replace(block, **changes)
    assert len(caught) == 1 and caught[0].filename.endswith(
        "dataclasses.py"
    )  # as close to the caller as can be


def test_panels_in_degrees_are_said(block):
    faces = [isac.UniformPlanarArray((3, 4), azimuth_rad=angle) for angle in (380.0, 380.3)]
    mast = isac.PanelArray(faces, [[0.0, 1.0, 0.0], [0.0, -1.0, 0.0]], carrier_hz=3.5e9)
    with pytest.warns(isac.ImplausibleValueWarning, match="array.azimuth_rad is 380"):
        replace(block, array=mast)


@pytest.mark.parametrize(
    "changes",
    [
        {"time_offset_std_s": 5e-6},
        {"element_phase_std_rad": np.pi / np.sqrt(3), "element_gain_std": 0.5},
        {"array_rotation_std_rad": 0.1, "coupling_std": 0.5},
        {"phase_noise_std_rad": 0.5, "user_phase_noise_std_rad": 0.5, "frequency_offset_std_hz": 5e4},
        {"user_velocities_m_s": np.full((2, 3), 4e3), "scatterer_velocity_std_m_s": 7e3},
        {"symbol_times_s": 0.05 * np.arange(8)},
        {"array": isac.UniformPlanarArray((6, 4), 10.0, azimuth_rad=-np.pi, elevation_rad=np.pi / 2)},
    ],
)
def test_unusual_priors_are_not(block, changes):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        replace(block, **changes)


def test_symbols_far_apart_in_a_block_that_stands_still_are_not(block):
    still = dict.fromkeys(("frequency_offset_std_hz", "user_velocities_m_s", "user_velocity_std_m_s"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        replace(block, symbol_times_s=np.arange(8.0), scatterer_velocity_std_m_s=None, **still)


@pytest.mark.parametrize(
    ("field", "value"),
    [("delay_spread_s", 100.0), ("diffuse_decay_s", 100.0), ("cluster_azimuth_spread_rad", 30.0)],
)
def test_scenarios_in_nanoseconds_and_degrees_are_refused(field, value):
    with pytest.raises(ValueError, match=field):
        SMALL.replace(**{field: value})


@pytest.mark.parametrize("name", ["azimuth_rad", "elevation_rad"])
def test_angles_are_unlikely_right_beyond_those_that_there_are(name, block):
    """A whole turn of azimuth, a right angle of elevation, and nothing above."""
    largest = 2 * np.pi if name == "azimuth_rad" else np.pi / 2
    with warnings.catch_warnings():
        warnings.simplefilter("error", isac.ImplausibleValueWarning)
        replace(block, array=isac.UniformPlanarArray((6, 4), **{name: -largest}))
    with pytest.warns(isac.ImplausibleValueWarning, match=rf"array\.{name}"):
        replace(block, array=isac.UniformPlanarArray((6, 4), **{name: 1.001 * largest}))


def test_the_order_of_tones_does_not_matter(block):
    """Of tones in any other order the differences are no spacing."""
    order = np.arange(len(block.subcarrier_frequencies_hz))[::-1]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        replace(
            block,
            received=block.received[order],
            pilots=block.pilots[:, order],
            pilot_mask=block.pilot_mask[..., order, :],
            subcarrier_frequencies_hz=block.subcarrier_frequencies_hz[order],
        )
