"""Clocks of users without a line of sight, from scatterers that other users see too.

docs/theory.md, section 7.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from isac_toolbox.channel.atoms.scene import Scene
from isac_toolbox.estimators.scene.alternatives import Lattice
from isac_toolbox.estimators.scene.cones import single_bounce
from isac_toolbox.estimators.scene.problem import Problem

__all__ = ["clocks_from_shared", "users_without_clock"]

RealArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
BoolArray = NDArray[np.bool_]

# Guard: deviation of a clock, in resolution cells, beyond which lengths alone locate nothing.
_VAGUE_CELLS = 5.0
# Guard: scatterers that users without a line of sight must share to have a clock; one fits any clock.
_SHARED = 2
# Tuned: difference of two directions that are one, in resolution cells.
_SAME_DIRECTION_CELLS = 0.2
# Tuned: difference of two clocks that are one, in resolution cells.
_SAME_CLOCK_CELLS = 0.5
# Mathematics: deviations of the prior within which a clock is looked for.
_REACH = 5.0


def users_without_clock(problem: Problem, line_of_sight: BoolArray, n_seen: IntArray) -> BoolArray:
    """Return which users (K,) have neither a line of sight nor points enough nor a prior that tells a clock.

    Parameters
    ----------
    problem : Problem
    line_of_sight : ndarray of bool, shape (K,)
    n_seen : ndarray of int, shape (K,)
        Points that each user sees.
    """
    vague = problem.prior.offset_stds_m > _VAGUE_CELLS * problem.length_cell_m
    return np.asarray(problem.prior.has_line_of_sight & vague & ~line_of_sight & (n_seen < _SHARED))


def clocks_from_shared(
    problem: Problem, scene: Scene, user: IntArray, points_m: RealArray, lost: BoolArray
) -> tuple[RealArray, BoolArray]:
    """Return clock offsets (K,) in metres with those of lost users as their paths share points tell.

    A path in the direction of a point of other users would run over it at one clock; a clock on which several
    paths over different points agree is taken.

    Parameters
    ----------
    problem : Problem
    scene : Scene
        Users, clocks and unlocated paths.
    user : ndarray of int, shape (P,)
        Of the unlocated paths.
    points_m : ndarray, shape (Q, 3)
        Points of users whose clocks are known.
    lost : ndarray of bool, shape (K,)

    Returns
    -------
    offsets_m : ndarray, shape (K,)
    still_lost : ndarray of bool, shape (K,)
    """
    offsets, still_lost, lattice = scene.offsets_m.copy(), lost.copy(), Lattice.of(problem)
    for k in np.flatnonzero(lost):
        votes = _votes(problem, scene, lattice, np.flatnonzero(user == k), points_m, int(k))
        clock = _agreed(votes, lattice.length_periods_m[k], _SAME_CLOCK_CELLS * problem.length_cell_m)
        if clock is not None:
            offsets[k], still_lost[k] = clock, False
    return offsets, still_lost


def _votes(
    problem: Problem, scene: Scene, lattice: Lattice, paths: IntArray, points_m: RealArray, user: int
) -> RealArray:
    """Path, point and clock (V, 3) of every pair of one direction whose clock the prior allows."""
    if not (paths.size and len(points_m)):
        return np.zeros((0, 3))
    expected = single_bounce(problem, points_m, np.broadcast_to(scene.users_m[user], points_m.shape))
    difference = scene.unlocated_m[paths][:, None] - expected
    periods = np.array([lattice.length_periods_m[user], *lattice.cosine_periods])
    difference -= periods * np.rint(difference / periods)
    same = np.all(np.abs(difference[:, :, 1:]) < _SAME_DIRECTION_CELLS * problem.cosine_cells, axis=2)
    same &= np.abs(difference[:, :, 0]) < _REACH * problem.prior.offset_stds_m[user]
    path, point = np.nonzero(same)
    return np.column_stack([path, point, difference[path, point, 0]])


def _agreed(votes: RealArray, period_m: float, width_m: float) -> float | None:
    """The clock that most paths over different points agree on; None where fewer than two do."""
    best, most = None, _SHARED - 1
    for _, _, clock in votes[np.argsort(np.abs(votes[:, 2]), kind="stable")]:
        apart = votes[:, 2] - clock
        apart -= period_m * np.rint(apart / period_m)
        near = votes[np.abs(apart) < width_m]
        n_agreeing = min(np.unique(near[:, 0]).size, np.unique(near[:, 1]).size)
        if n_agreeing > most:
            best, most = float(clock + np.mean(apart[np.abs(apart) < width_m])), n_agreeing
    return best
