"""What Numba compiles, and how long that takes, told apart from the work that needs it.

A kernel is compiled at its first call on a machine, and read from Numba's cache at the first call in every
later process. Numba announces both, so nothing has to be guessed from files.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import perf_counter
from typing import Any

from numba.core import event

__all__ = ["Compilation", "announce_compilation", "keep_quiet", "watch_compilation"]

_COMPILING, _LOCKED = "numba:compile", "numba:compiler_lock"
_PACKAGE = "isac_toolbox"
_ANNOUNCEMENT = "compiling numerical kernels, once for this installation; this takes some seconds"


class Compilation(event.Listener):
    """What has been compiled in this Python thread.

    Attributes
    ----------
    n_compiled : int
        Kernels that were compiled, not read from the cache.
    seconds : float
        For compiling kernels, and for reading them from the cache.
    """

    def __init__(self, on_first: Callable[[], object] | None = None) -> None:
        self.n_compiled = 0
        self.seconds = 0.0
        self._on_first = on_first
        self._thread = threading.get_ident()
        self._depth = 0
        self._start = 0.0

    def on_start(self, event: Any) -> None:
        """Count a kernel, or start the clock; compiling one kernel may compile others."""
        if threading.get_ident() != self._thread:
            return
        if event.kind == _COMPILING:
            self.n_compiled += 1
            if self.n_compiled == 1 and self._on_first is not None:
                self._on_first()
            return
        if self._depth == 0:
            self._start = perf_counter()
        self._depth += 1

    def on_end(self, event: Any) -> None:
        """Stop the clock."""
        if threading.get_ident() != self._thread or event.kind == _COMPILING or self._depth == 0:
            return
        self._depth -= 1
        if self._depth == 0:
            self.seconds += perf_counter() - self._start


@contextmanager
def watch_compilation(on_first: Callable[[], object] | None = None) -> Iterator[Compilation]:
    """Count and time what this Python thread compiles while the context lasts.

    Parameters
    ----------
    on_first : callable, optional
        Called before the first kernel is compiled; not if all of them are in the cache.

    Yields
    ------
    Compilation
    """
    compilation = Compilation(on_first)
    kinds = (_COMPILING, _LOCKED)
    for kind in kinds:
        event.register(kind, compilation)
    try:
        yield compilation
    finally:
        for kind in kinds:
            event.unregister(kind, compilation)


class _Announcer(event.Listener):
    """Says once in this process that kernels of this package are being compiled."""

    said = False

    def on_start(self, event: Any) -> None:
        """Say it before the first of them."""
        module = event.data["dispatcher"].py_func.__module__
        if not self.said and module.partition(".")[0] == _PACKAGE:
            self.said = True
            logging.getLogger(_PACKAGE).warning(_ANNOUNCEMENT)

    def on_end(self, event: Any) -> None:
        """Say nothing more."""


_announcer = _Announcer()


def announce_compilation() -> None:
    """Warn by the logger ``isac_toolbox``, once in this process, before a kernel is compiled.

    A first estimate after an installation would otherwise be silent for some seconds.
    """
    if _announcer not in event._registered[_COMPILING]:
        event.register(_COMPILING, _announcer)


def keep_quiet() -> None:
    """Say nothing in this process, as another one does or as it is said in another way."""
    _announcer.said = True
