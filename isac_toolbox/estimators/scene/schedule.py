"""When the structure of a scene is searched, and when it is settled: a small state machine.

::

    PILOTS --- nothing changed, at rest ---> READY
       |                                       |
       +------------ data are used ------------+---> SEARCHING --- nothing changed, or a cycle ---> SETTLED

A structure found on the pilots alone may change with the data, so it is not settled; where it comes to rest,
the data may come sooner. A cycle has come round when a search would start from the counts of the search
before: births and removals undo each other.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum

__all__ = ["Stage", "StructureSchedule"]

# Tuned: iterations between searches where points keep moving; they come closer to their places meanwhile.
_SEARCH_EVERY = 3
# Tuned: largest move of an iteration, in resolution cells, after which more of them show no more.
_REST = 1e-3

#: Counts of points, unlocated paths and active paths.
Counts = tuple[int, int, int]


class Stage(Enum):
    """How far the search for structure has come."""

    PILOTS = "pilots"
    READY = "ready for data"
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
        Iterations between searches where points keep moving.
    waited : int
        Iterations since the last search or the first data.
    """

    stage: Stage = Stage.PILOTS
    searched: Counts | None = None
    every: int = _SEARCH_EVERY
    waited: int = 0

    @property
    def settled(self) -> bool:
        """Whether the structure is final."""
        return self.stage is Stage.SETTLED

    @property
    def wants_data(self) -> bool:
        """Whether the pilots alone show no more."""
        return self.stage is not Stage.PILOTS

    @property
    def searches_all_data(self) -> bool:
        """Whether all data are in use and the structure on them is not final."""
        return self.stage is Stage.SEARCHING

    def after_iteration(self) -> StructureSchedule:
        """Return the state one iteration later."""
        return replace(self, waited=self.waited + 1)

    def is_due(self, change: float) -> bool:
        """Return whether an iteration that moved points and paths by so many resolution cells searches."""
        return not self.settled and (self.waited >= self.every or change <= _REST)

    def on_all_data(self) -> StructureSchedule:
        """Return the state once all data that will ever be used are in use."""
        if self.stage in (Stage.PILOTS, Stage.READY):
            return replace(self, stage=Stage.SEARCHING, waited=0)
        return self

    def completes_cycle(self, counts: Counts) -> bool:
        """Return whether a search would start where the last one on all data started."""
        return self.searches_all_data and counts == self.searched

    def after_cycle(self) -> StructureSchedule:
        """Return the state in which searches go round in a cycle."""
        return replace(self, stage=Stage.SETTLED)

    def after_search(self, counts: Counts, changed: bool, change: float) -> StructureSchedule:
        """Return the state after a search that started from these counts, in an iteration of such a move."""
        if not self.searches_all_data:
            at_rest = not changed and change <= _REST
            return replace(self, stage=Stage.READY if at_rest else self.stage, waited=0)
        stage = Stage.SEARCHING if changed else Stage.SETTLED
        return replace(self, stage=stage, searched=counts, waited=0)
