"""Whitening over the array: against inverses and sums over all samples."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from numpy.testing import assert_allclose

from helpers.scenes import SMALL, complex_normal
from isac_toolbox.channel.atoms.dense import Measurements
from isac_toolbox.channel.atoms.scene import Paths
from isac_toolbox.channel.atoms.whitening import Whitening
from isac_toolbox.estimators.scene.fit import evaluate
from isac_toolbox.estimators.scene.problem import Problem
from isac_toolbox.estimators.search import PathSearch
from isac_toolbox.estimators.symbols.block import ReceivedBlock


def covariance_of(n: int, seed: int = 0) -> np.ndarray:
    root = complex_normal(np.random.default_rng(seed), (n, n))
    return root @ root.conj().T + 0.3 * np.eye(n)


def test_noise_becomes_white_and_comes_back():
    covariance = covariance_of(5)
    whitening = Whitening.of(covariance)
    assert np.linalg.det(whitening.covariance).real == pytest.approx(1)
    assert_allclose(whitening.covariance, whitening.scale * covariance)
    white = whitening.matrix @ covariance @ whitening.matrix.conj().T
    assert_allclose(white, np.eye(5) / whitening.scale, atol=1e-12)
    values = complex_normal(np.random.default_rng(1), (3, 5))
    assert_allclose(whitening.undo(whitening.apply(values)), values)
    assert_allclose(whitening.apply(values)[1], whitening.matrix @ values[1])
    assert whitening.distance(whitening) < 1e-20 < 1e-3 < whitening.distance(Whitening.of(np.eye(5)))


def test_elements_that_are_not_in_use_stay_as_they_are():
    in_use = np.array([True, False, True, True])
    whitening = Whitening.of(covariance_of(4), in_use)
    assert_allclose(whitening.matrix[1], np.eye(4)[1], atol=1e-12)
    assert_allclose(whitening.matrix[:, 1], np.eye(4)[1], atol=1e-12)
    inner = covariance_of(4)[np.ix_(in_use, in_use)]
    assert_allclose(whitening.covariance[np.ix_(in_use, in_use)], whitening.scale * inner)
    assert whitening.power(in_use) == pytest.approx(whitening.scale * np.trace(inner).real / 3)


def whitened_case(wavefront: str = "planar"):
    simulation = SMALL.replace(wavefront=wavefront).simulate(0)
    obs, truth = simulation.observation, simulation.truth
    whitening = Whitening.of(covariance_of(obs.array.n_elements))
    block = ReceivedBlock.of(obs).whitened(whitening)
    problem = replace(Problem.on_pilots(obs, block), noise_precision=30.0)
    scene = replace(problem.empty_scene(), points_m=truth.scatterer_positions_m + 0.2)
    paths = Paths.build(np.ones(2, bool), np.ones((2, 3), bool), np.zeros(0, np.int64))
    return obs, block, whitening, problem, scene, paths


@pytest.mark.parametrize("wavefront", ["planar", "spherical"])
def test_inner_products_are_those_under_the_inverse_covariance(wavefront):
    obs, block, whitening, problem, scene, paths = whitened_case(wavefront)
    fit = evaluate(problem, scene, paths, np.full(len(paths), 0.1))
    plain = replace(problem.receiver, whitening=None)
    data = Measurements(problem.statistics, plain)
    alone = evaluate(replace(problem, data=data), scene, paths, np.full(len(paths), 0.1))
    one = np.eye(len(paths))
    signals = np.array([alone.atoms.synthesise(x.astype(complex), 2) for x in one])  # (L, K, N, M)
    sent = np.where(obs.known.all(axis=0), obs.pilots, 0)
    mean = np.einsum("lknm,knt->lnmt", signals, sent)
    inverse = np.linalg.inv(whitening.covariance)
    across = np.einsum("lnmt,mp,jnpt->lj", mean.conj(), inverse, mean, optimize=True)
    samples = block.unwhitened_samples
    matched = np.einsum("lnmt,mp,npt->l", mean.conj(), inverse, samples, optimize=True)
    assert_allclose(fit.gram, across, atol=1e-8 * np.abs(across).max())
    assert_allclose(fit.correlation, matched, atol=1e-8 * np.abs(matched).max())


def test_gradient_is_that_of_the_objective():
    _, _, _, problem, scene, paths = whitened_case()
    fit = evaluate(problem, scene, paths, np.full(len(paths), 0.1))
    _, half = fit.normal_equations
    vector = scene.vector()
    for entry in (0, 4, 8, 9, 12, 15):
        step = 1e-5 * np.eye(vector.size)[entry]
        up, down = (
            evaluate(problem, scene.with_vector(vector + s * step), paths, np.full(len(paths), 0.1)).objective
            for s in (1, -1)
        )
        assert (up - down) / 4e-5 == pytest.approx(half[entry], rel=2e-3, abs=1e-3)


def test_the_search_sees_white_noise_in_every_direction():
    """Mean power of whitened noise in the bins: one, towards an interferer as elsewhere."""
    obs = SMALL.simulate(0).observation
    wave = obs.array.steering_from_cosines(0.3, -0.2)
    whitening = Whitening.of(np.eye(24) + 50 * np.outer(wave, wave.conj()))
    search = PathSearch.for_observation(obs).whitened(whitening)
    rng, powers = np.random.default_rng(0), []
    for _ in range(20):
        powers.append(search.spectrum(complex_normal(rng, (32, 24)), 32 * 24 / 32).mean(axis=0))
    inside = search._visible
    level = np.mean(powers, axis=0)[inside]
    assert_allclose(level / level.mean(), 1, atol=0.35)


def test_other_responses_are_taken_before_the_whitening():
    _, block, whitening, _, _, _ = whitened_case()
    response = np.exp(0.1j * np.arange(24))
    turned = block.with_response(response)
    expected = whitening.matrix @ (block.unwhitened_samples / response[:, None])
    assert_allclose(turned.received, expected, atol=1e-12)
    assert_allclose(turned.whitened(None).received, block.unwhitened_samples / response[:, None], atol=1e-12)


@pytest.mark.parametrize("doubt", [0.0, 0.3, 1.0])
def test_share_of_a_white_signal_is_that_of_its_estimate(doubt):
    """By the inverse: nothing is lost without doubt, and without data the whitened prior is all there is."""
    whitening = Whitening.of(covariance_of(4))
    expected = np.linalg.inv((1 - doubt) * np.eye(4) + doubt * whitening.covariance)
    assert_allclose(whitening.share_of_white(doubt), expected, atol=1e-10)
