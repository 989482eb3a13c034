"""Noise that is not white over the array, and interferers, through EMTurboBiSVBI and the bound."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from numpy.testing import assert_allclose

import isac_toolbox as isac
from helpers.scenes import SMALL, assert_no_nan

INTERFERED = SMALL.replace(n_interferers=1, interferer_power_db=-3.0, n_pilot_symbols=3)
READY = isac.Scenario.load("interfered_uplink")


def gap_db(simulation, result) -> float:
    """Channel NMSE over the bound."""
    nmse_db = isac.metrics.channel_nmse_db(result.channel, simulation.truth.channel)
    return nmse_db - isac.bounds.hybrid_crb(simulation).channel_nmse_db


def noise_of(simulation) -> np.ndarray:
    """Covariance of noise and interference, of trace M."""
    truth, n = simulation.truth, simulation.observation.array.n_elements
    covariance = np.eye(n) if truth.noise_covariance is None else truth.noise_covariance
    total = truth.noise_variance * covariance
    if truth.interference_covariance is not None:
        total = total + truth.interference_covariance
    return total / (np.trace(total).real / n)


def test_interferers_cost_what_the_bound_says():
    simulation = READY.simulate(1)
    truth, result = simulation.truth, isac.EMTurboBiSVBI().estimate(simulation.observation)
    assert gap_db(simulation, result) < 1.0
    found = isac.metrics.localisation(result.scatterer_positions_m, truth.scatterer_positions_m)
    assert found.false_alarms == 0 and found.misses == 0
    assert result.misfit.failing == () and result.warnings == ()
    away = np.arccos(np.clip(result.interferer_directions @ truth.interferer_directions.T, -1, 1))
    assert len(away) == 2 and np.degrees(away.min(axis=0)).max() < 0.2
    power = 0.1 * np.mean(np.abs(truth.channel) ** 2)
    assert_allclose(result.interferer_power, power, rtol=0.15)
    assert_no_nan(result)


def test_learned_is_as_good_as_known():
    simulation = READY.simulate(2)
    obs = simulation.observation
    known = replace(obs, noise_covariance=noise_of(simulation), noise_variance=None)
    learned, told = (isac.EMTurboBiSVBI().estimate(o) for o in (obs, known))
    assert abs(gap_db(simulation, learned) - gap_db(simulation, told)) < 0.2
    assert_allclose(told.noise_covariance, noise_of(simulation), atol=1e-9)
    total = learned.noise_variance * np.trace(learned.noise_covariance).real / 64
    expected = simulation.truth.noise_variance + np.trace(simulation.truth.interference_covariance).real / 64
    assert total == pytest.approx(expected, rel=0.1)


def test_a_known_noise_variance_is_the_mean_over_the_elements():
    simulation = SMALL.replace(noise_spread_db=3.0).simulate(0)
    shape, truth = simulation.truth.noise_covariance, simulation.truth
    obs = replace(simulation.observation, noise_covariance=shape, noise_variance=truth.noise_variance)
    result = isac.EMTurboBiSVBI().estimate(obs)
    assert result.noise_variance == pytest.approx(truth.noise_variance)
    assert result.warnings == () and gap_db(simulation, result) < 3.0


def test_white_noise_may_be_learned_at_no_cost():
    simulation = SMALL.simulate(2)
    obs = simulation.observation
    plain, learned = (
        isac.EMTurboBiSVBI().estimate(o) for o in (obs, replace(obs, noise_covariance="estimate"))
    )
    assert gap_db(simulation, learned) == pytest.approx(gap_db(simulation, plain), abs=0.3)
    assert len(learned.interferer_directions) == 0 and plain.noise_covariance is None


def test_interferers_that_nobody_told_of_are_noticed():
    simulation = READY.simulate(0)
    obs = replace(simulation.observation, noise_covariance=None)
    result = isac.EMTurboBiSVBI().estimate(obs)
    assert gap_db(simulation, result) < 1.5
    assert result.warnings[0].startswith("the noise is not white over the array")
    assert len(result.interferer_directions) == 2


def test_interferers_in_data_that_pilots_leave_no_room_to_learn_from():
    """As many pilots as users: the first shape is what the rough channels leave of all samples."""
    simulation = INTERFERED.replace(n_pilot_symbols=2).simulate(1)
    result = isac.EMTurboBiSVBI().estimate(simulation.observation)
    assert gap_db(simulation, result) < 2.5 and len(result.interferer_directions) == 1


@pytest.mark.parametrize(
    "beside",
    [
        {"element_gain_std": 0.05, "element_phase_std_rad": 0.05},
        {"wavefront": "spherical"},
        {
            "numerology": "30kHz",
            "user_speed_m_s": (1.0, 15.0),
            "pilot_positions": (1, 4, 7),
            "n_data_symbols": 8,
        },
        {"interferer_band_share": 0.4},
    ],
    ids=["elements", "spherical", "motion", "part of the band"],
)
def test_interferers_beside_other_effects(beside):
    simulation = INTERFERED.replace(**beside).simulate(3)
    result = isac.EMTurboBiSVBI().estimate(simulation.observation)
    assert gap_db(simulation, result) < 2.0 and result.misfit.failing == ()
    assert len(result.interferer_directions) == 1
    assert_no_nan(result)


def test_interferers_beside_a_diffuse_part():
    """The diffuse part is lost in the interferer's direction, one of 24 dimensions, and there alone."""
    scenario = INTERFERED.replace(diffuse_power_db=-10.0)
    alone, both = scenario.replace(n_interferers=0).simulate(0), scenario.simulate(0)
    nmse_db = [
        isac.metrics.channel_nmse_db(isac.EMTurboBiSVBI().estimate(s.observation).channel, s.truth.channel)
        for s in (alone, both)
    ]
    lost = 0.1 / 24
    assert nmse_db[1] < 10 * np.log10(10 ** (nmse_db[0] / 10) + lost) + 0.5


def test_missing_elements_beside_interferers():
    simulation = INTERFERED.simulate(0)
    mask = np.arange(24) != 5
    result = isac.EMTurboBiSVBI().estimate(replace(simulation.observation, element_mask=mask))
    nmse_db = isac.metrics.channel_nmse_db(result.channel, simulation.truth.channel)
    assert nmse_db < isac.bounds.hybrid_crb(simulation).channel_nmse_db + 2.5


def test_what_does_not_go_together_is_said():
    obs = replace(SMALL.simulate(0).observation, noise_covariance="estimate")
    mask = np.ones(obs.received.shape, bool)
    mask[3, 2, 1] = False
    result = isac.EMTurboBiSVBI().estimate(replace(obs, sample_mask=mask))
    assert any(text.startswith("noise_covariance: not taken into account") for text in result.warnings)
    music = isac.EMTurboBiSVBI(coarse="music").estimate(obs)
    assert any("MUSIC takes the noise as white" in text for text in music.warnings)


def test_results_keep_their_noise(tmp_path):
    result = isac.EMTurboBiSVBI().estimate(INTERFERED.simulate(0).observation)
    loaded = isac.EstimationResult.load(result.save(tmp_path / "result.npz"))
    for name in ("noise_covariance", "interferer_directions", "interferer_power"):
        assert_allclose(getattr(loaded, name), getattr(result, name))
