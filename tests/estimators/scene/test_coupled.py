"""A step of the coupling against a Fisher matrix by finite differences, and its gradient."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from numpy.testing import assert_allclose

from helpers.scenes import SMALL, complex_normal
from isac_toolbox.channel.atoms.dense import make_atoms
from isac_toolbox.channel.atoms.scene import Paths, path_parameters
from isac_toolbox.channel.atoms.whitening import Whitening
from isac_toolbox.estimators.scene.coupled import calibrated, with_loss
from isac_toolbox.estimators.scene.fit import Fit, evaluate, scene_covariance
from isac_toolbox.estimators.scene.problem import Problem
from isac_toolbox.estimators.symbols.block import ReceivedBlock
from isac_toolbox.estimators.symbols.coupling import Coupling

GAMMA = 20.0


def _fit(masked: bool, coloured: bool) -> tuple[Fit, np.ndarray]:
    sim = SMALL.replace(array_shape=(3, 2), n_subcarriers=8, coupling=0.2).simulate(0)
    obs = sim.observation
    if masked:
        obs = replace(obs, element_mask=np.arange(6) != 4)
    rng, block = np.random.default_rng(3), ReceivedBlock.of(obs)
    coupling = Coupling.of(obs)
    assert coupling is not None
    coupling = replace(coupling, coefficients=0.1 * complex_normal(rng, coupling.prior_stds.size))
    block = replace(block, coupling=coupling)
    if coloured:
        root = complex_normal(rng, (6, 6)) + 2 * np.eye(6)
        block = block.whitened(Whitening.of(root @ root.conj().T, obs.element_mask))
    problem = replace(Problem.on_pilots(obs, block), noise_precision=GAMMA)
    scene = replace(problem.empty_scene(), points_m=sim.truth.scatterer_positions_m[:2])
    paths = Paths.build(np.ones(2, bool), np.ones((2, 2), bool), np.zeros(0, np.int64))
    return evaluate(problem, scene, paths, np.full(len(paths), 0.3)), obs.pilots


@pytest.mark.parametrize(("masked", "coloured"), [(False, False), (True, False), (False, True), (True, True)])
def test_information_by_finite_differences(masked, coloured):
    fit, pilots = _fit(masked, coloured)
    coupling, n_paths = fit.problem.coupling, len(fit.paths)
    n_kinds = coupling.prior_stds.size
    heard = (
        np.ones(6, bool) if fit.problem.receiver.element_mask is None else fit.problem.receiver.element_mask
    )

    def samples(x: np.ndarray) -> np.ndarray:
        of_paths = x[:n_paths] + 1j * x[n_paths : 2 * n_paths]
        scene = fit.scene.with_vector(x[2 * n_paths : -2 * n_kinds])
        matrix = coupling.kinds.matrix(x[-2 * n_kinds : -n_kinds] + 1j * x[-n_kinds:])
        receiver = replace(fit.problem.receiver, coupling=matrix)
        channel = make_atoms(path_parameters(scene, fit.paths, receiver), fit.paths, receiver)
        mean = np.einsum("knm,knt->nmt", channel.synthesise(of_paths, 2), pilots)[:, heard].ravel()
        return np.concatenate([mean.real, mean.imag])

    gains, present = fit.posterior.mean, coupling.coefficients
    start = np.concatenate([gains.real, gains.imag, fit.scene.vector(), present.real, present.imag])
    steps = 1e-6 * np.eye(start.size)
    slopes = np.stack([(samples(start + s) - samples(start - s)) / 2e-6 for s in steps], axis=1)
    prior = np.zeros(start.size)
    prior[: 2 * n_paths] = 2 * 0.3
    prior[2 * n_paths : -2 * n_kinds] = fit.problem.prior.precision(fit.scene)
    fisher = 2 * GAMMA * slopes.T @ slopes + np.diag(prior)
    hidden = np.ones(start.size, bool)
    hidden[-2 * n_kinds :] = False
    hidden[2 * n_paths : -2 * n_kinds] = ~fit.problem.prior.known(fit.scene)
    across = fisher[-2 * n_kinds :, hidden]
    expected = fisher[-2 * n_kinds :, -2 * n_kinds :]
    expected = expected - across @ np.linalg.solve(fisher[np.ix_(hidden, hidden)], across.T)
    after = calibrated(fit, follows=True).coupling
    precision = np.tile(2 / coupling.prior_stds**2, 2)
    found = np.linalg.inv(after.covariance) - np.diag(precision)
    assert_allclose(found, expected, rtol=1e-3, atol=1e-3 * np.abs(expected).max())

    whole = fisher.copy()
    whole[-2 * n_kinds :, -2 * n_kinds :] += np.diag(precision)
    hidden[-2 * n_kinds :] = True
    covariance = np.zeros_like(whole)
    covariance[np.ix_(hidden, hidden)] = np.linalg.inv(whole[np.ix_(hidden, hidden)])
    of_scene = slice(2 * n_paths, -2 * n_kinds)
    assert_allclose(scene_covariance(with_loss(fit)), covariance[of_scene, of_scene], rtol=1e-3, atol=1e-6)

    correlation = fit.problem.statistics.cross_correlation

    def likelihood(x: np.ndarray) -> float:
        half = len(samples(start)) // 2
        values = samples(x)
        mean = (values[:half] + 1j * values[half:]).reshape(8, np.count_nonzero(heard), -1)
        matched = np.einsum("nmt,knt->knm", mean, pilots.conj())
        with_data = np.zeros_like(correlation)
        of_paths = x[:n_paths] + 1j * x[n_paths : 2 * n_paths]
        matrix = coupling.kinds.matrix(x[-2 * n_kinds : -n_kinds] + 1j * x[-n_kinds:])
        receiver = replace(fit.problem.receiver, coupling=matrix)
        atoms = make_atoms(path_parameters(fit.scene, fit.paths, receiver), fit.paths, receiver)
        with_data[..., heard] = atoms.synthesise(of_paths, 2)[..., heard]
        del matched
        return GAMMA * float(2 * np.real(np.vdot(with_data, correlation)) - np.sum(np.abs(mean) ** 2))

    at = np.arange(start.size - 2 * n_kinds, start.size)
    gradient = np.array([(likelihood(start + s) - likelihood(start - s)) / 2e-6 for s in steps[at]])
    values = np.concatenate([present.real, present.imag])
    moved = np.concatenate([after.coefficients.real, after.coefficients.imag]) - values
    assert_allclose(
        np.linalg.solve(after.covariance, moved) + precision * values, gradient, rtol=1e-3, atol=1e-2
    )
