"""Many blocks, one after the other or in several processes, in the order in which they come."""

from __future__ import annotations

import pickle
import traceback
from collections.abc import Generator, Iterable, Sized
from contextlib import closing, nullcontext
from dataclasses import dataclass
from itertools import takewhile
from typing import Any, Literal, Protocol, overload

from isac_toolbox._processes import check_jobs, in_processes, n_processes
from isac_toolbox._progress import open_progress
from isac_toolbox._threads import bounded_threads
from isac_toolbox._validation import check_choice, check_flag, check_has
from isac_toolbox.channel.observation import UplinkObservation
from isac_toolbox.estimators.result import EstimationResult

__all__ = ["ManyBlocks", "estimate_many"]

_ON_ERROR = ("raise", "return")


class Estimator(Protocol):
    """Anything that estimates a block."""

    def estimate(self, obs: UplinkObservation, /) -> EstimationResult:
        """Return the result of one block."""


@overload
def estimate_many(
    estimator: Estimator,
    observations: Iterable[UplinkObservation],
    *,
    n_jobs: int = 1,
    on_error: Literal["raise"] = "raise",
    progress: bool = False,
) -> list[EstimationResult]: ...


@overload
def estimate_many(
    estimator: Estimator,
    observations: Iterable[UplinkObservation],
    *,
    n_jobs: int = 1,
    on_error: str,
    progress: bool = False,
) -> list[EstimationResult | Exception]: ...


def estimate_many(
    estimator: Any,
    observations: Iterable[UplinkObservation],
    *,
    n_jobs: int = 1,
    on_error: str = "raise",
    progress: bool = False,
) -> Any:
    """Estimate many blocks with any estimator, of this package or your own.

    Parameters
    ----------
    estimator : object
        With ``estimate(obs)``; one that can be pickled where ``n_jobs`` is not 1.
    observations : iterable of UplinkObservation
        Also a generator, from which a few blocks are taken ahead of the work.
    n_jobs : int
        Processes; 1 works in this one, -1 takes every processor. BLAS has one thread in each of several, or
        the ``n_threads`` of the estimator. Arrays of a megabyte and more are shared with them.
    on_error : {"raise", "return"}
        Where a block fails: raise its error, with a note that says which block it was, or put the error in
        the place of its result and go on.
    progress : bool
        Show a bar.

    Returns
    -------
    list of EstimationResult
        In the order of the blocks, with the numbers that ``estimate`` gives one by one; with
        ``on_error="return"`` an exception where a block failed.

    Raises
    ------
    TypeError, ValueError
        For a bad argument, before any work.
    WorkerError
        If a process died.

    Examples
    --------
    >>> import isac_toolbox as isac
    >>> scenario = isac.Scenario.load("urban_uplink")
    >>> blocks = (scenario.simulate(seed).observation for seed in range(3))
    >>> [round(res.noise_variance, 2) for res in isac.NOMP().estimate_many(blocks)]
    [0.1, 0.1, 0.1]
    """
    _check(estimator, observations, n_jobs, on_error, progress)
    n_blocks = len(observations) if isinstance(observations, Sized) else None
    count = n_processes(n_jobs, n_blocks)
    # one process beside others must not take all processors; alone, it is as estimate is
    work = _Work(estimator, None if count == 1 else getattr(estimator, "n_threads", None) or 1)
    found: list[EstimationResult | Exception] = []
    failed: list[Exception] = []
    # a failure that is raised takes no more blocks; those at work end, so that the processes stay in order
    wanted = takewhile(lambda _: on_error == "return" or not failed, observations)
    with (
        open_progress(progress, "estimate", "block", keep=True) as bar,
        closing(_outcomes(work, wanted, count)) as outcomes,
    ):
        bar.begin(n_blocks)
        for outcome in outcomes:
            if isinstance(outcome, _Failure):
                outcome = outcome.named(len(found))
                failed.append(outcome)
            found.append(outcome)
            bar.show(len(found), text=f"{len(failed)} failed" if failed else "")
    if failed and on_error == "raise":
        raise failed[0]
    return found


