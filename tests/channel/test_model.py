"""The multi-user channel against a loop over paths, and its power normalisation."""

from __future__ import annotations

import cmath
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose

from isac_toolbox import Scenario
from isac_toolbox.channel.array import SPEED_OF_LIGHT_M_S, UniformPlanarArray
from isac_toolbox.channel.environment import Environment
from isac_toolbox.channel.model import multi_user_channel, normalise_power, response_towards

CARRIER_HZ = 3.5e9


def random_environment(rng: np.random.Generator, n_users: int = 3, n_points: int = 4) -> Environment:
    """Users, scatterers and further paths; user 0 has no line of sight, some pairs no path."""

    def gains(*shape: int) -> np.ndarray:
        return rng.standard_normal(shape) + 1j * rng.standard_normal(shape)

    los = gains(n_users)
    los[0] = 0
    directions = rng.standard_normal((5, 3))
    return Environment(
        bs_position_m=rng.normal(0, 5, 3),
        user_positions_m=rng.normal([60, 0, 0], 30, (n_users, 3)),
        scatterer_positions_m=rng.normal([40, 0, 0], 20, (n_points, 3)),
        line_of_sight_gain=los,
        scatterer_gain=gains(n_users, n_points) * (rng.random((n_users, n_points)) < 0.6),
        extra_user=rng.integers(0, n_users, 5),
        extra_direction=directions / np.linalg.norm(directions, axis=1, keepdims=True),
        extra_delay_s=rng.uniform(1e-6, 2e-6, 5),
        extra_gain=gains(5),
        region_m=np.array([[-1.0] * 3, [1.0] * 3]),
    )


@pytest.mark.parametrize("wavefront", ["planar", "spherical"])
@given(st.integers(0, 2**32 - 1))
@settings(max_examples=20, deadline=None)
def test_channel_is_the_sum_over_paths(wavefront, seed):
    rng = np.random.default_rng(seed)
    environment = random_environment(rng)
    array = UniformPlanarArray((3, 2), (0.5, 0.6), *rng.uniform(-1, 1, 2))
    frequencies, offsets = rng.normal(0, 2e7, 6), rng.normal(0, 5e-9, 3)
    bs = environment.bs_position_m
    expected = np.zeros((3, 6, 6), complex)

    def add(user: int, gain: complex, delay_s: float, steering: np.ndarray) -> None:
        phase = np.exp(-2j * np.pi * frequencies * (delay_s + offsets[user]))
        expected[user] += gain * phase[:, None] * steering

    def towards(point: np.ndarray) -> np.ndarray:
        if wavefront == "spherical":
            return array.spherical_steering(point - bs, CARRIER_HZ)
        return array.steering((point - bs) / np.linalg.norm(point - bs))

    for k, user in enumerate(environment.user_positions_m):
        length = np.linalg.norm(user - bs)
        add(k, environment.line_of_sight_gain[k], length / SPEED_OF_LIGHT_M_S, towards(user))
        for q, point in enumerate(environment.scatterer_positions_m):
            length = np.linalg.norm(user - point) + np.linalg.norm(point - bs)
            add(k, environment.scatterer_gain[k, q], length / SPEED_OF_LIGHT_M_S, towards(point))
    for p, k in enumerate(environment.extra_user):
        steering = array.steering(environment.extra_direction[p])
        add(k, environment.extra_gain[p], environment.extra_delay_s[p], steering)

    channel = multi_user_channel(environment, array, frequencies, offsets, wavefront, CARRIER_HZ)
    assert_allclose(channel, expected, atol=1e-9)


