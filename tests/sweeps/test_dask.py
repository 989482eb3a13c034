"""Sweeps on Dask: a real scheduler with two worker processes."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from contextlib import ExitStack, contextmanager
from types import SimpleNamespace

import pytest

import isac_toolbox as isac
from helpers.sweeps import TINY, metrics_of
from isac_toolbox import sweeps
from isac_toolbox.sweeps import _trial as _sweep_trial
from isac_toolbox.sweeps import _workers as _sweep_workers

ESTIMATORS = {"ls": isac.LeastSquares(), "nomp": isac.NOMP(), "genie": isac.GenieLMMSE}


@pytest.fixture(scope="module")
def scenario():
    return isac.Scenario.load("urban_uplink").replace(**TINY)


@contextmanager
def process(*words):
    """A ``dask`` command until the end of the test."""
    started = subprocess.Popen(
        [sys.executable, "-m", "dask", *map(str, words)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        yield started
    finally:
        started.kill()
        started.wait()


@pytest.fixture
def scheduler(tmp_path):
    """Address of a scheduler without workers, and its process."""
    pytest.importorskip("distributed", reason='needs the extra "dask"')
    contact = tmp_path / "scheduler.json"
    words = ("scheduler", "--host", "127.0.0.1", "--port", 0, "--no-dashboard", "--scheduler-file", contact)
    with process(*words) as started:
        until = time.monotonic() + 60
        while not (contact.exists() and contact.stat().st_size) and time.monotonic() < until:
            time.sleep(0.05)
        yield json.loads(contact.read_text())["address"], started


@pytest.fixture
def workers(scheduler):
    """Two workers of one thread each."""
    address, _ = scheduler
    with ExitStack() as stack:
        words = ("worker", address, "--nthreads", 1, "--no-nanny", "--no-dashboard")
        yield [stack.enter_context(process(*words)) for _ in range(2)]


@pytest.mark.slow
def test_a_lost_worker_changes_nothing(scenario, scheduler, workers, tmp_path):
    address, _ = scheduler
    store = tmp_path / "sweep.db"

    def kill_one(state):
        if state.done > 30 and workers[0].poll() is None:
            workers[0].kill()

    arguments = {"vary": {"snr_db": [0, 10]}, "estimators": ESTIMATORS, "trials": 40}
    result = isac.sweep(scenario, **arguments, dask=address, store=store, progress=kill_one)
    assert workers[0].poll() is not None and workers[1].poll() is None
    assert not result.failures and len(result.rows) == 240
    assert metrics_of(result) == metrics_of(isac.sweep(scenario, **arguments))
    # what another way of running kept is taken over
    assert metrics_of(isac.sweep(scenario, **arguments, store=store, dask=address)) == metrics_of(result)


@pytest.mark.slow
def test_a_lost_scheduler_ends_the_sweep_and_keeps_what_came(scenario, scheduler, workers, tmp_path):
    address, started = scheduler
    store = tmp_path / "sweep.db"

    def kill_scheduler(state):
        if state.done > 10:
            started.kill()

    with pytest.raises(sweeps.WorkerError, match="the connection to the Dask scheduler is lost"):
        isac.sweep(scenario, None, ESTIMATORS, 500, dask=address, store=store, progress=kill_scheduler)
    assert len(isac.load_sweep(store).rows) > 10


@pytest.mark.slow
def test_a_scheduler_without_workers(scenario, scheduler, monkeypatch):
    monkeypatch.setattr(_sweep_workers, "CONNECT_S", 2)
    with pytest.raises(ConnectionError, match="no worker joined the Dask scheduler"):
        isac.sweep(scenario, None, ["ls"], dask=scheduler[0])


def test_a_scheduler_that_is_not_there(scenario, monkeypatch):
    pytest.importorskip("distributed", reason='needs the extra "dask"')
    assert _sweep_workers.CONNECT_S <= 15
    monkeypatch.setattr(_sweep_workers, "CONNECT_S", 1)
    start = time.monotonic()
    with pytest.raises(
        ConnectionError, match=r"no Dask scheduler answers at tcp://127\.0\.0\.1:9 within 1 s"
    ):
        isac.sweep(scenario, None, ["ls"], dask="tcp://127.0.0.1:9")
    assert time.monotonic() - start < 10


@pytest.mark.parametrize("address", ["nothing://a:1", "host", "tcp://host:many"])
def test_an_address_that_is_none(scenario, address):
    pytest.importorskip("distributed", reason='needs the extra "dask"')
    with pytest.raises(ValueError, match=r"is not an address such as tcp://host:8786"):
        isac.sweep(scenario, None, ["ls"], dask=address)


def test_without_the_extra(scenario, monkeypatch):
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(ValueError, match=r"isac_toolbox\[dask\]"):
        isac.sweep(scenario, None, ["ls"], dask="tcp://127.0.0.1:9")


class Future:
    def __init__(self, error):
        self.error = error

    def result(self):
        raise self.error


def test_what_a_future_may_bring(scenario):
    distributed = pytest.importorskip("distributed", reason='needs the extra "dask"')
    plan = sweeps.make_plan(scenario, None, ["ls", "genie"], 1, 0)
    task = plan.task("{}", 0, ["ls", "genie"])
    killed = distributed.KilledWorker("task", SimpleNamespace(address="tcp://lost:1"), 3)
    key, rows = _sweep_workers._rows_of(Future(killed), task)
    assert key == "{}" and len(rows) == 2 and all("tcp://lost:1" in row.error for row in rows)
    with pytest.raises(sweeps.WorkerError, match="cannot run trials: ModuleNotFoundError: isac"):
        _sweep_workers._rows_of(Future(ModuleNotFoundError("isac")), task)
    assert _sweep_trial.run_task(task)[1][0].metrics is not None
