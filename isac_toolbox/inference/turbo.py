"""A small loop shared by the iterative estimators: set up, step, run, stop for a reason."""

from __future__ import annotations

import math
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np

from isac_toolbox._validation import check_integer, check_positive

CONVERGED = "converged"
ITERATION_LIMIT = "iteration limit"
STOPPED = "stopped by callback"
TIME_LIMIT = "time limit"
FAILED = "numerical failure"

# Cost cap: seconds inside a step between two calls of a callback.
_ASK_EVERY_S = 1.0

#: Called with a loop after every step, and once a second inside a longer one; a true value stops it. Methods
#: `begin` and `end` are called as well.
Callback: TypeAlias = "Callable[[TurboLoop], bool | None]"


@dataclass(frozen=True)
class IterationRecord:
    """What one iteration left behind.

    Attributes
    ----------
    objective : float
        Value of the loop's objective.
    noise_variance : float
        Current noise variance.
    n_active : int
        Number of active coefficients.
    seconds : float
        Time since `run` began.
    """

    objective: float
    noise_variance: float
    n_active: int
    seconds: float


@dataclass
class History:
    """What all iterations left behind, readable by row (indexing) or by column (properties).

    Attributes
    ----------
    records : list of IterationRecord
    """

    records: list[IterationRecord] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.records)

    def __iter__(self) -> Iterator[IterationRecord]:
        return iter(self.records)

    def __getitem__(self, index: int) -> IterationRecord:
        return self.records[index]

    def append(self, record: IterationRecord) -> None:
        """Add one record."""
        self.records.append(record)

    @property
    def objective(self) -> np.ndarray:
        """Objective of every iteration, (n_iter,)."""
        return np.array([record.objective for record in self.records], dtype=np.float64)

    @property
    def noise_variance(self) -> np.ndarray:
        """Noise variance of every iteration, (n_iter,)."""
        return np.array([record.noise_variance for record in self.records], dtype=np.float64)

    @property
    def n_active(self) -> np.ndarray:
        """Number of active coefficients of every iteration, (n_iter,)."""
        return np.array([record.n_active for record in self.records], dtype=np.int64)

    @property
    def seconds(self) -> np.ndarray:
        """Time since the start at the end of every iteration, (n_iter,)."""
        return np.array([record.seconds for record in self.records], dtype=np.float64)


class Callbacks:
    """Several callbacks of a loop as one; any of them stops it.

    Parameters
    ----------
    *callbacks : callable or None
        Called in this order, all of them after every step; those that are None are left out.
    """

    def __init__(self, *callbacks: Callback | None) -> None:
        self.callbacks = tuple(c for c in callbacks if c is not None)

    def begin(self, loop: TurboLoop) -> None:
        """Tell those that want to know that the loop is set up."""
        for callback in self.callbacks:
            _tell(callback, "begin", loop)

    def __call__(self, loop: TurboLoop) -> bool:
        """Return whether one of them stops the loop."""
        stops = [bool(callback(loop)) for callback in self.callbacks]
        return any(stops)

    def end(self, loop: TurboLoop) -> None:
        """Tell those that want to know that the loop is over."""
        for callback in self.callbacks:
            _tell(callback, "end", loop)


def _tell(callback: Callback | None, moment: str, loop: TurboLoop) -> None:
    """Call the method of a callback for a moment, if it has one."""
    method = getattr(callback, moment, None)
    if method is not None:
        method(loop)


class Deadline:
    """The moment at which a run has to stop; long steps ask for it between their parts.

    Parameters
    ----------
    max_seconds : float, optional
        From now; no limit if not given.

    Attributes
    ----------
    status : str
        Why the run has to stop; empty until then.
    """

    def __init__(self, max_seconds: float | None = None) -> None:
        self._end = math.inf if max_seconds is None else time.perf_counter() + max_seconds
        self._ask: Callable[[], bool] | None = None
        self._next = math.inf
        self.status = ""

    @property
    def seconds_left(self) -> float:
        """Until the limit; infinite without one, and not below zero."""
        return max(self._end - time.perf_counter(), 0.0)

    def ask(self, stop: Callable[[], bool] | None) -> None:
        """From a second on, and then once a second, let `stop` decide as well."""
        self._ask = stop
        self._next = math.inf if stop is None else time.perf_counter() + _ASK_EVERY_S

    def reached(self) -> bool:
        """Return whether the run has to stop."""
        if self.status:
            return True
        now = time.perf_counter()
        if now >= self._end:
            self.status = TIME_LIMIT
        elif now >= self._next and self._ask is not None:
            self.status = STOPPED if self._ask() else ""
            self._next = time.perf_counter() + _ASK_EVERY_S
        return bool(self.status)


