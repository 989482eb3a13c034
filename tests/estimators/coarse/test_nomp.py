"""Newtonised OMP."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from numpy.testing import assert_allclose

from helpers.paths import atoms_of, receiver
from helpers.scenes import REGION_M, complex_normal, dense_atoms
from isac_toolbox.channel.atoms.dense import Measurements
from isac_toolbox.channel.atoms.receiver import Receiver
from isac_toolbox.channel.atoms.scene import ScenePrior
from isac_toolbox.estimators.coarse import nomp as coarse_nomp
from isac_toolbox.estimators.coarse.nomp import newtonised_omp
from isac_toolbox.estimators.scene.problem import Problem
from isac_toolbox.estimators.search import PathSearch
from isac_toolbox.estimators.symbols.statistics import SymbolMoments, data_statistics

TRUE_USER = np.array([0, 0, 0, 1, 1])
TRUE_PATHS = np.array(
    [[50.0, 0.6, 0.3], [63.0, -0.4, -0.35], [80.0, 0.05, 0.15], [55.0, -0.6, 0.3], [75.0, 0.3, -0.2]]
)


def two_user_problem(receiver: Receiver, channel: np.ndarray, noise_variance: float, rng) -> Problem:
    """Problem on two orthogonal pilot symbols over a channel (2, N, M)."""
    pilots = np.broadcast_to(np.array([[1, 1], [1, -1]], complex)[:, None, :], (2, channel.shape[1], 2))
    received = np.einsum("knm,knt->nmt", channel, pilots)
    received = received + np.sqrt(noise_variance) * complex_normal(rng, received.shape)
    statistics = data_statistics(received, SymbolMoments(pilots, np.zeros(pilots.shape)))
    prior = ScenePrior(np.array([[50.0, 0.0, 1.5], [60.0, 10.0, 1.5]]), np.full((2, 3), 0.3), np.full(2, 1.5))
    return Problem(Measurements(statistics, receiver), prior, REGION_M, noise_precision=1.0)


def nomp_run(seed: int, snr_db: float = 20.0):
    rng = np.random.default_rng(seed)
    own = receiver()
    gains = rng.uniform(0.7, 1.3, 5) * np.exp(2j * np.pi * rng.random(5))
    parameters = TRUE_PATHS + rng.uniform(-0.05, 0.05, TRUE_PATHS.shape) * [10, 1, 1]
    atoms = atoms_of(own, TRUE_USER, parameters)
    channel = np.tensordot(gains, atoms, 1)
    noise_variance = float(np.mean(np.abs(channel) ** 2)) / 10 ** (snr_db / 10)
    problem = two_user_problem(own, channel, noise_variance, rng)
    found, fit = newtonised_omp(problem, PathSearch(own, 40.0, 100.0))
    estimate = np.tensordot(fit.posterior.mean, dense_atoms(own, fit.scene, fit.paths), 1)
    nmse = np.sum(np.abs(estimate - channel) ** 2) / np.sum(np.abs(channel) ** 2)
    bound = 5 * 5 / 2 * noise_variance / 2 / np.sum(np.abs(channel) ** 2)  # 5 real parameters each, 2 pilots
    return fit, parameters, found, noise_variance, nmse / bound


def test_nomp_finds_the_true_paths_at_the_bound():
    ratios, exact = [], 0
    for seed in range(8):
        fit, parameters, problem, noise_variance, ratio = nomp_run(seed)
        ratios.append(ratio)
        exact += len(fit.paths) == 5
        for k in (0, 1):
            found = fit.scene.unlocated_m[fit.paths.unlocated[fit.paths.user == k]]
            for true in parameters[k == TRUE_USER]:
                error = np.abs(found - true) / [3.1, 0.33, 0.42]  # in resolution cells
                assert error.max(axis=1).min() < 0.05
        assert 1 / problem.noise_precision == pytest.approx(noise_variance, rel=0.3)
    assert exact >= 7  # a false path per hundred searches is allowed
    assert 0.6 < np.mean(ratios) < 1.5


def test_users_fitted_apart_have_the_paths_of_a_joint_fit(monkeypatch):
    together = nomp_run(0)[0]
    monkeypatch.setattr(coarse_nomp, "_FEW_USERS", 1)
    apart = nomp_run(0)[0]
    assert np.array_equal(apart.paths.user, np.sort(together.paths.user))
    for k in (0, 1):
        found, other = (f.scene.unlocated_m[f.paths.unlocated[f.paths.user == k]] for f in (apart, together))
        assert_allclose(found[np.argsort(found[:, 0])], other[np.argsort(other[:, 0])], atol=1e-4)


def test_nomp_keeps_a_known_noise_level():
    own = receiver()
    rng = np.random.default_rng(0)
    channel = np.tensordot(np.ones(5), atoms_of(own, TRUE_USER, TRUE_PATHS), 1)
    problem = replace(two_user_problem(own, channel, 0.01, rng), noise_precision=100.0, noise_known=True)
    found, fit = newtonised_omp(problem, PathSearch(own, 40.0, 100.0))
    assert found.noise_precision == 100.0 and len(fit.paths) == 5


def test_nomp_respects_its_limits():
    own = receiver()
    channel = np.tensordot(np.ones(5), atoms_of(own, TRUE_USER, TRUE_PATHS), 1)
    problem = two_user_problem(own, channel, 1e-3, np.random.default_rng(0))
    search = PathSearch(own, 40.0, 100.0)
    _, fit = newtonised_omp(problem, search, max_paths_per_user=1)
    assert np.bincount(fit.paths.user).tolist() == [1, 1]
    _, fit = newtonised_omp(problem, search, max_rounds=1)
    assert len(fit.paths) <= 5
