"""One trial: simulate, estimate with every estimator asked for, measure. Runs in the workers."""

from __future__ import annotations

import json
import traceback
from dataclasses import fields
from time import perf_counter
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import gammainc

from isac_toolbox._compilation import watch_compilation
from isac_toolbox._interrupts import raise_interrupt
from isac_toolbox._threads import bounded_threads
from isac_toolbox._validation import check_has, check_shape
from isac_toolbox._version import __version__
from isac_toolbox.bounds import HybridBound, hybrid_crb
from isac_toolbox.channel.modulation import bit_labels
from isac_toolbox.estimators.result import EstimationResult
from isac_toolbox.metrics import data_decisions, localisation
from isac_toolbox.scenario import Simulation
from isac_toolbox.sweeps._plan import Task, describe_estimator, trial_seed
from isac_toolbox.sweeps._rows import FAILED, N_BINS, N_LEVELS, OK, Bins, Levels, Metrics, SweepRow

__all__ = ["OBSERVABLE_M", "TaskRows", "failed_rows", "make_estimator", "run_task"]

OBSERVABLE_M = 0.7
_MAX_LLR = 50.0

TaskRows = tuple[str, list[SweepRow]]


def run_task(task: Task) -> TaskRows:
    """Return the rows of one task with its point's key; a failure is a row like any other.

    Raises
    ------
    RuntimeError
        If this process has another version of the package than the one that asked.
    """
    if task.version != __version__:
        raise RuntimeError(f"a worker has isac_toolbox {__version__}, the sweep {task.version}")
    with bounded_threads(1):  # so that results do not depend on the machine's load or size
        try:
            seed = trial_seed(task.seed, task.key, task.trial)
            simulation = task.scenario.simulate(seed)
            bound = _bound(simulation)
        except Exception as error:
            raise_interrupt(error)
            return task.key, failed_rows(task, traceback.format_exc())
        return task.key, [_run_estimator(task, name, simulation, bound) for name in task.estimators]


def failed_rows(task: Task, error: str) -> list[SweepRow]:
    """Return a failed row for every estimator of the task."""
    return [_failure(task, name, error, 0.0, False) for name in task.estimators]


def make_estimator(given: Any, simulation: Simulation) -> Any:
    """Return the estimator itself: as given, or made from the truth."""
    is_ready = hasattr(given, "estimate") and not isinstance(given, type)
    return given if is_ready else given(simulation.truth)


_used: set[str] = set()


def _run_estimator(task: Task, name: str, simulation: Simulation, bound: HybridBound) -> SweepRow:
    """Estimate and compare with the truth."""
    start = perf_counter()
    cold = False
    try:
        estimator = make_estimator(task.estimators[name], simulation)
        kind = json.dumps(describe_estimator(task.estimators[name]))
        cold = kind not in _used
        start = perf_counter()
        with watch_compilation() as compilation:
            result = estimator.estimate(simulation.observation)
        seconds = perf_counter() - start - compilation.seconds
        _used.add(kind)
        metrics = _measure(result, simulation, bound)
    except Exception as error:
        raise_interrupt(error)
        return _failure(task, name, traceback.format_exc(), perf_counter() - start, cold)
    return SweepRow(_point(task), task.trial, name, OK, "", seconds, cold, metrics)


def _failure(task: Task, name: str, error: str, seconds: float, cold: bool) -> SweepRow:
    return SweepRow(_point(task), task.trial, name, FAILED, error, seconds, cold, None)


def _point(task: Task) -> dict[str, Any]:
    values: dict[str, Any] = json.loads(task.key)
    return values


def _bound(simulation: Simulation) -> HybridBound:
    """Return the bound; NaN where it cannot be computed."""
    try:
        return hybrid_crb(simulation)
    except (ValueError, np.linalg.LinAlgError):
        n_points, n_users = len(simulation.truth.scatterer_positions_m), simulation.observation.n_users
        users = np.full(n_users, np.nan)
        points = np.full(n_points, np.nan)
        return HybridBound(points, np.full((n_points, 3, 3), np.nan), users, users, float("nan"))


def _measure(result: EstimationResult, simulation: Simulation, bound: HybridBound) -> Metrics:
    """Return all figures of one estimate.

    Raises
    ------
    TypeError, ValueError
        If the estimate is no result, or one of another block: nothing is broadcast.
    FloatingPointError
        If the estimate is not finite or the estimator itself gave up.
    """
    _check_shapes(result, simulation)
    if result.status == "numerical failure" or not np.all(np.isfinite(result.channel)):
        raise FloatingPointError(f"the estimate failed: {result.status} after {result.n_iter} iterations")
    truth = simulation.truth
    found = localisation(result.scatterer_positions_m, truth.scatterer_positions_m)
    observable = bound.position_rmse_m < OBSERVABLE_M
    error = np.sum(np.abs(result.channel - truth.channel) ** 2)
    return Metrics(
        nmse=float(error / np.sum(np.abs(truth.channel) ** 2)),
        bound_nmse=float(bound.channel_nmse),
        hits=int(found.hits),
        misses=int(found.misses),
        false_alarms=int(found.false_alarms),
        squared_error_m2=float(np.sum(found.distances_m**2)),
        squared_bound_m2=float(np.sum(bound.position_rmse_m[found.truth_index] ** 2)),
        ospa_m=float(found.ospa_m),
        observable=int(observable.sum()),
        observable_hits=int(observable[found.truth_index].sum()),
        **_data_errors(result, simulation),
        user_rmse_m=_rms(np.linalg.norm(result.user_positions_m - truth.user_positions_m, axis=1)),
        user_bound_m=_rms(bound.user_position_rmse_m),
        clock_rmse_s=_rms(result.time_offsets_s - truth.time_offsets_s),
        clock_bound_s=_rms(bound.time_offset_rmse_s),
        n_iter=int(result.n_iter),
        converged=bool(result.converged),
        outcome=str(result.status),
        point_bins=_point_bins(result, truth.scatterer_positions_m),
        scatterer_level_bins=_level_bins(
            result.scatterer_positions_m[found.estimate_index]
            - truth.scatterer_positions_m[found.truth_index],
            result.scatterer_covariance_m2[found.estimate_index],
        ),
        user_level_bins=_level_bins(
            result.user_positions_m - truth.user_positions_m, result.user_position_covariance_m2
        ),
    )


