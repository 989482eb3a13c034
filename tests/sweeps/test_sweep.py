"""Sweeps: the same figures however they are run, and every failure visible."""

from __future__ import annotations

import dataclasses
import os
import signal
import sys
import threading

import joblib
import numba
import numpy as np
import pytest
from threadpoolctl import threadpool_info

import isac_toolbox as isac
from helpers.sweeps import FAST, TINY, Plugin, counting, metrics_of
from isac_toolbox import sweeps
from isac_toolbox.sweeps import _plan as _sweep_plan
from isac_toolbox.sweeps import _trial as _sweep_trial
from isac_toolbox.sweeps import _workers as _sweep_workers
from isac_toolbox.sweeps._plan import point_key, trial_seed


@pytest.fixture(scope="module")
def scenario():
    return isac.Scenario.load("urban_uplink").replace(**TINY)


# the same figures


def test_metrics_are_those_of_the_modules(scenario):
    result = isac.sweep(scenario, {"snr_db": [5]}, {"nomp": isac.NOMP()}, trials=2, seed=3)
    assert [row.trial for row in result.rows] == [0, 1]
    for row in result.rows:
        assert row.point == {"snr_db": 5.0} and row.status == "ok" and row.seconds > 0
        sim = scenario.replace(snr_db=5).simulate(trial_seed(3, '{"snr_db":5.0}', row.trial))
        estimate = isac.NOMP().estimate(sim.observation)
        bound = isac.bounds.hybrid_crb(sim)
        found = isac.metrics.localisation(estimate.scatterer_positions_m, sim.truth.scatterer_positions_m)
        own = row.metrics
        assert own.nmse_db == pytest.approx(isac.metrics.channel_nmse_db(estimate.channel, sim.truth.channel))
        assert own.bound_nmse_db == pytest.approx(bound.channel_nmse_db)
        assert (own.hits, own.misses, own.false_alarms) == (found.hits, found.misses, found.false_alarms)
        assert own.squared_error_m2 == pytest.approx(np.sum(found.distances_m**2))
        assert own.squared_bound_m2 == pytest.approx(np.sum(bound.position_rmse_m[found.truth_index] ** 2))
        ser, ber = isac.metrics.symbol_error_rate(estimate, sim), isac.metrics.bit_error_rate(estimate, sim)
        assert own.symbol_errors / own.symbols == ser and own.bit_errors / own.bits == ber
        assert own.symbols == np.count_nonzero(sim.truth.symbol_indices >= 0) and own.bits == 2 * own.symbols
        assert own.outcome == estimate.status and own.n_iter == estimate.n_iter
        assert sum(n for n, _, _ in own.bit_bins) == own.bits
        assert sum(n for n, _, _ in own.point_bins) == len(estimate.candidates.scatterer_probability)


def test_credible_levels_are_counted(scenario):
    result = isac.sweep(scenario, None, ["bisvbi", "genie"], trials=2)
    for row in result.rows:
        own, stated = row.metrics, row.estimator == "bisvbi"  # the genie states no covariances
        assert sum(own.scatterer_level_bins) == stated * own.hits
        assert sum(own.user_level_bins) == stated * scenario.n_users


def test_levels_of_right_covariances_are_even():
    rng = np.random.default_rng(0)
    factor = rng.standard_normal((4000, 3, 3))
    error = (factor @ rng.standard_normal((4000, 3, 1)))[..., 0]
    counts = np.array(_sweep_trial._level_bins(error, factor @ factor.transpose(0, 2, 1)))
    assert counts.sum() == 4000 and np.all(np.abs(counts - 200) < 60)
    small = np.array(_sweep_trial._level_bins(error, 0.5 * factor @ factor.transpose(0, 2, 1)))
    assert small[-1] > 600
    assert sum(_sweep_trial._level_bins(np.ones((2, 3)), np.zeros((2, 3, 3)))) == 0


def test_number_of_jobs_does_not_matter(scenario):
    estimators = {**FAST, "nomp": isac.NOMP()}
    one, two = (
        isac.sweep(scenario, {"snr_db": [0, 10]}, estimators, trials=3, jobs=jobs, seed=1) for jobs in (1, 2)
    )
    assert metrics_of(one) == metrics_of(two) and len(one.rows) == 18 and not one.failures


def test_neither_other_points_nor_other_estimators_matter(scenario):
    whole = isac.sweep(scenario, {"snr_db": [0, 10], "n_users": [1, 2]}, FAST, trials=2)
    part = isac.sweep(scenario, {"n_users": [2], "snr_db": [10.0]}, {"ls": isac.LeastSquares()}, trials=1)
    same = [r for r in whole.rows if r.point == part.rows[0].point and r.trial == 0 and r.estimator == "ls"]
    assert repr(same[0].metrics) == repr(part.rows[0].metrics)


