"""Changes of the scene's structure: removal, birth from the residual, merging by evidence.

docs/theory.md, section 6.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from isac_toolbox.channel.atoms.scene import Paths, Scene, path_parameters
from isac_toolbox.estimators.scene.alternatives import Alternatives
from isac_toolbox.estimators.scene.clocks import users_without_clock
from isac_toolbox.estimators.scene.evidence import occam_factor
from isac_toolbox.estimators.scene.fit import Fit, evaluate, scene_covariance
from isac_toolbox.estimators.scene.locate import coincidence_evidence, condition_on_coincidence, path_snr
from isac_toolbox.estimators.scene.misfit import Residual, Work
from isac_toolbox.estimators.scene.place import list_alternatives
from isac_toolbox.estimators.scene.problem import Problem
from isac_toolbox.estimators.scene.refine import held_by_border, refine
from isac_toolbox.estimators.scene.velocities import with_first_movers
from isac_toolbox.estimators.scene.working_set import WorkingSet
from isac_toolbox.estimators.search import BIN_VARIANCE

__all__ = [
    "absorb_duplicates",
    "give_birth",
    "merge_points",
    "remove_rejected",
    "split_points",
    "unlocate_points",
]

RealArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

# Tuned: a point or path less probable than this leaves; far below the one half that reports one, so that it
# may recover.
_REJECTED = 0.02
# Cost cap: births of a user in one search; more wait for the next search, three iterations later.
_MAX_BIRTHS_PER_USER = 8
# Cost cap: size of the working set beyond which nothing more is born; a model that does not fit would never
# have enough.
_MAX_PATHS = 1024
# Cost cap: Gaussian evidence in nats below which merging two points is not tried; the full evidence rarely
# gains ten.
_PROMISING_EVIDENCE = -10.0
# Cost cap: squared coherence with a stronger path above which a path is suspected of repeating it.
_COHERENT = 0.4
# Cost cap: predicted fall of the objective in nats below which splitting a path from its point is not tried.
_PROMISING_FALL = 5.0
# Tuned: predicted fall of the objective in nats (four deviations), below which a point on a border is inside;
# bodies of rays near it are pushed out by less.
_OUTSIDE = 8.0
# Cost cap: nats that a move has to gain for every trial it took; a search whose moves gain less is over.
_PRICE = 1.0


def remove_rejected(working: WorkingSet) -> tuple[WorkingSet, IntArray]:
    """Drop rejected points and unlocated paths; also return the dropped points' indices."""
    keep_points = working.point_probability >= _REJECTED
    keep_unlocated = working.unlocated_probability >= _REJECTED
    if keep_points.all() and keep_unlocated.all():
        return working, np.zeros(0, np.int64)
    scene = working.fit.scene
    reduced = scene.take(keep_points, keep_unlocated)
    points, unlocated = np.flatnonzero(keep_points), np.flatnonzero(keep_unlocated)
    renewed = working.restructured(reduced, working.unlocated_user[keep_unlocated], points, unlocated)
    return renewed, np.flatnonzero(~keep_points)


