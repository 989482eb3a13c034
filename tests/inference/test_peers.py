"""``sparse_recover`` beside an independent sparse Bayesian method: automatic relevance determination."""

from __future__ import annotations

import warnings

import numpy as np
import pytest

from isac_toolbox.inference import sparse_recover


def problem(seed: int, n_equations: int, n_unknowns: int, n_active: int, noise: float):
    rng = np.random.default_rng(seed)
    matrix = rng.standard_normal((n_equations, n_unknowns))
    truth = np.zeros(n_unknowns)
    truth[rng.choice(n_unknowns, n_active, replace=False)] = rng.choice([-1.0, 1.0], n_active)
    return matrix, truth, matrix @ truth + noise * rng.standard_normal(n_equations)


@pytest.mark.parametrize("seed", [10, 11, 12])
def test_where_data_are_plenty_both_agree(seed):
    """Means to within what noise leaves open, supports, and the variance of the noise."""
    linear_model = pytest.importorskip("sklearn.linear_model")
    matrix, truth, samples = problem(seed, 120, 60, 6, 0.1)
    ours = sparse_recover(matrix, samples)
    peer = linear_model.ARDRegression(fit_intercept=False).fit(matrix, samples)
    deviation = 0.1 / np.sqrt(120)
    assert np.abs(ours.mean - peer.coef_).max() < 4 * deviation
    assert np.array_equal(ours.probability > 0.5, truth != 0)
    assert np.array_equal(np.abs(peer.coef_) > 0.5, truth != 0)
    assert ours.noise_variance == pytest.approx(1 / peer.alpha_, rel=0.35)


def test_where_data_are_few_ours_is_no_worse():
    """Fewer equations than unknowns, over six draws."""
    linear_model = pytest.importorskip("sklearn.linear_model")
    errors = []
    for seed in range(20, 26):
        matrix, truth, samples = problem(seed, 40, 80, 5, 0.05)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it does not always converge
            peer = linear_model.ARDRegression(fit_intercept=False).fit(matrix, samples)
        ours = sparse_recover(matrix, samples)
        errors.append([np.sum((x - truth) ** 2) for x in (ours.mean, peer.coef_)])
    ours_mean, peer_mean = np.mean(errors, axis=0)
    assert ours_mean < 1.1 * peer_mean and ours_mean < 0.1
