"""Arrays that are not calibrated or stand otherwise than stated, through EMTurboBiSVBI and the bound."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from numpy.testing import assert_allclose

import isac_toolbox as isac
from helpers.scenes import SMALL, assert_no_nan
from isac_toolbox.channel.atoms.dense import Measurements
from isac_toolbox.estimators.scene.fit import evaluate
from isac_toolbox.estimators.scene.problem import Problem
from isac_toolbox.estimators.symbols.block import ReceivedBlock

URBAN = isac.Scenario.load("urban_uplink").replace(snr_db=20.0)
OFF = URBAN.replace(element_gain_std=0.05, element_phase_std_rad=0.1)


def test_unknown_elements_cost_what_the_bound_says():
    simulation = OFF.simulate(3)
    result, bound = isac.EMTurboBiSVBI().estimate(simulation.observation), isac.bounds.hybrid_crb(simulation)
    nmse_db = isac.metrics.channel_nmse_db(result.channel, simulation.truth.channel)
    assert abs(nmse_db - bound.channel_nmse_db) < 1.0
    assert bound.channel_nmse_db > isac.bounds.hybrid_crb(URBAN.simulate(3)).channel_nmse_db + 3
    found = isac.metrics.localisation(result.scatterer_positions_m, simulation.truth.scatterer_positions_m)
    assert found.false_alarms == 0 and found.misses <= 1
    assert result.misfit.failing == () and result.warnings == ()
    assert_no_nan(result)


def test_responses_are_found_but_for_what_paths_and_places_have():
    simulation = OFF.simulate(3)
    result = isac.EMTurboBiSVBI().estimate(simulation.observation)
    ratio = np.log(result.element_response / simulation.truth.element_response)
    array = simulation.observation.array
    columns = np.column_stack(
        [np.ones(array.n_elements), *(s.ravel() for s in np.meshgrid(*array.phase_slopes, indexing="ij"))]
    )
    left = ratio.imag - columns @ np.linalg.lstsq(columns, ratio.imag, rcond=None)[0]
    assert np.std(left) < 0.02 and np.std(ratio.real) < 0.02
    assert np.all(result.element_response_std > 0)


def test_results_keep_their_elements(tmp_path):
    result = isac.EMTurboBiSVBI().estimate(OFF.simulate(0).observation)
    loaded = isac.EstimationResult.load(result.save(tmp_path / "result.npz"))
    assert_allclose(loaded.element_response, result.element_response)
    assert_allclose(loaded.element_response_std, result.element_response_std)


def test_a_known_response_is_divided_out():
    simulation = SMALL.simulate(2)
    obs = simulation.observation
    response = np.exp(0.3j * np.arange(obs.array.n_elements) ** 2)
    turned = replace(obs, received=obs.received * response[:, None], element_response=response)
    plain, known = (isac.EMTurboBiSVBI().estimate(o) for o in (obs, turned))
    assert_allclose(known.channel, plain.channel * response, rtol=1e-6, atol=1e-9)
    assert_allclose(known.scatterer_positions_m, plain.scatterer_positions_m, atol=1e-6)


def test_a_turned_array_is_in_the_ellipsoids():
    """Turned by a degree: places wrong by a metre without the prior, within their ellipsoids with it."""
    simulation = URBAN.replace(array_rotation_std_rad=0.017).simulate(1)
    obs, truth = simulation.observation, simulation.truth
    result = isac.EMTurboBiSVBI().estimate(obs)
    away = np.linalg.norm(result.scatterer_positions_m[:, None] - truth.scatterer_positions_m, axis=2)
    error = result.scatterer_positions_m - truth.scatterer_positions_m[away.argmin(axis=1)]
    inverse = np.linalg.inv(result.scatterer_covariance_m2)
    assert np.median(np.einsum("si,sij,sj->s", error, inverse, error)) < 11.3
    ignorant = isac.EMTurboBiSVBI().estimate(replace(obs, array_rotation_std_rad=None))
    assert np.trace(result.scatterer_covariance_m2.mean(axis=0)) > 4 * np.trace(
        ignorant.scatterer_covariance_m2.mean(axis=0)
    )


def test_gradient_with_pointing_and_turn():
    """The half gradient of the objective against finite differences."""
    obs = replace(SMALL.simulate(0).observation, element_phase_std_rad=0.05, array_rotation_std_rad=0.01)
    problem = replace(Problem.on_pilots(obs, ReceivedBlock.of(obs)), noise_precision=30.0)
    truth = SMALL.simulate(0).truth
    scene = replace(
        problem.empty_scene(), points_m=truth.scatterer_positions_m + 0.2, pointing=np.array([2e-3, -1e-3])
    )
    from isac_toolbox.channel.atoms.scene import Paths

    paths = Paths.build(np.ones(2, bool), np.ones((2, 3), bool), np.zeros(0, np.int64))
    fit = evaluate(problem, scene, paths, np.full(len(paths), 0.1))
    assert isinstance(problem.data, Measurements)
    _, gradient = fit.normal_equations
    vector = scene.vector()
    for entry in (0, 4, 9, 12, scene.pointing_block.start, scene.pointing_block.start + 1):
        step = np.zeros(vector.size)
        step[entry] = 1e-5
        up, down = (
            evaluate(problem, scene.with_vector(vector + s * step), paths, np.full(len(paths), 0.1)).objective
            for s in (1, -1)
        )
        assert_allclose((up - down) / 4e-5, gradient[entry], rtol=2e-3, atol=1e-3)


@pytest.mark.parametrize("estimator", [isac.NOMP(), isac.LeastSquares(), isac.MusicSCVBI()])
def test_others_say_that_they_take_the_array_as_ideal(estimator):
    result = estimator.estimate(replace(SMALL.simulate(0).observation, element_phase_std_rad=0.05))
    assert any("takes the array as ideal" in text for text in result.warnings)


def test_what_nobody_models_is_said():
    obs = replace(SMALL.simulate(0).observation, coupling_std=0.05, beam_squint=True)
    result = isac.EMTurboBiSVBI().estimate(obs)
    assert any(text.startswith("coupling_std: not taken into account") for text in result.warnings)


def test_the_bound_refuses_what_it_does_not_know():
    simulation = OFF.replace(array_rotation_std_rad=0.01).simulate(0)
    with pytest.raises(ValueError, match="the bound takes element errors"):
        isac.bounds.hybrid_crb(simulation)
