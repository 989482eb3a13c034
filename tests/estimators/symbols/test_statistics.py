"""Sufficient statistics against direct sums over symbols, and the likelihood they stand for."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from numpy.testing import assert_allclose

import isac_toolbox as isac
from helpers.scenes import SMALL, complex_normal, soft_moments, with_arguments
from isac_toolbox.channel.atoms.dense import Statistics
from isac_toolbox.channel.atoms.frames import chebyshev_times
from isac_toolbox.estimators.symbols.block import ReceivedBlock, amplitude_scale
from isac_toolbox.estimators.symbols.derotation import Derotation
from isac_toolbox.estimators.symbols.statistics import (
    SymbolMoments,
    data_statistics,
    least_squares_channel,
    pilot_statistics,
)

SHAPE = (2, 4, 5)


def hand_made(seed: int = 0) -> isac.UplinkObservation:
    """Two users whose masks differ: user 1 sends data in symbol 2 where user 0 still has a pilot."""
    rng = np.random.default_rng(seed)
    _, n_sub, n_symbols = SHAPE
    mask = np.zeros(SHAPE, bool)
    mask[:, :, :2] = True
    mask[0, :, 2] = True
    mask[1, 1, 3] = True
    pilots = np.where(mask, complex_normal(rng, SHAPE), 0)
    pilots[1, 0, 1] = 0  # silent
    return isac.UplinkObservation(
        received=complex_normal(rng, (n_sub, 4, n_symbols)),
        pilots=pilots,
        pilot_mask=mask,
        array=isac.UniformPlanarArray((2, 2)),
        subcarrier_frequencies_hz=(np.arange(n_sub) - 1.5) * 1e7,
        bs_position_m=[0.0, 0.0, 20.0],
        user_positions_m=[[40.0, 0.0, 1.5], [50.0, 10.0, 1.5]],
        user_position_std_m=0.3,
        time_offset_std_s=5e-9,
        constellation=isac.qam_constellation("qpsk"),
        region_m=((20.0, -30.0, 0.0), (80.0, 30.0, 15.0)),
    )


@pytest.mark.parametrize("seed", range(3))
def test_data_statistics_are_sums_over_symbols(seed):
    rng = np.random.default_rng(seed)
    n_users, n_sub, n_symbols = SHAPE
    received, moments = complex_normal(rng, (n_sub, 3, n_symbols)), soft_moments(rng, SHAPE)
    statistics = data_statistics(received, moments)
    for n in range(n_sub):
        for k in range(n_users):
            z = sum(received[n, :, t] * moments.mean[k, n, t].conj() for t in range(n_symbols))
            assert_allclose(statistics.cross_correlation[k, n], z, rtol=1e-12, atol=1e-13)
            for j in range(n_users):
                r = sum(moments.mean[k, n, t].conj() * moments.mean[j, n, t] for t in range(n_symbols))
                r += moments.variance[k, n].sum() if j == k else 0
                assert_allclose(statistics.symbol_gram[n, k, j], r, rtol=1e-12, atol=1e-13)
    assert statistics.energy == pytest.approx(np.sum(np.abs(received) ** 2))
    assert statistics.n_observations == received.size


def test_pilot_statistics_use_the_cells_known_of_every_user():
    observation = hand_made()
    statistics = pilot_statistics(ReceivedBlock.of(observation, 1.0))
    used = observation.known.all(axis=0)
    assert used[:, :2].all() and not used[:, 2:].any()  # symbol 2 and cell (1, 3) are known of one user only
    u, y = observation.pilots[:, :, :2], observation.received[:, :, :2]
    assert_allclose(statistics.symbol_gram, np.einsum("knt,jnt->nkj", u.conj(), u), atol=1e-13)
    assert_allclose(statistics.cross_correlation, np.einsum("nmt,knt->knm", y, u.conj()), atol=1e-13)
    assert statistics.energy == pytest.approx(np.sum(np.abs(y) ** 2))
    assert statistics.n_observations == y.size


def test_a_user_without_a_common_pilot_is_named():
    observation = hand_made()
    mask, pilots = np.array(observation.pilot_mask), np.array(observation.pilots)
    mask[1, :, :2], pilots[1, :, :2] = False, 0  # user 1 keeps its pilot in cell (1, 3) only
    observation = with_arguments(observation, pilot_mask=mask, pilots=pilots)
    with pytest.raises(ValueError, match=r"pilot_mask: user\(s\) \[0, 1\] send no pilot"):
        pilot_statistics(ReceivedBlock.of(observation, 1.0))


def test_cells_with_an_uncertain_symbol_are_left_out_or_count_fully():
    """A cell counts with all its users or not at all, in every statistic alike."""
    rng = np.random.default_rng(2)
    _, n_sub, n_symbols = SHAPE
    received, moments = complex_normal(rng, (n_sub, 3, n_symbols)), soft_moments(rng, SHAPE)
    variance = moments.variance.copy()
    variance[1, 2, 3] = 1.0  # nothing is known of user 1's symbol there
    mean = moments.mean.copy()
    mean[1, 2, 3] = 0
    statistics = data_statistics(received, SymbolMoments(mean, variance))
    if statistics.n_observations == received.size:
        return
    assert statistics.n_observations == received.size - 3
    without = received.copy()
    without[2, :, 3] = 0
    assert statistics.energy == pytest.approx(np.sum(np.abs(without) ** 2))
    mean[:, 2, 3] = variance[:, 2, 3] = 0
    silent = data_statistics(without, SymbolMoments(mean, variance))
    assert_allclose(statistics.symbol_gram, silent.symbol_gram, atol=1e-13)
    assert_allclose(statistics.cross_correlation, silent.cross_correlation, atol=1e-13)


def test_correlated_symbol_errors_enter_the_coupling():
    """``R_n[k, j]`` gains ``sum_t conj(sd_k) sd_j corr`` off the diagonal, and stays Hermitian."""
    rng = np.random.default_rng(3)
    _, n_sub, n_symbols = SHAPE
    received, moments = complex_normal(rng, (n_sub, 3, n_symbols)), soft_moments(rng, SHAPE)
    rho = 0.8 * np.exp(2j * np.pi * rng.random((n_sub, n_symbols)))
    correlation = np.zeros((n_sub, n_symbols, 2, 2), complex)
    correlation[..., 0, 0] = correlation[..., 1, 1] = 1
    correlation[..., 0, 1], correlation[..., 1, 0] = rho, rho.conj()
    plain = data_statistics(received, moments)
    full = data_statistics(received, SymbolMoments(moments.mean, moments.variance, correlation))
    deviation = np.sqrt(moments.variance)
    extra = full.symbol_gram - plain.symbol_gram
    # corr(u_k, u_j) = E[du_k conj(du_j)] / (sd_k sd_j), and R needs E[conj(du_k) du_j]
    assert_allclose(extra[:, 0, 1], np.sum(deviation[0] * deviation[1] * rho.conj(), axis=1), atol=1e-12)
    assert_allclose(full.symbol_gram, full.symbol_gram.conj().swapaxes(1, 2), atol=1e-12)
    assert_allclose(extra[:, [0, 1], [0, 1]], 0, atol=1e-12)


def test_expected_squared_residual():
    """E |Y - sum_k h_k u_k|^2 over the symbols = energy - 2 Re <H, Z> + the quadratic form in R."""
    rng = np.random.default_rng(1)
    n_users, n_sub, n_symbols = SHAPE
    received, channel = complex_normal(rng, (n_sub, 3, n_symbols)), complex_normal(rng, (n_users, n_sub, 3))
    moments = soft_moments(rng, SHAPE)
    statistics = data_statistics(received, moments)
    linear = 2 * np.vdot(channel, statistics.cross_correlation).real
    quadratic = np.einsum("knm,nkj,jnm->", channel.conj(), statistics.symbol_gram, channel).real
    through_statistics = statistics.energy - linear + quadratic

    # symbols that take mean + deviation and mean - deviation: every combination of users' signs, exactly
    deviation = np.sqrt(moments.variance)
    total = 0.0
    for signs in np.ndindex(*[2] * n_users):
        sent = moments.mean + np.array([2 * s - 1 for s in signs])[:, None, None] * deviation
        total += np.sum(np.abs(received - np.einsum("knm,knt->nmt", channel, sent)) ** 2)
    assert through_statistics == pytest.approx(total / 2**n_users, rel=1e-12)


def test_scale_is_the_root_mean_square_at_any_amplitude():
    observation = hand_made()
    rms = np.sqrt(np.mean(np.abs(observation.received) ** 2))
    for factor in (1.0, 1e-200, 1e200):
        scaled = with_arguments(observation, received=observation.received * factor)
        assert amplitude_scale(scaled) == pytest.approx(rms * factor, rel=1e-12)


@pytest.mark.parametrize(("pattern", "apart"), [("orthogonal", True), ("random", False)])
def test_orthogonal_pilots_decouple_the_users_exactly(pattern, apart):
    """Sums of phases leave 1e-16, which must not count as interference."""
    observation = SMALL.replace(n_users=3, pilot_pattern=pattern, n_pilot_symbols=5).simulate(0).observation
    statistics = pilot_statistics(ReceivedBlock.of(observation, 1.0))
    assert statistics.users_decouple == apart
    assert np.all(np.einsum("nkk->nk", statistics.symbol_gram).real > 4.9)


@pytest.mark.parametrize("pattern", ["orthogonal", "random"])
def test_least_squares_without_noise_is_the_channel(pattern):
    simulation = SMALL.replace(snr_db=200.0, pilot_pattern=pattern, n_pilot_symbols=8).simulate(0)
    observation = simulation.observation
    statistics = pilot_statistics(ReceivedBlock.of(observation, 1.0))
    channel = least_squares_channel(statistics, observation.subcarrier_frequencies_hz)
    assert_allclose(channel, simulation.truth.channel, atol=1e-7)


def test_least_squares_interpolates_a_comb_linearly():
    rng = np.random.default_rng(0)
    n_sub = 9
    frequencies = np.sort(rng.uniform(-1e7, 1e7, n_sub))
    slope, start = complex_normal(rng, (2, 1, 3)), complex_normal(rng, (2, 1, 3))
    channel = start + slope * frequencies[None, :, None] / 1e7  # linear over frequency
    pilots = np.zeros((2, n_sub, 1), complex)
    pilots[0, ::2, 0] = pilots[1, 1::2, 0] = np.sqrt(2)
    pilots[1, 0, 0] = pilots[1, -1, 0] = pilots[0, 0, 0]
    pilots[0, 0, 0] = pilots[0, -1, 0] = 0
    received = np.einsum("knm,knt->nmt", channel, pilots)
    statistics = data_statistics(received, SymbolMoments(pilots, np.zeros(pilots.shape)))
    estimate = least_squares_channel(statistics, frequencies)
    assert_allclose(estimate[1], channel[1], atol=1e-12)
    assert_allclose(estimate[0, 2:-2], channel[0, 2:-2], atol=1e-12)
    assert_allclose(estimate[0, 0], channel[0, 2], atol=1e-12)  # held at the edges


# --- over time ---------------------------------------------------------------------------------------


def turning(n_symbols: int, n_users: int = 2, few: bool = False) -> Derotation:
    """Shifts of some tenths of a cycle over the block, and phases; at Chebyshev nodes if ``few``."""
    times = (np.arange(n_symbols) - (n_symbols - 1) / 2) * 1e-4
    span = 1e-4 * n_symbols
    shifts = np.array([0.3, -0.2])[:n_users] / span
    nodes = chebyshev_times(times, 1 / span) if few else times
    phases = np.random.default_rng(5).normal(0, 0.4, (n_users, n_symbols))
    return Derotation(times, nodes, shifts, phases)


def still(n_symbols: int) -> Derotation:
    times = (np.arange(n_symbols) - (n_symbols - 1) / 2) * 1e-4
    return Derotation(times, times, np.zeros(2), np.zeros((2, n_symbols)))


def check_sums(statistics: Statistics, plain: Statistics) -> None:
    """The same as plain statistics, and what is kept over time adds up to them."""
    assert_allclose(statistics.symbol_gram, plain.symbol_gram, atol=1e-12)
    assert_allclose(statistics.cross_correlation, plain.cross_correlation, atol=1e-12)
    assert statistics.energy == pytest.approx(plain.energy)
    assert statistics.n_observations == plain.n_observations
    frames = statistics.frames
    assert_allclose(frames.symbol_gram.sum(axis=0), plain.symbol_gram, atol=1e-9)
    assert_allclose(frames.cross_correlation.sum(axis=2), plain.cross_correlation, atol=1e-9)


@pytest.mark.parametrize("correlated", [False, True])
def test_statistics_over_time_add_up_to_plain_ones_where_nothing_turns(correlated):
    rng = np.random.default_rng(0)
    received, moments = complex_normal(rng, (4, 3, 5)), soft_moments(rng, SHAPE)
    if correlated:
        both = np.zeros((4, 5, 2, 2), complex)
        both[..., 0, 1] = 0.4j
        both[..., 1, 0] = -0.4j
        moments = replace(moments, error_correlation=both)
    plain = data_statistics(received, moments)
    check_sums(data_statistics(received, moments, None, still(5)), plain)
    observation = hand_made()
    block = ReceivedBlock.of(observation, 1.0)
    turned = replace(block, derotation=still(5))
    check_sums(pilot_statistics(turned), pilot_statistics(block))


def test_error_correlations_of_one_symbol_hold_for_all():
    rng = np.random.default_rng(6)
    received, moments = complex_normal(rng, (4, 3, 5)), soft_moments(rng, SHAPE)
    once = complex_normal(rng, (4, 1, 2, 2)) / 4
    once = once + once.conj().transpose(0, 1, 3, 2)
    found = data_statistics(received, replace(moments, error_correlation=once))
    every = np.broadcast_to(once, (4, 5, 2, 2))
    expected = data_statistics(received, replace(moments, error_correlation=every))
    assert_allclose(found.symbol_gram, expected.symbol_gram, atol=1e-12)
    without = data_statistics(received, moments)
    assert np.max(np.abs(found.symbol_gram - without.symbol_gram)) > 1e-3


@pytest.mark.parametrize("few", [False, True])
def test_statistics_of_symbols_that_turn_are_those_of_turned_symbols(few):
    """Turning a user's symbols is sending others: the plain statistics of those are the sums over time."""
    rng, n_symbols = np.random.default_rng(1), 60
    received, moments = complex_normal(rng, (4, 3, n_symbols)), soft_moments(rng, (2, 4, n_symbols))
    derotation = turning(n_symbols, few=few)
    assert derotation.keeps_symbols != few
    statistics = data_statistics(received, moments, None, derotation)
    check_sums(statistics, data_statistics(received, moments.derotated(derotation.factors)))
    assert statistics.frames.times_s is derotation.nodes_s
    assert np.array_equal(statistics.frames.mean_doppler_hz, derotation.doppler_hz)
    # a function of time is known at the nodes: its sum against the symbols is that against the frames
    turn = [np.exp(2j * np.pi * 0.9 * t / 60e-4) for t in (derotation.nodes_s, derotation.times_s)]
    sent = moments.derotated(derotation.factors).mean
    expected = np.einsum("nmt,knt,t->knm", received, sent.conj(), turn[1])
    found = np.einsum("knqm,q->knm", statistics.frames.cross_correlation, turn[0])
    assert_allclose(found, expected, atol=1e-6 * np.abs(expected).max())


