"""How far something is: a bar on a terminal, a line now and then elsewhere, nothing if not wanted."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import monotonic
from typing import Any, Protocol

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    ProgressColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.progress import Progress as RichProgress
from rich.text import Text

__all__ = ["Progress", "epoch_progress", "open_progress"]

_LINE_EVERY_S = 30.0
_RATE_OVER_S = 600.0


class Progress(Protocol):
    """Steps done, out of how many."""

    def begin(self, total: int | None = None, done: int = 0, text: str = "") -> None:
        """Start to count; what is done already does not count as speed."""

    def show(self, done: int, total: int | None = None, text: str = "") -> None:
        """Show a new state; the total stays as it was if none is given."""

    def end(self) -> None:
        """Take the bar away, or leave it as it is."""


@contextmanager
def open_progress(wanted: bool, name: str, unit: str, *, keep: bool = False) -> Iterator[Progress]:
    """Yield a progress on stderr.

    Parameters
    ----------
    wanted : bool
    name : str
        What stands before the bar.
    unit : str
        What is counted, in the singular.
    keep : bool
        Leave the bar where it is at the end, and show the rate and the time that is left; without, the bar
        goes, and shows the time that it took so far.

    Yields
    ------
    Progress
    """
    progress: Progress
    if not wanted:
        progress = _Quiet()
    elif (console := Console(stderr=True)).is_terminal:
        progress = _Bar(console, name, unit, keep)
    else:
        progress = _Lines(console, unit)
    try:
        yield progress
    finally:
        progress.end()


class _Quiet:
    """Progress that shows nothing."""

    def begin(self, total: int | None = None, done: int = 0, text: str = "") -> None:
        pass

    def show(self, done: int, total: int | None = None, text: str = "") -> None:
        pass

    def end(self) -> None:
        pass


class _Rate(ProgressColumn):
    """Steps a second or, where they are slow, seconds a step."""

    def __init__(self, unit: str) -> None:
        super().__init__()
        self._unit = unit

    def render(self, task: Task) -> Text:
        """Draw it."""
        speed = task.speed
        if not speed:
            return Text("")
        return Text(f"{speed:.1f} {self._unit}s/s" if speed >= 1 else f"{1 / speed:.1f} s/{self._unit}")


class _Bar:
    """Progress as a bar on a terminal."""

    def __init__(self, console: Console, name: str, unit: str, keep: bool) -> None:
        columns: list[ProgressColumn] = [
            TextColumn("{task.description}"),
            BarColumn(24),
            MofNCompleteColumn(),
        ]
        if keep:
            columns += [_Rate(unit), TimeRemainingColumn(), TextColumn("left")]
        else:
            columns += [TimeElapsedColumn()]
        columns.append(TextColumn("{task.fields[text]}"))
        self._bar = RichProgress(
            *columns, console=console, transient=not keep, speed_estimate_period=_RATE_OVER_S
        )
        self._task = self._bar.add_task(name, total=None, text="")
        self._bar.start()

    def begin(self, total: int | None = None, done: int = 0, text: str = "") -> None:
        self._bar.reset(self._task, total=total, completed=done, text=text)

    def show(self, done: int, total: int | None = None, text: str = "") -> None:
        self._bar.update(self._task, completed=done, total=total, text=text)

    def end(self) -> None:
        self._bar.stop()


class _Lines:
    """Progress as plain lines for a log."""

    def __init__(self, console: Console, unit: str) -> None:
        self._console, self._unit = console, unit
        self._total: int | None = None

    def begin(self, total: int | None = None, done: int = 0, text: str = "") -> None:
        self._total, self._first = total, done
        self._start = self._last = monotonic()

    def show(self, done: int, total: int | None = None, text: str = "") -> None:
        """Print if it is time."""
        self._total = self._total if total is None else total
        now = monotonic()
        if now - self._last < _LINE_EVERY_S or done <= self._first:
            return
        self._last = now
        parts = [f"{done} {self._unit}s" if self._total is None else f"{done} of {self._total} {self._unit}s"]
        parts += [text] if text else []
        if self._total is not None:
            left = (self._total - done) * (now - self._start) / (done - self._first)
            parts.append(f"about {left / 60:.0f} min left")
        self._console.print(", ".join(parts), highlight=False)

    def end(self) -> None:
        pass


@contextmanager
def epoch_progress(wanted: bool, epochs: int, first: int) -> Iterator[Callable[[Any], None]]:
    """Yield a function that takes an EpochRecord, or (epoch, loss, accuracy), and counts an epoch."""
    with open_progress(wanted, "epoch", "epoch") as progress:
        progress.begin(epochs, first)
        done = first

        def show(record: Any) -> None:
            nonlocal done
            done += 1
            progress.show(done, text=_describe_epoch(record))

        yield show


def _describe_epoch(record: Any) -> str:
    """Describe an epoch in one line."""
    if isinstance(record, tuple):
        _, loss, part = record
        return f"fine-tuning: loss {loss:.3f}, accuracy {part:.3f}"
    validation = "" if record.val_accuracy != record.val_accuracy else f" (val {record.val_accuracy:.3f})"
    neurons = "-".join(map(str, record.neurons[:6]))
    return (
        f"loss {record.loss:.3f}, accuracy {record.accuracy:.3f}{validation}, density {record.density:.3f}, "
        f"neurons {neurons}, mean run {record.mean_run:.1f}"
    )
