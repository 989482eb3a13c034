"""Elements that are not independent beforehand: posterior, and what paths and directions have of it."""

from __future__ import annotations

import numpy as np
from numpy.testing import assert_allclose

from isac_toolbox.estimators.symbols.joint_elements import JointPrior, posterior_of

N = 6


def _prior(rng: np.random.Generator) -> JointPrior:
    root = rng.standard_normal((2 * N, 2 * N))
    shared = np.zeros((2 * N, 4))
    shared[:N, 0], shared[N:, 1], shared[N:, 2:] = 1, 1, rng.standard_normal((N, 2))
    return JointPrior(root @ root.T / N, shared)


def test_posterior_is_that_of_the_precisions():
    rng = np.random.default_rng(0)
    covariance, root = _prior(rng).covariance, rng.standard_normal((2 * N, 4))
    information, vector = root @ root.T, rng.standard_normal(2 * N)
    mean, after = posterior_of(covariance, information, vector)
    expected = np.linalg.inv(np.linalg.inv(covariance) + information)
    assert_allclose(after, expected, atol=1e-10)
    assert_allclose(mean, expected @ vector, atol=1e-10)


def test_what_is_known_stays_known():
    covariance = np.diag(np.r_[np.ones(N), np.zeros(N)])
    mean, after = posterior_of(covariance, np.eye(2 * N), np.ones(2 * N))
    assert_allclose(mean, np.r_[np.full(N, 0.5), np.zeros(N)])
    assert not after[N:].any()


def test_slopes_are_independent_of_what_remains_without_them():
    rng = np.random.default_rng(1)
    prior = _prior(rng)
    draws = np.linalg.cholesky(prior.covariance) @ rng.standard_normal((2 * N, 40_000))
    remains = prior.without_shared(draws)
    fitted, *_ = np.linalg.lstsq(prior.shared, draws - remains, rcond=None)
    assert_allclose(prior.shared @ fitted, draws - remains, atol=1e-6)
    assert_allclose(fitted[2:].std(axis=1), prior.slope_stds, rtol=0.02)
    together = np.corrcoef(np.vstack([remains, fitted]))[: 2 * N, 2 * N :]
    assert np.abs(together).max() < 0.02


def test_one_common_phase_of_all_has_no_slope():
    """A singular prior: nothing but a phase that all elements share."""
    covariance = np.zeros((2 * N, 2 * N))
    covariance[N:, N:] = 4.0
    prior = JointPrior(covariance, _prior(np.random.default_rng(2)).shared)
    assert not prior.slope_stds.any()
    assert_allclose(prior.without_shared(np.r_[np.zeros(N), np.full(N, 0.7)]), 0, atol=1e-6)