def test_seeds_differ_between_points_trials_and_sweeps():
    states = {
        tuple(trial_seed(seed, point_key({"snr_db": snr}), trial).generate_state(4))
        for seed in (0, 1)
        for snr in (0.0, 5.0)
        for trial in (0, 1)
    }
    assert len(states) == 8
    assert point_key({"b": 1, "a": 2}) == point_key({"a": 2, "b": 1})


def test_estimators_share_one_simulation(scenario, monkeypatch):
    drawn = []
    simulate = isac.Scenario.simulate
    monkeypatch.setattr(isac.Scenario, "simulate", lambda self, seed: drawn.append(1) or simulate(self, seed))
    result = isac.sweep(scenario, {"snr_db": [0, 10]}, ["ls", "genie"], trials=3)
    assert len(drawn) == 6 and len(result.rows) == 12
    genie = [row.metrics for row in result.rows if row.estimator == "genie"]
    assert all(m.nmse == 0 and m.misses == m.false_alarms == 0 for m in genie)


def test_one_thread_whatever_the_process_has(scenario):
    def report(result):
        pools = [pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"]
        return dataclasses.replace(result, status=f"{max(pools)} {numba.get_num_threads()}")

    before = numba.get_num_threads()
    result = isac.sweep(scenario, None, {"plugin": Plugin(report)}, trials=1)
    assert result.rows[0].metrics.outcome == "1 1" and result.rows[0].point == {}
    assert numba.get_num_threads() == before


# failures


def fail_at_high_snr(result):
    power = np.mean(np.abs(result.channel) ** 2)
    if power > LIMIT * result.noise_variance:
        raise ArithmeticError("no such luck")
    return result


LIMIT = 10


def test_a_failure_is_a_row_with_its_traceback(scenario, tmp_path):
    estimators = {"plugin": Plugin(fail_at_high_snr), "ls": isac.LeastSquares()}
    store = tmp_path / "sweep.db"
    result = isac.sweep(scenario, {"snr_db": [0, 30]}, estimators, trials=2, store=store)
    assert len(result.rows) == 8 and len(result.failures) == 2
    for row in result.failures:
        assert row.point == {"snr_db": 30.0} and row.metrics is None and row.status == "failed"
        assert "Traceback" in row.error and row.error.rstrip().endswith("ArithmeticError: no such luck")
    assert np.isnan(result.columns["nmse_db"]).sum() == 2
    entry = next(e for e in result.summary() if e.estimator == "plugin" and e.point == {"snr_db": 30.0})
    assert (entry.trials, entry.failed) == (0, 2) and np.isnan([entry.nmse_db, entry.rmse_m]).all()
    again = isac.sweep(scenario, {"snr_db": [0, 30]}, estimators, trials=2, store=store)
    assert repr(again.rows) == repr(result.rows)


def test_failures_can_be_tried_again(scenario, tmp_path, monkeypatch):
    arguments = {"vary": {"snr_db": [30]}, "estimators": {"p": Plugin(fail_at_high_snr)}, "trials": 2}
    arguments["store"] = tmp_path / "sweep.db"
    assert len(isac.sweep(scenario, **arguments).failures) == 2
    monkeypatch.setattr(sys.modules[__name__], "LIMIT", np.inf)
    assert len(isac.sweep(scenario, **arguments).failures) == 2
    assert not isac.sweep(scenario, **arguments, retry_failed=True).failures
    assert not isac.load_sweep(tmp_path / "sweep.db").failures


@pytest.mark.parametrize("how", ["nan", "gave up"])
def test_an_estimate_that_is_no_estimate_is_a_failure(scenario, how):
    def spoil(result):
        if how == "nan":
            return dataclasses.replace(result, channel=np.full_like(result.channel, np.nan))
        return dataclasses.replace(result, status="numerical failure")

    result = isac.sweep(scenario, None, {"plugin": Plugin(spoil)}, trials=1)
    assert "FloatingPointError: the estimate failed" in result.failures[0].error


def only_first_user(value):
    return value[:1]


def only_first_subcarrier(value):
    return value[:, :1]


def turned(value):
    return np.ascontiguousarray(np.swapaxes(value, 0, 1))


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("channel", only_first_user),
        ("channel", only_first_subcarrier),
        ("channel", turned),
        ("channel", lambda v: v[0, 0, 0]),
        ("user_positions_m", only_first_user),
        ("time_offsets_s", lambda v: v[0]),
        ("time_offsets_s", lambda v: v[:, None]),
        ("user_position_covariance_m2", only_first_user),
        ("symbol_decision", only_first_user),
        ("symbol_decision", only_first_subcarrier),
        ("symbol_decision", lambda v: np.full_like(v, -1)),
        ("symbol_decision", lambda v: v.astype(float)),
        ("llr", lambda v: v[..., :1]),
        ("scatterer_positions_m", lambda v: np.zeros((2, 2))),
    ],
)
def test_an_estimate_of_another_shape_is_a_failure_and_not_broadcast(scenario, name, change):
    def reshape(result):
        return dataclasses.replace(result, **{name: change(getattr(result, name))})

    result = isac.sweep(scenario, None, {"plugin": Plugin(reshape), "ls": isac.LeastSquares()}, trials=1)
    assert [row.estimator for row in result.failures] == ["plugin"]
    last = result.failures[0].error.rstrip().splitlines()[-1]
    assert last.startswith(("ValueError: ", "TypeError: ")) and f"{name} must" in last


