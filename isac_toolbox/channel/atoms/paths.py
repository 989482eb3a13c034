"""Which paths a scene has, and where their parameters depend on it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

__all__ = ["LINE_OF_SIGHT", "UNLOCATED", "PathJacobian", "Paths"]

RealArray = NDArray[np.float64]

LINE_OF_SIGHT = -1
UNLOCATED = -2


@dataclass(frozen=True, eq=False)
class Paths:
    """The paths of the working set: user, and what the path runs over.

    Attributes
    ----------
    user : ndarray of int, shape (L,)
    target : ndarray of int, shape (L,)
        Index of a point, or LINE_OF_SIGHT, or UNLOCATED.
    unlocated : ndarray of int, shape (L,)
        Index of the unlocated path, -1 for the others.
    """

    user: NDArray[np.int64]
    target: NDArray[np.int64]
    unlocated: NDArray[np.int64]

    def __len__(self) -> int:
        return int(self.user.size)

    @cached_property
    def kind(self) -> NDArray[np.int64]:
        """0 over a point, 1 line of sight, 2 unlocated, shape (L,)."""
        return np.where(self.target >= 0, 0, np.where(self.target == LINE_OF_SIGHT, 1, 2))

    @property
    def is_point(self) -> NDArray[np.bool_]:
        """Paths over a point."""
        return self.target >= 0

    @property
    def is_line_of_sight(self) -> NDArray[np.bool_]:
        """Lines of sight."""
        return self.target == LINE_OF_SIGHT

    @property
    def is_unlocated(self) -> NDArray[np.bool_]:
        """Unlocated paths."""
        return self.target == UNLOCATED

    def membership(
        self, n_users: int, n_points: int
    ) -> tuple[NDArray[np.bool_], NDArray[np.bool_], NDArray[np.int64]]:
        """Return what :meth:`build` was given: lines of sight (K,), seen (K, S), users of the others (F,)."""
        sight, seen = np.zeros(n_users, bool), np.zeros((n_users, n_points), bool)
        sight[self.user[self.is_line_of_sight]] = True
        seen[self.user[self.is_point], self.target[self.is_point]] = True
        return sight, seen, self.user[self.is_unlocated]

    @classmethod
    def build(
        cls, line_of_sight: NDArray[np.bool_], seen: NDArray[np.bool_], unlocated_user: NDArray[np.int64]
    ) -> Paths:
        """Order lines of sight of users (K,), pairs of ``seen`` (K, S) point by point, unlocated paths."""
        los_user = np.flatnonzero(line_of_sight)
        point, point_user = np.nonzero(seen.T)
        n_other, n_unlocated = los_user.size + point.size, unlocated_user.size
        return cls(
            user=np.concatenate([los_user, point_user, unlocated_user]).astype(np.int64),
            target=np.concatenate(
                [np.full(los_user.size, LINE_OF_SIGHT), point, np.full(n_unlocated, UNLOCATED)]
            ),
            unlocated=np.concatenate([np.full(n_other, -1), np.arange(n_unlocated)]),
        )


@dataclass(frozen=True, eq=False)
class PathJacobian:
    """Derivatives of every path's parameters in the scene's vector, without their zeros.

    A path's length and its D spatial parameters depend on the three coordinates of its target; the length of
    a path over a point also depends on its user's position and clock.

    Attributes
    ----------
    entries : ndarray, shape (L, 1 + D, 7)
        In the coordinates of the target, those of the user (zero where it is the target), and its clock.
    columns : ndarray of int, shape (L, 7)
        Where these are in the scene's vector.
    n_parameters : int
    """

    entries: RealArray
    columns: NDArray[np.int64]
    n_parameters: int

    @classmethod
    def none(cls, n_paths: int) -> PathJacobian:
        """Return no derivatives at all."""
        return cls(np.zeros((n_paths, 0, 7)), np.zeros((n_paths, 7), np.int64), 0)

    @property
    def in_target(self) -> RealArray:
        """Derivatives in the coordinates of the target, shape (L, 1 + D, 3)."""
        return self.entries[:, :, :3]

    @property
    def of_length_in_user(self) -> RealArray:
        """Derivatives of the length in the coordinates of the user, shape (L, 3)."""
        return self.entries[:, 0, 3:6]

    @property
    def target_columns(self) -> NDArray[np.int64]:
        """Columns of the target's coordinates, shape (L, 3)."""
        return self.columns[:, :3]

    @property
    def user_columns(self) -> NDArray[np.int64]:
        """Columns of the user's coordinates, shape (L, 3)."""
        return self.columns[:, 3:6]

    def pull(self, slopes: RealArray) -> RealArray:
        """Return ``sum_di slopes_di J_dip`` of slopes (1 + D, L), shape (P,)."""
        pulled = np.matmul(slopes.T[:, None], self.entries)
        return np.asarray(np.bincount(self.columns.ravel(), pulled.ravel(), self.n_parameters), np.float64)

    def dense(self) -> RealArray:
        """Return the whole Jacobian, shape (1 + D, L, P)."""
        n_paths, n_types, n_columns = self.entries.shape
        jacobian = np.zeros((n_types, n_paths, self.n_parameters))
        if not (n_types and n_paths):
            return jacobian
        for c in range(n_columns):
            jacobian[:, np.arange(n_paths), self.columns[:, c]] += self.entries[:, :, c].T
        return jacobian
