"""Soft detection against the exact posterior of one user, and its calibration with several."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy.special import expit

import isac_toolbox as isac
from helpers.scenes import complex_normal
from isac_toolbox.channel.atoms.dense import make_atoms
from isac_toolbox.channel.atoms.receiver import Receiver
from isac_toolbox.channel.atoms.scene import Paths, Scene, path_parameters
from isac_toolbox.channel.modulation import bit_labels
from isac_toolbox.estimators.symbols.block import ReceivedBlock
from isac_toolbox.estimators.symbols.derotation import Derotation
from isac_toolbox.estimators.symbols.detection import ChannelKnowledge, detect, detect_over_time

N_SUB = 6


def block(
    channel: np.ndarray,
    noise_variance: float,
    seed: int = 0,
    modulation: str = "qpsk",
    n_symbols: int = 5,
    mask: np.ndarray | None = None,
):
    """Observation, sent symbols and their indices over a channel (K, N, 4); symbol 0 is a pilot."""
    rng = np.random.default_rng(seed)
    points = isac.qam_constellation(modulation)
    shape = (channel.shape[0], channel.shape[1], n_symbols)
    if mask is None:
        mask = np.broadcast_to(np.arange(n_symbols) < 1, shape)
    index = np.where(mask, -1, rng.integers(0, points.size, shape))
    pilots = np.where(mask, np.exp(2j * np.pi * rng.random(shape)), 0)
    symbols = np.where(mask, pilots, points[index])
    received = np.einsum("knm,knt->nmt", channel, symbols)
    received = received + np.sqrt(noise_variance) * complex_normal(rng, received.shape)
    n_users = channel.shape[0]
    observation = isac.UplinkObservation(
        received=received,
        pilots=pilots,
        pilot_mask=np.array(mask),
        array=isac.UniformPlanarArray((2, 2)),
        subcarrier_frequencies_hz=(np.arange(channel.shape[1]) - 2.5) * 5e6,
        bs_position_m=[0.0, 0.0, 20.0],
        user_positions_m=np.array([[40.0, -10.0, 1.5], [50.0, 10.0, 1.5], [60.0, 0.0, 1.5]])[:n_users],
        user_position_std_m=0.3,
        time_offset_std_s=5e-9,
        constellation=points,
        region_m=((20.0, -30.0, 0.0), (80.0, 30.0, 15.0)),
    )
    return observation, symbols, index


def random_channel(n_users: int, seed: int = 0, n_sub: int = N_SUB) -> np.ndarray:
    return complex_normal(np.random.default_rng(seed), (n_users, n_sub, 4))


def posterior(observation, channel, noise_variance):
    """Exact posterior (N, T, Q) of one user's symbols given its channel, by trying every point."""
    points = observation.constellation
    distance = np.abs(observation.received[:, None] - channel[0][:, None, :, None] * points[:, None, None])
    log_likelihood = -np.sum(distance**2, axis=2) / noise_variance
    likelihood = np.exp(log_likelihood - log_likelihood.max(axis=1, keepdims=True))
    return (likelihood / likelihood.sum(axis=1, keepdims=True)).transpose(0, 2, 1)


# --- exact cases -------------------------------------------------------------------------------------


@pytest.mark.parametrize("modulation", ["qpsk", "16qam", "64qam"])
@pytest.mark.parametrize("noise_variance", [0.5, 5.0])
def test_one_user_with_a_known_channel_is_exact(modulation, noise_variance):
    channel = random_channel(1)
    observation, _, _ = block(channel, noise_variance, modulation=modulation)
    detection = detect(ReceivedBlock.of(observation, 1.0), ChannelKnowledge(channel), noise_variance)
    exact = posterior(observation, channel, noise_variance)
    data = ~observation.known[0]
    points = observation.constellation
    mean = exact @ points
    variance = exact @ np.abs(points) ** 2 - np.abs(mean) ** 2
    assert_allclose(detection.moments.mean[0][data], mean[data], atol=1e-10)
    assert_allclose(detection.moments.variance[0][data], variance[data], atol=1e-10)
    assert np.array_equal(detection.decision[0][data], exact.argmax(axis=2)[data])
    assert_exact_llrs(detection.llr[0], exact, data)


