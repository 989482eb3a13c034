"""A result from a channel estimate alone: the door for methods that know no scene."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from isac_toolbox._validation import as_array, check_finite, check_non_negative, check_shape
from isac_toolbox.channel.observation import UplinkObservation
from isac_toolbox.channel.paths import UnlocatedPaths
from isac_toolbox.estimators.result import Candidates, EstimationResult
from isac_toolbox.estimators.symbols.detection import ChannelKnowledge, detect
from isac_toolbox.estimators.symbols.statistics import amplitude_scale
from isac_toolbox.inference.turbo import History, IterationRecord

__all__ = ["check_observation", "result_from_channel", "single_record"]


def result_from_channel(
    obs: UplinkObservation,
    channel: ArrayLike,
    noise_variance: float,
    *,
    channel_variance: ArrayLike = 0.0,
    estimator: str = "channel only",
    joint: bool = False,
    seconds: float = 0.0,
) -> EstimationResult:
    """Detect the data under an estimated channel and fill in a result that knows no scene.

    No scatterers are reported; users and clocks stay nominal and lines of sight undecided.
    ``dataclasses.replace`` changes any field of the result afterwards.

    Parameters
    ----------
    obs : UplinkObservation
        The block that the channel was estimated from.
    channel : array_like of complex, shape (K, N, M)
        Channel estimate.
    noise_variance : float
        Per sample.
    channel_variance : array_like, shape (K, N, M) or one that broadcasts to it
        Error variance of the estimate. Detection takes its mean over each user's entries as white noise
        beside the noise; zero takes the channel for exact.
    estimator : str
        Name of the method.
    joint : bool
        Decide users jointly that a linear receiver cannot keep apart; else detect by unbiased LMMSE.
    seconds : float
        Time that the estimate took, for the history; zero if not measured.

    Returns
    -------
    EstimationResult

    Raises
    ------
    TypeError, ValueError
        For a wrong shape, a value that is not finite or a negative variance.

    See Also
    --------
    LeastSquares : Makes its result by this function.

    Notes
    -----
    Detection: docs/theory.md, section 5.6.

    Examples
    --------
    >>> import isac_toolbox as isac
    >>> sim = isac.Scenario.load("urban_uplink").simulate(seed=0)
    >>> first = isac.LeastSquares().estimate(sim.observation)
    >>> smoothed = first.channel.copy()
    >>> smoothed[:, 1:-1] = (smoothed[:, :-2] + smoothed[:, 1:-1] + smoothed[:, 2:]) / 3
    >>> res = isac.estimators.result_from_channel(sim.observation, smoothed, first.noise_variance)
    >>> res.llr.shape, res.scatterer_positions_m.shape
    ((3, 64, 16, 2), (0, 3))
    """
    check_observation(obs)
    n_users = obs.n_users
    shape = (n_users, obs.n_subcarriers, obs.array.n_elements)
    h: NDArray[np.complex128] = np.array(as_array("channel", channel, complex))
    check_shape("channel", h, shape, "(K, N, M)")
    check_finite("channel", h)
    variance = as_array("channel_variance", channel_variance, float)
    try:
        variance = np.ascontiguousarray(np.broadcast_to(variance, shape))
    except ValueError:
        raise ValueError(f"channel_variance must broadcast to {shape}, got shape {variance.shape}") from None
    noise = as_array("noise_variance", noise_variance, float)
    check_shape("noise_variance", noise, (), "scalar")
    for name, value in (("channel_variance", variance), ("noise_variance", noise)):
        check_finite(name, value)
        check_non_negative(name, value)

    scale = amplitude_scale(obs)
    knowledge = ChannelKnowledge(np.divide(h, scale), white_variance=variance.mean(axis=(1, 2)) / scale**2)
    detection = detect(obs, obs.received / scale, knowledge, float(noise) / scale**2, joint)
    nothing = Candidates(np.zeros((0, 3)), np.zeros(0), np.zeros((n_users, 0)))
    return EstimationResult(
        estimator=estimator,
        channel=h,
        channel_variance=variance,
        scatterer_positions_m=nothing.scatterer_positions_m,
        scatterer_probability=nothing.scatterer_probability,
        scatterer_covariance_m2=np.zeros((0, 3, 3)),
        visibility_probability=nothing.visibility_probability,
        candidates=nothing,
        line_of_sight_probability=np.full(n_users, 0.5),
        unlocated_paths=UnlocatedPaths.none(),
        user_positions_m=obs.user_positions_m,
        user_position_covariance_m2=obs.user_position_stds_m[:, :, None] ** 2 * np.eye(3),
        time_offsets_s=np.zeros(n_users),
        time_offset_std_s=np.array(obs.time_offset_stds_s),
        noise_variance=float(noise),
        symbol_mean=detection.moments.mean,
        symbol_decision=detection.decision,
        llr=detection.llr,
        history=single_record(float(noise), n_users, seconds),
        converged=True,
        n_iter=1,
        status="finished",
    )


def single_record(noise_variance: float, n_active: int, seconds: float) -> History:
    """History of a method without iterations: one row, no objective."""
    history = History()
    history.append(IterationRecord(float("nan"), noise_variance, n_active, seconds))
    return history


def check_observation(obs: object) -> None:
    """Refuse anything but an observation."""
    if not isinstance(obs, UplinkObservation):
        raise TypeError(f"obs must be an UplinkObservation, got {type(obs).__name__}")
