"""Where the trials of a sweep run: this process, local processes, or a Dask cluster."""

from __future__ import annotations

import logging
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

from isac_toolbox._processes import WorkerError, check_jobs, in_processes, n_processes
from isac_toolbox.sweeps._plan import Task
from isac_toolbox.sweeps._trial import TaskRows, failed_rows, run_task

__all__ = ["CONNECT_S", "WorkerError", "Workers", "open_workers"]

CONNECT_S = 10


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
    check_jobs("jobs", jobs)
    if dask is None:
        count = n_processes(jobs, n_tasks)
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
    """Processes that outlive a call and are used again."""

    def __init__(self, count: int) -> None:
        self._count = count

    def run(self, tasks: Sequence[Task]) -> Generator[TaskRows, None, None]:
        """Yield the rows of every task, as they finish."""
        yield from in_processes(run_task, tasks, self._count)


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
