"""Least squares: its statistics are made once, and a known noise variance is taken as it is."""

from __future__ import annotations

from dataclasses import fields

import numpy as np
import pytest

import isac_toolbox as isac
from isac_toolbox.estimators.baselines import least_squares
from isac_toolbox.estimators.symbols import statistics

SCENARIO = isac.Scenario.load("urban_uplink").replace(n_subcarriers=16, array_shape=(4, 4), n_data_symbols=2)


def test_statistics_are_computed_once(monkeypatch):
    calls = []
    original = statistics._statistics

    def counted(*arguments):
        calls.append(1)
        return original(*arguments)

    monkeypatch.setattr(statistics, "_statistics", counted)
    least_squares.LeastSquares().estimate(SCENARIO.simulate(0).observation)
    assert len(calls) == 1


@pytest.mark.parametrize("noise_variance", [1e-3, 7.0])
def test_a_known_noise_variance_is_kept(noise_variance):
    observation = SCENARIO.simulate(0).observation
    given = {f.name: getattr(observation, f.name) for f in fields(observation)}
    known = isac.UplinkObservation(**{**given, "noise_variance": noise_variance})
    estimate = isac.LeastSquares().estimate(known)
    assert estimate.noise_variance == pytest.approx(noise_variance, rel=1e-12)
    estimated = isac.LeastSquares().estimate(observation)
    np.testing.assert_allclose(estimate.channel, estimated.channel)


def test_the_stated_error_of_a_comb_is_that_on_its_own_tones():
    """User k sends 2 on every second tone: the error there is noise over |2|^2, not half of it."""
    rng = np.random.default_rng(1)
    pilots = np.zeros((2, 40, 1), complex)
    pilots[0, ::2] = pilots[1, 1::2] = 2.0
    noise = rng.standard_normal((2, 40, 4, 1)) * np.sqrt(0.04 / 2)
    obs = isac.UplinkObservation(
        received=pilots.sum(axis=0)[:, None, :] + noise[0] + 1j * noise[1],
        pilots=pilots,
        pilot_mask=np.ones((40, 1), bool),
        array=isac.UniformPlanarArray((2, 2)),
        subcarrier_frequencies_hz=(np.arange(40) - 20) * 30e3,
        constellation=isac.qam_constellation("qpsk"),
        noise_variance=0.04,
    )
    np.testing.assert_allclose(isac.LeastSquares().estimate(obs).channel_variance, 0.01, rtol=1e-9)
