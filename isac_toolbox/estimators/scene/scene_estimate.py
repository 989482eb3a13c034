"""The scene that an estimator found, with uncertainties: points, users, clocks and unlocated paths."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from isac_toolbox.channel.array import SPEED_OF_LIGHT_M_S
from isac_toolbox.channel.geometry import unit_vectors
from isac_toolbox.channel.observation import UplinkObservation
from isac_toolbox.channel.paths import UnlocatedPaths
from isac_toolbox.estimators.result import Candidates
from isac_toolbox.estimators.scene.fit import Fit, diagonal_blocks, scene_covariance
from isac_toolbox.estimators.scene.moving import Movers
from isac_toolbox.estimators.scene.world import World

__all__ = ["SceneEstimate"]

RealArray = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class SceneEstimate:
    """Everything that a result says of the scene, in the names of :class:`EstimationResult`."""

    scatterer_positions_m: RealArray
    scatterer_probability: RealArray
    scatterer_covariance_m2: RealArray
    scatterer_extent_m2: RealArray
    visibility_probability: RealArray
    candidates: Candidates
    line_of_sight_probability: RealArray
    unlocated_paths: UnlocatedPaths
    user_positions_m: RealArray
    user_position_covariance_m2: RealArray
    time_offsets_s: RealArray
    time_offset_std_s: RealArray
    scatterer_velocities_m_s: RealArray | None = None
    scatterer_velocity_covariance_m2_s2: RealArray | None = None
    moving_probability: RealArray | None = None

    @classmethod
    def unknown(cls, obs: UplinkObservation) -> SceneEstimate:
        """Return the scene of a method that looks for none: users and clocks nominal, nothing found."""
        n_users = obs.n_users
        nothing = Candidates(np.zeros((0, 3)), np.zeros(0), np.zeros((n_users, 0)))
        return cls(
            scatterer_positions_m=nothing.scatterer_positions_m,
            scatterer_probability=nothing.scatterer_probability,
            scatterer_covariance_m2=np.zeros((0, 3, 3)),
            scatterer_extent_m2=np.zeros((0, 3, 3)),
            visibility_probability=nothing.visibility_probability,
            candidates=nothing,
            line_of_sight_probability=np.full(n_users, 0.5),
            unlocated_paths=UnlocatedPaths.none(),
            **_nominal(obs),
        )

    def of_block(self, obs: UplinkObservation) -> SceneEstimate:
        """Return the scene with what a block without places leaves open: users and clocks nominal."""
        if obs.geometry is not None:
            return self
        undecided = np.full(obs.n_users, 0.5)
        return replace(self, line_of_sight_probability=undecided, **_nominal(obs))

    @classmethod
    def of_fit(
        cls,
        fit: Fit,
        scale: float,
        point_probability: RealArray,
        visibility_probability: RealArray,
        line_of_sight_probability: RealArray,
        path_probability: RealArray,
        candidates: Candidates | None = None,
        doubt_m2: RealArray | None = None,
        movers: Movers | None = None,
    ) -> SceneEstimate:
        """Return the scene of a fit; points less likely than not are listed as unlocated paths.

        So are those whose place an array that does not see a direction cosine leaves open.

        Parameters
        ----------
        fit : Fit
            Of the paths that exist.
        scale : float
            Amplitude that the block was divided by.
        point_probability : ndarray, shape (S,)
            Of the fit's points.
        visibility_probability : ndarray, shape (K, S)
        line_of_sight_probability : ndarray, shape (K,)
        path_probability : ndarray, shape (L,)
            That each of the fit's paths exists, wherever it runs.
        candidates : Candidates, optional
            Every point considered; the fit's points if not given.
        doubt_m2 : ndarray, shape (S, 3, 3), optional
            Covariance to add to that of the fit's points.
        movers : Movers, optional
            Which of the fit's points move.
        """
        covariance, world = scene_covariance(fit), World.of(fit)
        points, users, offsets, _ = fit.scene.blocks()
        points_m, users_m = fit.scene.points_m, fit.scene.users_m
        if world is not None:
            points_m, users_m, covariance = world.with_places(fit, covariance)
        of_points = diagonal_blocks(covariance[points, points])
        if doubt_m2 is not None:
            of_points = of_points + doubt_m2
        shown = (point_probability >= 0.5) & _is_placed(fit, of_points)
        if candidates is None:
            candidates = Candidates(points_m, point_probability, visibility_probability)
        return cls(
            scatterer_positions_m=points_m[shown],
            scatterer_probability=point_probability[shown],
            scatterer_covariance_m2=of_points[shown],
            scatterer_extent_m2=np.zeros((np.count_nonzero(shown), 3, 3)),
            visibility_probability=visibility_probability[:, shown],
            candidates=candidates,
            line_of_sight_probability=line_of_sight_probability,
            unlocated_paths=_unlocated(fit, shown, path_probability, scale),
            user_positions_m=users_m,
            user_position_covariance_m2=diagonal_blocks(covariance[users, users]),
            time_offsets_s=fit.scene.offsets_m / SPEED_OF_LIGHT_M_S,
            time_offset_std_s=np.sqrt(np.diag(covariance)[offsets]) / SPEED_OF_LIGHT_M_S,
            **({} if movers is None else _velocities(movers, shown)),
        )

    def widened(self, clock_variance_m2: RealArray, scatterer_covariance_m2: RealArray) -> SceneEstimate:
        """Return the scene with further uncertainty of clocks (K,), as lengths, and scatterers (S, 3, 3)."""
        clock = np.sqrt(self.time_offset_std_s**2 + clock_variance_m2 / SPEED_OF_LIGHT_M_S**2)
        return replace(
            self,
            time_offset_std_s=clock,
            scatterer_covariance_m2=self.scatterer_covariance_m2 + scatterer_covariance_m2,
        )

    @classmethod
    def certain(
        cls,
        fit: Fit,
        scale: float,
        line_of_sight: NDArray[np.bool_],
        seen: NDArray[np.bool_],
        share: RealArray | None = None,
        doubt_m2: RealArray | None = None,
    ) -> SceneEstimate:
        """Return the scene of a method without probabilities: all that it found is taken for sure.

        ``share`` (S,) and ``doubt_m2`` (S, 3, 3) are what a linear array leaves open of the places.
        """
        return cls.of_fit(
            fit,
            scale,
            point_probability=np.ones(seen.shape[1]) if share is None else share,
            visibility_probability=seen.astype(float),
            line_of_sight_probability=line_of_sight.astype(float),
            path_probability=np.ones(len(fit.paths)),
            doubt_m2=doubt_m2,
        )


def _nominal(obs: UplinkObservation) -> dict[str, Any]:
    """Users, none where they are not given, and clocks as the observation has them."""
    positions, stds = np.zeros((0, 3)), np.zeros((0, 3))
    if obs.user_positions_m is not None and obs.user_position_stds_m is not None:
        positions, stds = obs.user_positions_m, obs.user_position_stds_m
    return {
        "user_positions_m": positions,
        "user_position_covariance_m2": stds[:, :, None] ** 2 * np.eye(3),
        "time_offsets_s": np.zeros(obs.n_users),
        "time_offset_std_s": np.array(obs.time_offset_stds_s),
    }


def _velocities(movers: Movers, shown: NDArray[np.bool_]) -> dict[str, RealArray]:
    """The velocities of the points that are shown, in the names of a result."""
    velocities, covariances = movers.marginal()
    return {
        "scatterer_velocities_m_s": velocities[shown],
        "scatterer_velocity_covariance_m2_s2": covariances[shown],
        "moving_probability": movers.probability[shown],
    }


def _is_placed(fit: Fit, covariances_m2: RealArray) -> NDArray[np.bool_]:
    """Which points (S,) are known to a resolution cell, where the array does not see all cosines."""
    if all(fit.problem.receiver.array.sees_cosines):
        return np.ones(len(covariances_m2), bool)
    return np.asarray(np.linalg.eigvalsh(covariances_m2)[:, -1] <= fit.problem.length_cell_m**2)


def _unlocated(fit: Fit, shown: NDArray[np.bool_], probability: RealArray, scale: float) -> UnlocatedPaths:
    """Unlocated paths, and paths over points that are not shown."""
    paths, scene, receiver = fit.paths, fit.scene, fit.problem.receiver
    hidden = np.zeros(len(paths), bool)
    hidden[paths.is_point] = ~shown[paths.target[paths.is_point]]
    index = np.flatnonzero(paths.is_unlocated | hidden)
    user, unlocated = paths.user[index], paths.is_unlocated[index]
    cosines = np.empty((index.size, 2))
    cosines[unlocated] = scene.unlocated_m[paths.unlocated[index[unlocated]], 1:]
    direction, _ = unit_vectors(receiver.bs_position_m, scene.points_m[paths.target[index[~unlocated]]])
    cosines[~unlocated] = np.stack(receiver.array.direction_cosines(direction), axis=-1)
    cosines[:, np.logical_not(receiver.array.sees_cosines)] = 0.0
    # noise may carry a path near the edge out of the unit disc; what is reported is a direction
    cosines /= np.maximum(np.linalg.norm(cosines, axis=1, keepdims=True) * (1 + 1e-15), 1.0)
    length = fit.parameters.length_m[index] - scene.offsets_m[user]
    return UnlocatedPaths(
        user=user,
        direction_cosines=cosines,
        delay_s=length / SPEED_OF_LIGHT_M_S,
        gain=np.asarray(fit.posterior.mean[index] * scale, dtype=complex),
        probability=probability[index],
        doppler_hz=_doppler_by_motion(fit, index),
    )


def _doppler_by_motion(fit: Fit, index: NDArray[np.int64]) -> RealArray | None:
    """Doppler shifts of paths, their users' frequency offsets removed; None where nothing moves."""
    motion, shifts = fit.scene.motion, fit.parameters.doppler_hz
    if motion is None or shifts is None:
        return None
    return np.asarray(shifts[index] - motion.offsets_hz[fit.paths.user[index]])
