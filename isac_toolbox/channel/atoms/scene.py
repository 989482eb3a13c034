"""Unknowns of the location-domain channel and the path parameters they imply, with derivatives."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from isac_toolbox.channel.array import SPEED_OF_LIGHT_M_S
from isac_toolbox.channel.atoms.kernels import trace_paths
from isac_toolbox.channel.atoms.kinematics import (
    KinematicPrior,
    Kinematics,
    MovingJacobian,
    PointingJacobian,
    doppler_shifts,
)
from isac_toolbox.channel.atoms.paths import LINE_OF_SIGHT, UNLOCATED, PathJacobian, Paths
from isac_toolbox.channel.atoms.receiver import Receiver
from isac_toolbox.channel.atoms.turn import Turn
from isac_toolbox.channel.observation import UplinkObservation

__all__ = [
    "LINE_OF_SIGHT",
    "UNLOCATED",
    "PathJacobian",
    "PathParameters",
    "Paths",
    "Receiver",
    "Scene",
    "ScenePrior",
    "StillPrior",
    "path_parameters",
    "trace_still",
]

RealArray = NDArray[np.float64]
ComplexArray = NDArray[np.complex128]


@dataclass(frozen=True, eq=False)
class Scene:
    """Unknowns of the geometry; clock offsets and delays are kept as lengths ``c t`` in metres.

    Attributes
    ----------
    points_m : ndarray, shape (S, 3)
    users_m : ndarray, shape (K, 3)
    offsets_m : ndarray, shape (K,)
    unlocated_m : ndarray, shape (F, 3)
        Unlocated paths as (observed path length in metres, u_h, u_v); the length includes the offset.
    motion : Kinematics, optional
        How all of it moves; without it, it stands still.
    pointing : ndarray, shape (2,), optional
        By which the array hears the direction cosines of all places too large; zero without it.
    """

    points_m: RealArray
    users_m: RealArray
    offsets_m: RealArray
    unlocated_m: RealArray
    motion: Kinematics | None = None
    pointing: RealArray | None = None

    @property
    def n_parameters(self) -> int:
        """Length of :meth:`vector`."""
        still = sum(self._sizes()) + (0 if self.pointing is None else self.pointing.size)
        return still if self.motion is None else still + self.motion.size

    @property
    def pointing_block(self) -> slice:
        """Slice of the pointing in :meth:`vector`, after the unlocated paths."""
        first = sum(self._sizes())
        return slice(first, first + (0 if self.pointing is None else self.pointing.size))

    def vector(self) -> RealArray:
        """Return all unknowns, ordered points, users, offsets, unlocated paths, pointing, motion."""
        parts = [part.ravel() for part in (self.points_m, self.users_m, self.offsets_m, self.unlocated_m)]
        parts += [] if self.pointing is None else [self.pointing]
        return np.concatenate(parts if self.motion is None else [*parts, self.motion.vector()])

    def with_vector(self, vector: RealArray) -> Scene:
        """Return the scene of a vector laid out as :meth:`vector`."""
        points, users, offsets, unlocated = (vector[block] for block in self.blocks())
        motion = None if self.motion is None else self.motion.with_vector(vector[-self.motion.size :])
        pointing = None if self.pointing is None else vector[self.pointing_block]
        places = (points.reshape(-1, 3), users.reshape(-1, 3), offsets, unlocated.reshape(-1, 3))
        return Scene(*places, motion, pointing)

    def take(
        self,
        points: NDArray[np.int64] | NDArray[np.bool_] | slice = slice(None),
        unlocated: NDArray[np.int64] | NDArray[np.bool_] | slice = slice(None),
    ) -> Scene:
        """Return the scene of some points and unlocated paths, each as often as it is named."""
        motion = None if self.motion is None else self.motion.take(points, unlocated)
        return Scene(
            self.points_m[points],
            self.users_m,
            self.offsets_m,
            self.unlocated_m[unlocated],
            motion,
            self.pointing,
        )

    def extended(
        self, points_m: RealArray, unlocated_m: RealArray, further_hz: float | RealArray = 0.0
    ) -> Scene:
        """Return the scene with further points (S', 3), standing still, and unlocated paths (F', 3).

        Where there is motion the paths turn by ``further_hz`` beside their users' offsets.
        """
        motion = self.motion
        if motion is not None:
            motion = motion.extended(len(points_m), np.broadcast_to(further_hz, len(unlocated_m)))
        return Scene(
            np.vstack([self.points_m, points_m]),
            self.users_m,
            self.offsets_m,
            np.vstack([self.unlocated_m, unlocated_m]),
            motion,
            self.pointing,
        )

    def blocks(self) -> tuple[slice, slice, slice, slice]:
        """Return the slices of points, users, offsets and unlocated paths in :meth:`vector`."""
        a, b, c, d = self._sizes()
        return slice(0, a), slice(a, a + b), slice(a + b, a + b + c), slice(a + b + c, a + b + c + d)

    def _sizes(self) -> list[int]:
        return [self.points_m.size, self.users_m.size, self.offsets_m.size, self.unlocated_m.size]


@dataclass(frozen=True, eq=False)
class ScenePrior:
    """Gaussian priors of user positions and clock offsets; a zero deviation means known.

    An array that does not see some direction cosine leaves places open which the region then limits: points
    have a Gaussian of the mean and variance of a uniform law over it, and the cosine of an unlocated path,
    which stands for a cone, counts as known. Other arrays need neither.

    Attributes
    ----------
    users_m, user_stds_m : ndarray, shape (K, 3)
    offset_stds_m : ndarray, shape (K,)
        Offsets have zero mean.
    has_line_of_sight : bool
        Whether users may have a line of sight.
    region_m : ndarray, shape (2, 3), optional
        Prior of the points; none if not given.
    sees_cosines : tuple of bool
        Whether the array sees the direction cosine (horizontal, vertical).
    has_places : bool
        Whether paths can be located. If not, users and clocks are place holders that count as known.
    motion : KinematicPrior, optional
        Of the motion of scenes that have any.
    turn : Turn, optional
        Of the array, which displaces all users together; their deviations then include it.
    pointing_stds : ndarray, shape (2,), optional
        Deviations of the pointing of scenes that have any.
    """

    users_m: RealArray
    user_stds_m: RealArray
    offset_stds_m: RealArray
    has_line_of_sight: bool = True
    region_m: RealArray | None = None
    sees_cosines: tuple[bool, bool] = (True, True)
    has_places: bool = True
    motion: KinematicPrior | None = None
    turn: Turn | None = None
    pointing_stds: RealArray | None = None

    @classmethod
    def of(cls, obs: UplinkObservation, turn: Turn | None = None) -> ScenePrior:
        """Return the prior knowledge in an observation, under a turn of the array."""
        places, sees = obs.geometry, obs.array.sees_cosines
        motion = None if obs.motion is None else KinematicPrior.of(obs.motion)
        if places is None:
            nowhere, known = np.zeros((obs.n_users, 3)), np.zeros(obs.n_users)
            return cls(nowhere, nowhere, known, False, sees_cosines=sees, has_places=False, motion=motion)
        return cls(
            places.user_positions_m.copy(),
            places.user_position_stds_m if turn is None else turn.stds_m,
            SPEED_OF_LIGHT_M_S * obs.time_offset_stds_s,
            obs.has_line_of_sight,
            None if all(sees) else places.region_m,
            sees,
            motion=motion,
            turn=turn,
        )

    @cached_property
    def _precisions(self) -> tuple[RealArray, RealArray]:
        """Of user positions (K, 3) and offsets (K,); zero where there is no prior or it is known."""
        users, offsets = (
            np.where(std > 0, 1 / np.maximum(std, 1e-150) ** 2, 0.0)
            for std in (self.user_stds_m, self.offset_stds_m)
        )
        return users, offsets

    def penalty(self, scene: Scene) -> float:
        """Return ``1/2 (theta - theta_0)^T Lambda (theta - theta_0)``."""
        of_users, of_offsets = self._precisions
        users = np.vdot(of_users, (scene.users_m - self.users_m) ** 2)
        points = 0.0
        if self.region_m is not None:
            mean, precision = _uniform_moments(self.region_m)
            points = float(np.sum((scene.points_m - mean) ** 2 @ precision))
        if scene.motion is not None:
            assert self.motion is not None
            _, of_motion, deviation = _of_motion(self.motion, scene.motion)
            points += float(of_motion @ deviation**2)
        if scene.pointing is not None:
            points += float(_inverse_squares(self.pointing_stds) @ scene.pointing**2)
        if self.turn is not None:
            away = (scene.users_m - self.users_m).ravel()
            points += float(away @ self.turn.coupling @ away)
        return 0.5 * float(users + points + of_offsets @ scene.offsets_m**2)

    def at_rest(self, n_points: int, n_unlocated: int) -> StillPrior:
        """Return the prior of the vectors of still scenes of a size; made once, as refinement asks often."""
        made = vars(self).setdefault("_at_rest", {})
        found: StillPrior | None = made.get((n_points, n_unlocated))
        if found is None:
            found = made[n_points, n_unlocated] = StillPrior.of(self, n_points, n_unlocated)
        return found

    def of_user(self, user: int) -> ScenePrior:
        """Return the prior of one user."""
        alone = slice(user, user + 1)
        return replace(
            self,
            users_m=self.users_m[alone],
            user_stds_m=self.user_stds_m[alone],
            offset_stds_m=self.offset_stds_m[alone],
            motion=None if self.motion is None else self.motion.of_user(user),
            turn=None,
        )

    def add_coupling(self, hessian: RealArray, gradient: RealArray, scene: Scene) -> None:
        """Add what the turn couples between users to half a Hessian (P, P) and half a gradient (P,)."""
        if self.turn is None:
            return
        _, users, _, _ = scene.blocks()
        coupling = self.turn.coupling
        hessian[users, users] += coupling / 2
        gradient[users] += coupling @ (scene.users_m - self.users_m).ravel() / 2

    def known(self, scene: Scene) -> NDArray[np.bool_]:
        """Return the entries of the scene's vector that are known exactly, shape (P,)."""
        known = np.zeros(scene.n_parameters, bool)
        _, users, offsets, unlocated = scene.blocks()
        known[users], known[offsets] = self.user_stds_m.ravel() == 0, self.offset_stds_m == 0
        if not all(self.sees_cosines):
            known[unlocated] = np.tile([False, *np.logical_not(self.sees_cosines)], len(scene.unlocated_m))
        if scene.pointing is not None:
            known[scene.pointing_block] = _inverse_squares(self.pointing_stds) == 0
        if scene.motion is not None:
            assert self.motion is not None
            known[-scene.motion.size :] = _of_motion(self.motion, scene.motion)[0]
        return known

    def precision(self, scene: Scene) -> RealArray:
        """Return prior precision of every entry, shape (P,); zero where there is no prior or it is known."""
        precision = np.zeros(scene.n_parameters)
        points, users, offsets, _ = scene.blocks()
        precision[users], precision[offsets] = self._precisions[0].ravel(), self._precisions[1]
        if self.region_m is not None:
            precision[points] = np.tile(_uniform_moments(self.region_m)[1], len(scene.points_m))
        if scene.pointing is not None:
            precision[scene.pointing_block] = _inverse_squares(self.pointing_stds)
        if scene.motion is not None:
            assert self.motion is not None
            precision[-scene.motion.size :] = _of_motion(self.motion, scene.motion)[1]
        return precision

    def deviation(self, scene: Scene) -> RealArray:
        """Return scene's vector less the prior mean where there is a prior, zero elsewhere, shape (P,)."""
        deviation = np.zeros(scene.n_parameters)
        points, users, offsets, _ = scene.blocks()
        deviation[users] = (scene.users_m - self.users_m).ravel()
        deviation[offsets] = scene.offsets_m
        if self.region_m is not None:
            deviation[points] = (scene.points_m - _uniform_moments(self.region_m)[0]).ravel()
        if scene.pointing is not None:
            deviation[scene.pointing_block] = scene.pointing
        if scene.motion is not None:
            assert self.motion is not None
            deviation[-scene.motion.size :] = _of_motion(self.motion, scene.motion)[2]
        return deviation


