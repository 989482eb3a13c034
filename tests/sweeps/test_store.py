"""The store of a sweep: resumed, refused, killed, full."""

from __future__ import annotations

import dataclasses
import random
import shutil
import sqlite3
import subprocess
import sys
import time
from functools import partial
from importlib.resources import files

import pytest

import isac_toolbox as isac
from helpers import TESTS
from helpers.sweeps import FAST, TINY, Plugin, counting, metrics_of
from isac_toolbox import sweeps
from isac_toolbox.sweeps import _plan as _sweep_plan
from isac_toolbox.sweeps import _store as _sweep_store
from isac_toolbox.sweeps._plan import make_plan
from isac_toolbox.sweeps._store import Store


@pytest.fixture(scope="module")
def scenario():
    return isac.Scenario.load("urban_uplink").replace(**TINY)


@pytest.fixture
def store(tmp_path):
    return tmp_path / "sweep.db"


def test_only_what_is_missing_is_run(scenario, store):
    calls = []
    own = {"p": counting(calls)}
    isac.sweep(scenario, {"snr_db": [0]}, own, trials=2, store=store)
    assert len(calls) == 2
    isac.sweep(scenario, {"snr_db": [0]}, own, trials=2, store=store)
    assert len(calls) == 2
    more = {**own, **FAST}
    grown = isac.sweep(scenario, {"snr_db": [5, 0]}, more, trials=3, store=store)
    assert len(calls) == 6 and len(grown.rows) == 18
    assert metrics_of(grown) == metrics_of(isac.sweep(scenario, {"snr_db": [5, 0]}, more, trials=3))
    # a smaller sweep gives its own rows, the store keeps all
    small = isac.sweep(scenario, {"snr_db": [5]}, {"ls": isac.LeastSquares()}, trials=1, store=store)
    assert len(small.rows) == 1 and len(isac.load_sweep(store).rows) == 18


def test_load_gives_the_same_rows_in_order(scenario, store):
    vary = {"snr_db": [10, -5], "pilot_pattern": ["orthogonal", "random"]}
    result = isac.sweep(scenario, vary, FAST, trials=2, store=store, seed=4)
    loaded = isac.load_sweep(store)
    assert sorted(map(repr, loaded.rows)) == sorted(map(repr, result.rows))
    assert loaded.columns["snr_db"][0] == -5 and loaded.columns["snr_db"][-1] == 10
    assert (loaded.seed, loaded.version, loaded.fields) == (4, isac.__version__, tuple(vary))
    assert loaded.scenario == scenario


def test_special_numbers_come_back(scenario, store):
    plan = make_plan(scenario, None, ["genie"], 1, 0)
    row = isac.sweep(scenario, None, ["genie"], trials=1).rows[0]
    odd = dataclasses.replace(row.metrics, nmse=float("inf"), bound_nmse=float("nan"), ospa_m=5e-324)
    with Store(store, plan) as kept:
        kept.add("{}", [dataclasses.replace(row, metrics=odd)])
    assert repr(isac.load_sweep(store).rows[0].metrics) == repr(odd)


def test_view_for_queries(scenario, store):
    isac.sweep(scenario, {"snr_db": [0, 10], "array_shape": [(4, 4)]}, FAST, trials=2, store=store, seed=7)
    query = (
        "SELECT snr_db, array_shape, count(*), max(seed), max(package_version) FROM results GROUP BY snr_db"
    )
    connection = sqlite3.connect(store)
    assert connection.execute(query).fetchall() == [
        (0.0, "[4,4]", 4, 7, isac.__version__),
        (10.0, "[4,4]", 4, 7, isac.__version__),
    ]
    hashes = connection.execute("SELECT DISTINCT length(scenario_hash) FROM results").fetchall()
    connection.close()
    assert hashes == [(64,)]


# refused


@pytest.fixture
def made(scenario, store):
    isac.sweep(scenario, {"snr_db": [0]}, ["ls", "nomp"], trials=1, store=store)
    return store


def refusal(*arguments, **options):
    with pytest.raises(ValueError, match="belongs to another sweep") as caught:
        isac.sweep(*arguments, trials=1, **options)
    return str(caught.value)


def test_another_sweep_is_refused_with_the_difference(scenario, made, monkeypatch):
    vary, names = {"snr_db": [0]}, ["ls"]
    before = made.read_bytes()
    assert "seed is 0 in the store and 1 now" in refusal(scenario, vary, names, seed=1, store=made)
    other = scenario.replace(n_scatterers=3)
    text = refusal(other, vary, names, store=made)
    assert "scenario.n_scatterers is 2 in the store and 3 now" in text and text.count(" now") == 1
    text = refusal(scenario, {"n_users": [1]}, names, store=made)
    assert 'vary is ["snr_db"] in the store and ["n_users"] now' in text and text.count(" now") == 1
    text = refusal(scenario, vary, {"nomp": isac.NOMP(false_alarm_rate=0.1)}, store=made)
    assert "estimator nomp: settings.false_alarm_rate is 0.01 in the store and 0.1 now" in text
    text = refusal(scenario, vary, {"ls": isac.NOMP()}, store=made)
    assert "estimator ls: class is" in text
    monkeypatch.setattr(_sweep_plan, "__version__", "9.9")
    text = refusal(scenario, vary, names, store=made)
    assert f'package_version is "{isac.__version__}" in the store and "9.9" now' in text
    assert made.read_bytes() == before


