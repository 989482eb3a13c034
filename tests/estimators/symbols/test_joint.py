"""Joint symbol posteriors against enumeration of the full likelihood."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose

import isac_toolbox as isac
from isac_toolbox.estimators.symbols.joint import (
    SymbolLikelihood,
    coupled_groups,
    linear_error_rate,
    symbol_posterior,
)

QPSK = isac.qam_constellation("qpsk")
seeds = st.integers(0, 2**32 - 1)


def cell_block(seed: int, n_users: int, noise: float, constellation=QPSK, alike: float = 0.0):
    """Channels (N, M, U), received samples (N, M, T) and their likelihood; users share ``alike`` of it."""
    rng = np.random.default_rng(seed)
    shape = (2, 4, n_users)
    channel = (rng.standard_normal(shape) + 1j * rng.standard_normal(shape)) / np.sqrt(2)
    channel[:, :, 1:] = alike * channel[:, :, :1] + (1 - alike) * channel[:, :, 1:]
    sent = constellation[rng.integers(0, constellation.size, (2, n_users, 3))]
    white = rng.standard_normal((2, 4, 3)) + 1j * rng.standard_normal((2, 4, 3))
    received = channel @ sent + np.sqrt(noise / 2) * white
    conjugate = channel.conj().transpose(0, 2, 1)
    return channel, received, SymbolLikelihood(conjugate @ channel / noise, conjugate @ received / noise)


def brute_force(channel, received, noise, constellation):
    """Marginals (U, N, T, Q) and error covariances (N, T, U, U) from the Gaussian likelihood of samples."""
    n_sub, _, n_users = channel.shape
    labels = np.array(list(product(range(constellation.size), repeat=n_users)))
    points = constellation[labels]
    marginal = np.zeros((n_users, n_sub, received.shape[2], constellation.size))
    covariance = np.zeros((n_sub, received.shape[2], n_users, n_users), complex)
    for n, t in np.ndindex(n_sub, received.shape[2]):
        residual = received[n, :, t] - points @ channel[n].T
        weight = -np.sum(np.abs(residual) ** 2, axis=1) / noise
        probability = np.exp(weight - weight.max())
        probability /= probability.sum()
        for k, q in np.ndindex(n_users, constellation.size):
            marginal[k, n, t, q] = probability[labels[:, k] == q].sum()
        error = points - probability @ points
        covariance[n, t] = (error * probability[:, None]).T @ error.conj()
    return marginal, covariance


@pytest.mark.parametrize("constellation", [QPSK, isac.qam_constellation("16qam")], ids=["qpsk", "16qam"])
@given(seeds, st.floats(0.05, 2.0))
@settings(max_examples=15, deadline=None)
def test_coupled_users_have_the_exact_posterior(constellation, seed, noise):
    channel, received, likelihood = cell_block(seed, 3, noise, constellation, alike=0.8)
    groups = coupled_groups(likelihood.error_correlation, np.ones(3, bool), constellation.size)
    if len(groups) != 1 or groups[0].size != 3:
        return
    posterior = symbol_posterior(likelihood, constellation)
    if linear_error_rate(likelihood.unbiased()[1], constellation).max() <= 1e-5:
        return
    marginal, covariance = brute_force(channel, received, noise, constellation)
    assert_allclose(np.exp(posterior.log_probability), marginal, atol=1e-9)
    deviation = np.sqrt(np.einsum("ntkk->ntk", covariance).real)
    found = posterior.error_correlation * deviation[..., :, None] * deviation[..., None, :]
    assert_allclose(found, covariance, atol=1e-7)


@given(seeds)
@settings(max_examples=20, deadline=None)
def test_one_user_alone_is_exact_and_needs_no_group(seed):
    channel, received, likelihood = cell_block(seed, 1, 0.7)
    marginal, _ = brute_force(channel, received, 0.7, QPSK)
    assert_allclose(np.exp(symbol_posterior(likelihood, QPSK).log_probability), marginal, atol=1e-9)


def test_joint_decisions_of_like_users_are_better_than_linear_ones():
    wrong = {True: 0, False: 0}
    for seed in range(60):
        rng = np.random.default_rng(seed)
        channel, _, _ = cell_block(seed, 2, 0.1, alike=0.7)
        label = rng.integers(0, 4, (2, 2, 50))
        white = rng.standard_normal((2, 4, 50)) + 1j * rng.standard_normal((2, 4, 50))
        received = channel @ QPSK[label] + np.sqrt(0.05) * white
        conjugate = channel.conj().transpose(0, 2, 1)
        likelihood = SymbolLikelihood(conjugate @ channel / 0.1, conjugate @ received / 0.1)
        for joint in wrong:
            decided = np.argmax(symbol_posterior(likelihood, QPSK, joint).log_probability, axis=-1)
            wrong[joint] += int(np.sum(decided != label.transpose(1, 0, 2)))
    assert wrong[True] < 0.8 * wrong[False]


def test_marginalising_the_rest_as_gaussian_is_the_linear_receiver():
    _, _, likelihood = cell_block(5, 3, 0.3)
    symbol, variance = likelihood.unbiased()
    for k in range(3):
        alone = likelihood.given_gaussian_rest(np.array([k]))
        assert_allclose(1 / alone.information[:, 0, 0].real, variance[:, k], rtol=1e-9)
        assert_allclose(alone.matched[:, 0] / alone.information[:, 0], symbol[:, k], rtol=1e-9)


def test_groups_join_by_coupling_and_stay_small():
    symbol_gram = np.eye(5)
    symbol_gram[0, 1] = symbol_gram[1, 0] = 0.9
    symbol_gram[3, 4] = symbol_gram[4, 3] = 0.5
    every = np.ones(5, bool)
    groups = [g.tolist() for g in coupled_groups(symbol_gram[None], every, 4)]
    assert groups == [[0, 1], [3, 4]]
    assert coupled_groups(symbol_gram[None], np.zeros(5, bool), 4) == []
    only_last = coupled_groups(symbol_gram[None], np.arange(5) == 4, 4)
    assert [g.tolist() for g in only_last] == [[3, 4]]
    crowded = np.full((12, 12), 0.6) + 0.4 * np.eye(12)
    sizes = [g.size for g in coupled_groups(crowded[None], np.ones(12, bool), 4)]
    assert max(sizes) == 6
    assert coupled_groups(crowded[None], np.ones(12, bool), 4096) == []


def test_far_users_are_left_to_the_linear_receiver():
    channel = np.zeros((1, 4, 2), complex)
    channel[0, 0, 0] = channel[0, 1, 1] = 1.0
    gram = channel.conj().transpose(0, 2, 1) @ channel
    likelihood = SymbolLikelihood(gram / 0.5, np.zeros((1, 2, 1), complex))
    assert coupled_groups(likelihood.error_correlation, np.ones(2, bool), 4) == []


# --- priors, as a decoder gives them -----------------------------------------------------------------


def random_prior(seed: int, n_users: int, strength: float = 2.0):
    rng = np.random.default_rng(seed)
    logits = strength * rng.standard_normal((n_users, 2, 3, QPSK.size))
    return logits - np.log(np.sum(np.exp(logits), axis=-1, keepdims=True))


def brute_force_under(channel, received, noise, log_prior):
    """Marginals (U, N, T, Q) of the Gaussian likelihood times the priors."""
    labels = np.array(list(product(range(QPSK.size), repeat=channel.shape[2])))
    marginal = np.zeros(log_prior.shape)
    for n, t in np.ndindex(2, 3):
        weight = -np.sum(np.abs(received[n, :, t] - QPSK[labels] @ channel[n].T) ** 2, axis=1) / noise
        weight += sum(log_prior[k, n, t, labels[:, k]] for k in range(len(log_prior)))
        probability = np.exp(weight - weight.max())
        for k, q in np.ndindex(len(log_prior), QPSK.size):
            marginal[k, n, t, q] = probability[labels[:, k] == q].sum() / probability.sum()
    return marginal


@given(seeds)
@settings(max_examples=15, deadline=None)
def test_coupled_users_under_priors_have_the_exact_posterior(seed):
    channel, received, likelihood = cell_block(seed, 2, 0.5, alike=0.8)
    log_prior = random_prior(seed, 2, strength=0.5)
    cells = likelihood.under(log_prior, QPSK)
    if not coupled_groups(cells.error_correlation, np.ones(2, bool), 4):
        return
    if linear_error_rate(cells.unbiased()[1], QPSK).max() <= 1e-5:
        return
    found = np.exp(symbol_posterior(likelihood, QPSK, log_prior=log_prior).log_probability)
    assert_allclose(found, brute_force_under(channel, received, 0.5, log_prior), atol=1e-9)


@given(seeds)
@settings(max_examples=15, deadline=None)
def test_one_user_under_priors_is_exact(seed):
    channel, received, likelihood = cell_block(seed, 1, 0.7)
    log_prior = random_prior(seed, 1)
    found = np.exp(symbol_posterior(likelihood, QPSK, log_prior=log_prior).log_probability)
    assert_allclose(found, brute_force_under(channel, received, 0.7, log_prior), atol=1e-9)


def test_a_user_whose_symbols_are_certain_is_cancelled():
    """The other user's posterior is then that of its own samples less the first one."""
    channel, received, likelihood = cell_block(3, 2, 0.5)
    log_prior = np.full((2, 2, 3, 4), -np.log(4))
    log_prior[0] = -60.0
    log_prior[0, ..., 2] = 0.0
    found = symbol_posterior(likelihood, QPSK, joint=False, log_prior=log_prior).log_probability[1]
    left = received - channel[:, :, :1] * QPSK[2]
    weight = -np.sum(np.abs(left[..., None] - channel[:, :, 1:, None] * QPSK) ** 2, axis=1) / 0.5
    expected = np.exp(weight) / np.sum(np.exp(weight), axis=-1, keepdims=True)
    assert_allclose(np.exp(found), expected, atol=1e-4)


def test_uniform_priors_change_nothing():
    _, _, likelihood = cell_block(4, 3, 0.3, alike=0.5)
    plain = symbol_posterior(likelihood, QPSK)
    uniform = symbol_posterior(likelihood, QPSK, log_prior=np.full((3, 2, 3, 4), -np.log(4)))
    assert_allclose(np.exp(uniform.log_probability), np.exp(plain.log_probability), atol=1e-12)
    assert_allclose(uniform.error_correlation, plain.error_correlation, atol=1e-12)
