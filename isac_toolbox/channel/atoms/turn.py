"""A turn of the array that nobody has measured: what it does to places (docs/theory.md, section 6.9)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from isac_toolbox.channel.array import AntennaArray

__all__ = ["Turn"]

RealArray = NDArray[np.float64]

# Guard: deviation of users' places, in metres, where they are known exactly; a turn moves them all the same.
_LEAST_STD_M = 1e-3


@dataclass(frozen=True, eq=False)
class Turn:
    """Five small unknowns that shift the directions of all paths: three rotations and two phase slopes.

    The estimator works in the frame of the array as it is; there users lie displaced together. Their stated
    places tell the turn, and lead back to the world.

    Attributes
    ----------
    array : AntennaArray
    bs_position_m : ndarray, shape (3,)
    stds : ndarray, shape (5,)
        Of the rotations about normal, horizontal and vertical axis, in radians, and of the shifts of both
        direction cosines.
    users_m, user_stds_m : ndarray, shape (K, 3)
        Stated places and deviations.
    at_m : ndarray, shape (K, 3), optional
        Where displacements of users are linear; at their stated places if not given.
    """

    array: AntennaArray
    bs_position_m: RealArray
    stds: RealArray
    users_m: RealArray
    user_stds_m: RealArray
    at_m: RealArray | None = None

    def around(self, users_m: RealArray) -> Turn:
        """Return the turn with displacements linear around other places of the users (K, 3)."""
        return replace(self, at_m=users_m)

    def displacements(self, places_m: RealArray) -> RealArray:
        """Return how places (n, 3) move with each unknown in the array's frame, shape (3 n, 5)."""
        away = places_m - self.bs_position_m
        distance = np.maximum(np.linalg.norm(away, axis=1), 1e-9)
        normal, horizontal, vertical = self.array.axes
        moves = np.empty((len(places_m), 3, 5))
        for column, axis in enumerate((normal, horizontal, vertical)):
            moves[:, :, column] = -np.cross(axis, away)
        towards = away / distance[:, None]
        for n, (direction, r) in enumerate(zip(towards, distance, strict=True)):
            rows = [(axis - direction * (axis @ direction)) / r for axis in (horizontal, vertical)]
            moves[n, :, 3:] = np.linalg.pinv(np.vstack([*rows, direction]))[:, :2]
        return moves.reshape(-1, 5)

    @cached_property
    def _of_users(self) -> tuple[RealArray, RealArray, RealArray]:
        """Displacements (3 K, 5) of users, variances (3 K,) of their places, and both together (3 K, 3 K)."""
        moves = self.displacements(self.users_m if self.at_m is None else self.at_m)
        variance = np.maximum(self.user_stds_m.ravel(), _LEAST_STD_M) ** 2
        return moves, variance, np.diag(variance) + (moves * self.stds**2) @ moves.T

    @property
    def stds_m(self) -> RealArray:
        """Deviations of the users' places in the frame of the array, shape (K, 3)."""
        return np.asarray(np.sqrt(np.diag(self._of_users[2])).reshape(-1, 3))

    @cached_property
    def coupling(self) -> RealArray:
        """Inverse covariance of the users' places less its share without the turn in common, (3 K, 3 K)."""
        _, _, covariance = self._of_users
        return np.asarray(np.linalg.inv(covariance) - np.diag(1 / np.diag(covariance)))

    def back(self, users_m: RealArray) -> tuple[RealArray, RealArray, RealArray]:
        """Return the turn that users at places (K, 3) show: mean (5,), gain (5, 3 K), covariance (5, 5).

        The gain maps a shift of the users' places to one of the mean.
        """
        moves, _, covariance = self._of_users
        gain = np.asarray(np.linalg.solve(covariance, moves * self.stds**2).T, dtype=float)
        remaining = np.diag(self.stds**2) - gain @ (moves * self.stds**2)
        return gain @ (users_m - self.users_m).ravel(), gain, (remaining + remaining.T) / 2
