"""Work on many items in processes of this machine."""

from __future__ import annotations

import os
import threading
import time
import warnings
from collections.abc import Callable, Generator, Iterable
from functools import cache
from typing import Any, TypeVar

from isac_toolbox._compilation import keep_quiet

__all__ = ["WorkerError", "check_jobs", "in_processes", "n_processes"]

Item = TypeVar("Item")
Value = TypeVar("Value")

_WATCH_S = 1.0


class WorkerError(RuntimeError):
    """The workers are lost; finished rows are kept."""


def check_jobs(name: str, jobs: int) -> None:
    """Refuse a number of processes that is none.

    Raises
    ------
    TypeError, ValueError
        Named after the argument.
    """
    if isinstance(jobs, bool) or not isinstance(jobs, int):
        raise TypeError(f"{name} must be an integer, got {jobs!r}")
    if jobs < 1 and jobs != -1:
        raise ValueError(f"{name} must be at least 1, or -1 for every processor, got {jobs}")


def n_processes(jobs: int, n_items: int | None) -> int:
    """Return how many to start: no more than there are items or processors, but two if so many are asked for.

    Parameters
    ----------
    jobs : int
        1 is this process alone, -1 every processor.
    n_items : int, optional
        How many items there are; not known if not given.
    """
    from joblib import cpu_count, effective_n_jobs

    most = cpu_count() if n_items is None else min(n_items, cpu_count())
    return int(min(effective_n_jobs(jobs), max(2, most)))


def in_processes(
    work: Callable[[Item], Value], items: Iterable[Item], count: int, *, ordered: bool = False
) -> Generator[Value, None, None]:
    """Yield what the work makes of every item, as it arrives or in the order of the items.

    The processes outlive a call and are used again. No batches are made, so that every value comes at once;
    items are taken a few ahead of the work. Arrays of a megabyte and more are shared, not copied.

    Raises
    ------
    WorkerError
        If a process died.
    """
    from joblib import Parallel, delayed
    from joblib.externals.loky.process_executor import TerminatedWorkerError

    kind = "generator" if ordered else "generator_unordered"
    parallel = Parallel(n_jobs=count, backend="loky", return_as=kind, batch_size=1)
    parent = os.getpid()
    try:
        with warnings.catch_warnings():
            # an interrupt leaves items unfinished, as it should
            warnings.filterwarnings("ignore", message=".*have been cancelled", category=UserWarning)
            yield from parallel(delayed(_work_below)(work, item, parent) for item in items)
    except TerminatedWorkerError as error:
        reason = str(error).partition(".")[0]
        raise WorkerError(f"a worker process died, perhaps for lack of memory: {reason}") from error


def _work_below(work: Callable[[Any], Any], item: Any, parent: int) -> Any:
    """Work on an item in a process that ends with its parent."""
    _follow(parent)
    keep_quiet()
    return work(item)


@cache
def _follow(parent: int) -> None:
    """End this process soon after its parent, which may be killed without notice to its workers."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(_WATCH_S)
        os._exit(0)

    threading.Thread(target=watch, daemon=True).start()
