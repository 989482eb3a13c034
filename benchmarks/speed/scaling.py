"""How time and memory of the main estimator grow, with fitted exponents.

    python benchmarks/speed/scaling.py

One size at a time is swept from the standard case; a time is the best of some runs (processor time, one
thread), the exponent the slope of log time over log size, for the whole estimate and for one pass over all
sums of a block (tables, Gram, correlations, normal equations). Memory is what Python allocates at the peak,
beside ``memory_usage``'s prediction. Constants dominate small sizes, so exponents are lower bounds there.
"""

from __future__ import annotations

import os
import tracemalloc
from functools import partial

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import numpy as np
from tables import best_seconds, exponent, parser_of, print_table

import isac_toolbox as isac
from isac_toolbox.estimators.music import music_spectrum
from isac_toolbox.estimators.scene.fit import evaluate
from isac_toolbox.estimators.scene.problem import Problem
from isac_toolbox.estimators.symbols.block import ReceivedBlock

BAND_HZ = 96e6
SWEEPS: dict[str, tuple[list[int], object]] = {
    "subcarriers N": (
        [128, 256, 512, 1024],
        lambda n: {"n_subcarriers": n, "subcarrier_spacing_hz": BAND_HZ / n},
    ),
    "antennas M": ([64, 128, 256, 512], lambda m: {"array_shape": (m // 8, 8)}),
    "data symbols T": ([12, 24, 48, 96], lambda t: {"n_data_symbols": t}),
    "users K": ([2, 4, 8, 16], lambda k: {"n_users": k, "n_pilot_symbols": k}),
    "scatterers S": ([4, 8, 16, 24], lambda s: {"n_scatterers": s, "min_separation_m": 3.0}),
}


def one_pass(simulation: isac.Simulation) -> None:
    """All sums of a block once, at the scene found by an estimate."""
    observation = simulation.observation
    problem = Problem.on_pilots(observation, ReceivedBlock.of(observation))
    fit = evaluate(problem, *simulation_scene(simulation))
    _ = fit.normal_equations


def simulation_scene(simulation: isac.Simulation):  # type: ignore[no-untyped-def]
    """The true scene with its paths under a flat prior."""
    from isac_toolbox.channel.atoms.scene import Paths, Scene

    truth = simulation.truth
    offsets = 299_792_458.0 * truth.time_offsets_s
    scene = Scene(truth.scatterer_positions_m, truth.user_positions_m, offsets, np.zeros((0, 3)))
    paths = Paths.build(truth.line_of_sight, truth.visibility, np.zeros(0, np.int64))
    return scene, paths, np.full(len(paths), 1e-3)


def peak_mib(estimator: isac.EMTurboBiSVBI, observation: isac.UplinkObservation) -> float:
    """Peak of what Python allocates during an estimate."""
    tracemalloc.start()
    estimator.estimate(observation)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return peak / 2**20


def sweep(name: str, repeats: int) -> list[list[str]]:
    """Rows of one size."""
    sizes, changes = SWEEPS[name]
    estimator = isac.EMTurboBiSVBI()
    rows, whole, sums = [], [], []
    for size in sizes:
        simulation = isac.Scenario.load("urban_uplink").replace(**changes(size)).simulate(seed=0)  # type: ignore[operator]
        result = estimator.estimate(simulation.observation)
        whole.append(best_seconds(partial(estimator.estimate, simulation.observation), repeats))
        one_pass(simulation)
        sums.append(best_seconds(partial(one_pass, simulation), repeats))
        measured = peak_mib(estimator, simulation.observation)
        predicted = estimator.memory_usage(simulation.observation) / 2**20
        paths = int(result.history.n_active[-1])
        cells = [str(size), str(paths), str(result.n_iter), f"{1e3 * whole[-1]:.1f}", f"{1e3 * sums[-1]:.2f}"]
        rows.append([name, *cells, f"{measured:.1f}", f"{predicted:.1f}"])
    fitted = ["exponent", "", "", "", f"{exponent(sizes, whole):.2f}", f"{exponent(sizes, sums):.2f}", "", ""]
    return [*rows, fitted]


def grid_rows(repeats: int) -> list[list[str]]:
    """Rows of the MUSIC spectrum over the number Q of grid points."""
    simulation = isac.Scenario.load("urban_uplink").simulate(seed=0)
    low, high = simulation.observation.region_m
    sizes, times = [10_000, 40_000, 160_000], []
    for size in sizes:
        points = np.random.default_rng(0).uniform(low, high, (size, 3))
        times.append(best_seconds(partial(music_spectrum, simulation.observation, points), min(repeats, 2)))
    rows = [["grid points Q", str(s), "", "", f"{1e3 * t:.1f}", "", "", ""] for s, t in zip(sizes, times)]
    return [*rows, ["exponent", "", "", "", f"{exponent(sizes, times):.2f}", "", "", ""]]


def main() -> None:
    """Run and print."""
    parser = parser_of(__doc__)
    parser.add_argument("--repeats", type=int, default=3)
    repeats = parser.parse_args().repeats
    rows = [row for name in SWEEPS for row in sweep(name, repeats)] + grid_rows(repeats)
    heads = ["size", "value", "paths", "iterations", "ms", "sums ms", "peak MiB", "predicted MiB"]
    print_table("scaling from urban_uplink, seed 0", heads, rows)


if __name__ == "__main__":
    main()