def _check_shapes(result: EstimationResult, simulation: Simulation) -> None:
    """Refuse a result whose arrays do not have the sizes of the block."""
    obs = simulation.observation
    n_users, n_sub, n_symbols = obs.pilots.shape
    check_has("the estimate", result, "an EstimationResult", (f.name for f in fields(EstimationResult)))
    candidates = result.candidates
    n_points, n_candidates = len(result.scatterer_positions_m), len(candidates.scatterer_positions_m)
    for name, value, meaning, shape in (
        ("channel", result.channel, "(K, N, M)", (n_users, n_sub, obs.array.n_elements)),
        ("user_positions_m", result.user_positions_m, "(K, 3)", (n_users, 3)),
        ("user_position_covariance_m2", result.user_position_covariance_m2, "(K, 3, 3)", (n_users, 3, 3)),
        ("time_offsets_s", result.time_offsets_s, "(K,)", (n_users,)),
        ("scatterer_positions_m", result.scatterer_positions_m, "(S, 3)", (n_points, 3)),
        ("scatterer_covariance_m2", result.scatterer_covariance_m2, "(S, 3, 3)", (n_points, 3, 3)),
        ("candidates.scatterer_positions_m", candidates.scatterer_positions_m, "(C, 3)", (n_candidates, 3)),
        ("candidates.scatterer_probability", candidates.scatterer_probability, "(C,)", (n_candidates,)),
        ("llr", result.llr, "(K, N, T, bits)", (n_users, n_sub, n_symbols, obs.bits_per_symbol)),
    ):
        check_shape(f"the estimate's {name}", np.asarray(value), shape, meaning)


def _rms(values: NDArray[np.float64]) -> float:
    return float(np.sqrt(np.mean(values**2)))


def _data_errors(result: EstimationResult, simulation: Simulation) -> dict[str, Any]:
    """Count wrong symbols and bits, and bin the bits by their probability."""
    data = simulation.truth.symbol_indices >= 0
    labels = bit_labels(simulation.observation.constellation.size)
    decided, sent = data_decisions(result, simulation)
    bits = labels[sent]
    is_one = 1 / (1 + np.exp(np.clip(result.llr[data], -_MAX_LLR, _MAX_LLR)))
    return {
        "symbol_errors": int(np.count_nonzero(decided != sent)),
        "symbols": int(sent.size),
        "bit_errors": int(np.count_nonzero(labels[decided] != bits)),
        "bits": int(bits.size),
        "bit_bins": _bins(is_one.ravel(), bits.ravel()),
    }


def _point_bins(result: EstimationResult, points_m: NDArray[np.float64]) -> Bins:
    """Bin candidates by probability; those matched to a true point are real."""
    candidates = result.candidates
    is_real = np.zeros(len(candidates.scatterer_positions_m), bool)
    is_real[localisation(candidates.scatterer_positions_m, points_m).estimate_index] = True
    return _bins(candidates.scatterer_probability, is_real)


def _bins(probability: NDArray[np.float64], happened: NDArray[np.bool_]) -> Bins:
    """Count events by their probability."""
    index = np.minimum((probability * N_BINS).astype(int), N_BINS - 1)
    count = np.bincount(index, minlength=N_BINS)
    total = np.bincount(index, weights=probability, minlength=N_BINS)
    true = np.bincount(index, weights=happened.astype(float), minlength=N_BINS)
    return tuple((int(n), float(p), int(t)) for n, p, t in zip(count, total, true))


def _level_bins(error_m: NDArray[np.float64], covariance_m2: NDArray[np.float64]) -> Levels:
    """Count errors (P, 3) by the level of the smallest credible ellipsoid that holds them.

    A point with a known coordinate, or without any covariance, has no such ellipsoid.
    """
    spread = np.linalg.eigvalsh(covariance_m2)
    regular = spread[:, 0] > 1e-12 * spread[:, -1]
    scaled = np.linalg.solve(covariance_m2[regular], error_m[regular, :, None])[..., 0]
    level = gammainc(1.5, 0.5 * np.sum(error_m[regular] * scaled, axis=1))  # chi-square, three degrees
    index = np.minimum((level * N_LEVELS).astype(int), N_LEVELS - 1)
    return tuple(np.bincount(index, minlength=N_LEVELS).tolist())
