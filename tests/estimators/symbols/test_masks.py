"""Statistics and detection where samples are missing, against sums over the samples that are there."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from numpy.testing import assert_allclose

import isac_toolbox as isac
from helpers.scenes import complex_normal, soft_moments
from isac_toolbox.estimators.symbols.block import Masks, ReceivedBlock
from isac_toolbox.estimators.symbols.detection import ChannelKnowledge, detect
from isac_toolbox.estimators.symbols.statistics import (
    data_statistics,
    least_squares_channel,
    pilot_statistics,
)

K, N, M, T = 2, 5, 6, 4
QPSK = isac.qam_constellation("qpsk")


def masks(rng: np.random.Generator, share: float = 0.7) -> tuple[Masks, np.ndarray]:
    """Single samples missing beside a dead element and an empty cell, and all that are usable."""
    samples = rng.random((N, M, T)) < share
    samples[:, 2], samples[3, :, 1] = False, False
    return Masks(np.arange(M) != 2, samples.any(axis=1), samples), samples


def second_moments(moments) -> np.ndarray:
    """``E[conj(u_k) u_j]`` (N, T, K, K), errors of different users uncorrelated."""
    mean = moments.mean.transpose(1, 2, 0)
    return mean.conj()[..., :, None] * mean[..., None, :] + moments.variance.transpose(1, 2, 0)[
        ..., None
    ] * np.eye(K)


def test_completed_statistics_have_the_residual_of_the_samples_that_are_there():
    """At the channel they are completed with: correlation, energy, count; and elsewhere by difference."""
    rng = np.random.default_rng(0)
    mask, usable = masks(rng)
    moments = soft_moments(rng, (K, N, T))
    moments = replace(moments, variance=0.3 * moments.variance)  # all certain enough to be used
    received = complex_normal(rng, (N, M, T)) * usable
    first, second = complex_normal(rng, (2, K, N, M))
    statistics = data_statistics(received, moments, mask)
    moment = second_moments(moments)
    used = usable & (np.max(moments.variance, axis=0) < 0.5)[:, None, :]
    assert statistics.n_observations == np.count_nonzero(used)

    def residual(h):
        explained = np.einsum("nmt,ntkj,jnm->knm", used.astype(float), moment, h)
        return np.einsum("nmt,knt->knm", received, moments.mean.conj()) - explained

    for h in (first, second):  # one after the other: completing again starts from the samples
        statistics = statistics.completed(h)
        found = statistics.cross_correlation - np.einsum("nkj,jnm->knm", statistics.symbol_gram, h)
        expected = residual(h)
        assert_allclose(np.delete(found, 2, axis=2), np.delete(expected, 2, axis=2), atol=1e-12)
        squared = np.einsum("nmt,ntkj,knm,jnm->", used.astype(float), moment, h.conj(), h).real
        explained = 2 * np.vdot(h, np.einsum("nmt,knt->knm", received, moments.mean.conj())).real
        stated = np.delete(h, 2, axis=2)
        model = np.einsum("nkj,knm,jnm->", statistics.symbol_gram, stated.conj(), stated).real
        fitted = 2 * np.vdot(stated, np.delete(statistics.cross_correlation, 2, axis=2)).real
        assert statistics.energy - fitted + model == pytest.approx(
            np.sum(np.abs(received) ** 2) - explained + squared
        )


def test_parts_of_a_block_with_missing_samples_add_up_to_the_whole():
    rng = np.random.default_rng(2)
    mask, usable = masks(rng)
    moments = soft_moments(rng, (K, N, T))
    received = complex_normal(rng, (N, M, T)) * usable

    def of(symbols):
        some = type(moments)(moments.mean[..., symbols], moments.variance[..., symbols])
        return data_statistics(received[..., symbols], some, mask.take(symbols))

    both, whole = of(np.array([0, 3])) + of(np.array([1, 2])), of(np.arange(T))
    assert np.any(of(np.array([1, 2])).missing)
    assert_allclose(both.missing, whole.missing, atol=1e-12)
    channel = complex_normal(rng, (K, N, M))
    assert both.completed(channel).energy == pytest.approx(whole.completed(channel).energy)


def test_whole_cells_and_elements_leave_no_single_samples_to_complete():
    rng = np.random.default_rng(1)
    moments = replace(soft_moments(rng, (K, N, T)), variance=np.zeros((K, N, T)))
    cells = rng.random((N, T)) < 0.7
    mask = Masks(np.arange(M) != 2, cells)
    received = complex_normal(rng, (N, M, T)) * (cells[:, None, :] & mask.elements[:, None])
    statistics = data_statistics(received, moments, mask)
    assert statistics.missing is None and statistics.completed(np.zeros((K, N, M))) is statistics
    expected = np.einsum("ntkj,nt->nkj", second_moments(moments), cells)
    assert_allclose(statistics.symbol_gram, expected, atol=1e-12)
    assert statistics.n_observations == 5 * np.count_nonzero(cells)


def test_least_squares_uses_each_element_s_own_samples_and_interpolates_the_rest():
    """Without noise it is exact where an element's samples tell the users apart, and in between linear."""
    rng = np.random.default_rng(2)
    channel = complex_normal(rng, (K, N, M))
    pilots = np.exp(2j * np.pi * rng.random((K, N, T)))
    usable = rng.random((N, M, T)) < 0.8
    usable[2, 4], usable[:, 2] = False, False
    usable[2, 4, 0] = True  # one sample for two users
    received = np.einsum("knm,knt->nmt", channel, pilots) * usable
    known = np.ones((K, N, T), bool)
    block = ReceivedBlock(
        received, pilots, known, QPSK, 1.0, Masks(np.ones(M, bool), usable.any(axis=1), usable)
    )
    found = least_squares_channel(pilot_statistics(block), np.arange(N) * 1e6)
    told = usable.sum(axis=2) >= K
    assert told[:, [0, 1, 3, 5]].mean() > 0.9 and not told[2, 4]
    assert_allclose(found[:, told], channel[:, told], atol=1e-9)
    assert not found[:, :, 2].any()
    if told[1, 4] and told[3, 4]:
        assert_allclose(found[:, 2, 4], (found[:, 1, 4] + found[:, 3, 4]) / 2, atol=1e-9)


