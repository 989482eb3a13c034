"""Errors of arrays, coupling, colour of noise and interferers: by sums, limits and statistics."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.testing import assert_allclose

import isac_toolbox as isac
from isac_toolbox.channel.array import SPEED_OF_LIGHT_M_S
from isac_toolbox.channel.imperfections import (
    coupling_matrix,
    draw_imperfections,
    draw_interference,
    hardware_priors,
    noise_shape,
)

ARRAY = isac.UniformPlanarArray((3, 2), (0.5, 0.7), azimuth_rad=0.4, elevation_rad=-0.2)
DIRECTIONS = np.array([[0.8, 0.6, 0.0], [0.48, 0.6, 0.64], [0.6, 0.0, -0.8]])
CARRIER_HZ = 3.5e9


def drawn(array=ARRAY, seed=0, **fields):
    scenario = isac.Scenario(array_shape=array.shape, n_users=1, **fields)
    return draw_imperfections(scenario, array, np.random.default_rng(seed).spawn(6))


def test_a_perfect_receiver_changes_nothing():
    errors, channel = drawn(), np.ones((2, 6), complex)
    assert errors.mounted(ARRAY) is ARRAY and errors.heard(channel) is channel
    assert errors.coupling is None and errors.noise_covariance is None
    assert hardware_priors(isac.Scenario()) == {}


def test_a_mounted_array_responds_from_where_its_elements_are():
    errors = drawn(array_rotation_std_rad=0.1, element_position_std_wavelengths=0.05)
    mounted = errors.mounted(ARRAY)
    wavelength = SPEED_OF_LIGHT_M_S / CARRIER_HZ
    stated_m = ARRAY.element_offsets_m(CARRIER_HZ)
    expected_m = np.empty_like(stated_m)
    for m, place in enumerate(stated_m):
        own = ARRAY.axes @ place / wavelength + errors.displacements_wavelengths[m]
        turn, angle = errors.rotation_rad, np.linalg.norm(errors.rotation_rad)
        axis = turn / angle  # Rodrigues' formula
        turned = (
            own * np.cos(angle)
            + np.cross(axis, own) * np.sin(angle)
            + axis * (axis @ own) * (1 - np.cos(angle))
        )
        expected_m[m] = wavelength * ARRAY.axes.T @ turned
    assert_allclose(mounted.element_offsets_m(CARRIER_HZ), expected_m, atol=1e-15)
    response = np.exp(2j * np.pi * DIRECTIONS @ expected_m.T / wavelength)
    assert_allclose(mounted.steering(DIRECTIONS), response, atol=1e-12)
    cosines = mounted.direction_cosines(DIRECTIONS)
    assert_allclose(mounted.steering_from_cosines(*cosines), response, atol=1e-12)


@pytest.mark.parametrize(
    ("axis", "moved", "towards"), [(2, 0, 1), (1, 2, 0), (0, 1, 2)], ids=["azimuth", "tilt", "roll"]
)
def test_rotations_are_right_handed_about_the_arrays_own_axes(axis, moved, towards):
    std = [0.0, 0.0, 0.0]
    std[axis] = 0.01
    errors = drawn(array_rotation_std_rad=tuple(std))
    angle = errors.rotation_rad[axis]
    axes = errors.mounted(ARRAY).axes
    assert_allclose(axes[axis], ARRAY.axes[axis], atol=1e-15)
    expected = np.cos(angle) * ARRAY.axes[moved] + np.sin(angle) * ARRAY.axes[towards]
    assert_allclose(axes[moved], expected, atol=1e-15)


def test_phases_are_those_of_the_responses():
    arbitrary = isac.ArbitraryArray(np.random.default_rng(0).uniform(-1, 1, (5, 3)), 0.3)
    for array in (ARRAY, arbitrary):
        cosines = array.direction_cosines(DIRECTIONS)
        assert_allclose(
            np.exp(1j * array.phases(*cosines)), array.steering_from_cosines(*cosines), atol=1e-12
        )


def test_every_effect_draws_from_its_own_stream():
    settings = {
        "element_gain_std": 0.1,
        "element_phase_std_rad": 0.1,
        "n_dead_elements": 2,
        "array_rotation_std_rad": 0.1,
        "element_position_std_wavelengths": 0.1,
        "noise_spread_db": 1.0,
        "n_interferers": 2,
    }
    every = drawn(**settings)
    assert np.count_nonzero(every.element_response == 0) == 2
    assert_allclose(np.trace(every.noise_covariance), 6)
    for left_out in settings:
        fewer = drawn(**{name: value for name, value in settings.items() if name != left_out})
        kept = {
            "array_rotation_std_rad": np.array_equal(fewer.rotation_rad, every.rotation_rad),
            "element_position_std_wavelengths": np.array_equal(
                fewer.displacements_wavelengths, every.displacements_wavelengths
            ),
            "noise_spread_db": np.array_equal(fewer.noise_covariance, every.noise_covariance),
            "n_interferers": np.array_equal(fewer.interferer_directions, every.interferer_directions),
            "n_dead_elements": np.array_equal(fewer.element_response == 0, every.element_response == 0),
        }
        assert all(kept[name] == (name != left_out) for name in kept), left_out


def test_more_interferers_keep_those_that_are_there():
    one, three = drawn(n_interferers=1), drawn(n_interferers=3)
    assert_allclose(three.interferer_directions[:1], one.interferer_directions)
    assert_allclose(np.linalg.norm(three.interferer_directions, axis=1), 1)
    assert np.all(three.interferer_directions @ ARRAY.axes[0] > 0)


def test_coupling_is_that_of_waves_between_elements():
    matrix = coupling_matrix(ARRAY, 0.2, 1.5)
    places = ARRAY.element_offsets_m(CARRIER_HZ) * CARRIER_HZ / SPEED_OF_LIGHT_M_S
    for i, here in enumerate(places):
        for j, there in enumerate(places):
            d = np.linalg.norm(here - there)
            expected = 0.2 * (d / 0.5) ** -1.5 * np.exp(-2j * np.pi * d) if i != j else 1.0
            assert matrix[i, j] == pytest.approx(expected)
    assert coupling_matrix(ARRAY, 0.0, 2.0) is None
    assert coupling_matrix(isac.UniformPlanarArray((1, 1)), 0.2, 2.0) is None


def test_noise_correlates_along_rows_and_columns():
    shape = noise_shape(ARRAY, 0.5, 0.0, np.random.default_rng(0))
    for i in range(6):
        for j in range(6):
            steps = abs(i // 2 - j // 2) + abs(i % 2 - j % 2)
            assert shape[i, j] == pytest.approx(0.5**steps)
    uneven = noise_shape(ARRAY, 0.0, 3.0, np.random.default_rng(0))
    assert np.count_nonzero(uneven - np.diag(np.diag(uneven))) == 0 and np.ptp(np.diag(uneven)) > 0.5


@pytest.mark.parametrize("share", [1.0, 0.25])
@pytest.mark.parametrize("squint", [False, True])
def test_interference_is_a_plane_wave_of_the_power_and_band_that_are_told(share, squint):
    settings = isac.Scenario(
        array_shape=(3, 2),
        n_users=1,
        n_interferers=1,
        interferer_power_db=3.0,
        interferer_band_share=share,
        beam_squint=squint,
        element_phase_std_rad=0.3,
        coupling=0.1,
    )
    errors = draw_imperfections(settings, ARRAY, np.random.default_rng(1).spawn(6))
    frequencies = np.linspace(-2e8, 2e8, 16)
    rng = np.random.default_rng(2)
    wave = draw_interference(settings, errors, ARRAY, frequencies, 2000, 2.0, rng)
    sounds = np.any(wave != 0, axis=(1, 2))
    assert sounds.sum() == round(16 * share) and np.all(np.diff(np.flatnonzero(sounds)) == 1)
    response = errors.heard(ARRAY.steering(errors.interferer_directions))[0]
    power = np.mean(np.abs(wave) ** 2) / np.mean(np.abs(response) ** 2)
    assert power == pytest.approx(2 * 10**0.3, rel=0.05)
    for n in np.flatnonzero(sounds):
        stretch = 1 + frequencies[n] / settings.carrier_hz if squint else 1.0
        plane = np.exp(1j * stretch * ARRAY.phases(*ARRAY.direction_cosines(errors.interferer_directions)))
        along = wave[n] / errors.heard(plane)[0][:, None]
        assert_allclose(along, np.broadcast_to(along[:1], along.shape), atol=1e-9)


def test_priors_are_those_of_the_settings():
    settings = isac.Scenario(
        element_gain_std=0.1,
        element_phase_std_rad=0.2,
        array_rotation_std_rad=(0.0, 0.01, 0.02),
        coupling=0.1,
        n_interferers=1,
    )
    priors = hardware_priors(settings)
    assert priors["noise_covariance"] == "estimate"
    assert priors["array_rotation_std_rad"].tolist() == [0.0, 0.01, 0.02]
    assert [
        float(priors[name]) for name in ("element_gain_std", "element_phase_std_rad", "coupling_std")
    ] == [
        0.1,
        0.2,
        0.1,
    ]
