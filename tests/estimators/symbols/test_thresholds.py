"""What decides how a symbol is treated, by value: channel errors, clear users, uncertain cells."""

from __future__ import annotations

import numpy as np
import pytest

import isac_toolbox as isac
from helpers.scenes import complex_normal, dense_atoms, random_case
from isac_toolbox.channel.atoms.dense import make_atoms
from isac_toolbox.channel.atoms.scene import path_parameters
from isac_toolbox.estimators.symbols.block import ReceivedBlock
from isac_toolbox.estimators.symbols.detection import ChannelKnowledge, detect
from isac_toolbox.estimators.symbols.joint import SymbolLikelihood, linear_error_rate, symbol_posterior
from isac_toolbox.estimators.symbols.statistics import SymbolMoments, data_statistics

QPSK = isac.qam_constellation("qpsk")


@pytest.mark.parametrize("wavefront", ["planar", "spherical"])
def test_path_errors_enter_as_coloured_noise(wavefront):
    """``z = H^H y`` has noise ``s2 G + H^H (sum_j P_j C_jj P_j^H) H``: dense, with errors that correlate."""
    case = random_case(2, wavefront)
    rng = np.random.default_rng(0)
    receiver, n_paths = case.problem.receiver, len(case.paths)
    atoms = make_atoms(path_parameters(case.scene, case.paths, receiver), case.paths, receiver)
    gains = complex_normal(rng, n_paths)
    root = complex_normal(rng, (n_paths, n_paths))
    covariance = 0.05 * root @ root.conj().T
    knowledge = ChannelKnowledge.from_paths(atoms, gains, covariance, 2)
    n_sub, n_antennas, n_symbols, noise = 6, 6, 3, 0.3
    received = complex_normal(rng, (n_sub, n_antennas, n_symbols))
    silent = np.zeros((2, n_sub, n_symbols))
    block = ReceivedBlock(received, silent + 0j, silent > 0, QPSK, 1.0)
    found = detect(block, knowledge, noise, joint=False)

    unit = dense_atoms(receiver, case.scene, case.paths)
    channel = np.tensordot(gains, unit, 1)  # (K, N, M)
    for n in range(n_sub):
        h = channel[:, n].T
        gram, matched = h.conj().T @ h, h.conj().T @ received[n]
        coloured = noise * gram
        for j in range(2):
            own = np.flatnonzero(case.paths.user == j)
            p = unit[own, j, n].T
            coloured = coloured + h.conj().T @ p @ covariance[np.ix_(own, own)] @ p.conj().T @ h
        information = gram @ np.linalg.solve(coloured, gram)
        b = gram @ np.linalg.solve(coloured, matched)
        q = np.linalg.inv(information + np.eye(2))
        share = np.diag(q @ information).real
        estimate, variance = (q @ b) / share[:, None], np.diag(q).real / share
        log = -(np.abs(estimate[..., None] - QPSK) ** 2) / variance[:, None, None]
        log -= np.logaddexp.reduce(log, axis=-1, keepdims=True)
        np.testing.assert_allclose(found.log_probability[:, n], log, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize(("modulation", "gap_squared"), [("qpsk", 2.0), ("16qam", 0.4)])
def test_the_linear_error_rate_is_that_of_the_nearest_neighbour(modulation, gap_squared):
    """``exp(-d_min^2 / 4 v)`` on average over subcarriers, at unit mean energy."""
    variance = np.array([[0.02, 0.3], [0.1, 0.05]])
    rate = linear_error_rate(variance, isac.qam_constellation(modulation))
    np.testing.assert_allclose(rate, np.mean(np.exp(-gap_squared / (4 * variance)), axis=0), rtol=1e-9)


@pytest.mark.parametrize(("rate", "together"), [(0.9e-5, False), (1.1e-5, True)])
def test_users_a_linear_receiver_keeps_apart_are_not_enumerated(rate, together):
    """Two strongly coupled users; what counts is whether one of them would be wrong once in 100,000."""
    rng = np.random.default_rng(1)
    matched = 30 * complex_normal(rng, (1, 2, 8))

    def likelihood(strength: float) -> SymbolLikelihood:
        return SymbolLikelihood(strength * np.array([[[1.0, 0.6j], [-0.6j, 1.0]]]), matched)

    low, high = 1.0, 1e3
    for _ in range(60):
        middle = np.sqrt(low * high)
        too_often = linear_error_rate(likelihood(middle).unbiased()[1], QPSK).max() > rate
        low, high = (middle, high) if too_often else (low, middle)
    joint, linear = (symbol_posterior(likelihood(low), QPSK, joint) for joint in (True, False))
    assert np.array_equal(joint.log_probability, linear.log_probability) != together


@pytest.mark.parametrize(("variance", "used"), [(0.49, True), (0.51, False)])
def test_a_cell_with_one_uncertain_symbol_is_left_out(variance, used):
    """However sure the other users' symbols are."""
    rng = np.random.default_rng(0)
    received, mean = complex_normal(rng, (1, 4, 2)), complex_normal(rng, (3, 1, 2))
    spread = np.array([[[0.01, 0.01]], [[variance, 0.02]], [[0.0, 0.0]]])
    statistics = data_statistics(received, SymbolMoments(mean, spread))
    assert statistics.n_observations == 4 * (1 + used)
    cells = slice(0, 2) if used else slice(1, 2)
    expected = np.einsum("kt,jt->kj", mean[:, 0, cells].conj(), mean[:, 0, cells])
    expected = expected + np.diag(spread[:, 0, cells].sum(axis=1))
    np.testing.assert_allclose(statistics.symbol_gram[0], expected, atol=1e-12)
    energy = np.sum(np.abs(received[..., cells]) ** 2)
    assert statistics.energy == pytest.approx(energy)
