"""What samples say of the elements, against a Fisher matrix by finite differences."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from numpy.testing import assert_allclose

import isac_toolbox as isac
from helpers.scenes import SMALL
from isac_toolbox.channel.atoms.dense import make_atoms
from isac_toolbox.channel.atoms.scene import Paths, path_parameters
from isac_toolbox.estimators.scene.element_information import element_information
from isac_toolbox.estimators.scene.fit import Fit, evaluate
from isac_toolbox.estimators.scene.problem import Problem
from isac_toolbox.estimators.symbols.block import ReceivedBlock
from isac_toolbox.estimators.symbols.elements import ElementErrors

SCENARIO = SMALL.replace(array_shape=(3, 2), n_subcarriers=8, element_gain_std=0.1, element_phase_std_rad=0.1)


def _fit(obs: isac.UplinkObservation, points_m: np.ndarray) -> Fit:
    elements = ElementErrors.of(obs.hardware, obs.array)
    problem = Problem.on_pilots(obs, ReceivedBlock.of(obs), elements)
    scene = replace(
        replace(problem, noise_precision=20.0).empty_scene(), points_m=points_m, pointing=np.array([1e-3, 0])
    )
    paths = Paths.build(np.ones(2, bool), np.ones((2, len(points_m)), bool), np.zeros(0, np.int64))
    return evaluate(replace(problem, noise_precision=20.0), scene, paths, np.full(len(paths), 0.3))


def test_matrix_by_finite_differences():
    sim = SCENARIO.simulate(0)
    fit = _fit(sim.observation, sim.truth.scatterer_positions_m[:2])
    pilots, n_paths, gains = sim.observation.pilots, len(fit.paths), fit.posterior.mean

    def samples(x: np.ndarray) -> np.ndarray:
        of_paths = x[:n_paths] + 1j * x[n_paths : 2 * n_paths]
        scene = fit.scene.with_vector(x[2 * n_paths : -12])
        parameters = path_parameters(scene, fit.paths, fit.problem.receiver)
        channel = make_atoms(parameters, fit.paths, fit.problem.receiver).synthesise(of_paths, 2)
        heard = channel * np.exp(x[-12:-6] + 1j * x[-6:])
        mean = np.einsum("knm,knt->nmt", heard, pilots).ravel()
        return np.concatenate([mean.real, mean.imag])

    start = np.concatenate([gains.real, gains.imag, fit.scene.vector(), np.zeros(12)])
    steps = 1e-6 * np.eye(start.size)
    slopes = np.stack([(samples(start + s) - samples(start - s)) / 2e-6 for s in steps], axis=1)
    prior = np.concatenate(
        [np.full(2 * n_paths, 2 * 0.3), fit.problem.prior.precision(fit.scene), np.zeros(12)]
    )
    fisher = 2 * 20.0 * slopes.T @ slopes + np.diag(prior)
    hidden = np.ones(start.size, bool)
    hidden[-12:] = False
    hidden[2 * n_paths : -12] = ~fit.problem.prior.known(fit.scene)
    hidden[2 * n_paths :][fit.scene.pointing_block] = False
    across = fisher[-12:, hidden]
    expected = fisher[-12:, -12:] - across @ np.linalg.solve(fisher[np.ix_(hidden, hidden)], across.T)
    told = element_information(fit)
    assert_allclose(told.matrix, expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())


@pytest.mark.parametrize("rotation", [0.0, 0.01])
def test_estimate_is_within_what_the_samples_say(rotation):
    """Errors against the posterior that the information and the prior make."""
    sim = SMALL.replace(
        element_gain_std=0.05, element_phase_std_rad=0.05, array_rotation_std_rad=rotation
    ).simulate(4)
    told = isac.EMTurboBiSVBI().estimate(sim.observation).element_information
    truth = np.log(sim.truth.element_response)
    covariance = np.linalg.inv(told.matrix + np.eye(told.vector.size) / 0.05**2)
    error = covariance @ told.vector - np.concatenate([truth.real, truth.imag])
    assert 0.5 < error @ np.linalg.solve(covariance, error) / error.size < 1.6
    values = np.linalg.eigvalsh(told.matrix)
    assert values[0] > -1e-6 * values[-1]