@dataclass(frozen=True, eq=False)
class StillPrior:
    """Prior of the vector of a still scene whose array neither turns nor points elsewhere.

    Attributes
    ----------
    known : ndarray of bool, shape (P,)
    precision, mean : ndarray, shape (P,)
        Zero where there is no prior.
    all_unknown : bool
        Whether nothing is known.
    """

    known: NDArray[np.bool_]
    precision: RealArray
    mean: RealArray
    all_unknown: bool

    @classmethod
    def of(cls, prior: ScenePrior, n_points: int, n_unlocated: int) -> StillPrior:
        """Return the prior of scenes of so many points and unlocated paths."""
        n_users = len(prior.users_m)
        nowhere = np.zeros((n_points, 3)), np.zeros((n_users, 3))
        scene = Scene(*nowhere, np.zeros(n_users), np.zeros((n_unlocated, 3)))
        known, precision, mean = prior.known(scene), prior.precision(scene), -prior.deviation(scene)
        for array in (known, precision, mean):
            array.flags.writeable = False
        return cls(known, precision, mean, not known.any())


def _inverse_squares(stds: RealArray | None) -> RealArray:
    """``1 / std^2``, zero where the deviation is zero or none is given, shape (2,)."""
    if stds is None:
        return np.zeros(2)
    return np.where(stds > 0, 1 / np.maximum(stds, 1e-150) ** 2, 0.0)


