"""Other paths that look the same: delays a period apart, directions a grating lobe apart.

Tones in equal steps tell a delay up to multiples of the inverse step; elements more than half a wavelength
apart tell a direction cosine up to multiples of the inverse spacing. Which of them is meant follows from
where a path can be, and from the other users' paths (docs/theory.md, section 7).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
from numpy.typing import NDArray

from isac_toolbox.channel.array import SPEED_OF_LIGHT_M_S, UniformPlanarArray
from isac_toolbox.channel.atoms.receiver import Receiver, tone_step_hz
from isac_toolbox.channel.atoms.scene import Scene
from isac_toolbox.channel.geometry import unit_vectors
from isac_toolbox.estimators._search_kernels import pair_evidence
from isac_toolbox.estimators.scene.problem import Problem

__all__ = ["Alternatives", "Lattice", "beliefs", "joint_points", "length_limits_m"]

RealArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
BoolArray = NDArray[np.bool_]

# Prior: share of paths with more than one bounce, or that come from outside the region.
_ELSEWHERE = 0.1
# Mathematics: period of a cosine that the array does not see at all; larger than any difference.
_NO_PERIOD = 1e9
# Guard: variance of a place, for blocks without noise.
_LEAST_VARIANCE_M2 = 1e-12
# Cost cap: shifts of one path that are tried; one that looks like more others is anywhere, and not located.
_MOST_SHIFTS = 10_000
# Cost cap: alternatives of all paths, whose joint covariance is held; the paths with most are not located.
_MOST_ALTERNATIVES = 3_000
# Mathematics: rounds of messages between paths; a coincidence of two paths needs one, of three two.
_ROUNDS = 3


@dataclass(frozen=True, eq=False)
class Lattice:
    """Shifts of a path's parameters that the data do not see.

    Attributes
    ----------
    length_periods_m : ndarray, shape (K,)
        Of every user's tones.
    cosine_periods : ndarray, shape (2,)
        Of the array.
    """

    length_periods_m: RealArray
    cosine_periods: RealArray

    @classmethod
    def of(cls, problem: Problem) -> Lattice:
        """Return the lattice of the tones and the array of a problem."""
        return cls(problem.data.length_periods_m, _cosine_periods(problem.receiver))

    @classmethod
    def on_tones(cls, receiver: Receiver, power: RealArray) -> Lattice:
        """Return the lattice of users with power (K, N) on their tones."""
        steps = [tone_step_hz(receiver.frequencies_hz, of_user > 0) for of_user in power]
        return cls(SPEED_OF_LIGHT_M_S / np.array(steps), _cosine_periods(receiver))

    def has_none(self, limits_m: RealArray) -> bool:
        """Return whether no two paths within limits (K, 2) of length look the same."""
        return bool(
            np.all(self.cosine_periods >= 2) and np.all(self.length_periods_m > np.ptp(limits_m, axis=1))
        )

    def nearest(self, difference: RealArray, user: int) -> RealArray:
        """Return the smallest of the differences (3,) of parameters that look the same."""
        periods = np.array([self.length_periods_m[user], *self.cosine_periods])
        return np.asarray(difference - periods * np.rint(difference / periods))

    def shifts(
        self, parameters: RealArray, user: IntArray, limits_m: RealArray
    ) -> tuple[IntArray, RealArray]:
        """Return all parameters that look like those given and can be: in front of the array, within limits.

        Parameters
        ----------
        parameters : ndarray, shape (P, 3)
            Lengths without the clock, and direction cosines.
        user : ndarray of int, shape (P,)
        limits_m : ndarray, shape (K, 2)
            Shortest and longest path of every user.

        Returns
        -------
        path : ndarray of int, shape (A,)
            Which path; the parameters given come first of each path, even where they cannot be. Paths that
            look like too many others, which say nothing of where they are, have none.
        shifted : ndarray, shape (A, 3)
        """
        low, high = limits_m[user].T
        period = self.length_periods_m[user]
        first = np.ceil((low - parameters[:, 0]) / period).astype(int)
        last = np.floor((high - parameters[:, 0]) / period).astype(int)
        reach = [int(np.floor(2 / p)) if p < 2 else 0 for p in self.cosine_periods]
        n_cosines = (2 * reach[0] + 1) * (2 * reach[1] + 1)
        path, shifted = [np.zeros(0, np.int64)], [np.zeros((0, 3))]
        for i, row in enumerate(parameters):
            if n_cosines * max(int(last[i]) - int(first[i]) + 1, 1) > _MOST_SHIFTS:
                continue
            periods = np.array([period[i], *self.cosine_periods])
            found = row + _multiples(range(int(first[i]), int(last[i]) + 1), reach) * periods
            possible = np.sum(found[:, 1:] ** 2, axis=1) < 1
            possible[0] = True
            shifted.append(found[possible])
            path.append(np.full(len(shifted[-1]), i))
        return np.concatenate(path), np.concatenate(shifted)


def _multiples(lengths: range, reach: Sequence[int]) -> IntArray:
    """Multiples of the three periods, (S, 3): none of any first, then all others in these ranges."""
    steps = [s for s in product(lengths, *(range(-r, r + 1) for r in reach)) if any(s)]
    return np.array([(0, 0, 0), *steps], dtype=np.int64)


def _cosine_periods(receiver: Receiver) -> RealArray:
    """Periods of both cosines; beyond any difference for one that the array does not see or that has none."""
    if not isinstance(receiver.array, UniformPlanarArray):
        return np.full(2, _NO_PERIOD)
    spacings = np.asarray(receiver.array.spacings, dtype=float)
    return np.where(receiver.array.sees_cosines, 1 / spacings, _NO_PERIOD)


def length_limits_m(problem: Problem, users_m: RealArray) -> RealArray:
    """Return the shortest and the longest single-bounce path of every user through the region, (K, 2)."""
    bs = problem.receiver.bs_position_m
    corners = np.array(list(product(*problem.region_m.T)))
    over = np.linalg.norm(corners - bs, axis=1) + np.linalg.norm(corners - users_m[:, None], axis=2)
    direct = np.linalg.norm(users_m - bs, axis=1)
    return np.column_stack([direct, over.max(axis=1)])


@dataclass(frozen=True, eq=False)
class Alternatives:
    """Points in the region that paths may run over: A of them.

    Attributes
    ----------
    path : ndarray of int, shape (A,)
        Index of the path.
    parameters : ndarray, shape (A, 3)
        Length without the clock, and direction cosines.
    points_m : ndarray, shape (A, 3)
    """

    path: IntArray
    parameters: RealArray
    points_m: RealArray

    def only(self, chosen: BoolArray) -> Alternatives:
        """Return some of them."""
        return Alternatives(self.path[chosen], self.parameters[chosen], self.points_m[chosen])

    def of_few_paths(self) -> Alternatives:
        """Return those of the paths that have few, as many paths as can be weighed together."""
        if len(self.path) <= _MOST_ALTERNATIVES:
            return self
        counts = np.bincount(self.path)
        order = np.argsort(counts, kind="stable")
        weighed = np.zeros(counts.size, bool)
        weighed[order] = np.cumsum(counts[order]) <= _MOST_ALTERNATIVES
        return self.only(weighed[self.path])

    def counts(self, n_paths: int) -> IntArray:
        """Return how many every path has, shape (P,)."""
        return np.bincount(self.path, minlength=n_paths)


def joint_points(
    problem: Problem,
    scene: Scene,
    covariance: RealArray,
    points_m: RealArray,
    user: IntArray,
    unlocated: IntArray,
) -> tuple[RealArray, RealArray]:
    """Return the covariance of points from that of the paths they were located by, and their volumes.

    Parameters
    ----------
    problem : Problem
    scene : Scene
        Users, clocks and unlocated paths.
    covariance : ndarray, shape (P, P)
        Of the scene's vector.
    points_m : ndarray, shape (A, 3)
    user, unlocated : ndarray of int, shape (A,)
        User, and index of the unlocated path, of every point.

    Returns
    -------
    covariance : ndarray, shape (3 A, 3 A)
    density : ndarray, shape (A,)
        Volume of points per volume of (length, cosines) there.
    """
    bs, axes = problem.receiver.bs_position_m, problem.receiver.array.axes[1:]
    from_bs, distance = unit_vectors(bs, points_m)
    from_user, _ = unit_vectors(scene.users_m[user], points_m)
    cosines = from_bs @ axes.T
    in_cosines = (axes - cosines[:, :, None] * from_bs[:, None]) / distance[:, None, None]
    in_point = np.concatenate([(from_bs + from_user)[:, None], in_cosines], axis=1)
    inverse = np.linalg.pinv(in_point, rcond=1e-6)
    _, users_block, offsets_block, unlocated_block = scene.blocks()
    rows = np.zeros((len(points_m), 3, scene.n_parameters))
    each, xyz = np.arange(len(points_m))[:, None], np.arange(3)
    rows[each, :, users_block.start + 3 * user[:, None] + xyz] = np.moveaxis(
        inverse[:, :, :1] * from_user[:, None], 2, 1
    )
    rows[each[:, 0], :, offsets_block.start + user] = -inverse[:, :, 0]
    rows[each, :, unlocated_block.start + 3 * unlocated[:, None] + xyz] = np.moveaxis(inverse, 2, 1)
    rows *= _within_region(np.einsum("aip,pq,aiq->ai", rows, covariance, rows), problem.region_m)
    flat = rows.reshape(-1, scene.n_parameters)
    return flat @ covariance @ flat.T, np.abs(np.linalg.det(inverse))


def _within_region(variance: RealArray, region_m: RealArray) -> RealArray:
    """Factor (A, 1, 1) that brings the variances (A, 3) of points down to that of the region."""
    widest = np.max(region_m[1] - region_m[0]) ** 2 / 12
    highest = np.maximum(variance.max(axis=1, initial=0.0), 1e-300)
    return np.minimum(1.0, np.sqrt(widest / highest))[:, None, None]


def beliefs(
    problem: Problem,
    alternatives: Alternatives,
    user: IntArray,
    covariance: RealArray,
    density: RealArray,
    log_likelihood: RealArray,
) -> RealArray:
    """Return the probability of every alternative of its path, shape (A,); the rest runs elsewhere.

    A path runs over a point of the region, uniformly, or elsewhere (a share ``_ELSEWHERE``, uniform in
    length and direction). Other users' paths over the same point speak for an alternative by the evidence of
    the coincidence, weighted by what is believed of them.

    Parameters
    ----------
    problem : Problem
    alternatives : Alternatives
    user : ndarray of int, shape (A,)
        User of every alternative.
    covariance : ndarray, shape (3 A, 3 A)
    density : ndarray, shape (A,)
        As :func:`joint_points` returns them.
    log_likelihood : ndarray, shape (A,)
        Relative to that of the path.
    """
    extent = problem.region_m[1] - problem.region_m[0]
    log_volume = float(np.sum(np.log(extent)))
    log_elsewhere = np.log(_ELSEWHERE) - np.log(2 * np.linalg.norm(extent) * np.pi)
    log_prior = np.log(1 - _ELSEWHERE) + np.log(np.maximum(density, 1e-300)) - log_volume - log_elsewhere
    log_prior += log_likelihood
    ratio = _coincidence_ratios(alternatives.points_m, covariance, user, log_volume)
    path = alternatives.path
    n_paths, n_users = int(path.max(initial=-1)) + 1, int(user.max(initial=-1)) + 1
    of_user = user == np.arange(n_users)[:, None]
    believed = _normalised(log_prior, path, n_paths)
    for _ in range(_ROUNDS):
        support = np.stack([ratio[:, own] @ believed[own] for own in of_user])
        believed = _normalised(log_prior + np.sum(np.log1p(support), axis=0), path, n_paths)
    return believed


def _coincidence_ratios(
    points_m: RealArray, covariance: RealArray, user: IntArray, log_volume: float
) -> RealArray:
    """Likelihood ratio of one point against two for pairs of different users, zero elsewhere, (A, A)."""
    n = len(points_m)
    ratio = np.zeros((n, n))
    first, second = np.nonzero(np.triu(user[:, None] != user))
    if first.size:
        spread = covariance + np.diag(_LEAST_VARIANCE_M2 + 1e-9 * np.diag(covariance))
        evidence = pair_evidence(points_m.ravel(), spread, np.arange(n), first, second)
        ratio[first, second] = ratio[second, first] = np.exp(np.minimum(log_volume + evidence, 50.0))
    return ratio


def _normalised(log_weight: RealArray, path: IntArray, n_paths: int) -> RealArray:
    """Weights of one path's alternatives and of none of them, whose log weight is zero, as probabilities."""
    highest = np.zeros(n_paths)
    np.maximum.at(highest, path, log_weight)
    weight = np.exp(log_weight - highest[path])
    total = np.exp(-highest) + np.bincount(path, weight, minlength=n_paths)
    return np.asarray(weight / total[path])
