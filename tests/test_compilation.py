"""Compiling kernels is counted and timed apart from the work, once for every kernel."""

from __future__ import annotations

import logging
import subprocess
import sys
import threading
from time import perf_counter

import numpy as np
from numba import njit
from numba.core import event

from helpers import ROOT
from isac_toolbox import _compilation
from isac_toolbox._compilation import announce_compilation, keep_quiet, watch_compilation


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


def kernel_of(package):
    """A kernel that claims to be in a package."""

    def plain(x):
        return x * 5

    plain.__module__ = package
    return njit(plain)


def test_compiling_is_announced_once(monkeypatch, caplog):
    monkeypatch.setattr(_compilation._announcer, "said", False)
    for _ in range(2):
        announce_compilation()
    with caplog.at_level(logging.WARNING, logger="isac_toolbox"):
        kernel_of("elsewhere")(1.0)
        assert not caplog.records
        kernel_of("isac_toolbox.mine")(1.0)
        kernel_of("isac_toolbox.mine")(2)
    assert [record.getMessage().partition(",")[0] for record in caplog.records] == [
        "compiling numerical kernels"
    ]
    assert list(event._registered["numba:compile"]).count(_compilation._announcer) == 1


def test_a_process_can_be_kept_quiet(monkeypatch, caplog):
    monkeypatch.setattr(_compilation._announcer, "said", False)
    keep_quiet()
    kernel_of("isac_toolbox.mine")(1.0)
    assert not caplog.records


ONE_SIGNATURE = """
import pickle, sys
from numba.core.dispatcher import Dispatcher
import isac_toolbox as isac
from helpers.scenes import SMALL
obs = SMALL.simulate(0).observation
for given in (obs, pickle.loads(pickle.dumps(obs)), SMALL.simulate(1).observation):
    isac.EMTurboBiSVBI().estimate(given)
kernels = {
    f"{name}.{key}": kernel
    for name, module in list(sys.modules.items())
    if name.startswith("isac_toolbox")
    for key, kernel in vars(module).items()
    if isinstance(kernel, Dispatcher) and kernel.py_func.__module__ == name
}
used = [name for name, kernel in kernels.items() if kernel.overloads]
assert len(used) >= 8, used
print([name for name in used if len(kernels[name].overloads) > 1])
"""


def test_every_kernel_is_compiled_for_one_signature():
    """Neither read-only arrays nor their order, nor copies from other processes, compile one again."""
    done = subprocess.run(
        [sys.executable, "-c", ONE_SIGNATURE],
        capture_output=True,
        text=True,
        timeout=120,
        cwd=ROOT / "tests",
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "[]\n"
