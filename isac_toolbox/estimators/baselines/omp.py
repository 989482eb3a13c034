"""Orthogonal matching pursuit on a location grid, all users together: the textbook baseline."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from time import perf_counter

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar

from isac_toolbox._threads import bounded_threads
from isac_toolbox._validation import check_integer, check_positive
from isac_toolbox.channel.atoms.scene import Paths, Scene
from isac_toolbox.channel.observation import UplinkObservation
from isac_toolbox.estimators.baselines.channel_only import check_observation
from isac_toolbox.estimators.grid.points import GridAtoms, LocationGrid
from isac_toolbox.estimators.many import ManyBlocks
from isac_toolbox.estimators.result import EstimationResult
from isac_toolbox.estimators.scene.assemble import Outcome, build_result
from isac_toolbox.estimators.scene.caveats import taken_as_static, unseen_cosines
from isac_toolbox.estimators.scene.channel_estimate import ChannelEstimate
from isac_toolbox.estimators.scene.fit import Fit, completed, evaluate, residual_correlation
from isac_toolbox.estimators.scene.problem import Problem, with_noise_precision
from isac_toolbox.estimators.scene.scene_estimate import SceneEstimate
from isac_toolbox.estimators.scene.silence import without_zeros
from isac_toolbox.estimators.search import PathSearch
from isac_toolbox.estimators.symbols.detection import ChannelKnowledge, detect
from isac_toolbox.inference.turbo import TurboLoop

__all__ = ["OMP", "strongest_point"]

RealArray = NDArray[np.float64]
BoolArray = NDArray[np.bool_]

# Guard: prior precision of a path of a unit-power block that leaves its gain free.
_WEAK_PRECISION = 1e-9
# Tuned: default step of the grid, in resolution cells.
_STEP_CELLS = 0.5
# Cost cap: points of the default grid; beyond, its steps grow.
_MAX_DEFAULT_POINTS = 200_000
# Tuned: half width of the scan for a clock offset, in deviations of the clock.
_OFFSET_STDS = 4.0
# Tuned: steps of that scan per resolution cell.
_OFFSETS_PER_CELL = 16
# Cost cap: steps of that scan.
_MAX_OFFSETS = 4096


@dataclass(frozen=True)
class OMP(ManyBlocks):
    """Simultaneous orthogonal matching pursuit over users on a grid of locations, from the pilots.

    Lines of sight from the nominal positions come first and give the clocks; then the grid point with the
    greatest residual correlation summed over users joins, for the users in whom it exceeds the threshold,
    and all gains are fitted anew. Positions stay on the grid and users where they are nominally, so the
    error is that of the grid: paths between grid points take several of them. Every point found is reported
    with probability one, as the method has no other.

    Parameters
    ----------
    grid_step_m : float, optional
        Largest distance of neighbouring grid points. Half the resolution in path length if not given, more
        where the region would take over 200,000 points.
    false_alarm_rate : float
        Per user and round, in (0, 1).
    max_points : int
        Largest number of grid points chosen.

    Raises
    ------
    TypeError, ValueError
        For a setting of the wrong type or out of range.

    Notes
    -----
    Tropp, Gilbert, Strauss, Signal Processing 86(3), 2006 (simultaneous OMP); docs/theory.md, "Baselines
    on a grid". The grid is streamed in blocks: memory does not grow with it.
    """

    grid_step_m: float | None = None
    false_alarm_rate: float = 1e-2
    max_points: int = 60

    def __post_init__(self) -> None:
        if self.grid_step_m is not None:
            check_positive("grid_step_m", self.grid_step_m)
        check_positive("false_alarm_rate", self.false_alarm_rate)
        if self.false_alarm_rate >= 1:
            raise ValueError(f"false_alarm_rate must lie in (0, 1), got {self.false_alarm_rate!r}")
        check_integer("max_points", self.max_points, 1)

    def estimate(
        self, obs: UplinkObservation, *, callback: Callable[[TurboLoop], bool | None] | None = None
    ) -> EstimationResult:
        """Estimate from one block; ``callback`` is never called, as there is no loop to watch.

        Raises
        ------
        TypeError
            If ``obs`` is not an observation.
        ValueError
            If a user has no usable pilot, or places are not given.
        """
        del callback
        check_observation(obs)
        obs.geometry_for("OMP")
        with bounded_threads(1):
            return self._estimate(obs)

    def _estimate(self, obs: UplinkObservation) -> EstimationResult:
        start = perf_counter()
        obs, block, warnings = without_zeros(obs)
        problem = Problem.on_pilots(obs, block)
        grid = self._grid(problem)
        problem, fit = self._pursue(problem, PathSearch.for_observation(obs), grid)
        channel = ChannelKnowledge.from_paths(
            fit.atoms, fit.posterior.mean, fit.posterior.covariance, obs.n_users
        )
        detection = detect(block, channel, 1 / problem.noise_precision, joint=False)
        sight, seen, _ = fit.paths.membership(obs.n_users, len(fit.scene.points_m))
        estimate = ChannelEstimate.of_fit(fit, obs.n_users).in_units(block.scale)
        scene = SceneEstimate.certain(fit, block.scale, sight, seen)
        within_cell = np.diag(grid.step_m**2 / 12)
        scene = replace(scene, scatterer_covariance_m2=scene.scatterer_covariance_m2 + within_cell)
        seconds, said = perf_counter() - start, [*warnings, *unseen_cosines(obs.array), *taken_as_static(obs)]
        outcome = Outcome.finished(estimate.noise_variance, len(fit.paths), seconds, said)
        return build_result("OMP", estimate, scene, detection, outcome)

    def _grid(self, problem: Problem) -> LocationGrid:
        if self.grid_step_m is not None:
            return LocationGrid.of_step(problem.region_m, self.grid_step_m)
        volume = float(np.prod(problem.region_m[1] - problem.region_m[0]))
        step = max(_STEP_CELLS * problem.length_cell_m, float(np.cbrt(volume / _MAX_DEFAULT_POINTS)))
        return LocationGrid.of_step(problem.region_m, step)

    def _pursue(self, problem: Problem, search: PathSearch, grid: LocationGrid) -> tuple[Problem, Fit]:
        """Choose points until no user's residual exceeds the threshold anywhere on the grid."""
        problem, threshold = self._threshold(problem, search, problem.statistics.cross_correlation)
        offsets, sight = lines_of_sight(problem, threshold)
        points, seen = np.zeros((0, 3)), np.zeros((offsets.size, 0), bool)
        fit = _least_squares(problem, points, offsets, sight, seen)
        atoms = GridAtoms(grid, fit.scene, problem.receiver)
        while True:
            residual = residual_correlation(fit)
            problem, threshold = self._threshold(problem, search, residual)
            chosen, above = strongest_point(atoms, residual, problem.user_energies, threshold)
            points, seen, grew = _joined(points, seen, chosen, above)
            if not grew or len(points) > self.max_points:
                break
            fit = completed(_least_squares(problem, points, offsets, sight, seen))
            problem = fit.problem
        fit = evaluate(problem, fit.scene, fit.paths, fit.posterior.prior_precision)
        return problem, completed(fit)

    def _threshold(
        self, problem: Problem, search: PathSearch, residual: NDArray[np.complex128]
    ) -> tuple[Problem, float]:
        """The problem at the residual's noise level, and the constant false-alarm threshold."""
        if not problem.noise_known:
            level = search.user_noise_level(residual, problem.user_energies)
            problem = with_noise_precision(problem, 1 / level)
        return problem, search.threshold(1 / problem.noise_precision, self.false_alarm_rate)


