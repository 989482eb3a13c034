"""The subspace E-step against a full inverse and inverse-free updates, and a pursuit against PyLops' OMP.

    pip install pylops
    python benchmarks/speed/baselines.py

1,024 grid points and 3 users, one thread. The E-step of every variant is timed alone, on the same working
set, after one iteration on the pilots; the channel's error is that of whole estimates of as many iterations.
The pursuit is that of one user's pilots on the same grid: so many rounds of strongest atom and least squares.
Both have the dictionary before the clock starts, PyLops as a matrix (N M, G), ours as delays and responses.
"""

from __future__ import annotations

import os

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import numpy as np
from tables import best_seconds, parser_of, print_table

import isac_toolbox as isac
from isac_toolbox.estimators.baselines.omp import _least_squares, strongest_point
from isac_toolbox.estimators.bisvbi import BiSVBILoop
from isac_toolbox.estimators.grid.e_step import INVERSES
from isac_toolbox.estimators.grid.points import GridAtoms, LocationGrid
from isac_toolbox.estimators.scene.fit import residual_correlation
from isac_toolbox.estimators.scene.problem import Problem
from isac_toolbox.estimators.symbols.block import ReceivedBlock


def sweep_seconds(inverse: str, observation: isac.UplinkObservation, grid_points: int) -> float:
    """Seconds of one sweep."""
    loop = BiSVBILoop(isac.EMTurboBiSVBI(inverse=inverse, grid_points=grid_points), observation)
    loop.setup()
    loop._e_step(loop.working, 1)
    repeats = 20 if inverse == "subspace" else 2
    return best_seconds(lambda: loop._e_step(loop.working, 1), repeats)


def own_pursuit(problem: Problem, grid: GridAtoms, n_rounds: int) -> np.ndarray:
    """Indices of the grid points chosen one after another for the only user of a problem."""
    every, nobody = grid.grid.points(), np.zeros(1, bool)
    chosen = np.zeros(0, np.int64)
    residual = problem.statistics.cross_correlation
    for _ in range(n_rounds):
        point, _ = strongest_point(grid, residual, problem.user_energies, 0.0)
        chosen = np.append(chosen, np.argmin(np.sum((every - point) ** 2, axis=1)))
        seen = np.ones((1, chosen.size), bool)
        fit = _least_squares(problem, every[chosen], np.zeros(1), nobody, seen)
        residual = residual_correlation(fit)
    return chosen


def pursuit_rows(observation: isac.UplinkObservation, grid_points: int, n_rounds: int) -> list[list[str]]:
    """Milliseconds of a pursuit here and in PyLops; without PyLops one row."""
    problem = Problem.on_pilots(observation, ReceivedBlock.of(observation)).of_user(0)
    grid = LocationGrid.of_size(problem.region_m, grid_points)
    start = _least_squares(problem, np.zeros((0, 3)), np.zeros(1), np.zeros(1, bool), np.zeros((1, 0), bool))
    atoms = GridAtoms(grid, start.scene, problem.receiver)
    own = own_pursuit(problem, atoms, n_rounds)
    own_seconds = best_seconds(lambda: own_pursuit(problem, atoms, n_rounds), 10)
    rows = [["isac_toolbox", f"{1e3 * own_seconds:.1f}", "1.0", ""]]
    try:
        from pylops import MatrixMult
        from pylops.optimization.sparsity import omp
    except ImportError:
        return rows
    columns = [np.einsum("nl,lm->nml", a.delay, a.steering[0]) for _, a in atoms]
    dictionary = np.concatenate(columns, axis=2)
    operator = MatrixMult(dictionary.reshape(-1, dictionary.shape[2]), dtype=np.complex128)
    energy = np.real(problem.statistics.symbol_gram[:, 0, 0])
    samples = (problem.statistics.cross_correlation[0] / energy[:, None]).ravel()
    peer = lambda: omp(operator, samples, niter_outer=n_rounds, sigma=0.0)  # noqa: E731
    same = np.intersect1d(own, np.flatnonzero(peer()[0])).size
    peer_seconds = best_seconds(peer, 5)
    agreement = f"{same} of {n_rounds}"
    return [*rows, ["PyLops", f"{1e3 * peer_seconds:.1f}", f"{peer_seconds / own_seconds:.1f}", agreement]]


def main() -> None:
    """Run and print."""
    parser = parser_of(__doc__)
    parser.add_argument("--grid-points", type=int, default=1024)
    parser.add_argument("--iterations", type=int, default=4)
    parser.add_argument("--inverses", nargs="*", default=INVERSES)
    parser.add_argument("--rounds", type=int, default=12)
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
    rows = pursuit_rows(simulation.observation, arguments.grid_points, arguments.rounds)
    title = f"pursuit of {arguments.rounds} atoms of one user on {arguments.grid_points} grid points"
    print_table(title, ["", "ms", "times ours", "same points"], rows)


if __name__ == "__main__":
    main()
