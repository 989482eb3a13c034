"""Monostatic links and beam squint: simulation, estimation, bad input."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from numpy.testing import assert_allclose

import isac_toolbox as isac
from isac_toolbox.channel.array import SPEED_OF_LIGHT_M_S

ECHO = isac.Scenario.load("monostatic_echo")
SMALL = {"array_shape": (6, 6), "n_subcarriers": 32, "n_scatterers": 4, "subcarrier_spacing_hz": 3e6}


def nmse_db(result: isac.EstimationResult, simulation) -> float:
    return isac.metrics.channel_nmse_db(result.channel, simulation.truth.channel)


def test_a_monostatic_block_is_known_to_its_station():
    simulation = ECHO.simulate(seed=4)
    obs, truth = simulation.observation, simulation.truth
    assert obs.link == "monostatic"
    assert obs.pilot_mask.all()
    assert np.all(truth.symbol_indices == -1)
    assert not truth.line_of_sight.any()
    assert_allclose(truth.user_positions_m, obs.bs_position_m[None])
    assert_allclose(obs.user_positions_m, obs.bs_position_m[None])
    assert_allclose(truth.time_offsets_s, 0)


def test_monostatic_delays_are_twice_the_range():
    simulation = ECHO.replace(n_scatterers=1).simulate(seed=2)
    obs, truth = simulation.observation, simulation.truth
    offset = truth.scatterer_positions_m[0] - obs.bs_position_m
    distance = np.linalg.norm(offset)
    phase = np.exp(-2j * np.pi * obs.subcarrier_frequencies_hz * 2 * distance / SPEED_OF_LIGHT_M_S)
    expected = truth.scatterer_gain[0, 0] * np.outer(phase, obs.array.steering(offset / distance))
    assert_allclose(truth.channel[0], expected, atol=1e-9)


@pytest.mark.parametrize("coarse", ["nomp", "music"])
def test_echoes_are_found_at_the_bound(coarse):
    simulation = ECHO.replace(snr_db=15.0).simulate(seed=1)
    result = isac.EMTurboBiSVBI(coarse=coarse).estimate(simulation.observation)
    found = isac.metrics.localisation(
        result.scatterer_positions_m, simulation.truth.scatterer_positions_m, max_distance_m=0.5
    )
    assert (found.misses, found.false_alarms) == (0, 0)
    assert_allclose(result.line_of_sight_probability, 0)
    assert np.all(result.scatterer_probability > 0.99)
    assert nmse_db(result, simulation) < isac.bounds.hybrid_crb(simulation).channel_nmse_db + 2.5


@pytest.mark.parametrize("estimator", [isac.NOMP(), isac.MusicSCVBI(), isac.LeastSquares()])
def test_every_estimator_takes_a_monostatic_block(estimator):
    simulation = ECHO.replace(**SMALL).simulate(seed=3)
    result = estimator.estimate(simulation.observation)
    assert np.all(np.isfinite(result.channel))
    assert not np.any(result.line_of_sight_probability > 0.5)


def test_simulated_squint_stretches_the_array_phase():
    scenario = isac.Scenario.load("urban_uplink").replace(n_scatterers=0, beam_squint=True, n_users=1)
    simulation = scenario.simulate(seed=5)
    obs, truth = simulation.observation, simulation.truth
    offset = truth.user_positions_m[0] - obs.bs_position_m
    distance = np.linalg.norm(offset)
    delay = distance / SPEED_OF_LIGHT_M_S + truth.time_offsets_s[0]
    u_h, u_v = obs.array.direction_cosines(offset / distance)
    expected = np.stack(
        [
            np.exp(-2j * np.pi * f * delay)
            * obs.array.steering_from_cosines(u_h * (1 + f / obs.carrier_hz), u_v * (1 + f / obs.carrier_hz))
            for f in obs.subcarrier_frequencies_hz
        ]
    )
    assert_allclose(truth.channel[0], truth.line_of_sight_gain[0] * expected, atol=1e-9)


@pytest.mark.filterwarnings("ignore::isac_toolbox.ImplausibleValueWarning")
def test_squint_vanishes_with_the_bandwidth():
    scenario = isac.Scenario.load("urban_uplink").replace(subcarrier_spacing_hz=1.0)
    narrow = scenario.replace(beam_squint=True).simulate(seed=1).truth.channel
    assert_allclose(narrow, scenario.simulate(seed=1).truth.channel, atol=1e-6)


def test_modelled_squint_costs_nothing_and_ignored_squint_is_found():
    simulation = isac.Scenario.load("urban_uplink").replace(beam_squint=True).simulate(seed=1)
    bound = isac.bounds.hybrid_crb(simulation).channel_nmse_db
    obs = simulation.observation
    modelled = nmse_db(isac.EMTurboBiSVBI().estimate(obs), simulation)
    ignored = isac.EMTurboBiSVBI().estimate(replace(obs, beam_squint=False))
    assert modelled < bound + 1.0 and nmse_db(ignored, simulation) < bound + 1.0
    assert any("beam_squint=True" in text for text in ignored.warnings)
    narrowband = nmse_db(isac.NOMP().estimate(replace(obs, beam_squint=False)), simulation)
    assert narrowband > nmse_db(isac.NOMP().estimate(obs), simulation) + 1.0


def test_squint_survives_storage(tmp_path):
    obs = isac.Scenario.load("urban_uplink").replace(beam_squint=True).simulate(seed=1).observation
    assert isac.UplinkObservation.load(obs.save(tmp_path / "block.npz")).beam_squint is True


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"link": "monostatic"}, "n_users = 1"),
        ({"link": "monostatic", "n_users": 1, "traced": "munich"}, "traced"),
        ({"link": "downlink"}, "link"),
        ({"beam_squint": True, "wavefront": "spherical"}, "beam_squint"),
        ({"beam_squint": 1}, "beam_squint"),
    ],
)
def test_scenarios_refuse_what_is_not_modelled(changes, message):
    with pytest.raises(ValueError, match=message):
        isac.Scenario.load("urban_uplink").replace(**changes)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"link": "monostatic"}, ValueError, "user_positions_m"),
        ({"beam_squint": True, "carrier_hz": None}, ValueError, "carrier_hz"),
        ({"beam_squint": True, "wavefront": "spherical"}, ValueError, "beam_squint"),
        ({"beam_squint": "yes"}, TypeError, "beam_squint"),
    ],
)
def test_observations_refuse_what_is_not_modelled(changes, error, message):
    obs = isac.Scenario.load("urban_uplink").simulate(seed=0).observation
    with pytest.raises(error, match=message):
        replace(obs, **changes)


def test_a_given_environment_is_no_monostatic_link():
    with pytest.raises(ValueError, match="environment"):
        ECHO.simulate(seed=0, environment=isac.load_traced("munich"), users=[0])
