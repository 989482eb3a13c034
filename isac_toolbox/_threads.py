"""Bounded threads of the numerical libraries; the compiled kernels have one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

from scipy import fft
from threadpoolctl import ThreadpoolController

__all__ = ["bounded_threads"]


@cache
def _libraries() -> ThreadpoolController:
    """The libraries loaded so far; looking for them takes milliseconds, so it is done once."""
    return ThreadpoolController()


@contextmanager
def bounded_threads(n_threads: int) -> Iterator[None]:
    """Context with at most so many threads of BLAS and of the Fourier transforms."""
    with _libraries().limit(limits=n_threads, user_api="blas"), fft.set_workers(n_threads):
        yield
