"""The state machine of the search for structure."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

import isac_toolbox as isac
from isac_toolbox.estimators.bisvbi_loop import BiSVBILoop
from isac_toolbox.estimators.scene.fit import evaluate
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


@pytest.mark.parametrize(("swing", "converges"), [(0.003, True), (0.03, False)])
def test_a_scene_that_swings_a_little_has_converged(swing, converges, monkeypatch):
    """Messages of weak paths may alternate, and the points with them, for ever."""
    step = BiSVBILoop._m_step

    def swung(loop):
        step(loop)
        fit = loop.working.fit
        away = (-1) ** loop.n_iter * swing * loop.working.problem.length_cell_m
        scene = replace(fit.scene, points_m=fit.scene.points_m + np.array([away, 0.0, 0.0]))
        moved = evaluate(fit.problem, scene, fit.paths, fit.posterior.prior_precision)
        loop.working = loop.working.with_fit(moved)

    monkeypatch.setattr(BiSVBILoop, "_m_step", swung)
    result = isac.EMTurboBiSVBI(max_iter=15).estimate(
        isac.Scenario.load("urban_uplink").simulate(0).observation
    )
    assert result.converged == converges


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
