"""The subspace E-step against a full inverse and inverse-free updates on a grid, per sweep.

    python benchmarks/speed/baselines.py

1,024 grid points and 3 users, one thread. The E-step of every variant is timed alone, on the same working
set, after one iteration on the pilots; the channel's error is that of whole estimates of as many iterations.
"""

from __future__ import annotations

import os

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

from tables import best_seconds, parser_of, print_table

import isac_toolbox as isac
from isac_toolbox.estimators.bisvbi import BiSVBILoop
from isac_toolbox.estimators.grid import INVERSES


def sweep_seconds(inverse: str, observation: isac.UplinkObservation, grid_points: int) -> float:
    """Seconds of one sweep."""
    loop = BiSVBILoop(isac.EMTurboBiSVBI(inverse=inverse, grid_points=grid_points), observation)
    loop.setup()
    loop._e_step(loop.working, 1)
    repeats = 20 if inverse == "subspace" else 2
    return best_seconds(lambda: loop._e_step(loop.working, 1), repeats)


def main() -> None:
    """Run and print."""
    parser = parser_of(__doc__)
    parser.add_argument("--grid-points", type=int, default=1024)
    parser.add_argument("--iterations", type=int, default=4)
    parser.add_argument("--inverses", nargs="+", default=INVERSES)
    arguments = parser.parse_args()
    simulation = isac.Scenario.load("urban_uplink").simulate(seed=0)
    rows, first = [], None
    for inverse in arguments.inverses:
        seconds = sweep_seconds(inverse, simulation.observation, arguments.grid_points)
        estimator = isac.EMTurboBiSVBI(
            inverse=inverse, grid_points=arguments.grid_points, max_iter=arguments.iterations
        )
        result = estimator.estimate(simulation.observation)
        nmse = isac.metrics.channel_nmse_db(result.channel, simulation.truth.channel)
        first = seconds if first is None else first
        rows.append([inverse, f"{1e3 * seconds:.2f}", f"{seconds / first:.0f}", f"{nmse:.2f}"])
    title = f"E-step with {arguments.grid_points} grid points x 3 users, {arguments.iterations} iterations"
    print_table(title, ["inverse", "ms per sweep", "times subspace", "NMSE dB"], rows)


if __name__ == "__main__":
    main()
