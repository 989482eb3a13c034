"""``isac sweep``: what it prints, what it refuses, and how it ends."""

from __future__ import annotations

import csv
import os
import pty
import re
import signal
import subprocess
import sys
import time

import pytest
from typer.testing import CliRunner

import isac_toolbox as isac
from helpers.cli import fails, run, strict_json
from isac_toolbox import _progress
from isac_toolbox._catalogue import CATALOGUE, find_entry, from_catalogue
from isac_toolbox.cli import commands as cli
from isac_toolbox.cli.sweep import parse_estimators, parse_vary
from isac_toolbox.sweeps import _store as _sweep_store
from isac_toolbox.sweeps import _workers as _sweep_workers
from isac_toolbox.sweeps._progress import SweepProgress, listener

SMALL = ["array_shape=[4, 4]", "n_subcarriers=16", "n_scatterers=2", "n_users=2", "n_data_symbols=4"]
SWEEP = ["sweep", "urban_uplink", *(word for change in SMALL for word in ("--set", change))]
FEW = ["sweep", "urban_uplink", *SWEEP[2:6], *SWEEP[10:]]  # scatterers and users as the scenario has them
POINTS = ["--vary", "snr_db=0:10:10", "--estimators", "ls,genie", "--trials", "2"]


@pytest.fixture(scope="module", autouse=True)
def compiled():
    """Kernels in the cache, so that nothing is said of compiling them."""
    isac.sweep(isac.Scenario.load("urban_uplink"), None, ["ls", "genie"], trials=1)


def test_tables_csv_and_store(tmp_path):
    store, table = tmp_path / "sweep.db", tmp_path / "rows.csv"
    text = run(*SWEEP, *POINTS, "--store", store, "--csv", table, "--jobs", 1).stdout
    assert "Channel and data" in text and "Scatterers" in text and f"wrote {table}" in text
    assert max(map(len, text.splitlines()[:-1])) <= 80
    assert re.search(r"^ +0  ls +2 +-\d+\.\d\d +-\d+\.\d\d ", text, re.MULTILINE)
    assert re.search(r"^ +10  genie +2 +exact ", text, re.MULTILINE)
    with table.open(newline="") as file:
        assert len(list(csv.DictReader(file))) == 8
    assert len(isac.load_sweep(store).rows) == 8
    assert run(*SWEEP, *POINTS, "--store", store).stdout.strip() == text.partition("wrote")[0].strip()


def test_json_is_the_summary():
    report = strict_json(run(*SWEEP, *POINTS, "--seed", 5, "--json").stdout)
    assert report["seed"] == 5 and not report["failures"] and len(report["points"]) == 4
    first, second = report["points"][:2]
    assert first["point"] == {"snr_db": 0} and first["estimator"] == "ls" and first["trials"] == 2
    assert second["nmse_db"] is None and second["misses"] == 0


def test_early_stop_and_varied_words():
    words = ["--vary", "modulation=qpsk,16qam", "--estimators", "ls", "--trials", 12, "--min-errors", 1]
    report = strict_json(run(*SWEEP, "--set", "snr_db=-5", *words, "--json").stdout)
    assert [(p["point"]["modulation"], p["trials"]) for p in report["points"]] == [
        ("qpsk", 10),
        ("16qam", 10),
    ]


def test_failures_are_counted(tmp_path):
    words = ["--vary", "n_scatterers=2,5000", "--estimators", "ls,genie", "--trials", "1"]
    outcome = run(*FEW, *words, "--store", tmp_path / "a.db", code=1)
    assert outcome.stdout.count("0 + 1 failed") == 2
    assert outcome.stderr.startswith("error: 2 of 4 trials failed, first ls in trial 0: ValueError:")
    again = CliRunner().invoke(cli.app, [*FEW, *words, "--store", str(tmp_path / "a.db"), "--json"])
    failures = strict_json(again.stdout)["failures"]
    assert again.exit_code == 1 and len(failures) == 2 and failures[0]["error"].startswith("Traceback")


def test_some_failures_are_a_warning(monkeypatch):
    estimate, calls = isac.LeastSquares.estimate, []

    def sometimes(self, obs, *, callback=None):
        calls.append(1)
        if len(calls) == 1:
            raise ArithmeticError("no such luck")
        return estimate(self, obs)

    monkeypatch.setattr(isac.LeastSquares, "estimate", sometimes)
    outcome = run(*SWEEP, *POINTS, "--retry-failed")
    assert outcome.stderr.startswith("warning: 1 of 8 trials failed")
    assert "ArithmeticError: no such luck" in outcome.stderr and "1 + 1 failed" in outcome.stdout