def test_a_store_without_rows_commits_to_nothing(scenario, store, made):
    with Store(store.with_name("new.db"), make_plan(scenario, {"snr_db": [0]}, ["ls"], 1, 0)) as empty:
        path = empty.path
    other = isac.sweep(scenario, {"n_users": [1]}, ["ls"], trials=1, seed=3, store=path)
    assert isac.load_sweep(path).seed == 3 and len(other.rows) == 1
    with Store(made, make_plan(scenario, {"snr_db": [0]}, ["omp"], 1, 0)):
        pass
    coarse = {"omp": isac.OMP(max_points=3)}
    assert len(isac.sweep(scenario, {"snr_db": [0]}, coarse, trials=1, store=made).rows) == 1


def test_what_does_not_change_the_figures_is_no_difference(scenario, made):
    other = scenario.replace(snr_db=-3, description="the same by another name")
    assert len(isac.sweep(other, {"snr_db": [0.0]}, ["ls"], trials=1, store=made).rows) == 1


def test_a_traced_file_is_known_by_its_content(scenario, tmp_path, store):
    first, second = (
        files("isac_toolbox") / "data" / "traced" / f"{n}.npz" for n in ("munich", "street_canyon")
    )
    shutil.copy(first, tmp_path / "own.npz")
    traced = scenario.replace(traced=str(tmp_path / "own.npz"))
    isac.sweep(traced, {"snr_db": [0]}, ["ls"], trials=1, store=store)
    shutil.copy(second, tmp_path / "own.npz")
    assert "scenario.traced_sha256" in refusal(traced, {"snr_db": [0]}, ["ls"], store=store)


def test_description_of_plugins_does_not_depend_on_memory():
    class Own:
        def __init__(self):
            self.order, self.helper, self.sizes = 3, object(), (1, 2)

    own = _sweep_plan.describe_estimator(Own())
    assert own["settings"] == {"order": 3, "helper": "object", "sizes": [1, 2]}
    assert own == _sweep_plan.describe_estimator(Own())
    made = _sweep_plan.describe_estimator(partial(isac.GenieLMMSE, 1, size=2))
    assert made["class"].endswith("GenieLMMSE") and made["settings"] == {"argument 0": 1, "size": 2}


def test_files_that_are_no_store(scenario, tmp_path, made):
    text = tmp_path / "text.db"
    text.write_text("not a database, but long enough to be looked at as one" * 30)
    other = tmp_path / "other.db"
    connection = sqlite3.connect(other)
    connection.execute("CREATE TABLE a (b)")
    connection.close()
    for path in (text, other):
        before = path.read_bytes()
        for attempt in (lambda p: isac.sweep(scenario, None, ["ls"], store=p), isac.load_sweep):
            with pytest.raises(ValueError, match="is not the store of a sweep"):
                attempt(path)
        assert path.read_bytes() == before
    connection = sqlite3.connect(made)
    connection.execute("PRAGMA user_version = 7")
    connection.close()
    for attempt in (lambda p: isac.sweep(scenario, {"snr_db": [0]}, ["ls"], store=p), isac.load_sweep):
        with pytest.raises(ValueError, match="has schema 7, this version reads 2"):
            attempt(made)


def test_places_that_cannot_be_written(scenario, tmp_path, made, monkeypatch):
    monkeypatch.setattr(isac.Scenario, "simulate", lambda *a: pytest.fail("work before the checks"))
    with pytest.raises(FileNotFoundError, match="there is no folder"):
        isac.sweep(scenario, None, ["ls"], store=tmp_path / "no" / "a.db")
    with pytest.raises(IsADirectoryError, match="is a folder"):
        isac.sweep(scenario, None, ["ls"], store=tmp_path)
    with pytest.raises(FileNotFoundError, match="no such sweep store"):
        isac.load_sweep(tmp_path / "none.db")
    read_only = sqlite3.connect(f"{made.as_uri()}?mode=ro", uri=True)
    monkeypatch.setattr(_sweep_store, "_connect", lambda path: read_only)
    with pytest.raises(OSError, match="attempt to write a readonly database"):
        isac.sweep(scenario, {"snr_db": [0]}, ["ls"], trials=5, store=made)


# the worst