def formula(truth, obs, offset_s: float, user: int, frequency_hz: float, element: tuple[int, int]) -> complex:
    """One entry of the channel after section 1 of docs/theory.md, number by number."""
    azimuth, elevation = obs.array.azimuth_rad, obs.array.elevation_rad
    horizontal = (-math.sin(azimuth), math.cos(azimuth), 0.0)
    vertical = (
        -math.sin(elevation) * math.cos(azimuth),
        -math.sin(elevation) * math.sin(azimuth),
        math.cos(elevation),
    )
    (n_h, n_v), (d_h, d_v) = obs.array.shape, obs.array.spacings
    m_h, m_v = element[0] - (n_h - 1) / 2, element[1] - (n_v - 1) / 2
    wavelength = SPEED_OF_LIGHT_M_S / obs.carrier_hz
    station, environment = tuple(obs.bs_position_m), truth.environment

    def phase_of(direction) -> float:
        u_h, u_v = (sum(a * b for a, b in zip(direction, axis)) for axis in (horizontal, vertical))
        stretch = 1 + frequency_hz / obs.carrier_hz if obs.beam_squint else 1.0
        return 2 * math.pi * (d_h * m_h * u_h + d_v * m_v * u_v) * stretch

    def response(point) -> complex:
        distance = math.dist(point, station)
        if obs.wavefront == "planar":
            direction = [(p - b) / distance for p, b in zip(point, station)]
            return cmath.exp(1j * phase_of(direction))
        moved = [
            b + wavelength * (d_h * m_h * h + d_v * m_v * v) for b, h, v in zip(station, horizontal, vertical)
        ]
        return cmath.exp(-2j * math.pi / wavelength * (math.dist(point, moved) - distance))

    def delay(seconds: float) -> complex:
        return cmath.exp(-2j * math.pi * frequency_hz * (seconds + offset_s))

    place = tuple(environment.user_positions_m[user])
    total = truth.line_of_sight_gain[user] * delay(math.dist(place, station) / SPEED_OF_LIGHT_M_S)
    total *= response(place)
    for gain, point in zip(truth.scatterer_gain[user], environment.scatterer_positions_m):
        length = math.dist(place, point) + math.dist(point, station)
        total += gain * delay(length / SPEED_OF_LIGHT_M_S) * response(tuple(point))
    for p in np.flatnonzero(environment.extra_user == user):
        gain = truth.unlocated_paths.gain[p]
        steering = cmath.exp(1j * phase_of(environment.extra_direction[p]))
        total += gain * delay(environment.extra_delay_s[p]) * steering
    return total


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"azimuth_rad": 0.7, "elevation_rad": -0.3},
        {"wavefront": "spherical", "elevation_rad": 0.2},
        {"beam_squint": True, "azimuth_rad": -2.5},
        {"spacing_wavelengths": 0.7, "carrier_hz": 28e9},
        {"traced": "munich", "elevation_rad": 0.1, "azimuth_rad": 1.0},
        {"traced": "munich", "beam_squint": True},
    ],
)
def test_a_simulated_block_is_the_formula_of_the_theory(fields):
    """Neither arrays nor geometry of the package take part in what is expected."""
    scenario = Scenario(array_shape=(3, 2), n_subcarriers=5, n_users=2, n_scatterers=3, snr_db=300, **fields)
    sim = scenario.simulate(4)
    obs, truth = sim.observation, sim.truth
    frequencies_hz = [(n - 2.0) * scenario.subcarrier_spacing_hz for n in range(5)]
    expected = np.zeros((2, 5, 6), complex)
    for k, n, i_h, i_v in np.ndindex(2, 5, 3, 2):
        offset_s = float(truth.time_offsets_s[k])
        expected[k, n, i_h * 2 + i_v] = formula(truth, obs, offset_s, k, frequencies_hz[n], (i_h, i_v))
    assert_allclose(truth.channel, expected, atol=1e-10)
    for n, m, t in np.ndindex(obs.received.shape):
        sample = sum(expected[k, n, m] * truth.symbols[k, n, t] for k in range(2))
        assert abs(obs.received[n, m, t] - sample) < 1e-9


def test_a_user_without_paths_has_a_zero_channel():
    environment = random_environment(np.random.default_rng(0))
    environment.scatterer_gain[0] = 0
    environment.extra_user[environment.extra_user == 0] = 1
    channel = multi_user_channel(
        environment, UniformPlanarArray((2, 2)), np.array([-1e6, 0.0, 1e6]), np.zeros(3)
    )
    assert not channel[0].any() and channel[1:].any(axis=(1, 2)).all()


def test_spherical_responses_need_a_carrier():
    with pytest.raises(ValueError, match="carrier_hz"):
        response_towards(np.ones((1, 3)), UniformPlanarArray((2, 2)), np.zeros(3), "spherical")


def test_power_control_gives_every_user_unit_mean_power():
    rng = np.random.default_rng(0)
    channel = (rng.standard_normal((3, 8, 4)) + 1j) * np.array([0.1, 1.0, 7.0])[:, None, None]
    controlled = channel * normalise_power(channel, True)[:, None, None]
    assert_allclose(np.mean(np.abs(controlled) ** 2, axis=(1, 2)), 1)
    common = channel * normalise_power(channel, False)[:, None, None]
    powers = np.mean(np.abs(common) ** 2, axis=(1, 2))
    assert_allclose(np.mean(powers), 1)
    raw = np.mean(np.abs(channel) ** 2, axis=(1, 2))
    assert_allclose(powers / powers[0], raw / raw[0])
