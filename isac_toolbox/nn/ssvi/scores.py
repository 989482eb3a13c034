"""Removal scores of a Gaussian weight in closed form (docs/theory-ssvi.md, section 3)."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

__all__ = [
    "SCORES",
    "exp_mean",
    "exp_snr",
    "log_exp_mean",
    "magnitude",
    "mean_abs",
    "removal_score",
    "snr",
]

#: Smallest standard deviation that the scores divide by.
_TINY = 1e-30


def magnitude(mean: Tensor, sigma: Tensor) -> Tensor:
    """Return ``|mu|``, float64."""
    return mean.double().abs()


def snr(mean: Tensor, sigma: Tensor) -> Tensor:
    """Return ``|mu| / sigma``, float64.

    ``SNR(|w|) = E|w| / sd(|w|)`` is strictly increasing in this ratio, so both give the same order; this one
    is free of cancellation.
    """
    return mean.double().abs() / sigma.double().clamp(min=_TINY)


def mean_abs(mean: Tensor, sigma: Tensor) -> Tensor:
    """Return ``E|w| = mu erf(mu / (sqrt2 sigma)) + sigma sqrt(2/pi) exp(-mu^2 / (2 sigma^2))``, float64."""
    mu, sd = mean.double(), sigma.double().clamp(min=_TINY)
    ratio = mu / sd
    return mu * torch.erf(ratio / math.sqrt(2.0)) + sd * math.sqrt(2.0 / math.pi) * torch.exp(-0.5 * ratio**2)


def log_exp_mean(mean: Tensor, sigma: Tensor, rate: float) -> Tensor:
    """Return ``ln G(l)``, float64, with ``G(l) = E exp(l |w|)`` and the rate ``l``.

    ``G(l) = e^{l^2 sigma^2/2} (e^{l mu} Phi(mu/sigma + l sigma) + e^{-l mu} Phi(-mu/sigma + l sigma))``.
    """
    mu, sd = mean.double(), sigma.double().clamp(min=_TINY)
    ratio, shift = mu / sd, rate * sd
    upper = rate * mu + torch.special.log_ndtr(ratio + shift)
    lower = -rate * mu + torch.special.log_ndtr(-ratio + shift)
    return 0.5 * shift.square() + torch.logaddexp(upper, lower)


def exp_mean(mean: Tensor, sigma: Tensor, rate: float = 1.0) -> Tensor:
    """Return ``G(l) = E exp(l |w|)``, float64."""
    return torch.exp(log_exp_mean(mean, sigma, rate))


def exp_snr(mean: Tensor, sigma: Tensor, rate: float = 1.0) -> Tensor:
    """Return ``SNR(exp l|w|) = G(l) / sqrt(G(2l) - G(l)^2)``, float64.

    In float32 the difference cancels at small sigma; here it is ``expm1`` of a difference of logarithms in
    float64. At a fixed sigma this score *decreases* with ``|mu|``: it keeps the small weights.
    """
    gap = log_exp_mean(mean, sigma, 2.0 * rate) - 2.0 * log_exp_mean(mean, sigma, rate)
    return torch.expm1(gap.clamp(min=1e-16)).rsqrt()


#: Scores by name; the lowest are removed. Those with a rate take it as third argument.
SCORES: dict[str, Callable[..., Tensor]] = {
    "magnitude": magnitude,
    "snr": snr,
    "mean_abs": mean_abs,
    "exp_mean": exp_mean,
    "exp_snr": exp_snr,
}


def removal_score(name: str, mean: Tensor, sigma: Tensor | None, rate: float = 1.0) -> Tensor:
    """Return the score of every weight, ``|mu|`` for a point estimate (without a sigma)."""
    if sigma is None:
        return magnitude(mean, mean)
    return SCORES[name](mean, sigma, rate) if name.startswith("exp") else SCORES[name](mean, sigma)
