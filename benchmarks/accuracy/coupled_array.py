"""Arrays whose elements hear each other, mixers with images: errors with and without the model of it.

Usage: ``python benchmarks/accuracy/coupled_array.py [--seeds 20] [--first-seed 0]``
"""

from __future__ import annotations

from dataclasses import replace
from time import process_time

import numpy as np
from runs import asked_seeds

import isac_toolbox as isac

COUPLINGS = (0.1, 0.2)
SNRS_DB = (10.0, 20.0)
IMAGES_DB = (-30.0, -25.0)
ELEMENTS = {"element_gain_std": 0.03, "element_phase_std_rad": float(np.deg2rad(3.0))}
NEAR_M = 2.0
# Estimates without the priors look for hundreds of paths; what they have by then is shown.
MOST_SECONDS = 2.0
_IN_95 = 7.815


def row(label: str, scenario: isac.Scenario, seeds: range) -> str:
    """Return one line of the table."""
    rows, inside, false, seconds = [], [], 0, []
    for seed in seeds:
        simulation = scenario.simulate(seed)
        obs, truth = simulation.observation, simulation.truth
        ignorant = replace(obs, coupling_std=None, iq_image_std=None, user_iq_image_std=None)
        known = replace(simulation, observation=replace(obs, coupling_std=None))
        start = process_time()
        result = isac.EMTurboBiSVBI().estimate(obs)
        seconds.append(process_time() - start)
        bound = isac.bounds.hybrid_crb(simulation).channel_nmse_db
        nmse_db = [
            isac.metrics.channel_nmse_db(r.channel, truth.channel)
            for r in (isac.EMTurboBiSVBI(max_seconds=MOST_SECONDS).estimate(ignorant), result)
        ]
        rows.append((nmse_db[0], bound, isac.bounds.hybrid_crb(known).channel_nmse_db, nmse_db[1] - bound))
        away = np.linalg.norm(result.scatterer_positions_m[:, None] - truth.scatterer_positions_m, axis=2)
        hit = away.min(axis=1, initial=np.inf) < NEAR_M
        error = result.scatterer_positions_m[hit] - truth.scatterer_positions_m[away[hit].argmin(axis=1)]
        inverse = np.linalg.inv(result.scatterer_covariance_m2[hit])
        inside += (np.einsum("si,sij,sj->s", error, inverse, error) < _IN_95).tolist()
        false += int(np.sum(~hit))
    ignored, bound, without, excess = np.median(rows, axis=0)
    worst = max(r[3] for r in rows)
    numbers = f"{ignored:>9.1f}{without:>9.1f}{bound:>9.1f}{excess:>9.2f}{worst:>8.2f}"
    return f"{label:<34}{numbers}{false:>7d}{100 * np.mean(inside):>9.1f}{np.median(seconds):>7.2f}"


def main() -> None:
    """Print the table."""
    seeds = asked_seeds(__doc__)
    urban = isac.Scenario.load("urban_uplink")
    print(f"EM-Turbo-BiSVBI on urban_uplink, {len(seeds)} blocks a row from seed {seeds.start}.")
    print("Medians in dB: NMSE without the priors, bounds with coupling known and to be learned (images are")
    print("known to both), NMSE above the latter; false points in all blocks, ellipsoids.\n")
    print(
        f"{'receiver':<34}{'ignored':>9}{'known':>9}{'bound':>9}{'above':>9}{'worst':>8}{'false':>7}"
        f"{'in 95 %':>9}{'s':>7}"
    )
    for snr_db in SNRS_DB:
        for coupling in COUPLINGS:
            scenario = urban.replace(snr_db=snr_db, coupling=coupling)
            print(row(f"{snr_db:.0f} dB, coupling {coupling}", scenario, seeds), flush=True)
    scenario = urban.replace(snr_db=20.0, coupling=0.1, **ELEMENTS)
    print(row("20 dB, coupling 0.1, 3 %, 3 degrees", scenario, seeds), flush=True)
    for image_db in IMAGES_DB:
        scenario = urban.replace(snr_db=20.0, iq_image_db=image_db, user_iq_image_db=image_db)
        print(row(f"20 dB, images of {image_db:.0f} dB", scenario, seeds), flush=True)


if __name__ == "__main__":
    main()
