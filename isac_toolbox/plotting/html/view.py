"""What the page shows: the fixed surroundings, and one state of the estimate judged against the truth."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from isac_toolbox.channel import UnlocatedPaths
from isac_toolbox.metrics import Localisation, localisation

if TYPE_CHECKING:
    from isac_toolbox.channel import UplinkObservation
    from isac_toolbox.estimators import EstimationResult, SceneSnapshot
    from isac_toolbox.scenario import Truth
    from isac_toolbox.tracking import TrackedResult

__all__ = ["MATCH_DISTANCE_M", "State", "Surroundings", "bounding_box", "check_places", "numbered"]

RealArray = NDArray[np.float64]
MATCH_DISTANCE_M = 2.0
_MARGIN = 0.04


def check_places(result: EstimationResult, observation: UplinkObservation | None) -> None:
    """Refuse to draw a block that came without places."""
    if not len(result.user_positions_m) or (observation is not None and observation.region_m is None):
        raise ValueError(
            "there is nothing to draw: region_m or user_positions_m were not given, so that nothing is "
            "located; result.unlocated_paths has directions and delays"
        )


@dataclass(frozen=True, eq=False)
class Surroundings:
    """What stays while the estimate moves; None where unknown.

    Attributes
    ----------
    station_m : ndarray, shape (3,), optional
    region_m : ndarray, shape (2, 3), optional
    array_axes : ndarray, shape (3, 3), optional
        Boresight, horizontal and vertical unit vectors as rows.
    nominal_users_m : ndarray, shape (K, 3), optional
    truth : Truth, optional
    """

    station_m: RealArray | None
    region_m: RealArray | None
    array_axes: RealArray | None
    nominal_users_m: RealArray | None
    truth: Truth | None

    @classmethod
    def of(cls, truth: Truth | None, observation: UplinkObservation | None) -> Surroundings:
        """Take them from the observation, or from the truth where there is none."""
        if observation is not None:
            array, users = observation.array.axes, observation.user_positions_m
            return cls(observation.bs_position_m, observation.region_m, array, users, truth)
        if truth is not None:
            return cls(truth.environment.bs_position_m, truth.environment.region_m, None, None, truth)
        return cls(None, None, None, None, None)


@dataclass(frozen=True, eq=False)
class State:
    """One state of the estimate: the result, or the scene after an iteration.

    Attributes
    ----------
    points_m : ndarray, shape (S, 3)
        Points with probability of at least one half.
    probability : ndarray, shape (S,)
    visibility : ndarray, shape (K, S)
    covariance_m2 : ndarray, shape (S, 3, 3), optional
        Only of the result.
    rejected_m, rejected_probability : ndarray, shape (C, 3) and (C,)
        Candidates with probability below one half.
    users_m : ndarray, shape (K, 3)
    line_of_sight : ndarray, shape (K,)
    unlocated : UnlocatedPaths
    match : Localisation, optional
        Points against the true ones, where those are known.
    """

    points_m: RealArray
    probability: RealArray
    visibility: RealArray
    covariance_m2: RealArray | None
    rejected_m: RealArray
    rejected_probability: RealArray
    users_m: RealArray
    line_of_sight: RealArray
    unlocated: UnlocatedPaths
    match: Localisation | None

    @classmethod
    def of_result(cls, result: EstimationResult, truth: Truth | None) -> State:
        """Return the final state, with its uncertainties."""
        candidates = result.candidates
        rejected = candidates.scatterer_probability < 0.5
        return cls(
            points_m=result.scatterer_positions_m,
            probability=result.scatterer_probability,
            visibility=result.visibility_probability,
            covariance_m2=result.scatterer_covariance_m2,
            rejected_m=candidates.scatterer_positions_m[rejected],
            rejected_probability=candidates.scatterer_probability[rejected],
            users_m=result.user_positions_m,
            line_of_sight=result.line_of_sight_probability,
            unlocated=result.unlocated_paths,
            match=_match(result.scatterer_positions_m, truth),
        )

    @classmethod
    def of_snapshot(cls, snapshot: SceneSnapshot, truth: Truth | None) -> State:
        """Return the state after an iteration."""
        shown = snapshot.scatterer_probability >= 0.5
        points = snapshot.scatterer_positions_m[shown]
        return cls(
            points_m=points,
            probability=snapshot.scatterer_probability[shown],
            visibility=snapshot.visibility_probability[:, shown],
            covariance_m2=None,
            rejected_m=snapshot.scatterer_positions_m[~shown],
            rejected_probability=snapshot.scatterer_probability[~shown],
            users_m=snapshot.user_positions_m,
            line_of_sight=snapshot.line_of_sight_probability,
            unlocated=snapshot.unlocated_paths,
            match=_match(points, truth),
        )

    @classmethod
    def of_track(cls, block: TrackedResult) -> State:
        """Return users and tracks after a block, with their uncertainties."""
        n_users, n_tracks = len(block.user_positions_m), len(block.track_ids)
        return cls(
            points_m=block.scatterer_positions_m,
            probability=block.existence_probability,
            visibility=np.zeros((n_users, n_tracks)),
            covariance_m2=block.scatterer_covariance_m2,
            rejected_m=np.zeros((0, 3)),
            rejected_probability=np.zeros(0),
            users_m=block.user_positions_m,
            line_of_sight=np.zeros(n_users),
            unlocated=block.estimate.unlocated_paths,
            match=None,
        )

    @property
    def false_index(self) -> NDArray[np.int64]:
        """Points without a true one; none where the truth is unknown."""
        if self.match is None:
            return np.zeros(0, np.int64)
        return np.setdiff1d(np.arange(len(self.points_m)), self.match.estimate_index)


def _match(points_m: RealArray, truth: Truth | None) -> Localisation | None:
    if truth is None:
        return None
    return localisation(points_m, truth.scatterer_positions_m, MATCH_DISTANCE_M)


def bounding_box(
    around: Surroundings, states: Sequence[State], further_m: Sequence[RealArray] = ()
) -> RealArray:
    """Return a box that holds everything shown and further points, with a margin, shape (2, 3)."""
    parts = [*further_m]
    parts += [p for state in states for p in (state.points_m, state.users_m)]
    if around.station_m is not None and around.region_m is not None:
        parts += [around.station_m[None], around.region_m]
    if around.nominal_users_m is not None:
        parts.append(around.nominal_users_m)
    if around.truth is not None:
        parts += [around.truth.scatterer_positions_m, around.truth.user_positions_m]
    everything = np.vstack([part.reshape(-1, 3) for part in parts])
    low, high = everything.min(axis=0), everything.max(axis=0)
    margin = _MARGIN * max(float((high - low).max()), 1.0)
    return np.stack([low - margin, high + margin])


def numbered(n: int, noun: str) -> str:
    """Return ``1 path``, ``2 paths``."""
    return f"{n} {noun}" if n == 1 else f"{n} {noun}s"
