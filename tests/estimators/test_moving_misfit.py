"""The fit test of blocks that move, and motion together with elements that are not known."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

import isac_toolbox as isac
from isac_toolbox.estimators.bisvbi import BiSVBILoop
from isac_toolbox.estimators.scene.derotation import at_rest, evolution_of

MOVING = isac.Scenario.load("moving_uplink")


def test_a_block_at_rest_leaves_what_the_moving_one_leaves():
    loop = BiSVBILoop(isac.EMTurboBiSVBI(max_iter=4), MOVING.simulate(0).observation)
    loop.run()
    fit, block, moments = loop.working.fit, loop.block, loop.detect().moments
    evolution = evolution_of(fit, block.derotation, 1.0)
    channels = evolution.at(range(evolution.n_symbols))
    moving = block.received - np.einsum("knmt,knt->nmt", channels, moments.mean)
    still, turned = at_rest(block, fit, moments)
    channel = fit.atoms.synthesise(fit.posterior.mean, block.n_users)
    resting = still.received - np.einsum("knm,knt->nmt", channel, turned.mean)
    np.testing.assert_allclose(resting, moving, atol=2e-6)  # single precision
    assert still.derotation is None


@pytest.mark.parametrize("name", ["moving_uplink", "moving_mmwave", "hidden_offset", "monostatic_moving"])
def test_moving_blocks_fit(name):
    for seed in range(2):
        result = isac.EMTurboBiSVBI().estimate(isac.Scenario.load(name).simulate(seed).observation)
        assert result.misfit.failing == () and result.status == "converged"


def test_what_does_not_fit_a_moving_block_is_said():
    obs, rng = MOVING.simulate(0).observation, np.random.default_rng(0)
    phases = np.exp(0.09j * rng.standard_normal(obs.array.n_elements))
    off = isac.EMTurboBiSVBI().estimate(replace(obs, received=obs.received * phases[:, None]))
    assert "element" in off.misfit.failing and off.status == "misfit"
    assert any("element_phase_std_rad" in text for text in off.warnings)
    walk = np.exp(1j * np.cumsum(0.05 * rng.standard_normal(obs.n_symbols)))
    turned = isac.EMTurboBiSVBI().estimate(replace(obs, received=obs.received * walk))
    assert "time" in turned.misfit.failing


def test_motion_and_unknown_elements_together():
    simulation = MOVING.replace(element_gain_std=0.05, element_phase_std_rad=0.087).simulate(0)
    result = isac.EMTurboBiSVBI().estimate(simulation.observation)
    symbols = range(simulation.observation.n_symbols)
    nmse_db = isac.metrics.channel_nmse_db(result.channel_at(symbols), simulation.truth.channel_at(symbols))
    assert nmse_db < -45 and result.element_response is not None and result.misfit.failing == ()


def test_shifts_that_nothing_but_the_prior_decides_are_said():
    """Codes over time with pilots far apart: one of several shifts, and no data to tell."""
    scenario = MOVING.replace(pilot_pattern="orthogonal", frequency_offset_std_hz=1000.0)
    result = isac.EMTurboBiSVBI(data_aided=False).estimate(scenario.simulate(0).observation)
    assert any("look the same at several Doppler shifts" in text for text in result.warnings)
