"""From paths to places: lines of sight, single-bounce points, and fusion of users' points.

docs/theory.md, section 7.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from isac_toolbox.channel.atoms.dense import make_atoms
from isac_toolbox.channel.atoms.scene import Paths, Scene, path_parameters
from isac_toolbox.channel.geometry import bistatic_point_m, unit_vectors
from isac_toolbox.estimators._search_kernels import pair_evidence
from isac_toolbox.estimators.scene.alternatives import (
    Lattice,
)
from isac_toolbox.estimators.scene.cones import (
    points_on_cones,
    prior_length_variance,
    single_bounce,
)
from isac_toolbox.estimators.scene.fit import Fit, scene_covariance
from isac_toolbox.estimators.scene.problem import Problem

__all__ = [
    "NominalSight",
    "SightMisfit",
    "arrival_directions",
    "coincidence_evidence",
    "condition_on_coincidence",
    "find_lines_of_sight",
    "fuse_points",
    "locate_paths",
    "path_snr",
    "path_variance",
]

RealArray = NDArray[np.float64]
ComplexArray = NDArray[np.complex128]
IntArray = NDArray[np.int64]
BoolArray = NDArray[np.bool_]

# Tuned: squared Mahalanobis distance of a line of sight from its prior; 25 of three unknowns loses 1 in
# 60,000.
_LINE_OF_SIGHT_GATE = 25.0
# Tuned: squared Mahalanobis distance of a path from the border of the region that still explains it.
_BORDER_GATE = 9.0
# Mathematics: variance of a parameter in cells at an SNR of one; the main lobe falls as 1 - pi^2 x^2 / 3.
_MAIN_LOBE_VARIANCE = 3 / (2 * np.pi**2)


def find_lines_of_sight(fit: Fit) -> IntArray:
    """Return the unlocated path that is each user's line of sight, -1 where none fits, shape (K,).

    A path fits when its length and direction, or those of a path that looks the same, agree with the user's
    nominal position and clock within their priors and the path's own uncertainty (chi-square of three); of
    several the strongest is taken. A cosine that the array does not see is not compared.
    """
    problem, lattice = fit.problem, Lattice.of(fit.problem)
    prior = problem.prior
    chosen = np.full(len(prior.users_m), -1)
    if not prior.has_line_of_sight:
        return chosen
    covariance = scene_covariance(fit)
    strength = np.abs(fit.posterior.mean) ** 2
    for k in range(len(chosen)):
        line = NominalSight.of(problem, k)
        best = -1.0
        for i in np.flatnonzero(fit.paths.user == k):
            if strength[i] <= best:
                continue
            if line.misfit(fit, int(i), covariance, lattice).squared < _LINE_OF_SIGHT_GATE:
                best, chosen[k] = strength[i], i
    return chosen


@dataclass(frozen=True, eq=False)
class SightMisfit:
    """How far an unlocated path is from its user's line of sight.

    Attributes
    ----------
    problem : Problem
    expected, difference : ndarray, shape (3,)
        Length and direction cosines of the line of sight, and what the path, or one that looks the same, has
        beyond them.
    spread : ndarray, shape (3, 3)
        Covariance of the difference.
    """

    problem: Problem
    expected: RealArray
    difference: RealArray
    spread: RealArray

    @property
    def _compared(self) -> IntArray:
        return np.flatnonzero([True, *self.problem.receiver.array.sees_cosines])

    @property
    def squared(self) -> float:
        """Squared Mahalanobis distance of length and direction."""
        return self._distance(self._compared)

    @property
    def direction_squared(self) -> float:
        """Squared Mahalanobis distance of the direction alone."""
        return self._distance(self._compared[1:])

    def _distance(self, which: IntArray) -> float:
        if not which.size:
            return 0.0
        return _squared_distance(self.difference[which], self.spread[np.ix_(which, which)])

    @property
    def late_m(self) -> float:
        """Length beyond that of the nominal line of sight."""
        return float(self.difference[0])

    @property
    def place_m(self) -> RealArray | None:
        """Where the user would be if the path were its line of sight and its clock right, shape (3,)."""
        length, *cosines = self.expected + self.difference
        towards, valid = arrival_directions(self.problem, np.array([cosines]))
        if not (valid[0] and length > 0 and self._compared.size == 3):
            return None
        return np.asarray(self.problem.receiver.bs_position_m + length * towards[0])


@dataclass(frozen=True, eq=False)
class NominalSight:
    """Where the priors say that a user's line of sight is.

    Attributes
    ----------
    problem : Problem
    user : int
    expected : ndarray, shape (3,)
        Length and direction cosines.
    spread : ndarray, shape (3, 3)
        Their covariance by the priors of place and clock.
    """

    problem: Problem
    user: int
    expected: RealArray
    spread: RealArray

    @classmethod
    def of(cls, problem: Problem, user: int) -> NominalSight:
        """Return the line of sight of a user by its priors."""
        prior, array = problem.prior, problem.receiver.array
        direction, distance = unit_vectors(problem.receiver.bs_position_m, prior.users_m[user])
        cosines = np.array(array.direction_cosines(direction))
        in_cosines = (array.axes[1:] - cosines[:, None] * direction) / distance
        jacobian = np.vstack([direction, in_cosines])
        spread = jacobian @ np.diag(prior.user_stds_m[user] ** 2) @ jacobian.T
        spread[0, 0] += prior.offset_stds_m[user] ** 2
        return cls(problem, user, np.array([distance, *cosines]), spread)

    def misfit(self, fit: Fit, path: int, covariance: RealArray, lattice: Lattice) -> SightMisfit:
        """Return how far an unlocated path of a fit is from this line of sight.

        Parameters
        ----------
        fit : Fit
        path : int
            Index among its paths.
        covariance : ndarray, shape (P, P)
            Of the fit's scene.
        lattice : Lattice
        """
        row = int(fit.paths.unlocated[path])
        first = fit.scene.blocks()[3].start + 3 * row
        own = covariance[first : first + 3, first : first + 3]
        difference = lattice.nearest(fit.scene.unlocated_m[row] - self.expected, self.user)
        return SightMisfit(self.problem, self.expected, difference, self.spread + own)


def _squared_distance(difference: RealArray, covariance: RealArray) -> float:
    """Mahalanobis distance, squared, of quantities of different units; safe for a singular covariance."""
    deviation = np.sqrt(np.maximum(np.diag(covariance), 1e-300))
    scaled = difference / deviation
    correlation = covariance / np.outer(deviation, deviation)
    return float(scaled @ np.linalg.pinv(correlation, hermitian=True) @ scaled)


def arrival_directions(problem: Problem, cosines: RealArray) -> tuple[RealArray, BoolArray]:
    """Return unit vectors (P, 3) in front of the array from direction cosines (P, 2), and which are valid."""
    squared = np.sum(cosines**2, axis=1)
    valid = squared < 1
    forward = np.sqrt(np.maximum(1 - squared, 0.0))
    return np.column_stack([forward, cosines]) @ problem.receiver.array.axes, valid


def locate_paths(
    problem: Problem,
    scene: Scene,
    parameters: RealArray,
    user: IntArray,
    snr: RealArray,
    spread: float = 0.0,
    vague: bool = False,
) -> tuple[RealArray, BoolArray]:
    """Return the single-bounce points (P, 3) of observed (length, u_h, u_v), and which lie in the region.

    A point outside the region moves onto its border where that explains the path as well: where length and
    direction change by less than their own spread and that of the user's place and clock.

    For a linear array a path is a cone, which meets the ellipsoid of its length in a curve: it is located
    where the curve has no more than a resolution cell of length in the region. A single antenna locates none.

    Parameters
    ----------
    problem : Problem
    scene : Scene
        Of which users and offsets are read.
    parameters : ndarray, shape (P, 3)
    user : ndarray of int, shape (P,)
    snr : ndarray, shape (P,)
        Matched-filter power of the paths over the noise, which says how well their parameters are known.
    spread : float
        Further variance of the parameters, in squared resolution cells.
    vague : bool
        Locate a linear array's paths however much of their curves lies in the region, near its middle.
    """
    if not all(problem.receiver.array.sees_cosines):
        variance = path_variance(problem, user, snr, spread)
        lengths = parameters[:, 0] - scene.offsets_m[user]
        points, extent = points_on_cones(
            problem, scene.users_m[user], lengths, parameters[:, 1:], variance, _BORDER_GATE
        )
        return points, extent < np.inf if vague else extent <= problem.length_cell_m
    directions, valid = arrival_directions(problem, parameters[:, 1:])
    lengths = parameters[:, 0] - scene.offsets_m[user]
    bs = problem.receiver.bs_position_m
    points, exists = bistatic_point_m(directions, lengths, scene.users_m[user], bs)
    variance = path_variance(problem, user, snr, spread)
    observed = np.column_stack([lengths, parameters[:, 1:]])
    nearest, distance = points, np.full(len(points), np.inf)
    for candidate in _points_of_region(points, directions, bs, problem.region_m):
        change = single_bounce(problem, candidate, scene.users_m[user]) - observed
        squared = np.sum(change**2 / variance, axis=1)
        closer = squared < distance
        nearest = np.where(closer[:, None], candidate, nearest)
        distance = np.where(closer, squared, distance)
    return nearest, valid & exists & (distance < _BORDER_GATE)


def path_variance(problem: Problem, user: IntArray, snr: RealArray, spread: float) -> RealArray:
    """Variance (P, 3) of length and direction cosines, that of the users' places and clocks included."""
    variance = (_MAIN_LOBE_VARIANCE / np.maximum(snr, 1e-9)[:, None] + spread) * problem.path_cells**2
    variance[:, 0] += prior_length_variance(problem)[user]
    return np.asarray(variance)


