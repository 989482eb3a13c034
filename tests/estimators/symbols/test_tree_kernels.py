"""Symbols of crowds: search of limited breadth, exchanges, and the posterior around what they find."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose

import isac_toolbox as isac
from helpers.scenes import complex_normal
from isac_toolbox.estimators.symbols import joint
from isac_toolbox.estimators.symbols.joint import SymbolLikelihood, crowds, symbol_posterior
from isac_toolbox.estimators.symbols.kernels import NEGLIGIBLE_NATS, enumerated_posterior
from isac_toolbox.estimators.symbols.tree_kernels import _settle, _sorted_root, neighbourhood_posterior

QPSK = isac.qam_constellation("qpsk")
QAM = isac.qam_constellation("16qam")


def block(seed, n_users, noise, constellation, n_elements=4, n_sub=3, n_symbols=2, alike=0.0):
    """Symbols (U, N, T) and their likelihood through a channel of users that are more or less alike."""
    rng = np.random.default_rng(seed)
    channel = complex_normal(rng, (n_sub, n_elements, n_users))
    channel += alike * complex_normal(rng, (n_sub, n_elements, 1))
    labels = rng.integers(constellation.size, size=(n_users, n_sub, n_symbols))
    received = np.einsum("nmu,unt->nmt", channel, constellation[labels])
    received += np.sqrt(noise) * complex_normal(rng, received.shape)
    back = channel.conj().transpose(0, 2, 1)
    return labels, channel, received, SymbolLikelihood(back @ channel / noise, back @ received / noise)


def around(likelihood, constellation, log_prior, breadth=8):
    n_sub, n_users, n_symbols = likelihood.matched.shape
    marginal = np.empty((n_users, n_sub, n_symbols, constellation.size))
    second = np.empty((n_sub, n_symbols, n_users, n_users), complex)
    sure, near = np.empty((n_sub, n_symbols)), joint._neighbours(constellation)
    neighbourhood_posterior(
        likelihood.information,
        likelihood.matched,
        log_prior,
        constellation,
        near,
        breadth,
        NEGLIGIBLE_NATS,
        marginal,
        second,
        sure,
    )
    return marginal, second, sure


@given(st.integers(0, 10_000), st.floats(0.02, 5.0), st.booleans())
@settings(max_examples=25, deadline=None)
def test_of_two_users_of_qpsk_it_is_the_exact_posterior(seed, noise, with_prior):
    """Two exchanges reach every combination, wherever the search ends; priors of every cell included."""
    _, _, _, likelihood = block(seed, 2, noise, QPSK, n_elements=2, alike=1.0)
    prior = np.zeros((2, 1, 1, 4))
    if with_prior:
        prior = np.random.default_rng(seed).standard_normal((2, 3, 2, 4))
    marginal, second, sure = around(likelihood, QPSK, prior, breadth=1)
    exact, moments = enumerated_posterior(likelihood.information, likelihood.matched, prior, QPSK)
    assert_allclose(marginal, exact, atol=1e-12)
    assert_allclose(second, moments, atol=1e-11)
    assert np.all(sure <= exact.max(axis=-1).min(axis=0) + 1e-12)


@pytest.mark.parametrize(("n_users", "constellation"), [(5, QPSK), (3, QAM)])
def test_it_finds_the_best_combination_and_its_posterior(n_users, constellation):
    for seed in range(6):
        _, _, _, likelihood = block(seed, n_users, 0.2, constellation, n_elements=n_users)
        marginal, second, sure = around(
            likelihood, constellation, np.zeros((n_users, 1, 1, constellation.size))
        )
        labels = np.array(list(product(range(constellation.size), repeat=n_users)))
        points = constellation[labels]
        for n, t in np.ndindex(3, 2):
            cost = np.einsum("cu,uv,cv->c", points.conj(), likelihood.information[n], points).real
            cost -= 2 * np.real(points.conj() @ likelihood.matched[n, :, t])
            probability = np.exp(cost.min() - cost)
            probability /= probability.sum()
            if probability.max() > 0.9:
                assert sure[n, t] == pytest.approx(probability.max(), abs=0.02)
                assert_allclose(np.argmax(marginal[:, n, t], axis=-1), labels[np.argmin(cost)])
                exact = np.einsum("c,cu,cv->uv", probability, points, points.conj())
                assert_allclose(second[n, t], exact, atol=0.05)


def test_the_root_is_one_of_the_matrix_in_its_order():
    root = complex_normal(np.random.default_rng(0), (6, 6))
    information = root.conj().T @ root
    order, found, room = np.empty(6, np.int64), np.zeros((6, 6), complex), np.empty((6, 6), complex)
    _sorted_root(information, order, found, room)
    assert sorted(order) == list(range(6))
    assert_allclose(found, np.triu(found))
    assert_allclose(found.conj().T @ found, (information + np.eye(6))[np.ix_(order, order)], atol=1e-12)


def test_exchanges_end_where_no_pair_lowers_the_cost():
    rng = np.random.default_rng(1)
    _, _, _, likelihood = block(1, 5, 0.3, QAM, n_elements=5, alike=2.0)
    information, matched, near = (
        likelihood.information[0],
        likelihood.matched[0, :, 0],
        joint._neighbours(QAM),
    )
    prior = rng.standard_normal((5, 16))

    def cost(labels):
        points = QAM[labels]
        quadratic = np.real(points.conj() @ information @ points) - 2 * np.real(points.conj() @ matched)
        return quadratic - prior[np.arange(5), labels].sum()

    labels = rng.integers(16, size=5)
    before, slope = cost(labels), matched - information @ QAM[labels]
    reach = np.max(np.abs(QAM[near] - QAM[:, None])[near >= 0]) ** 2
    _settle(information, slope, prior, labels, QAM, near, reach, np.empty((5, near.shape[1])), np.empty(5))
    after = cost(labels)
    assert after < before
    assert_allclose(slope, matched - information @ QAM[labels], atol=1e-9)
    for k, j in product(range(5), repeat=2):
        for q, r in product([labels[k], *near[labels[k]]], [labels[j], *near[labels[j]]]):
            if q >= 0 and r >= 0 and k != j:
                other = labels.copy()
                other[k], other[j] = q, r
                assert cost(other) >= after - 1e-8


def test_points_are_exchanged_for_those_beside_them():
    counts = np.sum(joint._neighbours(QAM) >= 0, axis=1)
    assert sorted(counts) == [3] * 4 + [5] * 8 + [8] * 4
    assert np.all(joint._neighbours(QPSK) >= 0)


def test_crowds_are_chains_too_long_to_enumerate():
    chain = np.eye(14, dtype=complex)
    for k in range(9):
        chain[k, k + 1] = chain[k + 1, k] = 0.5
    chain[11, 12] = chain[12, 11] = 0.5
    every = np.ones(14, bool)
    assert [crowd.tolist() for crowd in crowds(chain[None], every, 4)] == [list(range(10))]
    assert [crowd.tolist() for crowd in crowds(chain[None], every, 64)] == [list(range(10))]
    assert crowds(chain[None], np.zeros(14, bool), 4) == []
    assert crowds(chain[None], np.arange(14) > 4, 4) == []  # six users, which can be enumerated


@pytest.mark.parametrize(
    ("n_users", "n_elements", "noise", "constellation"), [(12, 12, 0.3, QPSK), (8, 8, 0.02, QAM)]
)
def test_as_many_users_as_elements_are_decided_and_know_how_well(n_users, n_elements, noise, constellation):
    """Hardly a wrong symbol where the linear receiver has many, and what is left is as large as the noise."""
    labels, channel, received, likelihood = block(
        3, n_users, noise, constellation, n_elements, n_sub=40, n_symbols=5
    )
    found = symbol_posterior(likelihood, constellation)
    linear = symbol_posterior(likelihood, constellation, joint=False)
    wrong, of_linear = (
        np.mean(np.argmax(posterior.log_probability, axis=-1) != labels) for posterior in (found, linear)
    )
    assert of_linear > 0.02 and wrong < 0.1 * of_linear
    spread = np.sqrt(found.variance).transpose(1, 2, 0)
    error = found.error_correlation * spread[..., :, None] * spread[..., None, :]
    left = np.sum(np.abs(received - np.einsum("nmu,unt->nmt", channel, found.mean)) ** 2)
    left += noise * np.real(np.einsum("nuv,ntvu->", likelihood.information, error))
    assert left / received.size == pytest.approx(noise, rel=0.1)


def test_what_a_search_is_unsure_of_is_shared_with_groups(monkeypatch):
    """Eight users in noise: surer marginals where one combination stands out, wide ones elsewhere."""
    labels, _, _, likelihood = block(6, 8, 1.2, QPSK, n_elements=8, n_sub=60, n_symbols=6)
    found = symbol_posterior(likelihood, QPSK)
    monkeypatch.setattr(joint, "crowds", lambda *arguments: [])
    groups = symbol_posterior(likelihood, QPSK)

    def rate(posterior):  # nats that the posterior tells of a symbol
        told = np.take_along_axis(posterior.log_probability, labels[..., None], axis=-1)
        return float(np.log(4) + told.mean())

    probability = np.exp(found.log_probability)
    assert_allclose(probability.sum(axis=-1), 1)
    assert rate(found) > rate(groups) + 0.02
    wrong = np.mean(np.argmax(probability, axis=-1) != labels)
    assert 1 - probability.max(axis=-1).mean() > 0.5 * wrong > 0.01


def test_a_crowd_in_noise_is_left_to_groups(monkeypatch):
    _, _, _, likelihood = block(4, 8, 20.0, QPSK, n_elements=8, alike=2.0)
    assert crowds(likelihood.error_correlation, np.ones(8, bool), 4)
    found = symbol_posterior(likelihood, QPSK)
    monkeypatch.setattr(joint, "crowds", lambda *arguments: [])
    expected = symbol_posterior(likelihood, QPSK)
    assert_allclose(found.log_probability, expected.log_probability)


@pytest.mark.parametrize("n_users", [20, 28])
def test_many_users_converge_without_a_wrong_symbol(n_users):
    scenario = isac.Scenario.load("urban_uplink").replace(n_users=n_users, n_pilot_symbols=n_users)
    simulation = scenario.replace(snr_db=6.0).simulate(seed=3)
    result = isac.EMTurboBiSVBI().estimate(simulation.observation)
    data = result.symbol_decision >= 0
    assert result.status == "converged" and not result.warnings
    assert np.mean(result.symbol_decision[data] != simulation.truth.symbol_indices[data]) < 1e-3
