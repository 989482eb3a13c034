"""The state machine of the search for structure."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

import isac_toolbox as isac
from isac_toolbox.estimators.bisvbi_loop import BiSVBILoop
from isac_toolbox.estimators.scene.schedule import Stage, StructureSchedule

PLACES = ("bs_position_m", "user_positions_m", "user_position_std_m", "time_offset_std_s", "region_m")
COUNTS = (3, 1, 7)


REST, MOVES = 1e-4, 0.1


def test_a_structure_found_on_the_pilots_is_never_settled():
    schedule = StructureSchedule()
    for changed, change in ((True, REST), (False, MOVES), (True, MOVES)):
        assert not schedule.completes_cycle(COUNTS)
        schedule = schedule.after_search(COUNTS, changed, change)
        assert schedule == StructureSchedule(Stage.PILOTS) and not schedule.wants_data


def test_pilots_that_show_no_more_at_rest_make_way_for_the_data():
    schedule = StructureSchedule().after_search(COUNTS, changed=False, change=REST)
    assert schedule.wants_data and not schedule.settled and not schedule.searches_all_data
    assert schedule.on_all_data().searches_all_data


def test_a_search_on_all_data_that_changes_nothing_settles():
    schedule = StructureSchedule().on_all_data()
    assert schedule.stage is Stage.SEARCHING
    schedule = schedule.after_search(COUNTS, changed=True, change=MOVES)
    assert not schedule.settled
    schedule = schedule.after_search((4, 1, 8), changed=False, change=MOVES)
    assert schedule.settled
    assert schedule.on_all_data() is schedule


def test_a_cycle_of_births_and_removals_settles():
    schedule = StructureSchedule().on_all_data().after_search(COUNTS, changed=True, change=REST)
    assert schedule.completes_cycle(COUNTS)
    assert not schedule.completes_cycle((3, 1, 8))
    assert schedule.after_cycle().settled


@pytest.mark.parametrize("schedule", [StructureSchedule(), StructureSchedule(Stage.SEARCHING)])
def test_searches_come_at_rest_and_every_third_iteration(schedule):
    due = []
    for _ in range(7):
        schedule = schedule.after_iteration()
        assert schedule.is_due(REST) and not StructureSchedule(Stage.SETTLED).is_due(REST)
        due.append(schedule.is_due(MOVES))
        if due[-1]:
            schedule = schedule.after_search((len(due), 0, 0), changed=True, change=MOVES)
    assert due == [False, False, True, False, False, True, False]


def test_a_scene_that_swings_has_converged():
    """Messages of a weak path that alternate moved points by a six-hundredth of a cell until the limit."""
    scenario = isac.Scenario.load("umi_like").replace(
        snr_db=0.0, n_users=4, n_subcarriers=312, subcarrier_spacing_hz=30e3, array_shape=(4, 4)
    )
    scenario = scenario.replace(pilot_pattern="comb", n_pilot_symbols=4, n_data_symbols=10)
    simulation = scenario.simulate(3)
    scenes = []
    result = isac.EMTurboBiSVBI().estimate(
        simulation.observation, callback=lambda loop: scenes.append(loop.working.fit.scene.points_m)
    )
    assert result.converged and result.n_iter < 20
    last, before, earlier = scenes[-1], scenes[-2], scenes[-3]
    assert np.max(np.abs(last - earlier)) < 0.2 * np.max(np.abs(last - before))


def test_paths_without_a_place_have_to_rest_as_well(monkeypatch):
    """A block without places has no points, whose moves once were all that was asked."""
    observation = isac.Scenario.load("urban_uplink").simulate(0).observation
    loop = BiSVBILoop(isac.EMTurboBiSVBI(), replace(observation, **dict.fromkeys(PLACES)))
    told, wanted = [], []
    revise = BiSVBILoop._revise_structure

    def look(loop, moved):
        told.append(moved)
        revise(loop, moved)

    monkeypatch.setattr(BiSVBILoop, "_revise_structure", look)
    loop.run(lambda loop: wanted.append(loop.schedule.wants_data))
    assert loop.working.n_points == 0 and max(told) > 0.1 and told[-1] < 1e-4
    first = wanted.index(True)
    assert first == 3 or told[first] <= 1e-3
