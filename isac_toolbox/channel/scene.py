"""Unknowns of the location-domain channel and the path parameters they imply, with derivatives."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from isac_toolbox.channel.array import SPEED_OF_LIGHT_M_S, UniformPlanarArray
from isac_toolbox.channel.geometry import unit_vectors
from isac_toolbox.channel.observation import UplinkObservation

__all__ = [
    "FREE",
    "LINE_OF_SIGHT",
    "PathParameters",
    "Paths",
    "Receiver",
    "Scene",
    "ScenePrior",
    "path_parameters",
]

RealArray = NDArray[np.float64]
ComplexArray = NDArray[np.complex128]

LINE_OF_SIGHT = -1
FREE = -2


@dataclass(frozen=True, eq=False)
class Receiver:
    """What the receiver knows about itself: array, position, subcarriers, wavefront model."""

    array: UniformPlanarArray
    bs_position_m: RealArray
    frequencies_hz: RealArray
    wavefront: str = "planar"
    carrier_hz: float | None = None
    beam_squint: bool = False

    @classmethod
    def of(cls, obs: UplinkObservation) -> Receiver:
        """The receiver of an observation."""
        return cls(
            array=obs.array,
            bs_position_m=obs.bs_position_m,
            frequencies_hz=obs.subcarrier_frequencies_hz,
            wavefront=obs.wavefront,
            carrier_hz=obs.carrier_hz,
            beam_squint=obs.beam_squint,
        )

    @property
    def wavenumbers_per_m(self) -> RealArray:
        """Phase per metre of path length on every subcarrier, ``2 pi f_n / c``, shape (N,)."""
        return 2 * np.pi * self.frequencies_hz / SPEED_OF_LIGHT_M_S

    @property
    def squint_m(self) -> float:
        """Inverse wavenumber of the carrier, ``c / (2 pi f_c)``; zero where beam squint is not modelled."""
        if not self.beam_squint:
            return 0.0
        assert self.carrier_hz is not None
        return SPEED_OF_LIGHT_M_S / (2 * np.pi * self.carrier_hz)


@dataclass(frozen=True, eq=False)
class Scene:
    """Unknowns of the geometry; clock offsets and delays are kept as lengths ``c t`` in metres.

    Attributes
    ----------
    points_m : ndarray, shape (S, 3)
    users_m : ndarray, shape (K, 3)
    offsets_m : ndarray, shape (K,)
    free_m : ndarray, shape (F, 3)
        Unlocated paths as (observed path length in metres, u_h, u_v); the length includes the offset.
    """

    points_m: RealArray
    users_m: RealArray
    offsets_m: RealArray
    free_m: RealArray

    @property
    def n_parameters(self) -> int:
        """Length of :meth:`vector`."""
        return self.points_m.size + self.users_m.size + self.offsets_m.size + self.free_m.size

    def vector(self) -> RealArray:
        """All unknowns, ordered points, users, offsets, free paths."""
        parts = (self.points_m, self.users_m, self.offsets_m, self.free_m)
        return np.concatenate([part.ravel() for part in parts])

    def with_vector(self, vector: RealArray) -> Scene:
        """The scene of a vector laid out as :meth:`vector`."""
        points, users, offsets, free = np.split(vector, np.cumsum(self._sizes())[:-1])
        return Scene(points.reshape(-1, 3), users.reshape(-1, 3), offsets, free.reshape(-1, 3))

    def blocks(self) -> tuple[slice, slice, slice, slice]:
        """Slices of points, users, offsets and free paths in :meth:`vector`."""
        edges = np.concatenate([[0], np.cumsum(self._sizes())]).tolist()
        points, users, offsets, free = (slice(a, b) for a, b in pairwise(edges))
        return points, users, offsets, free

    def _sizes(self) -> list[int]:
        return [self.points_m.size, self.users_m.size, self.offsets_m.size, self.free_m.size]


@dataclass(frozen=True, eq=False)
class ScenePrior:
    """Gaussian priors of user positions and clock offsets; a zero deviation means known.

    Attributes
    ----------
    users_m, user_stds_m : ndarray, shape (K, 3)
    offset_stds_m : ndarray, shape (K,)
        Offsets have zero mean.
    has_line_of_sight : bool
        Whether users may have a line of sight.
    """

    users_m: RealArray
    user_stds_m: RealArray
    offset_stds_m: RealArray
    has_line_of_sight: bool = True

    @classmethod
    def of(cls, obs: UplinkObservation) -> ScenePrior:
        """The prior knowledge in an observation."""
        return cls(
            obs.user_positions_m,
            obs.user_position_stds_m,
            SPEED_OF_LIGHT_M_S * obs.time_offset_stds_s,
            obs.has_line_of_sight,
        )

    def known(self, scene: Scene) -> NDArray[np.bool_]:
        """Entries of the scene's vector that are known exactly, shape (P,)."""
        known = np.zeros(scene.n_parameters, bool)
        _, users, offsets, _ = scene.blocks()
        known[users], known[offsets] = self.user_stds_m.ravel() == 0, self.offset_stds_m == 0
        return known

    def precision(self, scene: Scene) -> RealArray:
        """Prior precision of every entry, shape (P,); zero where there is no prior or it is known."""
        precision = np.zeros(scene.n_parameters)
        _, users, offsets, _ = scene.blocks()
        for block, std in ((users, self.user_stds_m.ravel()), (offsets, self.offset_stds_m)):
            precision[block] = np.where(std > 0, 1 / np.maximum(std, 1e-150) ** 2, 0.0)
        return precision

    def deviation(self, scene: Scene) -> RealArray:
        """Scene's vector less the prior mean where there is a prior, zero elsewhere, shape (P,)."""
        deviation = np.zeros(scene.n_parameters)
        _, users, offsets, _ = scene.blocks()
        deviation[users] = (scene.users_m - self.users_m).ravel()
        deviation[offsets] = scene.offsets_m
        return deviation


