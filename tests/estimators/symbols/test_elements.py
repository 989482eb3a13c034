"""Elements' responses: the step by brute force, what it leaves out, priors, slopes."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.testing import assert_allclose

import isac_toolbox as isac
from helpers.scenes import SMALL, complex_normal, with_arguments
from isac_toolbox.estimators.symbols.elements import ElementErrors, phase_slopes, slope_stds

ARRAY = isac.UniformPlanarArray((4, 3))


def errors_of(**given) -> ElementErrors:
    obs = with_arguments(SMALL.simulate(0).observation, **given)
    elements = ElementErrors.of(obs.hardware, obs.array)
    assert elements is not None
    return elements


def test_nothing_is_learned_of_an_ideal_array():
    obs = SMALL.simulate(0).observation
    assert ElementErrors.of(obs.hardware, obs.array) is None
    assert not slope_stds(obs.hardware, obs.array).any()


def test_one_step_finds_small_errors_without_their_mean_and_slopes():
    elements = errors_of(element_gain_std=0.1, element_phase_std_rad=0.1)
    rng, n = np.random.default_rng(1), elements.gain_stds.size
    log = 1e-3 * complex_normal(rng, n)
    energy = rng.uniform(1, 2, n)
    found = elements.refined(energy * log, energy, precision=1e12)
    slopes = np.column_stack([np.ones(n), *phase_slopes(SMALL.simulate(0).observation.array)])
    left = log.imag - slopes @ np.linalg.lstsq(slopes, log.imag, rcond=None)[0]
    assert_allclose(found.log_response.real, log.real - log.real.mean(), atol=1e-9)
    assert_allclose(found.log_response.imag, left, atol=1e-9)
    assert_allclose(slopes.T @ found.log_response.imag, 0, atol=1e-12)


def test_priors_shrink_what_noise_hides():
    elements = errors_of(element_gain_std=0.02, element_phase_std_rad=0.05)
    energy = np.full(elements.gain_stds.size, 3.0)
    left = np.linspace(-1, 1, energy.size) * (1 + 1j)
    found = elements.refined(left, energy, precision=10.0)
    information = 2 * 10.0 * 3.0
    assert_allclose(found.log_stds[0], 1 / np.sqrt(information + 0.02**-2))
    assert_allclose(found.log_stds[1], 1 / np.sqrt(information + 0.05**-2))
    wanted = 20.0 * left.real / (information + 0.02**-2)
    assert_allclose(found.log_response.real, wanted - wanted.mean(), atol=1e-12)


def test_known_elements_keep_their_response():
    elements = errors_of(element_response=np.exp(0.1j * np.arange(24)))
    found = elements.refined(np.ones(24, complex), np.ones(24), 1.0)
    assert_allclose(found.response, np.exp(0.1j * np.arange(24)))
    assert not found.log_stds.any()


def test_slopes_of_random_phases():
    """The deviation of the slopes that least squares finds in independent phases."""
    obs = with_arguments(SMALL.simulate(0).observation, element_phase_std_rad=0.1)
    slopes = np.column_stack(phase_slopes(obs.array))
    phases = 0.1 * np.random.default_rng(0).standard_normal((slopes.shape[0], 4000))
    fitted = np.linalg.lstsq(slopes, phases, rcond=None)[0]
    assert_allclose(fitted.std(axis=1), slope_stds(obs.hardware, obs.array), rtol=0.05)


@pytest.mark.parametrize("shape", [(4, 1), (1, 5)])
def test_a_linear_array_points_along_its_axis_alone(shape):
    obs = isac.Scenario(array_shape=shape, n_subcarriers=16, n_users=1).simulate(0).observation
    stds = slope_stds(with_arguments(obs, element_phase_std_rad=0.1).hardware, obs.array)
    assert np.array_equal(stds > 0, obs.array.sees_cosines)


def test_a_step_that_diverges_leaves_responses_to_divide_by():
    errors = errors_of(element_gain_std=5.0)
    n = len(errors.response)
    for left in (-1e9, 1e9):
        found = errors.refined(np.full(n, left + 0j) * np.arange(n), np.full(n, 1e-3), 1.0)
        assert np.all(np.isfinite(1 / found.response)) and np.all(np.isfinite(found.response))
