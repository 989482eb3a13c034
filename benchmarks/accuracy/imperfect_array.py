"""Arrays that are not calibrated, or stand otherwise than stated: errors beside the bound that knows of it.

Usage: ``python benchmarks/accuracy/imperfect_array.py [--seeds 20] [--first-seed 0]``
"""

from __future__ import annotations

from time import process_time

import numpy as np
from runs import asked_seeds

import isac_toolbox as isac

ELEMENTS = ((0.01, 1.0), (0.03, 3.0), (0.1, 10.0))
SNRS_DB = (10.0, 20.0)
ROTATIONS_DEG = (0.3, 1.0)
NEAR_M = 2.0
_IN_95 = 7.815


def block(
    scenario: isac.Scenario, seed: int, bounded: bool
) -> tuple[float, int, int, int, list[bool], float]:
    """Return excess over the bound (or the NMSE) in dB, points found, there and false, coverage, seconds."""
    simulation = scenario.simulate(seed=seed)
    truth = simulation.truth
    start = process_time()
    result = isac.EMTurboBiSVBI().estimate(simulation.observation)
    seconds = process_time() - start
    nmse_db = isac.metrics.channel_nmse_db(result.channel, truth.channel)
    if bounded:
        nmse_db -= isac.bounds.hybrid_crb(simulation).channel_nmse_db
    away = np.linalg.norm(result.scatterer_positions_m[:, None] - truth.scatterer_positions_m, axis=2)
    hit = away.min(axis=1, initial=np.inf) < NEAR_M
    error = result.scatterer_positions_m[hit] - truth.scatterer_positions_m[away[hit].argmin(axis=1)]
    inverse = np.linalg.inv(result.scatterer_covariance_m2[hit])
    inside = np.einsum("si,sij,sj->s", error, inverse, error) < _IN_95
    n_found = int(np.sum(away.min(axis=0, initial=np.inf) < NEAR_M))
    return nmse_db, n_found, len(truth.scatterer_positions_m), int(np.sum(~hit)), inside.tolist(), seconds


def row(label: str, scenario: isac.Scenario, seeds: range, bounded: bool = True) -> str:
    """Return one line of the table."""
    blocks = [block(scenario, seed, bounded) for seed in seeds]
    excess = np.array([b[0] for b in blocks])
    found = 100 * sum(b[1] for b in blocks) / sum(b[2] for b in blocks)
    covered = 100 * np.mean([inside for b in blocks for inside in b[4]])
    return (
        f"{label:<34}{np.median(excess):>8.2f}{excess.max():>8.2f}{found:>9.1f}"
        f"{sum(b[3] for b in blocks):>7d}{covered:>9.1f}{np.median([b[5] for b in blocks]):>8.2f}"
    )


def main() -> None:
    """Print the tables."""
    seeds = asked_seeds(__doc__)
    urban = isac.Scenario.load("urban_uplink")
    print(f"EM-Turbo-BiSVBI on urban_uplink, {len(seeds)} blocks a row from seed {seeds.start}.")
    print("NMSE above the bound with unknown elements in dB (rotations: NMSE), false points in all blocks.\n")
    print(f"{'array':<34}{'median':>8}{'worst':>8}{'found %':>9}{'false':>7}{'in 95 %':>9}{'s':>8}")
    for snr_db in SNRS_DB:
        print(row(f"{snr_db:.0f} dB, ideal", urban.replace(snr_db=snr_db), seeds), flush=True)
        for gain, degrees in ELEMENTS:
            scenario = urban.replace(
                snr_db=snr_db, element_gain_std=gain, element_phase_std_rad=float(np.deg2rad(degrees))
            )
            label = f"{snr_db:.0f} dB, {100 * gain:.0f} %, {degrees:.0f} degrees"
            print(row(label, scenario, seeds), flush=True)
    for degrees in ROTATIONS_DEG:
        scenario = urban.replace(snr_db=20.0, array_rotation_std_rad=float(np.deg2rad(degrees)))
        print(row(f"20 dB, turned by {degrees} degrees", scenario, seeds, bounded=False), flush=True)


if __name__ == "__main__":
    main()
