"""Trials shared by the accuracy benchmarks: run, pool over seeds, print as a table."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from time import perf_counter

import numpy as np
from joblib import Parallel, delayed
from rich.console import Console
from rich.table import Table
from threadpoolctl import threadpool_limits

import isac_toolbox as isac
from isac_toolbox.scenario import Simulation

Estimate = Callable[[Simulation], isac.EstimationResult]


@dataclass(frozen=True)
class Trial:
    """Figures of one estimate beside its bound."""

    nmse: float
    bound_nmse: float
    squared_errors_m2: np.ndarray
    squared_bounds_m2: np.ndarray
    misses: int
    false_alarms: int
    symbol_error_rate: float
    seconds: float
    converged: bool


def run_trial(scenario: isac.Scenario, seed: int, estimate: Estimate) -> Trial:
    """One block: simulate, estimate, compare."""
    simulation = scenario.simulate(seed=seed)
    bound = isac.bounds.hybrid_crb(simulation)
    truth = simulation.truth
    with threadpool_limits(limits=1):
        start = perf_counter()
        result = estimate(simulation)
        seconds = perf_counter() - start
    found = isac.metrics.localisation(result.scatterer_positions_m, truth.scatterer_positions_m)
    return Trial(
        nmse=10 ** (isac.metrics.channel_nmse_db(result.channel, truth.channel) / 10),
        bound_nmse=bound.channel_nmse,
        squared_errors_m2=found.distances_m**2,
        squared_bounds_m2=bound.position_rmse_m[found.truth_index] ** 2,
        misses=found.misses,
        false_alarms=found.false_alarms,
        symbol_error_rate=isac.metrics.symbol_error_rate(result, simulation),
        seconds=seconds,
        converged=result.converged,
    )


def run_trials(
    scenario: isac.Scenario, seeds: Iterable[int], estimate: Estimate, jobs: int = 2
) -> list[Trial]:
    """One trial per seed; results do not depend on the number of jobs."""
    trials = Parallel(n_jobs=jobs)(delayed(run_trial)(scenario, seed, estimate) for seed in seeds)
    return list(trials)


COLUMNS = (
    "found / true",
    "false",
    "RMSE m (bound)",
    "NMSE dB (bound)",
    "worst gap dB",
    "SER",
    "median s",
    "worst s",
)


def row(trials: Sequence[Trial]) -> list[str]:
    """Pooled figures in the order of :data:`COLUMNS`."""
    hits = sum(t.squared_errors_m2.size for t in trials)
    true = hits + sum(t.misses for t in trials)
    errors = np.concatenate([t.squared_errors_m2 for t in trials])
    bounds = np.concatenate([t.squared_bounds_m2 for t in trials])
    rmse = f"{np.sqrt(errors.mean()):.3f} ({np.sqrt(bounds.mean()):.3f})" if hits else "-"
    nmse, bound = np.array([t.nmse for t in trials]), np.array([t.bound_nmse for t in trials])
    seconds = np.array([t.seconds for t in trials])
    return [
        f"{hits} / {true}",
        str(sum(t.false_alarms for t in trials)),
        rmse,
        f"{_db(nmse.mean()):.2f} ({_db(bound.mean()):.2f})",
        f"{_db(np.max(nmse / bound)):.2f}",
        f"{np.mean([t.symbol_error_rate for t in trials]):.2g}",
        f"{np.median(seconds):.2f}",
        f"{seconds.max():.2f}",
    ]


def _db(value: float) -> float:
    return float(10 * np.log10(value))


def print_table(title: str, heads: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print a table wide enough for any terminal or file."""
    table = Table(title=title, title_justify="left")
    for head in heads:
        table.add_column(head, no_wrap=True)
    for cells in rows:
        table.add_row(*cells)
    Console(width=150).print(table)
