"""Monte-Carlo sweeps: many trials at many points, kept as they finish, resumed where they stopped."""

from __future__ import annotations

import json
import signal
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from isac_toolbox._validation import check_integer
from isac_toolbox._version import __version__
from isac_toolbox.estimators.bisvbi import EMTurboBiSVBI
from isac_toolbox.scenario import Scenario
from isac_toolbox.sweeps._plan import Plan, make_plan
from isac_toolbox.sweeps._progress import SweepListener, SweepProgress, listener
from isac_toolbox.sweeps._result import SweepResult, SweepSummary
from isac_toolbox.sweeps._rows import Metrics, SweepRow
from isac_toolbox.sweeps._store import Store, StoreError, read_store
from isac_toolbox.sweeps._workers import WorkerError, Workers, open_workers

__all__ = [
    "Metrics",
    "StoreError",
    "SweepInterrupted",
    "SweepProgress",
    "SweepResult",
    "SweepRow",
    "SweepSummary",
    "WorkerError",
    "load_sweep",
    "sweep",
]

_FIRST_ROUND = 10


class SweepInterrupted(KeyboardInterrupt):
    """Ctrl-C during a sweep; ``result`` holds the rows that had arrived."""

    def __init__(self, result: SweepResult) -> None:
        super().__init__("the sweep was interrupted")
        self.result = result


def sweep(
    scenario: Scenario,
    vary: Mapping[str, Sequence[Any]] | None = None,
    estimators: Mapping[str, Any] | Sequence[str] | None = None,
    trials: int = 20,
    seed: int = 0,
    jobs: int = 1,
    store: str | Path | None = None,
    *,
    dask: str | None = None,
    min_errors: int | None = None,
    retry_failed: bool = False,
    progress: bool | SweepListener = False,
) -> SweepResult:
    """Run every estimator on the same trials at every combination of the varied fields.

    Parameters
    ----------
    scenario : Scenario
    vary : mapping of str to list, optional
        Values of scenario fields; every combination is a point. All points are checked before any work.
    estimators : mapping of str to estimator, or list of str, optional
        An estimator is an object with ``estimate(obs)``, a function of the truth that makes one
        (``isac.GenieLMMSE`` itself), or a name that
        ``isac estimate --estimator`` takes. A list takes such names. ``EMTurboBiSVBI`` if not given.
    trials : int
        Per point; trial ``i`` of a point is the same block for every estimator.
    seed : int
        The figures depend on it, the point and the trial alone: not on ``jobs``, nor on which other points
        or estimators are swept.
    jobs : int
        Processes; -1 takes every processor. More than there are trials or processors are not started.
    store : path, optional
        SQLite file that keeps every finished row. The same call on it runs only what is missing; points,
        estimators and trials may be added, anything else must stay as it was.
    dask : str, optional
        Address of a Dask scheduler, such as ``"tcp://host:8786"``, whose workers run the trials instead.
    min_errors : int, optional
        Stop an estimator at a point after the round in which its symbol errors reach this number. Rounds
        end after 10, 20, 40, ... trials.
    retry_failed : bool
        Run trials again that failed before.
    progress : bool or callable
        True shows a bar; a function is called with a :class:`SweepProgress` after every arrival.

    Returns
    -------
    SweepResult
        A trial that raised is a row of it with its traceback (``result.failures``).

    Raises
    ------
    TypeError, ValueError
        For a bad argument, or a store of another sweep (the differences are named), before any work.
    OSError
        If the store cannot be written (:class:`StoreError` after the start) or no scheduler answers.
    WorkerError
        If the workers are lost. What had arrived stays in the store.
    SweepInterrupted
        On Ctrl-C, with the rows that had arrived.

    Examples
    --------
    >>> import isac_toolbox as isac
    >>> scenario = isac.Scenario.load("urban_uplink").replace(n_data_symbols=2)
    >>> result = isac.sweep(scenario, {"snr_db": [0, 20]}, {"ls": isac.LeastSquares()}, trials=2)
    >>> result
    SweepResult(2 points, 4 rows, 0 failed, estimators: ls)
    >>> [round(entry.nmse_db) for entry in result.summary()]
    [-6, -26]
    """
    chosen = {"bisvbi": EMTurboBiSVBI()} if estimators is None else estimators
    plan = make_plan(scenario, vary, chosen, trials, seed)
    if min_errors is not None:
        check_integer("min_errors", min_errors, 1)
    with (
        Store(store, plan) as kept,
        open_workers(jobs, dask, len(plan.points) * plan.trials) as workers,
        listener(progress) as listen,
    ):
        if retry_failed:
            kept.forget_failures(plan.estimators)
        run = _Run(plan, kept, min_errors, listen)
        try:
            run.finish(workers)
        except KeyboardInterrupt:
            raise SweepInterrupted(run.result()) from None
        return run.result()


