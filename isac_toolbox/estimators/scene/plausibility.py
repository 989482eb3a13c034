"""How likely a path seen by one user alone is a single bounce (docs/theory.md, section 6).

Any path longer than the line of sight has *some* single-bounce point. When users who see it from different
sides agree on the point it is one; when a single user sees it, or neighbours do, a path of two bounces would
look the same. What tells them apart is physics: every reflection costs power, and a reflection on level
ground or a vertical wall obeys the law of reflection. How much power, and how often the law holds, is learned
from the paths of the block, with weak priors.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import erf, expit

from isac_toolbox.channel.geometry import unit_vectors
from isac_toolbox.estimators.scene.fit import Fit
from isac_toolbox.estimators.scene.locate import arrival_directions

__all__ = [
    "LossDistribution",
    "chance_share",
    "ground_reflections",
    "reflection_loss_db",
    "single_bounce_probability",
    "unlocated_wall_reflections",
    "wall_reflections",
]

RealArray = NDArray[np.float64]
BoolArray = NDArray[np.bool_]
IntArray = NDArray[np.int64]


@dataclass(frozen=True)
class LossDistribution:
    """Normal distribution of a loss beyond free space.

    Attributes
    ----------
    mean_db, std_db : float
    """

    mean_db: float
    std_db: float

    def updated(self, loss_db: RealArray, weight: RealArray, prior_paths: float) -> LossDistribution:
        """Return mean and spread after losses (P,) with weights (P,), this one being worth some paths.

        The mode of mean and variance under a normal-inverse-gamma prior:
        ``mean = (n_0 m_0 + sum w x) / (n_0 + n)``, and
        ``variance = (n_0 s_0^2 + sum w (x - xbar)^2 + n_0 n / (n_0 + n) (xbar - m_0)^2) / (n_0 + n)``.
        """
        n = float(weight.sum())
        if n == 0:
            return self
        average = float(weight @ loss_db) / n
        total = prior_paths + n
        mean = (prior_paths * self.mean_db + n * average) / total
        squares = prior_paths * self.std_db**2 + float(weight @ (loss_db - average) ** 2)
        squares += prior_paths * n / total * (average - self.mean_db) ** 2
        return LossDistribution(mean, float(np.sqrt(squares / total)))

    def log_density(self, loss_db: RealArray) -> RealArray:
        """Return the log density without its constant, shape of ``loss_db``."""
        return -0.5 * ((loss_db - self.mean_db) / self.std_db) ** 2 - np.log(self.std_db)


# Prior: weak, worth so many paths. One bounce: reflection at a smooth half space of concrete, brick, glass or
# marble (relative permittivities of ITU-R P.2040) in any linear polarisation and at any incidence has a loss
# of 7.5 dB on average, spread by 3.5 dB; 3 dB for rough surfaces and the antennas' patterns make it 4.5 dB.
_SINGLE_LOSS = LossDistribution(7.5, 4.5)
# Prior: two such reflections.
_MULTIPLE_LOSS = LossDistribution(15.0, 4.5)
# Prior: what these two are worth, in paths.
_PRIOR_PATHS = 8.0
# Guard: losses beyond three deviations of these teach as much as at three; a path that is hardly there says
# little.
_LEAST_LOSS_DB = _SINGLE_LOSS.mean_db - 3 * _SINGLE_LOSS.std_db
# Guard: the other end.
_LARGEST_LOSS_DB = _MULTIPLE_LOSS.mean_db + 3 * _MULTIPLE_LOSS.std_db
# Prior: counts for and against a single bounce; nine in ten, worth ten paths.
_SHARE_PRIOR = (9.0, 1.0)
# Prior: the same for the law of reflection, of single and of multiple bounces: uniform.
_LAWFUL_PRIOR = (1.0, 1.0)
# Cost cap: rounds of EM over losses and shares; changes are far below 0.01 by then.
_ROUNDS = 50
# Tuned: three standard deviations, squared.
_LAW_GATE = 9.0
# Tuned: error of the law of reflection that is none, in resolution cells, as surfaces are not ideal.
_LAW_SLACK_CELLS = 0.03
# Tuned: a second user's path speaks for a point only if it is not far weaker than any bounce would be; 94 %
# of two bounces are stronger under the prior.
_WITNESS_LOSS_DB = 22.0
# Tuned: users seen from the point within this angle would agree on a double bounce as well.
_LEAST_PARALLAX_RAD = np.deg2rad(15.0)
# Tuned with the two shipped cities: a path this close to its line of sight, in resolution cells, may hide
# weaker neighbours that pull it,
_CROWDED_CELLS = 1.5
# Tuned with the two shipped cities: so its spread counts as so many times wider.
_CROWDED_SPREAD = 2.0
# Tuned with the two shipped cities: a point off by more than this share of a cell is another one.
_SAME_PLACE_CELLS = 0.65


def reflection_loss_db(fit: Fit) -> RealArray:
    """Return the loss of every path beyond free space, relative to its user's line of sight, shape (L,).

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
    """Return which points a horizontal plane below them would make reflect their strongest user, (S,).

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
        block = slice(3 * i, 3 * i + 3)
        slope = (user[:2] - bs[:2]) * (user[2] - bs[2]) / heights**2
        jacobian = np.column_stack([np.eye(2), slope])
        spread = jacobian @ covariance[block, block] @ jacobian.T + 1e-6 * np.eye(2)
        error = point[:2] - expected
        reflects[i] = error @ np.linalg.solve(spread, error) < _LAW_GATE
    return reflects


def wall_reflections(fit: Fit, covariance: RealArray) -> BoolArray:
    """Return which points a vertical wall would make reflect their strongest user, shape (S,).

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
    points_block, users_block, _, _ = scene.blocks()
    xyz = np.arange(3)
    columns = np.hstack(
        [
            points_block.start + 3 * np.arange(n_points)[:, None] + xyz,
            users_block.start + 3 * users[:, None] + xyz,
        ]
    )
    variance = _propagated(np.hstack([in_point, in_user]), covariance, columns)
    return _obeys_law(error, variance, fit.problem.length_cell_m)


