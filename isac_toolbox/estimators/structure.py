"""Changes of the scene's structure: removal, birth from the residual, merging by evidence.

docs/theory.md, section 6.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from isac_toolbox.channel.scene import Paths, Scene
from isac_toolbox.estimators.gauss_newton import (
    Fit,
    Problem,
    evaluate,
    normal_equations,
    refine,
    residual_correlation,
    scene_covariance,
)
from isac_toolbox.estimators.locate import coincidence_evidence, condition_on_coincidence, locate_paths
from isac_toolbox.estimators.search import PathSearch
from isac_toolbox.estimators.working_set import WorkingSet

__all__ = ["absorb_duplicates", "give_birth", "log_evidence", "merge_points", "remove_rejected"]

RealArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

_REJECTED = 0.02
_MAX_BIRTHS_PER_USER = 8
_PROMISING_EVIDENCE = -10.0
_COHERENT = 0.4


def remove_rejected(working: WorkingSet) -> tuple[WorkingSet, IntArray]:
    """Drop points and free paths that the posterior rejects; also returns the dropped points' indices."""
    keep_points = working.point_probability >= _REJECTED
    keep_free = working.free_probability >= _REJECTED
    if keep_points.all() and keep_free.all():
        return working, np.zeros(0, np.int64)
    scene = working.fit.scene
    reduced = Scene(scene.points_m[keep_points], scene.users_m, scene.offsets_m, scene.free_m[keep_free])
    points, free = np.flatnonzero(keep_points), np.flatnonzero(keep_free)
    renewed = working.restructured(reduced, working.free_user[keep_free], points, free)
    return renewed, np.flatnonzero(~keep_points)


def give_birth(
    working: WorkingSet, search: PathSearch, false_alarm_rate: float, unlocated_paths: bool
) -> WorkingSet | None:
    """Add what the residual shows above the noise: as points where possible, else as free paths.

    Returns None when the residual shows nothing.
    """
    problem, fit = working.problem, working.fit
    found, user, _ = search.detect(
        residual_correlation(problem, fit),
        problem.user_energies,
        false_alarm_rate,
        room=np.full(working.n_users, _MAX_BIRTHS_PER_USER),
        noise_floor=1 / problem.noise_precision,
    )
    if not len(found):
        return None
    points, located = locate_paths(problem, fit.scene, found, user)
    free = ~located if unlocated_paths else np.zeros(len(found), bool)
    if not (located.any() or free.any()):
        return None
    scene = Scene(
        np.vstack([fit.scene.points_m, points[located]]),
        fit.scene.users_m,
        fit.scene.offsets_m,
        np.vstack([fit.scene.free_m, found[free]]),
    )
    kept_points = np.concatenate([np.arange(working.n_points), np.full(located.sum(), -1)])
    kept_free = np.concatenate([np.arange(len(fit.scene.free_m)), np.full(free.sum(), -1)])
    free_user = np.concatenate([working.free_user, user[free]])
    return working.restructured(scene, free_user, kept_points, kept_free)


def merge_points(working: WorkingSet) -> WorkingSet | None:
    """Merge the pairs of points that the evidence takes for one; None when there is none.

    Pairs come in the order of their Gaussian evidence of coincidence; each is tried by refining the merged
    scene, and kept when :func:`log_evidence` rises.
    """
    merged = None
    while True:
        step = _merge_one(working if merged is None else merged)
        if step is None:
            return merged
        merged = step


def _merge_one(working: WorkingSet) -> WorkingSet | None:
    fit, points, free = working.active_fit()
    if len(points) < 2:
        return None
    pairs = _promising_pairs(working.problem, fit)
    if not pairs:
        return None
    before = log_evidence(working.problem, fit)
    for first, second in pairs:
        trial = _merged_fit(working, fit, first, second)
        if log_evidence(working.problem, trial) <= before:
            continue
        kept = np.delete(points, second)
        return working.restructured(trial.scene, working.free_user[free], kept, free)
    return None


def absorb_duplicates(working: WorkingSet) -> WorkingSet | None:
    """Drop the points and free paths that only repeat another path of the same user; None when none does.

    A point of one path, or a free path, is tried when its atom is coherent with another path of its user
    (a point on a line of sight, say); it goes when the scene without it has the greater evidence.
    """
    absorbed = None
    while True:
        step = _absorb_one(working if absorbed is None else absorbed)
        if step is None:
            return absorbed
        absorbed = step


def _absorb_one(working: WorkingSet) -> WorkingSet | None:
    fit, points, free = working.active_fit()
    before = None
    for path in _repeating_paths(fit):
        trial = _fit_without(working, fit, path)
        before = log_evidence(working.problem, fit) if before is None else before
        if log_evidence(working.problem, trial) <= before:
            continue
        if fit.paths.is_free[path]:
            free = np.delete(free, fit.paths.free[path])
        else:
            points = np.delete(points, fit.paths.target[path])
        return working.restructured(trial.scene, working.free_user[free], points, free)
    return None