def strongest_point(
    grid: GridAtoms, residual: NDArray[np.complex128], energies: RealArray, threshold: float
) -> tuple[RealArray, BoolArray]:
    """Return grid point of the greatest matched-filter power over users, and the users above the threshold.

    ``sum_k |phi_kg^H E_k|^2 / |phi_k|^2`` with ``phi_kg^H E_k = sum_n conj(b_n) a^H E_kn``, block by block.
    Points at which no user is above the threshold do not count; without any the users returned are none.

    Parameters
    ----------
    grid : GridAtoms
    residual : ndarray of complex, shape (K, N, M)
    energies : ndarray, shape (K,)
        Squared norms ``|phi_k|^2`` of the users' atoms.
    threshold : float
        Of one user's power.

    Returns
    -------
    point_m : ndarray, shape (3,)
    above : ndarray of bool, shape (K,)
    """
    best, point, above = 0.0, np.full(3, np.nan), np.zeros(energies.size, bool)
    for points, atoms in grid:
        power = (np.abs(atoms.correlate(residual)) ** 2).reshape(-1, energies.size) / energies
        total = np.where(np.any(power > threshold, axis=1), power.sum(axis=1), 0.0)
        first = int(np.argmax(total))
        if total[first] > best:
            best, point, above = float(total[first]), points[first], power[first] > threshold
    return point, above