def unlocated_wall_reflections(fit: Fit, covariance: RealArray) -> BoolArray:
    """Return which unlocated paths vertical walls alone could have reflected, shape (F,).

    Vertical walls, however many, leave the slope of the ray: its direction rises by ``(z_k - z_b) / L`` over
    the path length ``L``, within three standard deviations.
    """
    scene, receiver = fit.scene, fit.problem.receiver
    index = np.flatnonzero(fit.paths.is_unlocated)
    unlocated, user = fit.paths.unlocated[index], fit.paths.user[index]
    parameters = scene.unlocated_m[unlocated]
    direction, valid = arrival_directions(fit.problem, parameters[:, 1:])
    length = parameters[:, 0] - scene.offsets_m[user]
    error = direction[:, 2] * length - (scene.users_m[user, 2] - receiver.bs_position_m[2])
    _, users_block, offsets_block, unlocated_block = scene.blocks()
    front, horizontal, vertical = receiver.array.axes[:, 2]
    forward = np.sqrt(np.maximum(1 - np.sum(parameters[:, 1:] ** 2, axis=1), 1e-6))
    slope = np.column_stack(
        [
            direction[:, 2],
            length * (horizontal - front * parameters[:, 1] / forward),
            length * (vertical - front * parameters[:, 2] / forward),
            -direction[:, 2],
            -np.ones(index.size),
        ]
    )
    first = unlocated_block.start + 3 * unlocated
    unknowns = [first, first + 1, first + 2, offsets_block.start + user, users_block.start + 3 * user + 2]
    variance = _propagated(slope, covariance, np.column_stack(unknowns))
    return valid & _obeys_law(error, variance, fit.problem.length_cell_m)


def _propagated(slope: RealArray, covariance: RealArray, columns: IntArray) -> RealArray:
    """Variance of quantities with the given slopes (S, C) in some entries (S, C) of the scene, shape (S,)."""
    joint = covariance[columns[:, :, None], columns[:, None, :]]
    return np.einsum("si,sij,sj->s", slope, joint, slope)


def _obeys_law(error: RealArray, variance: RealArray, cell_m: float) -> BoolArray:
    return error**2 < _LAW_GATE * (np.maximum(variance, 0.0) + (_LAW_SLACK_CELLS * cell_m) ** 2)


