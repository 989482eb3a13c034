"""Both coarse stages on the standard case: recall within 2 m, false points, error and time.

    python benchmarks/accuracy/coarse_stages.py [--seeds 20] > benchmarks/accuracy/coarse_stages.txt

The second table is of subcarriers that are not equally spaced, 64 at 10 dB out of 1,024 over the same band:
every sixteenth; without the middle one; without it and two blocks of four; one drawn of every sixteen.
"estimate" is the NMSE of the whole estimator that starts from the stage, "MUSIC-SCVBI" that of the other.
"""

from __future__ import annotations

from dataclasses import replace
from time import perf_counter

import numpy as np
from joblib import Parallel, delayed
from runs import options, print_table, seeds_of, seeds_text, to_db, warm_up
from threadpoolctl import threadpool_limits

import isac_toolbox as isac
from isac_toolbox.estimators.bisvbi import BiSVBILoop
from isac_toolbox.scenario import Simulation

Run = tuple[isac.metrics.Localisation, float]

STAGES = ("nomp", "music")
HEADS = ("stage", "recall", "false per block", "RMSE m", "median s", "worst s")

SNRS_DB = (-10.0, 0.0, 10.0, 20.0)
STEP = 16
EVEN = np.arange(0, 64 * STEP, STEP)
SUBCARRIERS = {
    "even": EVEN,
    "no DC": np.delete(EVEN, 32),
    "no DC, two blocks": np.delete(EVEN, [16, 17, 18, 19, 32, 45, 46, 47, 48]),
    "irregular": EVEN + np.random.default_rng(0).integers(0, STEP, EVEN.size),
}


def coarse(simulation: Simulation, stage: str) -> tuple[isac.metrics.Localisation, float]:
    """Points after the coarse stage of one block, and its time."""
    loop = BiSVBILoop(isac.EMTurboBiSVBI(coarse=stage), simulation.observation)
    with threadpool_limits(limits=1):
        start = perf_counter()
        loop.setup()
        seconds = perf_counter() - start
    points = loop.working.fit.scene.points_m
    return isac.metrics.localisation(points, simulation.truth.scatterer_positions_m), seconds


def run_even(snr_db: float, stage: str, seed: int) -> Run:
    """One block of the standard case."""
    warm_up()
    return coarse(isac.Scenario.load("urban_uplink").replace(snr_db=snr_db).simulate(seed=seed), stage)


def on_subcarriers(simulation: Simulation, index: np.ndarray) -> Simulation:
    """The same block on some of its subcarriers."""
    observation, truth = simulation.observation, simulation.truth
    kept = replace(
        observation,
        received=observation.received[index],
        pilots=observation.pilots[:, index],
        pilot_mask=observation.pilot_mask[index],
        subcarrier_frequencies_hz=observation.subcarrier_frequencies_hz[index],
    )
    return Simulation(kept, replace(truth, channel=truth.channel[:, index]))


def run_uneven(name: str, stage: str, seed: int) -> tuple[Run, tuple[float, float]]:
    """One block on uneven subcarriers, and the channel's NMSE of both estimators."""
    warm_up()
    fine = isac.Scenario.load("urban_uplink").replace(
        n_subcarriers=EVEN.size * STEP, subcarrier_spacing_hz=1.5e6 / STEP, snr_db=10.0
    )
    simulation = on_subcarriers(fine.simulate(seed=seed), SUBCARRIERS[name])
    results = (
        estimator.estimate(simulation.observation)
        for estimator in (isac.EMTurboBiSVBI(coarse=stage), isac.MusicSCVBI())
    )
    joint, rough = (
        10 ** (isac.metrics.channel_nmse_db(r.channel, simulation.truth.channel) / 10) for r in results
    )
    return coarse(simulation, stage), (joint, rough)


def cells(runs: list[Run]) -> list[str]:
    """Pooled figures in the order of :data:`HEADS`."""
    found, seconds = [r[0] for r in runs], [r[1] for r in runs]
    hits, misses = sum(f.hits for f in found), sum(f.misses for f in found)
    errors = np.concatenate([f.distances_m for f in found])
    return [
        f"{100 * hits / (hits + misses):.1f} %",
        f"{sum(f.false_alarms for f in found) / len(found):.1f}",
        f"{np.sqrt(np.mean(errors**2)):.2f}",
        f"{np.median(seconds):.3f}",
        f"{np.max(seconds):.3f}",
    ]


def main() -> None:
    """Run and print."""
    arguments = options(__doc__, seeds=20).parse_args()
    seeds = seeds_of(arguments)
    parallel = Parallel(n_jobs=arguments.jobs)
    rows = []
    for snr_db in SNRS_DB:
        for stage in STAGES:
            runs = list(parallel(delayed(run_even)(snr_db, stage, seed) for seed in seeds))
            rows.append([f"{snr_db:g}", stage, *cells(runs)])
    print_table(f"coarse stages, urban_uplink, {seeds_text(arguments)}", ["SNR dB", *HEADS], rows)
    rows = []
    for name in SUBCARRIERS:
        for stage in STAGES:
            blocks = list(parallel(delayed(run_uneven)(name, stage, seed) for seed in seeds))
            nmse = [f"{to_db(np.mean(values)):.1f}" for values in zip(*(b[1] for b in blocks), strict=True)]
            rows.append([name, stage, *cells([b[0] for b in blocks]), *nmse])
    heads = ["subcarriers", *HEADS, "estimate dB", "MUSIC-SCVBI dB"]
    print_table(f"uneven subcarriers, 10 dB, {seeds_text(arguments)}", heads, rows)


if __name__ == "__main__":
    main()
