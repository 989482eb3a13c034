"""The state machine of the search for structure."""

from __future__ import annotations

import pytest

from isac_toolbox.estimators.scene.schedule import Stage, StructureSchedule

COUNTS = (3, 1, 7)


def test_a_structure_found_on_the_pilots_is_never_settled():
    schedule = StructureSchedule()
    for _ in range(3):
        assert not schedule.completes_cycle(COUNTS)
        schedule = schedule.after_search(COUNTS, changed=False)
        assert schedule == StructureSchedule(Stage.PILOTS)


def test_a_search_on_all_data_that_changes_nothing_settles():
    schedule = StructureSchedule().on_all_data()
    assert schedule.stage is Stage.SEARCHING
    schedule = schedule.after_search(COUNTS, changed=True)
    assert not schedule.settled
    schedule = schedule.after_search((4, 1, 8), changed=False)
    assert schedule.settled
    assert schedule.on_all_data() is schedule


def test_a_cycle_of_births_and_removals_settles():
    schedule = StructureSchedule().on_all_data().after_search(COUNTS, changed=True)
    assert schedule.completes_cycle(COUNTS)
    assert not schedule.completes_cycle((3, 1, 8))
    assert schedule.after_cycle().settled


@pytest.mark.parametrize("schedule", [StructureSchedule(), StructureSchedule(Stage.SEARCHING)])
def test_searches_come_every_third_iteration(schedule):
    assert [i for i in range(12) if schedule.is_due(i)] == [2, 5, 8, 11]
    assert not any(StructureSchedule(Stage.SETTLED).is_due(i) for i in range(12))
