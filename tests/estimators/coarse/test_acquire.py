"""Mean Doppler shifts of users from their pilots."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from helpers.moving import SMALL_MOVING, true_fit
from isac_toolbox.estimators.coarse.acquire import acquired, doppler_search
from isac_toolbox.estimators.scene.derotation import no_derotation
from isac_toolbox.estimators.scene.problem import Problem
from isac_toolbox.estimators.search import PathSearch
from isac_toolbox.estimators.symbols.block import ReceivedBlock
from isac_toolbox.estimators.symbols.derotation import Derotation
from isac_toolbox.estimators.symbols.phases import PhasePrior

pytestmark = pytest.mark.filterwarnings("ignore::isac_toolbox.ImplausibleValueWarning")


def turned(obs) -> Derotation:
    """How the block turns, as its pilots tell."""
    block = replace(ReceivedBlock.of(obs), derotation=no_derotation(obs.motion))
    problem = Problem.on_pilots(obs, block)
    return acquired(problem, block, PathSearch.for_observation(obs), 0.01)[0].derotation


LINES = SMALL_MOVING.replace(n_scatterers=0, snr_db=20.0, pilot_positions=(1, 4, 6), n_pilot_symbols=None)


def acquire(scenario, seed):
    simulation = scenario.simulate(seed)
    obs = simulation.observation
    fit, _ = true_fit(simulation)
    return turned(obs), fit.parameters.doppler_hz, obs


@pytest.mark.parametrize("seed", range(4))
def test_lines_of_sight_are_acquired_to_a_twentieth_of_the_resolution(seed):
    derotation, doppler, obs = acquire(LINES, seed)
    span = np.ptp(obs.motion.times_s[[1, 4, 6]])
    assert np.abs(derotation.doppler_hz - doppler).max() < 0.05 / span
    assert not derotation.phases_rad.any()


def test_one_pilot_symbol_tells_no_shift():
    one = LINES.replace(n_users=1, pilot_positions=(3,))
    derotation, _, _ = acquire(one, 0)
    assert derotation.doppler_hz.tolist() == [0.0]


def test_walks_alone_look_like_small_shifts():
    quiet = LINES.replace(
        user_speed_m_s=0.0,
        scatterer_speed_m_s=0.0,
        frequency_offset_std_hz=0.0,
        user_phase_noise_std_rad=0.01,
    )
    derotation, _, obs = acquire(quiet, 0)
    assert np.abs(derotation.doppler_hz).max() < 4 * PhasePrior.of(obs.motion).slope_stds_hz.max()


def test_shifts_that_look_the_same_on_pilots_are_told_by_the_data_in_between():
    simulation = LINES.replace(pilot_positions=(0, 7), n_users=1, frequency_offset_std_hz=800.0).simulate(1)
    obs = simulation.observation
    alias = 1 / np.diff(obs.symbol_times_s[[0, 7]])[0]
    fit, _ = true_fit(simulation)
    assert abs(turned(obs).doppler_hz[0] - fit.parameters.doppler_hz[0]) < 0.03 * alias
    # without data the shift is known up to the inverse of the spacing, and the others are listed
    known = replace(obs, pilots=simulation.truth.symbols, pilot_mask=np.ones_like(obs.pilot_mask))
    gaps = np.zeros(obs.received.shape, bool)
    gaps[..., [0, 7]] = True
    block = replace(ReceivedBlock.of(replace(known, sample_mask=gaps)), derotation=no_derotation(obs.motion))
    problem = Problem.on_pilots(replace(known, sample_mask=gaps), block)
    block, others = acquired(problem, block, PathSearch.for_observation(obs), 0.01)
    found = np.append(others[0], block.derotation.doppler_hz[0])
    apart = (found - fit.parameters.doppler_hz[0]) / alias
    assert found.size > 1 and np.all(np.abs(apart - np.round(apart)) < 0.03)
    assert np.any(np.round(apart) == 0)


def test_shifts_are_searched_where_paths_of_a_user_differ_by_what_the_block_resolves():
    for speed, searched in ((5.0, False), (500.0, True)):
        obs = SMALL_MOVING.replace(user_speed_m_s=speed, scatterer_speed_m_s=0.0).simulate(0).observation
        block = replace(ReceivedBlock.of(obs), derotation=no_derotation(obs.motion))
        found = doppler_search(obs, block, PathSearch.for_observation(obs))
        assert (found is not None) == searched
