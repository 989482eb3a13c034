"""Ray-traced cities, all 24 users in groups of four: against NOMP, and how honest the probabilities are.

python benchmarks/accuracy/traced_cities.py > benchmarks/accuracy/traced_cities.txt
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass

import numpy as np
from joblib import Parallel, delayed
from runs import print_table
from threadpoolctl import threadpool_limits

import isac_toolbox as isac

CITIES = ("munich", "street_canyon")
SNRS_DB = (5.0, 20.0)
OBSERVABLE_M = 0.7
BINS = (0.0, 0.1, 0.3, 0.5, 0.7, 0.9, 1.0)


@dataclass(frozen=True)
class Group:
    """Figures of one group of users."""

    nmse_db: float
    nomp_nmse_db: float
    bound_db: float
    observable: int
    recalled: int
    reported: int
    real: int
    probability: np.ndarray
    is_real: np.ndarray
    user_error_m: np.ndarray
    nominal_error_m: np.ndarray
    seconds: float


def run_group(city: str, snr_db: float, group: int) -> Group:
    """Users ``4 group`` to ``4 group + 3`` of one city."""
    scenario = isac.Scenario.load(f"traced_{city}").replace(snr_db=snr_db)
    users = list(range(4 * group, 4 * group + 4))
    simulation = scenario.simulate(seed=group, environment=isac.load_traced(city), users=users)
    observation, truth = simulation.observation, simulation.truth
    with threadpool_limits(limits=1):
        result = isac.EMTurboBiSVBI().estimate(observation)
        nomp = isac.NOMP().estimate(observation)
    bound = isac.bounds.hybrid_crb(simulation)
    points = truth.scatterer_positions_m
    found = isac.metrics.localisation(result.scatterer_positions_m, points)
    in_front = (points - observation.bs_position_m) @ observation.array.axes[0] > 0
    observable = in_front & (bound.position_rmse_m < OBSERVABLE_M)
    hit = np.zeros(len(points), bool)
    hit[found.truth_index] = True
    candidates = isac.metrics.localisation(result.candidates.scatterer_positions_m, points)
    is_real = np.zeros(len(result.candidates.scatterer_probability), bool)
    is_real[candidates.estimate_index] = True
    nominal = observation.user_positions_m - truth.user_positions_m
    return Group(
        nmse_db=isac.metrics.channel_nmse_db(result.channel, truth.channel),
        nomp_nmse_db=isac.metrics.channel_nmse_db(nomp.channel, truth.channel),
        bound_db=bound.channel_nmse_db,
        observable=int(observable.sum()),
        recalled=int((hit & observable).sum()),
        reported=found.hits + found.false_alarms,
        real=found.hits,
        probability=result.candidates.scatterer_probability,
        is_real=is_real,
        user_error_m=np.linalg.norm(result.user_positions_m - truth.user_positions_m, axis=1),
        nominal_error_m=np.linalg.norm(nominal, axis=1),
        seconds=float(result.history.seconds[-1]),
    )


def print_groups(title: str, groups: list[Group]) -> None:
    """A row per group and the pooled figures."""
    rows = [
        [
            str(i),
            f"{g.nmse_db:.1f} ({g.bound_db:.1f})",
            f"{g.nomp_nmse_db:.1f}",
            f"{g.nomp_nmse_db - g.nmse_db:.1f}",
            f"{g.recalled} / {g.observable}",
            f"{g.real} / {g.reported}",
            f"{np.median(g.user_error_m):.2f} ({np.median(g.nominal_error_m):.2f})",
            f"{g.seconds:.1f}",
        ]
        for i, g in enumerate(groups)
    ]
    recalled, observable = sum(g.recalled for g in groups), sum(g.observable for g in groups)
    real, reported = sum(g.real for g in groups), sum(g.reported for g in groups)
    errors = np.concatenate([g.user_error_m for g in groups])
    nominal = np.concatenate([g.nominal_error_m for g in groups])
    above = [g.nmse_db - g.bound_db for g in groups]
    rows.append(
        [
            "all",
            f"{min(above):.1f} to {max(above):.1f}",
            "",
            f"min {min(g.nomp_nmse_db - g.nmse_db for g in groups):.1f}",
            f"{100 * recalled / observable:.0f} %",
            f"{100 * real / reported:.0f} %",
            f"{np.median(errors):.2f} ({np.median(nominal):.2f})",
            "",
        ]
    )
    heads = [
        "group",
        "NMSE dB (bound)",
        "NOMP dB",
        "gain dB",
        "recalled / observable",
        "real / reported",
        "user m (nominal)",
        "s",
    ]
    print_table(title, heads, rows)


def print_reliability(title: str, groups: list[Group]) -> None:
    """Reported probability against the share of real points, and the expected calibration error."""
    probability = np.concatenate([g.probability for g in groups])
    is_real = np.concatenate([g.is_real for g in groups])
    index = np.clip(np.digitize(probability, BINS) - 1, 0, len(BINS) - 2)
    rows, error = [], 0.0
    for i in range(len(BINS) - 1):
        own = index == i
        if own.any():
            mean, share = float(probability[own].mean()), float(is_real[own].mean())
            error += abs(mean - share) * own.sum() / len(index)
            rows.append([f"{BINS[i]:g} to {BINS[i + 1]:g}", str(own.sum()), f"{mean:.2f}", f"{share:.2f}"])
    print_table(
        f"{title}: expected calibration error {error:.3f}", ["probability", "n", "mean", "real"], rows
    )


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jobs", type=int, default=2)
    jobs = parser.parse_args().jobs
    everything = []
    for city in CITIES:
        for snr_db in SNRS_DB:
            groups = Parallel(n_jobs=jobs)(delayed(run_group)(city, snr_db, g) for g in range(6))
            print_groups(f"{city}, {snr_db:g} dB", list(groups))
            everything.extend(groups)
    print_reliability("all candidates of both cities", everything)


if __name__ == "__main__":
    main()
