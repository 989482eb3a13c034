"""What a derotation does to symbols, and to some of them."""

from __future__ import annotations

import numpy as np
from numpy.testing import assert_allclose

from helpers.scenes import complex_normal, soft_moments
from isac_toolbox.channel.atoms.frames import chebyshev_times
from isac_toolbox.estimators.symbols.derotation import Derotation
from isac_toolbox.estimators.symbols.statistics import SymbolMoments

TIMES_S = np.array([-2e-3, -1e-3, 0.5e-3, 2.5e-3])


def derotation(nodes_s: np.ndarray = TIMES_S) -> Derotation:
    phases = np.random.default_rng(0).normal(0, 0.5, (2, 4))
    return Derotation(TIMES_S, nodes_s, np.array([40.0, -70.0]), phases)


def test_factors_are_shifts_and_phases():
    turn = derotation()
    for k, t in np.ndindex(2, 4):
        angle = 2 * np.pi * turn.doppler_hz[k] * TIMES_S[t] + turn.phases_rad[k, t]
        assert_allclose(turn.factors[k, t], np.exp(1j * angle))


def test_some_symbols_keep_their_turn_and_know_whether_they_are_the_nodes():
    turn = derotation()
    part = turn.take(np.array([3, 1]))
    assert_allclose(part.factors, turn.factors[:, [3, 1]])
    assert turn.keeps_symbols and part.keeps_symbols
    few = derotation(chebyshev_times(np.linspace(-2e-3, 2.5e-3, 90), 0.0))
    assert not few.keeps_symbols and np.array_equal(few.take(np.array([0])).nodes_s, few.nodes_s)


def test_moments_are_those_of_symbols_that_turned():
    """Against the mean over many symbols, their errors correlated between the users."""
    rng, turn = np.random.default_rng(1), derotation().factors
    moments = soft_moments(rng, (2, 3, 4))
    correlation = np.zeros((3, 4, 2, 2), complex)
    correlation[..., 0, 1] = 0.6 * np.exp(0.7j)
    correlation[..., 1, 0] = correlation[..., 0, 1].conj()
    soft = SymbolMoments(moments.mean, moments.variance, correlation)
    found = soft.derotated(turn)
    assert_allclose(found.mean, moments.mean * turn[:, None])
    assert np.array_equal(found.variance, moments.variance)
    errors = complex_normal(rng, (50_000, 2))
    errors[:, 1] = 0.6 * np.exp(-0.7j) * errors[:, 0] + 0.8 * errors[:, 1]
    assert_allclose(np.mean(errors[:, 0] * errors[:, 1].conj()), correlation[0, 0, 0, 1], atol=0.02)
    for t in range(4):
        turned = errors * turn[:, t]
        expected = np.mean(turned[:, 0] * turned[:, 1].conj())
        assert_allclose(found.error_correlation[0, t, 0, 1], expected, atol=0.02)
