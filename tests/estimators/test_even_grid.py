"""Channels on an even grid against the conditional mean, and where nothing has to be filled in."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from helpers.scenes import complex_normal
from isac_toolbox.channel.array import SPEED_OF_LIGHT_M_S
from isac_toolbox.estimators import even_grid
from isac_toolbox.estimators.even_grid import EvenGrid, even_channel

WINDOW_M = (20.0, 90.0)


def channel_at(frequencies: np.ndarray, seed: int = 0) -> np.ndarray:
    """Eight paths of lengths in the window on five antennas, shape (N, 5)."""
    rng = np.random.default_rng(seed)
    turns = np.multiply.outer(frequencies, rng.uniform(*WINDOW_M, 8)) / SPEED_OF_LIGHT_M_S
    return np.exp(-2j * np.pi * turns) @ complex_normal(rng, (8, 5))


def filled(frequencies: np.ndarray, channel: np.ndarray, sounded: np.ndarray | None = None):
    grid = EvenGrid.of(frequencies, WINDOW_M[1] - WINDOW_M[0])
    sounded = np.ones(frequencies.size, bool) if sounded is None else sounded
    return grid, even_channel(channel, frequencies, sounded, grid, WINDOW_M)


def test_even_subcarriers_are_only_sorted():
    frequencies = 1e6 * np.arange(20)
    order = np.random.default_rng(0).permutation(20)
    channel = channel_at(frequencies)
    grid, even = filled(frequencies[order], channel[order])
    assert_array_equal(even, channel)
    assert_array_equal(grid.frequencies_hz, frequencies)


@pytest.mark.parametrize("missing", [[31], [0, 1, 20, 31, 32, 33, 50]], ids=["dc", "guards"])
def test_holes_get_what_paths_have_there_and_the_rest_stays(missing):
    whole = 1.5e6 * (np.arange(64) - 31.5)
    kept = np.delete(np.arange(64), missing)
    channel = channel_at(whole)
    grid, even = filled(whole[kept], channel[kept])
    inside = [i - kept[0] for i in missing if kept[0] < i < kept[-1]]
    assert_array_equal(even[kept - kept[0]], channel[kept])
    error = even[inside] - channel_at(grid.frequencies_hz)[inside]
    assert np.mean(np.abs(error) ** 2) < 1e-3 * np.mean(np.abs(channel) ** 2)


def test_a_combs_other_subcarriers_are_holes():
    whole = 1.5e6 * (np.arange(64) - 31.5)
    channel = channel_at(whole)
    sounded = np.arange(64) % 2 == 1
    _, even = filled(whole, np.where(sounded[:, None], channel, 1e6), sounded)
    assert np.sum(np.abs(even - channel)[4:-4] ** 2) < 1e-2 * np.sum(np.abs(channel) ** 2)


def test_irregular_subcarriers_under_noise():
    rng = np.random.default_rng(1)
    frequencies = 96e6 * (np.arange(64) + rng.uniform(0, 1, 64)) / 64
    clean = channel_at(frequencies)
    noisy = clean + 0.1 * np.sqrt(8) * complex_normal(rng, clean.shape)
    grid, even = filled(frequencies, noisy)
    assert grid.place is None and np.ptp(np.diff(grid.frequencies_hz)) < 1.0
    error = even - channel_at(grid.frequencies_hz)
    assert np.mean(np.abs(error[1:-1]) ** 2) < 2 * 0.01 * 8


def test_values_are_the_conditional_mean(monkeypatch):
    """Against covariances of grid and subcarriers, at a ratio of noise to power that is given."""
    ratio = 0.3
    monkeypatch.setattr(even_grid, "_NOISE_RATIOS", np.array([ratio]))
    frequencies = np.cumsum(np.random.default_rng(2).uniform(1e6, 3e6, 24))
    channel = channel_at(frequencies)
    grid, even = filled(frequencies, channel)
    cell = SPEED_OF_LIGHT_M_S / (np.ptp(grid.frequencies_hz) + grid.step_hz)
    first, last = WINDOW_M[0] - cell, WINDOW_M[1] + cell
    lengths = np.linspace(first, last, int(np.ceil(2 * (last - first) / cell)) + 1)

    def covariance(f: np.ndarray, g: np.ndarray) -> np.ndarray:
        turns = np.multiply.outer(np.subtract.outer(f, g), lengths) / SPEED_OF_LIGHT_M_S
        return np.exp(-2j * np.pi * turns).sum(axis=2)

    noisy = covariance(frequencies, frequencies) + ratio * np.eye(24)
    expected = covariance(grid.frequencies_hz, frequencies) @ np.linalg.solve(noisy, channel)
    assert_allclose(even, expected, atol=1e-9 * np.abs(expected).max())


def test_the_noise_ratio_is_the_likeliest():
    """By the Gaussian density of the values, the power at its best for every ratio."""
    rng = np.random.default_rng(3)
    responses = complex_normal(rng, (12, 5))
    values = responses @ complex_normal(rng, (5, 40)) + 0.2 * complex_normal(rng, (12, 40))
    left, strengths, _ = np.linalg.svd(responses, full_matrices=False)
    seen = left.conj().T @ values
    outside = float(np.sum(np.abs(values) ** 2) - np.sum(np.abs(seen) ** 2))
    costs = []
    for ratio in even_grid._NOISE_RATIOS:
        covariance = responses @ responses.conj().T + ratio * np.eye(12)
        power = np.sum(values.conj() * np.linalg.solve(covariance, values)).real / values.size
        costs.append(40 * np.linalg.slogdet(power * covariance)[1])
    best = even_grid._likeliest_ratio(strengths, seen, outside, values.size)
    assert best == even_grid._NOISE_RATIOS[int(np.argmin(costs))]
    assert 0.01 < best < 0.15