class ManyBlocks:
    """An estimator that takes many blocks as well."""

    @overload
    def estimate_many(
        self: Estimator,
        observations: Iterable[UplinkObservation],
        *,
        n_jobs: int = 1,
        on_error: Literal["raise"] = "raise",
        progress: bool = False,
    ) -> list[EstimationResult]: ...

    @overload
    def estimate_many(
        self: Estimator,
        observations: Iterable[UplinkObservation],
        *,
        n_jobs: int = 1,
        on_error: str,
        progress: bool = False,
    ) -> list[EstimationResult | Exception]: ...

    def estimate_many(
        self: Any,
        observations: Iterable[UplinkObservation],
        *,
        n_jobs: int = 1,
        on_error: str = "raise",
        progress: bool = False,
    ) -> Any:
        """Estimate many blocks, in several processes if so many are asked for.

        Parameters
        ----------
        observations : iterable of UplinkObservation
            Also a generator, from which a few blocks are taken ahead of the work.
        n_jobs : int
            Processes; 1 works in this one, -1 takes every processor.
        on_error : {"raise", "return"}
            Where a block fails: raise its error, or put it in the place of its result and go on.
        progress : bool
            Show a bar.

        Returns
        -------
        list of EstimationResult
            In the order of the blocks, with the numbers that ``estimate`` gives one by one; with
            ``on_error="return"`` an exception where a block failed.

        Raises
        ------
        TypeError, ValueError
            For a bad argument, before any work.
        WorkerError
            If a process died.

        See Also
        --------
        estimate_many : The same for any estimator.
        """
        return estimate_many(self, observations, n_jobs=n_jobs, on_error=on_error, progress=progress)


def _check(estimator: Any, observations: Any, n_jobs: int, on_error: str, progress: bool) -> None:
    """Refuse bad arguments."""
    check_has("estimator", estimator, "an estimator", ["estimate"])
    if isinstance(observations, UplinkObservation) or not isinstance(observations, Iterable):
        raise TypeError(
            f"observations must be an iterable of UplinkObservation, got {type(observations).__name__}"
        )
    check_jobs("n_jobs", n_jobs)
    check_choice("on_error", on_error, _ON_ERROR)
    check_flag("progress", progress)


def _outcomes(
    work: _Work, observations: Iterable[UplinkObservation], count: int
) -> Generator[Any, None, None]:
    """Results and failures, in order."""
    if count == 1:
        yield from map(work, observations)
        return
    try:
        yield from in_processes(work, observations, count, ordered=True)
    except pickle.PicklingError as error:
        raise TypeError(
            f"estimator must be one that processes can be sent, got {type(work.estimator).__name__}: "
            f"{error.__cause__ or error}; n_jobs=1 takes any"
        ) from error


@dataclass(frozen=True)
class _Failure:
    """An error, and where it came from: tracebacks do not pass between processes."""

    error: Exception
    trace: str

    @classmethod
    def of(cls, error: Exception) -> _Failure:
        """Keep an error, or its text if it does not survive the way to another process."""
        trace = traceback.format_exc()
        try:
            pickle.loads(pickle.dumps(error))
        except Exception:
            return cls(RuntimeError(f"{type(error).__name__}: {error}"), trace)
        return cls(error, trace)

    def named(self, index: int) -> Exception:
        """Return the error with a note of its block and of where it came from.

        Without its frames, which would keep all arrays of the failed estimate alive.
        """
        self.error.add_note(f"in observations[{index}]:\n{self.trace}")
        return self.error.with_traceback(None)


@dataclass(frozen=True)
class _Work:
    """Estimates a block, in any process, with so many threads if said."""

    estimator: Any
    n_threads: int | None

    def __call__(self, obs: UplinkObservation) -> Any:
        """Return the result, or how it failed."""
        with nullcontext() if self.n_threads is None else bounded_threads(self.n_threads):
            try:
                return self.estimator.estimate(obs)
            except Exception as error:
                return _Failure.of(error)
