"""Self-calibration over blocks: what is learned adds up, and later blocks gain by it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

import isac_toolbox as isac
from helpers.scenes import SMALL
from isac_toolbox.channel.element_response import ElementResponse

UNSURE = {"element_gain_std": 0.05, "element_phase_std_rad": 0.05}
RNG = np.random.default_rng(3)
RESPONSE = np.exp(0.05 * (RNG.standard_normal(24) + 1j * RNG.standard_normal(24)))


def block(seed: int, response: np.ndarray = RESPONSE) -> isac.UplinkObservation:
    """One block of the same array, in a scene of its own."""
    sim = SMALL.simulate(seed)
    signal = np.einsum("knm,knt->nmt", sim.truth.channel, sim.truth.symbols)
    received = sim.observation.received + (response - 1)[:, None] * signal
    return replace(sim.observation, received=received, **UNSURE)


@pytest.fixture(scope="module")
def found() -> ElementResponse:
    return isac.calibrate(block(seed) for seed in range(10, 14))


def test_errors_are_what_the_covariance_says(found):
    assert found.n_blocks == 4 and not found.left_out and found.working.all()
    error = np.log(found.mean / RESPONSE)
    error = np.concatenate([error.real, error.imag])
    assert 0.6 < error @ np.linalg.solve(found.covariance, error) / error.size < 1.5
    assert found.gain_std.mean() < 0.025


def test_later_blocks_are_nearer_to_the_known_array(found):
    away = []
    for seed in range(40, 43):
        obs, truth = block(seed), SMALL.simulate(seed).truth.channel * RESPONSE
        known = ElementResponse(RESPONSE, np.zeros((48, 48))).applied(obs, known=True)
        estimates = [isac.EMTurboBiSVBI().estimate(o) for o in (obs, found.applied(obs), known)]
        away.append([isac.metrics.channel_nmse_db(e.channel, truth) for e in estimates])
    unsure, calibrated, known = np.mean(away, axis=0)
    assert calibrated - known < 0.45 * (unsure - known)


def test_a_calibration_goes_on_where_an_earlier_one_ended(found):
    first = isac.calibrate([block(seed) for seed in range(10, 12)])
    both = isac.calibrate([block(seed) for seed in range(12, 14)], prior=first)
    assert both.n_blocks == 4
    np.testing.assert_allclose(both.mean, found.mean, rtol=1e-9)


def test_elements_that_stay_silent_do_not_work():
    dead = np.where(np.arange(24) == 7, 0, RESPONSE)
    result = isac.calibrate([block(seed, dead) for seed in (20, 21)])
    assert np.flatnonzero(~result.working).tolist() == [7]
    told = isac.EMTurboBiSVBI().estimate(block(22, dead))
    assert told.silent_elements.tolist() == [7]
    assert not told.channel[..., 7].any() and told.element_response[7] == 0
    assert np.all(told.channel_variance[..., 7] > 0)


def test_blocks_that_do_not_fit_are_left_out():
    good, rng = block(30), np.random.default_rng(0)
    turned = replace(good, received=good.received * np.exp(1j * rng.uniform(0, 3, 8)))
    result = isac.calibrate([good, turned])
    assert result.n_blocks == 1
    assert len(result.left_out) == 1 and result.left_out[0].startswith("block 1: the residual is not noise")


def test_what_cannot_be_calibrated_is_said():
    with pytest.raises(ValueError, match="observations must say how uncertain the elements are"):
        isac.calibrate([SMALL.simulate(0).observation])
    with pytest.raises(ValueError, match="observations must hold at least one block"):
        isac.calibrate([])
    with pytest.raises(TypeError, match=r"observations\[0\] must be an UplinkObservation, got int"):
        isac.calibrate([1])
    with pytest.raises(TypeError, match="estimator must be an EMTurboBiSVBI, got LeastSquares"):
        isac.calibrate([], isac.LeastSquares())
    with pytest.raises(TypeError, match="prior must be an ElementResponse"):
        isac.calibrate([], prior=1)