def _repeating_paths(fit: Fit) -> IntArray:
    """Paths that carry a whole point or free path and are coherent with a stronger one, or a line of sight, of their user."""
    paths = fit.paths
    energy = np.real(np.diagonal(fit.gram))
    coherence = np.abs(fit.gram) ** 2 / np.multiply.outer(energy, energy)
    strength = np.abs(fit.posterior.mean)
    stronger = (strength[:, None] < strength) | paths.is_line_of_sight
    rivals = (paths.user[:, None] == paths.user) & stronger
    alone = paths.is_free.copy()
    located = np.flatnonzero(paths.is_point)
    users_of = np.bincount(paths.target[located], minlength=len(fit.scene.points_m))
    alone[located] = users_of[paths.target[located]] == 1
    highest = np.max(np.where(rivals, coherence, 0.0), axis=1, initial=0.0)
    suspects = np.flatnonzero(alone & (highest > _COHERENT))
    return suspects[np.argsort(-highest[suspects], kind="stable")]


def _fit_without(working: WorkingSet, fit: Fit, path: int) -> Fit:
    """The active scene without the point or free path of one path, refined."""
    scene, paths = fit.scene, fit.paths
    sight, seen, free_user = paths.membership(working.n_users, len(scene.points_m))
    points_m, free_m = scene.points_m, scene.free_m
    if paths.is_free[path]:
        free_m = np.delete(free_m, paths.free[path], axis=0)
        free_user = np.delete(free_user, paths.free[path])
    else:
        points_m = np.delete(points_m, paths.target[path], axis=0)
        seen = np.delete(seen, paths.target[path], axis=1)
    reduced = Scene(points_m, scene.users_m, scene.offsets_m, free_m)
    return _refined(working, reduced, Paths.build(sight, seen, free_user))


def _refined(working: WorkingSet, scene: Scene, paths: Paths) -> Fit:
    """A trial scene under the slabs of its paths, refined."""
    classes = np.where(paths.is_line_of_sight, working.n_users, paths.user)
    start = evaluate(working.problem, scene, paths, working.prior.slab_precision[classes])
    return refine(working.problem, start, n_steps=6, tol=1e-2)


def _promising_pairs(problem: Problem, fit: Fit) -> list[tuple[int, int]]:
    mean, covariance = fit.scene.vector(), scene_covariance(problem, fit)
    log_volume = float(np.sum(np.log(problem.region_m[1] - problem.region_m[0])))
    evidence = coincidence_evidence(mean, covariance, np.arange(len(fit.scene.points_m)), log_volume)
    order = np.argsort(-evidence, axis=None, kind="stable")
    promising = order[evidence.ravel()[order] > _PROMISING_EVIDENCE]
    first, second = np.unravel_index(promising, evidence.shape)
    return list(zip(first.tolist(), second.tolist(), strict=True))


def _merged_fit(working: WorkingSet, fit: Fit, first: int, second: int) -> Fit:
    """The active scene with two points made one, refined."""
    problem = working.problem
    mean, _ = condition_on_coincidence(fit.scene.vector(), scene_covariance(problem, fit), first, second)
    scene = fit.scene.with_vector(mean)
    points = np.clip(np.delete(scene.points_m, second, axis=0), *problem.region_m)
    sight, seen, free_user = fit.paths.membership(working.n_users, len(fit.scene.points_m))
    seen[:, first] |= seen[:, second]
    merged = Scene(points, scene.users_m, scene.offsets_m, scene.free_m)
    return _refined(working, merged, Paths.build(sight, np.delete(seen, second, axis=1), free_user))


def log_evidence(problem: Problem, fit: Fit) -> float:
    """Laplace evidence of a scene: gains integrated out, positions by the inverse Gauss-Newton matrix.

    ``-J + ln det Sigma + sum ln rho - 1/2 ln det(H / 2 pi) - S ln(volume) - F ln(free volume)``; terms that
    are the same for every scene of these users and data are left out (docs/theory.md, section 6).
    """
    hessian, _ = normal_equations(problem, fit)
    free = ~problem.prior.known(fit.scene)
    inner = 2 * hessian[np.ix_(free, free)]
    diagonal = np.maximum(np.diag(inner), 1e-12)
    scaled = inner / np.sqrt(np.multiply.outer(diagonal, diagonal))
    _, log_det = np.linalg.slogdet(scaled + 1e-9 * np.eye(len(scaled)))
    curvature = log_det + float(np.sum(np.log(diagonal / (2 * np.pi))))
    posterior = fit.posterior
    gains = posterior.log_det + float(np.sum(np.log(posterior.prior_precision)))
    extent = problem.region_m[1] - problem.region_m[0]
    log_volume = float(np.sum(np.log(extent)))
    free_volume = np.log(np.pi * 2 * np.linalg.norm(extent))
    occam = len(fit.scene.points_m) * log_volume + len(fit.scene.free_m) * free_volume
    return -fit.objective + gains - 0.5 * curvature - occam
