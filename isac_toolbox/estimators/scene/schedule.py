"""When the structure of a scene is searched, and when it is settled: a small state machine.

::

    PILOTS ----- data are used -----> SEARCHING ---- nothing changed ----> SETTLED
    (searched, never settled)         (searched)     or a cycle came round

A structure found on the pilots alone may change with the data, so it is not settled. A cycle has come round
when a search would start from the counts of the search before: births and removals undo each other.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum

__all__ = ["Stage", "StructureSchedule"]

# Tuned: iterations between searches; points move closer to their places meanwhile.
_SEARCH_EVERY = 3

#: Counts of points, unlocated paths and active paths.
Counts = tuple[int, int, int]


class Stage(Enum):
    """How far the search for structure has come."""

    PILOTS = "pilots"
    SEARCHING = "searching"
    SETTLED = "settled"


@dataclass(frozen=True)
class StructureSchedule:
    """State of the search for structure; every method returns the state that follows.

    Attributes
    ----------
    stage : Stage
    searched : tuple of int, optional
        Counts before the last search on all data.
    every : int
        Iterations between searches.
    """

    stage: Stage = Stage.PILOTS
    searched: Counts | None = None
    every: int = _SEARCH_EVERY

    @property
    def settled(self) -> bool:
        """Whether the structure is final."""
        return self.stage is Stage.SETTLED

    @property
    def searches_all_data(self) -> bool:
        """Whether all data are in use and the structure on them is not final."""
        return self.stage is Stage.SEARCHING

    def is_due(self, iteration: int) -> bool:
        """Return whether an iteration, counted from 0, searches."""
        return not self.settled and iteration % self.every == self.every - 1

    def on_all_data(self) -> StructureSchedule:
        """Return the state once all data that will ever be used are in use."""
        return replace(self, stage=Stage.SEARCHING) if self.stage is Stage.PILOTS else self

    def completes_cycle(self, counts: Counts) -> bool:
        """Return whether a search would start where the last one on all data started."""
        return self.searches_all_data and counts == self.searched

    def after_cycle(self) -> StructureSchedule:
        """Return the state in which searches go round in a cycle."""
        return replace(self, stage=Stage.SETTLED)

    def after_search(self, counts: Counts, changed: bool) -> StructureSchedule:
        """Return the state after a search that started from these counts."""
        if not self.searches_all_data:
            return self
        stage = Stage.SEARCHING if changed else Stage.SETTLED
        return replace(self, stage=stage, searched=counts)
