"""A result from a channel estimate alone: the door for methods that know no scene."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from isac_toolbox._validation import as_array, check_finite, check_non_negative, check_shape
from isac_toolbox.channel.observation import UplinkObservation
from isac_toolbox.estimators.result import EstimationResult
from isac_toolbox.estimators.scene.assemble import Outcome, build_result
from isac_toolbox.estimators.scene.caveats import taken_as_static
from isac_toolbox.estimators.scene.channel_estimate import ChannelEstimate
from isac_toolbox.estimators.scene.scene_estimate import SceneEstimate
from isac_toolbox.estimators.scene.silence import without_zeros
from isac_toolbox.estimators.symbols.detection import ChannelKnowledge, detect

__all__ = ["check_observation", "result_from_channel"]


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
        Error variance of the estimate. Detection takes its mean over each user's entries on elements that are
        not masked as white noise beside the noise; zero takes the channel for exact.
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

    obs, block, warnings = without_zeros(obs)
    scale = block.scale
    white = (variance[..., obs.usable_elements] / scale**2).mean(axis=(1, 2))
    knowledge = ChannelKnowledge(np.divide(h, scale), white_variance=white)
    detection = detect(block, knowledge, float(noise) / scale**2, joint)
    estimate = ChannelEstimate(h, variance, float(noise))
    said = [*warnings, *taken_as_static(obs)]
    outcome = Outcome.finished(float(noise), n_users, seconds, said)
    return build_result(estimator, estimate, SceneEstimate.unknown(obs), detection, outcome)


def check_observation(obs: object) -> None:
    """Refuse anything but an observation."""
    if not isinstance(obs, UplinkObservation):
        raise TypeError(f"obs must be an UplinkObservation, got {type(obs).__name__}")