@pytest.mark.parametrize("made", [None, np.zeros((2, 16, 16)), {"channel": 0}])
def test_an_estimate_that_is_no_result_is_a_failure(scenario, made):
    result = isac.sweep(scenario, None, {"plugin": Plugin(lambda _: made)}, trials=1)
    last = result.failures[0].error.rstrip().splitlines()[-1]
    assert last.startswith(f"TypeError: the estimate must be an EstimationResult, got {type(made).__name__}")


@pytest.mark.parametrize(
    ("jobs", "n_tasks", "most"), [(1000, 1, 2), (1000, 2, 2), (1000, 1000, 64), (3, 1, 2)]
)
def test_no_more_processes_than_trials_and_processors(jobs, n_tasks, most, monkeypatch):
    monkeypatch.setattr(joblib, "cpu_count", lambda: 64)
    with _sweep_workers.open_workers(jobs, None, n_tasks) as workers:
        assert workers._count == most
    monkeypatch.setattr(joblib, "cpu_count", lambda: 1)
    with _sweep_workers.open_workers(jobs, None, n_tasks) as workers:
        assert workers._count == 2  # a trial that dies must not take the sweep along


def test_a_thousand_jobs_for_one_trial_end(scenario):
    one = isac.sweep(scenario, None, ["ls"], trials=1)
    assert metrics_of(isac.sweep(scenario, None, ["ls"], trials=1, jobs=1000)) == metrics_of(one)


def test_a_scene_that_cannot_be_drawn_fails_every_estimator(scenario):
    result = isac.sweep(scenario, {"n_scatterers": [2, 5000]}, ["ls", "genie"], trials=1)
    assert [(row.point["n_scatterers"], row.estimator) for row in result.failures] == [
        (5000, "ls"),
        (5000, "genie"),
    ]
    assert "cannot hold" in result.failures[0].error


def test_blocks_of_rays_alone_have_figures_but_no_bound(scenario):
    result = isac.sweep(
        scenario.replace(cdl="CDL-A"), {"snr_db": [10]}, {"ls": isac.LeastSquares()}, trials=1
    )
    (row,) = result.rows
    assert row.status == "ok" and np.isnan(row.metrics.bound_nmse) and 0 < row.metrics.nmse < 1


def test_a_bound_that_does_not_exist_is_nan(scenario, monkeypatch):
    def singular(simulation):
        raise np.linalg.LinAlgError("singular")

    monkeypatch.setattr(_sweep_trial, "hybrid_crb", singular)
    result = isac.sweep(scenario, None, ["genie"], trials=1)
    own = result.rows[0].metrics
    assert np.isnan([own.bound_nmse, own.squared_bound_m2, own.user_bound_m]).all() and own.observable == 0


def test_a_worker_that_dies_ends_the_sweep_and_keeps_what_came(scenario, tmp_path):
    def die(result):
        os._exit(3)

    store = tmp_path / "sweep.db"
    isac.sweep(scenario, None, ["ls"], trials=2, store=store)
    with pytest.raises(sweeps.WorkerError, match="a worker process died"):
        isac.sweep(scenario, None, {"ls": isac.LeastSquares(), "p": Plugin(die)}, 2, jobs=2, store=store)
    assert len(isac.load_sweep(store).rows) == 2


def test_another_version_in_the_worker_is_refused(scenario):
    plan = _sweep_plan.make_plan(scenario, None, ["ls"], 1, 0)
    task = dataclasses.replace(plan.task("{}", 0, ["ls"]), version="0.0.1")
    with pytest.raises(RuntimeError, match=r"a worker has isac_toolbox .*, the sweep 0\.0\.1"):
        _sweep_trial.run_task(task)


# early stop


def test_early_stop_counts_in_rounds(scenario, tmp_path):
    calls = []
    arguments = {"vary": {"snr_db": [-10, 40]}, "estimators": {"p": counting(calls)}, "seed": 2}
    stopped = isac.sweep(scenario, **arguments, trials=15, min_errors=5)
    counts = {entry.point["snr_db"]: entry.trials for entry in stopped.summary()}
    assert counts == {-10.0: 10, 40.0: 15} and len(calls) == 25
    # rows beyond the stop that a store holds already change nothing
    store = tmp_path / "sweep.db"
    whole = isac.sweep(scenario, **arguments, trials=15, store=store)
    assert len(whole.rows) == 30
    assert metrics_of(isac.sweep(scenario, **arguments, trials=15, min_errors=5, store=store)) == metrics_of(
        stopped
    )


