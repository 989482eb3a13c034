"""The diffuse part of a channel: white over the array, with a learned power-delay profile for every user.

docs/theory.md, section 5.8.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_factor, cho_solve

from isac_toolbox.channel.array import SPEED_OF_LIGHT_M_S
from isac_toolbox.estimators.scene.fit import Fit, residual_correlation
from isac_toolbox.estimators.search import PathSearch
from isac_toolbox.inference.posterior import expected_residual

__all__ = ["Diffuse"]

RealArray = NDArray[np.float64]
ComplexArray = NDArray[np.complex128]
IntArray = NDArray[np.int64]

# Tuned: updates of a profile that begins flat; it settles in eight to ten.
_FIRST_ROUNDS = 12
# Tuned: updates of the profile in every iteration after that.
_ROUNDS = 3
# Cost cap: bins of a profile, the strongest; a round takes a Cholesky factor of as many.
_MAX_BINS = 512
# Guard: power of a bin relative to the strongest below which it is empty.
_EMPTY = 1e-9
# Guard: noise variance relative to the mean power of the samples below which it is rounding.
_LEAST_NOISE = 1e-14


@dataclass(frozen=True, eq=False)
class Diffuse:
    """Diffuse channels under their profiles: a Wiener filter over delay of what the paths leave.

    Attributes
    ----------
    lengths_m : ndarray, shape (G,)
        Bins of path length, two a resolution cell.
    profile : ndarray, shape (K, G)
        Mean power of a channel entry from every bin.
    mean : ndarray of complex, shape (K, N, M)
        Posterior mean channel.
    variance : ndarray, shape (K, N)
        Posterior variance of an entry.
    noise_variance : float
        Of a scaled sample, with the diffuse part out of it.
    floor : ndarray, shape (K, G)
        Noise and diffuse power in a matched-filter spectrum.
    n_determined : float
        Complex parameters that the samples determine.
    """

    lengths_m: RealArray
    profile: RealArray
    mean: ComplexArray
    variance: RealArray
    noise_variance: float
    floor: RealArray
    n_determined: float

    @classmethod
    def start(cls, fit: Fit, search: PathSearch, noise_variance: float) -> Diffuse:
        """Learn the diffuse part of what a fit leaves, from the noise variance between the paths."""
        statistics = fit.problem.statistics
        n_users, n_tones, n_antennas = statistics.cross_correlation.shape
        nothing = np.zeros((n_users, search.lengths_m.size))
        diffuse = cls(
            search.lengths_m,
            nothing,
            np.zeros((n_users, n_tones, n_antennas), complex),
            np.zeros((n_users, n_tones)),
            noise_variance,
            nothing + noise_variance,
            0.0,
        )
        residual = residual_correlation(fit)
        energies = statistics.user_energies
        for k in range(n_users):
            matched = np.sum(np.abs(search.over_lengths(residual[k])) ** 2, axis=1) / _n_heard(fit)
            excess = matched / energies[k] - noise_variance
            nothing[k] = np.maximum(excess, 0.1 * noise_variance) / energies[k]
        return replace(diffuse, profile=nothing).learned(fit, search, _FIRST_ROUNDS)

    def learned(self, fit: Fit, search: PathSearch, n_rounds: int = _ROUNDS) -> Diffuse:
        """Renew the diffuse part for what a fit leaves: filter, then profiles and noise, in turn."""
        current = self._on_grid(search)
        residual = residual_correlation(fit)
        for _ in range(n_rounds):
            current = current._round(fit, search, residual)
        return current

    def filtered(self, fit: Fit, search: PathSearch) -> Diffuse:
        """Return the diffuse part of what a fit leaves under the present profiles and noise."""
        again = self._on_grid(search)._round(fit, search, residual_correlation(fit))
        return replace(again, profile=self.profile, noise_variance=self.noise_variance)

    def _on_grid(self, search: PathSearch) -> Diffuse:
        """The same on the bins of another search."""
        lengths = search.lengths_m
        if lengths.size == self.lengths_m.size and lengths[0] == self.lengths_m[0]:
            return self
        density = [np.interp(lengths, self.lengths_m, p, left=0, right=0) for p in self.profile]
        return replace(self, lengths_m=lengths, profile=np.array(density))

    def _round(self, fit: Fit, search: PathSearch, residual: ComplexArray) -> Diffuse:
        """One user after another: the posterior of its bins given the others, then its profile."""
        statistics = fit.problem.statistics
        gram = statistics.symbol_gram
        precision = 1 / self.noise_variance
        profile, mean = self.profile.copy(), self.mean.copy()
        variance, floor = np.zeros_like(self.variance), np.empty_like(self.floor)
        n_heard = _n_heard(fit)
        lag = np.arange(self.lengths_m.size)
        left = residual - _through(gram, mean)
        determined = spread = 0.0
        for k in range(len(mean)):
            energy = np.real(gram[:, k, k])
            own = left[k] + energy[:, None] * mean[k]
            overlap = _overlap(search, energy, lag)
            bins = _occupied(profile[k])
            within = overlap[bins[:, None], bins]
            root = np.sqrt(profile[k, bins])
            scaled = precision * root[:, None] * within * root
            scaled.flat[:: bins.size + 1] += 1
            factor = cho_factor(scaled, lower=True)
            matched = precision * root[:, None] * search.over_lengths(own)[bins]
            inverse = cho_solve(factor, np.eye(bins.size, dtype=complex))
            amplitudes = root[:, None] * (inverse @ matched)
            covariance = root[:, None] * inverse * root
            response = search.responses(bins)
            change = response @ amplitudes - mean[k]
            mean[k] += change
            left -= np.moveaxis(gram[:, :, k], 1, 0)[:, :, None] * change
            variance[k] = np.real(np.sum((response @ covariance) * response.conj(), axis=1))
            spread += n_heard * float(np.sum(energy * variance[k]))
            determined += n_heard * (bins.size - float(np.real(np.trace(inverse))))
            power = np.sum(np.abs(amplitudes) ** 2, axis=1) / n_heard
            profile[k] = 0
            share = 1 - np.real(np.diagonal(inverse))
            profile[k, bins] = power / np.maximum(share, _EMPTY)
            floor[k] = (np.abs(overlap[:, bins]) ** 2 @ profile[k, bins]) / energy.sum()
        noise = self._noise(fit, residual, left, mean, spread)
        return replace(
            self,
            profile=profile,
            mean=mean,
            variance=variance,
            noise_variance=noise,
            floor=floor + noise,
            n_determined=determined,
        )

    def _noise(
        self, fit: Fit, residual: ComplexArray, left: ComplexArray, mean: ComplexArray, spread: float
    ) -> float:
        """Noise variance from what paths and diffuse part leave together; as given where it is known."""
        if fit.problem.noise_known:
            return self.noise_variance
        statistics = fit.problem.statistics
        remains = expected_residual(statistics.energy, fit.gram, fit.correlation, fit.posterior)
        remains += spread - float(np.real(np.vdot(mean, residual + left)))
        power = statistics.energy / statistics.n_observations
        return max(remains / statistics.n_observations, _LEAST_NOISE * power)

    @property
    def power(self) -> RealArray:
        """Mean power of a channel entry, shape (K,)."""
        return np.asarray(self.profile.sum(axis=1))

    @property
    def delays_s(self) -> RealArray:
        """Delays of the bins, shape (G,)."""
        return self.lengths_m / SPEED_OF_LIGHT_M_S

    @property
    def entry_variance(self) -> RealArray:
        """Posterior variance of a channel entry, mean over subcarriers, shape (K,)."""
        return np.asarray(self.variance.mean(axis=1))

    def noise_at(self, fit: Fit) -> RealArray:
        """Variance of noise and diffuse part that each path of a fit sees at its delay, shape (L,)."""
        step = self.lengths_m[1] - self.lengths_m[0] if self.lengths_m.size > 1 else 1.0
        index = np.rint((fit.parameters.length_m - self.lengths_m[0]) / step)
        bins = np.clip(index, 0, self.lengths_m.size - 1).astype(np.int64)
        return np.asarray(self.floor[fit.paths.user, bins])


def _n_heard(fit: Fit) -> int:
    """Number of elements with samples."""
    return int(fit.problem.receiver.n_elements)


def _through(gram: ComplexArray, channel: ComplexArray) -> ComplexArray:
    """``sum_j R[k, j] H_j``, shape (K, N, M)."""
    return np.asarray(np.matmul(gram, channel.transpose(1, 0, 2)).transpose(1, 0, 2))


def _overlap(search: PathSearch, energy: RealArray, lag: IntArray) -> ComplexArray:
    """``sum_n conj(b_ng) R_n b_nh`` of all bins, shape (G, G)."""
    along = np.multiply.outer(lag * search.length_step_m, search.receiver.wavenumbers_per_m)
    column = np.exp(1j * along) @ energy
    both = np.concatenate([column[:0:-1].conj(), column])
    return np.asarray(both[lag[:, None] - lag + lag.size - 1])


def _occupied(profile: RealArray) -> IntArray:
    """Bins that hold power, in their order."""
    strongest = np.argsort(-profile, kind="stable")[:_MAX_BINS]
    return np.sort(strongest[profile[strongest] > _EMPTY * profile.max(initial=0.0)])