def single_bounce_probability(fit: Fit, covariance: RealArray) -> RealArray:
    """Return the probability that each point is a real single bounce where it is said to be, shape (S,).

    Points on which users with parallax agree have what chance agreements leave of one (:func:`chance_share`),
    ground reflections one. For the others a mixture of single and multiple bounces over the reflection loss
    and the law of reflection at a wall. Its parameters are learned from the block: points with parallax count
    as single, unlocated paths as multiple. Last comes, also for ground reflections, the probability that the
    point is within a resolution cell's share of its estimate. On a monostatic link nothing can be compared,
    and every point counts as a single bounce. Of a linear array, laws of reflection are not asked, as the
    slope of a ray is hardly seen, and all points must be within that share.

    Notes
    -----
    Source: docs/theory.md, section 6.6.
    """
    paths = fit.paths
    n_points = len(fit.scene.points_m)
    sees_all = all(fit.problem.receiver.array.sees_cosines)
    result = np.ones(n_points)
    if not sees_all:
        everything = _strongest_paths(fit, np.arange(n_points))
        result = _in_place_probability(fit, covariance, everything)
    if not fit.problem.prior.has_line_of_sight:
        return result
    loss_db = reflection_loss_db(fit)
    on_ground = ground_reflections(fit, covariance) & sees_all
    agreed = _has_parallax(fit, loss_db) & ~on_ground
    at_wall = wall_reflections(fit, covariance) & sees_all
    doubtful = _strongest_paths(fit, np.flatnonzero(~(agreed | on_ground)))
    settled = _strongest_paths(fit, np.flatnonzero(agreed))
    probability = _mixture_probability(
        doubtful=_Evidence(loss_db[doubtful], at_wall[paths.target[doubtful]]),
        single=_Evidence(loss_db[settled], at_wall[agreed]),
        multiple=_Evidence(
            loss_db[paths.is_unlocated], unlocated_wall_reflections(fit, covariance) & sees_all
        ),
        n_ground=int(np.count_nonzero(on_ground)),
    )
    result[paths.target[doubtful]] = probability * _in_place_probability(fit, covariance, doubtful)
    result[agreed] *= 1 - chance_share(fit, agreed)
    ground = _strongest_paths(fit, np.flatnonzero(on_ground))
    result[on_ground] *= _in_place_probability(fit, covariance, ground)
    return result


@dataclass(frozen=True, eq=False)
class _Evidence:
    """Losses (P,), NaN where not known, and which paths obey the law of reflection at a wall (P,)."""

    loss_db: RealArray
    lawful: BoolArray

    @property
    def size(self) -> int:
        return int(self.loss_db.size)


def _mixture_probability(
    doubtful: _Evidence, single: _Evidence, multiple: _Evidence, n_ground: int
) -> RealArray:
    """Probability of one bounce for every doubtful path, shape (P,), by EM over losses and shares.

    Ground reflections count as single bounces, but neither their loss (near the Brewster angle) nor a law of
    walls says anything of others.
    """
    if not doubtful.size:
        return np.zeros(0)
    one, more = _SINGLE_LOSS, _MULTIPLE_LOSS
    of_one, of_more = _KnownLosses.of(doubtful, single), _KnownLosses.of(doubtful, multiple)
    share = np.log(_SHARE_PRIOR[0] / _SHARE_PRIOR[1])
    lawful_one = lawful_more = _LAWFUL_PRIOR[0] / sum(_LAWFUL_PRIOR)
    probability = np.zeros(doubtful.size)
    for _ in range(_ROUNDS):
        before = probability
        law = np.where(doubtful.lawful, lawful_one / lawful_more, (1 - lawful_one) / (1 - lawful_more))
        probability = expit(_loss_log_ratio(doubtful.loss_db, one, more) + np.log(law) + share)
        if np.array_equal(probability, before):
            break  # from here on every round is the same
        others = 1 - probability
        one = of_one.fitted(_SINGLE_LOSS, probability)
        more = of_more.fitted(_MULTIPLE_LOSS, others)
        lawful_one = _learned_share(doubtful, probability, single)
        lawful_more = _learned_share(doubtful, others, multiple)
        n_one = _SHARE_PRIOR[0] + n_ground + single.size + probability.sum()
        share = np.log(n_one / (_SHARE_PRIOR[1] + multiple.size + others.sum()))
    return probability