def assert_exact_llrs(llr: np.ndarray, exact: np.ndarray, data: np.ndarray) -> None:
    """``ln P(bit = 0) / P(bit = 1)`` of the posterior (N, T, Q), most significant bit of the index first."""
    bits = bit_labels(exact.shape[2])
    for b in range(bits.shape[1]):
        zero, one = exact[:, :, ~bits[:, b]].sum(axis=2), exact[:, :, bits[:, b]].sum(axis=2)
        resolved = data & (zero > 1e-200) & (one > 1e-200)
        assert resolved.any()
        assert_allclose(llr[:, :, b][resolved], np.log(zero / one)[resolved], atol=1e-8)


def circle(n_points: int, turn: float = 0.0) -> np.ndarray:
    return np.exp(1j * (2 * np.pi * np.arange(n_points) / n_points + turn))


def two_rings() -> np.ndarray:
    points = np.concatenate([circle(4, np.pi / 4), 2.5 * circle(12)])
    return points / np.sqrt(np.mean(np.abs(points) ** 2))


CONSTELLATIONS = {
    "bpsk": np.array([1.0, -1.0]),
    "turned bpsk": circle(2, np.pi / 4),
    "qpsk": isac.qam_constellation("qpsk"),
    "qpsk of another labelling": circle(4, np.pi / 4),
    "8psk": circle(8),
    "16qam": isac.qam_constellation("16qam"),
    "16apsk": two_rings(),
    "64qam": isac.qam_constellation("64qam"),
    "64qam of a random labelling": np.random.default_rng(0).permutation(isac.qam_constellation("64qam")),
}


@pytest.mark.parametrize("points", CONSTELLATIONS.values(), ids=CONSTELLATIONS.keys())
@pytest.mark.parametrize("noise_variance", [0.05, 2.0])
def test_llrs_of_any_constellation_are_exact_in_sign_order_and_scale(points, noise_variance):
    """Through the public door, against the posterior by enumeration."""
    channel = random_channel(1, seed=3)
    template, _, _ = block(channel, noise_variance, n_symbols=8)
    rng = np.random.default_rng(4)
    data = ~template.known[0]
    index = rng.integers(0, points.size, data.shape)
    symbols = np.where(data, points[index], template.pilots[0])
    received = channel[0][:, :, None] * symbols[:, None, :]
    received = received + np.sqrt(noise_variance) * complex_normal(rng, received.shape)
    observation = replace(template, received=received, constellation=points)
    result = isac.estimators.result_from_channel(observation, channel, noise_variance)
    exact = posterior(observation, channel, noise_variance)
    assert_exact_llrs(result.llr[0], exact, data)
    assert np.array_equal(result.symbol_decision[0][data], exact.argmax(axis=2)[data])
    assert not result.llr[0][~data].any()


def test_orthogonal_users_are_exact():
    """Users whose channels do not meet: LMMSE loses nothing, each is a one-user problem."""
    rng = np.random.default_rng(0)
    unitary = np.linalg.qr(complex_normal(rng, (N_SUB, 4, 4)))[0]
    channel = np.ascontiguousarray((unitary[:, :, :3] * [1.0, 0.5, 2.0]).transpose(2, 0, 1))
    observation, _, _ = block(channel, 0.3)
    detection = detect(ReceivedBlock.of(observation, 1.0), ChannelKnowledge(channel), 0.3)
    for k in range(3):
        matched = np.einsum("nm,nmt->nt", channel[k].conj(), observation.received)
        energy = np.sum(np.abs(channel[k]) ** 2, axis=1)
        # one bit per axis at +-1/sqrt(2): ln P(0)/P(1) is linear in the matched filter
        symbol = matched / energy[:, None]
        sign = np.sign(observation.constellation[0].real)
        expected = sign * 4 / np.sqrt(2) * symbol.real * energy[:, None] / 0.3
        data = ~observation.known[k]
        assert_allclose(detection.llr[k, :, :, 0][data], expected[data], rtol=1e-8)


