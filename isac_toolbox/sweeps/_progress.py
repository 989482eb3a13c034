"""How far a sweep is: a bar on a terminal, a line now and then elsewhere, or a caller's function."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from time import monotonic

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn
from rich.progress import TimeRemainingColumn as RemainingColumn
from rich.text import Text

__all__ = ["Report", "SweepProgress", "reporter"]

_LINE_EVERY_S = 30.0
_RATE_OVER_S = 600.0


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


Report = Callable[[SweepProgress], object]


@contextmanager
def reporter(progress: bool | Report) -> Iterator[Report]:
    """A function to call after every arrival."""
    if callable(progress):
        yield progress
    elif not progress:
        yield lambda state: None
    elif (console := Console(stderr=True)).is_terminal:
        with _bar(console) as show:
            yield show
    else:
        yield _Lines(console)


class _Rate(ProgressColumn):
    """Rows a second or, where they are slow, seconds a row."""

    def render(self, task: Task) -> Text:
        """Draw it."""
        speed = task.speed
        return Text("" if not speed else f"{speed:.1f} rows/s" if speed >= 1 else f"{1 / speed:.1f} s/row")


@contextmanager
def _bar(console: Console) -> Iterator[Report]:
    columns = (TextColumn("{task.description}"), BarColumn(24), MofNCompleteColumn(), _Rate())
    ending = (RemainingColumn(), TextColumn("left{task.fields[failures]}"))
    with Progress(*columns, *ending, console=console, speed_estimate_period=_RATE_OVER_S) as progress:
        task = progress.add_task("sweep", total=None, failures="", start=False)
        started = False

        def show(state: SweepProgress) -> None:
            nonlocal started
            failures = f", {state.failed} failed" if state.failed else ""
            if not started:
                # what the store held must not count as speed
                progress.reset(task, completed=state.done, total=state.total, failures=failures)
                started = True
            progress.update(task, completed=state.done, total=state.total, failures=failures)

        yield show


class _Lines:
    """Plain lines for a log."""

    def __init__(self, console: Console) -> None:
        self._console, self._start = console, monotonic()
        self._last = self._start

    def __call__(self, state: SweepProgress) -> None:
        """Print if it is time."""
        now = monotonic()
        if now - self._last < _LINE_EVERY_S or not state.new:
            return
        self._last = now
        left = (state.total - state.done) * (now - self._start) / state.new
        failures = f", {state.failed} failed" if state.failed else ""
        text = f"{state.done} of {state.total} rows{failures}, about {left / 60:.0f} min left"
        self._console.print(text, highlight=False)
