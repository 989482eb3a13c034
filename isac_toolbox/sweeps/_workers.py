"""Where the trials of a sweep run: this process, local processes, or a Dask cluster."""

from __future__ import annotations

import logging
import os
import threading
import time
import warnings
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any, Protocol

from joblib import Parallel, cpu_count, delayed, effective_n_jobs
from joblib.externals.loky.process_executor import TerminatedWorkerError

from isac_toolbox.sweeps._plan import Task
from isac_toolbox.sweeps._trial import TaskRows, failed_rows, run_task

__all__ = ["CONNECT_S", "WorkerError", "Workers", "open_workers"]

CONNECT_S = 10
_WATCH_S = 1.0


class WorkerError(RuntimeError):
    """The workers are lost; finished rows are kept."""


class Workers(Protocol):
    """Runs tasks in any order."""

    def run(self, tasks: Sequence[Task]) -> Generator[TaskRows, None, None]:
        """Yield the rows of every task, as they finish."""


@contextmanager
def open_workers(jobs: int, dask: str | None, n_tasks: int) -> Iterator[Workers]:
    """Yield workers for one sweep.

    Parameters
    ----------
    jobs : int
        Local processes; 1 runs in this one, -1 takes every processor. No more are started than there are
        tasks or processors, but two if so many are asked for.
    dask : str, optional
        Address of a Dask scheduler instead.
    n_tasks : int
        How many tasks there are in all.

    Raises
    ------
    TypeError, ValueError
        For a bad number of jobs or address.
    ConnectionError
        If no scheduler answers, or no worker joins it.
    """
    if isinstance(jobs, bool) or not isinstance(jobs, int):
        raise TypeError(f"jobs must be an integer, got {jobs!r}")
    if jobs < 1 and jobs != -1:
        raise ValueError(f"jobs must be at least 1, or -1 for every processor, got {jobs}")
    if dask is None:
        count = min(effective_n_jobs(jobs), max(2, min(n_tasks, cpu_count())))
        yield _ThisProcess() if count == 1 else _LocalProcesses(count)
        return
    client = _connect(dask)
    with _quiet("distributed.client"):
        try:
            yield _Cluster(client)
        finally:
            client.close(timeout=CONNECT_S)


@contextmanager
def _quiet(name: str) -> Iterator[None]:
    """Silence a logger, so that a lost scheduler is reported by an error alone."""
    logger = logging.getLogger(name)
    before = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(before)


class _ThisProcess:
    """One task after the other."""

    def run(self, tasks: Sequence[Task]) -> Generator[TaskRows, None, None]:
        """Yield the rows of every task, in order."""
        yield from map(run_task, tasks)


class _LocalProcesses:
    """joblib's loky processes, which outlive a call and are used again."""

    def __init__(self, jobs: int) -> None:
        self._jobs = jobs

    def run(self, tasks: Sequence[Task]) -> Generator[TaskRows, None, None]:
        """Yield the rows of every task, as they finish; no batches, so that every row arrives at once."""
        parallel = Parallel(n_jobs=self._jobs, backend="loky", return_as="generator_unordered", batch_size=1)
        parent = os.getpid()
        try:
            with warnings.catch_warnings():
                # an interrupt leaves tasks unfinished, as it should
                warnings.filterwarnings("ignore", message=".*have been cancelled", category=UserWarning)
                yield from parallel(delayed(_run_below)(task, parent) for task in tasks)
        except TerminatedWorkerError as error:
            reason = str(error).partition(".")[0]
            raise WorkerError(f"a worker process died, perhaps for lack of memory: {reason}") from error


def _run_below(task: Task, parent: int) -> TaskRows:
    """Run a task in a process that ends with its parent."""
    _follow(parent)
    return run_task(task)


@cache
def _follow(parent: int) -> None:
    """End this process soon after its parent, which may be killed without notice to its workers."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(_WATCH_S)
        os._exit(0)

    threading.Thread(target=watch, daemon=True).start()


class _Cluster:
    """Workers of a Dask scheduler; it gives the tasks of a lost worker to another one."""

    def __init__(self, client: Any) -> None:
        self._client = client

    def run(self, tasks: Sequence[Task]) -> Generator[TaskRows, None, None]:
        """Yield the rows of every task, as they finish."""
        from distributed import as_completed

        # joblib's Dask backend hands results over only when all are there, and a kill would lose them
        futures = self._client.map(run_task, tasks, pure=False)
        pending = dict(zip(futures, tasks))
        del futures
        try:
            for future in as_completed(list(pending), loop=self._client.loop):
                yield _rows_of(future, pending.pop(future))
        finally:
            self._client.cancel(list(pending), force=True)


def _rows_of(future: Any, task: Task) -> TaskRows:
    """Return the rows of a finished task; one that brought several workers down has failed."""
    from distributed import CancelledError, KilledWorker

    try:
        rows: TaskRows = future.result()
    except KilledWorker as error:
        return task.key, failed_rows(task, f"KilledWorker: {error}")
    except (CancelledError, OSError) as error:
        raise WorkerError("the connection to the Dask scheduler is lost") from error
    except Exception as error:
        raise WorkerError(f"a Dask worker cannot run trials: {type(error).__name__}: {error}") from error
    return rows


def _connect(address: str) -> Any:
    """Return a client of a scheduler that has at least one worker."""
    try:
        from distributed import Client
        from distributed.comm import get_address_host_port
    except ImportError:
        raise ValueError(
            "dask needs the extra isac_toolbox[dask]: pip install 'isac_toolbox[dask]'"
        ) from None
    if not isinstance(address, str):
        raise TypeError(f"dask must be the address of a scheduler such as tcp://host:8786, got {address!r}")
    try:
        get_address_host_port(address)
    except ValueError as error:
        raise ValueError(f"dask: {address!r} is not an address such as tcp://host:8786: {error}") from None
    try:
        client = Client(address, timeout=CONNECT_S, set_as_default=False)
    except OSError as error:
        raise ConnectionError(f"no Dask scheduler answers at {address} within {CONNECT_S} s") from error
    try:
        client.wait_for_workers(1, timeout=CONNECT_S)
    except TimeoutError:
        client.close(timeout=CONNECT_S)
        raise ConnectionError(f"no worker joined the Dask scheduler at {address} in {CONNECT_S} s") from None
    return client
