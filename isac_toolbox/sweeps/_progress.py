"""How far a sweep is, for a bar or for a caller's function."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from isac_toolbox._progress import Progress, open_progress

__all__ = ["SweepListener", "SweepProgress", "listener"]


@dataclass(frozen=True)
class SweepProgress:
    """Rows done and wanted.

    Attributes
    ----------
    done : int
        Those found in the store included.
    total : int
        Shrinks when an early stop makes rows needless.
    failed : int
    new : int
        Done in this run.
    """

    done: int
    total: int
    failed: int
    new: int


SweepListener = Callable[[SweepProgress], object]


@contextmanager
def listener(progress: bool | SweepListener) -> Iterator[SweepListener]:
    """Yield a function to call after every arrival: the caller's, or one that moves a bar."""
    if callable(progress):
        yield progress
        return
    with open_progress(progress, "sweep", "row", keep=True) as bar:
        yield _Counter(bar)


class _Counter:
    """A count of rows on a bar; what the store held does not count as speed."""

    def __init__(self, bar: Progress) -> None:
        self._bar, self._begun = bar, False

    def __call__(self, state: SweepProgress) -> None:
        failures = f"{state.failed} failed" if state.failed else ""
        if not self._begun:
            self._bar.begin(state.total, state.done - state.new, failures)
            self._begun = True
        self._bar.show(state.done, state.total, failures)