@dataclass(frozen=True, eq=False)
class _KnownLosses:
    """Known losses (P,) of doubtful paths, then of settled ones, and which doubtful ones have one."""

    loss_db: RealArray
    known: BoolArray

    @classmethod
    def of(cls, doubtful: _Evidence, settled: _Evidence) -> _KnownLosses:
        """Pick what is known, within the losses that are believable."""
        known, of_settled = np.isfinite(doubtful.loss_db), np.isfinite(settled.loss_db)
        loss_db = np.concatenate([doubtful.loss_db[known], settled.loss_db[of_settled]])
        return cls(np.clip(loss_db, _LEAST_LOSS_DB, _LARGEST_LOSS_DB), known)

    def fitted(self, prior: LossDistribution, weight: RealArray) -> LossDistribution:
        """Loss of a class from the doubtful paths, as far as they belong to it (P,), and the settled ones."""
        weights = np.ones(self.loss_db.size)
        weights[: np.count_nonzero(self.known)] = weight[self.known]
        return prior.updated(self.loss_db, weights, _PRIOR_PATHS)


def _learned_share(doubtful: _Evidence, weight: RealArray, settled: _Evidence) -> float:
    """Share of a class that obeys the law of reflection."""
    lawful = _LAWFUL_PRIOR[0] + float(weight[doubtful.lawful].sum()) + int(settled.lawful.sum())
    return lawful / (sum(_LAWFUL_PRIOR) + float(weight.sum()) + settled.size)


def _loss_log_ratio(loss_db: RealArray, one: LossDistribution, more: LossDistribution) -> RealArray:
    """Log-likelihood ratio of one bounce against more, shape (P,); zero where the loss is not known.

    Beyond a deviation below the first mean and two above the second the ratio stays as it is: a path that is
    stronger than one bounce allows does not speak for two, however much wider their losses spread.
    """
    clipped = np.clip(loss_db, one.mean_db - one.std_db, more.mean_db + 2 * more.std_db)
    return np.where(np.isnan(loss_db), 0.0, one.log_density(clipped) - more.log_density(clipped))


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


def chance_share(fit: Fit, agreed: BoolArray) -> float:
    """Return the share of the agreements on points (S,) that there would be between unrelated paths.

    Two users agree by chance where a path of each is in the same resolution cell. Beside the paths of a given
    agreement, of ``n_k`` and ``n_j`` in ``Q`` directions and ``L`` lengths, that is expected
    ``(n_k - 1) (n_j - 1) / (Q L)`` times; the expected number over that of the pairs of users that agree is
    the rate of false discoveries (docs/theory.md, section 6.6).
    """
    paths, problem = fit.paths, fit.problem
    n_users = len(fit.scene.users_m)
    seen_by = np.zeros((n_users, len(agreed)), bool)
    seen_by[paths.user[paths.is_point], paths.target[paths.is_point]] = True
    found = seen_by[:, agreed].sum(axis=0)
    n_agreements = float(np.sum(found * (found - 1)) / 2)
    if not n_agreements:
        return 0.0
    cells = np.minimum(problem.receiver.array.cosine_cells, 2.0)
    n_directions = max(np.pi / float(np.prod(cells)), 1.0)
    beside = ~paths.is_line_of_sight
    others = np.maximum(np.bincount(paths.user[beside], minlength=n_users) - 1, 0)
    excess_m = fit.parameters.length_m - fit.scene.offsets_m[paths.user]
    expected = 0.0
    for k in range(n_users):
        for j in range(k):
            of_both = excess_m[beside & ((paths.user == k) | (paths.user == j))]
            n_lengths = 1 + (np.ptp(of_both) / problem.length_cell_m if of_both.size else 0.0)
            expected += others[k] * others[j] / (n_directions * n_lengths)
    return float(min(expected / n_agreements, 1.0))


def _in_place_probability(fit: Fit, covariance: RealArray, paths: NDArray[np.int64]) -> RealArray:
    """Probability that the point of a path is where it is said to be, along its widest axis, shape (P,)."""
    if not paths.size:
        return np.zeros(0)
    problem, scene, cell = fit.problem, fit.scene, fit.problem.length_cell_m
    users, points = fit.paths.user[paths], fit.paths.target[paths]
    columns = 3 * points[:, None] + np.arange(3)
    spread = np.linalg.eigvalsh(covariance[columns[:, :, None], columns[:, None, :]])[:, -1]
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
