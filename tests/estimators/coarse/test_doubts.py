"""Priors that the samples refuse are widened and named; those that they allow are kept."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

import isac_toolbox as isac
from isac_toolbox.estimators.coarse.doubts import without_refused_noise
from isac_toolbox.estimators.scene.problem import Problem
from isac_toolbox.estimators.symbols.block import ReceivedBlock

UPLINK = isac.Scenario.load("urban_uplink").replace(snr_db=20)
#: Subcarriers so narrow that delays are known up to some microseconds.
NARROW = UPLINK.replace(n_subcarriers=264, subcarrier_spacing_hz=360e3)


def late(simulation, seconds: float):
    """The block with all samples delayed, and its true channel."""
    turn = np.exp(-2j * np.pi * simulation.observation.subcarrier_frequencies_hz * seconds)
    observation = replace(
        simulation.observation, received=simulation.observation.received * turn[:, None, None]
    )
    return observation, simulation.truth.channel * turn[:, None]


def as_good_as_the_bound(simulation, result, channel) -> bool:
    bound_db = isac.bounds.hybrid_crb(simulation).channel_nmse_db
    return isac.metrics.channel_nmse_db(result.channel, channel) < bound_db + 2.5


def hits(simulation, result) -> tuple[int, int]:
    found = isac.metrics.localisation(result.scatterer_positions_m, simulation.truth.scatterer_positions_m)
    return found.misses, found.false_alarms


@pytest.mark.parametrize("delay_ns", [-300, -100, 150, 600])
@pytest.mark.parametrize("n_users", [1, 3])
def test_samples_far_later_or_earlier_than_the_clocks_allow(delay_ns, n_users):
    """Simulators that give delays relative to the first path; once NMSE 0 dB, "converged"."""
    simulation = NARROW.replace(n_users=n_users).simulate(1)
    observation, channel = late(simulation, delay_ns * 1e-9)
    result = isac.EMTurboBiSVBI().estimate(observation)
    assert as_good_as_the_bound(simulation, result, channel)
    assert hits(simulation, result) == (0, 0)
    assert any("time_offset_std_s" in text and str(list(range(n_users))) in text for text in result.warnings)
    expected = simulation.truth.time_offsets_s + delay_ns * 1e-9
    errors = np.abs(result.time_offsets_s - expected)
    assert np.all(errors < 4 * result.time_offset_std_s) and np.all(errors < 5e-9)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_users_far_from_their_stated_places(seed):
    simulation = UPLINK.simulate(seed)
    signs = np.random.default_rng(seed).choice([-1.0, 1.0], (3, 2))
    moved = simulation.observation.user_positions_m + np.column_stack([6 * signs, np.zeros(3)])
    result = isac.EMTurboBiSVBI().estimate(replace(simulation.observation, user_positions_m=moved))
    assert hits(simulation, result) == (0, 0)
    assert any("user_position_std_m" in text and "[0, 1, 2]" in text for text in result.warnings)
    errors = np.linalg.norm(result.user_positions_m - simulation.truth.user_positions_m, axis=1)
    assert np.all(errors < 1.5)


@pytest.mark.parametrize("factor", [1e-2, 30.0])
def test_noise_that_is_not_what_was_stated(factor):
    simulation = UPLINK.simulate(0)
    stated = simulation.truth.noise_variance * factor
    result = isac.EMTurboBiSVBI().estimate(replace(simulation.observation, noise_variance=stated))
    assert hits(simulation, result) == (0, 0)
    assert result.noise_variance == pytest.approx(simulation.truth.noise_variance, rel=0.1)
    (text,) = result.warnings
    assert text.startswith("noise_variance") and ("above" in text) == (factor < 1)


def test_noise_that_is_what_was_stated_is_kept():
    simulation = UPLINK.simulate(0)
    stated = simulation.truth.noise_variance * 1.1
    result = isac.EMTurboBiSVBI().estimate(replace(simulation.observation, noise_variance=stated))
    assert result.noise_variance == pytest.approx(stated) and result.warnings == ()


@pytest.mark.parametrize(("ratio", "refused"), [(0.4, True), (0.6, False), (1.9, False), (2.1, True)])
def test_the_noise_is_refused_beyond_a_factor_of_two(ratio, refused):
    observation = UPLINK.simulate(0).observation
    problem = Problem.on_pilots(observation, ReceivedBlock.of(observation))
    stated = replace(problem, noise_known=True, noise_precision=4.0)
    kept, warnings = without_refused_noise(stated, ratio / 4.0)
    assert bool(warnings) == refused and kept.noise_known == (not refused)
    assert kept.noise_precision == pytest.approx(4.0 / ratio if refused else 4.0)
    assert without_refused_noise(problem, 7.0) == (problem, [])


@pytest.mark.parametrize("seed", range(6))
def test_blocked_lines_of_sight_refuse_no_prior(seed):
    """A user without a line of sight has a strongest path that is none; its place stays as stated."""
    simulation = UPLINK.replace(line_of_sight_probability=0.4).simulate(seed)
    result = isac.EMTurboBiSVBI().estimate(simulation.observation)
    assert not any("std" in text for text in result.warnings)
    assert hits(simulation, result)[1] == 0


@pytest.mark.parametrize("degrees", [3.0])
@pytest.mark.parametrize("seed", [0, 1])
def test_a_tilted_array_is_said(degrees, seed):
    observation = UPLINK.simulate(seed).observation
    array = observation.array
    tilted = replace(array, elevation_rad=array.elevation_rad + np.deg2rad(degrees))
    result = isac.EMTurboBiSVBI().estimate(replace(observation, array=tilted))
    assert any("orientation" in text for text in result.warnings)
