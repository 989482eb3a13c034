"""How likely a path seen by one user alone is a single bounce (docs/theory.md, section 6).

Any path longer than the line of sight has *some* single-bounce point. When several users agree on the point
it is one; when a single user sees it, a path of two bounces would look the same. What tells them apart is
physics: every reflection costs power, and a reflection on level ground obeys the law of reflection.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from isac_toolbox.estimators.gauss_newton import Fit, Problem

__all__ = ["ground_reflections", "reflection_loss_db", "single_bounce_probability"]

RealArray = NDArray[np.float64]
BoolArray = NDArray[np.bool_]

# Loss beyond free space in dB, mean and spread: one bounce, and more than one.
_SINGLE_LOSS_DB = (7.0, 4.5)
_MULTIPLE_LOSS_DB = (18.0, 5.5)
_SHARE_PRIOR = (9.0, 1.0)
_SHARE_ITERATIONS = 30
_GROUND_GATE = 9.0
# A second user's path speaks for a point only if it is not far weaker than any bounce would be.
_WITNESS_LOSS_DB = 22.0


def reflection_loss_db(problem: Problem, fit: Fit) -> RealArray:
    """Loss of every path beyond free space, relative to its user's line of sight, shape (L,).

    ``20 log10(|x_0| L_0 / (|x_i| L_i))``, NaN for users without a line of sight.
    """
    paths, gains = fit.paths, np.maximum(np.abs(fit.posterior.mean), 1e-300)
    length = fit.parameters.length_m - fit.scene.offsets_m[paths.user]
    level = gains * np.maximum(length, problem.length_cell_m)
    reference = np.full(len(fit.scene.users_m), np.nan)
    sight = paths.is_line_of_sight
    reference[paths.user[sight]] = level[sight]
    return 20 * np.log10(reference[paths.user] / level)


def ground_reflections(problem: Problem, fit: Fit, covariance: RealArray) -> BoolArray:
    """Points at which a horizontal plane below them would reflect their strongest user, shape (S,).

    The point must lie, within three standard deviations, where the law of reflection on a horizontal plane
    through it puts it.
    """
    scene, bs = fit.scene, problem.receiver.bs_position_m
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
        reflects[i] = error @ np.linalg.solve(spread, error) < _GROUND_GATE
    return reflects


def single_bounce_probability(problem: Problem, fit: Fit, covariance: RealArray) -> RealArray:
    """Probability that each point is a real single bounce, shape (S,).

    One for points on which several users agree and for ground reflections. For the others a mixture of
    single and multiple bounces over the reflection loss, its share learned from all paths of the block:
    shared points count as single, paths without a location as multiple.
    """
    paths = fit.paths
    n_points = len(fit.scene.points_m)
    loss_db = reflection_loss_db(problem, fit)
    witnesses = paths.is_point & ~(loss_db > _WITNESS_LOSS_DB)
    n_witnesses = np.bincount(paths.target[witnesses], minlength=n_points)
    certain = (n_witnesses > 1) | ground_reflections(problem, fit, covariance)
    doubtful = _strongest_paths(fit, np.flatnonzero(~certain))
    ratio = _loss_log_ratio(loss_db[doubtful])
    n_single = _SHARE_PRIOR[0] + np.count_nonzero(certain)
    n_multiple = _SHARE_PRIOR[1] + np.count_nonzero(paths.is_free)
    probability = np.full(doubtful.size, 0.5)
    for _ in range(_SHARE_ITERATIONS):
        single = n_single + probability.sum()
        multiple = n_multiple + doubtful.size - probability.sum()
        probability = 1 / (1 + np.exp(-(ratio + np.log(single / multiple))))
    result = np.ones(n_points)
    result[paths.target[doubtful]] = probability
    return result


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
