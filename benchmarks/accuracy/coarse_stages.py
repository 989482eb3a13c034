"""Both coarse stages on the standard case: recall within 2 m, false points, error and time.

python benchmarks/accuracy/coarse_stages.py [--seeds 20] > benchmarks/accuracy/coarse_stages.txt
"""

from __future__ import annotations

from time import perf_counter

import numpy as np
from joblib import Parallel, delayed
from runs import options, print_table, seeds_of, seeds_text, warm_up
from threadpoolctl import threadpool_limits

import isac_toolbox as isac
from isac_toolbox.estimators.bisvbi import BiSVBILoop

SNRS_DB = (-10.0, 0.0, 10.0, 20.0)


def coarse(scenario: isac.Scenario, seed: int, stage: str) -> tuple[isac.metrics.Localisation, float]:
    """Points after the coarse stage of one block, and its time."""
    warm_up()
    simulation = scenario.simulate(seed=seed)
    loop = BiSVBILoop(isac.EMTurboBiSVBI(coarse=stage), simulation.observation)
    with threadpool_limits(limits=1):
        start = perf_counter()
        loop.setup()
        seconds = perf_counter() - start
    points = loop.working.fit.scene.points_m
    return isac.metrics.localisation(points, simulation.truth.scatterer_positions_m), seconds


def main() -> None:
    """Run and print."""
    arguments = options(__doc__, seeds=20).parse_args()
    seeds = seeds_of(arguments)
    scenario = isac.Scenario.load("urban_uplink")
    rows = []
    for snr_db in SNRS_DB:
        for stage in ("nomp", "music"):
            own = scenario.replace(snr_db=snr_db)
            runs = list(Parallel(n_jobs=arguments.jobs)(delayed(coarse)(own, seed, stage) for seed in seeds))
            found = [r[0] for r in runs]
            hits, misses = sum(f.hits for f in found), sum(f.misses for f in found)
            errors = np.concatenate([f.distances_m for f in found])
            seconds = [r[1] for r in runs]
            rows.append(
                [
                    f"{snr_db:g}",
                    stage,
                    f"{100 * hits / (hits + misses):.1f} %",
                    f"{sum(f.false_alarms for f in found) / len(found):.1f}",
                    f"{np.sqrt(np.mean(errors**2)):.2f}",
                    f"{np.median(seconds):.3f}",
                    f"{np.max(seconds):.3f}",
                ]
            )
    heads = ["SNR dB", "stage", "recall", "false per block", "RMSE m", "median s", "worst s"]
    print_table(f"coarse stages, urban_uplink, {seeds_text(arguments)}", heads, rows)


if __name__ == "__main__":
    main()
