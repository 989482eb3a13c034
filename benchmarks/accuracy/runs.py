"""Trials shared by the accuracy benchmarks: run, keep, pool over seeds, print as a table."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
from joblib import Parallel, delayed
from rich.console import Console
from rich.table import Table
from threadpoolctl import threadpool_limits

import isac_toolbox as isac
from isac_toolbox.scenario import Simulation

Estimate = Callable[[Simulation], isac.EstimationResult]
Figures = dict[str, Any]

OBSERVABLE_M = 0.7


@dataclass(frozen=True)
class Trial:
    """Figures of one estimate beside its bound; all of them can be kept as JSON.

    ``squared_errors_m2`` and ``squared_bounds_m2`` list the points found; observable are true points whose
    position bound is below :data:`OBSERVABLE_M`.
    """

    nmse: float
    bound_nmse: float
    squared_errors_m2: list[float]
    squared_bounds_m2: list[float]
    true: int
    reported: int
    observable: int
    observable_found: int
    symbol_errors: int
    symbols: int
    seconds: float
    converged: bool


@cache
def warm_up() -> None:
    """Compile and fill caches once per process, so that no trial's time contains it."""
    simulation = isac.Scenario.load("urban_uplink").simulate(seed=0)
    isac.EMTurboBiSVBI().estimate(simulation.observation)
    isac.EMTurboBiSVBI(coarse="music").estimate(simulation.observation)


def timed(estimate: Estimate, simulation: Simulation) -> tuple[isac.EstimationResult, float]:
    """An estimate on one thread, and its seconds."""
    warm_up()
    with threadpool_limits(limits=1):
        start = perf_counter()
        result = estimate(simulation)
        return result, perf_counter() - start


def count_symbol_errors(result: isac.EstimationResult, simulation: Simulation) -> tuple[int, int]:
    """Wrong decisions, and data symbols."""
    sent = simulation.truth.symbol_indices
    data = sent >= 0
    return int(np.sum(result.symbol_decision[data] != sent[data])), int(data.sum())


def measure(simulation: Simulation, estimate: Estimate) -> Trial:
    """One block: estimate and compare."""
    truth = simulation.truth
    result, seconds = timed(estimate, simulation)
    bound = isac.bounds.hybrid_crb(simulation)
    found = isac.metrics.localisation(result.scatterer_positions_m, truth.scatterer_positions_m)
    observable = bound.position_rmse_m < OBSERVABLE_M
    wrong, symbols = count_symbol_errors(result, simulation)
    return Trial(
        nmse=10 ** (isac.metrics.channel_nmse_db(result.channel, truth.channel) / 10),
        bound_nmse=bound.channel_nmse,
        squared_errors_m2=(found.distances_m**2).tolist(),
        squared_bounds_m2=(bound.position_rmse_m[found.truth_index] ** 2).tolist(),
        true=found.hits + found.misses,
        reported=found.hits + found.false_alarms,
        observable=int(observable.sum()),
        observable_found=int(observable[found.truth_index].sum()),
        symbol_errors=wrong,
        symbols=symbols,
        seconds=seconds,
        converged=result.converged,
    )


def run_trial(scenario: isac.Scenario, seed: int, estimate: Estimate) -> Trial:
    """One block: simulate, estimate, compare."""
    return measure(scenario.simulate(seed=seed), estimate)


def run_trials(
    scenario: isac.Scenario, seeds: Iterable[int], estimate: Estimate, jobs: int = 2
) -> list[Trial]:
    """One trial per seed; results do not depend on the number of jobs."""
    trials = Parallel(n_jobs=jobs)(delayed(run_trial)(scenario, seed, estimate) for seed in seeds)
    return list(trials)


@dataclass(frozen=True)
class Pool:
    """Figures pooled over trials."""

    trials: Sequence[Trial]

    def total(self, name: str) -> Any:
        """Sum of one figure."""
        return sum(getattr(t, name) for t in self.trials)

    def mean(self, name: str) -> float:
        """Mean of one figure."""
        return float(np.mean([getattr(t, name) for t in self.trials]))

    @property
    def hits(self) -> int:
        """True points found."""
        return sum(len(t.squared_errors_m2) for t in self.trials)

    @property
    def false(self) -> int:
        """Reported points that are none."""
        return int(self.total("reported")) - self.hits

    @property
    def rmse_m(self) -> float:
        """Error over the points found; NaN without any."""
        return self._root_mean("squared_errors_m2")

    @property
    def rmse_bound_m(self) -> float:
        """Root mean square of the bound over the same points."""
        return self._root_mean("squared_bounds_m2")

    def _root_mean(self, name: str) -> float:
        values = np.concatenate([getattr(t, name) for t in self.trials])
        return float(np.sqrt(values.mean())) if values.size else float("nan")

    @property
    def worst_gap_db(self) -> float:
        """Largest channel error above its bound of one block."""
        return to_db(max(t.nmse / t.bound_nmse for t in self.trials))

    @property
    def symbol_error_rate(self) -> float:
        """Over all data symbols."""
        return self.total("symbol_errors") / max(self.total("symbols"), 1)

    @property
    def rmse_text(self) -> str:
        """Error and bound."""
        return f"{self.rmse_m:#.3g} ({self.rmse_bound_m:#.3g})" if self.hits else "-"


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
    pool = Pool(trials)
    seconds = [t.seconds for t in trials]
    return [
        f"{pool.hits} / {pool.total('true')}",
        str(pool.false),
        pool.rmse_text,
        f"{to_db(pool.mean('nmse')):.2f} ({to_db(pool.mean('bound_nmse')):.2f})",
        f"{pool.worst_gap_db:.2f}",
        f"{pool.symbol_error_rate:.2g}",
        f"{np.median(seconds):.2f}",
        f"{max(seconds):.2f}",
    ]