def test_full_disk_keeps_what_was_committed(scenario, store, monkeypatch):
    def long_failure(result):
        raise ValueError("x" * 3000)

    connect = _sweep_store._connect

    def small_disk(path):
        connection = connect(path)
        connection.execute("PRAGMA max_page_count = 20")
        return connection

    monkeypatch.setattr(_sweep_store, "_connect", small_disk)
    estimators = {"p": Plugin(long_failure)}
    with pytest.raises(sweeps.StoreError, match=r"sweep\.db: database or disk is full; rows finished"):
        isac.sweep(scenario, None, estimators, trials=50, store=store)
    kept = len(isac.load_sweep(store).rows)
    assert 0 < kept < 50
    monkeypatch.undo()
    assert len(isac.sweep(scenario, None, estimators, trials=50, store=store).rows) == 50


def test_a_file_that_may_not_grow(store):
    code = (
        "import resource, isac_toolbox as isac\n"
        "from helpers.sweeps import TINY\n"
        "from isac_toolbox.sweeps import StoreError\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (60000, 60000))\n"
        "s = isac.Scenario.load('urban_uplink').replace(**TINY)\n"
        f"try:\n    isac.sweep(s, None, ['ls'], trials=200, store={str(store)!r})\n"
        "except StoreError as error:\n    print(error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        cwd=TESTS,
        timeout=60,
    )
    assert "rows finished so far are kept" in done.stdout, done.stderr
    assert 0 < len(isac.load_sweep(store).rows) < 200


def test_reading_while_a_sweep_writes(scenario, store):
    counts = []

    def look(state):
        counts.append(len(isac.load_sweep(store).rows))

    isac.sweep(scenario, None, ["ls"], trials=3, store=store, progress=look)
    assert counts == [0, 1, 2, 3, 3]


def test_two_sweeps_on_one_store(scenario, store):
    plan = make_plan(scenario, {"snr_db": [0]}, ["ls"], 2, 0)
    with Store(store, plan):
        result = isac.sweep(scenario, {"snr_db": [0]}, ["ls"], trials=2, store=store)
        again = Store(store, plan)
        again.add('{"snr_db":0.0}', result.rows)
        again._connection.close()
    assert len(isac.load_sweep(store).rows) == 2


SWEEP = """
import sys, isac_toolbox as isac
from helpers.sweeps import TINY
scenario = isac.Scenario.load("urban_uplink").replace(**TINY)
estimators = {"ls": isac.LeastSquares(), "nomp": isac.NOMP(), "genie": isac.GenieLMMSE}
isac.sweep(scenario, {"snr_db": [0, 10]}, estimators, trials=TRIALS, store=sys.argv[1], jobs=JOBS)
"""


def kill_and_resume(scenario, store, trials, jobs, kills):
    """Start, kill with SIGKILL at random moments after the first row, then finish."""
    code = SWEEP.replace("TRIALS", str(trials)).replace("JOBS", str(jobs))
    chance = random.Random(0)
    at_kill = []
    for _ in range(kills):
        started = len(isac.load_sweep(store).rows) if store.exists() else 0
        process = subprocess.Popen([sys.executable, "-c", code, store], cwd=TESTS)
        until = time.monotonic() + 60
        while time.monotonic() < until and process.poll() is None:
            if store.exists() and store.stat().st_size and len(isac.load_sweep(store).rows) > started:
                break
            time.sleep(0.02)
        time.sleep(chance.uniform(0, 0.4))
        process.kill()
        process.wait()
        at_kill.append(len(isac.load_sweep(store).rows))
    estimators = {"ls": isac.LeastSquares(), "nomp": isac.NOMP(), "genie": isac.GenieLMMSE}
    arguments = {"vary": {"snr_db": [0, 10]}, "estimators": estimators, "trials": trials}
    resumed = isac.sweep(scenario, **arguments, store=store)
    assert at_kill[0] > 0 and at_kill == sorted(at_kill)
    assert metrics_of(resumed) == metrics_of(isac.sweep(scenario, **arguments))
    return at_kill


def test_workers_do_not_outlive_a_killed_sweep():
    code = "import time\nfrom isac_toolbox._processes import _follow\n_follow(-1)\ntime.sleep(60)"
    start = time.monotonic()
    assert subprocess.run([sys.executable, "-c", code], timeout=50).returncode == 0
    assert time.monotonic() - start < 40


def test_killed_and_resumed(scenario, store):
    assert kill_and_resume(scenario, store, trials=25, jobs=1, kills=1)[0] <= 150


@pytest.mark.slow
def test_killed_five_times_with_two_workers(scenario, store):
    counts = kill_and_resume(scenario, store, trials=200, jobs=2, kills=5)
    assert counts[0] < 1200


def test_what_sqlite_says_in_no_letters_names_the_file():
    """Of damaged pages it quotes the bytes."""
    from isac_toolbox.sweeps._store import _readable_errors

    with (
        pytest.raises(ValueError, match=r"^s\.db is damaged: UnicodeDecodeError"),
        _readable_errors("s.db", OSError),
    ):
        b"row \x88".decode()