@pytest.mark.parametrize("single", [True, False])
def test_data_are_decided_from_the_samples_that_are_there(single):
    """Log-probabilities of one user against the likelihood of its samples; the prior where there is none."""
    rng = np.random.default_rng(3)
    noise = 0.8
    mask, usable = masks(rng)
    if not single:
        usable = mask.elements[:, None] & mask.cells[:, None, :]
        mask = replace(mask, samples=None)
    channel = complex_normal(rng, (1, N, M))
    symbols = QPSK[rng.integers(0, 4, (1, N, T))]
    received = np.einsum("knm,knt->nmt", channel, symbols) + np.sqrt(noise) * complex_normal(rng, (N, M, T))
    block = ReceivedBlock(
        received * usable, np.zeros((1, N, T), complex), np.zeros((1, N, T), bool), QPSK, 1.0, mask
    )
    found = detect(block, ChannelKnowledge(channel), noise)
    distance = np.abs(received[..., None] - channel[0, :, :, None, None] * QPSK) ** 2
    log = -np.sum(distance * usable[..., None], axis=1) / noise
    log -= np.logaddexp.reduce(log, axis=-1, keepdims=True)
    assert_allclose(found.log_probability[0], log, atol=1e-6)
    assert not mask.cells[3, 1]
    assert np.array_equal(found.llr[0, 3, 1], [0.0, 0.0])
    assert (found.moments.mean[0, 3, 1], found.moments.variance[0, 3, 1]) == (0, 1)


def test_users_without_a_usable_pilot_are_named():
    observation = isac.Scenario(
        array_shape=(2, 2), n_subcarriers=4, n_users=2, n_pilot_symbols=2, n_scatterers=2
    )
    observation = observation.simulate(0).observation
    masked = replace(observation, sample_mask=np.arange(observation.n_symbols) >= 2)
    with pytest.raises(ValueError, match=r"user\(s\) \[0, 1\] send no pilot where .* samples are usable"):
        isac.LeastSquares().estimate(masked)
