"""A model that explains the samples worse than least squares gives way to it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

import isac_toolbox as isac
from isac_toolbox.estimators.fallback import FELL_BACK, better_of

UPLINK = isac.Scenario.load("urban_uplink").replace(snr_db=20)


@pytest.fixture(scope="module")
def block():
    simulation = UPLINK.simulate(0)
    good = isac.EMTurboBiSVBI().estimate(simulation.observation)
    return simulation, good, isac.LeastSquares().estimate(simulation.observation)


def test_the_better_channel_stays(block):
    simulation, good, plain = block
    assert better_of(simulation.observation, good, plain) is good


def test_a_worse_channel_goes_and_it_is_said(block):
    simulation, good, plain = block
    bad = replace(good, channel=good.channel * np.exp(0.5j), symbol_mean=plain.symbol_mean)
    result = better_of(simulation.observation, bad, plain)
    assert result.status == FELL_BACK and not result.converged
    for name in ("channel", "channel_variance", "symbol_mean", "symbol_decision", "llr", "noise_variance"):
        assert getattr(result, name) is getattr(plain, name)
    assert np.all(result.scatterer_probability <= 0.5)
    assert np.all(result.candidates.scatterer_probability <= 0.5)
    np.testing.assert_array_equal(result.scatterer_positions_m, bad.scatterer_positions_m)
    assert "least squares" in result.warnings[-1]


def test_masked_samples_do_not_count(block):
    simulation, good, plain = block
    usable = np.ones(64, bool)
    usable[5] = False
    observation = replace(simulation.observation, element_mask=usable)
    spoilt = good.channel.copy()
    spoilt[..., 5] = 1e3
    kept = replace(good, channel=spoilt)
    assert better_of(observation, kept, plain) is kept
    assert better_of(simulation.observation, kept, plain) is not kept


def test_without_data_the_expected_errors_decide(block):
    simulation, good, plain = block
    all_known = replace(
        simulation.observation,
        pilots=simulation.truth.symbols,
        pilot_mask=np.ones_like(simulation.observation.pilot_mask),
    )
    assert better_of(all_known, good, plain) is good
    unsure = replace(good, channel_variance=good.channel_variance + 1.0)
    assert better_of(all_known, unsure, plain).status == FELL_BACK


@pytest.mark.parametrize("seed", [0, 1])
def test_never_worse_than_least_squares_on_a_diffuse_channel(seed):
    """A channel that is no sum of few paths: white over the array, exponential over delay."""
    simulation = UPLINK.replace(snr_db=10).simulate(seed)
    observation, rng = simulation.observation, np.random.default_rng(seed)
    n_users, _, n_antennas = simulation.truth.channel.shape
    taps = rng.standard_normal((n_users, 24, n_antennas, 2)) @ [1, 1j]
    taps *= np.exp(-np.arange(24) / 16)[:, None]
    delays = 250e-9 + np.arange(24) / 96e6
    response = np.exp(-2j * np.pi * np.multiply.outer(observation.subcarrier_frequencies_hz, delays))
    channel = np.einsum("nd,kdm->knm", response, taps)
    channel *= np.sqrt(np.mean(np.abs(simulation.truth.channel) ** 2) / np.mean(np.abs(channel) ** 2))
    noise = rng.standard_normal((*observation.received.shape, 2)) @ [1, 1j]
    noise *= np.sqrt(simulation.truth.noise_variance / 2)
    received = np.einsum("knm,knt->nmt", channel, simulation.truth.symbols) + noise
    observation = replace(observation, received=received)
    result = isac.EMTurboBiSVBI(max_seconds=20).estimate(observation)
    plain = isac.LeastSquares().estimate(observation)
    error_db = isac.metrics.channel_nmse_db(result.channel, channel)
    assert error_db < isac.metrics.channel_nmse_db(plain.channel, channel) + 0.3
    if result.status == FELL_BACK:
        assert not result.converged


def test_a_failure_gives_the_plain_channel_and_says_so(block, monkeypatch):
    simulation, _, plain = block

    def fail(*_):
        raise np.linalg.LinAlgError("singular")

    monkeypatch.setattr("isac_toolbox.estimators.bisvbi.BiSVBILoop.result", fail)
    result = isac.EMTurboBiSVBI().estimate(simulation.observation)
    assert result.status == "numerical failure" and not result.converged
    assert result.estimator == "EM-Turbo-BiSVBI" and "failed" in result.warnings[-1]
    np.testing.assert_array_equal(result.channel, plain.channel)