def load_sweep(path: str | Path) -> SweepResult:
    """Read everything that a store holds, also while a sweep writes it.

    Parameters
    ----------
    path : path
        SQLite file that :func:`sweep` wrote as its ``store``.

    Returns
    -------
    SweepResult

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If it is not the store of a sweep, or has another schema.
    """
    stored = read_store(path)
    order = sorted(stored.rows.values(), key=lambda row: (_sortable(row.point), row.trial, row.estimator))
    return SweepResult(stored.scenario, stored.fields, stored.seed, stored.version, tuple(order))


class _Run:
    """One call: rounds of trials until every estimator at every point has enough."""

    def __init__(self, plan: Plan, store: Store, min_errors: int | None, listen: SweepListener) -> None:
        self._plan, self._store, self._min_errors, self._listen = plan, store, min_errors, listen
        # how many trials each estimator at each point needs, as far as is known
        self._needed = {(key, name): plan.trials for key in plan.points for name in plan.estimators}
        self._new = 0

    def finish(self, workers: Workers) -> None:
        """Run what is missing."""
        begin = 0
        for end in self._rounds():
            self._count()
            tasks = [task for trial in range(begin, end) for task in self._missing(trial)]
            with closing(workers.run(tasks)) as arriving:
                for key, rows in arriving:
                    with _unbroken():
                        self._store.add(key, rows)
                    self._add(rows)
            self._stop_early(end)
            begin = end
        self._count()

    def result(self) -> SweepResult:
        """Return the rows that are there, of those that the call asked for."""
        plan, kept = self._plan, self._store.rows
        rows = [
            kept[key, trial, name]
            for key in plan.points
            for trial in range(plan.trials)
            for name in plan.estimators
            if trial < self._needed[key, name] and (key, trial, name) in kept
        ]
        return SweepResult(plan.scenario, plan.fields, plan.seed, __version__, tuple(rows))

    def _rounds(self) -> Iterator[int]:
        """Yield the ends of the rounds; they, and so the early stop, depend on the number of trials alone."""
        end = _FIRST_ROUND if self._min_errors is not None else self._plan.trials
        while end < self._plan.trials:
            yield end
            end *= 2
        yield self._plan.trials

    def _missing(self, trial: int) -> Iterator[Any]:
        """Yield the tasks of one trial at all points."""
        for key in self._plan.points:
            names = [
                name
                for name in self._plan.estimators
                if trial < self._needed[key, name] and (key, trial, name) not in self._store.rows
            ]
            if names:
                yield self._plan.task(key, trial, names)

    def _stop_early(self, end: int) -> None:
        """Stop estimators at points with enough errors."""
        if self._min_errors is None:
            return
        for (key, name), needed in self._needed.items():
            rows = [self._store.rows[key, trial, name] for trial in range(min(end, needed))]
            errors = sum(row.metrics.symbol_errors for row in rows if row.metrics is not None)
            if needed > end and errors >= self._min_errors:
                self._needed[key, name] = end

    def _count(self) -> None:
        """Count what the store holds, and report it."""
        wanted = [
            row
            for (key, trial, name), row in self._store.rows.items()
            if trial < self._needed.get((key, name), 0)
        ]
        self._done, self._failed = len(wanted), sum(row.failed for row in wanted)
        self._total = sum(self._needed.values())
        self._add([])

    def _add(self, rows: Sequence[SweepRow]) -> None:
        """Count an arrival, and report it."""
        self._new += len(rows)
        self._done += len(rows)
        self._failed += sum(row.failed for row in rows)
        self._listen(SweepProgress(self._done, self._total, self._failed, self._new))


def _sortable(point: Mapping[str, Any]) -> list[tuple[bool, Any]]:
    """Sort numbers by size, everything else by its text."""
    numbers = (int, float)
    return [
        (not isinstance(v, numbers), v if isinstance(v, numbers) else json.dumps(v)) for v in point.values()
    ]


@contextmanager
def _unbroken() -> Iterator[None]:
    """Let Ctrl-C wait until a commit is through; only the main thread can be interrupted."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    arrived: list[Any] = []
    before = signal.signal(signal.SIGINT, lambda *signal_and_frame: arrived.append(signal_and_frame))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
    if arrived and callable(before):
        before(*arrived[0])
