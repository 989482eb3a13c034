"""Do the estimator's own uncertainties mean what they say?

Coverage of 95 % ellipsoids of scatterers and users and 95 % intervals of clocks, calibration of the points'
probabilities, and reliability of the bit probabilities behind the LLRs.

    python benchmarks/accuracy/calibration.py [--seeds 50] > benchmarks/accuracy/calibration.txt
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass

import numpy as np
from joblib import Parallel, delayed
from runs import print_table
from scipy.stats import chi2
from threadpoolctl import threadpool_limits

import isac_toolbox as isac
from isac_toolbox.channel import bit_labels

CASES = (("urban_uplink", -10.0), ("urban_uplink", 0.0), ("urban_uplink", 20.0), ("rich_scattering", 5.0))
BIT_BINS = (0.0, 0.05, 0.2, 0.4, 0.6, 0.8, 0.95, 1.0)
LEVEL = 0.95


@dataclass(frozen=True)
class Run:
    """Squared Mahalanobis distances, probabilities and outcomes of one block."""

    scatterers: np.ndarray
    users: np.ndarray
    clocks: np.ndarray
    probability: np.ndarray
    is_real: np.ndarray
    bit_probability: np.ndarray
    bit: np.ndarray


def mahalanobis(error: np.ndarray, covariance: np.ndarray) -> np.ndarray:
    """Squared distances of errors (S, 3) under covariances (S, 3, 3)."""
    return np.einsum("si,si->s", error, np.linalg.solve(covariance, error[:, :, None])[:, :, 0])


def run_block(name: str, snr_db: float, seed: int) -> Run:
    """One block of a scenario."""
    simulation = isac.Scenario.load(name).replace(snr_db=snr_db).simulate(seed=seed)
    truth = simulation.truth
    with threadpool_limits(limits=1):
        result = isac.EMTurboBiSVBI().estimate(simulation.observation)
    found = isac.metrics.localisation(result.scatterer_positions_m, truth.scatterer_positions_m)
    own = found.estimate_index
    error = result.scatterer_positions_m[own] - truth.scatterer_positions_m[found.truth_index]
    candidates = isac.metrics.localisation(
        result.candidates.scatterer_positions_m, truth.scatterer_positions_m
    )
    is_real = np.zeros(len(result.candidates.scatterer_probability), bool)
    is_real[candidates.estimate_index] = True
    data = truth.symbol_indices >= 0
    labels = bit_labels(simulation.observation.constellation.size)
    return Run(
        scatterers=mahalanobis(error, result.scatterer_covariance_m2[own]),
        users=mahalanobis(
            result.user_positions_m - truth.user_positions_m, result.user_position_covariance_m2
        ),
        clocks=((result.time_offsets_s - truth.time_offsets_s) / result.time_offset_std_s) ** 2,
        probability=result.candidates.scatterer_probability,
        is_real=is_real,
        bit_probability=(1 / (1 + np.exp(np.clip(result.llr[data], -50, 50)))).ravel(),
        bit=labels[truth.symbol_indices[data]].ravel(),
    )


def pooled(runs: list[Run], name: str) -> np.ndarray:
    """One field over all runs."""
    return np.concatenate([getattr(r, name) for r in runs])


def calibration_error(probability: np.ndarray, outcome: np.ndarray, n_bins: int = 10) -> float:
    """Expected calibration error over equal bins."""
    index = np.minimum((probability * n_bins).astype(int), n_bins - 1)
    gaps = [
        abs(probability[index == i].mean() - outcome[index == i].mean()) * np.mean(index == i)
        for i in np.unique(index)
    ]
    return float(np.sum(gaps))


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=50)
    parser.add_argument("--jobs", type=int, default=2)
    arguments = parser.parse_args()
    rows, reliability = [], []
    for name, snr_db in CASES:
        runs = Parallel(n_jobs=arguments.jobs)(
            delayed(run_block)(name, snr_db, seed) for seed in range(arguments.seeds)
        )
        runs = list(runs)
        inside = [
            np.mean(pooled(runs, field) < chi2.ppf(LEVEL, freedom))
            for field, freedom in (("scatterers", 3), ("users", 3), ("clocks", 1))
        ]
        error = calibration_error(pooled(runs, "probability"), pooled(runs, "is_real"))
        rows.append([f"{name}, {snr_db:g} dB", *[f"{100 * share:.1f} %" for share in inside], f"{error:.3f}"])
        if snr_db == min(case[1] for case in CASES):
            probability, bit = pooled(runs, "bit_probability"), pooled(runs, "bit")
            index = np.clip(np.digitize(probability, BIT_BINS) - 1, 0, len(BIT_BINS) - 2)
            for i in range(len(BIT_BINS) - 1):
                own = index == i
                reliability.append(
                    [
                        f"{BIT_BINS[i]:g} to {BIT_BINS[i + 1]:g}",
                        str(own.sum()),
                        f"{probability[own].mean():.3f}",
                        f"{bit[own].mean():.3f}",
                    ]
                )
    heads = ["case", "scatterers in 95 %", "users in 95 %", "clocks in 95 %", "support ECE"]
    print_table(f"coverage and calibration, seeds 0-{arguments.seeds - 1}", heads, rows)
    title = "bit probabilities P(bit = 1) behind the LLRs, urban_uplink, -10 dB"
    print_table(title, ["probability", "bits", "mean", "share of ones"], reliability)


if __name__ == "__main__":
    main()