def give_birth(
    working: WorkingSet, residual: Residual, work: Work, false_alarm_rate: float, unlocated_paths: bool
) -> WorkingSet | None:
    """Add what the residual shows above the noise: as points where possible, else as unlocated paths.

    Returns None when the residual shows nothing.
    """
    problem, fit = working.problem, working.fit
    room = min(_MAX_BIRTHS_PER_USER, max(_MAX_PATHS - len(fit.paths), 0) // working.n_users**2)
    found, user = residual.detect(false_alarm_rate, room)
    allowed = work.take_births(len(found))
    found, user = found[:allowed], user[:allowed]
    if not len(found):
        return None
    snr = path_snr(problem, fit.scene, found, user, residual.correlation)
    alternatives = list_alternatives(problem, fit.scene, found, user, snr, BIN_VARIANCE)
    lost = users_without_clock(
        problem, working.line_of_sight_probability > 0.5, np.sum(working.visibility_probability > 0.5, axis=1)
    )
    points, located = _only_places(alternatives.only(~lost[user[alternatives.path]]), len(found))
    unlocated = ~located if unlocated_paths else np.zeros(len(found), bool)
    if not (located.any() or unlocated.any()):
        return None
    shifts = residual.doppler_hz(found[unlocated], user[unlocated])
    further_hz = problem.further_hz(fit.scene, user[unlocated], shifts)
    scene = fit.scene.extended(points[located], found[unlocated], further_hz)
    if scene.motion is not None and located.any():
        scene = _moving_as_found(
            problem, scene, user[located], residual.doppler_hz(found[located], user[located])
        )
    kept_points = np.concatenate([np.arange(working.n_points), np.full(located.sum(), -1)])
    kept_unlocated = np.concatenate([np.arange(len(fit.scene.unlocated_m)), np.full(unlocated.sum(), -1)])
    unlocated_user = np.concatenate([working.unlocated_user, user[unlocated]])
    return working.restructured(scene, unlocated_user, kept_points, kept_unlocated)


def _moving_as_found(problem: Problem, scene: Scene, user: IntArray, doppler_hz: RealArray | None) -> Scene:
    """The scene whose last points, of a path each, move as the Doppler shifts of the paths say."""
    if doppler_hz is None:
        return scene
    target = len(scene.points_m) - user.size + np.arange(user.size)
    paths = Paths(user, target, np.full(user.size, -1))
    information = np.full(user.size, 12 / problem.doppler_step_hz**2)
    return replace(scene, motion=with_first_movers(problem, scene, paths, doppler_hz, information))


def _only_places(alternatives: Alternatives, n_paths: int) -> tuple[RealArray, NDArray[np.bool_]]:
    """The points (P, 3) of paths that have a single place in the region, and which do."""
    located = alternatives.counts(n_paths) == 1
    points = np.zeros((n_paths, 3))
    points[alternatives.path] = alternatives.points_m
    return points, located


#: Paths of the fit that a move concerns, and what makes the trial scene and refines it towards a goal.
Move = tuple[IntArray, Callable[[Callable[[Fit], float]], Fit]]
Proposals = Callable[[WorkingSet, Fit, Residual | None], Iterator[Move]]


def split_points(
    working: WorkingSet, residual: Residual | None = None, work: Work | None = None
) -> WorkingSet | None:
    """Give a user its own point where sharing one contradicts the data; None when nothing is split.

    The score test of the tie between a user's path and the shared point predicts how far the objective
    would fall; promising splits are refined, and kept when :func:`log_evidence` rises.
    """
    return _raise_evidence(working, _splits, residual, work or Work())


def merge_points(
    working: WorkingSet, residual: Residual | None = None, work: Work | None = None
) -> WorkingSet | None:
    """Merge the pairs of points that the evidence takes for one; None when there is none.

    Pairs come in the order of their Gaussian evidence of coincidence; each is tried by refining the merged
    scene, and kept when :func:`log_evidence` rises.
    """
    return _raise_evidence(working, _merges, residual, work or Work())


def absorb_duplicates(
    working: WorkingSet, residual: Residual | None = None, work: Work | None = None
) -> WorkingSet | None:
    """Drop points and unlocated paths that only repeat another path of their user; None when none does.

    A point of one path, or an unlocated path, is tried when its atom is coherent with another path of its
    user (a point on a line of sight, say); it goes when the scene without it has the greater evidence.
    """
    return _raise_evidence(working, _absorptions, residual, work or Work())


def unlocate_points(
    working: WorkingSet, residual: Residual | None = None, work: Work | None = None
) -> WorkingSet | None:
    """Make unlocated paths of a point that the border holds against the data; None where it holds none.

    Promising ones are refined, and kept when :func:`log_evidence` rises.
    """
    return _raise_evidence(working, _unlocations, residual, work or Work())


def _raise_evidence(
    working: WorkingSet, propose: Proposals, residual: Residual | None, work: Work
) -> WorkingSet | None:
    """Adopt proposed scenes as long as one raises the evidence by its price; None when none ever does."""
    adopted, n_trials = None, work.patience(propose)
    pays = True
    while pays:
        current = working if adopted is None else adopted
        fit, _, _ = current.active_fit()
        moves = islice(propose(current, fit, residual), n_trials)
        trial, pays = _first_better(fit, moves, residual, work)
        adopted = adopted if trial is None else current.adopt(trial)
    work.learn(propose, adopted is not None)
    return adopted


def _first_better(
    fit: Fit, moves: Iterator[Move], residual: Residual | None, work: Work
) -> tuple[Fit | None, bool]:
    """The first trial that raises the evidence, and whether it gains the price of the trials it took.

    The likelihood counts deviations in units of the noise. Where a misfit surrounds the paths of a move, the
    unit is larger, and what the objective falls or rises counts for less by as much.
    """
    before = None
    for n_tried, (paths, make) in enumerate(moves, 1):
        if not work.may_try(len(fit.paths)):
            break
        before = occam_factor(fit) if before is None else before
        excess = 1.0 if residual is None else residual.excess(fit, paths)
        aim = _Aim(fit.objective, before, excess)
        trial = make(aim.break_even)
        gain = aim.gain(trial)
        if gain > 0:
            return trial, gain >= _PRICE * n_tried
    return None, False


@dataclass
class _Aim:
    """When a trial has more evidence than the fit that it starts from.

    Attributes
    ----------
    objective, occam : float
        Of the fit.
    excess : float
        How much larger than the noise the deviations around the paths of the move are.
    at_start : float
        Break-even as the trial began.
    """

    objective: float
    occam: float
    excess: float
    at_start: float = np.inf

    def break_even(self, trial: Fit) -> float:
        """Return the objective below which a trial that begins has more evidence."""
        self.at_start = self.objective + self.excess * (occam_factor(trial) - self.occam)
        return self.at_start

    def gain(self, trial: Fit) -> float:
        """Return the gain of evidence in nats; minus infinity where a trial ended far from its break-even."""
        if trial.objective - self.at_start > abs(self.at_start - self.objective):
            return -np.inf
        fall = (self.objective - trial.objective) / self.excess
        return fall + occam_factor(trial) - self.occam


def _no_goal(trial: Fit) -> float:
    return np.inf


def _merges(working: WorkingSet, fit: Fit, residual: Residual | None) -> Iterator[Move]:
    if len(fit.scene.points_m) < 2:
        return
    covariance = scene_covariance(fit)
    for first, second in _promising_pairs(fit, covariance):
        yield _over_points(fit, first, second), partial(_merged_fit, working, fit, covariance, first, second)


def _absorptions(working: WorkingSet, fit: Fit, residual: Residual | None) -> Iterator[Move]:
    for path in _repeating_paths(fit):
        yield np.array([path]), partial(_fit_without, working, fit, path)


def _splits(working: WorkingSet, fit: Fit, residual: Residual | None) -> Iterator[Move]:
    fall = _tie_scores(fit)
    if residual is not None:
        for path in np.flatnonzero(fall >= _PROMISING_FALL):
            fall[path] /= residual.excess(fit, _over_points(fit, fit.paths.target[path]))
    for path in np.argsort(-fall, kind="stable"):
        if fall[path] < _PROMISING_FALL:
            return
        yield _over_points(fit, fit.paths.target[path]), partial(_split_fit, working, fit, int(path))


def _unlocations(working: WorkingSet, fit: Fit, residual: Residual | None) -> Iterator[Move]:
    cost = _border_costs(fit)
    if residual is not None:
        for point in np.flatnonzero(cost >= _OUTSIDE):
            cost[point] /= residual.excess(fit, _over_points(fit, int(point)))
    for point in np.argsort(-cost, kind="stable"):
        if cost[point] < _OUTSIDE:
            return
        yield _over_points(fit, int(point)), partial(_unlocated_fit, working, fit, int(point))


def _border_costs(fit: Fit) -> RealArray:
    """Predicted fall of the objective when the border holds a point no more, shape (S,)."""
    points = fit.scene.points_m
    _, gradient = fit.normal_equations
    held = held_by_border(fit.problem, points, gradient)
    if not held.any():
        return np.zeros(len(points))
    covariance = scene_covariance(fit)
    pulled = np.where(held, gradient[: points.size].reshape(points.shape), 0.0)
    blocks = covariance[: points.size, : points.size].reshape(len(points), 3, len(points), 3)
    own = blocks[np.arange(len(points)), :, np.arange(len(points))]
    return np.asarray(2 * np.einsum("si,sij,sj->s", pulled, own, pulled))


def _unlocated_fit(working: WorkingSet, fit: Fit, point: int, goal: Callable[[Fit], float] = _no_goal) -> Fit:
    """The active scene with an unlocated path for every user of a point in its place, refined."""
    scene, paths, parameters = fit.scene, fit.paths, fit.parameters
    sight, seen, unlocated_user = paths.membership(working.n_users, len(scene.points_m))
    own = _over_points(fit, point)
    user = paths.user[own]
    shifts = None if parameters.doppler_hz is None else parameters.doppler_hz[own]
    unlocated = scene.take(np.delete(np.arange(len(scene.points_m)), point)).extended(
        np.zeros((0, 3)),
        np.column_stack([parameters.length_m[own], parameters.cosines.T[own]]),
        fit.problem.further_hz(scene, user, shifts),
    )
    left = Paths.build(sight, np.delete(seen, point, axis=1), np.concatenate([unlocated_user, user]))
    return _refined(working, unlocated, left, goal)


def _over_points(fit: Fit, *points: int) -> IntArray:
    """Paths over some points, of any user."""
    return np.flatnonzero(fit.paths.is_point & np.isin(fit.paths.target, points))


def _tie_scores(fit: Fit) -> RealArray:
    """Predicted fall of the objective when a path gets a point of its own, shape (L,).

    ``g^T (H_dd - H_dt H_tt^-1 H_td)^-1 g`` with half gradient and half Hessian of the scene in which every
    located path has its own point; ``t`` is the tied scene, ``d`` the path's own displacement. Zero for
    paths that share their point with none.
    """
    paths, scene = fit.paths, fit.scene
    located = np.flatnonzero(paths.is_point)
    scores = np.zeros(len(paths))
    n_seen = np.bincount(paths.target[located], minlength=len(scene.points_m))
    shared = located[n_seen[paths.target[located]] > 1]
    if not shared.size:
        return scores
    untied_target = paths.target.copy()
    untied_target[located] = np.arange(located.size)
    untied_scene = scene.take(paths.target[located])
    untied_paths = replace(paths, target=untied_target)
    problem = fit.problem
    parameters = path_parameters(untied_scene, untied_paths, problem.receiver)
    untied = replace(fit, scene=untied_scene, paths=untied_paths, parameters=parameters)
    hessian, gradient = untied.normal_equations
    tie = _tie_matrix(scene, paths.target[located])
    unknown = ~problem.prior.known(scene)
    inner = (tie.T @ hessian @ tie)[np.ix_(unknown, unknown)]
    cross = (hessian @ tie)[:, unknown]
    scale = 1 / np.sqrt(np.maximum(np.diag(inner), 1e-12))
    scaled = inner * scale[:, None] * scale + 1e-9 * np.eye(len(inner))
    explained = cross * scale @ np.linalg.solve(scaled, (cross * scale).T)
    for path in shared:
        columns = slice(3 * untied_target[path], 3 * untied_target[path] + 3)
        block = hessian[columns, columns] - explained[columns, columns]
        ridge = 1e-9 * np.trace(hessian[columns, columns]) * np.eye(3)
        scores[path] = gradient[columns] @ np.linalg.solve(block + ridge, gradient[columns])
    return scores


def _tie_matrix(scene: Scene, target: IntArray) -> RealArray:
    """Linear map from the scene's vector to that of the scene in which every path has its own point."""
    entries = scene.with_vector(np.arange(scene.n_parameters, dtype=float))
    source = entries.take(target).vector().astype(int)
    tie = np.zeros((source.size, scene.n_parameters))
    tie[np.arange(source.size), source] = 1.0
    return tie


def _split_fit(working: WorkingSet, fit: Fit, path: int, goal: Callable[[Fit], float] = _no_goal) -> Fit:
    """The active scene with one path on a point of its own, refined."""
    scene, paths = fit.scene, fit.paths
    sight, seen, unlocated_user = paths.membership(working.n_users, len(scene.points_m))
    user, target = paths.user[path], paths.target[path]
    alone = np.zeros((working.n_users, 1), bool)
    alone[user] = True
    seen[user, target] = False
    split = scene.take(np.append(np.arange(len(scene.points_m)), target))
    return _refined(working, split, Paths.build(sight, np.hstack([seen, alone]), unlocated_user), goal)


def _repeating_paths(fit: Fit) -> IntArray:
    """Paths alone on their point, or unlocated, and coherent with a stronger one of their user.

    In the order of what the objective would rise without them if nothing else moved.
    """
    paths = fit.paths
    energy = np.real(np.diagonal(fit.gram))
    coherence = np.abs(fit.gram) ** 2 / np.multiply.outer(energy, energy)
    strength = np.abs(fit.posterior.mean)
    stronger = (strength[:, None] < strength) | paths.is_line_of_sight
    rivals = (paths.user[:, None] == paths.user) & stronger
    alone = paths.is_unlocated.copy()
    located = np.flatnonzero(paths.is_point)
    users_of = np.bincount(paths.target[located], minlength=len(fit.scene.points_m))
    alone[located] = users_of[paths.target[located]] == 1
    highest = np.max(np.where(rivals, coherence, 0.0), axis=1, initial=0.0)
    suspects = np.flatnonzero(alone & (highest > _COHERENT))
    rise = strength**2 / fit.posterior.variance
    return suspects[np.argsort(rise[suspects], kind="stable")]


def _fit_without(working: WorkingSet, fit: Fit, path: int, goal: Callable[[Fit], float] = _no_goal) -> Fit:
    """The active scene without the point or unlocated path of one path, refined."""
    scene, paths = fit.scene, fit.paths
    sight, seen, unlocated_user = paths.membership(working.n_users, len(scene.points_m))
    points, unlocated = np.arange(len(scene.points_m)), np.arange(len(scene.unlocated_m))
    if paths.is_unlocated[path]:
        unlocated = np.delete(unlocated, paths.unlocated[path])
        unlocated_user = np.delete(unlocated_user, paths.unlocated[path])
    else:
        points = np.delete(points, paths.target[path])
        seen = np.delete(seen, paths.target[path], axis=1)
    reduced = scene.take(points, unlocated)
    return _refined(working, reduced, Paths.build(sight, seen, unlocated_user), goal)


def _refined(working: WorkingSet, scene: Scene, paths: Paths, goal: Callable[[Fit], float]) -> Fit:
    """A trial scene under the slabs of its paths, refined as far as it may still reach its goal."""
    classes = np.where(paths.is_line_of_sight, working.n_users, paths.user)
    start = evaluate(working.problem, scene, paths, working.prior.slab_precision[classes])
    return refine(start, n_steps=6, tol=1e-2, goal=goal(start))


def _promising_pairs(fit: Fit, covariance: RealArray) -> list[tuple[int, int]]:
    region_m = fit.problem.region_m
    log_volume = float(np.sum(np.log(region_m[1] - region_m[0])))
    points = np.arange(len(fit.scene.points_m))
    evidence = coincidence_evidence(fit.scene.vector(), covariance, points, log_volume)
    order = np.argsort(-evidence, axis=None, kind="stable")
    promising = order[evidence.ravel()[order] > _PROMISING_EVIDENCE]
    first, second = np.unravel_index(promising, evidence.shape)
    return list(zip(first.tolist(), second.tolist(), strict=True))


def _merged_fit(
    working: WorkingSet,
    fit: Fit,
    covariance: RealArray,
    first: int,
    second: int,
    goal: Callable[[Fit], float] = _no_goal,
) -> Fit:
    """The active scene with two points made one, refined."""
    mean, _ = condition_on_coincidence(fit.scene.vector(), covariance, first, second)
    scene = fit.scene.with_vector(mean).take(np.delete(np.arange(len(fit.scene.points_m)), second))
    points = np.clip(scene.points_m, *working.problem.region_m)
    sight, seen, unlocated_user = fit.paths.membership(working.n_users, len(fit.scene.points_m))
    seen[:, first] |= seen[:, second]
    merged = replace(scene, points_m=points)
    paths = Paths.build(sight, np.delete(seen, second, axis=1), unlocated_user)
    return _refined(working, merged, paths, goal)
