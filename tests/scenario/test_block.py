"""A simulated block agrees with its truth."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

from helpers.simulated import SMALL, clean_block
from isac_toolbox.channel.array import SPEED_OF_LIGHT_M_S
from isac_toolbox.channel.modulation import qam_constellation


@pytest.mark.parametrize("modulation", ["qpsk", "16qam", "64qam"])
@pytest.mark.parametrize("pattern", ["orthogonal", "comb", "random"])
def test_symbols_agree_with_constellation_pilots_and_mask(modulation, pattern):
    simulation = SMALL.replace(modulation=modulation, pilot_pattern=pattern).simulate(0)
    observation, truth = simulation.observation, simulation.truth
    data = truth.symbol_indices >= 0
    assert_array_equal(data, ~observation.known)
    assert set(np.unique(truth.symbol_indices[~data])) == {-1}
    assert_array_equal(observation.constellation, qam_constellation(modulation))
    assert_array_equal(truth.symbols[data], observation.constellation[truth.symbol_indices[data]])
    assert_array_equal(truth.symbols[~data], observation.pilots[~data])
    assert not observation.pilots[data].any()


@pytest.mark.parametrize("snr_db", [-10.0, 5.0, 30.0])
@pytest.mark.parametrize("power_control", [True, False])
def test_received_less_the_clean_block_is_noise_of_the_right_variance(snr_db, power_control):
    scenario = SMALL.replace(
        snr_db=snr_db, power_control=power_control, n_subcarriers=64, n_data_symbols=30, modulation="16qam"
    )
    simulation = scenario.simulate(2)
    noise = simulation.observation.received - clean_block(simulation)
    variance = np.mean(np.abs(noise) ** 2)
    tolerance = 5 / np.sqrt(noise.size)
    assert variance == pytest.approx(simulation.truth.noise_variance, rel=tolerance)
    power = np.mean(np.abs(simulation.truth.channel) ** 2)
    assert 10 * np.log10(power / simulation.truth.noise_variance) == pytest.approx(snr_db, abs=1e-9)
    assert power == pytest.approx(1)
    # measured: E|sum_k h u|^2 is K times the mean power per user
    received = np.mean(np.abs(clean_block(simulation)) ** 2)
    assert 10 * np.log10(received / 2 / variance) == pytest.approx(snr_db, abs=0.3)


def test_power_control():
    powers = {
        flag: np.mean(np.abs(SMALL.replace(power_control=flag).simulate(4).truth.channel) ** 2, axis=(1, 2))
        for flag in (True, False)
    }
    assert_allclose(powers[True], 1)
    assert np.ptp(powers[False]) > 0.05 and np.mean(powers[False]) == pytest.approx(1)


@given(st.integers(0, 10**6), st.sampled_from(["planar", "spherical"]))
@settings(max_examples=20, deadline=None)
def test_the_channel_is_that_of_the_truths_paths(seed, wavefront):
    """Scaled gains, positions and offsets of the truth reproduce ``truth.channel``."""
    simulation = SMALL.replace(wavefront=wavefront, line_of_sight_probability=0.5).simulate(seed)
    observation, truth = simulation.observation, simulation.truth
    bs, array = observation.bs_position_m, observation.array
    expected = np.zeros_like(truth.channel)
    for k, user in enumerate(truth.user_positions_m):
        targets = [(truth.line_of_sight_gain[k], user)]
        targets += list(zip(truth.scatterer_gain[k], truth.scatterer_positions_m))
        for gain, target in targets:
            direct = np.linalg.norm(target - bs)
            delay = (np.linalg.norm(user - target) + direct) / SPEED_OF_LIGHT_M_S + truth.time_offsets_s[k]
            steering = (
                array.steering((target - bs) / direct)
                if wavefront == "planar"
                else array.spherical_steering(target - bs, observation.carrier_hz)
            )
            b = np.exp(-2j * np.pi * observation.subcarrier_frequencies_hz * delay)
            expected[k] += gain * np.outer(b, steering)
    assert_allclose(truth.channel, expected, atol=1e-9)
    assert_array_equal(truth.visibility, truth.scatterer_gain != 0)
    assert_array_equal(truth.line_of_sight, truth.line_of_sight_gain != 0)
    assert truth.visibility.any(axis=0).all()
    assert np.all(truth.visibility.any(axis=1) | truth.line_of_sight)


def test_the_observation_holds_what_the_scenario_says():
    scenario = SMALL.replace(user_position_std_m=0.7, time_offset_std_s=3e-9, wavefront="spherical")
    observation = scenario.simulate(0).observation
    assert_allclose(np.diff(observation.subcarrier_frequencies_hz), 1.5e6)
    assert abs(observation.subcarrier_frequencies_hz.sum()) < 1e-6
    assert_array_equal(observation.user_position_stds_m, np.full((2, 3), 0.7))
    assert_array_equal(observation.time_offset_stds_s, [3e-9, 3e-9])
    assert (observation.wavefront, observation.carrier_hz) == ("spherical", 3.5e9)
    assert observation.noise_variance is None
    assert observation.received.shape == (8, 6, 6)
    assert_array_equal(observation.region_m, scenario.region_m)
    assert not observation.received.flags.writeable
