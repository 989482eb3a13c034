"""Bounded threads of the numerical libraries, and work on parts of large arrays in several of them."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from functools import lru_cache, partial
from typing import Any, NamedTuple, TypeVar

from scipy import fft
from threadpoolctl import ThreadpoolController

__all__ = ["bounded_threads", "in_threads", "shared_threads", "stretches"]

Part = TypeVar("Part")
Result = TypeVar("Result")

# Entries of arrays, a few milliseconds of work, from which on Python threads share it.
_FEWEST_SHARED = 2**18
_sharing = threading.local()


@contextmanager
def bounded_threads(n_threads: int) -> Iterator[None]:
    """Give the loaded libraries so many threads while the context lasts.

    These are BLAS, OpenMP, the Fourier transforms, Numba and PyTorch. BLAS and PyTorch have one number of
    threads for the whole process: where several contexts are open, nested or in several Python threads, the
    smallest number holds, and the numbers from before come back when the last context ends.

    Parameters
    ----------
    n_threads : int
        At least one.
    """
    n_modules = len(sys.modules)
    pools = _process_pools(n_modules)
    context = object()
    try:  # an interrupt may come at any moment
        bound = _process.enter(context, n_threads, pools)
        with (
            _libraries(n_modules).limit(limits=bound, user_api="openmp"),
            fft.set_workers(bound),
            _bounded_numba(bound),
        ):
            yield
    finally:
        _process.leave(context)


@contextmanager
def shared_threads(n_threads: int) -> Iterator[None]:
    """Let :func:`in_threads` take so many Python threads, of the one that opens the context alone.

    The libraries keep to one thread each, in all of them: numbers are the same bits with any number.

    Parameters
    ----------
    n_threads : int
        At least one.
    """
    before = _pool()
    with bounded_threads(1), ThreadPoolExecutor(n_threads) if n_threads > 1 else nullcontext() as pool:
        _sharing.pool = pool
        try:
            yield
        finally:
            _sharing.pool = before


def in_threads(work: Callable[[Part], Result], parts: Iterable[Part], n_entries: int) -> list[Result]:
    """Return the work on every part, shared by the threads of :func:`shared_threads`, where it is open.

    It is done one after the other where the arrays that it goes through have so few entries in all,
    ``n_entries``, that threads would cost more than they save.
    """
    parts, pool = list(parts), _pool()
    if pool is None or len(parts) < 2 or n_entries < _FEWEST_SHARED:
        return [work(part) for part in parts]
    return list(pool.map(work, parts))


def _pool() -> ThreadPoolExecutor | None:
    """Threads that this one may share its work with."""
    return getattr(_sharing, "pool", None)


def stretches(n: int, most: int) -> list[slice]:
    """Return slices that cover ``n`` items, of at most so many each, at least one."""
    step = max(most, 1)
    return [slice(first, min(first + step, n)) for first in range(0, n, step)]


@lru_cache(maxsize=1)
def _libraries(n_modules: int) -> ThreadpoolController:
    """Return the libraries loaded so far; looking for them takes a millisecond, so only after new imports."""
    return ThreadpoolController()


class _Pool(NamedTuple):
    """Threads that the whole process shares."""

    get: Callable[[], int]
    set: Callable[[int], Any]


@lru_cache(maxsize=1)
def _process_pools(n_modules: int) -> dict[str, _Pool]:
    """Return pools by the name of their library."""
    found = {
        library.filepath: _Pool(library.get_num_threads, partial(_set_blas, library))
        for library in _libraries(n_modules).lib_controllers
        # a BLAS on top of OpenMP has the threads of OpenMP, which every Python thread sets for itself
        if library.user_api == "blas" and getattr(library, "threading_layer", "") != "openmp"
    }
    torch: Any = sys.modules.get("torch")
    if hasattr(torch, "set_num_threads"):  # not so while it is being imported
        found["torch"] = _Pool(torch.get_num_threads, torch.set_num_threads)
    return found


def _set_blas(library: Any, n_threads: int) -> None:
    """Set the threads of a BLAS from any Python thread.

    Newer versions of threadpoolctl obey one Python thread alone, the first that sets a number, until it lets
    go; here a lock keeps the Python threads apart.
    """
    let_go = getattr(library, "clear_controlling_thread", lambda force: None)
    let_go(force=True)
    library.set_num_threads(n_threads)
    let_go(force=True)


class _Process:
    """The bounds in force, and what the pools had before the first of them."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._bounds: dict[object, int] = {}
        self._before: dict[str, tuple[_Pool, int]] = {}

    def enter(self, context: object, bound: int, pools: dict[str, _Pool]) -> int:
        """Add the bound of a context and return the smallest in force."""
        with self._lock:
            for name in pools.keys() - self._before.keys():
                self._before[name] = pools[name], pools[name].get()
            self._bounds[context] = bound
            return self._apply()

    def leave(self, context: object) -> None:
        """Take the bound of a context away, if it has one; with the last one, everything is as before."""
        with self._lock:
            self._bounds.pop(context, None)
            if self._bounds:
                self._apply()
                return
            for pool, n_threads in self._before.values():
                pool.set(n_threads)
            self._before.clear()

    def _apply(self) -> int:
        smallest = min(self._bounds.values())
        for pool, _ in self._before.values():
            pool.set(smallest)
        return smallest


_process = _Process()


@contextmanager
def _bounded_numba(n_threads: int) -> Iterator[None]:
    """Bound Numba's parallel kernels in this Python thread; those of this package are not parallel."""
    numba: Any = sys.modules.get("numba")
    if not hasattr(numba, "set_num_threads"):
        yield
        return
    before = numba.get_num_threads()
    numba.set_num_threads(min(n_threads, numba.config.NUMBA_NUM_THREADS))
    try:
        yield
    finally:
        numba.set_num_threads(before)