def _joined(
    points: RealArray, seen: BoolArray, chosen: RealArray, above: BoolArray
) -> tuple[RealArray, BoolArray, bool]:
    """Points and visibility with the chosen point, and whether that added any path."""
    known = np.flatnonzero(np.all(points == chosen, axis=1))
    if known.size:
        joined = seen.copy()
        joined[:, known[0]] |= above
        return points, joined, bool(np.any(joined != seen))
    if not above.any():
        return points, seen, False
    return np.vstack([points, chosen]), np.column_stack([seen, above]), True


def _least_squares(
    problem: Problem, points: RealArray, offsets: RealArray, sight: BoolArray, seen: BoolArray
) -> Fit:
    """All gains fitted anew at fixed places."""
    scene = Scene(points, problem.prior.users_m, offsets, np.zeros((0, 3)))
    paths = Paths.build(sight, seen, np.zeros(0, np.int64))
    return evaluate(problem, scene, paths, np.full(len(paths), _WEAK_PRECISION))


def lines_of_sight(problem: Problem, threshold: float) -> tuple[RealArray, BoolArray]:
    """Return the clock offsets, as lengths, and which lines of sight exceed the threshold, each (K,).

    The greatest of ``gamma |phi(c delta)^H Z_k|^2 / |phi|^2 - 1/2 (delta / sd)^2`` on a fine scan of four
    deviations of the clock along the nominal direction, then between the neighbours of the maximum.
    """
    n_users = len(problem.prior.users_m)
    offsets, sight = np.zeros(n_users), np.zeros(n_users, bool)
    if not problem.prior.has_line_of_sight:
        return offsets, sight
    seen = Paths.build(np.ones(n_users, bool), np.zeros((n_users, 0), bool), np.zeros(0, np.int64))
    nominal = Scene(np.zeros((0, 3)), problem.prior.users_m, offsets, np.zeros((0, 3)))
    direct = evaluate(problem, nominal, seen, np.full(n_users, _WEAK_PRECISION))
    for k in range(n_users):
        atom = direct.atoms.take(np.array([k]))
        profile = np.sum(problem.statistics.cross_correlation[k] * atom.steering[0, 0].conj(), axis=1)
        offsets[k], power = _offset(problem, k, profile * atom.delay[:, 0].conj())
        sight[k] = power > threshold
    return np.where(sight, offsets, 0.0), sight


def _offset(problem: Problem, user: int, profile: NDArray[np.complex128]) -> tuple[float, float]:
    """Clock offset of one user from its matched profile over subcarriers (N,), and the power there."""
    std = float(problem.prior.offset_stds_m[user])
    wavenumbers, energy = problem.receiver.wavenumbers_per_m, problem.user_energies[user]

    def power(offset: RealArray | float) -> RealArray:
        response = np.exp(1j * np.multiply.outer(offset, wavenumbers)) @ profile
        return np.abs(response) ** 2 / energy

    if std == 0:
        return 0.0, float(power(0.0))

    def score(offset: RealArray | float) -> RealArray:
        return problem.noise_precision * power(offset) - 0.5 * (np.asarray(offset) / std) ** 2

    span = _OFFSET_STDS * std
    n_steps = int(np.clip(2 * span / problem.length_cell_m * _OFFSETS_PER_CELL, 2, _MAX_OFFSETS))
    scan, step = np.linspace(-span, span, n_steps + 1, retstep=True)
    best = scan[np.argmax(score(scan))]
    found = minimize_scalar(
        lambda offset: -float(score(offset)), bounds=(best - step, best + step), method="bounded"
    )
    return float(found.x), float(power(found.x))
