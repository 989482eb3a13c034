"""Interferers and noise that the antennas share: errors beside the bound that knows the covariance.

Usage: ``python benchmarks/accuracy/interfered.py [--seeds 20] [--first-seed 0]``
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from time import process_time
from typing import Any

import numpy as np
from runs import asked_seeds

import isac_toolbox as isac

NEAR_M = 2.0
_IN_95 = 7.815

#: Label, changes of the scenario, whether the observation says that the noise is not white.
ROWS: tuple[tuple[str, Mapping[str, Any], bool], ...] = (
    ("no interferer, noise white", {"n_interferers": 0, "noise_spread_db": 0.0}, True),
    ("2 interferers, 0 dB", {"interferer_power_db": 0.0}, True),
    ("2 interferers, -10 dB", {}, True),
    ("2 interferers, -20 dB", {"interferer_power_db": -20.0}, True),
    ("2 of 0 dB, nobody told", {"interferer_power_db": 0.0}, False),
    ("2 of -10 dB, nobody told", {}, False),
    ("2 of -20 dB, nobody told", {"interferer_power_db": -20.0}, False),
    ("6 interferers, -10 dB", {"n_interferers": 6}, True),
    ("2 of -10 dB, 40 % of the band", {"interferer_band_share": 0.4}, True),
    ("2 of 0 dB, 3 pilots", {"interferer_power_db": 0.0, "n_pilot_symbols": 3}, True),
    ("noise of neighbours alike, 0.7", {"n_interferers": 0, "noise_correlation": 0.7}, True),
    ("2 of -10 dB, elements 3 %, 3 deg", {"element_gain_std": 0.03, "element_phase_std_rad": 0.052}, True),
    (
        "2 of -10 dB, users drive",
        {"numerology": "30kHz", "user_speed_m_s": (1.0, 15.0), "pilot_positions": (2, 5, 8, 11)},
        True,
    ),
)


@dataclass(frozen=True)
class Outcome:
    """Of one block: NMSE of EM-Turbo-BiSVBI and NOMP above the bound in dB, points, regions, time."""

    excess_db: float
    nomp_db: float
    n_found: int
    n_true: int
    n_false: int
    inside: list[bool]
    seconds: float
    n_interferers: int


def block(scenario: isac.Scenario, seed: int, told: bool) -> Outcome:
    """Return what comes out of one block."""
    simulation = scenario.simulate(seed=seed)
    truth, observation = simulation.truth, simulation.observation
    if not told:
        observation = replace(observation, noise_covariance=None)
    start = process_time()
    result = isac.EMTurboBiSVBI().estimate(observation)
    seconds = process_time() - start
    bound_db = isac.bounds.hybrid_crb(simulation).channel_nmse_db
    plain = isac.NOMP().estimate(observation)
    away = np.linalg.norm(result.scatterer_positions_m[:, None] - truth.scatterer_positions_m, axis=2)
    hit = away.min(axis=1, initial=np.inf) < NEAR_M
    error = result.scatterer_positions_m[hit] - truth.scatterer_positions_m[away[hit].argmin(axis=1)]
    inverse = np.linalg.inv(result.scatterer_covariance_m2[hit])
    found = result.interferer_directions
    return Outcome(
        isac.metrics.channel_nmse_db(result.channel, truth.channel) - bound_db,
        isac.metrics.channel_nmse_db(plain.channel, truth.channel) - bound_db,
        int(np.sum(away.min(axis=0, initial=np.inf) < NEAR_M)),
        len(truth.scatterer_positions_m),
        int(np.sum(~hit)) + len(result.unlocated_paths),
        (np.einsum("si,sij,sj->s", error, inverse, error) < _IN_95).tolist(),
        seconds,
        0 if found is None else len(found),
    )


def row(label: str, scenario: isac.Scenario, seeds: range, told: bool) -> str:
    """Return one line of the table."""
    blocks = [block(scenario, seed, told) for seed in seeds]
    excess = np.array([b.excess_db for b in blocks])
    nomp = np.median([b.nomp_db for b in blocks])
    found = 100 * sum(b.n_found for b in blocks) / sum(b.n_true for b in blocks)
    covered = 100 * np.mean([inside for b in blocks for inside in b.inside])
    return (
        f"{label:<34}{np.median(excess):>8.2f}{excess.max():>8.2f}{nomp:>8.2f}"
        f"{found:>9.1f}{sum(b.n_false for b in blocks):>7d}{covered:>9.1f}"
        f"{sum(b.n_interferers for b in blocks):>8d}{np.median([b.seconds for b in blocks]):>8.2f}"
    )


def main() -> None:
    """Print the table."""
    seeds = asked_seeds(__doc__)
    scenario = isac.Scenario.load("interfered_uplink")
    print(f"interfered_uplink (15 dB), {len(seeds)} blocks a row from seed {seeds.start}.")
    print("NMSE above the bound with the covariance known, in dB: EM-Turbo-BiSVBI, and the median of NOMP.")
    print("False points and unlocated paths, and interferers found, in all blocks.\n")
    head = f"{'noise':<34}{'median':>8}{'worst':>8}{'NOMP':>8}{'found %':>9}{'false':>7}"
    print(f"{head}{'in 95 %':>9}{'waves':>8}{'s':>8}")
    for label, changes, told in ROWS:
        print(row(label, scenario.replace(**changes), seeds, told), flush=True)


if __name__ == "__main__":
    main()
