"""Channels over the symbols of a block from a few parts."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.testing import assert_allclose

from isac_toolbox.channel.evolution import ChannelEvolution


def test_moments_give_the_channel_of_turning_paths():
    rng = np.random.default_rng(0)
    n_users, n_sub, n_elements, n_symbols, n_paths = 2, 3, 4, 5, 6
    atoms = rng.standard_normal((n_users, n_paths, n_sub, n_elements, 2)) @ [1, 1j]
    turn = rng.uniform(-0.6, 0.6, (n_users, n_paths))
    scaled = np.linspace(-1, 1, n_symbols)
    factors = np.exp(1j * rng.uniform(0, 6, (n_users, n_symbols)))
    expected = np.einsum("klnm,klt->knmt", atoms, np.exp(1j * turn[..., None] * scaled))
    expected *= factors[:, None, None, :]
    moments = np.stack([np.einsum("klnm,kl->knm", atoms, (1j * turn) ** p) for p in range(12)])
    evolution = ChannelEvolution.from_moments(moments, scaled, factors)
    assert evolution.n_symbols == n_symbols
    assert_allclose(evolution.at(range(n_symbols)), expected, atol=1e-9)
    assert_allclose(evolution.at([3, 1]), expected[..., [3, 1]], atol=1e-9)


def test_bad_shapes_and_symbols_are_named():
    parts, curves = np.ones((2, 1, 3, 4), complex), np.ones((1, 2, 5), complex)
    evolution = ChannelEvolution(parts, curves)
    with pytest.raises(ValueError, match="curves must have shape"):
        ChannelEvolution(parts, curves[:, :1])
    with pytest.raises(ValueError, match="parts must be finite"):
        ChannelEvolution(parts * np.nan, curves)
    for symbols in ([5], [-1], [-1, 2], [2, 5]):
        with pytest.raises(ValueError, match=r"symbols must be indices in 0\.\.4"):
            evolution.at(symbols)
    with pytest.raises(TypeError, match="symbols must hold integers"):
        evolution.at([0.5])
    with pytest.raises(ValueError, match="symbols must have shape"):
        evolution.at(3)