def _points_of_region(
    points: RealArray, directions: RealArray, bs: RealArray, region_m: RealArray
) -> Iterator[RealArray]:
    """Points (P, 3) of the region near those given: beside them, and along the ray from the base station."""
    yield np.clip(points, *region_m)
    with np.errstate(divide="ignore", over="ignore", invalid="ignore"):
        crossings = (region_m[:, None] - bs) / directions
    entry = np.nanmax(np.min(crossings, axis=0), axis=1, initial=0.0)
    leave = np.nanmin(np.max(crossings, axis=0), axis=1, initial=np.inf)
    reach = np.clip(np.linalg.norm(points - bs, axis=1), entry, np.maximum(leave, entry))
    with np.errstate(invalid="ignore"):  # a ray along an axis never enters a region beside it
        ends = bs + reach[:, None] * directions
    yield np.clip(ends, *region_m)


def path_snr(
    problem: Problem, scene: Scene, parameters: RealArray, user: IntArray, residual: ComplexArray
) -> RealArray:
    """Return the matched-filter power over the noise of paths (P,) in a residual correlation (K, N, M)."""
    alone = Scene(np.zeros((0, 3)), scene.users_m, scene.offsets_m, parameters)
    n_users = len(scene.users_m)
    paths = Paths.build(np.zeros(n_users, bool), np.zeros((n_users, 0), bool), user)
    atoms = make_atoms(path_parameters(alone, paths, problem.receiver), paths, problem.receiver)
    power = np.abs(atoms.correlate(residual)) ** 2 / problem.user_energies[user]
    return np.asarray(problem.noise_precision * power)


