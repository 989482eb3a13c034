"""MUSIC spectrum against pyroomacoustics and against the machine's complex matrix products.

    pip install pyroomacoustics
    python benchmarks/speed/music_kernel.py

64 elements, 8 sources, one thread each. The peer evaluates the same array over the same number of directions
at the same number of frequencies; its mode vectors are made before the clock starts, ours within. The rate
counts the 8 M r flop of ``U^H a`` of a grid point alone.
"""

from __future__ import annotations

import os
import resource
from time import process_time

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import numpy as np
from tables import best_seconds, gemm_rate, parser_of, print_table

import isac_toolbox as isac
from isac_toolbox.estimators.coarse.music import music_points
from isac_toolbox.estimators.music import MusicModel

ARRAY = isac.UniformPlanarArray((8, 8))
ORDER = 8


def model() -> MusicModel:
    """A random signal subspace of the whole array at one frequency."""
    rng = np.random.default_rng(0)
    m = ARRAY.n_elements
    vectors = rng.standard_normal((m, ORDER)) + 1j * rng.standard_normal((m, ORDER))
    basis = np.linalg.qr(vectors)[0][None]
    bs, users = np.zeros(3), np.array([[50.0, 0.0, 0.0]])
    return MusicModel(ARRAY, np.zeros(1), (basis,), bs, users, np.zeros(1), 3.0)


def directions(n_points: int) -> np.ndarray:
    """Random unit vectors in front of the array."""
    rng = np.random.default_rng(1)
    vectors = rng.standard_normal((n_points, 3))
    vectors[:, 0] = np.abs(vectors[:, 0])
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def own_seconds(n_points: int) -> float:
    """Seconds per grid point and frequency of this package."""
    at, lengths, shares = directions(n_points), np.ones(n_points), model()
    shares.projection(0, lengths[:100], at[:100])
    return best_seconds(lambda: shares.projection(0, lengths, at), 7) / n_points


def peer_seconds(n_points: int, n_frequencies: int = 4) -> float | None:
    """Seconds per grid point and frequency of pyroomacoustics, None without it."""
    try:
        from pyroomacoustics.doa import MUSIC
    except ImportError:
        return None
    side = int(np.sqrt(n_points))
    elements = ARRAY.element_offsets_m(343.0).T
    azimuth = np.linspace(-np.pi / 2, np.pi / 2, side)
    colatitude = np.linspace(0.1, np.pi - 0.1, side)
    peer = MUSIC(elements, 8.0, 64, c=343.0, num_src=ORDER, dim=3, azimuth=azimuth, colatitude=colatitude)
    rng = np.random.default_rng(2)
    block = rng.standard_normal((64, 33, 40)) + 1j * rng.standard_normal((64, 33, 40))
    bins = np.arange(5, 5 + n_frequencies)
    run = lambda: peer.locate_sources(block, num_src=ORDER, freq_bins=bins)  # noqa: E731
    run()
    return best_seconds(run, 3) / (peer.grid.n_points * n_frequencies)


def memory_of(n_points: int) -> tuple[float, float]:
    """Seconds, and growth of the process in MiB, for a location spectrum of many points and four users."""
    scenario = isac.Scenario.load("urban_uplink").replace(n_users=4, n_pilot_symbols=4)
    observation = scenario.simulate(seed=0).observation
    rng = np.random.default_rng(3)
    low, high = observation.region_m
    spectrum = MusicModel.from_observation(observation)
    points = rng.uniform(low, high, (n_points, 3))
    spectrum.location_spectrum(points[:1000], 1e-2)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = process_time()
    spectrum.location_spectrum(points, 1e-2)
    seconds = process_time() - start
    return seconds, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024


def evaluated_share() -> float:
    """Points that the multi-resolution search evaluates, as a share of the grid at its finest step."""
    observation = isac.Scenario.load("urban_uplink").simulate(seed=0).observation
    spectrum = MusicModel.from_observation(observation)
    counted = [0]
    evaluate = MusicModel.location_spectrum

    def counting(self: MusicModel, points_m: np.ndarray, floor: float) -> np.ndarray:
        counted[0] += len(points_m)
        return evaluate(self, points_m, floor)

    MusicModel.location_spectrum = counting  # type: ignore[method-assign]
    music_points(spectrum, observation.region_m)
    MusicModel.location_spectrum = evaluate  # type: ignore[method-assign]
    finest = spectrum.length_cell_m / 2 / 2**6
    return counted[0] / float(np.prod(np.diff(observation.region_m, axis=0) / finest))


def main() -> None:
    """Run and print."""
    parser = parser_of(__doc__)
    parser.add_argument("--points", type=int, default=10_000)
    points = parser.parse_args().points
    rate, own, peer = gemm_rate(), own_seconds(points), peer_seconds(points)
    flop = 8 * ARRAY.n_elements * ORDER
    rows = [
        [
            "isac_toolbox",
            f"{1e9 * own:.0f}",
            f"{flop / own / 1e9:.1f}",
            f"{100 * flop / own / rate:.0f} %",
            "1.0",
        ]
    ]
    if peer is not None:
        share = f"{100 * flop / peer / rate:.1f} %"
        rows.append(
            ["pyroomacoustics", f"{1e9 * peer:.0f}", f"{flop / peer / 1e9:.2f}", share, f"{peer / own:.0f}"]
        )
    title = f"MUSIC, 64 elements, 8 sources, {points} directions; matrix products at {rate / 1e9:.1f} Gflop/s"
    heads = ["", "ns / (point x frequency)", "Gflop/s", "of matrix products", "times ours"]
    print_table(title, heads, rows)
    sizes = [50_000, 200_000]
    measured = [memory_of(n) for n in sizes]
    rows = [[str(n), f"{s:.2f}", f"{1e6 * s / n:.1f}", f"{m:.0f}"] for n, (s, m) in zip(sizes, measured)]
    print_table("location spectrum, 4 users", ["points", "s", "s per 10^6", "memory MiB"], rows)
    print(f"multi-resolution search: {100 * evaluated_share():.3f} % of the finest grid evaluated")


if __name__ == "__main__":
    main()
