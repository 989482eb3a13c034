"""Kernels over a scene and its paths: geometry with its derivatives, gradients, and steps of the scene."""

from __future__ import annotations

import numpy as np
from numba import njit

__all__ = ["capped_step", "pull_slopes", "trace_paths"]

_LINE_OF_SIGHT = -1


@njit(cache=True)
def trace_paths(scene, paths, bs, axes, spherical, out, columns):  # type: ignore[no-untyped-def]
    """Length (L,), cosines (2, L), and derivatives in target (L, 1 + D, 3) and user (L, 4), filled in.

    ``scene`` is (points, users, offsets, free paths), ``paths`` (user, target, free), ``axes`` the
    horizontal and vertical axis of the array. ``columns`` of target, user and offset in the scene's vector
    are filled in as well.
    """
    points, users, offsets, free_paths = scene
    user, target, free = paths
    length, cosines, in_target, in_user = out
    target_column, user_column, offset_column = columns
    first_user = 3 * len(points)
    first_offset = first_user + 3 * len(users)
    first_free = first_offset + len(offsets)
    to_bs, to_user = np.empty(3), np.empty(3)
    for i in range(user.size):
        k, q = user[i], target[i]
        user_column[i], offset_column[i] = first_user + 3 * k, first_offset + k
        if q < _LINE_OF_SIGHT:
            target_column[i] = first_free + 3 * free[i]
            length[i] = free_paths[free[i], 0]
            cosines[0, i], cosines[1, i] = free_paths[free[i], 1], free_paths[free[i], 2]
            for d in range(3):
                in_target[i, d, d] = 1.0
            continue
        target_column[i] = user_column[i] if q < 0 else 3 * q
        distance, user_distance = 0.0, 0.0
        for x in range(3):
            place = users[k, x] if q < 0 else points[q, x]
            to_bs[x], to_user[x] = place - bs[x], place - users[k, x]
            distance += to_bs[x] ** 2
            user_distance += to_user[x] ** 2
        distance, user_distance = np.sqrt(distance), np.sqrt(user_distance)
        length[i] = distance + user_distance + offsets[k]
        near, far = max(user_distance, 1e-300), max(distance, 1e-300)
        for a in range(2):
            cosines[a, i] = (axes[a, 0] * to_bs[0] + axes[a, 1] * to_bs[1] + axes[a, 2] * to_bs[2]) / far
        for x in range(3):
            e_b, e_k = to_bs[x] / far, to_user[x] / near
            in_target[i, 0, x] = e_b + e_k
            in_user[i, x] = -e_k
            if spherical:
                in_target[i, 1 + x, x] = 1.0
            else:
                for a in range(2):
                    in_target[i, 1 + a, x] = (axes[a, x] - cosines[a, i] * e_b) / far
        in_user[i, 3] = 1.0


@njit(cache=True)
def pull_slopes(slopes, in_target, target_column, in_user, user_column, offset_column, pulled):  # type: ignore[no-untyped-def]
    """``sum_di slopes_di J_dip`` of slopes (1 + D, L), added to (P,)."""
    for i in range(slopes.shape[1]):
        for x in range(3):
            for d in range(slopes.shape[0]):
                pulled[target_column[i] + x] += slopes[d, i] * in_target[i, d, x]
            pulled[user_column[i] + x] += slopes[0, i] * in_user[i, x]
        pulled[offset_column[i]] += slopes[0, i] * in_user[i, 3]


@njit(cache=True)
def capped_step(scene, step, largest_move, free_cells, region):  # type: ignore[no-untyped-def]
    """Points, users, offsets and free paths after a step of the scene's vector.

    A point moves by at most ``largest_move`` and stays in the region; a free path by at most ``free_cells``
    (3,) in each of its parameters, all three scaled alike.
    """
    points, users, offsets, free_paths = scene[0].copy(), scene[1].copy(), scene[2].copy(), scene[3].copy()
    at = 0
    for q in range(len(points)):
        length = np.sqrt(step[at] ** 2 + step[at + 1] ** 2 + step[at + 2] ** 2)
        share = min(1.0, largest_move / max(length, 1e-300))
        for x in range(3):
            moved = points[q, x] + share * step[at + x]
            points[q, x] = min(max(moved, region[0, x]), region[1, x])
        at += 3
    for k in range(len(users)):
        for x in range(3):
            users[k, x] += step[at + x]
        at += 3
    for k in range(len(offsets)):
        offsets[k] += step[at + k]
    at += len(offsets)
    for f in range(len(free_paths)):
        excess = 1.0
        for x in range(3):
            excess = max(excess, abs(step[at + x]) / free_cells[x])
        for x in range(3):
            free_paths[f, x] += step[at + x] / excess
        at += 3
    return points, users, offsets, free_paths
