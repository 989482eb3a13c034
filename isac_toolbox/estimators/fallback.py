"""The plain receiver's answer where a model explains the data worse than it does."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from isac_toolbox.channel.observation import UplinkObservation
from isac_toolbox.estimators.result import EstimationResult
from isac_toolbox.inference.turbo import FAILED, TIME_LIMIT

__all__ = ["FELL_BACK", "better_of", "failed_over"]

FELL_BACK = "fell back to least squares"

_WARNING = (
    "no scene explains the samples as well as least squares does, whose channel, data and noise these are; "
    "scatterers, users and clocks are not to be relied on (motion, hardware, diffuse echoes, or wrong "
    "knowledge of array, frequencies or region)"
)


def better_of(obs: UplinkObservation, result: EstimationResult, plain: EstimationResult) -> EstimationResult:
    """Return a result, or one with the channel and data of a plain method that explains the samples better.

    Parameters
    ----------
    obs : UplinkObservation
    result : EstimationResult
        Of a model.
    plain : EstimationResult
        Of least squares.

    Returns
    -------
    EstimationResult
        Where the plain one is better, scatterers are at most as likely as not.
    """
    if _expected_error(obs, result) <= _expected_error(obs, plain):
        return result
    return replace(
        result,
        channel=plain.channel,
        channel_variance=plain.channel_variance,
        noise_variance=plain.noise_variance,
        symbol_mean=plain.symbol_mean,
        symbol_decision=plain.symbol_decision,
        llr=plain.llr,
        evolution=None,
        scatterer_probability=np.minimum(result.scatterer_probability, 0.5),
        candidates=replace(
            result.candidates,
            scatterer_probability=np.minimum(result.candidates.scatterer_probability, 0.5),
        ),
        converged=False,
        status=result.status if result.status == TIME_LIMIT else FELL_BACK,
        warnings=(*result.warnings, _WARNING),
    )


def failed_over(plain: EstimationResult, estimator: str) -> EstimationResult:
    """Return the plain method's result where an estimator found no numbers at all."""
    return replace(
        plain,
        estimator=estimator,
        converged=False,
        status=FAILED,
        warnings=(
            *plain.warnings,
            "the estimate failed numerically; channel and data are those of least squares",
        ),
    )


def _fitted(result: EstimationResult) -> NDArray[np.complex128]:
    """Samples (N, M, T) as channel and data explain them."""
    if result.evolution is None:
        return np.einsum("knm,knt->nmt", result.channel, result.symbol_mean)
    sent = enumerate(np.moveaxis(result.symbol_mean, 2, 0))
    return np.stack([np.einsum("knm,kn->nm", result.channel_at([t])[..., 0], u) for t, u in sent], axis=2)


def _expected_error(obs: UplinkObservation, result: EstimationResult) -> float:
    """Mean squared residual of the samples with data, or what stands for it where there are none."""
    data = ~np.all(obs.known, axis=0)
    if not data.any():
        return float(np.mean(np.sum(result.channel_variance, axis=0))) + result.noise_variance
    squared = np.abs(obs.received - _fitted(result)) ** 2
    if obs.usable is not None:
        squared *= obs.usable
    return float(np.mean(np.sum(squared, axis=1)[data]))
