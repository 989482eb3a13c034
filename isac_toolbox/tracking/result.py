"""What a tracker knows after a block."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from isac_toolbox.channel.array import SPEED_OF_LIGHT_M_S
from isac_toolbox.estimators.result import EstimationResult
from isac_toolbox.tracking.belief import Belief

__all__ = ["CONFIRMED", "OF_TRACK", "OF_USER", "TrackedResult"]

RealArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

#: Entries of a user (place, velocity, clock as a length, carrier) and of a track (place, velocity).
OF_USER, OF_TRACK = 8, 6
#: Probability from which a track counts as confirmed.
CONFIRMED = 0.9


@dataclass(frozen=True, eq=False)
class TrackedResult:
    """Users, clocks and scatterers after a block, with all blocks up to it, or all blocks (``smooth``).

    Attributes
    ----------
    time_s : float
        Reference time of the block.
    estimate : EstimationResult
        Of the block itself. Its users have the tracker's prediction as prior, its scatterers have none.
    track_ids : ndarray of int, shape (B,)
        Scatterers keep their number as long as they are followed.
    existence_probability : ndarray, shape (B,)
    report : ndarray of int, shape (B,)
        Which of the estimate's scatterers the track's is, -1 if it was not reported.
    scatterer_positions_m, scatterer_velocities_m_s : ndarray, shape (B, 3)
    scatterer_covariance_m2, scatterer_velocity_covariance_m2_s2 : ndarray, shape (B, 3, 3)
    user_positions_m, user_velocities_m_s : ndarray, shape (K, 3)
    user_position_covariance_m2, user_velocity_covariance_m2_s2 : ndarray, shape (K, 3, 3)
    time_offsets_s, time_offset_std_s : ndarray, shape (K,)
    frequency_offsets_hz, frequency_offset_std_hz : ndarray, shape (K,)
        Zero of blocks without motion.
    warnings : tuple of str
        What the tracker has to say, then what the estimate says.
    """

    time_s: float
    estimate: EstimationResult
    track_ids: IntArray
    existence_probability: RealArray
    report: IntArray
    scatterer_positions_m: RealArray
    scatterer_velocities_m_s: RealArray
    scatterer_covariance_m2: RealArray
    scatterer_velocity_covariance_m2_s2: RealArray
    user_positions_m: RealArray
    user_velocities_m_s: RealArray
    user_position_covariance_m2: RealArray
    user_velocity_covariance_m2_s2: RealArray
    time_offsets_s: RealArray
    time_offset_std_s: RealArray
    frequency_offsets_hz: RealArray
    frequency_offset_std_hz: RealArray
    warnings: tuple[str, ...] = ()

    @property
    def confirmed(self) -> NDArray[np.bool_]:
        """Tracks that exist with a probability of at least 0.9, shape (B,)."""
        return self.existence_probability >= CONFIRMED

    @classmethod
    def of(
        cls,
        belief: Belief,
        n_users: int,
        time_s: float,
        estimate: EstimationResult,
        track_ids: IntArray,
        existence: RealArray,
        report: IntArray,
        warnings: tuple[str, ...] = (),
    ) -> TrackedResult:
        """Return a belief of users, then tracks, under the names of a result."""
        users = OF_USER * np.arange(n_users)
        tracks = OF_USER * n_users + OF_TRACK * np.arange(len(track_ids))
        mean, std = belief.mean, belief.std

        def places(first: IntArray) -> tuple[RealArray, RealArray]:
            index = first[:, None] + np.arange(3)
            return mean[index], belief.covariance[index[:, :, None], index[:, None, :]]

        (p, p_cov), (v, v_cov) = places(tracks), places(tracks + 3)
        (u, u_cov), (w, w_cov) = places(users), places(users + 3)
        return cls(
            time_s=time_s,
            estimate=estimate,
            track_ids=track_ids,
            existence_probability=existence,
            report=report,
            scatterer_positions_m=p,
            scatterer_velocities_m_s=v,
            scatterer_covariance_m2=p_cov,
            scatterer_velocity_covariance_m2_s2=v_cov,
            user_positions_m=u,
            user_velocities_m_s=w,
            user_position_covariance_m2=u_cov,
            user_velocity_covariance_m2_s2=w_cov,
            time_offsets_s=mean[users + 6] / SPEED_OF_LIGHT_M_S,
            time_offset_std_s=std[users + 6] / SPEED_OF_LIGHT_M_S,
            frequency_offsets_hz=mean[users + 7],
            frequency_offset_std_hz=std[users + 7],
            warnings=(*warnings, *estimate.warnings),
        )
