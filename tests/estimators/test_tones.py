"""Pilots on some of the tones: which delays they tell apart, and blocks that depend on it."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import isac_toolbox as isac
from isac_toolbox.channel.array import SPEED_OF_LIGHT_M_S
from isac_toolbox.channel.atoms.receiver import tone_step_hz
from isac_toolbox.estimators.search import PathSearch
from isac_toolbox.estimators.windows import usable_tones

UPLINK = isac.Scenario.load("urban_uplink").replace(snr_db=20, pilot_pattern="comb")


@given(st.integers(1, 6), st.integers(0, 5), st.sets(st.integers(1, 9), min_size=1, max_size=5))
def test_delays_apart_by_the_inverse_of_the_step_look_the_same(step, first, further):
    frequencies = 1.5e6 * (np.arange(64) - 31.5)
    tones = first + step * np.array(sorted({0, *further}))
    used = np.zeros(64, bool)
    used[tones[tones < 64]] = True
    period = 1 / tone_step_hz(frequencies, used)
    phases = np.exp(-2j * np.pi * frequencies[used] * period)
    np.testing.assert_allclose(phases, phases[0], atol=1e-9)
    if np.count_nonzero(used) > 1:
        half = np.exp(-2j * np.pi * frequencies[used] * period / 2)
        assert not np.allclose(half, half[0])


@pytest.mark.parametrize(("n_users", "n_pilot_symbols"), [(2, 1), (4, 1), (4, 2)])
def test_the_window_is_that_of_the_tones(n_users, n_pilot_symbols):
    observation = UPLINK.replace(n_users=n_users, n_pilot_symbols=n_pilot_symbols).simulate(0).observation
    search = PathSearch.for_observation(observation)
    steps = [tone_step_hz(observation.subcarrier_frequencies_hz, p > 0) for p in usable_tones(observation)]
    assert np.ptp(search.lengths_m) < SPEED_OF_LIGHT_M_S / max(steps)
    assert search.on_all_tones().lengths_m.size >= search.lengths_m.size


def test_full_tones_leave_the_search_as_it_was():
    observation = isac.Scenario.load("urban_uplink").simulate(0).observation
    search = PathSearch.for_observation(observation)
    np.testing.assert_array_equal(search.lengths_m, search.on_all_tones().lengths_m)
    assert search.sidelobe == pytest.approx(0.047, abs=0.01)  # of a rectangle, -13 dB


@pytest.mark.parametrize(("n_users", "n_pilot_symbols"), [(2, 1), (3, 1), (4, 2), (4, 1)])
@pytest.mark.parametrize("seed", [1, 3])
def test_combs_reach_the_bound(n_users, n_pilot_symbols, seed):
    """Combs whose sidelobes and repetitions in delay were once taken for paths."""
    scenario = UPLINK.replace(n_users=n_users, n_pilot_symbols=n_pilot_symbols)
    simulation = scenario.simulate(seed)
    result = isac.EMTurboBiSVBI().estimate(simulation.observation)
    nmse_db = isac.metrics.channel_nmse_db(result.channel, simulation.truth.channel)
    assert nmse_db < isac.bounds.hybrid_crb(simulation).channel_nmse_db + 1.5
    points = simulation.truth.scatterer_positions_m
    found = isac.metrics.localisation(result.scatterer_positions_m, points)
    assert (found.misses, found.false_alarms) == (0, 0)