# --vary


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("snr_db=-10:5:5", [-10, -5, 0, 5]),
        ("snr_db=0:0.1:0.3", [0.0, 0.1, 0.2, 0.3]),
        ("snr_db=10:-5:0", [10, 5, 0]),
        ("snr_db=0:4:10", [0, 4, 8]),
        ("snr_db=3:1:3", [3]),
        ("snr_db=1e-9:1e-9:3e-9", [1e-9, 2e-9, 3e-9]),
        ("snr_db=0:5:10,20, 30", [0, 5, 10, 20, 30]),
        ("n_users=2,4,8", [2, 4, 8]),
        ("modulation=qpsk,16qam", ["qpsk", "16qam"]),
        ('modulation="qpsk", "16qam"', ["qpsk", "16qam"]),
        ("power_control=true,false", [True, False]),
        ("array_shape=[4, 4],[8, 2]", [[4, 4], [8, 2]]),
        ("traced=a.b/c.npz", ["a.b/c.npz"]),
    ],
)
def test_values(text, expected):
    ((_, values),) = parse_vary([text]).items()
    assert values == expected and [type(v) for v in values] == [type(v) for v in expected]


@pytest.mark.parametrize(
    ("option", "expected"),
    [
        ("snr_db", "takes FIELD=VALUES"),
        ("=1", "takes FIELD=VALUES"),
        ("snr_db=", "takes FIELD=VALUES"),
        ("snr_db=1,,2", "a value between commas is missing"),
        ("snr_db=1:2", "'1:2' is not a range first:step:last"),
        ("snr_db=a:b:c", "is not a range"),
        ("snr_db=1:nan:3", "is not a range"),
        ("snr_db=0:0:5", "steps of 0 do not lead from 0 to 5"),
        ("snr_db=0:-1:5", "steps of -1 do not lead"),
        ("snr_db=0:1e-9:5", "at most 10000"),
        ("array_shape=[4, 4", "--vary array_shape=[4, 4"),
        ("snr_dbs=0", "unknown field 'snr_dbs'; known are array_shape"),
        ("snr_db=loud", "--vary snr_db = loud: snr_db: Input should be a valid number"),
        ("n_users=2,30", "more users than antennas"),
        ("snr_db=0,0.0", "names a value twice"),
    ],
)
def test_bad_vary(option, expected):
    message = fails(*FEW, "--vary", option)
    assert expected in message and "--vary" in message


def test_vary_in_conflict():
    assert "given twice" in fails(*SWEEP, "--vary", "snr_db=1", "--vary", "snr_db=2")
    assert "--set n_users and --vary n_users" in fails(*SWEEP, "--vary", "n_users=1")
    message = fails("sweep", "urban_uplink", "--vary", "n_users=2,8")
    assert "--vary n_users = 8: n_pilot_symbols" in message and "--set n_pilot_symbols=8" in message


# other ways to fail


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--estimators", "oracle"], "unknown estimator 'oracle'; known are bisvbi, music-scvbi"),
        (["--estimators", ","], "--estimators takes NAME"),
        (["--trials", "0"], "--trials"),
        (["--jobs", "0"], "jobs must be at least 1"),
        (["--min-errors", "0"], "--min-errors"),
        (["--store", "no/such/folder/a.db"], "there is no folder"),
        (["--csv", "no/such/folder/a.csv"], "--csv: there is no folder"),
        (["--dask", "nothing"], "is not an address such as tcp://host:8786"),
    ],
)
def test_bad_options(words, expected):
    if "--dask" in words:
        pytest.importorskip("distributed", reason='needs the extra "dask"')
    assert expected in fails(*SWEEP, *words)


def test_dead_scheduler(monkeypatch):
    pytest.importorskip("distributed", reason='needs the extra "dask"')
    monkeypatch.setattr(_sweep_workers, "CONNECT_S", 1)
    assert "no Dask scheduler answers" in fails(*SWEEP, "--dask", "tcp://127.0.0.1:9")


def test_foreign_stores(tmp_path):
    store = tmp_path / "sweep.db"
    run(*SWEEP, *POINTS, "--store", store)
    assert "seed is 0 in the store and 1 now" in fails(*SWEEP, *POINTS, "--store", store, "--seed", 1)
    (tmp_path / "text.db").write_text("hello" * 500)
    assert "is not the store of a sweep" in fails(*SWEEP, *POINTS, "--store", tmp_path / "text.db")


