"""State of a tracker after a block, and what of a block its parts are (docs/theory.md, section 11)."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.special import chdtri

from isac_toolbox.channel.observation import Geometry, UplinkObservation
from isac_toolbox.channel.paths import UnlocatedPaths
from isac_toolbox.channel.process import ConstantVelocity
from isac_toolbox.estimators.result import EstimationResult, SceneInformation
from isac_toolbox.estimators.scene.first import ExpectedScene
from isac_toolbox.tracking.belief import Belief
from isac_toolbox.tracking.result import OF_TRACK, OF_USER, TrackedResult

__all__ = [
    "Moment",
    "entries",
    "expected_scene",
    "new_tracks",
    "of_tracks",
    "speed_std_m_s",
    "told_entries",
]

RealArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

# Guard: probability of a velocity at rest that looks as fast, below which a track starts as moving.
_AT_REST = 0.01


@dataclass(frozen=True, eq=False)
class Moment:
    """State after a block: B tracks.

    Attributes
    ----------
    predicted, transition
        Before the block was seen, of the tracks of the moment before; none in the first.
    survivors : ndarray of int, shape (B',)
        Which of these tracks are left; they come first.
    visibility : ndarray, shape (B, K)
    """

    time_s: float
    belief: Belief
    ids: IntArray
    existence: RealArray
    visibility: RealArray
    report: IntArray
    estimate: EstimationResult
    warnings: tuple[str, ...] = ()
    predicted: Belief | None = None
    transition: RealArray | None = None
    survivors: IntArray | None = None

    @property
    def n_users(self) -> int:
        return int(self.visibility.shape[1])

    def result(self, belief: Belief) -> TrackedResult:
        """A belief of this moment as a result."""
        return TrackedResult.of(
            belief,
            self.n_users,
            self.time_s,
            self.estimate,
            self.ids,
            self.existence,
            self.report,
            self.warnings,
        )


def entries(n_users: int, tracks: IntArray) -> IntArray:
    """Entries of a belief that belong to all users and some tracks."""
    first = OF_USER * n_users
    of_tracks = first + OF_TRACK * np.asarray(tracks)[:, None] + np.arange(OF_TRACK)
    return np.concatenate([np.arange(first), of_tracks.ravel()]).astype(np.int64)


def told_entries(told: SceneInformation, n_users: int, report: IntArray, first: int) -> IntArray:
    """Entries of a belief, tracks from ``first`` on, of which the information speaks, in its order."""
    track = np.zeros(told.n_scatterers, np.int64)
    found = np.flatnonzero(report >= 0)
    track[report[found]] = found
    place = (first + OF_TRACK * track[:, None] + np.arange(3)).ravel()
    users = OF_USER * np.arange(n_users)
    parts = [place, (users[:, None] + np.arange(3)).ravel(), users + 6]
    if told.moves:
        parts += [users + 7, (users[:, None] + 3 + np.arange(3)).ravel(), place + 3]
    return np.concatenate(parts).astype(np.int64)


def of_tracks(belief: Belief, n_users: int, n_tracks: int, size: int) -> tuple[RealArray, RealArray]:
    """Means (B, size) and covariances (B, size, size) of the first entries of every track."""
    index = OF_USER * n_users + OF_TRACK * np.arange(n_tracks)[:, None] + np.arange(size)
    return belief.mean[index], belief.covariance[index[:, :, None], index[:, None, :]]


def new_tracks(
    places_m: RealArray, geometry: Geometry, speed_std: RealArray, moving: RealArray | None = None
) -> Belief:
    """What is known of new tracks beforehand: places as wide as the region, velocities around zero."""
    n = len(places_m)
    extent = (geometry.region_m[1] - geometry.region_m[0]) / np.sqrt(12)
    share = np.ones(n) if moving is None else np.sqrt(moving)
    mean = np.hstack([places_m, np.zeros((n, 3))])
    std = np.hstack([np.tile(extent, (n, 1)), share[:, None] * speed_std])
    return Belief.independent(mean.ravel(), std.ravel())


def speed_std_m_s(obs: UplinkObservation, process: ConstantVelocity) -> RealArray:
    """Deviation (3,) of a scatterer's velocity before anything is seen of it."""
    if obs.motion is None:
        return process.first_velocity_std_m_s
    return np.full(3, obs.motion.scatterer_velocity_std_m_s)


def expected_scene(
    predicted: TrackedResult, last: EstimationResult, interval_s: float, carrier_hz: float | None
) -> ExpectedScene:
    """The scene that a block is expected to hold."""
    velocity, covariance = predicted.scatterer_velocities_m_s, predicted.scatterer_velocity_covariance_m2_s2
    scaled = np.linalg.solve(covariance + 1e-12 * np.eye(3), velocity[..., None])[..., 0]
    moves = np.sum(velocity * scaled, axis=1) > chdtri(3, _AT_REST)
    return ExpectedScene(
        predicted.scatterer_positions_m,
        np.where(moves[:, None], velocity, 0.0),
        predicted.user_positions_m,
        predicted.user_velocities_m_s,
        predicted.time_offsets_s,
        predicted.frequency_offsets_hz,
        _gone_on(last.unlocated_paths, interval_s, carrier_hz),
        last.noise_variance,
    )


def _gone_on(paths: UnlocatedPaths, interval_s: float, carrier_hz: float | None) -> UnlocatedPaths:
    """Paths without a place an interval later: as long as their Doppler shifts say."""
    if paths.doppler_hz is None or carrier_hz is None:
        return paths
    return replace(paths, delay_s=paths.delay_s - paths.doppler_hz * interval_s / carrier_hz)
