"""Tracking over successive blocks (docs/theory.md, section 11)."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from isac_toolbox._validation import as_scalar, check_fraction, check_has, check_positive
from isac_toolbox.channel.array import SPEED_OF_LIGHT_M_S
from isac_toolbox.channel.hardware import HARDWARE_FIELDS
from isac_toolbox.channel.observation import Geometry, UplinkObservation
from isac_toolbox.channel.process import ConstantVelocity
from isac_toolbox.estimators.bisvbi import EMTurboBiSVBI
from isac_toolbox.estimators.result import EstimationResult, SceneInformation
from isac_toolbox.tracking.association import (
    associated,
    existence_if_found,
    existence_if_missed,
    log_density,
)
from isac_toolbox.tracking.belief import Belief, smoothed
from isac_toolbox.tracking.moment import (
    Moment,
    entries,
    expected_scene,
    new_tracks,
    of_tracks,
    speed_std_m_s,
    told_entries,
)
from isac_toolbox.tracking.result import OF_TRACK, OF_USER, TrackedResult

__all__ = ["Tracker"]

RealArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

# Guard: probability of existence below which a track is given up.
_GIVEN_UP = 0.01
# Tuned: weight of the newest block in a track's visibility.
_NEWEST = 0.5

#: How much wider than stated, and at least which deviation, a predicted place is that is lost.
_LOST_BY, _LEAST_SPREAD_M = 10.0, 1.0
_LOST = (
    "users {users} were predicted far worse than the block states their places, as after a gap, and start "
    "anew from what it states"
)
_NOTHING_SAID = (
    "the estimate of this block holds no information on the scene (status {status!r}), so that users and "
    "tracks were predicted and not updated; look at the estimate's warnings"
)


class Tracker:
    """Follow users, clocks, carriers and scatterers over successive blocks.

    Every block is estimated from where the tracks are expected, and what its samples say is added to what was
    known before: positions, velocities, clocks and frequency offsets have one joint Gaussian belief. Priors
    that an observation states for its users count in the first block alone.

    Parameters
    ----------
    estimator : EMTurboBiSVBI, optional
        With its defaults if not given. Another estimator must return results that hold ``information``.
    process : ConstantVelocity, optional
        How all goes on from block to block; with its defaults if not given.
    survival_probability : float
        That a scatterer is still there one block later.
    detection_probability : float
        That a block reports a scatterer that is there, seen and apart from others.
    births, false_alarms : float
        Expected number of scatterers that a block reports for the first time, true and false ones.

    Raises
    ------
    TypeError, ValueError
        Naming the argument, what came and what is allowed.

    Notes
    -----
    docs/theory.md, section 11.

    Examples
    --------
    >>> import isac_toolbox as isac
    >>> scenario = isac.Scenario.load("moving_uplink")
    >>> tracker = isac.Tracker()
    >>> for sim in scenario.simulate_track(3, 0.05, seed=0):
    ...     tracked = tracker.update(sim.observation)
    >>> tracked.user_positions_m.shape, bool(tracked.confirmed.any())
    ((3, 3), True)
    """

    def __init__(
        self,
        estimator: Any = None,
        process: ConstantVelocity | None = None,
        *,
        survival_probability: float = 0.99,
        detection_probability: float = 0.95,
        births: float = 0.1,
        false_alarms: float = 0.1,
    ) -> None:
        estimator = EMTurboBiSVBI() if estimator is None else estimator
        check_has("estimator", estimator, "an estimator", ("estimate",))
        process = ConstantVelocity() if process is None else process
        if not isinstance(process, ConstantVelocity):
            raise TypeError(f"process must be a ConstantVelocity, got {type(process).__name__}")
        self.estimator = estimator
        self.process = process
        self.survival_probability = check_fraction("survival_probability", survival_probability)
        self.detection_probability = check_fraction("detection_probability", detection_probability)
        self.births = check_positive("births", births)
        self.false_alarms = check_positive("false_alarms", false_alarms)
        self.reset()

    def reset(self) -> None:
        """Forget all blocks."""
        self._moments: list[Moment] = []
        self._next_id = 0

    def update(self, observation: UplinkObservation, time_s: float | None = None) -> TrackedResult:
        """Estimate the next block and take it in.

        Parameters
        ----------
        observation : UplinkObservation
            With places, and the users of all blocks in the same order.
        time_s : float, optional
            When it was received; the mean of its ``symbol_times_s`` if not given.

        Returns
        -------
        TrackedResult

        Raises
        ------
        TypeError, ValueError
            If it is no observation, has no places, priors of hardware, other users than the blocks before or
            no time, or is not later than the block before.
        """
        time = self._checked_time(observation, time_s)
        geometry = observation.geometry_for("Tracker")
        if observation.hardware is not None:
            given = [name for name in HARDWARE_FIELDS if getattr(observation, name) is not None]
            raise ValueError(
                f"observation must have no priors of its hardware, which blocks share, got {given}; "
                "calibrate the array by one block, and correct the samples"
            )
        if not self._moments:
            return self._taken_in(self._first(observation, geometry, time), observation, geometry)
        last = self._moments[-1]
        if observation.n_users != last.n_users:
            raise ValueError(
                f"observation must have the {last.n_users} users of the blocks before, got "
                f"{observation.n_users}"
            )
        predicted, transition = self._predicted(last, time - last.time_s, observation.link == "monostatic")
        predicted, transition, lost = self._without_lost(predicted, transition, observation, geometry)
        estimate = self._estimate(observation, predicted, time - last.time_s)
        moment = replace(
            last,
            time_s=time,
            belief=predicted,
            existence=self.survival_probability * last.existence,
            estimate=estimate,
            predicted=predicted,
            transition=transition,
            warnings=(_LOST.format(users=lost.tolist()),) if lost.size else (),
        )
        return self._taken_in(moment, observation, geometry)

    def smooth(self) -> list[TrackedResult]:
        """Return users and tracks at every block so far, with what all blocks say.

        Tracks are those of each block; existence and reports are as they were then.

        Returns
        -------
        list of TrackedResult
        """
        results: list[TrackedResult] = []
        later: Belief | None = None
        after: Moment | None = None
        for moment in reversed(self._moments):
            belief = moment.belief
            if after is not None and later is not None:
                assert after.predicted is not None and after.transition is not None
                assert after.survivors is not None
                index = entries(moment.n_users, after.survivors)
                known = later.taken(np.arange(index.size))
                belief = smoothed(moment.belief, after.transition, after.predicted, known, index)
            results.append(moment.result(belief))
            later, after = belief, moment
        return results[::-1]

    def _checked_time(self, observation: UplinkObservation, time_s: float | None) -> float:
        if not isinstance(observation, UplinkObservation):
            raise TypeError(f"observation must be an UplinkObservation, got {type(observation).__name__}")
        if time_s is None:
            if observation.symbol_times_s is None:
                raise ValueError(
                    "time_s must be given where the observation has no symbol_times_s, got None for both"
                )
            time_s = float(np.mean(observation.symbol_times_s))
        time = as_scalar(time_s)
        if isinstance(time, bool) or not isinstance(time, (int, float, np.integer, np.floating)):
            raise TypeError(f"time_s must be a number, got {time_s!r}")
        if not np.isfinite(time):
            raise ValueError(f"time_s must be finite, got {time_s!r}")
        if self._moments and time <= self._moments[-1].time_s:
            raise ValueError(
                f"time_s must be later than that of the block before, {self._moments[-1].time_s:.6g} s, got "
                f"{float(time):.6g} s"
            )
        return float(time)

    def _first(self, obs: UplinkObservation, geometry: Geometry, time_s: float) -> Moment:
        """What is known before the first block, and its estimate: users as stated, no tracks."""
        mean, std = self._stated(obs, geometry)
        nothing = np.zeros(0, np.int64)
        return Moment(
            time_s,
            Belief.independent(mean.ravel(), std.ravel()),
            nothing,
            np.zeros(0),
            np.zeros((0, obs.n_users)),
            nothing,
            self.estimator.estimate(obs),
        )

    def _stated(self, obs: UplinkObservation, geometry: Geometry) -> tuple[RealArray, RealArray]:
        """What a block states of its users beforehand: means and deviations, each (K, 8)."""
        motion, n_users = obs.motion, obs.n_users
        mean, std = np.zeros((n_users, OF_USER)), np.zeros((n_users, OF_USER))
        mean[:, :3], std[:, :3] = geometry.user_positions_m, geometry.user_position_stds_m
        if motion is not None:
            mean[:, 3:6], std[:, 3:6] = motion.user_velocities_m_s, motion.user_velocity_stds_m_s
            std[:, 7] = motion.frequency_offset_stds_hz
        elif obs.link != "monostatic":
            std[:, 3:6] = self.process.first_velocity_std_m_s
        std[:, 6] = SPEED_OF_LIGHT_M_S * obs.time_offset_stds_s
        return mean, std

    def _predicted(self, last: Moment, interval_s: float, monostatic: bool) -> tuple[Belief, RealArray]:
        size = last.belief.mean.size
        transition, noise = np.eye(size), np.zeros((size, size))
        user, of_user = self.process.user_step(interval_s)
        point, of_point = self.process.scatterer_step(interval_s)
        for k in range(last.n_users):
            own = slice(OF_USER * k, OF_USER * (k + 1))
            transition[own, own], noise[own, own] = user, 0.0 if monostatic else of_user
        for b in range(len(last.ids)):
            own = slice(*(OF_USER * last.n_users + OF_TRACK * np.array([b, b + 1])))
            transition[own, own], noise[own, own] = point, of_point
        return last.belief.predicted(transition, noise), transition

    def _without_lost(
        self, predicted: Belief, transition: RealArray, obs: UplinkObservation, geometry: Geometry
    ) -> tuple[Belief, RealArray, IntArray]:
        """Let users whose places are predicted far worse than the block states them start anew from that.

        Places and velocities are forgotten, with what they have in common with all others; clocks and
        carriers go on. Returns belief, transition and the users.
        """
        stated_mean, stated_std = self._stated(obs, geometry)
        std = predicted.std[: stated_std.size].reshape(stated_std.shape)
        spread, stated = (np.linalg.norm(d[:, :3], axis=1) for d in (std, stated_std))
        lost = np.flatnonzero(spread > _LOST_BY * np.maximum(stated, _LEAST_SPREAD_M))
        anew = (OF_USER * lost[:, None] + np.arange(6)).ravel()
        mean, covariance, transition = predicted.mean.copy(), predicted.covariance.copy(), transition.copy()
        transition[anew] = covariance[anew] = covariance[:, anew] = 0.0
        mean[anew], covariance[anew, anew] = stated_mean.ravel()[anew], stated_std.ravel()[anew] ** 2
        return Belief(mean, covariance), transition, lost

    def _estimate(self, obs: UplinkObservation, predicted: Belief, interval_s: float) -> EstimationResult:
        """Estimate a block from where all is expected, users' priors replaced by the prediction."""
        last = self._moments[-1]
        users = last.result(predicted)
        user_stds = predicted.std[: OF_USER * last.n_users].reshape(-1, OF_USER)
        changes: dict[str, Any] = {
            "user_positions_m": users.user_positions_m,
            "user_position_std_m": user_stds[:, :3],
        }
        if obs.motion is not None and obs.motion.hz_per_m_s > 0 and obs.link != "monostatic":
            changes["user_velocities_m_s"] = users.user_velocities_m_s
            changes["user_velocity_std_m_s"] = user_stds[:, 3:6]
        informed = replace(obs, **changes)
        result: EstimationResult
        if isinstance(self.estimator, EMTurboBiSVBI) and last.estimate.information is not None:
            expected = expected_scene(users, last.estimate, interval_s, obs.carrier_hz)
            result = self.estimator.estimate(informed, expected=expected)
        else:
            result = self.estimator.estimate(informed)
        return result

    def _taken_in(self, moment: Moment, obs: UplinkObservation, geometry: Geometry) -> TrackedResult:
        """Add what the samples of a block say, with the scatterers that are new in it."""
        told, n_old = moment.estimate.information, len(moment.ids)
        if told is None:
            moment = replace(
                moment,
                report=np.full(n_old, -1),
                survivors=np.arange(n_old),
                warnings=(*moment.warnings, _NOTHING_SAID.format(status=moment.estimate.status)),
            )
        else:
            speed_std = speed_std_m_s(obs, self.process)
            reports = self._reports(moment, told, geometry, speed_std)
            moment = self._judged(moment, reports, obs, geometry)
            moment = self._with_births(moment, geometry, speed_std)
            index = told_entries(told, moment.n_users, moment.report, OF_USER * moment.n_users)
            belief = moment.belief.informed(told.matrix, told.vector, index)
            moment = self._kept(replace(moment, belief=belief), n_old)
        self._moments.append(moment)
        return moment.result(moment.belief)

    def _reports(
        self, moment: Moment, told: SceneInformation, geometry: Geometry, speed_std: RealArray
    ) -> tuple[RealArray, RealArray]:
        """What this block says of its scatterers, with users as predicted: means and covariances."""
        users = moment.belief.taken(np.arange(OF_USER * moment.n_users))
        alone = users.joined(new_tracks(moment.estimate.scatterer_positions_m, geometry, speed_std))
        index = told_entries(told, moment.n_users, np.arange(told.n_scatterers), users.mean.size)
        alone = alone.informed(told.matrix, told.vector, index)
        return of_tracks(alone, moment.n_users, told.n_scatterers, OF_TRACK if told.moves else 3)

    def _judged(
        self, moment: Moment, reports: tuple[RealArray, RealArray], obs: UplinkObservation, geometry: Geometry
    ) -> Moment:
        """Reports of the tracks, and their existence and visibility with them."""
        size = reports[0].shape[1]
        means, covariances = of_tracks(moment.belief, moment.n_users, len(moment.ids), size)
        report = associated(means, covariances, *reports)
        clutter = self.false_alarms / float(np.prod(geometry.region_m[1] - geometry.region_m[0]))
        detection = self._detection(moment, means[:, :3], obs, geometry)
        existence, visibility = moment.existence.copy(), moment.visibility.copy()
        for b, row in enumerate(report):
            if row < 0:
                existence[b] = existence_if_missed(existence[b], detection[b])
                continue
            spread = (covariances[b] + reports[1][row])[:3, :3]
            density = log_density(reports[0][row, :3] - means[b, :3], spread)
            # a report is evidence however unlikely it was
            likely = max(float(detection[b]), 1 - self.detection_probability)
            existence[b] = existence_if_found(existence[b], likely, density, clutter)
            seen = moment.estimate.visibility_probability[:, row]
            visibility[b] = (1 - _NEWEST) * visibility[b] + _NEWEST * seen
        return replace(moment, existence=existence, visibility=visibility, report=report)

    def _detection(
        self, moment: Moment, places_m: RealArray, obs: UplinkObservation, geometry: Geometry
    ) -> RealArray:
        """Probability that each track is reported: in the region, seen by a user, and apart from others."""
        low, high = geometry.region_m
        inside = np.all((places_m >= low) & (places_m <= high), axis=1)
        seen = 1 - np.prod(1 - moment.visibility, axis=1)
        cell_m = SPEED_OF_LIGHT_M_S / float(np.ptp(obs.subcarrier_frequencies_hz))
        apart = np.linalg.norm(places_m[:, None] - places_m, axis=2)
        np.fill_diagonal(apart, np.inf)
        resolved = apart.min(axis=1, initial=np.inf) > cell_m
        return np.asarray(self.detection_probability * seen * (inside & resolved))

    def _with_births(self, moment: Moment, geometry: Geometry, speed_std: RealArray) -> Moment:
        """The moment with a track for every report that has none."""
        estimate = moment.estimate
        new = np.setdiff1d(np.arange(len(estimate.scatterer_positions_m)), moment.report)
        moving = estimate.moving_probability
        share = np.ones(new.size) if moving is None else moving[new]
        born = new_tracks(estimate.scatterer_positions_m[new], geometry, speed_std, share)
        chance = 1.0 if not self._moments else self.births / (self.births + self.false_alarms)
        ids = self._next_id + np.arange(new.size)
        self._next_id += new.size
        return replace(
            moment,
            belief=moment.belief.joined(born),
            ids=np.concatenate([moment.ids, ids]),
            existence=np.concatenate([moment.existence, chance * estimate.scatterer_probability[new]]),
            visibility=np.vstack([moment.visibility, estimate.visibility_probability[:, new].T]),
            report=np.concatenate([moment.report, new]),
        )

    @staticmethod
    def _kept(moment: Moment, n_old: int) -> Moment:
        """The moment without tracks that more or less certainly do not exist."""
        kept = np.flatnonzero(moment.existence >= _GIVEN_UP)
        return replace(
            moment,
            belief=moment.belief.taken(entries(moment.n_users, kept)),
            ids=moment.ids[kept],
            existence=moment.existence[kept],
            visibility=moment.visibility[kept],
            report=moment.report[kept],
            survivors=kept[kept < n_old],
        )