# --- conventions -------------------------------------------------------------------------------------


@pytest.mark.parametrize("modulation", ["qpsk", "16qam", "64qam"])
def test_signs_of_llrs_spell_the_index_most_significant_bit_first(modulation):
    channel = random_channel(2)
    observation, symbols, index = block(channel, 1e-6, modulation=modulation, n_symbols=40)
    detection = detect(ReceivedBlock.of(observation, 1.0), ChannelKnowledge(channel), 1e-6)
    data = ~observation.known
    assert np.array_equal(detection.decision, index)
    bits = detection.llr[data] < 0
    weights = 1 << np.arange(bits.shape[1])[::-1]
    assert np.array_equal(bits @ weights, index[data])
    assert_allclose(detection.moments.mean, symbols, atol=1e-2)


def test_pilots_are_untouched():
    channel = random_channel(3)
    observation, _, _ = block(channel, 0.5)
    detection = detect(ReceivedBlock.of(observation, 1.0), ChannelKnowledge(channel), 0.5)
    known = observation.known
    assert np.array_equal(detection.moments.mean[known], observation.pilots[known])
    assert not detection.moments.variance[known].any()
    assert np.all(detection.decision[known] == -1) and np.all(detection.decision[~known] >= 0)
    assert not detection.llr[known].any() and np.all(np.isfinite(detection.llr))


def test_a_block_of_pilots_only():
    channel = random_channel(2)
    observation, _, _ = block(channel, 0.5, mask=np.ones((2, N_SUB, 3), bool), n_symbols=3)
    detection = detect(ReceivedBlock.of(observation, 1.0), ChannelKnowledge(channel), 0.5)
    assert np.array_equal(detection.moments.mean, observation.pilots)
    assert np.all(detection.decision == -1)
    assert detection.llr.shape == (2, N_SUB, 3, 2) and not detection.llr.any()


def test_known_symbols_of_one_user_are_taken_away_from_the_other():
    """Where user 1 sends data under user 0's pilot, the pilot must not disturb."""
    mask = np.zeros((2, N_SUB, 6), bool)
    mask[:, :, 0] = True
    mask[0, :, 1:4] = True
    channel = random_channel(2)
    channel[0] *= 10
    observation, _, index = block(channel, 1e-3, mask=mask, n_symbols=6)
    detection = detect(ReceivedBlock.of(observation, 1.0), ChannelKnowledge(channel), 1e-3)
    assert np.array_equal(detection.decision, index)
    shifted = observation.received + np.einsum("nm,nt->nmt", channel[0], np.where(mask[0], 3.0, 0))
    pilots = observation.pilots + np.where(mask, [[[3.0]], [[0.0]]], 0)
    again = isac.UplinkObservation(
        **{
            name: getattr(observation, name)
            for name in observation.__dataclass_fields__
            if name not in ("received", "pilots")
        },
        received=shifted,
        pilots=pilots,
    )
    other = detect(ReceivedBlock.of(again, 1.0), ChannelKnowledge(channel), 1e-3)
    assert_allclose(other.llr[1], detection.llr[1], rtol=1e-6)