def test_parts_of_a_block_that_moves_add_up():
    rng = np.random.default_rng(2)
    received, moments = complex_normal(rng, (4, 3, 5)), soft_moments(rng, SHAPE)
    derotation = turning(5)

    def of(symbols):
        some = SymbolMoments(moments.mean[..., symbols], moments.variance[..., symbols])
        return data_statistics(received[..., symbols], some, None, derotation.take(symbols))

    both = of(np.array([0, 3])) + of(np.array([1, 2, 4]))
    check_sums(both, data_statistics(received, moments.derotated(derotation.factors)))
    assert sorted(both.frames.times_s) == sorted(derotation.times_s)


def test_masked_cells_and_elements_count_nothing_over_time():
    rng, observation = np.random.default_rng(3), hand_made()
    cells = rng.random((4, 5)) < 0.8
    cells[:, :2] |= ~cells[:, :2].any(axis=1, keepdims=True)
    elements = np.array([True, False, True, True])
    masked = replace(
        observation, sample_mask=np.broadcast_to(cells[:, None, :], (4, 4, 5)), element_mask=elements
    )
    block = ReceivedBlock.of(masked, 1.0)
    assert block.masks is not None and block.masks.samples is None
    moments = soft_moments(rng, SHAPE)
    plain = data_statistics(block.received, moments, block.masks)
    check_sums(data_statistics(block.received, moments, block.masks, still(5)), plain)
    check_sums(pilot_statistics(replace(block, derotation=still(5))), pilot_statistics(block))


def test_users_that_only_time_keeps_apart_are_coupled():
    """Pilots that are orthogonal over symbols are so no more when the users turn apart."""
    pilots = np.array([[[1.0, 1.0]], [[1.0, -1.0]]]) + 0j
    certain = SymbolMoments(pilots, np.zeros(pilots.shape))
    received = complex_normal(np.random.default_rng(0), (1, 3, 2))
    assert data_statistics(received, certain).users_decouple
    assert not data_statistics(received, certain, None, still(2)).users_decouple
    alone = SymbolMoments(pilots * np.array([[[1, 0]], [[0, 1]]]), np.zeros(pilots.shape))
    moving = data_statistics(received, alone, None, still(2))
    assert moving.users_decouple
    assert np.array_equal(moving.of_user(1).frames.symbol_gram, moving.frames.symbol_gram[:, :, 1:, 1:])
