"""Places that a linear array leaves open: a path is a cone around its axis (docs/theory.md, section 7.3)."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from isac_toolbox.channel.geometry import bistatic_point_m, unit_vectors
from isac_toolbox.estimators.scene.fit import Fit, evaluate, scene_covariance
from isac_toolbox.estimators.scene.problem import Problem
from isac_toolbox.estimators.scene.refine import refine

__all__ = ["best_places", "points_on_cones", "prior_length_variance", "shared_places", "single_bounce"]

RealArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

# Cost cap: angles around a linear array's axis, one a degree in front; crossings of the region's faces lie
# between them.
_DIRECTIONS = np.linspace(-np.pi / 2, np.pi / 2, 181)
# Cost cap: the same where lengths of several users are compared, ten a degree.
_FINE_DIRECTIONS = np.linspace(-np.pi / 2, np.pi / 2, 1801)
# Mathematics: squared deviations within which two users' paths agree on a place; three.
_AGREE_GATE = 9.0
# Tuned: distance from the region, in cells of length, of places that are inside but for interpolation.
_SLACK_CELLS = 0.01
# Mathematics: squared deviations of lengths that still allow a place; 25 loses 1 in 300,000 of two unknowns.
_PLACE_GATE = 25.0
# Tuned: posterior deviations of users and clocks that count as one; a point at a wrong place pulls them.
_WIDER = 4.0
# Tuned: distance in cells of length within which two places are one.
_APART_CELLS = 0.5
# Mathematics: squared deviations within which two places are one mode; three.
_SAME_PLACE_GATE = 9.0
# Cost cap: other places tried for a point, the likeliest.
_MAX_PLACES = 6
# Cost cap: steps of a round at another place,
_STEPS = 5
# Cost cap: rounds there,
_ROUNDS = 4
# Cost cap: and share of the excess of the objective that a round must not leave.
_FALL = 0.9
# Mathematics: step of the angle in which a curve's bend is taken.
_BEND_RAD = 0.01


def points_on_cones(
    problem: Problem,
    users: RealArray,
    lengths: RealArray,
    cosines: RealArray,
    variance: RealArray,
    gate: float,
) -> tuple[RealArray, RealArray]:
    """Return the likeliest point (P, 3) of the region on every path's curve, and the extent of all (P,).

    A path of a linear array is a cone, which meets the ellipsoid of its length in a curve. Where it misses
    the region, points on the border that explain the path count instead.

    Parameters
    ----------
    problem : Problem
    users : ndarray, shape (P, 3)
        Positions of the paths' users.
    lengths : ndarray, shape (P,)
        Without the clock.
    cosines : ndarray, shape (P, 2)
    variance : ndarray, shape (P, 3)
        Of length and cosines.
    gate : float
        Squared Mahalanobis distance of a path from the border that still explains it.

    Returns
    -------
    points_m : ndarray, shape (P, 3)
    extent_m : ndarray, shape (P,)
        Of the box around all such points; infinite where there is none, as for a single antenna.
    """
    region, n_paths = problem.region_m, len(lengths)
    nearest, extent = np.zeros((n_paths, 3)), np.full(n_paths, np.inf)
    sees = np.array(problem.receiver.array.sees_cosines)
    if not sees.any() or not n_paths:
        return nearest, extent
    places, owner = _candidates(problem, users, lengths, cosines[:, sees])
    inside = np.clip(places, *region)
    observed = np.column_stack([lengths, cosines[:, sees]])[owner]
    compared = np.array([True, *sees])
    change = single_bounce(problem, inside, users[owner])[:, compared] - observed
    squared = np.sum(change**2 / variance[owner][:, compared], axis=1)
    on_curve = _is_near(problem, places, inside)
    meets = np.zeros(n_paths, bool)
    meets[owner[on_curve]] = True
    counts = np.where(meets[owner], on_curve, squared < gate)
    inside, owner, squared = inside[counts], owner[counts], squared[counts]
    low, high = np.full((n_paths, 3), np.inf), np.full((n_paths, 3), -np.inf)
    np.minimum.at(low, owner, inside)
    np.maximum.at(high, owner, inside)
    from_middle = (inside - region.mean(axis=0)) / (region[1] - region[0])
    order = np.lexsort((squared + 12 * np.sum(from_middle**2, axis=1), owner))
    found, first = np.unique(owner[order], return_index=True)
    nearest[found] = inside[order][first]
    extent[found] = np.linalg.norm(high[found] - low[found], axis=1)
    return nearest, extent


def shared_places(
    problem: Problem,
    users: RealArray,
    lengths: RealArray,
    cosines: RealArray,
    variance: RealArray,
    user: IntArray,
) -> tuple[IntArray, RealArray]:
    """Group paths of different users that agree on a place: the same seen cosine, and lengths that meet.

    From the surest path on, the place along its curve at which most users agree takes their paths with it.

    Parameters
    ----------
    problem, users, lengths, cosines, variance
        As for :func:`points_on_cones`.
    user : ndarray of int, shape (P,)

    Returns
    -------
    group : ndarray of int, shape (P,)
        -1 for a path that agrees with none.
    places_m : ndarray, shape (G, 3)
    """
    sees = np.array(problem.receiver.array.sees_cosines)
    group, places = np.full(len(lengths), -1), np.zeros((0, 3))
    if sees.sum() != 1:
        return group, places
    cosine, spread = cosines[:, sees][:, 0], variance[:, 1:][:, sees][:, 0]
    slack = (_SLACK_CELLS * problem.length_cell_m) ** 2
    for path in np.argsort(spread, kind="stable"):
        apart = (cosine - cosine[path]) ** 2 / (spread + spread[path])
        rivals = np.flatnonzero((group < 0) & (user != user[path]) & (apart < _AGREE_GATE))
        if group[path] >= 0 or not rivals.size:
            continue
        alone = users[path][None], lengths[path][None], cosine[path][None, None]
        curve, _ = _candidates(problem, *alone, _FINE_DIRECTIONS)
        inside = np.clip(curve, *problem.region_m)
        inside = inside[_is_near(problem, curve, inside)]
        if not len(inside):
            continue
        length = np.linalg.norm(inside - problem.receiver.bs_position_m, axis=1)[:, None]
        length = length + np.linalg.norm(inside[:, None] - users[rivals], axis=2)
        squared = (length - lengths[rivals]) ** 2 / (variance[rivals, 0] + variance[path, 0] + slack)
        squared += apart[rivals]
        voters = np.unique(user[rivals])
        best = np.stack([squared[:, user[rivals] == k].min(axis=1) for k in voters])
        place = int(np.argmax(np.sum(np.maximum(_AGREE_GATE - best, 0.0), axis=0)))
        for k in voters[best[:, place] < _AGREE_GATE]:
            own = rivals[user[rivals] == k]
            group[own[np.argmin(squared[place, user[rivals] == k])]] = len(places)
            group[path] = len(places)
        if group[path] >= 0:
            places = np.vstack([places, inside[place]])
    return group, places


def _is_near(problem: Problem, places: RealArray, inside: RealArray) -> NDArray[np.bool_]:
    """Which places (C, 3) of curves are those inside the region, but for interpolation."""
    return np.asarray(np.max(np.abs(places - inside), axis=1) < _SLACK_CELLS * problem.length_cell_m)


def _candidates(
    problem: Problem,
    users: RealArray,
    lengths: RealArray,
    cosine: RealArray,
    angles: RealArray = _DIRECTIONS,
) -> tuple[RealArray, IntArray]:
    """Points (C, 3) of the curves of paths, and the paths (C,) they belong to.

    All around the array's axis, and where the curves cross the region's faces and middle planes.
    """
    points, exists = _curves(problem, users, lengths, cosine, angles)
    before, after = points[:, :-1, None], points[:, 1:, None]
    low, high = problem.region_m
    planes = np.stack([low, (low + high) / 2, high])
    with np.errstate(divide="ignore", invalid="ignore"):
        share = (planes - before) / (after - before)
    path, step, plane, axis = np.nonzero((share >= 0) & (share < 1))
    weight = share[path, step, plane, axis][:, None]
    crossings = (1 - weight) * points[path, step] + weight * points[path, step + 1]
    sampled = np.nonzero(exists)
    return np.vstack([points[sampled], crossings]), np.concatenate([sampled[0], path])


def _curves(
    problem: Problem, users: RealArray, lengths: RealArray, cosine: RealArray, angles: RealArray
) -> tuple[RealArray, NDArray[np.bool_]]:
    """Points (P, A, 3) that have a path's length and seen cosine (P, 1), and which exist.

    Angles (A,) are those around the array's axis, zero in front.
    """
    front, axis, other = _axes(problem)
    around = np.multiply.outer(np.cos(angles), front) + np.multiply.outer(np.sin(angles), other)
    sine = np.sqrt(np.maximum(1 - cosine**2, 0.0))
    directions = cosine[:, :, None] * axis + sine[:, :, None] * around
    return bistatic_point_m(directions, lengths[:, None], users[:, None], problem.receiver.bs_position_m)


def _axes(problem: Problem) -> tuple[RealArray, RealArray, RealArray]:
    """Boresight, axis of a linear array, and the axis across both, each (3,)."""
    array = problem.receiver.array
    front, horizontal, vertical = array.axes
    return (front, horizontal, vertical) if array.sees_cosines[0] else (front, vertical, horizontal)


def single_bounce(problem: Problem, points: RealArray, users: RealArray) -> RealArray:
    """Return length without the clock and cosines (P, 3) of paths over points of users, (P, 3) each."""
    receiver = problem.receiver
    towards, distance = unit_vectors(receiver.bs_position_m, points)
    length = distance + np.linalg.norm(points - users, axis=1)
    return np.column_stack([length, *receiver.array.direction_cosines(towards)])


def best_places(fit: Fit) -> tuple[Fit, RealArray, RealArray]:
    """Move points to better places on their curves, and say what speaks for the others.

    The lengths of a few users may agree at more than one place of a curve. All that are likely are refined
    and weighted by their posterior, Laplace's approximation for the point alone. Without a seen cosine no
    place is known.

    Returns
    -------
    fit : Fit
        Every point at its likeliest place; where the array sees all cosines, the fit given.
    share : ndarray, shape (S,)
        Weight of that place; zero for a point of one user that its curve leaves open.
    doubt_m2 : ndarray, shape (S, 3, 3)
        Weighted squares of the distances to the other places, and how far the curve leaves its tangent.
    """
    array, n_points = fit.problem.receiver.array, len(fit.scene.points_m)
    share, doubt = np.ones(n_points), np.zeros((n_points, 3, 3))
    if all(array.sees_cosines):
        return fit, share, doubt
    if not any(array.sees_cosines):
        return fit, np.zeros(n_points), doubt
    for point in range(n_points):
        over = _paths_over(fit, point)
        if over.size == 1 and _extent(fit, point, over[0]) > fit.problem.length_cell_m:
            share[point] = 0.0
        if over.size < 2:
            continue
        modes = [_Mode.of(fit, point)]
        for place in _other_places(fit, point):
            mode = _Mode.of(_moved(fit, point, place), point)
            same = [i for i, other in enumerate(modes) if mode.is_at(other)]
            if not same:
                modes.append(mode)
            elif mode.log_weight > modes[same[0]].log_weight:
                modes[same[0]] = mode
        weights = np.array([mode.log_weight for mode in modes])
        best = modes[int(np.argmax(weights))]
        weights = np.exp(weights - weights.max())
        weights /= weights.sum()
        away = np.array([mode.place for mode in modes]) - best.place
        share[point] = weights.max()
        doubt[point] = (away.T * weights) @ away + _bend(best.fit, point, best.covariance)
        fit = best.fit
    return fit, share, doubt


@dataclass(frozen=True, eq=False)
class _Mode:
    """A fit with one point at one of its possible places."""

    fit: Fit
    place: RealArray
    covariance: RealArray
    log_weight: float

    @classmethod
    def of(cls, fit: Fit, point: int) -> _Mode:
        block = slice(3 * point, 3 * point + 3)
        covariance = scene_covariance(fit)[block, block]
        _, log_volume = np.linalg.slogdet(covariance)
        return cls(fit, fit.scene.points_m[point], covariance, -fit.objective + 0.5 * float(log_volume))

    def is_at(self, other: _Mode) -> bool:
        """Whether the places are one: within half a cell, or three deviations of both."""
        apart = self.place - other.place
        squared = float(apart @ apart)
        spread = min(float(apart @ mode.covariance @ apart) for mode in (self, other))
        near = (_APART_CELLS * self.fit.problem.length_cell_m) ** 2
        return squared < near or squared**2 < _SAME_PLACE_GATE * spread


def _extent(fit: Fit, point: int, path: int) -> float:
    """Extent of the curve of a point's only path in the region."""
    user = fit.scene.users_m[fit.paths.user[path]][None]
    bounce = single_bounce(fit.problem, fit.scene.points_m[point][None], user)
    return float(points_on_cones(fit.problem, user, bounce[:, 0], bounce[:, 1:], np.ones((1, 3)), 0.0)[1][0])