@pytest.mark.parametrize("joint", [False, True])
def test_symbols_full_of_data_are_decided_as_among_pilots(joint):
    channel = random_channel(3)
    observation, _, _ = block(channel, 0.4)
    whole = ReceivedBlock.of(observation, 1.0)
    _, with_data = whole.divided()
    assert not with_data.known.any()
    prior = np.random.default_rng(1).normal(size=(3, N_SUB, 5, 2))
    for llr in (None, prior):
        among = detect(whole, ChannelKnowledge(channel), 0.4, joint, llr)
        alone = detect(
            with_data, ChannelKnowledge(channel), 0.4, joint, None if llr is None else llr[:, :, 1:]
        )
        assert_allclose(alone.moments.mean, among.moments.mean[:, :, 1:], atol=1e-12)
        assert_allclose(alone.moments.variance, among.moments.variance[:, :, 1:], atol=1e-12)
        assert_allclose(alone.llr, among.llr[:, :, 1:], rtol=1e-9)
        shape = (N_SUB, 4, channel.shape[0], channel.shape[0])
        every = among.moments.error_correlation
        every = np.broadcast_to(every, (N_SUB, 5, *shape[2:]))[:, 1:]
        assert_allclose(np.broadcast_to(alone.moments.error_correlation, shape), every, atol=1e-12)


def test_error_correlations_are_those_of_the_linear_model():
    """Without joint decisions they are those of the Gaussian posterior of the users' symbols."""
    channel = random_channel(3)
    observation, _, _ = block(channel, 0.4)
    moments = detect(ReceivedBlock.of(observation, 1.0), ChannelKnowledge(channel), 0.4, joint=False).moments
    assert moments.error_correlation.shape == (N_SUB, 1, 3, 3)  # the same in all symbols
    assert not moments.variance[:, :, 0].any()  # pilots have no error
    for n in range(N_SUB):
        h = channel[:, n].T
        covariance = np.linalg.inv(h.conj().T @ h / 0.4 + np.eye(3))
        deviation = np.sqrt(covariance.diagonal().real)
        expected = covariance / np.outer(deviation, deviation)
        assert_allclose(moments.error_correlation[n, 0], expected, atol=1e-9)


# --- calibration -------------------------------------------------------------------------------------


def assert_calibrated(detections, indices, symbols, tolerance=0.15):
    """Soft variances against squared errors, and LLRs against the share of wrong bits."""
    squared, predicted, wrong, expected = 0.0, 0.0, 0.0, 0.0
    bins = np.zeros((3, 10))
    for detection, index, sent in zip(detections, indices, symbols, strict=True):
        data = index >= 0
        squared += np.sum(np.abs(detection.moments.mean[data] - sent[data]) ** 2)
        predicted += np.sum(detection.moments.variance[data])
        llr = detection.llr[data]
        bits = bit_labels(1 << llr.shape[1])[index[data]]
        wrong += np.sum((llr < 0) != bits)
        expected += np.sum(expit(-np.abs(llr)))
        one = expit(-llr)
        which = np.minimum((10 * one).astype(int), 9)
        for row, weight in enumerate((np.ones_like(one), one, bits)):
            bins[row] += np.bincount(which.ravel(), weight.ravel(), 10)
    assert squared == pytest.approx(predicted, rel=tolerance)
    assert wrong == pytest.approx(expected, rel=tolerance)
    enough = bins[0] > 100
    assert enough.sum() >= 4
    assert_allclose(bins[2][enough] / bins[0][enough], bins[1][enough] / bins[0][enough], atol=0.05)


@pytest.mark.parametrize(("modulation", "noise_variance"), [("qpsk", 1.5), ("16qam", 0.3)])
def test_three_users_with_a_known_channel_are_calibrated(modulation, noise_variance):
    runs = []
    for seed in range(30):
        channel = random_channel(3, seed, n_sub=20)
        observation, symbols, index = block(channel, noise_variance, seed, modulation, n_symbols=8)
        detection = detect(ReceivedBlock.of(observation, 1.0), ChannelKnowledge(channel), noise_variance)
        runs.append((detection, index, symbols))
    assert_calibrated(*zip(*runs, strict=True))


def test_means_shrink_as_much_as_their_variances_say():
    """Symbols of 64-QAM: means are as much less than what was sent as their variances say, and no more."""
    noise_variance = 0.05
    gains, expected = [], []
    for seed in range(20):
        channel = random_channel(3, seed, n_sub=20)
        observation, symbols, index = block(channel, noise_variance, seed, "64qam", n_symbols=8)
        detection = detect(ReceivedBlock.of(observation, 1.0), ChannelKnowledge(channel), noise_variance)
        sure = (index >= 0) & (detection.moments.variance < 0.02)
        mean, sent = detection.moments.mean[sure], symbols[sure]
        gains.append(np.vdot(sent, mean).real / np.vdot(sent, sent).real)
        expected.append(1 - detection.moments.variance[sure].sum() / np.vdot(sent, sent).real)
    assert np.mean(gains) == pytest.approx(np.mean(expected), abs=0.01)