class TurboLoop(ABC):
    """Iterate `step` until the change is small, a limit is reached or a callback stops it.

    A subclass implements `setup` and `step`; after each step it has set the attributes `objective`,
    `noise_variance`, `n_active` and `change` (relative change of what it estimates; infinity holds the loop
    open, for example while its structure still moves).

    Parameters
    ----------
    max_iter : int
        Largest number of steps, at least 1.
    tol : float
        The loop has converged when `change <= tol` in two successive steps.
    max_seconds : float, optional
        Time for set-up and steps; no limit if not given. A subclass whose steps are long asks `deadline`
        inside them and ends a step early in a state as consistent as after a whole one.

    Raises
    ------
    TypeError, ValueError
        If an argument has the wrong type or range.
    """

    objective: float = math.nan
    noise_variance: float = math.nan
    n_active: int = 0
    change: float = math.inf

    def __init__(self, max_iter: int = 100, tol: float = 1e-6, max_seconds: float | None = None) -> None:
        self.max_iter = check_integer("max_iter", max_iter)
        self.tol = check_positive("tol", tol)
        self.max_seconds = None if max_seconds is None else check_positive("max_seconds", max_seconds)
        self.deadline = Deadline()
        self.history = History()
        self.status = ""

    @property
    def n_iter(self) -> int:
        """Number of completed steps."""
        return len(self.history)

    @property
    def converged(self) -> bool:
        """Whether the last run ended by convergence."""
        return self.status == CONVERGED

    @abstractmethod
    def setup(self) -> None:
        """Prepare the state before the first step."""

    @abstractmethod
    def step(self) -> None:
        """Do one iteration and set `objective`, `noise_variance`, `n_active` and `change`."""

    def run(self, callback: Callback | None = None) -> str:
        """Set up and iterate.

        Parameters
        ----------
        callback : callable, optional
            Called with the loop after every step, and once a second inside a step that lasts longer and asks
            its deadline (the history has no new row then); returning a true value stops the loop. If it has a
            method ``begin``, that is called with the loop between the set-up and the first step; a method
            ``end`` is called once when no step follows, whatever the reason, also when a step or the callback
            raises.

        Returns
        -------
        str
            `"converged"`, `"iteration limit"`, `"time limit"`, `"stopped by callback"` or
            `"numerical failure"` (a singular matrix or a number that is not finite).

        Notes
        -----
        Callbacks that know begin and end follow PyLops (``pylops.optimization.callback``).
        """
        self.history = History()
        self.status = ""
        self.deadline = Deadline(self.max_seconds)
        self.setup()
        _tell(callback, "begin", self)
        try:
            return self._iterate(callback)
        finally:
            _tell(callback, "end", self)

    def _iterate(self, callback: Callback | None) -> str:
        """Step until there is a reason to stop, and return it."""
        start = time.perf_counter()
        quiet_steps = 0
        while self.n_iter < self.max_iter:
            self.deadline.ask(None if callback is None else lambda: bool(callback(self)))
            try:
                self.step()
            except (FloatingPointError, np.linalg.LinAlgError):
                self.status = FAILED
                return self.status
            seconds = time.perf_counter() - start
            self.history.append(
                IterationRecord(float(self.objective), float(self.noise_variance), self.n_active, seconds)
            )
            quiet_steps = quiet_steps + 1 if self.change <= self.tol else 0
            self.status = self._reason(callback, quiet_steps)
            if self.status:
                return self.status
        self.status = ITERATION_LIMIT
        return self.status

    def _reason(self, callback: Callback | None, quiet_steps: int) -> str:
        """Why no step follows; empty where one does."""
        self.deadline.ask(None)
        if not (math.isfinite(self.objective) and math.isfinite(self.noise_variance)):
            return FAILED
        if callback is not None and callback(self):
            return STOPPED
        if self.deadline.status:
            return self.deadline.status
        if quiet_steps >= 2:
            return CONVERGED
        return TIME_LIMIT if self.deadline.reached() else ""
