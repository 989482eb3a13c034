"""An array that calibrates itself: its elements' responses from many blocks (docs/theory.md, section 6.9)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import numpy as np

from isac_toolbox.channel.element_response import ElementResponse
from isac_toolbox.channel.observation import UplinkObservation
from isac_toolbox.estimators.bisvbi import EMTurboBiSVBI
from isac_toolbox.estimators.result import EstimationResult
from isac_toolbox.estimators.symbols.joint_elements import posterior_of

__all__ = ["calibrate"]

# Tuned: share of the blocks in which an element is silent, above which it counts as dead.
_MOSTLY = 0.5


def calibrate(
    observations: Iterable[UplinkObservation],
    estimator: EMTurboBiSVBI | None = None,
    *,
    prior: ElementResponse | None = None,
) -> ElementResponse:
    """Learn the responses of an array's elements from many blocks of whatever users and scatterers there are.

    What is known after one block is the prior of the next. A block counts once: do not give it again.

    Parameters
    ----------
    observations : iterable of UplinkObservation
        Blocks of one array, in any scenes; taken one by one. What the first says of its elements is the
        prior, unless one is given.
    estimator : EMTurboBiSVBI, optional
        With its default settings if not given.
    prior : ElementResponse, optional
        From an earlier calibration; add to its covariance what may have drifted since.

    Returns
    -------
    ElementResponse
        ``left_out`` says which blocks were not learned from: those whose scene is not explained.

    Raises
    ------
    TypeError
        If there is something else among the observations, or another estimator.
    ValueError
        If there is no observation, arrays differ, elements may couple, or nothing says how uncertain
        they are.

    Notes
    -----
    docs/theory.md, section 6.9. Blocks count as independent, the errors of the users' stated places too.
    Common gain and phase, and slopes of the phases, are learned as far as the
    users' places tell them; of an array that may be turned (``array_rotation_std_rad``) slopes are not.
    Elements that are silent in most blocks are False in ``working``.

    Examples
    --------
    >>> import isac_toolbox as isac
    >>> scenario = isac.Scenario.load("urban_uplink").replace(snr_db=20.0, element_phase_std_rad=0.05)
    >>> blocks = [scenario.simulate(seed, receiver_seed=7).observation for seed in range(3)]
    >>> found = isac.calibrate(blocks[:2])
    >>> found.n_blocks, bool(found.phase_std_rad.mean() < 0.02)
    (2, True)
    >>> later = found.applied(blocks[2])
    """
    if estimator is None:
        estimator = EMTurboBiSVBI()
    elif not isinstance(estimator, EMTurboBiSVBI):
        raise TypeError(f"estimator must be an EMTurboBiSVBI, got {type(estimator).__name__}")
    if prior is not None and not isinstance(prior, ElementResponse):
        raise TypeError(f"prior must be an ElementResponse, got {type(prior).__name__}")
    present, left_out, n_silent = prior, [], np.zeros(0, np.int64)
    for number, obs in enumerate(observations):
        if not isinstance(obs, UplinkObservation):
            raise TypeError(f"observations[{number}] must be an UplinkObservation, got {type(obs).__name__}")
        if obs.hardware is not None and obs.hardware.coupling_std:
            raise ValueError(
                f"observations[{number}] must be without coupling_std: what elements hear of each other "
                "is not learned over blocks"
            )
        if present is None:
            present = _stated(obs)
        if not n_silent.size:
            n_silent = np.zeros(obs.array.n_elements, np.int64)
        result = estimator.estimate(present.applied(obs))
        reason = _not_explained(result)
        if reason:
            left_out.append(f"block {number}: {reason}")
            continue
        present = updated(present, result)
        n_silent[result.silent_elements] += 1
    if present is None:
        raise ValueError("observations must hold at least one block, got none")
    n_used = present.n_blocks - (0 if prior is None else prior.n_blocks)
    dead = n_silent > _MOSTLY * n_used if n_silent.size else ~present.working
    return replace(present, working=present.working & ~dead, left_out=(*present.left_out, *left_out))


def _stated(obs: UplinkObservation) -> ElementResponse:
    """What an observation says of its elements."""
    hardware = obs.hardware
    if hardware is None or not hardware.has_element_errors:
        raise ValueError(
            "observations must say how uncertain the elements are (element_gain_std, element_phase_std_rad), "
            "or a prior be given: there is nothing to calibrate otherwise"
        )
    return ElementResponse(hardware.response, hardware.element_covariance)


def _not_explained(result: EstimationResult) -> str:
    """Why nothing is learned from a block; empty where it is."""
    if result.misfit is not None and result.misfit.failing:
        return f"the residual is not noise over {', '.join(result.misfit.failing)}"
    if result.element_information is None:
        return result.status
    return ""


def updated(prior: ElementResponse, result: EstimationResult) -> ElementResponse:
    """Return the responses after one more block, whose result they were the prior of."""
    told = result.element_information
    assert told is not None
    mean, covariance = posterior_of(prior.covariance, told.matrix, told.vector)
    n_elements = prior.mean.size
    factor = np.exp(mean[:n_elements] + 1j * mean[n_elements:])
    return replace(prior, mean=prior.mean * factor, covariance=covariance, n_blocks=prior.n_blocks + 1)
