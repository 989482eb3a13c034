"""From paths that NOMP found to a placed scene: lines of sight, clocks, and the likeliest points.

docs/theory.md, section 7.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from isac_toolbox.channel.atoms.dense import make_atoms
from isac_toolbox.channel.atoms.scene import LINE_OF_SIGHT, Paths, Scene, path_parameters
from isac_toolbox.estimators.scene.alternatives import (
    Alternatives,
    Lattice,
    beliefs,
    joint_points,
    length_limits_m,
)
from isac_toolbox.estimators.scene.clocks import clocks_from_shared, users_without_clock
from isac_toolbox.estimators.scene.cones import shared_places, single_bounce
from isac_toolbox.estimators.scene.fit import Fit, evaluate, residual_correlation, scene_covariance
from isac_toolbox.estimators.scene.locate import find_lines_of_sight, locate_paths, path_variance
from isac_toolbox.estimators.scene.problem import Problem
from isac_toolbox.estimators.scene.refine import refine
from isac_toolbox.estimators.scene.velocities import doppler_information, kinematics_of

__all__ = ["list_alternatives", "place_points", "release_points", "weigh_alternatives"]

RealArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
BoolArray = NDArray[np.bool_]

# Guard: nats of likelihood behind the best alternative after which one is not weighed.
_IMPOSSIBLE = 30.0
# Guard: power over the noise of a path that is known exactly.
_CERTAIN_SNR = 1e9


def place_points(fit: Fit) -> tuple[Fit, BoolArray, BoolArray]:
    """Turn a fit of unlocated paths into lines of sight, one-user points and the unlocated paths that remain.

    Without places all of them remain.

    A linear array's points may be vague, for :func:`fuse_points` to find users that agree on one;
    :func:`release_points` takes back what stays vague.

    Returns
    -------
    fit : Fit
        Refined.
    line_of_sight : ndarray of bool, shape (K,)
    seen : ndarray of bool, shape (K, S)
    """
    problem = fit.problem
    n_users = len(problem.prior.users_m)
    if not problem.prior.has_places:
        return fit, np.zeros(n_users, bool), np.zeros((n_users, 0), bool)
    sight = find_lines_of_sight(fit)
    has_sight = sight >= 0
    offsets = _offsets_of(fit, sight)
    rest = np.setdiff1d(np.arange(len(fit.paths)), sight)
    user = fit.paths.user[rest]
    parameters = fit.scene.unlocated_m[fit.paths.unlocated[rest]]
    start = Scene(fit.scene.points_m, problem.prior.users_m, offsets, parameters)
    start, lost = _with_shared_clocks(fit, start, has_sight, rest)
    points, located, of_path = _likeliest_points(fit, start, has_sight, rest, lost)
    seen = np.zeros((n_users, len(points)), bool)
    seen[user[located], of_path[located]] = True
    scene = Scene(points, start.users_m, start.offsets_m, parameters[~located])
    paths = Paths.build(has_sight, seen, user[~located])
    if problem.prior.pointing_stds is not None:
        scene = replace(scene, pointing=np.zeros(2))
    if fit.scene.motion is not None:
        source = _sources(paths, sight, rest, user, np.where(located, of_path, -1))
        scene = _moving_as_before(fit, scene, paths, source)
    precision = np.full(len(paths), float(fit.posterior.prior_precision.min(initial=1e-9)))
    return refine(evaluate(problem, scene, paths, precision), n_steps=8, tol=0.1), has_sight, seen


def _sources(paths: Paths, sight: IntArray, rest: IntArray, user: IntArray, point: IntArray) -> IntArray:
    """Path of the fit of unlocated paths that every placed path was, shape (L,).

    Of users and points (-1: none) of the paths ``rest``; of several of a user over a point the first.
    """
    of_pair = {(k, q): i for i, k, q in zip(rest[::-1], user[::-1], point[::-1], strict=True)}
    free = iter(rest[point < 0])
    targets = zip(paths.user, paths.target, strict=True)
    return np.array(
        [sight[k] if q == LINE_OF_SIGHT else of_pair[k, q] if q >= 0 else next(free) for k, q in targets],
        np.int64,
    )


def _moving_as_before(fit: Fit, scene: Scene, paths: Paths, source: IntArray) -> Scene:
    """The placed scene with the motion that the Doppler shifts of the paths tell."""
    assert fit.scene.motion is not None and fit.parameters.doppler_hz is not None
    still = fit.scene.motion.take(slice(0, 0), slice(0, 0))
    motion = still.extended(len(scene.points_m), np.zeros(len(scene.unlocated_m)))
    shifts, information = fit.parameters.doppler_hz[source], doppler_information(fit)[source]
    moving = replace(scene, motion=motion)
    return replace(scene, motion=kinematics_of(fit.problem, moving, paths, shifts, information))


def _offsets_of(fit: Fit, sight: IntArray) -> RealArray:
    """Clock offsets (K,) in metres that the lines of sight tell, the smallest of those that look the same."""
    prior, lattice = fit.problem.prior, Lattice.of(fit.problem)
    direct = np.linalg.norm(prior.users_m - fit.problem.receiver.bs_position_m, axis=1)
    offsets = np.zeros(len(direct))
    for k in np.flatnonzero((sight >= 0) & (prior.offset_stds_m > 0)):
        late = fit.scene.unlocated_m[fit.paths.unlocated[sight[k]], 0] - direct[k]
        offsets[k] = lattice.nearest(np.array([late, 0.0, 0.0]), int(k))[0]
    return offsets


def _with_shared_clocks(
    fit: Fit, start: Scene, has_sight: BoolArray, rest: IntArray
) -> tuple[Scene, BoolArray]:
    """The scene with clocks that users without a line of sight share points for, and who has none (K,)."""
    lost = users_without_clock(fit.problem, has_sight, np.zeros(len(has_sight), np.int64))
    if not lost.any() or lost.all():
        return start, lost
    points, _, _ = _likeliest_points(fit, start, has_sight, rest, lost)
    offsets, lost = clocks_from_shared(fit.problem, start, fit.paths.user[rest], points, lost)
    return replace(start, offsets_m=offsets), lost


def _likeliest_points(
    fit: Fit, start: Scene, has_sight: BoolArray, rest: IntArray, lost: BoolArray
) -> tuple[RealArray, BoolArray, IntArray]:
    """Points (S, 3), which of the paths ``rest`` of a fit run over one, (P,), and over which, (P,).

    Of several places that look the same that one is taken which is likelier than all others together. Linear
    arrays share points between paths where they may. Users that are lost (K,) have no clock to locate by.
    """
    user, problem = fit.paths.user[rest], fit.problem
    gains = np.abs(fit.posterior.mean[rest]) ** 2
    snr = problem.noise_precision * problem.user_energies[user] * gains
    if not all(problem.receiver.array.sees_cosines):
        return _points_of_cones(problem, start, user, snr, lost)
    alternatives = list_alternatives(problem, start, start.unlocated_m, user, snr)
    alternatives = alternatives.only(~lost[user[alternatives.path]])
    believed = np.ones(len(alternatives.path))
    if np.any(alternatives.counts(rest.size) > 1):
        none_seen = np.zeros((len(has_sight), 0), bool)
        paths = Paths.build(has_sight, none_seen, user)
        precision = np.full(len(paths), float(fit.posterior.prior_precision.min(initial=1e-9)))
        alone = replace(start, points_m=np.zeros((0, 3)))
        believed = weigh_alternatives(evaluate(problem, alone, paths, precision), alternatives)
        believed[alternatives.counts(rest.size)[alternatives.path] == 1] = 1.0
    taken = believed > 0.5
    of_path = np.full(rest.size, -1)
    of_path[alternatives.path[taken]] = np.arange(np.count_nonzero(taken))
    return alternatives.points_m[taken], of_path >= 0, of_path


def list_alternatives(
    problem: Problem, scene: Scene, parameters: RealArray, user: IntArray, snr: RealArray, spread: float = 0.0
) -> Alternatives:
    """Return all single-bounce points in the region of paths (P,) and of those that look the same.

    Paths that look like too many others have none.

    Arguments as of :func:`locate_paths`.
    """
    if not problem.prior.has_places:
        return Alternatives(np.zeros(0, np.int64), np.zeros((0, 3)), np.zeros((0, 3)))
    limits_m = length_limits_m(problem, scene.users_m) + problem.length_cell_m * np.array([-1.0, 1.0])
    lattice, lengths = Lattice.of(problem), parameters[:, 0] - scene.offsets_m[user]
    within = (limits_m[user, 0] <= lengths) & (lengths <= limits_m[user, 1])
    if within.all() and lattice.has_none(limits_m):
        points, located = locate_paths(problem, scene, parameters, user, snr, spread)
        return Alternatives(np.flatnonzero(located), parameters[located], points[located])
    clock = np.zeros((len(user), 3))
    clock[:, 0] = scene.offsets_m[user]
    path, shifted = lattice.shifts(parameters - clock, user, limits_m)
    observed = shifted + clock[path]
    observed = np.where((shifted == (parameters - clock)[path]), parameters[path], observed)
    points, located = locate_paths(problem, scene, observed, user[path], snr[path], spread)
    return Alternatives(path[located], observed[located], points[located]).of_few_paths()


def weigh_alternatives(fit: Fit, alternatives: Alternatives) -> RealArray:
    """Return the probability of each alternative of the unlocated paths of a fit, shape (A,)."""
    likelihood = _log_likelihoods(fit, alternatives)
    highest = np.full(len(fit.scene.unlocated_m), -np.inf)
    np.maximum.at(highest, alternatives.path, likelihood)
    possible = likelihood > highest[alternatives.path] - _IMPOSSIBLE
    kept = alternatives.only(possible)
    users = fit.paths.user[fit.paths.is_unlocated][kept.path]
    covariance, density = joint_points(
        fit.problem, fit.scene, scene_covariance(fit), kept.points_m, users, kept.path
    )
    believed = np.zeros(len(possible))
    believed[possible] = beliefs(fit.problem, kept, users, covariance, density, likelihood[possible])
    return believed


def _log_likelihoods(fit: Fit, alternatives: Alternatives) -> RealArray:
    """Log likelihood of every alternative in the place of its path, relative to the path, shape (A,).

    Zero for planar waves without beam squint, up to rounding; curved wavefronts and squint tell more.
    """
    problem, own = fit.problem, np.flatnonzero(fit.paths.is_unlocated)
    n, users = len(alternatives.path), fit.paths.user[own]
    seen = np.zeros((len(fit.scene.users_m), n), bool)
    seen[users[alternatives.path], np.arange(n)] = True
    scene = replace(fit.scene, points_m=alternatives.points_m, motion=None)
    paths = Paths.build(np.zeros(len(seen), bool), seen, users)
    atoms = make_atoms(path_parameters(scene, paths, problem.receiver), paths, problem.receiver)
    gram = problem.statistics.gram(atoms)
    left, gains = atoms.correlate(residual_correlation(fit)), fit.posterior.mean[own]
    path = np.concatenate([alternatives.path, np.arange(own.size)])
    matched = left + gram[np.arange(path.size), n + path] * gains[path]
    power = np.abs(matched) ** 2 / np.real(np.diagonal(gram))
    return np.asarray(problem.noise_precision * (power[:n] - power[n + alternatives.path]))


def _points_of_cones(
    problem: Problem, start: Scene, user: IntArray, snr: RealArray, lost: BoolArray
) -> tuple[RealArray, BoolArray, IntArray]:
    """Points, located paths and their points, as :func:`_likeliest_points`, for a linear array."""
    parameters = start.unlocated_m
    points, located = locate_paths(problem, start, parameters, user, snr, vague=True)
    located &= ~lost[user]
    variance = path_variance(problem, user, snr, 0.0)
    lengths = parameters[:, 0] - start.offsets_m[user]
    group = np.full(len(user), -1)
    group[located], places = shared_places(
        problem,
        start.users_m[user[located]],
        lengths[located],
        parameters[located, 1:],
        variance[located],
        user[located],
    )
    alone = located & (group < 0)
    of_path = np.where(alone, len(places) + np.cumsum(alone) - 1, group)
    return np.vstack([places, points[alone]]), located, of_path


def release_points(
    problem: Problem, scene: Scene, seen: BoolArray, unlocated_user: IntArray
) -> tuple[Scene, BoolArray, IntArray]:
    """Turn points of one user (of ``seen``, (K, S)) that a linear array leaves vague into unlocated paths.

    Returns
    -------
    scene : Scene
    seen : ndarray of bool, shape (K, S')
    unlocated_user : ndarray of int, shape (F',)
    """
    sees = problem.receiver.array.sees_cosines
    if all(sees) or not seen.shape[1]:
        return scene, seen, unlocated_user
    user = np.argmax(seen, axis=0)
    parameters = single_bounce(problem, scene.points_m, scene.users_m[user])
    parameters = np.where([True, *sees], parameters, 0.0)
    parameters[:, 0] += scene.offsets_m[user]
    _, located = locate_paths(problem, scene, parameters, user, np.full(user.size, _CERTAIN_SNR))
    kept = located | (np.count_nonzero(seen, axis=0) > 1)
    released = scene.take(points=kept).extended(
        np.zeros((0, 3)), parameters[~kept], problem.further_hz(scene, user[~kept])
    )
    return released, seen[:, kept], np.concatenate([unlocated_user, user[~kept]])
