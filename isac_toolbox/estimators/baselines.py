"""Baselines on the same observation: NOMP with fusion, least squares, and the genie receiver."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from time import perf_counter
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from isac_toolbox._validation import check_positive
from isac_toolbox.channel.observation import UplinkObservation
from isac_toolbox.channel.scene import Paths
from isac_toolbox.estimators.assemble import SceneBelief, assemble_result
from isac_toolbox.estimators.channel_only import check_observation, result_from_channel, single_record
from isac_toolbox.estimators.coarse_nomp import newtonised_omp
from isac_toolbox.estimators.detection import ChannelKnowledge, detect
from isac_toolbox.estimators.gauss_newton import Fit, Problem, evaluate, refine
from isac_toolbox.estimators.locate import fuse_points, place_points
from isac_toolbox.estimators.result import Candidates, EstimationResult
from isac_toolbox.estimators.search import PathSearch
from isac_toolbox.estimators.statistics import amplitude_scale, least_squares_channel, pilot_statistics
from isac_toolbox.inference.turbo import TurboLoop

if TYPE_CHECKING:
    from isac_toolbox.scenario import Truth

__all__ = ["NOMP", "GenieLMMSE", "LeastSquares"]

Callback = Callable[[TurboLoop], bool | None]


@dataclass(frozen=True)
class NOMP:
    """Newtonised OMP on the pilots, then single-bounce location and fusion over users.

    The strongest classical baseline: paths are detected user by user and refined together. The channel is
    that of the users' own paths, direction and delay free; points are what fusion makes of them, and every
    point found is reported with probability one, as the method has no other. The coarse stage of the joint
    estimator prunes its paths at the end; this is the published method, which does not.

    Parameters
    ----------
    false_alarm_rate : float
        Per user and round, in (0, 1).

    Raises
    ------
    ValueError
        If the rate is out of range.

    Notes
    -----
    Mamandipoor, Ramasamy, Madhow, IEEE TSP 2016; docs/theory.md, section 7.
    """

    false_alarm_rate: float = 1e-2

    def __post_init__(self) -> None:
        check_positive("false_alarm_rate", self.false_alarm_rate)
        if self.false_alarm_rate >= 1:
            raise ValueError(f"false_alarm_rate must lie in (0, 1), got {self.false_alarm_rate!r}")

    def estimate(self, obs: UplinkObservation, *, callback: Callback | None = None) -> EstimationResult:
        """Estimate from one block; ``callback`` is never called, as there is no loop to watch."""
        del callback
        check_observation(obs)
        with threadpool_limits(limits=1, user_api="blas"):
            return self._estimate(obs)

    def _estimate(self, obs: UplinkObservation) -> EstimationResult:
        start = perf_counter()
        scale = amplitude_scale(obs)
        received = obs.received / scale
        problem = Problem.on_pilots(obs, received, scale)
        problem, free_fit = newtonised_omp(
            problem, PathSearch.for_observation(obs), false_alarm_rate=self.false_alarm_rate, prune=False
        )
        placed, sight, seen = place_points(problem, free_fit)
        scene, seen = fuse_points(problem, placed, seen)
        paths = Paths.build(sight, seen, placed.paths.user[placed.paths.is_free])
        weak = np.full(len(paths), float(placed.posterior.prior_precision.min(initial=1e-9)))
        fit = refine(problem, evaluate(problem, scene, paths, weak), n_steps=10, tol=1e-2)
        channel = ChannelKnowledge.from_paths(
            free_fit.atoms, free_fit.posterior.mean, free_fit.posterior.covariance, obs.n_users
        )
        noise_variance = 1 / problem.noise_precision
        detection = detect(obs, received, channel, noise_variance, joint=False)
        belief = certain_belief(problem, fit, sight, seen)
        history = single_record(noise_variance * scale**2, len(free_fit.paths), perf_counter() - start)
        return assemble_result(
            "NOMP", obs, belief, detection, scale, history, "finished", True, channel_fit=free_fit
        )


def certain_belief(
    problem: Problem, fit: Fit, sight: NDArray[np.bool_], seen: NDArray[np.bool_]
) -> SceneBelief:
    """A scene taken for sure."""
    probability = np.ones(seen.shape[1])
    return SceneBelief(
        problem=problem,
        fit=fit,
        point_probability=probability,
        visibility_probability=seen.astype(float),
        line_of_sight_probability=sight.astype(float),
        path_probability=np.ones(len(fit.paths)),
        candidates=Candidates(fit.scene.points_m, probability, seen.astype(float)),
    )


@dataclass(frozen=True)
class LeastSquares:
    """Least-squares channel on the pilots, without any model of the paths.

    Per subcarrier ``H_n = R_n^+ Z_n``; where a user sends no pilot on a subcarrier (comb) its channel is
    interpolated linearly between those on which it does. No scatterers are reported.
    """

    def estimate(self, obs: UplinkObservation, *, callback: Callback | None = None) -> EstimationResult:
        """Estimate from one block; ``callback`` is never called, as there is no loop to watch."""
        del callback
        check_observation(obs)
        start = perf_counter()
        scale = amplitude_scale(obs)
        received = obs.received / scale
        statistics = pilot_statistics(obs, received)
        channel = least_squares_channel(statistics, obs.subcarrier_frequencies_hz)
        noise_variance = _least_squares_noise(obs, received, channel)
        inverse = np.linalg.pinv(statistics.coupling, hermitian=True)
        per_user = noise_variance * np.mean(np.real(np.einsum("nkk->kn", inverse)), axis=1)
        variance = np.broadcast_to(per_user[:, None, None], channel.shape)
        return result_from_channel(
            obs,
            channel * scale,
            noise_variance * scale**2,
            channel_variance=variance * scale**2,
            estimator="LeastSquares",
            seconds=perf_counter() - start,
        )


def _least_squares_noise(
    obs: UplinkObservation, received: NDArray[np.complex128], channel: NDArray[np.complex128]
) -> float:
    """Noise variance: as given, from the pilots' residual, or, where the fit is exact, between the paths."""
    problem = Problem.on_pilots(obs, received, amplitude_scale(obs))
    if problem.noise_known:
        return 1 / problem.noise_precision
    used = np.all(obs.known, axis=0)
    n_sub, n_antennas, _ = received.shape
    predicted = np.matmul(channel.transpose(1, 2, 0), obs.pilots.transpose(1, 0, 2))
    residual = (received - predicted) * used[:, None, :]
    freedom = n_antennas * (int(np.count_nonzero(used)) - n_sub * obs.n_users)
    if freedom > 0:
        return float(np.sum(np.abs(residual) ** 2) / freedom)
    return PathSearch.for_observation(obs).user_noise_level(
        problem.statistics.correlation, problem.user_energies
    )


