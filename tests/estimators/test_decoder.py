"""EM-Turbo-BiSVBI with a decoder: what the code says helps channel and data, and counts once."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

import isac_toolbox as isac
from isac_toolbox.channel import bit_labels
from isac_toolbox.estimators.symbols.detection import log_prior_of

SCENARIO = isac.Scenario.load("urban_uplink").replace(
    array_shape=(4, 2), n_subcarriers=48, modulation="16qam", n_data_symbols=6, snr_db=1.0
)
REPEATS = 4


class Repetition:
    """Every information bit is sent so often, spread over a user's data; hears and says LLRs on the grid."""

    def __init__(self, known: np.ndarray, n_bits: int, seed: int) -> None:
        self.data = ~known
        rng = np.random.default_rng(seed)
        n_coded = int(self.data[0].sum()) * n_bits
        self.places = np.stack([rng.permutation(n_coded) for _ in known]).reshape(len(known), -1, REPEATS)
        self.information = rng.integers(0, 2, self.places.shape[:2])
        self.n_bits, self.heard = n_bits, []

    def coded(self) -> np.ndarray:
        """Constellation indices (K, N, T), -1 at pilots."""
        index = np.full(self.data.shape, -1)
        for k, places in enumerate(self.places):
            bits = np.zeros(places.size, int)
            bits[places] = self.information[k][:, None]
            index[k][self.data[k]] = bits.reshape(-1, self.n_bits) @ (1 << np.arange(self.n_bits)[::-1])
        return index

    def sums(self, llr: np.ndarray) -> list[np.ndarray]:
        return [llr[k][self.data[k]].ravel()[places].sum(axis=1) for k, places in enumerate(self.places)]

    def __call__(self, llr: np.ndarray) -> np.ndarray:
        self.heard.append(llr)
        said = np.zeros(llr.shape)
        for k, total in enumerate(self.sums(llr)):
            own, places = llr[k][self.data[k]].ravel(), self.places[k]
            extrinsic = np.empty(own.size)
            extrinsic[places] = total[:, None] - own[places]
            said[k][self.data[k]] = extrinsic.reshape(-1, self.n_bits)
        return said

    def error_rate(self, llr: np.ndarray) -> float:
        return float(np.mean([(total < 0) != b for total, b in zip(self.sums(llr), self.information)]))


def coded_block(seed: int, scenario=SCENARIO):
    """A block whose data are code words, and the code."""
    sim = scenario.simulate(seed)
    code = Repetition(sim.observation.known, sim.observation.bits_per_symbol, seed)
    index = code.coded()
    symbols = np.where(index < 0, sim.observation.pilots, sim.observation.constellation[index])
    rng = np.random.default_rng(seed)
    clean = np.einsum("knm,knt->nmt", sim.truth.channel, symbols)
    noise = rng.standard_normal((2, *clean.shape)) * np.sqrt(sim.truth.noise_variance / 2)
    return replace(sim.observation, received=clean + noise[0] + 1j * noise[1]), code, sim.truth.channel


def test_a_code_in_the_loop_lowers_errors_of_bits_and_channel():
    errors, nmse = [], []
    for seed in range(3):
        obs, code, channel = coded_block(seed)
        found = [isac.EMTurboBiSVBI(decoder=d).estimate(obs) for d in (None, code)]
        errors.append([code.error_rate(r.llr) for r in found])
        nmse.append([isac.metrics.channel_nmse_db(r.channel, channel) for r in found])
    (without, within), gain_db = np.mean(errors, axis=0), np.diff(np.mean(nmse, axis=0))
    assert within < 0.5 * without and without > 0.005
    assert gain_db < -0.5


def test_a_decoder_that_says_nothing_changes_nothing():
    obs, _, _ = coded_block(1)
    plain = isac.EMTurboBiSVBI().estimate(obs)
    silent = isac.EMTurboBiSVBI(decoder=np.zeros_like).estimate(obs)
    assert_allclose(silent.channel, plain.channel, rtol=1e-6, atol=1e-9)
    assert_allclose(silent.llr, plain.llr, rtol=1e-5, atol=1e-6)


def test_what_the_decoder_says_does_not_come_back_to_it():
    """The LLRs of a bit that it alone knows stay those of the samples, pilots stay zero."""
    obs, _, _ = coded_block(2)
    heard = []

    def sure_of_one_bit(llr):
        heard.append(llr.copy())
        said = np.zeros(llr.shape)
        said[0, 5, -1, 0] = 30.0
        return said

    result = isac.EMTurboBiSVBI(decoder=sure_of_one_bit).estimate(obs)
    assert len(heard) > 1 and heard[0].shape == result.llr.shape
    assert_array_equal(heard[-1][obs.known], 0)
    assert abs(heard[-1][0, 5, -1, 0]) < 25 and abs(result.llr[0, 5, -1, 0]) < 25
    assert result.symbol_decision[0, 5, -1] < 8  # the first bit is zero


def test_masked_samples_keep_what_the_decoder_says():
    obs, code, _ = coded_block(0)
    masked = np.ones(obs.received.shape, bool)
    masked[3, :, -1] = False  # a cell without a sample
    masked[7, 2, :] = False  # a sample of an element
    obs = replace(obs, sample_mask=masked)
    result = isac.EMTurboBiSVBI(decoder=code).estimate(obs)
    assert_allclose(result.llr[:, 3, -1], 0, atol=1e-9)
    assert code.error_rate(result.llr) < 0.02


def test_priors_of_points_are_products_over_their_bits():
    llr = np.array([[0.3, -2.0], [40.0, 0.0]])
    found = np.exp(log_prior_of(llr))
    one = 1 / (1 + np.exp(llr))
    labels = bit_labels(4)
    expected = np.prod(np.where(labels, one[:, None], 1 - one[:, None]), axis=-1)
    assert_allclose(found, expected, rtol=1e-12)


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"decoder": 3}, TypeError, "decoder must be callable"),
        ({"decoder": np.zeros_like, "data_aided": False}, ValueError, "decoder needs data_aided=True"),
        ({"decoder": lambda llr: llr[0]}, ValueError, "decoder: its LLRs must have shape"),
        ({"decoder": lambda llr: llr * np.nan}, ValueError, "decoder: its LLRs must be numbers"),
        ({"decoder": lambda llr: "bits"}, TypeError, "decoder: its LLRs must be numeric"),
    ],
)
def test_bad_decoders_are_named(settings, error, message):
    with pytest.raises(error, match=message):
        isac.EMTurboBiSVBI(**settings).estimate(coded_block(0)[0])
