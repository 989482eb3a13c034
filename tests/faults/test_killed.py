"""Processes killed at random times, and two that write at once: rows and epochs that were kept are used."""

from __future__ import annotations

import csv
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import isac_toolbox as isac
from helpers import TESTS
from helpers.faults import how_many, tally
from helpers.sweeps import FAST, TINY, Plugin, metrics_of
from isac_toolbox import sweeps

pytestmark = pytest.mark.slow
SCENARIO = isac.Scenario.load("urban_uplink").replace(**TINY)
POINTS = {"snr_db": [0, 10]}
SWEEP = """
import sys, isac_toolbox as isac
from helpers.sweeps import FAST, TINY
scenario = isac.Scenario.load("urban_uplink").replace(**TINY)
isac.sweep(scenario, {"snr_db": [0, 10]}, FAST, trials=60, store=sys.argv[1], jobs=int(sys.argv[2]))
"""
ISAC = "from isac_toolbox.cli import main; main()"


def started(code: str, *words: object) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, words)],
        cwd=TESTS,
        stdout=-3,
        stderr=-3,
        start_new_session=True,
    )


def killed_until_done(code: str, words: list[object], seen, number: int, kill: signal.Signals) -> int:
    """Start, kill at a random time after there is something to lose, again and again; return the kills."""
    chance = random.Random(number)
    kills = 0
    for _ in range(number):
        process = started(code, *words)
        until = time.monotonic() + 120
        while process.poll() is None and not seen() and time.monotonic() < until:
            time.sleep(0.02)
        time.sleep(chance.uniform(0, 0.6))
        kills += process.poll() is None
        process.send_signal(kill)
        process.wait(60)
    process = started(code, *words)
    assert process.wait(600) == 0
    return kills


def holds_rows(store: Path) -> bool:
    return store.exists() and store.stat().st_size > 60_000


@pytest.mark.parametrize(("jobs", "kill"), [(1, signal.SIGKILL), (2, signal.SIGKILL), (2, signal.SIGINT)])
def test_a_sweep_that_is_killed_again_and_again(jobs, kill, tmp_path):
    store = tmp_path / "sweep.db"
    kills = killed_until_done(SWEEP, [store, jobs], lambda: holds_rows(store), how_many(1, 2), kill)
    whole = isac.sweep(SCENARIO, POINTS, FAST, trials=60)
    assert metrics_of(isac.sweep(SCENARIO, POINTS, FAST, trials=60, store=store)) == metrics_of(whole)
    tally(f"sweep with {jobs} processes, {kill.name}", "resumed, nothing lost", kills)


def test_two_processes_on_one_store(tmp_path):
    for i in range(how_many(1, 2)):
        store = tmp_path / f"{i}.db"
        both = [started(SWEEP, store, 1) for _ in range(2)]
        assert [process.wait(600) for process in both] == [0, 0]
        whole = isac.sweep(SCENARIO, POINTS, FAST, trials=60)
        assert metrics_of(isac.sweep(SCENARIO, POINTS, FAST, trials=60, store=store)) == metrics_of(whole)
        tally("sweep, two processes on one store", "all rows once, the same bits")


def test_a_worker_that_is_killed_ends_the_sweep_with_its_rows(tmp_path):
    for i in range(how_many(1, 2)):
        store, flag = tmp_path / f"{i}.db", tmp_path / "may die"
        flag.touch()

        def die_once(result, flag=flag):
            if flag.exists() and random.random() < 0.05:
                flag.unlink()
                os.kill(os.getpid(), signal.SIGKILL)
            return result

        own = {"ls": isac.LeastSquares(), "p": Plugin(die_once)}
        with pytest.raises(sweeps.WorkerError, match="a worker process died"):
            isac.sweep(SCENARIO, POINTS, own, trials=200, jobs=2, store=store)
        kept = len(isac.load_sweep(store).rows)
        resumed = isac.sweep(SCENARIO, POINTS, own, trials=200, jobs=2, store=store)
        assert kept < 800 and not resumed.failures
        assert metrics_of(resumed) == metrics_of(isac.sweep(SCENARIO, POINTS, own, trials=200))
        tally("sweep, a worker killed", "resumed, nothing lost")


def numbers(path: Path) -> list[dict[str, str]]:
    """A figure's table without what depends on the time that it took."""
    with path.open(newline="") as file:
        return [{k: v for k, v in row.items() if "second" not in k} for row in csv.DictReader(file)]


def test_a_figure_that_is_killed_again_and_again(tmp_path):
    words = ["figure", "vs_users", "--quick", "--trials", 6, "--out"]
    assert started(ISAC, *words, tmp_path / "whole").wait(600) == 0
    store = tmp_path / "killed" / "vs_users_quick.db"
    kills = killed_until_done(
        ISAC, [*words, store.parent], lambda: holds_rows(store), how_many(1, 2), signal.SIGKILL
    )
    whole = numbers(tmp_path / "whole" / "vs_users_quick.csv")
    assert numbers(tmp_path / "killed" / "vs_users_quick.csv") == whole
    tally("isac figure, SIGKILL", "resumed, the same numbers", kills)


def test_a_network_that_is_killed_again_and_again(tmp_path):
    pytest.importorskip("torch")
    words = ["nn", "ssvi", "--epochs", 30, "--no-dense", "--threads", 1, "--resume"]
    for name, kills in (("whole", 0), ("killed", how_many(1, 2))):
        own = [*words, "--checkpoint", tmp_path / f"{name}.pt", "--out", tmp_path / name]
        seen = (tmp_path / f"{name}.pt").exists
        killed = killed_until_done(ISAC, own, seen, kills, signal.SIGKILL)
    whole, again = (
        (tmp_path / name / "mean_network.safetensors").read_bytes() for name in ("whole", "killed")
    )
    assert whole == again
    tally("isac nn ssvi, SIGKILL", "resumed to the same bits", killed)
