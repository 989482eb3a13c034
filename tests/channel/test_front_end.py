"""Mixers, amplifiers and converters: transforms by sums, limits of no effect, known distortions."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.testing import assert_allclose

import isac_toolbox as isac
from isac_toolbox.channel import front_end
from isac_toolbox.channel.front_end import (
    add_image,
    amplify,
    best_full_scale,
    clip,
    quantise,
    to_subcarriers,
    to_time,
)


def gaussian(*shape: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return (rng.standard_normal(shape) + 1j * rng.standard_normal(shape)) / np.sqrt(2)


def distortion_db(samples: np.ndarray, distorted: np.ndarray) -> float:
    return float(10 * np.log10(np.mean(np.abs(distorted - samples) ** 2) / np.mean(np.abs(samples) ** 2)))


@pytest.mark.parametrize("n_subcarriers", [5, 8])
@pytest.mark.parametrize("oversampling", [1, 3])
def test_time_samples_are_sums_of_tones_around_zero(n_subcarriers, oversampling):
    samples, n_times = gaussian(n_subcarriers, 2), oversampling * n_subcarriers
    tones = np.arange(n_subcarriers) - (n_subcarriers - 1) / 2
    expected = np.exp(2j * np.pi * np.outer(np.arange(n_times), tones) / n_times) @ samples
    assert_allclose(to_time(samples, oversampling), expected, atol=1e-12)
    assert_allclose(to_subcarriers(expected, n_subcarriers), samples, atol=1e-13)


def test_what_is_out_of_the_band_is_filtered_away():
    n_times = 16
    beyond = np.exp(2j * np.pi * 3.5 * np.arange(n_times) / n_times)[:, None]
    assert_allclose(to_subcarriers(beyond, 4), 0, atol=1e-15)
    assert_allclose(to_subcarriers(beyond, 8)[-1], 1)


def test_an_image_is_the_conjugate_in_time():
    samples = gaussian(2, 6, 3)
    imaged = add_image(samples, -20.0, np.random.default_rng(1))
    for before, after in zip(samples, imaged, strict=True):
        image = to_time(after - before, 2)
        ratio = image / to_time(before, 2).conj()
        assert_allclose(ratio, ratio[0, 0], rtol=1e-9)
        assert abs(ratio[0, 0]) == pytest.approx(0.1)


@pytest.mark.parametrize(("bits", "step"), [(1, 1.596), (2, 0.9957), (3, 0.5860), (4, 0.3352), (5, 0.1881)])
def test_the_best_full_scale_is_that_of_max(bits, step):
    assert best_full_scale(bits) * 2 / 2**bits == pytest.approx(step, rel=1e-3)


@pytest.mark.parametrize(("bits", "error"), [(1, 0.3634), (2, 0.1188), (3, 0.03744), (4, 0.01154)])
def test_distortion_at_the_rate_of_the_band_is_that_of_max(bits, error):
    """Without oversampling all of it is in the band; dividing by the gain 1 - D leaves D / (1 - D)."""
    samples = gaussian(64, 400)
    distortion = np.mean(np.abs(quantise(samples, bits, None, 1) - samples) ** 2)
    assert distortion == pytest.approx(error / (1 - error) * np.mean(np.abs(samples) ** 2), rel=0.02)


def test_every_bit_is_worth_six_decibels_and_many_are_none():
    samples = gaussian(64, 20)
    by_bits = [distortion_db(samples, quantise(samples, bits, 8.0, 2)) for bits in (6, 9, 12, 16)]
    assert_allclose(np.diff(by_bits), [-18.06, -18.06, -24.08], atol=0.3)
    assert_allclose(quantise(samples, 16, 8.0, 2), samples, atol=1e-3)


def test_a_faster_converter_spreads_its_noise_over_more_than_the_band():
    samples = gaussian(64, 50)
    slow, fast = (distortion_db(samples, quantise(samples, 6, 6.0, rate)) for rate in (1, 4))
    assert slow - fast == pytest.approx(6.0, abs=0.3)


def test_quantised_time_samples_have_so_many_levels(monkeypatch):
    seen = []
    monkeypatch.setattr(front_end, "_in_time", lambda samples, _, distort: seen.append(distort(samples)))
    quantise(gaussian(200, 20), 3, 2.0, 1)
    parts = np.unique(np.round(seen[0].view(float), 12))
    assert parts.size == 8 and is_even(parts)


def is_even(levels: np.ndarray) -> bool:
    return bool(np.allclose(np.diff(levels), np.diff(levels)[0]) and np.allclose(levels, -levels[::-1]))


def test_clipping_reaches_the_share_that_it_is_told(monkeypatch):
    seen = []
    monkeypatch.setattr(front_end, "_in_time", lambda samples, _, distort: seen.append(distort(samples)))
    samples = gaussian(200, 50)
    clip(samples, 0.05, 1)
    assert np.mean(seen[0].view(float) != samples.view(float)) == pytest.approx(0.05, abs=1e-3)


def test_clipping_of_next_to_nothing_is_nothing():
    samples = gaussian(64, 20)
    shares = [distortion_db(samples, clip(samples, share, 2)) for share in (0.05, 0.01, 1e-3, 1e-9)]
    assert np.all(np.diff(shares) < -3) and shares[-1] < -80


def test_an_amplifier_far_from_saturation_does_nothing():
    symbols = gaussian(48, 20)
    by_backoff = [distortion_db(symbols, amplify(symbols, backoff)) for backoff in (3.0, 6.0, 9.0, 40.0)]
    assert np.all(np.diff(by_backoff) < -3) and by_backoff[-1] < -120


@pytest.mark.parametrize("phase", [1.0, 1j, np.exp(0.3j)])
def test_a_phase_or_a_level_passes_an_amplifier(phase):
    symbols = gaussian(16, 4)
    assert_allclose(amplify(5 * phase * symbols, 3.0), 5 * phase * amplify(symbols, 3.0), rtol=1e-9)


def test_a_level_passes_a_converter_and_distortion_is_uncorrelated():
    samples = gaussian(32, 10)
    coarse = quantise(samples, 3, None, 2)
    assert_allclose(quantise(7 * samples, 3, None, 2), 7 * coarse, rtol=1e-9)
    finest = front_end.to_time(samples, 1)
    error = front_end.to_time(quantise(samples, 3, None, 1), 1) - finest
    assert abs(np.vdot(finest, error)) < 1e-9 * np.vdot(finest, finest).real


def test_a_perfect_front_end_passes_bits():
    scenario, rng = isac.Scenario(), np.random.default_rng(0)
    samples = gaussian(8, 3, 4)
    assert np.array_equal(front_end.received_samples(scenario, samples, rng), samples)
    assert front_end.sent_symbols(scenario, samples, rng) is samples
