"""How likely a path seen by one user alone is a single bounce (docs/theory.md, section 6).

Any path longer than the line of sight has *some* single-bounce point. When users who see it from different
sides agree on the point it is one; when a single user sees it, or neighbours do, a path of two bounces would
look the same. What tells them apart is physics: every reflection costs power, and a reflection on level
ground or a vertical wall obeys the law of reflection.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.special import erf

from isac_toolbox.channel.geometry import unit_vectors
from isac_toolbox.estimators.scene.fit import Fit

__all__ = [
    "ground_reflections",
    "reflection_loss_db",
    "single_bounce_probability",
    "wall_reflections",
]

RealArray = NDArray[np.float64]
BoolArray = NDArray[np.bool_]

# Loss beyond free space in dB, mean and spread: one bounce, and more than one.
_SINGLE_LOSS_DB = (7.0, 4.5)
_MULTIPLE_LOSS_DB = (17.0, 4.5)
_SHARE_PRIOR = (9.0, 1.0)
_SHARE_ITERATIONS = 30
_LAW_GATE = 9.0
# Error of the law of reflection that is no error, in resolution cells (surfaces are not ideal).
_LAW_SLACK_CELLS = 0.03
# Share of single bounces that obey the law of reflection: counts for and against before the block is seen;
# and the share of multiple bounces whose apparent point does.
_LAWFUL_PRIOR = (1.0, 1.0)
_LAWFUL_MULTIPLE = 0.2
# A second user's path speaks for a point only if it is not far weaker than any bounce would be.
_WITNESS_LOSS_DB = 22.0
# Users seen from the point within this angle of each other would agree on a double bounce as well.
_LEAST_PARALLAX_RAD = np.deg2rad(15.0)
# A path this close to its line of sight, in resolution cells, may hide weaker neighbours that pull it: its
# spread counts as so many times wider. A point off by more than a share of a cell is another one.
_CROWDED_CELLS = 1.5
_CROWDED_SPREAD = 2.0
_SAME_PLACE_CELLS = 0.65


def reflection_loss_db(fit: Fit) -> RealArray:
    """Loss of every path beyond free space, relative to its user's line of sight, shape (L,).

    ``20 log10(|x_0| L_0 / (|x_i| L_i))``, NaN for users without a line of sight.
    """
    paths, gains = fit.paths, np.maximum(np.abs(fit.posterior.mean), 1e-300)
    length = fit.parameters.length_m - fit.scene.offsets_m[paths.user]
    level = gains * np.maximum(length, fit.problem.length_cell_m)
    reference = np.full(len(fit.scene.users_m), np.nan)
    sight = paths.is_line_of_sight
    reference[paths.user[sight]] = level[sight]
    return 20 * np.log10(reference[paths.user] / level)


def ground_reflections(fit: Fit, covariance: RealArray) -> BoolArray:
    """Points at which a horizontal plane below them would reflect their strongest user, shape (S,).

    The point must lie, within three standard deviations, where the law of reflection on a horizontal plane
    through it puts it.
    """
    scene, bs = fit.scene, fit.problem.receiver.bs_position_m
    n_points = len(scene.points_m)
    reflects = np.zeros(n_points, bool)
    strongest = _strongest_paths(fit, np.arange(n_points))
    for i, (point, user) in enumerate(
        zip(scene.points_m, scene.users_m[fit.paths.user[strongest]], strict=True)
    ):
        if point[2] >= min(user[2], bs[2]):
            continue
        heights = bs[2] + user[2] - 2 * point[2]
        expected = bs[:2] + (bs[2] - point[2]) / heights * (user[:2] - bs[:2])
        own = slice(3 * i, 3 * i + 3)
        slope = (user[:2] - bs[:2]) * (user[2] - bs[2]) / heights**2
        jacobian = np.column_stack([np.eye(2), slope])
        spread = jacobian @ covariance[own, own] @ jacobian.T + 1e-6 * np.eye(2)
        error = point[:2] - expected
        reflects[i] = error @ np.linalg.solve(spread, error) < _LAW_GATE
    return reflects


def wall_reflections(fit: Fit, covariance: RealArray) -> BoolArray:
    """Points at which a vertical wall would reflect their strongest user, shape (S,).

    A vertical wall leaves the slope of the ray as it is, so the point's height divides that of user and base
    station as the path is divided: ``z = z_b + (z_k - z_b) r / (r + d)``, within three standard deviations.
    """
    scene, bs = fit.scene, fit.problem.receiver.bs_position_m
    n_points = len(scene.points_m)
    users = fit.paths.user[_strongest_paths(fit, np.arange(n_points))]
    from_bs, r = unit_vectors(bs, scene.points_m)
    from_user, d = unit_vectors(scene.users_m[users], scene.points_m)
    drop, share = (scene.users_m[users, 2] - bs[2])[:, None], (r / (r + d))[:, None]
    total = (r + d)[:, None] ** 2
    error = scene.points_m[:, 2] - bs[2] - (drop * share)[:, 0]
    up = np.array([0.0, 0.0, 1.0])
    in_point = up - drop * (d[:, None] * from_bs - r[:, None] * from_user) / total
    in_user = -up * share - drop * r[:, None] * from_user / total
    slope = np.hstack([in_point, in_user])
    points_block, users_block, _, _ = scene.blocks()
    xyz = np.arange(3)
    own = np.hstack(
        [
            points_block.start + 3 * np.arange(n_points)[:, None] + xyz,
            users_block.start + 3 * users[:, None] + xyz,
        ]
    )
    joint = covariance[own[:, :, None], own[:, None, :]]
    variance = np.einsum("si,sij,sj->s", slope, joint, slope)
    slack = _LAW_SLACK_CELLS * fit.problem.length_cell_m
    return error**2 < _LAW_GATE * (np.maximum(variance, 0.0) + slack**2)


def single_bounce_probability(fit: Fit, covariance: RealArray) -> RealArray:
    """Probability that each point is a real single bounce where it is said to be, shape (S,).

    One for points on which users with parallax agree and for ground reflections. For the others a mixture of
    single and multiple bounces over the reflection loss and the law of reflection at a wall. The share of
    single bounces, and how many of them obey that law, are learned from all paths of the block: the former
    points count as single, paths without a location as multiple. Last comes the probability that the point is
    within a resolution cell's share of its estimate. On a monostatic link nothing can be compared, and every
    point counts as a single bounce.
    """
    paths = fit.paths
    n_points = len(fit.scene.points_m)
    if not fit.problem.prior.has_line_of_sight:
        return np.ones(n_points)
    loss_db = reflection_loss_db(fit)
    on_ground = ground_reflections(fit, covariance)
    certain = _has_parallax(fit, loss_db) | on_ground
    lawful = wall_reflections(fit, covariance) | on_ground
    doubtful = _strongest_paths(fit, np.flatnonzero(~certain))
    probability = _mixture_probability(
        _loss_log_ratio(loss_db[doubtful]),
        lawful[paths.target[doubtful]],
        n_certain=int(np.count_nonzero(certain)),
        n_certain_lawful=int(np.count_nonzero(certain & lawful)),
        n_multiple=int(np.count_nonzero(paths.is_free)),
    )
    result = np.ones(n_points)
    result[paths.target[doubtful]] = probability * _in_place_probability(fit, covariance, doubtful)
    return result


def _mixture_probability(
    loss_ratio: RealArray, lawful: BoolArray, n_certain: int, n_certain_lawful: int, n_multiple: int
) -> RealArray:
    """Probability of one bounce for every doubtful path, shape (P,), by EM over the two shares."""
    probability = 1 / (1 + np.exp(-loss_ratio))
    for _ in range(_SHARE_ITERATIONS):
        found = n_certain + probability.sum()
        single = _SHARE_PRIOR[0] + found
        multiple = _SHARE_PRIOR[1] + n_multiple + loss_ratio.size - probability.sum()
        share = (_LAWFUL_PRIOR[0] + n_certain_lawful + probability[lawful].sum()) / (
            sum(_LAWFUL_PRIOR) + found
        )
        law_ratio = np.log(np.where(lawful, share / _LAWFUL_MULTIPLE, (1 - share) / (1 - _LAWFUL_MULTIPLE)))
        probability = 1 / (1 + np.exp(-(loss_ratio + law_ratio + np.log(single / multiple))))
    return probability


def _has_parallax(fit: Fit, loss_db: RealArray) -> BoolArray:
    """Points that two users with a strong enough path see at different angles, shape (S,)."""
    paths, scene = fit.paths, fit.scene
    parallax = np.zeros(len(scene.points_m), bool)
    witnesses = paths.is_point & ~(loss_db > _WITNESS_LOSS_DB)
    for point in np.unique(paths.target[witnesses]):
        users = paths.user[witnesses & (paths.target == point)]
        towards, _ = unit_vectors(scene.points_m[point], scene.users_m[users])
        parallax[point] = np.min(towards @ towards.T) < np.cos(_LEAST_PARALLAX_RAD)
    return parallax


def _in_place_probability(fit: Fit, covariance: RealArray, paths: NDArray[np.int64]) -> RealArray:
    """Probability that the point of a path is where it is said to be, along its widest axis, shape (P,)."""
    if not paths.size:
        return np.zeros(0)
    problem, scene, cell = fit.problem, fit.scene, fit.problem.length_cell_m
    users, points = fit.paths.user[paths], fit.paths.target[paths]
    own = 3 * points[:, None] + np.arange(3)
    spread = np.linalg.eigvalsh(covariance[own[:, :, None], own[:, None, :]])[:, -1]
    direct = np.linalg.norm(scene.users_m[users] - problem.receiver.bs_position_m, axis=1)
    excess = fit.parameters.length_m[paths] - scene.offsets_m[users] - direct
    crowded = excess < _CROWDED_CELLS * cell
    spread = np.where(crowded, _CROWDED_SPREAD**2, 1.0) * np.maximum(spread, 1e-12)
    return np.asarray(erf(_SAME_PLACE_CELLS * cell / np.sqrt(2 * spread)))


def _strongest_paths(fit: Fit, points: NDArray[np.int64]) -> NDArray[np.int64]:
    """Index of the strongest path over each of some points."""
    strength = np.abs(fit.posterior.mean)
    over = fit.paths.target == points[:, None]
    return np.argmax(np.where(over, strength, -1.0), axis=1) if points.size else points


def _loss_log_ratio(loss_db: RealArray) -> RealArray:
    """Log-likelihood ratio of one bounce against more; zero where the loss is not known."""
    (m1, s1), (m2, s2) = _SINGLE_LOSS_DB, _MULTIPLE_LOSS_DB
    clipped = np.clip(loss_db, m1 - s1, m2 + 2 * s2)
    ratio = 0.5 * ((clipped - m2) / s2) ** 2 - 0.5 * ((clipped - m1) / s1) ** 2 + np.log(s2 / s1)
    return np.where(np.isnan(ratio), 0.0, ratio)