def _of_motion(prior: KinematicPrior, motion: Kinematics) -> tuple[NDArray[np.bool_], RealArray, RealArray]:
    """Which entries of the motion's vector are known, their precisions, and deviations from the mean."""
    stds = prior.stds(motion)
    precision = np.where(stds > 0, 1 / np.maximum(stds, 1e-150) ** 2, 0.0)
    return stds == 0, precision, motion.vector() - prior.means(motion)


def _uniform_moments(region_m: RealArray) -> tuple[RealArray, RealArray]:
    """Mean and inverse variances (3,) of a uniform law over a box."""
    return region_m.mean(axis=0), 12 / (region_m[1] - region_m[0]) ** 2


@dataclass(frozen=True, eq=False)
class PathParameters:
    """Path lengths and array responses with their derivatives.

    Attributes
    ----------
    length_m : ndarray, shape (L,)
        Observed length, clock offset included.
    cosines : ndarray, shape (2, L)
        Direction cosines ``u_h, u_v``.
    steering : ndarray of complex, shape (1 + D, L, M), optional
        Spherical wavefronts only: array response, then its derivatives in D spatial parameters.
    derivatives : PathJacobian or MovingJacobian
        Of length and spatial parameters in the scene's vector, and of Doppler shifts where it moves.
    doppler_hz : ndarray, shape (L,), optional
        Of a scene that moves.
    """

    length_m: RealArray
    cosines: RealArray
    steering: ComplexArray | None
    derivatives: PathJacobian | PointingJacobian | MovingJacobian
    doppler_hz: RealArray | None = None

    @cached_property
    def jacobian(self) -> RealArray:
        """Derivatives in the scene's vector, shape (1 + D, L, P), one more row of them with motion."""
        return self.derivatives.dense()


