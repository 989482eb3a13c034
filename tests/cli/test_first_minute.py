"""What a newcomer sees first: kernels are compiled once, it is said, and it is not counted."""

from __future__ import annotations

import json
import os
import pty
import re
import subprocess
import sys
from time import perf_counter

import pytest

SMALL = ["array_shape=[4, 4]", "n_subcarriers=16", "n_scatterers=2", "n_users=2", "n_data_symbols=4"]
NOTICE = "Compiling numerical kernels"
CODE = "from isac_toolbox.cli import main; main()"


def estimate(estimator: str, cache, *words: str):
    """Run ``isac estimate`` with its kernels cached in a folder; the finished process and its seconds."""
    changes = [word for change in SMALL for word in ("--set", change)]
    command = ["estimate", "urban_uplink", *changes, "--estimator", estimator, *words]
    start = perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", CODE, *command],
        capture_output=True,
        env={**os.environ, "NUMBA_CACHE_DIR": str(cache)},
        text=True,
        timeout=300,
        check=True,
    )
    return done, perf_counter() - start


@pytest.mark.parametrize("estimator", ["ls", pytest.param("bisvbi", marks=pytest.mark.slow)])
def test_compiling_is_announced_once_and_not_counted(estimator, tmp_path):
    done, wall = estimate(estimator, tmp_path)
    assert done.stderr.count(NOTICE) == 1 and NOTICE not in done.stdout
    seconds = float(re.search(r"iterations?, (\d+\.\d+) s", done.stdout)[1])
    assert seconds < 0.25 * wall
    again, _ = estimate(estimator, tmp_path)
    assert again.stderr == ""
    assert scene(again.stdout) == scene(done.stdout)


def scene(text: str) -> str:
    """What is printed, without the time."""
    return re.sub(r"\d+\.\d+ s$", "", text, flags=re.MULTILINE)


@pytest.mark.slow
def test_json_says_nothing_and_does_not_count_it_either(tmp_path):
    done, wall = estimate("ls", tmp_path, "--json")
    assert done.stderr == ""
    assert 0 < json.loads(done.stdout)["estimator"]["seconds"] < 0.25 * wall


def test_a_terminal_shows_that_it_goes_on(tmp_path):
    main, secondary = pty.openpty()
    command = ["estimate", "urban_uplink", "--set", "n_data_symbols=4", "--estimator", "ls"]
    environment = {"TERM": "xterm", "COLUMNS": "120", "NUMBA_CACHE_DIR": str(tmp_path)}
    process = subprocess.Popen(
        [sys.executable, "-c", CODE, *command],
        stdout=subprocess.DEVNULL,
        stderr=secondary,
        env={**os.environ, **environment},
    )
    os.close(secondary)
    shown = b""
    while True:
        try:
            piece = os.read(main, 4096)
        except OSError:
            break
        if not piece:
            break
        shown += piece
    assert process.wait(timeout=300) == 0
    os.close(main)
    _, notice, after = shown.decode().partition(NOTICE)
    assert notice and NOTICE not in after
    assert after.count("coarse stage") > 2  # the bar is drawn again while kernels are compiled


def test_the_package_runs_as_the_command():
    command = [sys.executable, "-m", "isac_toolbox", "--version"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert re.search(r"\d+\.\d+", done.stdout) and not done.stderr