@dataclass(frozen=True, eq=False)
class Paths:
    """The paths of the working set: user, and what the path runs over.

    Attributes
    ----------
    user : ndarray of int, shape (L,)
    target : ndarray of int, shape (L,)
        Index of a point, or LINE_OF_SIGHT, or FREE.
    free : ndarray of int, shape (L,)
        Index of the free path, -1 for the others.
    """

    user: NDArray[np.int64]
    target: NDArray[np.int64]
    free: NDArray[np.int64]

    def __len__(self) -> int:
        return int(self.user.size)

    @property
    def is_point(self) -> NDArray[np.bool_]:
        """Paths over a point."""
        return self.target >= 0

    @property
    def is_line_of_sight(self) -> NDArray[np.bool_]:
        """Lines of sight."""
        return self.target == LINE_OF_SIGHT

    @property
    def is_free(self) -> NDArray[np.bool_]:
        """Unlocated paths."""
        return self.target == FREE

    def membership(
        self, n_users: int, n_points: int
    ) -> tuple[NDArray[np.bool_], NDArray[np.bool_], NDArray[np.int64]]:
        """What :meth:`build` was given: lines of sight (K,), seen (K, S), users of the free paths (F,)."""
        sight, seen = np.zeros(n_users, bool), np.zeros((n_users, n_points), bool)
        sight[self.user[self.is_line_of_sight]] = True
        seen[self.user[self.is_point], self.target[self.is_point]] = True
        return sight, seen, self.user[self.is_free]

    @classmethod
    def build(
        cls, line_of_sight: NDArray[np.bool_], seen: NDArray[np.bool_], free_user: NDArray[np.int64]
    ) -> Paths:
        """Lines of sight of users (K,), the pairs of ``seen`` (K, S) point by point, then the free paths."""
        los_user = np.flatnonzero(line_of_sight)
        point, point_user = np.nonzero(seen.T)
        n_other, n_free = los_user.size + point.size, free_user.size
        return cls(
            user=np.concatenate([los_user, point_user, free_user]).astype(np.int64),
            target=np.concatenate([np.full(los_user.size, LINE_OF_SIGHT), point, np.full(n_free, FREE)]),
            free=np.concatenate([np.full(n_other, -1), np.arange(n_free)]),
        )


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
    jacobian : ndarray, shape (1 + D, L, P)
        Derivatives of length and spatial parameters in the scene's vector.
    """

    length_m: RealArray
    cosines: RealArray
    steering: ComplexArray | None
    jacobian: RealArray


def path_parameters(scene: Scene, paths: Paths, receiver: Receiver) -> PathParameters:
    """Lengths, responses and Jacobian of every path (docs/theory.md, sections 1 and 6).

    ``d L / d p_q = e_bq + e_kq``, ``d L / d p_k = -e_kq`` (line of sight: ``e_bk``), with ``e`` unit
    vectors towards the path's target; angles through ``u_h, u_v`` (planar), or the response's own
    derivative in the target's coordinates (spherical).
    """
    bs = receiver.bs_position_m
    is_point, is_los, is_free = paths.is_point, paths.is_line_of_sight, paths.is_free
    n_paths, n_users = len(paths), scene.users_m.shape[0]
    rows = np.arange(n_paths)
    targets = np.where(is_los[:, None], scene.users_m[paths.user], bs + receiver.array.axes[0])
    targets[is_point] = scene.points_m[paths.target[is_point]]
    e_b, distance = unit_vectors(bs, targets)
    e_k, user_distance = unit_vectors(scene.users_m[paths.user], targets)

    length = distance + np.where(is_point, user_distance, 0.0) + scene.offsets_m[paths.user]
    length[is_free] = scene.free_m[paths.free[is_free], 0]
    cosines = np.stack(receiver.array.direction_cosines(e_b))
    cosines[:, is_free] = scene.free_m[paths.free[is_free], 1:].T
    steering, spatial = None, _cosine_jacobian(cosines, e_b, distance, receiver)
    if receiver.wavefront == "spherical":
        steering = _spherical_response(cosines, targets - bs, is_free, receiver)
        spatial = np.broadcast_to(np.eye(3)[:, None, :], (3, n_paths, 3))

    n_spatial = spatial.shape[0]
    jacobian = np.zeros((1 + n_spatial, n_paths, scene.n_parameters))
    points, users, offsets, free = scene.blocks()
    xyz = np.arange(3)
    own = rows[is_point][:, None], points.start + 3 * paths.target[is_point][:, None] + xyz
    jacobian[0][own] = (e_b + e_k)[is_point]
    for d in range(n_spatial):
        jacobian[1 + d][own] = spatial[d][is_point]
    user_columns = users.start + 3 * paths.user[:, None] + xyz
    jacobian[0][rows[is_point][:, None], user_columns[is_point]] = -e_k[is_point]
    own = rows[is_los][:, None], user_columns[is_los]
    jacobian[0][own] = e_b[is_los]
    for d in range(n_spatial):
        jacobian[1 + d][own] = spatial[d][is_los]
    located = ~is_free
    jacobian[0][rows[located], offsets.start + paths.user[located]] = 1.0
    for d in range(3):
        jacobian[d, rows[is_free], free.start + 3 * paths.free[is_free] + d] = 1.0
    assert offsets.stop - offsets.start == n_users
    return PathParameters(length, cosines, steering, jacobian)


def _cosine_jacobian(
    cosines: RealArray, e_b: RealArray, distance: RealArray, receiver: Receiver
) -> RealArray:
    """Derivatives of the direction cosines in the target's coordinates, shape (2, L, 3)."""
    axes = receiver.array.axes[1:, None, :]
    return (axes - cosines[:, :, None] * e_b) / np.maximum(distance, 1e-300)[:, None]


def _spherical_response(
    cosines: RealArray, displacements_m: RealArray, is_free: NDArray[np.bool_], receiver: Receiver
) -> ComplexArray:
    """Responses with their derivatives in the target's coordinates, shape (4, L, M).

    Free paths are planar: derivatives in ``u_h`` and ``u_v``, and a third that is zero.
    """
    array, carrier_hz = receiver.array, receiver.carrier_hz
    assert carrier_hz is not None
    near = array.spherical_steering(displacements_m, carrier_hz)
    gradient = array.spherical_jacobian(displacements_m, carrier_hz)
    steering = np.concatenate([near[None], np.moveaxis(gradient, -1, 0)])
    planar = array.steering_from_cosines(*cosines[:, is_free])
    steering[:, is_free] = np.stack([planar, *array.steering_derivatives(planar), np.zeros_like(planar)])
    return steering