def _bend(fit: Fit, point: int, covariance: RealArray) -> RealArray:
    """Second moments (3, 3) of how far a curve of bend ``kappa`` leaves its tangent.

    ``E[(kappa s^2 / 2)^2] = 3/4 kappa^2 sigma^4`` for ``s`` along the tangent of variance ``sigma^2``, the
    only part that the covariance holds.
    """
    problem, scene = fit.problem, fit.scene
    user = scene.users_m[fit.paths.user[_paths_over(fit, point)[:1]]]
    bounce = single_bounce(problem, scene.points_m[point][None], user)
    cosine = bounce[:, 1:][:, list(problem.receiver.array.sees_cosines)]
    front, _, other = _axes(problem)
    ray = scene.points_m[point] - problem.receiver.bs_position_m
    angle = float(np.arctan2(ray @ other, ray @ front))
    angles = angle + np.array([-_BEND_RAD, 0.0, _BEND_RAD])
    nearby, exists = _curves(problem, user, bounce[:, 0], cosine, angles)
    if not exists.all():
        return np.zeros((3, 3))
    before, here, after = nearby[0]
    along, bend = (after - before) / 2, after - 2 * here + before
    squared = max(float(along @ along), 1e-300)
    bend = (bend - (bend @ along) / squared * along) / squared
    variance = float(along @ covariance @ along) / squared
    return np.asarray(0.75 * variance**2 * np.outer(bend, bend))


