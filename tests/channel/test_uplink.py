"""Pilot patterns, data symbols, noise and the definition of SNR."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

from isac_toolbox.channel.modulation import qam_constellation
from isac_toolbox.channel.uplink import draw_symbols, make_pilots, noise_variance_for_snr, receive

seeds = st.integers(0, 2**32 - 1)


def pilots_of(pattern: str, seed: int, k: int, n: int, t: int) -> np.ndarray:
    return make_pilots(pattern, k, n, t, np.random.default_rng(seed))


@given(seeds, st.integers(1, 5), st.integers(2, 8), st.integers(0, 3))
@settings(max_examples=30, deadline=None)
def test_orthogonal_pilots(seed, k, n, more):
    pilots = pilots_of("orthogonal", seed, k, n, k + more)
    assert pilots.shape == (k, n, k + more)
    assert_allclose(np.abs(pilots), 1)
    gram = np.einsum("knt,jnt->nkj", pilots.conj(), pilots)
    assert_allclose(gram, np.broadcast_to((k + more) * np.eye(k), gram.shape), atol=1e-12)


@given(seeds, st.integers(1, 5), st.integers(5, 16), st.integers(1, 4))
@settings(max_examples=30, deadline=None)
def test_comb_pilots_are_disjoint_and_shift(seed, k, n, t):
    pilots = pilots_of("comb", seed, k, n, t)
    active = pilots != 0
    assert_array_equal(active.sum(axis=0), 1)  # exactly one user on every subcarrier and symbol
    assert np.mean(np.abs(pilots) ** 2) == pytest.approx(1)
    assert_allclose(np.abs(pilots[active]), np.sqrt(k))
    for user in range(k):
        where, symbol = np.nonzero(active[user])
        for s in range(t):
            assert np.all(np.diff(where[symbol == s]) == k)
    if t > 1 and k > 1:
        assert_array_equal(active[:, 1:, 0], active[:, :-1, 1])


def test_comb_pilots_give_every_user_unit_energy():
    energy = np.mean(np.abs(pilots_of("comb", 0, 4, 16, 3)) ** 2, axis=(1, 2))
    assert_allclose(energy, 1)


def test_random_pilots_have_unit_energy_and_are_not_orthogonal():
    pilots = pilots_of("random", 0, 3, 64, 4)
    assert_allclose(np.abs(pilots), 1)
    assert np.unique(np.round(pilots, 9)).size == 4
    correlation = np.abs(np.einsum("nt,nt->n", pilots[0].conj(), pilots[1]))
    assert correlation.max() > 1 and abs(np.mean(pilots)) < 0.1


@pytest.mark.parametrize(
    ("arguments", "names"),
    [
        (("zigzag", 2, 8, 2), ["pilot_pattern", "orthogonal", "comb", "random"]),
        (("orthogonal", 3, 8, 2), ["n_pilot_symbols", "comb", "random"]),
        (("comb", 3, 2, 2), ["n_subcarriers"]),
    ],
)
def test_impossible_pilots_are_refused(arguments, names):
    with pytest.raises(ValueError) as caught:
        make_pilots(*arguments, np.random.default_rng(0))
    assert all(name in str(caught.value) for name in names)


@pytest.mark.parametrize("modulation", ["qpsk", "16qam", "64qam"])
def test_data_follow_the_pilots(modulation):
    constellation = qam_constellation(modulation)
    pilots = pilots_of("random", 0, 3, 16, 2)
    block = draw_symbols(pilots, 60, constellation, np.random.default_rng(1))
    assert block.symbols.shape == block.indices.shape == block.pilots.shape == (3, 16, 62)
    assert_array_equal(block.mask, np.broadcast_to(np.arange(62) < 2, (16, 62)))
    assert_array_equal(block.indices[:, :, :2], -1)
    assert_array_equal(block.pilots[:, :, :2], pilots)
    assert_array_equal(block.symbols[:, :, :2], pilots)
    assert not block.pilots[:, :, 2:].any()
    data = block.indices[:, :, 2:]
    assert_array_equal(block.symbols[:, :, 2:], constellation[data])
    share = np.bincount(data.ravel(), minlength=constellation.size) / data.size
    deviation = np.sqrt(1 / constellation.size / data.size)
    assert np.max(np.abs(share - 1 / constellation.size)) < 5 * deviation


@given(seeds, st.floats(-30, 40))
@settings(max_examples=20, deadline=None)
def test_snr_is_mean_channel_power_over_noise(seed, snr_db):
    rng = np.random.default_rng(seed)
    channel = rng.standard_normal((2, 3, 4)) + 1j * rng.standard_normal((2, 3, 4))
    variance = noise_variance_for_snr(channel, snr_db)
    power = sum(abs(h) ** 2 for h in channel.ravel()) / channel.size
    assert 10 * np.log10(power / variance) == pytest.approx(snr_db, abs=1e-9)


def test_received_block_is_the_sum_over_users():
    rng = np.random.default_rng(0)
    channel = rng.standard_normal((2, 3, 4)) + 1j * rng.standard_normal((2, 3, 4))
    symbols = rng.standard_normal((2, 3, 5)) + 1j * rng.standard_normal((2, 3, 5))
    clean = receive(channel, symbols, 0.0, rng)
    for n, m, t in np.ndindex(3, 4, 5):
        assert clean[n, m, t] == pytest.approx(sum(channel[k, n, m] * symbols[k, n, t] for k in range(2)))


def test_noise_is_circular_with_the_given_variance():
    quiet = np.zeros((1, 100, 10)), np.zeros((1, 100, 100))
    noise = receive(quiet[0].astype(complex), quiet[1].astype(complex), 2.5, np.random.default_rng(3)).ravel()
    tolerance = 5 / np.sqrt(noise.size)
    assert np.mean(np.abs(noise) ** 2) == pytest.approx(2.5, rel=tolerance)
    assert np.var(noise.real) == pytest.approx(1.25, rel=1.5 * tolerance)
    assert abs(np.mean(noise**2)) < 2.5 * tolerance
    assert abs(np.mean(noise)) < 2.5 * tolerance