def path_knowledge(seed: int):
    """Three users with three paths each, gains known up to a correlated error, and a true channel."""
    rng = np.random.default_rng(seed)
    receiver = Receiver(
        isac.UniformPlanarArray((2, 2)), np.array([0.0, 0.0, 20.0]), (np.arange(20) - 9.5) * 5e6
    )
    user = np.repeat(np.arange(3), 3)
    unlocated = np.column_stack(
        [rng.uniform(50, 110, 9), rng.uniform(-0.9, 0.9, 9), rng.uniform(-0.4, 0.4, 9)]
    )
    scene = Scene(np.zeros((0, 3)), np.full((3, 3), 50.0), np.zeros(3), unlocated)
    paths = Paths.build(np.zeros(3, bool), np.zeros((3, 0), bool), user)
    atoms = make_atoms(path_parameters(scene, paths, receiver), paths, receiver)
    gains = complex_normal(rng, 9) / np.sqrt(3)
    # orthogonal pilots: errors of different users are independent, those of one user correlated
    root = complex_normal(rng, (9, 9)) * (user[:, None] == user) * 0.25
    knowledge = ChannelKnowledge.from_paths(atoms, gains, root @ root.conj().T, 3)
    true = ChannelKnowledge.from_paths(atoms, gains + root @ complex_normal(rng, 9), root, 3).mean
    return knowledge, true


@pytest.mark.parametrize(("modulation", "noise_variance"), [("qpsk", 0.5), ("16qam", 0.05)])
def test_three_users_with_an_uncertain_channel_are_calibrated(modulation, noise_variance):
    runs = []
    for seed in range(60):
        knowledge, true = path_knowledge(seed)
        observation, symbols, index = block(true, noise_variance, seed + 2000, modulation, n_symbols=6)
        detection = detect(ReceivedBlock.of(observation, 1.0), knowledge, noise_variance)
        runs.append((detection, index, symbols))
    assert_calibrated(*zip(*runs, strict=True))


@pytest.mark.parametrize("noise_variance", [0.1, 0.5])
def test_white_channel_errors_are_calibrated(noise_variance):
    variance = np.array([0.02, 0.1, 0.2])  # of the estimate; the channel has variance one
    runs = []
    for seed in range(60):
        channel = random_channel(3, seed, n_sub=20)
        error = complex_normal(np.random.default_rng(seed + 1000), channel.shape)
        estimate = channel + np.sqrt(variance)[:, None, None] * error
        knowledge = ChannelKnowledge(
            estimate / (1 + variance)[:, None, None], white_variance=variance / (1 + variance)
        )
        observation, symbols, index = block(channel, noise_variance, seed + 2000, n_symbols=6)
        runs.append((detect(ReceivedBlock.of(observation, 1.0), knowledge, noise_variance), index, symbols))
    assert_calibrated(*zip(*runs, strict=True))


def test_uncertainty_softens():
    knowledge, true = path_knowledge(0)
    observation, _, _ = block(true, 0.1)
    certain = detect(ReceivedBlock.of(observation, 1.0), ChannelKnowledge(knowledge.mean), 0.1)
    aware = detect(ReceivedBlock.of(observation, 1.0), knowledge, 0.1)
    data = ~observation.known
    assert np.mean(np.abs(aware.llr[data])) < np.mean(np.abs(certain.llr[data]))