def trace_still(scene: Scene, paths: Paths, receiver: Receiver) -> PathParameters:
    """Return what :func:`path_parameters` does, of planar waves in a scene without motion and pointing."""
    length, cosines, derivatives = _traced(scene, paths, receiver, sum(scene._sizes()))
    return PathParameters(length, cosines, None, derivatives)


def _traced(
    scene: Scene, paths: Paths, receiver: Receiver, n_parameters: int
) -> tuple[RealArray, RealArray, PathJacobian]:
    """Lengths (L,), cosines (2, L) and their derivatives in the places of a scene."""
    n_paths, spherical = len(paths), receiver.wavefront == "spherical"
    length, cosines = np.empty(n_paths), np.empty((2, n_paths))
    entries = np.zeros((n_paths, 4 if spherical else 3, 7))
    columns = np.empty((n_paths, 7), np.int64)
    trace_paths(
        (scene.points_m, scene.users_m, scene.offsets_m, scene.unlocated_m),
        (paths.user, paths.target, paths.unlocated),
        receiver.bs_position_m,
        receiver.cross_axes,
        spherical,
        (length, cosines, entries, columns, np.empty(3), np.empty(3)),
    )
    return length, cosines, PathJacobian(entries, columns, n_parameters)


def path_parameters(scene: Scene, paths: Paths, receiver: Receiver) -> PathParameters:
    """Return the lengths, responses and Jacobian of every path (docs/theory.md, sections 1 and 6).

    ``d L / d p_q = e_bq + e_kq``, ``d L / d p_k = -e_kq`` (line of sight: ``e_bk``), with ``e`` unit
    vectors towards the path's target; angles through ``u_h, u_v`` (planar), or the response's own
    derivative in the target's coordinates (spherical).
    """
    bs, spherical = receiver.bs_position_m, receiver.wavefront == "spherical"
    length, cosines, derivatives = _traced(scene, paths, receiver, scene.n_parameters)
    turned: PathJacobian | PointingJacobian = derivatives
    if scene.pointing is not None and not spherical:
        located = np.flatnonzero(~paths.is_unlocated)
        cosines[:, located] += scene.pointing[:, None]
        turned = PointingJacobian(derivatives, located, scene.pointing_block.start)
    jacobian: PathJacobian | PointingJacobian | MovingJacobian = turned
    doppler_hz = steering = None
    if scene.motion is not None:
        doppler_hz, in_doppler = doppler_shifts(
            scene.motion, scene.points_m, scene.users_m, paths, derivatives, bs
        )
        jacobian = MovingJacobian(turned, in_doppler)
    if spherical:
        targets = np.where(
            paths.is_line_of_sight[:, None], scene.users_m[paths.user], bs + receiver.array.axes[0]
        )
        targets[paths.is_point] = scene.points_m[paths.target[paths.is_point]]
        steering = _spherical_response(cosines, targets - bs, paths.is_unlocated, receiver)
    return PathParameters(length, cosines, steering, jacobian, doppler_hz)


def _spherical_response(
    cosines: RealArray, displacements_m: RealArray, is_unlocated: NDArray[np.bool_], receiver: Receiver
) -> ComplexArray:
    """Responses with their derivatives in the target's coordinates, shape (4, L, M).

    Unlocated paths are planar: derivatives in ``u_h`` and ``u_v``, and a third that is zero.
    """
    array, carrier_hz = receiver.array, receiver.carrier_hz
    assert carrier_hz is not None
    near = array.spherical_steering(displacements_m, carrier_hz)
    gradient = array.spherical_jacobian(displacements_m, carrier_hz)
    steering = np.concatenate([near[None], np.moveaxis(gradient, -1, 0)])
    planar = array.response_with_derivatives(*cosines[:, is_unlocated])
    steering[:, is_unlocated] = np.concatenate([planar, np.zeros_like(planar[:1])])
    return steering