def test_full_disk(tmp_path, monkeypatch):
    connect, store = _sweep_store._connect, tmp_path / "sweep.db"

    def small_disk(path):
        connection = connect(path)
        connection.execute("PRAGMA max_page_count = 10")
        return connection

    monkeypatch.setattr(_sweep_store, "_connect", small_disk)
    message = fails(*SWEEP, *POINTS, "--trials", "100", "--store", store, code=1)
    assert "database or disk is full; rows finished so far are kept" in message
    assert isac.load_sweep(store).rows


# the catalogue


def test_names_in_a_list_are_taken_once():
    assert parse_estimators("ls, nomp,ls") == ["ls", "nomp"]


def test_every_entry_makes_an_estimator():
    truth = isac.Scenario.load("urban_uplink").simulate(0).truth
    for name, entry in CATALOGUE.items():
        made = entry.make(truth if entry.needs_truth else None)
        assert hasattr(made, "estimate") and entry.summary
        assert all(getattr(made, key) == value for key, value in entry.settings.items())
        assert not set(entry.settings) & set(entry.free_settings)
        assert callable(from_catalogue(name)) == entry.needs_truth
    assert find_entry("full-vbi").make().inverse == "full" and not find_entry("pilot-only").make().data_aided
    with pytest.raises(ValueError, match="needs the truth"):
        find_entry("genie").make()


def test_estimate_knows_them_too():
    words = ["estimate", *SWEEP[1:], "--max-iter", "2", "--json"]
    report = strict_json(run(*words, "--estimator", "mean-field").stdout)
    assert report["estimator"]["settings"] == {"rule": "mean_field", "max_iter": 2}
    report = strict_json(run(*words, "--inverse", "subspace").stdout)
    assert report["estimator"]["settings"] == {"inverse": "subspace", "max_iter": 2}
    assert strict_json(run(*words[:-3], "--json", "--estimator", "omp").stdout)["estimator"]["name"] == "OMP"
    message = fails(*words, "--estimator", "full-vbi", "--inverse", "mm")
    assert "--inverse does not fit --estimator full-vbi; it takes --coarse, --rule" in message


def test_networks_have_their_commands():
    assert "compress" in run("nn", "--help").stdout
    assert "compress" in run("nn").stdout


# progress and Ctrl-C


def test_lines_where_there_is_no_terminal(monkeypatch, capsys):
    now = iter([0.0, 10.0, 40.0, 41.0])
    monkeypatch.setattr(_progress, "monotonic", lambda: next(now))
    with listener(True) as report:
        for state in (SweepProgress(1, 9, 0, 1), SweepProgress(4, 9, 1, 4), SweepProgress(5, 9, 1, 5)):
            report(state)
    assert capsys.readouterr().err == "4 of 9 rows, 1 failed, about 1 min left\n"


def test_interrupt_keeps_the_rows(tmp_path, monkeypatch):
    estimate, calls = isac.LeastSquares.estimate, []

    def interrupted(self, obs, *, callback=None):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return estimate(self, obs)

    monkeypatch.setattr(isac.LeastSquares, "estimate", interrupted)
    store = tmp_path / "sweep.db"
    outcome = run(*SWEEP, *POINTS, "--store", store, code=130)
    assert (
        outcome.stderr
        == f"stopped; 4 rows are in {store}, the same command resumes from there\ninterrupted\n"
    )
    calls.clear()
    outcome = run(*SWEEP, *POINTS, code=130)
    assert "without --store the next run starts again" in outcome.stderr and "Scatterers" in outcome.stdout


def test_progress_bar_and_real_interrupt(tmp_path):
    main, secondary = pty.openpty()
    store = tmp_path / "sweep.db"
    code = "from isac_toolbox.cli import main; main()"
    words = [*SWEEP, "--vary", "snr_db=0,10", "--estimators", "ls,nomp", "--trials", "1000", "--store", store]
    process = subprocess.Popen(
        [sys.executable, "-c", code, *map(str, words)],
        stdout=subprocess.PIPE,
        stderr=secondary,
        env={**os.environ, "TERM": "xterm", "COLUMNS": "100"},
    )
    os.close(secondary)
    until = time.monotonic() + 60
    while time.monotonic() < until and not (store.exists() and store.stat().st_size > 60_000):
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    shown = b""
    while True:
        try:
            piece = os.read(main, 4096)
        except OSError:
            break
        if not piece:
            break
        shown += piece
    process.communicate(timeout=60)
    os.close(main)
    assert process.returncode == 130
    text = shown.decode()
    assert "/4000" in text and "rows/s" in text and "left" in text and "Traceback" not in text
    rows = len(isac.load_sweep(store).rows)
    assert 0 < rows < 4000 and re.sub(r"\s+", " ", text).count(f"{rows} rows are in") == 1
