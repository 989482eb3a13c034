"""Bistatic geometry: delays, directions, their derivatives, and the closed-form bistatic range."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from isac_toolbox.channel.array import SPEED_OF_LIGHT_M_S

__all__ = [
    "bistatic_delays_s",
    "bistatic_point_m",
    "delay_response",
    "line_of_sight_delays_s",
    "unit_vectors",
]

RealArray = NDArray[np.float64]


def unit_vectors(from_m: ArrayLike, to_m: ArrayLike) -> tuple[RealArray, RealArray]:
    """Return the unit vectors (..., 3) and distances (...,) between two broadcast sets of points."""
    difference = np.asarray(to_m, dtype=float) - np.asarray(from_m, dtype=float)
    distance = np.linalg.norm(difference, axis=-1)
    return difference / np.maximum(distance, 1e-300)[..., None], distance


def bistatic_delays_s(users_m: ArrayLike, points_m: ArrayLike, bs_m: ArrayLike) -> RealArray:
    """Return delays user -> point -> base station of every pair, shape (K, S) (docs/theory.md, section 1).

    ``tau_kq = (|p_k - p_q| + |p_q - p_b|) / c``.
    """
    users, points = np.atleast_2d(users_m).astype(float), np.asarray(points_m, dtype=float).reshape(-1, 3)
    to_user = np.linalg.norm(users[:, None, :] - points[None, :, :], axis=-1)
    to_bs = np.linalg.norm(points - np.asarray(bs_m, dtype=float), axis=-1)
    return (to_user + to_bs) / SPEED_OF_LIGHT_M_S


def line_of_sight_delays_s(users_m: ArrayLike, bs_m: ArrayLike) -> RealArray:
    """Return the delays user -> base station, shape (K,)."""
    difference = np.atleast_2d(users_m).astype(float) - np.asarray(bs_m, dtype=float)
    return np.linalg.norm(difference, axis=-1) / SPEED_OF_LIGHT_M_S


def delay_response(delays_s: ArrayLike, frequencies_hz: ArrayLike) -> NDArray[np.complex128]:
    """Return the response over subcarriers ``b_n(tau) = exp(-j 2 pi f_n tau)``, shape (..., N)."""
    delays, frequencies = np.asarray(delays_s, dtype=float), np.asarray(frequencies_hz, dtype=float)
    return np.exp(-2j * np.pi * delays[..., None] * frequencies)


def bistatic_point_m(
    directions: ArrayLike, path_lengths_m: ArrayLike, user_m: ArrayLike, bs_m: ArrayLike
) -> tuple[RealArray, NDArray[np.bool_]]:
    """Return the single-bounce point seen in a direction at a total path length.

    Parameters
    ----------
    directions : array_like, shape (..., 3)
        Unit vectors from the base station.
    path_lengths_m : array_like, shape (...,)
        ``L = c (tau - delta)``: length user -> point -> base station.
    user_m, bs_m : array_like, shape (3,) or broadcastable
        Positions of the user and the base station.

    Returns
    -------
    points_m : ndarray, shape (..., 3)
    valid : ndarray of bool, shape (...,)
        False where the path is not longer than the line of sight (no such point exists).

    Notes
    -----
    ``r = (L^2 - |v|^2) / (2 (L - u.v))``, ``v = p_k - p_b`` (docs/theory.md, section 7).
    """
    u, length = np.asarray(directions, dtype=float), np.asarray(path_lengths_m, dtype=float)
    v = np.asarray(user_m, dtype=float) - np.asarray(bs_m, dtype=float)
    excess = length - np.sum(u * v, axis=-1)
    squared = length**2 - np.sum(v * v, axis=-1)
    valid = (squared > 0) & (excess > 1e-9)
    radius = np.where(valid, squared / (2 * np.where(valid, excess, 1.0)), np.nan)
    return np.asarray(bs_m, dtype=float) + radius[..., None] * u, valid
