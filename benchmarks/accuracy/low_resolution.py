"""Converters of few bits, clipping and amplifiers that the observation says nothing of, beside others.

Usage: ``python benchmarks/accuracy/low_resolution.py [--seeds 20] [--first-seed 0]``
"""

from __future__ import annotations

from dataclasses import dataclass
from time import process_time

import numpy as np
from runs import asked_seeds

import isac_toolbox as isac

NEAR_M = 2.0
_IN_95 = 7.815
BITS = (3, 4, 5, 6, 8)
CLIPPED = (0.001, 0.01, 0.05, 0.1)
BACKOFFS_DB = (3.0, 6.0, 9.0, 12.0)


@dataclass(frozen=True)
class Outcome:
    """Of one block: NMSE of three receivers in dB, false points and paths, regions, seconds."""

    nmse_db: float
    nomp_db: float
    plain_db: float
    n_false: int
    n_unlocated: int
    inside: list[bool]
    seconds: float


def block(scenario: isac.Scenario, seed: int) -> Outcome:
    """Return what comes out of one block."""
    simulation = scenario.simulate(seed=seed)
    truth, observation = simulation.truth, simulation.observation
    start = process_time()
    result = isac.EMTurboBiSVBI().estimate(observation)
    seconds = process_time() - start
    others = (isac.NOMP().estimate(observation), isac.LeastSquares().estimate(observation))
    away = np.linalg.norm(result.scatterer_positions_m[:, None] - truth.scatterer_positions_m, axis=2)
    hit = away.min(axis=1, initial=np.inf) < NEAR_M
    error = result.scatterer_positions_m[hit] - truth.scatterer_positions_m[away[hit].argmin(axis=1)]
    inverse = np.linalg.inv(result.scatterer_covariance_m2[hit])
    nmse = [isac.metrics.channel_nmse_db(r.channel, truth.channel) for r in (result, *others)]
    return Outcome(
        *nmse,
        int(np.sum(~hit)),
        len(result.unlocated_paths),
        (np.einsum("si,sij,sj->s", error, inverse, error) < _IN_95).tolist(),
        seconds,
    )


def row(label: str, scenario: isac.Scenario, seeds: range) -> str:
    """Return one line of the table."""
    blocks = [block(scenario, seed) for seed in seeds]
    nmse = np.array([[b.nmse_db, b.nomp_db, b.plain_db] for b in blocks])
    behind = float(np.max(nmse[:, 0] - nmse[:, 1:].min(axis=1)))
    covered = 100 * np.mean([inside for b in blocks for inside in b.inside])
    medians = "".join(f"{value:>8.1f}" for value in np.median(nmse, axis=0))
    n_false, n_unlocated = sum(b.n_false for b in blocks), sum(b.n_unlocated for b in blocks)
    seconds = np.median([b.seconds for b in blocks])
    return f"{label:<26}{medians}{behind:>9.1f}{n_false:>7d}{n_unlocated:>7d}{covered:>9.1f}{seconds:>7.2f}"


def main() -> None:
    """Print the table."""
    seeds = asked_seeds(__doc__)
    urban = isac.Scenario.load("urban_uplink").replace(snr_db=20.0)
    print(f"urban_uplink at 20 dB, {len(seeds)} blocks a row from seed {seeds.start}.")
    print(
        "Median NMSE in dB of EM-Turbo-BiSVBI, NOMP and least squares; the first in its worst block relative"
    )
    print("to the better of the others; false points and unlocated paths in all blocks.\n")
    head = f"{'distortion':<26}{'EM':>8}{'NOMP':>8}{'LS':>8}{'behind':>9}{'false':>7}{'paths':>7}"
    print(f"{head}{'in 95 %':>9}{'s':>7}")
    print(row("none", urban, seeds), flush=True)
    for bits in BITS:
        print(row(f"converters of {bits} bits", urban.replace(adc_bits=bits), seeds), flush=True)
    for share in CLIPPED:
        print(row(f"{100 * share:g} % clipped", urban.replace(clipping_share=share), seeds), flush=True)
    for backoff_db in BACKOFFS_DB:
        scenario = urban.replace(amplifier_backoff_db=backoff_db)
        print(row(f"back-off of {backoff_db:.0f} dB", scenario, seeds), flush=True)
    print(row("low_resolution_adc", isac.Scenario.load("low_resolution_adc"), seeds), flush=True)


if __name__ == "__main__":
    main()
