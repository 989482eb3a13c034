"""Results from a channel alone."""

from __future__ import annotations

import numpy as np
import pytest

import isac_toolbox as isac
from helpers.scenes import SMALL, assert_no_nan
from isac_toolbox.estimators import result_from_channel
from isac_toolbox.metrics import symbol_error_rate


@pytest.fixture(scope="module")
def simulation():
    return SMALL.replace(snr_db=5.0).simulate(0)


def test_the_true_channel_detects_like_the_genie(simulation):
    truth = simulation.truth
    result = result_from_channel(simulation.observation, truth.channel, truth.noise_variance)
    genie = isac.GenieLMMSE(truth).estimate(simulation.observation)
    assert np.array_equal(result.symbol_decision, genie.symbol_decision)
    np.testing.assert_allclose(result.llr, genie.llr, rtol=1e-6, atol=1e-9)
    assert_no_nan(result)


def test_least_squares_is_such_a_result(simulation):
    ready = isac.LeastSquares().estimate(simulation.observation)
    result = result_from_channel(
        simulation.observation, ready.channel, ready.noise_variance, channel_variance=ready.channel_variance
    )
    np.testing.assert_allclose(result.llr, ready.llr, rtol=1e-9)
    assert (result.estimator, ready.estimator) == ("channel only", "LeastSquares")
    assert result.history.seconds[0] == 0 and ready.history.seconds[0] > 0


def test_what_is_not_known_stays_nominal_and_is_kept_in_files(simulation, tmp_path):
    obs = simulation.observation
    result = result_from_channel(obs, simulation.truth.channel, 0.1, channel_variance=0.01, estimator="mine")
    assert len(result.scatterer_positions_m) == len(result.unlocated_paths) == 0
    assert np.array_equal(result.user_positions_m, obs.user_positions_m)
    assert np.all(result.channel_variance == 0.01) and result.channel_variance.shape == result.channel.shape
    assert isac.EstimationResult.load(result.save(tmp_path / "r.npz")).estimator == "mine"


def test_the_channel_is_copied(simulation):
    channel = simulation.truth.channel.copy()
    result = result_from_channel(simulation.observation, channel, 0.1)
    channel[:] = 0
    assert np.array_equal(result.channel, simulation.truth.channel)


def test_an_uncertain_channel_makes_bits_less_sure(simulation):
    obs, truth = simulation.observation, simulation.truth
    sure = result_from_channel(obs, truth.channel, truth.noise_variance)
    unsure = result_from_channel(obs, truth.channel, truth.noise_variance, channel_variance=0.5)
    assert np.mean(np.abs(unsure.llr)) < np.mean(np.abs(sure.llr))


def test_joint_decisions_help_users_that_are_alike(simulation):
    obs, truth = (
        SMALL.replace(snr_db=-3.0).simulate(1).observation,
        SMALL.replace(snr_db=-3.0).simulate(1).truth,
    )
    block = isac.Simulation(obs, truth)
    alone = result_from_channel(obs, truth.channel, truth.noise_variance)
    together = result_from_channel(obs, truth.channel, truth.noise_variance, joint=True)
    assert symbol_error_rate(together, block) <= symbol_error_rate(alone, block)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"channel": np.zeros((1, 2, 3))}, "channel must have shape"),
        ({"channel": "h"}, "channel must be numeric"),
        ({"noise_variance": -1.0}, "noise_variance must be non-negative"),
        ({"noise_variance": np.nan}, "noise_variance must be finite"),
        ({"noise_variance": [1.0, 2.0]}, "noise_variance must have shape"),
        ({"channel_variance": np.ones(7)}, "channel_variance must broadcast"),
        ({"channel_variance": -1.0}, "channel_variance must be non-negative"),
        ({"obs": None}, "obs must be an UplinkObservation"),
    ],
)
def test_bad_input_is_named(simulation, change, message):
    good = {"obs": simulation.observation, "channel": simulation.truth.channel, "noise_variance": 0.1}
    with pytest.raises((TypeError, ValueError), match=message):
        result_from_channel(**{**good, **change})
