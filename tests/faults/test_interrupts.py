"""Ctrl-C, full disks and jumping clocks: what was written stays, and the rest is done later."""

from __future__ import annotations

import contextlib
import random
import re
import signal
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import isac_toolbox as isac
from helpers.faults import fingerprint, how_many, tally
from helpers.sweeps import TINY, Plugin, metrics_of
from isac_toolbox.sweeps import StoreError

resource = pytest.importorskip("resource")
SCENARIO = isac.Scenario.load("urban_uplink").replace(**TINY)
SWEEP = {"vary": {"snr_db": [0, 10]}, "estimators": ["ls"], "trials": 3}
BLOCK = isac.Scenario(array_shape=(2, 2), n_subcarriers=4, n_users=2, n_scatterers=2, n_data_symbols=2)


@contextlib.contextmanager
def interrupted_after(seconds: float) -> Iterator[None]:
    """A Ctrl-C of this process after some time, unless the block has ended by then."""
    before = signal.signal(signal.SIGALRM, lambda *_: signal.raise_signal(signal.SIGINT))
    try:
        signal.setitimer(signal.ITIMER_REAL, seconds)
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@contextlib.contextmanager
def files_of_at_most(n_bytes: int) -> Iterator[None]:
    """A disk on which files cannot grow beyond a size."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.fixture(scope="module")
def rows():
    return metrics_of(isac.sweep(SCENARIO, **SWEEP))


def test_a_sweep_interrupted_at_random_times_loses_no_row(tmp_path, rows):
    chance = random.Random(1)
    interrupts = asked = 0
    while interrupts < how_many(10, 300):
        store = tmp_path / f"{asked}.db"
        kept = 0
        for _ in range(50):
            asked += 1
            try:
                with interrupted_after(chance.uniform(0.001, 0.08)):
                    isac.sweep(SCENARIO, **SWEEP, store=store)
                break
            except KeyboardInterrupt:
                interrupts += 1
            now = len(isac.load_sweep(store).rows) if begun(store) else 0
            assert now >= kept
            kept = now
        assert metrics_of(isac.sweep(SCENARIO, **SWEEP, store=store)) == rows
        assert asked < 20 * how_many(10, 300), "nothing was interrupted"
    tally("sweep, Ctrl-C at a random time", "resumed, nothing lost", interrupts)


def begun(store: Path) -> bool:
    """Return whether the first transaction is in the file."""
    return (
        store.exists() and store.stat().st_size > 0 and not store.with_name(f"{store.name}-journal").exists()
    )


def test_a_file_interrupted_while_it_is_written_is_the_old_one_or_the_new_one(tmp_path):
    old, new = BLOCK.simulate(0).observation, BLOCK.simulate(1).observation
    path = tmp_path / "block.npz"
    known = {fingerprint(old): "old", fingerprint(new): "new"}
    chance = random.Random(2)
    interrupts = 0
    for _ in range(how_many(15, 1000)):
        old.save(path)
        try:
            with interrupted_after(chance.uniform(0.0002, 0.008)):
                new.save(path)
        except KeyboardInterrupt:
            interrupts += 1
        assert fingerprint(isac.UplinkObservation.load(path)) in known
        assert [p.name for p in tmp_path.iterdir()] == ["block.npz"]
    assert interrupts
    tally("block being saved, Ctrl-C at a random time", "old or new, whole", interrupts)


def test_a_full_disk_leaves_the_old_file(tmp_path):
    old, new = BLOCK.simulate(0).observation, BLOCK.simulate(1).observation
    path = old.save(tmp_path / "block.npz")
    before, chance = path.read_bytes(), random.Random(3)
    for _ in range(how_many(5, 200)):
        with files_of_at_most(chance.randrange(len(before) // 2)), pytest.raises(OSError):
            new.save(path)
        assert path.read_bytes() == before and [p.name for p in tmp_path.iterdir()] == ["block.npz"]
        tally("block being saved, disk full", "old file kept")


def test_a_store_on_a_full_disk_goes_on_where_it_was(tmp_path, rows):
    chance = random.Random(4)
    for i in range(how_many(2, 20)):
        store = tmp_path / f"{i}.db"
        isac.sweep(SCENARIO, **{**SWEEP, "trials": 1}, store=store)
        size = store.stat().st_size
        with files_of_at_most(size + 4096 * chance.randrange(2)), contextlib.suppress(StoreError, OSError):
            isac.sweep(SCENARIO, **{**SWEEP, "trials": 60}, store=store)
        assert 2 <= len(isac.load_sweep(store).rows) < 120
        assert metrics_of(isac.sweep(SCENARIO, **SWEEP, store=store)) == rows
        tally("sweep, disk full", "resumed, nothing lost")


def test_clocks_that_jump_do_not_matter(tmp_path, rows, monkeypatch):
    """The date is written as a note alone; the clock of a machine may be set back while a sweep runs."""
    from datetime import UTC, datetime, timedelta

    from isac_toolbox.sweeps import _store

    class Jumping(datetime):
        jumps = 0

        @classmethod
        def now(cls, tz=None):
            cls.jumps += 1
            return datetime(2030, 1, 1, tzinfo=UTC) + timedelta(days=(-400) ** (cls.jumps % 2))

    monkeypatch.setattr(_store, "datetime", Jumping)
    for trials in (1, 2, 3):
        result = isac.sweep(SCENARIO, **{**SWEEP, "trials": trials}, store=tmp_path / "sweep.db")
    assert Jumping.jumps >= 3 and metrics_of(result) == rows
    assert len(isac.load_sweep(tmp_path / "sweep.db").rows) == len(rows)
    tally("sweep, clock set back and forth", "same rows", Jumping.jumps)


def test_no_duration_is_measured_with_a_clock_that_can_be_set():
    found = [
        (path.name, match[0])
        for path in Path(isac.__file__).parent.rglob("*.py")
        for match in re.finditer(
            r"\btime\.time\(|datetime\.now\(|from time import .*\btime\b", path.read_text(encoding="utf-8")
        )
    ]
    assert found == [("_store.py", "datetime.now(")]  # the note of the last run


def test_a_store_that_another_process_holds_is_waited_for(tmp_path, monkeypatch):
    from isac_toolbox.sweeps import _store

    store = tmp_path / "sweep.db"
    isac.sweep(SCENARIO, **SWEEP, store=store)
    monkeypatch.setattr(_store, "_BUSY_S", 0.05)
    other = sqlite3.connect(store)
    other.execute("BEGIN EXCLUSIVE")
    with pytest.raises(OSError, match=r"sweep\.db: database is locked"):
        isac.sweep(SCENARIO, **SWEEP, store=store)
    other.close()
    assert len(isac.sweep(SCENARIO, **SWEEP, store=store).rows) == 6


def test_an_interrupt_inside_a_kernel_is_no_failed_trial(tmp_path):
    """Numba makes a SystemError of it."""

    def interrupted(result):
        try:
            raise KeyboardInterrupt
        except KeyboardInterrupt as error:
            raise SystemError("a kernel returned a result with an exception set") from error

    with pytest.raises(KeyboardInterrupt) as caught:
        isac.sweep(SCENARIO, None, {"p": Plugin(interrupted)}, trials=2, store=tmp_path / "sweep.db")
    assert caught.value.result.rows == ()


def test_an_interrupt_while_saving_is_one(tmp_path, monkeypatch):
    """zipfile makes a ValueError of it."""
    path = BLOCK.simulate(0).observation.save(tmp_path / "block.npz")
    before = path.read_bytes()

    def interrupted(*arguments, **arrays):
        try:
            raise KeyboardInterrupt
        finally:
            raise ValueError("Can't close the ZIP file")

    monkeypatch.setattr(np, "savez_compressed", interrupted)
    with pytest.raises(KeyboardInterrupt):
        BLOCK.simulate(1).observation.save(path)
    assert path.read_bytes() == before and [p.name for p in tmp_path.iterdir()] == ["block.npz"]
