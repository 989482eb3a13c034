"""Do the estimator's own uncertainties mean what they say?

Coverage of 95 % ellipsoids of scatterers and users and 95 % intervals of clocks, calibration of the points'
probabilities, case by case and over all runs (50 seeds of 4 cases = 200), and reliability of the bit
probabilities behind the LLRs. The ellipsoids' limits are 90 and 99 %, that of the calibration error 0.05.

    python benchmarks/accuracy/calibration.py [--seeds 50] > benchmarks/accuracy/calibration.txt
"""

from __future__ import annotations

import numpy as np
from runs import (
    RELIABILITY_HEADS,
    Figures,
    bit_calibration_error,
    bit_histogram,
    options,
    percent,
    print_table,
    reliability_rows,
    run_tasks,
    seeds_of,
    seeds_text,
    sum_histograms,
    timed,
)
from scipy.stats import chi2

import isac_toolbox as isac
from isac_toolbox.channel.modulation import bit_labels

CASES = (("urban_uplink", -10.0), ("urban_uplink", 0.0), ("urban_uplink", 20.0), ("rich_scattering", 5.0))
LEVEL = 0.95
# What is covered, and its degrees of freedom.
COVERED = (("scatterers", 3), ("users", 3), ("clocks", 1))
POINT_BINS = tuple(np.round(np.linspace(0, 1, 11), 1))


def mahalanobis(error: np.ndarray, covariance: np.ndarray) -> np.ndarray:
    """Squared distances of errors (S, 3) under covariances (S, 3, 3)."""
    return np.einsum("si,si->s", error, np.linalg.solve(covariance, error[:, :, None])[:, :, 0])


def run_block(name: str, snr_db: float, seed: int) -> Figures:
    """One block of a scenario: squared Mahalanobis distances, point probabilities and outcomes, bits."""
    simulation = isac.Scenario.load(name).replace(snr_db=snr_db).simulate(seed=seed)
    truth = simulation.truth
    result, _ = timed(lambda sim: isac.EMTurboBiSVBI().estimate(sim.observation), simulation)
    found = isac.metrics.localisation(result.scatterer_positions_m, truth.scatterer_positions_m)
    own = found.estimate_index
    error = result.scatterer_positions_m[own] - truth.scatterer_positions_m[found.truth_index]
    user_error = result.user_positions_m - truth.user_positions_m
    clock_error = (result.time_offsets_s - truth.time_offsets_s) / result.time_offset_std_s
    data = truth.symbol_indices >= 0
    labels = bit_labels(simulation.observation.constellation.size)
    return {
        "scatterers": mahalanobis(error, result.scatterer_covariance_m2[own]).tolist(),
        "users": mahalanobis(user_error, result.user_position_covariance_m2).tolist(),
        "clocks": (clock_error**2).tolist(),
        "probability": result.candidates.scatterer_probability.tolist(),
        "is_real": real_candidates(result, truth.scatterer_positions_m).tolist(),
        "bits": bit_histogram(result.llr[data].ravel(), labels[truth.symbol_indices[data]].ravel()),
    }


def real_candidates(result: isac.EstimationResult, points_m: np.ndarray) -> np.ndarray:
    """Whether each candidate has a true point of its own."""
    candidates = result.candidates.scatterer_positions_m
    is_real = np.zeros(len(candidates), bool)
    is_real[isac.metrics.localisation(candidates, points_m).estimate_index] = True
    return is_real


def pooled(runs: list[Figures], name: str) -> np.ndarray:
    """One figure over all runs."""
    return np.concatenate([np.asarray(r[name]) for r in runs])


def point_bins(runs: list[Figures]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Bin of every candidate, its probability, whether it is real."""
    probability, is_real = pooled(runs, "probability"), pooled(runs, "is_real").astype(bool)
    last = len(POINT_BINS) - 2
    return np.minimum((probability * (last + 1)).astype(int), last), probability, is_real


def support_calibration_error(runs: list[Figures]) -> float:
    """Expected calibration error of the points' probabilities over equal bins."""
    index, probability, is_real = point_bins(runs)
    return float(
        sum(abs(np.sum(probability[index == i] - is_real[index == i])) for i in np.unique(index)) / len(index)
    )


def support_rows(runs: list[Figures]) -> list[list[str]]:
    """Reliability diagram of the points' probabilities."""
    index, probability, is_real = point_bins(runs)
    return [
        [
            f"{POINT_BINS[i]:g} to {POINT_BINS[i + 1]:g}",
            str(np.sum(index == i)),
            f"{probability[index == i].mean():.3f}",
            f"{is_real[index == i].mean():.3f}",
        ]
        for i in np.unique(index)
    ]


def case_row(name: str, runs: list[Figures]) -> list[str]:
    """Coverages and calibration errors of some runs."""
    inside = [pooled(runs, field) < chi2.ppf(LEVEL, freedom) for field, freedom in COVERED]
    bits = sum_histograms([r["bits"] for r in runs])
    return [
        name,
        str(len(runs)),
        *[percent(np.sum(own), len(own)) for own in inside],
        f"{support_calibration_error(runs):.4f}",
        f"{bit_calibration_error(bits):.4f}",
    ]


HEADS = ("case", "runs", *[f"{name} in 95 %" for name, _ in COVERED], "support ECE", "bit ECE")


def main() -> None:
    """Run and print."""
    arguments = options(__doc__, seeds=50, store=True).parse_args()
    tasks = [(*case, seed) for case in CASES for seed in seeds_of(arguments)]
    everything = run_tasks(run_block, tasks, arguments.jobs, arguments.store)
    by_case = {case: [run for task, run in zip(tasks, everything) if task[:2] == case] for case in CASES}
    rows = [case_row(f"{name}, {snr_db:g} dB", runs) for (name, snr_db), runs in by_case.items()]
    rows.append(case_row("all", everything))
    print_table(f"coverage and calibration, {seeds_text(arguments)}", HEADS, rows)
    title = f"points' probabilities, all {len(everything)} runs"
    print_table(title, ["probability", "points", "mean", "share real"], support_rows(everything))
    worst = min(CASES, key=lambda case: case[1])
    histogram = sum_histograms([r["bits"] for r in by_case[worst]])
    title = f"P(bit = 1) behind the LLRs, {worst[0]}, {worst[1]:g} dB"
    print_table(title, RELIABILITY_HEADS, reliability_rows(histogram))


if __name__ == "__main__":
    main()
