"""Progress bar of the epochs; nothing where nobody would see it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

__all__ = ["epoch_progress"]


@contextmanager
def epoch_progress(wanted: bool, epochs: int, first: int) -> Iterator[Callable[[Any], None]]:
    """Yield a function that takes an EpochRecord, or (epoch, loss, accuracy), and moves the bar."""
    from rich.console import Console

    console = Console(stderr=True)
    if not wanted or not console.is_terminal:
        yield lambda record: None
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("epoch"), MofNCompleteColumn(), BarColumn(20), TextColumn("{task.description}"))
    with Progress(*columns, TimeElapsedColumn(), console=console, transient=True) as bar:
        task = bar.add_task("", total=epochs, completed=first)
        yield lambda record: bar.update(task, advance=1, description=_describe(record))


def _describe(record: Any) -> str:
    """One line of text."""
    if isinstance(record, tuple):
        _, loss, part = record
        return f"fine-tuning: loss {loss:.3f}, accuracy {part:.3f}"
    validation = "" if record.val_accuracy != record.val_accuracy else f" (val {record.val_accuracy:.3f})"
    neurons = "-".join(map(str, record.neurons[:6]))
    return (
        f"loss {record.loss:.3f}, accuracy {record.accuracy:.3f}{validation}, density {record.density:.3f}, "
        f"neurons {neurons}, mean run {record.mean_run:.1f}"
    )