@dataclass(frozen=True, eq=False)
class GenieLMMSE:
    """LMMSE detection with the true channel and noise: what no linear receiver can beat.

    Receivers that decide users jointly, as :class:`EMTurboBiSVBI` does where they are coupled, can.

    The one estimator that is given the truth; its channel and scene are the true ones.

    Parameters
    ----------
    truth : Truth
        Of the simulation that made the observation.

    Raises
    ------
    TypeError
        If ``truth`` has no channel.
    """

    truth: Truth

    def __post_init__(self) -> None:
        if not hasattr(self.truth, "channel"):
            raise TypeError(f"truth must be a simulation's truth, got {type(self.truth).__name__}")

    def estimate(self, obs: UplinkObservation, *, callback: Callback | None = None) -> EstimationResult:
        """Detect the data of the truth's own block; ``callback`` is never called.

        Raises
        ------
        ValueError
            If the truth belongs to a block of another shape.
        """
        del callback
        check_observation(obs)
        truth = self.truth
        expected = (obs.n_users, obs.n_subcarriers, obs.array.n_elements)
        if truth.channel.shape != expected:
            raise ValueError(
                f"truth.channel must have shape (K, N, M) = {expected}, got {truth.channel.shape}"
            )
        start = perf_counter()
        detection = detect(
            obs, obs.received, ChannelKnowledge(truth.channel), truth.noise_variance, joint=False
        )
        n_points = len(truth.scatterer_positions_m)
        probability, seen = np.ones(n_points), truth.visibility.astype(float)
        return EstimationResult(
            estimator="GenieLMMSE",
            channel=truth.channel,
            channel_variance=np.zeros(expected),
            scatterer_positions_m=truth.scatterer_positions_m,
            scatterer_probability=probability,
            scatterer_covariance_m2=np.zeros((n_points, 3, 3)),
            visibility_probability=seen,
            candidates=Candidates(truth.scatterer_positions_m, probability, seen),
            line_of_sight_probability=truth.line_of_sight.astype(float),
            unlocated_paths=truth.unlocated_paths,
            user_positions_m=truth.user_positions_m,
            user_position_covariance_m2=np.zeros((obs.n_users, 3, 3)),
            time_offsets_s=truth.time_offsets_s,
            time_offset_std_s=np.zeros(obs.n_users),
            noise_variance=truth.noise_variance,
            symbol_mean=detection.moments.mean,
            symbol_decision=detection.decision,
            llr=detection.llr,
            history=single_record(truth.noise_variance, int(truth.visibility.sum()), perf_counter() - start),
            converged=True,
            n_iter=1,
            status="finished",
        )
