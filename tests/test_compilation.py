"""Compiling kernels is counted and timed apart from the work, once for every kernel."""

from __future__ import annotations

import threading
from time import perf_counter

import numpy as np
from numba import njit
from numba.core import event

from isac_toolbox._compilation import watch_compilation


def test_counts_and_times_what_is_compiled():
    @njit
    def inner(x):
        return x + 1

    @njit
    def outer(x):
        return inner(x) + inner(2 * x)

    called = []
    with watch_compilation(lambda: called.append(1)) as compilation:
        start = perf_counter()
        assert outer(1.0) == 5.0
        elapsed = perf_counter() - start
    assert called == [1] and compilation.n_compiled >= 2
    assert 0.5 * elapsed < compilation.seconds <= elapsed
    with watch_compilation(lambda: called.append(1)) as again:
        outer(1.0)
    assert called == [1] and again.n_compiled == 0 and again.seconds == 0


def test_an_error_of_compiling_stops_the_clock():
    @njit
    def wrong(x):
        return x.no_such_thing

    with watch_compilation() as compilation:
        for _ in range(2):
            try:
                wrong(np.ones(1))
            except Exception as error:
                assert "no_such_thing" in str(error)
    assert compilation.n_compiled == 2 and compilation._depth == 0


def test_other_python_threads_are_not_counted():
    @njit
    def kernel(x):
        return x * 3

    with watch_compilation() as compilation:
        thread = threading.Thread(target=kernel, args=(1.0,))
        thread.start()
        thread.join()
    assert compilation.n_compiled == 0 and compilation.seconds == 0


def test_nothing_stays_registered():
    before = {kind: list(listeners) for kind, listeners in event._registered.items()}
    with watch_compilation(), watch_compilation():
        pass
    after = {kind: list(listeners) for kind, listeners in event._registered.items() if listeners}
    assert after == {kind: listeners for kind, listeners in before.items() if listeners}
