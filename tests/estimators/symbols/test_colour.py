"""The shape of noise from what no channel explains, and its shrinkage."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.testing import assert_allclose

from helpers.scenes import complex_normal
from isac_toolbox.estimators.symbols.colour import LeftOver, left_by_channels, left_by_symbols, shrunk

N_ELEMENTS = 16


def snapshots_of(covariance: np.ndarray, n: int, seed: int = 0) -> LeftOver:
    white = complex_normal(np.random.default_rng(seed), (len(covariance), n))
    noise = np.linalg.cholesky(covariance) @ white
    return LeftOver(noise @ noise.conj().T, float(n))


def with_waves(power: float, *slopes: float) -> np.ndarray:
    waves = np.exp(1j * np.multiply.outer(np.arange(N_ELEMENTS), slopes))
    return np.eye(N_ELEMENTS) + power * waves @ waves.conj().T


def loss(covariance: np.ndarray, found: np.ndarray, slope: float = 1.3) -> float:
    """SNR of a filter for a plane wave under a covariance that was found, relative to the best."""
    wave = np.exp(1j * slope * np.arange(N_ELEMENTS))
    weights = np.linalg.solve(found, wave)
    best = np.vdot(wave, np.linalg.solve(covariance, wave)).real
    return abs(np.vdot(weights, wave)) ** 2 / np.vdot(weights, covariance @ weights).real / best


def test_signals_leave_nothing_and_noise_all_but_its_part_of_them():
    rng = np.random.default_rng(1)
    channel, symbols = complex_normal(rng, (2, 6, 4)), complex_normal(rng, (2, 6, 9))
    used = rng.random((6, 9)) < 0.8
    signal = np.einsum("knm,knt->nmt", channel, symbols)
    left = left_by_symbols(signal, symbols, used)
    assert np.abs(left.moments).max() < 1e-12
    assert left.n_snapshots == used.sum() - 6 * 2
    noise = complex_normal(rng, (6, 4, 9))
    both = left_by_symbols(signal + noise, symbols, used)
    assert_allclose(both.moments, left_by_symbols(noise, symbols, used).moments, atol=1e-12)


def test_symbols_that_depend_on_each_other_take_one_dimension():
    rng = np.random.default_rng(2)
    symbols = np.repeat(complex_normal(rng, (1, 3, 5)), 2, axis=0)
    left = left_by_symbols(complex_normal(rng, (3, 4, 5)), symbols, np.ones((3, 5), bool))
    assert left.n_snapshots == 3 * (5 - 1)


def test_an_error_of_rough_channels_lets_only_its_own_directions_through():
    rng = np.random.default_rng(3)
    channel, wave = complex_normal(rng, (2, 40, 16)), np.exp(0.9j * np.arange(16))
    symbols = complex_normal(rng, (2, 40, 5))
    rough = channel + complex_normal(rng, (2, 40, 1)) * wave
    signal = np.einsum("knm,knt->nmt", channel, symbols)
    left = left_by_channels(signal, rough, np.ones((40, 5), bool))
    values, vectors = np.linalg.eigh(left.covariance)
    assert abs(np.vdot(vectors[:, -1], wave)) ** 2 / 16 > 0.85
    assert values[-2] < 0.4 * values[-1]
    exact = left_by_channels(signal, channel, np.ones((40, 5), bool))
    assert np.abs(exact.moments).max() < 1e-10 and exact.n_snapshots == 200


@pytest.mark.parametrize("n", [10, 40, 4000])
def test_white_noise_stays_white(n):
    found = shrunk(snapshots_of(2.0 * np.eye(N_ELEMENTS), n))
    assert loss(np.eye(N_ELEMENTS), found) > 0.97
    assert np.trace(found).real / N_ELEMENTS == pytest.approx(2.0, rel=0.2)


def test_few_snapshots_suffice_for_few_directions():
    covariance = with_waves(10.0, 1.1, -0.4)
    few, whole = snapshots_of(covariance, 12), snapshots_of(covariance, 12).covariance
    assert loss(covariance, shrunk(few)) > 0.8 > loss(covariance, np.eye(N_ELEMENTS))
    assert loss(covariance, shrunk(few)) > 2 * loss(covariance, whole + 1e-9 * np.eye(N_ELEMENTS))


def test_levels_of_elements_and_other_colours_are_learned():
    levels = np.exp(0.5 * np.random.default_rng(4).standard_normal(N_ELEMENTS))
    loud = with_waves(3.0, 0.7) + np.diag(levels - 1)
    assert loss(loud, shrunk(snapshots_of(loud, 2000))) > 0.99 > loss(loud, with_waves(3.0, 0.7))
    along = 0.8 ** np.abs(np.subtract.outer(np.arange(N_ELEMENTS), np.arange(N_ELEMENTS)))
    assert loss(along, shrunk(snapshots_of(along, 500))) > 0.95


def test_strong_directions_keep_their_power():
    covariance = with_waves(5.0, 1.1)
    found = shrunk(snapshots_of(covariance, 300))
    assert np.linalg.eigvalsh(found)[-1] == pytest.approx(1 + 5 * N_ELEMENTS, rel=0.15)
    assert_allclose(np.linalg.eigvalsh(found)[:-1], 1, atol=0.1)


def test_too_few_snapshots_tell_nothing():
    assert not snapshots_of(np.eye(N_ELEMENTS), 3).tells
    assert snapshots_of(np.eye(N_ELEMENTS), 4).tells


def test_distortion_is_learned_from_few_snapshots_by_the_signals_shape():
    """Clipping leaves odd powers of the signals' correlations; fewer snapshots than elements tell them."""
    waves = np.exp(1j * np.multiply.outer(np.arange(N_ELEMENTS), [0.3, 0.5, -1.2]))
    signal = waves @ np.diag([1.0, 0.5, 0.3]) @ waves.conj().T + 0.01 * np.eye(N_ELEMENTS)
    alike = signal / signal[0, 0].real
    covariance = np.eye(N_ELEMENTS) + 0.5 * alike * np.abs(alike) ** 2
    gains = []
    for seed in range(10):
        left = snapshots_of(covariance, 12, seed)
        knowing, ignorant = shrunk(left, 7.0 * signal), shrunk(left)
        gains.append(loss(covariance, knowing, 0.4) - loss(covariance, ignorant, 0.4))
        assert loss(covariance, knowing, 0.4) > 0.9
    assert np.mean(gains) > 0.02


def test_a_signal_that_is_not_distorted_leaves_white_noise_white():
    waves = np.exp(1j * np.multiply.outer(np.arange(N_ELEMENTS), [0.3, -1.2]))
    found = shrunk(snapshots_of(np.eye(N_ELEMENTS), 300), waves @ waves.conj().T)
    assert loss(np.eye(N_ELEMENTS), found, 0.3) > 0.99
    interfered = shrunk(snapshots_of(with_waves(10.0, 2.0), 300), waves @ waves.conj().T)
    assert loss(with_waves(10.0, 2.0), interfered, 0.3) > 0.97
