"""Unknowns of motion, their priors, and the Doppler shifts that they give the paths of a scene.

docs/theory.md, section 6.8.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, pairwise

import numpy as np
from numpy.typing import NDArray

from isac_toolbox.channel.atoms.paths import PathJacobian, Paths
from isac_toolbox.channel.motion import Motion

__all__ = ["KinematicPrior", "Kinematics", "MovingJacobian", "PointingJacobian", "doppler_shifts"]

RealArray = NDArray[np.float64]
BoolArray = NDArray[np.bool_]
IntArray = NDArray[np.int64]
Index = IntArray | BoolArray | slice


@dataclass(frozen=True, eq=False)
class Kinematics:
    """How the oscillators, users, points and unlocated paths of a scene move.

    Attributes
    ----------
    offsets_hz : ndarray, shape (K,)
        Frequency offsets of the users.
    user_velocities_m_s : ndarray, shape (K, 3)
    point_velocities_m_s : ndarray, shape (S, 3)
    moving : ndarray of bool, shape (S,)
        Points whose velocity is unknown; the others stand still.
    further_hz : ndarray, shape (F,)
        Doppler shifts of the unlocated paths beside the offsets of their users.
    hz_per_m_s : float
        Doppler shift of a path that shortens by a metre a second.
    """

    offsets_hz: RealArray
    user_velocities_m_s: RealArray
    point_velocities_m_s: RealArray
    moving: BoolArray
    further_hz: RealArray
    hz_per_m_s: float

    @classmethod
    def joined(cls, parts: Sequence[Kinematics]) -> Kinematics:
        """Return the motion of the users and unlocated paths of several parts that have no points."""
        return replace(
            parts[0],
            offsets_hz=np.concatenate([part.offsets_hz for part in parts]),
            user_velocities_m_s=np.concatenate([part.user_velocities_m_s for part in parts]),
            further_hz=np.concatenate([part.further_hz for part in parts]),
        )

    @property
    def size(self) -> int:
        """Length of :meth:`vector`."""
        return sum(self._sizes())

    def vector(self) -> RealArray:
        """Return all unknowns: offsets, velocities of users and of points, further shifts."""
        parts = (self.offsets_hz, self.user_velocities_m_s, self.point_velocities_m_s, self.further_hz)
        return np.concatenate([part.ravel() for part in parts])

    def with_vector(self, vector: RealArray) -> Kinematics:
        """Return the motion of a vector laid out as :meth:`vector`."""
        offsets, users, points, further = (vector[block] for block in self.blocks())
        return replace(
            self,
            offsets_hz=offsets,
            user_velocities_m_s=users.reshape(-1, 3),
            point_velocities_m_s=points.reshape(-1, 3),
            further_hz=further,
        )

    def blocks(self, first: int = 0) -> tuple[slice, slice, slice, slice]:
        """Return the slices of offsets, users, points and further shifts in a vector from ``first`` on."""
        edges = list(accumulate(self._sizes(), initial=first))
        offsets, users, points, further = (slice(a, b) for a, b in pairwise(edges))
        return offsets, users, points, further

    def _sizes(self) -> list[int]:
        parts = (self.offsets_hz, self.user_velocities_m_s, self.point_velocities_m_s, self.further_hz)
        return [part.size for part in parts]

    def take(self, points: Index, unlocated: Index) -> Kinematics:
        """Return the motion of some points and unlocated paths."""
        return replace(
            self,
            point_velocities_m_s=self.point_velocities_m_s[points],
            moving=self.moving[points],
            further_hz=self.further_hz[unlocated],
        )

    def extended(self, n_points: int, further_hz: RealArray) -> Kinematics:
        """Return the motion with further points, which stand still, and unlocated paths."""
        return replace(
            self,
            point_velocities_m_s=np.vstack([self.point_velocities_m_s, np.zeros((n_points, 3))]),
            moving=np.append(self.moving, np.zeros(n_points, bool)),
            further_hz=np.append(self.further_hz, further_hz),
        )


@dataclass(frozen=True, eq=False)
class KinematicPrior:
    """Gaussian priors of :class:`Kinematics`; a zero deviation means known.

    Attributes
    ----------
    offset_stds_hz : ndarray, shape (K,)
    user_velocities_m_s, user_velocity_stds_m_s : ndarray, shape (K, 3)
    scatterer_velocity_std_m_s : float
        Of every axis, of a point that moves.
    further_std_hz : float
        Of the shift of an unlocated path beside its user's offset: what users and scatterers may give a path
        of unknown directions.
    hz_per_m_s : float
        Doppler shift of a path that shortens by a metre a second.
    """

    offset_stds_hz: RealArray
    user_velocities_m_s: RealArray
    user_velocity_stds_m_s: RealArray
    scatterer_velocity_std_m_s: float
    further_std_hz: float
    hz_per_m_s: float

    @classmethod
    def of(cls, motion: Motion) -> KinematicPrior:
        """Return the prior in what is known beforehand.

        A unit vector of unknown direction shares half of its square with the plane that users move in.
        """
        speeds = np.sum(motion.user_velocities_m_s**2 + motion.user_velocity_stds_m_s**2, axis=1)
        scatterers = 4 * motion.scatterer_velocity_std_m_s**2
        return cls(
            motion.frequency_offset_stds_hz,
            motion.user_velocities_m_s,
            motion.user_velocity_stds_m_s,
            motion.scatterer_velocity_std_m_s,
            motion.hz_per_m_s * float(np.sqrt(np.max(speeds) / 2 + scatterers)),
            motion.hz_per_m_s,
        )

    def expected(self, doppler_hz: RealArray) -> Kinematics:
        """Return the motion of users of whom no more is known than their mean Doppler shifts (K,).

        A shift is the offset's as far as the priors say so; there is no point and no path.
        """
        total = np.maximum(self.offset_stds_hz**2 + self.further_std_hz**2, 1e-300)
        nothing = np.zeros((0, 3))
        return Kinematics(
            doppler_hz * self.offset_stds_hz**2 / total,
            np.array(self.user_velocities_m_s),
            nothing,
            np.zeros(0, bool),
            np.zeros(0),
            self.hz_per_m_s,
        )

    def of_user(self, user: int) -> KinematicPrior:
        """Return the prior of one user."""
        alone = slice(user, user + 1)
        return replace(
            self,
            offset_stds_hz=self.offset_stds_hz[alone],
            user_velocities_m_s=self.user_velocities_m_s[alone],
            user_velocity_stds_m_s=self.user_velocity_stds_m_s[alone],
        )

    @property
    def largest_doppler_hz(self) -> float:
        """Doppler shift beyond which no path is expected: four deviations."""
        return 4 * float(np.hypot(np.max(self.offset_stds_hz), self.further_std_hz))

    def stds(self, kinematics: Kinematics) -> RealArray:
        """Return the deviation of every entry of the vector, zero where it is known."""
        moving = np.repeat(kinematics.moving, 3)
        return np.concatenate(
            [
                self.offset_stds_hz,
                self.user_velocity_stds_m_s.ravel(),
                np.where(moving, self.scatterer_velocity_std_m_s, 0.0),
                np.full(kinematics.further_hz.size, self.further_std_hz),
            ]
        )

    def means(self, kinematics: Kinematics) -> RealArray:
        """Return the mean of every entry of the vector."""
        n_points, n_unlocated = kinematics.point_velocities_m_s.size, kinematics.further_hz.size
        zeros = np.zeros(n_points + n_unlocated)
        return np.concatenate([0 * self.offset_stds_hz, self.user_velocities_m_s.ravel(), zeros])


@dataclass(frozen=True, eq=False)
class PointingJacobian:
    """Derivatives of lengths and spatial parameters where the array hears all places turned a little.

    Attributes
    ----------
    still : PathJacobian
    located : ndarray of int
        Paths that it turns.
    first : int
        Column of the first of two entries of the pointing.
    """

    still: PathJacobian
    located: IntArray
    first: int

    def pull(self, slopes: RealArray) -> RealArray:
        """Return ``sum_di slopes_di J_dip`` of slopes (1 + D, L), shape (P,)."""
        pulled = self.still.pull(slopes)
        pulled[self.first : self.first + 2] += slopes[1:3, self.located].sum(axis=1)
        return pulled

    def dense(self) -> RealArray:
        """Return the whole Jacobian, shape (1 + D, L, P)."""
        jacobian = self.still.dense()
        for axis in range(2):
            jacobian[1 + axis, self.located, self.first + axis] = 1.0
        return jacobian


@dataclass(frozen=True, eq=False)
class MovingJacobian:
    """Derivatives of lengths, spatial parameters and Doppler shifts in the scene's vector.

    Attributes
    ----------
    still : PathJacobian
        Of lengths and spatial parameters.
    in_doppler : ndarray, shape (L, P)
        Of the Doppler shifts.
    """

    still: PathJacobian | PointingJacobian
    in_doppler: RealArray

    def pull(self, slopes: RealArray) -> RealArray:
        """Return ``sum_di slopes_di J_dip`` of slopes (2 + D, L), shape (P,)."""
        return self.still.pull(slopes[:-1]) + slopes[-1] @ self.in_doppler

    def dense(self) -> RealArray:
        """Return the whole Jacobian, shape (2 + D, L, P)."""
        return np.concatenate([self.still.dense(), self.in_doppler[None]])


def doppler_shifts(
    motion: Kinematics,
    points_m: RealArray,
    users_m: RealArray,
    paths: Paths,
    still: PathJacobian,
    bs_position_m: RealArray,
) -> tuple[RealArray, RealArray]:
    """Return the Doppler shifts of paths (L,) in Hz and their derivatives (L, P) in the scene's vector.

    ``nu = eps_k - (f_c / c) d length / dt``; the length's slopes are those of ``still``. Unlocated paths have
    their own shift beside the user's offset.
    """
    n_paths, rows = len(paths), np.arange(len(paths))
    offsets, users, points, further = motion.blocks(still.n_parameters - motion.size)
    slopes = np.zeros((n_paths, still.n_parameters))
    shifts = motion.offsets_hz[paths.user].copy()
    slopes[rows, offsets.start + paths.user] = 1.0

    free = np.flatnonzero(paths.is_unlocated)
    shifts[free] += motion.further_hz[paths.unlocated[free]]
    slopes[free, further.start + paths.unlocated[free]] = 1.0

    placed = np.flatnonzero(~paths.is_unlocated)
    user, sight = paths.user[placed], paths.is_line_of_sight[placed]
    in_user = np.where(sight[:, None], still.in_target[placed, 0], still.of_length_in_user[placed])
    velocity, scale = motion.user_velocities_m_s[user], motion.hz_per_m_s
    shifts[placed] -= scale * np.sum(in_user * velocity, axis=1)
    xyz = np.arange(3)
    slopes[placed[:, None], users.start + 3 * user[:, None] + xyz] = -scale * in_user

    over = placed[~sight]
    target = paths.target[over]
    speed = motion.point_velocities_m_s[target]
    shifts[over] -= scale * np.sum(still.in_target[over, 0] * speed, axis=1)
    slopes[over[:, None], points.start + 3 * target[:, None] + xyz] = -scale * still.in_target[over, 0]
    _add_slopes_in_places(slopes, motion, points_m, users_m, paths, still, bs_position_m)
    return shifts, slopes


def _add_slopes_in_places(
    slopes: RealArray,
    motion: Kinematics,
    points_m: RealArray,
    users_m: RealArray,
    paths: Paths,
    still: PathJacobian,
    bs_position_m: RealArray,
) -> None:
    """Add the derivatives of Doppler shifts in the places of points and users, as unit vectors turn."""
    scale = motion.hz_per_m_s
    sight = np.flatnonzero(paths.is_line_of_sight)
    user = paths.user[sight]
    turned = _across(users_m[user] - bs_position_m, motion.user_velocities_m_s[user])
    slopes[sight[:, None], still.user_columns[sight]] -= scale * turned
    over = np.flatnonzero(paths.is_point)
    user, target = paths.user[over], paths.target[over]
    speed = motion.point_velocities_m_s[target]
    beside = _across(points_m[target] - users_m[user], motion.user_velocities_m_s[user] - speed)
    towards = _across(points_m[target] - bs_position_m, speed)
    slopes[over[:, None], still.user_columns[over]] -= scale * beside
    slopes[over[:, None], still.target_columns[over]] += scale * (beside - towards)


def _across(displacement_m: RealArray, velocity_m_s: RealArray) -> RealArray:
    """``(I - e e^T) v / r`` with the unit vectors and lengths of displacements, all (L, 3)."""
    distance = np.maximum(np.linalg.norm(displacement_m, axis=1, keepdims=True), 1e-300)
    direction = displacement_m / distance
    along = np.sum(direction * velocity_m_s, axis=1, keepdims=True)
    return (velocity_m_s - direction * along) / distance