def fuse_points(fit: Fit, seen: BoolArray) -> tuple[Scene, BoolArray]:
    """Merge points of different users where the evidence prefers one point to two.

    The points' joint Gaussian comes from the inverse Gauss-Newton matrix; a merge conditions it on
    coincidence. Two points at a difference ``d`` of covariance ``V`` merge when
    ``ln(volume) - 1/2 ln det(2 pi V) - 1/2 d^T V^-1 d`` is positive: the likelihood of coincidence against
    independent positions in the region.

    Returns
    -------
    scene : Scene
    seen : ndarray of bool, shape (K, S)
    """
    mean, covariance, region_m = fit.scene.vector(), scene_covariance(fit), fit.problem.region_m
    log_volume = float(np.sum(np.log(region_m[1] - region_m[0])))
    alive = np.arange(seen.shape[1])
    seen = seen.copy()
    while alive.size > 1:
        evidence = coincidence_evidence(mean, covariance, alive, log_volume)
        shared = seen[:, alive].astype(int)
        evidence[shared.T @ shared > 0] = -np.inf
        first, second = np.unravel_index(np.argmax(evidence), evidence.shape)
        if evidence[first, second] <= 0:
            break
        kept, gone = int(alive[first]), int(alive[second])
        mean, covariance = condition_on_coincidence(mean, covariance, kept, gone)
        seen[:, kept] |= seen[:, gone]
        alive = np.delete(alive, second)
    scene = fit.scene.with_vector(mean).take(alive)
    return replace(scene, points_m=np.clip(scene.points_m, *region_m)), seen[:, alive]


def coincidence_evidence(
    mean: RealArray, covariance: RealArray, points: IntArray, log_volume: float
) -> RealArray:
    """Return the log evidence that two points are one, for every pair, from their joint Gaussian.

    Returns
    -------
    ndarray, shape (S, S)
        ``ln(volume) - 1/2 ln det(2 pi V) - 1/2 d^T V^-1 d`` above the diagonal, ``-inf`` elsewhere.
    """
    evidence = np.full((points.size, points.size), -np.inf)
    i, j = np.triu_indices(points.size, 1)
    if not i.size:
        return evidence
    evidence[i, j] = log_volume + pair_evidence(mean, covariance, points, i, j)
    return evidence


def condition_on_coincidence(
    mean: RealArray, covariance: RealArray, kept: int, gone: int
) -> tuple[RealArray, RealArray]:
    """Return the joint Gaussian given that two points are one (a Kalman update with an exact observation)."""
    a, b = 3 * kept + np.arange(3), 3 * gone + np.arange(3)
    across = covariance[:, a] - covariance[:, b]
    spread = across[a] - across[b]
    weight = np.linalg.solve(spread, across.T).T
    return mean - weight @ (mean[a] - mean[b]), covariance - weight @ across.T
