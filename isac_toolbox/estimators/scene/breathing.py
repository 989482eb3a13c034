"""Paths whose gains change over a block: bundles of rays with Doppler shifts of their own.

docs/theory.md, section 5.10.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from isac_toolbox.channel.atoms.dense import Statistics
from isac_toolbox.channel.atoms.frames import MovingAtoms
from isac_toolbox.estimators.scene.fit import Fit

__all__ = ["breathing"]

RealArray = NDArray[np.float64]
ComplexArray = NDArray[np.complex128]

# Tuned: updates of the spreads from where they begin; evidence changes little after that.
_ROUNDS = 10
# Prior: log odds against spreads for any user.
_SPREAD_NATS = 10.0
# Guard: power of a path relative to the strongest (-80 dB) below which it does not change.
_LEAST_POWER = 1e-8


@dataclass(frozen=True, eq=False)
class _Slopes:
    """What a fit leaves along the derivatives of its paths in their Doppler shifts.

    Attributes
    ----------
    information : ndarray of complex, shape (L, L)
        Gram matrix of the derivatives over the noise variance, in units of the paths' gains.
    left : ndarray of complex, shape (L,)
        Inner products with what the fit leaves, likewise.
    gain : ndarray, shape (L,)
        Magnitudes.
    user : ndarray of int, shape (L,)
    """

    information: ComplexArray
    left: ComplexArray
    gain: RealArray
    user: NDArray[np.int64]

    @classmethod
    def of(cls, fit: Fit, statistics: Statistics) -> _Slopes:
        atoms, gains = fit.atoms, fit.posterior.mean
        gram, inner = statistics.full_gram(atoms), statistics.correlate(atoms, derivatives=True)[-1]
        gain = np.abs(gains)
        gain = np.where(gain**2 > _LEAST_POWER * np.max(gain**2, initial=0.0), gain, 0.0)
        precision = fit.problem.noise_precision
        information = precision * gain[:, None] * gram[-1, -1] * gain
        left = precision * gain * (inner - gram[-1, 0] @ gains)
        return cls(information, left, gain, fit.paths.user)

    def posterior(self, spread_hz: RealArray) -> tuple[ComplexArray, ComplexArray, float]:
        """Mean (L,), covariance (L, L) and log evidence beside none of slopes of users' spreads (K,)."""
        root = spread_hz[self.user]
        inner = root[:, None] * self.information * root
        inner.flat[:: root.size + 1] += 1
        covariance = np.asarray(np.linalg.inv(inner), dtype=complex)
        mean = covariance @ (root * self.left)
        evidence = float(np.vdot(root * self.left, mean).real - np.linalg.slogdet(inner)[1])
        return root * mean, root[:, None] * covariance * root, evidence

    def spreads(self, start_hz: RealArray) -> RealArray:
        """Most probable spreads of the users from where they begin, shape (K,)."""
        spread_hz, heard = start_hz, self.gain > 0
        counts = np.bincount(self.user[heard], minlength=start_hz.size)
        for _ in range(_ROUNDS):
            mean, covariance, _ = self.posterior(spread_hz)
            power = (np.abs(mean) ** 2 + np.real(np.diagonal(covariance))) * heard
            spread_hz = np.sqrt(np.bincount(self.user, power, start_hz.size) / np.maximum(counts, 1))
        return spread_hz


def breathing(fit: Fit, statistics: Statistics) -> Fit:
    """Return a fit whose paths also have slopes over time, where these explain a block clearly better.

    ``gain(t) = x (1 + 2 j pi t s)`` with a complex slope ``s`` (Hz) whose variance is learned for every user;
    its real part is a shift of frequency, its imaginary part the beat of rays that cannot be told apart.

    Parameters
    ----------
    fit : Fit
    statistics : Statistics
        Of the block, with no slopes taken out.
    """
    prior = fit.problem.prior.motion
    if not isinstance(fit.atoms, MovingAtoms) or prior is None or not prior.further_std_hz > 0:
        return fit
    slopes = _Slopes.of(fit, statistics)
    if not np.any(slopes.gain):
        return fit
    spread_hz = slopes.spreads(np.full(len(fit.problem.prior.users_m), prior.further_std_hz / 2))
    mean, covariance, evidence = slopes.posterior(spread_hz)
    if evidence < _SPREAD_NATS:
        return fit
    determined = float(np.real(np.vdot(slopes.information, covariance)))
    gain, posterior = slopes.gain, fit.posterior.mean
    phase = np.where(gain > 0, posterior / np.where(gain > 0, np.abs(posterior), 1.0), 1.0)
    return replace(fit, slopes_hz=mean / phase, n_slopes=determined)