def test_degenerate_channels_give_numbers():
    for channel in (np.zeros((2, N_SUB, 4), complex), np.ones((2, N_SUB, 4), complex)):
        observation, _, _ = block(random_channel(2), 1.0)
        for noise_variance in (1.0, 1e-9):
            detection = detect(ReceivedBlock.of(observation, 1.0), ChannelKnowledge(channel), noise_variance)
            for values in (detection.moments.mean, detection.moments.variance, detection.llr):
                assert np.all(np.isfinite(values))


def test_every_combination_of_two_bits_occurs():
    labels = bit_labels(4)
    assert sorted(map(tuple, labels.tolist())) == sorted(product([False, True], repeat=2))


# --- over time ---------------------------------------------------------------------------------------


def over_time(received: ReceivedBlock, doppler_hz, phases_rad) -> ReceivedBlock:
    n_symbols = received.received.shape[2]
    times = (np.arange(n_symbols) - (n_symbols - 1) / 2) * 1e-4
    return replace(received, derotation=Derotation(times, times, np.array(doppler_hz), phases_rad))


def soft_block(seed: int = 0, n_users: int = 2):
    rng = np.random.default_rng(seed)
    channel = complex_normal(rng, (n_users, N_SUB, 4))
    observation, symbols, index = block(channel, 0.3, seed)
    return ReceivedBlock.of(observation, 1.0), ChannelKnowledge(channel), symbols, index


def over_symbols(channel: ChannelKnowledge, n_symbols: int) -> ChannelKnowledge:
    """What is known of a channel at rest in so many OFDM symbols, by resource element."""
    atoms = channel.atoms
    if atoms is not None:
        atoms = atoms.over_cells(np.repeat(atoms.delay, n_symbols, axis=0))
    return replace(channel, mean=np.repeat(channel.mean, n_symbols, axis=1), atoms=atoms)


@pytest.mark.parametrize("joint", [True, False])
def test_symbol_by_symbol_is_all_at_once_where_nothing_turns(joint):
    received, channel, _, _ = soft_block()
    n_symbols = received.received.shape[2]
    turning = over_time(received, np.zeros(2), np.zeros((2, n_symbols)))
    expected = detect(received, channel, 0.3, joint)
    found = detect_over_time(turning, lambda at: over_symbols(channel, at.times_s.size), 0.3, joint)
    assert_allclose(found.moments.mean, expected.moments.mean, atol=1e-12)
    assert_allclose(found.moments.variance, expected.moments.variance, atol=1e-12)
    assert_allclose(found.log_probability, expected.log_probability, atol=1e-9)
    assert np.array_equal(found.known, expected.known)
    first, second = (
        d.moments.error_correlation * np.sqrt(np.einsum("knt,jnt->ntkj", v, v))
        for d, v in ((d, d.moments.variance) for d in (found, expected))
    )
    assert_allclose(first, second, atol=1e-9)


def test_a_channel_that_turns_is_detected_as_one_at_rest():
    """Turning a user's channel and its samples alike changes nothing."""
    rng = np.random.default_rng(4)
    received, channel, _, _ = soft_block(1, n_users=1)
    n_symbols = received.received.shape[2]
    turning = over_time(received, [700.0], rng.normal(0, 1, (1, n_symbols)))
    turned = replace(turning, received=turning.received * turning.derotation.factors[0])

    def channel_of(at):
        still = over_symbols(channel, at.times_s.size).mean.reshape(1, N_SUB, at.times_s.size, -1)
        return ChannelKnowledge((still * at.factors[:, None, :, None]).reshape(1, -1, still.shape[3]))

    found = detect_over_time(turned, channel_of, 0.3)
    assert_allclose(found.log_probability, detect(received, channel, 0.3).log_probability, atol=1e-9)


def test_no_symbol_at_all_has_no_decision():
    received, channel, _, _ = soft_block()
    nothing = over_time(received, np.zeros(2), np.zeros((2, 5))).take(np.zeros(0, np.int64))
    found = detect_over_time(nothing, lambda _: channel, 0.3)
    assert found.moments.mean.shape == (2, N_SUB, 0) and found.llr.shape == (2, N_SUB, 0, 2)