def test_rounds_double(scenario):
    plan = _sweep_plan.make_plan(scenario, None, ["ls"], 50, 0)
    assert list(sweeps._Run(plan, None, 3, None)._rounds()) == [10, 20, 40, 50]
    assert list(sweeps._Run(plan, None, None, None)._rounds()) == [50]


# Ctrl-C


def interrupt_after(n):
    calls = []

    def act(result):
        calls.append(1)
        if len(calls) > n:
            raise KeyboardInterrupt
        return result

    return act


def test_interrupt_returns_what_came(scenario, tmp_path):
    store = tmp_path / "sweep.db"
    estimators = {"p": Plugin(interrupt_after(3))}
    with pytest.raises(KeyboardInterrupt) as caught:
        isac.sweep(scenario, {"snr_db": [0, 10]}, estimators, trials=4, store=store)
    assert isinstance(caught.value, sweeps.SweepInterrupted) and len(caught.value.result.rows) == 3
    assert len(isac.load_sweep(store).rows) == 3


def test_interrupt_waits_for_a_commit():
    through = []
    with pytest.raises(KeyboardInterrupt), sweeps._unbroken():
        os.kill(os.getpid(), signal.SIGINT)
        through.append(1)
    assert through and signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_sweep_outside_the_main_thread(scenario):
    results = []
    thread = threading.Thread(target=lambda: results.append(isac.sweep(scenario, None, ["ls"], trials=1)))
    thread.start()
    thread.join()
    assert len(results[0].rows) == 1


# bad input


def test_too_few_pilots_say_what_to_add():
    scenario = isac.Scenario.load("urban_uplink")
    with pytest.raises(ValueError, match=r"n_users = 6: n_pilot_symbols.*--set n_pilot_symbols=8"):
        isac.sweep(scenario, {"n_users": [2, 6, 8]}, ["ls"])


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({"scenario": "urban_uplink"}, "scenario must be a Scenario"),
        ({"vary": [1]}, "vary must map"),
        ({"vary": {"n_userz": [1]}}, "unknown field 'n_userz'; known are"),
        ({"vary": {"snr_db": []}}, "at least one value"),
        ({"vary": {"snr_db": "10"}}, "must be a list"),
        ({"vary": {"snr_db": 10}}, "must be a list"),
        ({"vary": {"snr_db": [1, 1.0]}}, "twice"),
        ({"vary": {"snr_db": [0.0, -0.0]}}, "twice"),
        ({"vary": {"snr_db": [float("nan")]}}, "vary snr_db = nan"),
        ({"vary": {"traced": ["nowhere"]}}, "no such traced environment"),
        ({"estimators": ["oracle"]}, "unknown estimator 'oracle'; known are bisvbi"),
        ({"estimators": {}}, "at least one estimator"),
        ({"estimators": {"a": 3}}, "must have a method estimate"),
        ({"estimators": {3: "ls"}}, "names of estimators"),
        ({"estimators": "ls"}, "a mapping or a list of names"),
        ({"trials": 0}, "trials must be at least 1"),
        ({"seed": -1}, "seed must be at least 0"),
        ({"seed": 1.5}, "seed must be an integer"),
        ({"jobs": 0}, "jobs must be at least 1"),
        ({"jobs": "2"}, "jobs must be an integer"),
        ({"min_errors": 0}, "min_errors must be at least 1"),
    ],
)
def test_bad_input(scenario, arguments, expected, monkeypatch):
    monkeypatch.setattr(isac.Scenario, "simulate", lambda *a: pytest.fail("work before the checks"))
    with pytest.raises((TypeError, ValueError)) as caught:
        isac.sweep(**{"scenario": scenario, "estimators": ["ls"], **arguments})
    assert expected in str(caught.value)


def test_numpy_values_are_taken(scenario):
    vary = {"snr_db": np.array([0.0, 5.0]), "n_users": [np.int64(1)], "n_scatterers": range(1, 3)}
    assert len(isac.sweep(scenario, vary, ["ls"], trials=1).rows) == 4


def test_default_estimator_and_progress(scenario):
    states = []
    result = isac.sweep(scenario, trials=1, progress=states.append)
    assert result.rows[0].estimator == "bisvbi" and not result.failures
    assert [(s.done, s.total, s.failed, s.new) for s in states] == [(0, 1, 0, 0), (1, 1, 0, 1), (1, 1, 0, 1)]
