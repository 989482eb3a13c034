"""Objective, gradient and Gauss-Newton matrix of scenes that move, against samples over all symbols."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.testing import assert_allclose

from helpers.moving import MovingCase, moving_case
from isac_toolbox.channel.atoms.frames import MovingAtoms
from isac_toolbox.estimators.scene.fit import residual_correlation, scene_covariance
from isac_toolbox.estimators.scene.refine import gradient_steps, refine


@pytest.fixture(params=[("planar", 0), ("planar", 1), ("spherical", 0)], ids=lambda p: f"{p[0]}-{p[1]}")
def case(request) -> MovingCase:
    wavefront, seed = request.param
    return moving_case(seed, wavefront)


def test_objective_is_that_of_all_samples(case):
    channels, gamma = case.channels(), case.problem.noise_precision
    gram, correlation = case.inner(channels, channels), case.correlate(channels)
    fit = case.fit()
    assert isinstance(fit.atoms, MovingAtoms)
    assert_allclose(fit.gram, gram, atol=1e-6)
    assert_allclose(fit.correlation, correlation, atol=1e-6)
    gains = gamma * np.linalg.solve(gamma * gram + np.diag(case.precision), correlation)
    assert_allclose(fit.posterior.mean, gains, atol=1e-6)
    penalty = case.problem.prior.penalty(case.scene)
    assert fit.objective == pytest.approx(penalty - gamma * np.vdot(correlation, gains).real, rel=1e-6)


def test_gradient_is_that_of_the_objective(case):
    vector = case.scene.vector()
    _, half = case.fit().normal_equations
    steps = np.full(vector.size, 1e-4)
    steps[-case.scene.motion.size :] = 1e-2
    numerical = np.array(
        [
            (case.objective(vector + s * unit) - case.objective(vector - s * unit)) / (2 * s)
            for s, unit in zip(steps, np.eye(vector.size), strict=True)
        ]
    )
    # where the prior says that an entry is known it has no gradient of its own
    assert_allclose(2 * half, numerical, atol=1e-5 * np.abs(numerical).max())


def test_hessian_is_the_schur_complement_of_all_derivatives(case):
    """Gauss-Newton: of the samples in gains and scene, from differences of the channels over all symbols."""
    fit, vector = case.fit(), case.scene.vector()
    gains, gamma, n = fit.posterior.mean, case.problem.noise_precision, len(case.paths)
    in_scene = []
    for unit in np.eye(vector.size):
        both = [
            np.tensordot(gains, case.channels(case.scene.with_vector(vector + s * unit)), 1)
            for s in (1e-4, -1e-4)
        ]
        in_scene.append((both[0] - both[1]) / 2e-4)
    channels = case.channels()
    derivatives = np.concatenate([channels, 1j * channels, in_scene])
    information = 2 * gamma * case.inner(derivatives, derivatives).real
    prior = case.problem.prior.precision(case.scene)
    information += np.diag(np.concatenate([2 * case.precision, 2 * case.precision, prior]))
    across = information[: 2 * n, 2 * n :]
    expected = information[2 * n :, 2 * n :] - across.T @ np.linalg.solve(
        information[: 2 * n, : 2 * n], across
    )
    hessian, _ = fit.normal_equations
    scale = 1 / np.sqrt(np.diag(expected))
    assert_allclose(2 * hessian * scale[:, None] * scale, expected * scale[:, None] * scale, atol=1e-4)
    unknown = ~case.problem.prior.known(case.scene)
    covariance = scene_covariance(fit)
    assert not covariance[~unknown].any()
    found, inverse = covariance[np.ix_(unknown, unknown)], np.linalg.inv(expected[np.ix_(unknown, unknown)])
    assert_allclose(found, inverse, rtol=1e-3, atol=1e-3 * np.abs(np.diag(inverse)).min())


def test_what_the_paths_leave_of_the_correlations(case):
    fit = case.fit()
    fitted = np.tensordot(fit.posterior.mean, case.channels(), 1)
    entries = np.eye(fitted[..., 0].size).reshape(-1, *fitted.shape[:3])
    turned = (
        entries[..., None]
        * np.exp(2j * np.pi * np.outer(case.derotation.doppler_hz, case.derotation.times_s))[:, None, None]
    )
    left = case.correlate(turned) - case.inner(turned, fitted[None])[:, 0]
    assert_allclose(residual_correlation(fit).ravel(), left, atol=1e-6)


@pytest.mark.parametrize("move", [lambda fit: refine(fit, 5), lambda fit: gradient_steps(fit, 3)])
def test_steps_lower_the_objective_and_leave_what_is_known(case, move):
    start = case.fit()
    moved = move(start)
    assert moved.objective < start.objective
    known = case.problem.prior.known(case.scene)
    assert np.array_equal(moved.scene.vector()[known], start.scene.vector()[known])
    assert np.abs(moved.scene.motion.vector() - start.scene.motion.vector()).max() > 1e-3