def _paths_over(fit: Fit, point: int) -> IntArray:
    """Paths over a point, the strongest first."""
    index = np.flatnonzero(fit.paths.target == point)
    return index[np.argsort(-np.abs(fit.posterior.mean[index]), kind="stable")]


def _other_places(fit: Fit, point: int) -> RealArray:
    """Places (C, 3) of the region, along the curve of a point's strongest path, that its other users allow.

    Their lengths may be off by five deviations of the users' places and clocks: those of the prior, or
    several of the posterior, which rests on the point as well.
    """
    problem, scene = fit.problem, fit.scene
    user = fit.paths.user[_paths_over(fit, point)]
    here, users = scene.points_m[point], scene.users_m[user]
    bounce = single_bounce(problem, np.broadcast_to(here, users.shape), users)
    cosine = bounce[:1, 1:][:, list(problem.receiver.array.sees_cosines)]
    places, _ = _candidates(problem, users[:1], bounce[:1, 0], cosine)
    curve = np.clip(places, *problem.region_m)
    curve = curve[_is_near(problem, places, curve)]
    length = np.linalg.norm(curve - problem.receiver.bs_position_m, axis=1)
    length = length + np.linalg.norm(curve - users[:, None], axis=2)
    variance = np.minimum(
        prior_length_variance(problem)[user], _WIDER**2 * _length_variance(fit, point, user)
    )
    variance += (_SLACK_CELLS * problem.length_cell_m) ** 2
    misfit = np.sum((length - bounce[:, :1])[1:] ** 2 / (variance[0] + variance[1:])[:, None], axis=0)
    chosen: list[RealArray] = []
    for i in np.argsort(misfit, kind="stable"):
        if misfit[i] > _PLACE_GATE or len(chosen) == _MAX_PLACES:
            break
        apart = np.linalg.norm(np.array([here, *chosen]) - curve[i], axis=1)
        if apart.min() > problem.length_cell_m:
            chosen.append(curve[i])
    return np.array(chosen).reshape(-1, 3)