def to_db(value: float) -> float:
    """A power ratio in dB."""
    return float(10 * np.log10(value))


# Kept trials -----------------------------------------------------------------------------------------------


def run_tasks(
    work: Callable[..., Figures], tasks: Sequence[Sequence[Any]], jobs: int = 2, store: Path | None = None
) -> list[Figures]:
    """Figures of ``work(*task)`` for every task, in their order.

    With a store every finished task is one JSON line ``{"task": [script, *task], "figures": {...}}``, and
    tasks found there are not run again. The store knows nothing of the estimator's version: start a new
    file when the code has changed.
    """
    keys = [_key(work, task) for task in tasks]
    known = _read_store(store) if store is not None else {}
    missing = {key: task for key, task in zip(keys, tasks) if key not in known}
    outcomes = Parallel(n_jobs=jobs, return_as="generator_unordered")(
        delayed(_run_task)(work, key, task) for key, task in missing.items()
    )
    for key, figures in outcomes:
        known[key] = figures
        if store is not None:
            with store.open("a", encoding="utf-8") as file:
                file.write(json.dumps({"task": json.loads(key), "figures": figures}) + "\n")
    return [known[key] for key in keys]


def _key(work: Callable[..., Figures], task: Sequence[Any]) -> str:
    return json.dumps([Path(work.__code__.co_filename).stem, *task])


def _run_task(work: Callable[..., Figures], key: str, task: Sequence[Any]) -> tuple[str, Figures]:
    return key, work(*task)


def _read_store(store: Path) -> dict[str, Figures]:
    """Kept figures by key; a last line that was cut off is closed, so that the next one starts afresh."""
    if not store.exists():
        return {}
    text = store.read_text(encoding="utf-8")
    if text and not text.endswith("\n"):
        with store.open("a", encoding="utf-8") as file:
            file.write("\n")
    known = {}
    for line in text.splitlines():
        try:
            kept = json.loads(line)
        except json.JSONDecodeError:
            continue
        known[json.dumps(kept["task"])] = kept["figures"]
    return known


# Command line and tables -----------------------------------------------------------------------------------


def options(description: str | None, seeds: int, store: bool = False) -> argparse.ArgumentParser:
    """Parser with the options that the accuracy benchmarks share."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=seeds, help="number of blocks per case")
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=2, help="processes; results do not depend on it")
    if store:
        text = "keep finished trials in this file, one JSON line each, and go on from it"
        parser.add_argument("--store", type=Path, default=None, help=text)
    return parser


def seeds_of(arguments: argparse.Namespace) -> range:
    """The seeds asked for."""
    return range(arguments.first_seed, arguments.first_seed + arguments.seeds)


def asked_seeds(description: str | None, count: int = 20) -> range:
    """The seeds asked for on the command line of a script that has no other options."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=count, help="number of blocks per case")
    parser.add_argument("--first-seed", type=int, default=0)
    return seeds_of(parser.parse_args())


def seeds_text(arguments: argparse.Namespace) -> str:
    """The seeds in words for a title."""
    seeds = seeds_of(arguments)
    return f"seeds {seeds[0]}-{seeds[-1]}" if len(seeds) > 1 else f"seed {seeds[0]}"


def print_table(title: str, heads: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print a table wide enough for any terminal or file."""
    table = Table(title=title, title_justify="left")
    for head in heads:
        table.add_column(head, no_wrap=True)
    for cells in rows:
        table.add_row(*cells)
    Console(width=240).print(table)


def percent(part: float, whole: float, digits: int = 1) -> str:
    """Share in per cent; a dash without a whole."""
    return f"{100 * part / whole:.{digits}f} %" if whole else "-"


# Bit probabilities -----------------------------------------------------------------------------------------

BIT_BINS = (0.0, 0.05, 0.2, 0.4, 0.6, 0.8, 0.95, 1.0)


def bit_histogram(llr: np.ndarray, bits: np.ndarray) -> Figures:
    """Per bin of ``P(bit = 1)``: number of bits, sum of the probabilities, number of ones."""
    probability = 1 / (1 + np.exp(np.clip(llr, -50, 50)))
    index = np.clip(np.digitize(probability, BIT_BINS) - 1, 0, len(BIT_BINS) - 2)
    n_bins = len(BIT_BINS) - 1
    return {
        "bits": np.bincount(index, minlength=n_bins).tolist(),
        "probability": np.bincount(index, weights=probability, minlength=n_bins).tolist(),
        "ones": np.bincount(index, weights=bits.astype(float), minlength=n_bins).tolist(),
    }


def sum_histograms(histograms: Sequence[Figures]) -> Figures:
    """Bins added up."""
    return {name: np.sum([h[name] for h in histograms], axis=0) for name in ("bits", "probability", "ones")}


def reliability_rows(histogram: Figures) -> list[list[str]]:
    """Bin, bits in it, mean probability, share of ones with its standard error."""
    rows = []
    for i, count in enumerate(histogram["bits"]):
        if count:
            mean, share = histogram["probability"][i] / count, histogram["ones"][i] / count
            error = np.sqrt(max(share * (1 - share), 1 / count) / count)
            name = f"{BIT_BINS[i]:g} to {BIT_BINS[i + 1]:g}"
            rows.append([name, str(int(count)), f"{mean:.4f}", f"{share:.4f} ± {error:.4f}"])
    return rows


RELIABILITY_HEADS = ("probability", "bits", "mean", "share of ones")


def bit_calibration_error(histogram: Figures) -> float:
    """Expected calibration error of the bit probabilities over the bins."""
    gaps = np.abs(np.asarray(histogram["probability"]) - np.asarray(histogram["ones"]))
    return float(np.sum(gaps) / np.sum(histogram["bits"]))
