"""Kernels of the symbol posteriors against the plain formulas."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from numpy.testing import assert_allclose

import isac_toolbox as isac
from helpers.scenes import complex_normal
from isac_toolbox.estimators.symbols.kernels import (
    NEGLIGIBLE_NATS,
    enumerated_posterior,
    linear_log_probability,
    normalised_moments,
)

QPSK = isac.qam_constellation("qpsk")
QAM = isac.qam_constellation("16qam")


@pytest.mark.parametrize(("n_users", "points"), [(1, QAM), (2, QPSK), (2, QAM), (4, QPSK)])
@pytest.mark.parametrize("strength", [0.3, 30.0])
def test_enumeration_is_the_sum_over_all_combinations(n_users, points, strength):
    rng = np.random.default_rng(n_users)
    root = np.sqrt(strength) * complex_normal(rng, (3, n_users, n_users))
    information = root.conj().transpose(0, 2, 1) @ root
    matched = strength * complex_normal(rng, (3, n_users, 2))
    marginal, second = enumerated_posterior(
        information, matched, np.zeros((len(information[0]), 1, 1, points.size)), points
    )
    labels = np.array(list(product(range(points.size), repeat=n_users)))
    symbols = points[labels]
    negligible = len(labels) * np.exp(-NEGLIGIBLE_NATS)
    for n, t in np.ndindex(3, 2):
        quadratic = np.einsum("ck,kj,cj->c", symbols.conj(), information[n], symbols).real
        exponent = 2 * np.real(symbols.conj() @ matched[n, :, t]) - quadratic
        weight = np.exp(exponent - exponent.max())
        weight /= weight.sum()
        for k, q in np.ndindex(n_users, points.size):
            assert_allclose(marginal[k, n, t, q], weight[labels[:, k] == q].sum(), rtol=1e-8, atol=negligible)
        expected = (symbols * weight[:, None]).T @ symbols.conj()
        assert_allclose(second[n, t], expected, atol=1e-12)


def test_linear_posteriors_and_their_moments():
    rng = np.random.default_rng(0)
    symbol, variance = complex_normal(rng, (3, 2, 4)), rng.uniform(0.01, 2, (3, 2))
    found = np.empty((2, 3, 4, QAM.size))
    for n in range(3):
        linear_log_probability(symbol, variance, QAM, found, n, n + 1)
    distance = np.abs(symbol.transpose(1, 0, 2)[..., None] - QAM) ** 2
    assert_allclose(found, -distance / variance.T[:, :, None, None], rtol=1e-12)
    mean, spread = np.empty((2, 3, 4), complex), np.empty((2, 3, 4))
    for part in ((0, 1), (1, 3)):
        normalised_moments(found, QAM, mean, spread, *part)
    probability = np.exp(found)
    assert_allclose(probability.sum(axis=-1), 1, rtol=1e-12)
    assert_allclose(mean, probability @ QAM, atol=1e-12)
    assert_allclose(spread, probability @ np.abs(QAM) ** 2 - np.abs(mean) ** 2, atol=1e-12)