def _length_variance(fit: Fit, point: int, user: IntArray) -> RealArray:
    """Variance (P,) of the lengths of users' paths over a point, by the posterior of places and clocks."""
    scene, covariance = fit.scene, scene_covariance(fit)
    _, users, offsets, _ = scene.blocks()
    towards, _ = unit_vectors(scene.users_m[user], scene.points_m[point])
    slope = np.column_stack([-towards, np.ones(user.size)])
    columns = np.column_stack([users.start + 3 * user[:, None] + np.arange(3), offsets.start + user])
    joint = covariance[columns[:, :, None], columns[:, None, :]]
    return np.einsum("pi,pij,pj->p", slope, joint, slope)


def _moved(fit: Fit, point: int, place: RealArray) -> Fit:
    """The fit with a point elsewhere, refined as long as that promises as good a fit."""
    points = fit.scene.points_m.copy()
    points[point] = place
    scene = replace(fit.scene, points_m=points)
    trial = evaluate(fit.problem, scene, fit.paths, fit.posterior.prior_precision)
    excess = np.inf
    for _ in range(_ROUNDS):
        trial = refine(trial, n_steps=_STEPS, tol=1e-2)
        before, excess = excess, trial.objective - fit.objective
        if not 0 < excess < _FALL * before:
            break
    return trial


def prior_length_variance(problem: Problem) -> RealArray:
    """Return the variance of path lengths from the users' places and clocks, shape (K,).

    A clock is read off the line of sight, which the user's place moves too.
    """
    place = np.max(problem.prior.user_stds_m, axis=1) ** 2
    if not problem.prior.has_line_of_sight:
        return np.asarray(place + problem.prior.offset_stds_m**2)
    return np.asarray(place + np.minimum(place, problem.prior.offset_stds_m**2))
