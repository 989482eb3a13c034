"""The diffuse part of a channel: white over the array, with a learned power-delay profile for every user.

docs/theory.md, section 5.8.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import matmul_toeplitz
from scipy.linalg.lapack import zpotrf, zpotri

from isac_toolbox.channel.array import SPEED_OF_LIGHT_M_S
from isac_toolbox.channel.atoms.dense import Statistics, through
from isac_toolbox.channel.atoms.whitening import Whitening
from isac_toolbox.estimators.scene.fit import Fit
from isac_toolbox.estimators.search import PathSearch

__all__ = ["Diffuse", "Left", "crossing_of", "posterior_of"]

RealArray = NDArray[np.float64]
ComplexArray = NDArray[np.complex128]
IntArray = NDArray[np.int64]

# Tuned: updates of a profile that begins flat; it settles in six to eight.
_FIRST_ROUNDS = 8
# Tuned: updates of the profile in every iteration after that.
_ROUNDS = 1
# Guard: power relative to the noise that an empty bin begins with, so that it may fill.
_LEAST_START = 0.1
# Cost cap: bins of a profile, the strongest; a round takes a Cholesky factor of as many.
_MAX_BINS = 512
# Guard: power of a bin relative to the noise (-30 dB) below which it is empty, and stays so.
_EMPTY = 1e-3
# Guard: medians over directions of a diffuse part by which chance does not go below its mean.
_MEDIAN_MARGIN = 1.5
# Guard: share of a bin's power that the samples determine, where rounding may leave none.
_LEAST_SHARE = 1e-9
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
    def start(cls, fit: Fit, statistics: Statistics, search: PathSearch, noise_variance: float) -> Diffuse:
        """Learn the diffuse part of what a fit leaves of the statistics.

        ``noise_variance`` is that found between the paths, to begin with.
        """
        left = Left.of(fit, statistics)
        excess = search.power_over_lengths(left.residual) / fit.problem.receiver.n_elements
        energies = statistics.user_energies[:, None]
        excess = np.maximum(excess / energies - noise_variance, _LEAST_START * noise_variance)
        n_users, n_tones, _ = left.residual.shape
        begun = cls(
            search.lengths_m,
            excess / energies,
            np.zeros_like(left.residual),
            np.zeros((n_users, n_tones)),
            noise_variance,
            np.full(excess.shape, noise_variance),
            0.0,
        )
        return begun._settled(left, search, _FIRST_ROUNDS)

    def renewed(self, fit: Fit, statistics: Statistics, search: PathSearch) -> Diffuse:
        """Renew the diffuse part for what a fit leaves: filter, then profiles and noise, in turn."""
        return self._on_grid(search)._settled(Left.of(fit, statistics), search, _ROUNDS)

    def filtered(self, fit: Fit, statistics: Statistics, search: PathSearch) -> Diffuse:
        """Return the diffuse part of what a fit leaves under the present profiles and noise."""
        again = self._on_grid(search)._settled(Left.of(fit, statistics), search, 1)
        return replace(again, profile=self.profile, noise_variance=self.noise_variance, floor=self.floor)

    def _on_grid(self, search: PathSearch) -> Diffuse:
        """The same on the bins of another search."""
        lengths = search.lengths_m
        if lengths.size == self.lengths_m.size and lengths[0] == self.lengths_m[0]:
            return self
        profile = [np.interp(lengths, self.lengths_m, p, left=0, right=0) for p in self.profile]
        return replace(self, lengths_m=lengths, profile=np.array(profile))

    def _settled(self, left: Left, search: PathSearch, n_rounds: int) -> Diffuse:
        """Alternate between the channels of all users and the noise."""
        energies = np.real(np.einsum("nkk->kn", left.statistics.symbol_gram))
        overlaps = [search.overlap(energy) for energy in energies]
        current = self
        for _ in range(n_rounds):
            current = current._round(left, search, energies, overlaps)
        return current._without_paths(left, search)

    def _without_paths(self, left: Left, search: PathSearch) -> Diffuse:
        """The same with a floor no higher than the median over directions, which a path missed leaves low."""
        if not search.tells_directions:
            return self
        own = left.residual - self.crossing(left.statistics.symbol_gram)
        spectra = search.spectra(own, left.n_elements * left.statistics.user_energies)
        medians = np.array([search.levels(spectrum) for spectrum in spectra])
        most = np.maximum(_MEDIAN_MARGIN * medians, self.noise_variance)
        return replace(self, floor=np.minimum(self.floor, most))

    def _round(
        self, left: Left, search: PathSearch, energies: RealArray, overlaps: list[ComplexArray]
    ) -> Diffuse:
        """One user after another: the posterior of its bins given the others, then its profile."""
        gram = left.statistics.symbol_gram
        profile, mean = np.zeros_like(self.profile), self.mean.copy()
        variance, floor = np.zeros_like(self.variance), np.empty_like(self.profile)
        remains = left.residual - through(gram, mean)
        determined = 0.0
        for k, (energy, overlap) in enumerate(zip(energies, overlaps, strict=True)):
            own = remains[k] + energy[:, None] * mean[k]
            bins = _occupied(self.profile[k], _EMPTY * self.noise_variance / energy.sum())
            between = np.concatenate([overlap[:0:-1].conj(), overlap])  # by distance, from the most negative
            amplitudes, covariance, _ = posterior_of(
                between[bins[:, None] - bins + overlap.size - 1] / self.noise_variance,
                search.over_lengths(own)[bins] / self.noise_variance,
                self.profile[k, bins],
            )
            if left.whitening is not None and self.profile[k].any():
                doubt = float(self.variance[k].mean() / self.profile[k].sum())
                amplitudes = amplitudes @ left.whitening.share_of_white(min(doubt, 1.0)).T
            on_grid = np.zeros((overlap.size, amplitudes.shape[1]), complex)
            on_grid[bins] = amplitudes
            change = search.at_tones(on_grid) - mean[k]
            mean[k] += change
            remains -= gram[:, :, k].T[:, :, None] * change
            variance[k] = search.power_at_tones(covariance, bins)
            share = 1 - np.real(np.diagonal(covariance)) / self.profile[k, bins]
            determined += left.n_elements * float(np.sum(share))
            power = np.sum(np.abs(amplitudes) ** 2, axis=1) / left.n_elements
            profile[k, bins] = power / np.maximum(share, _LEAST_SHARE)
            floor[k] = matmul_toeplitz(np.abs(overlap) ** 2, profile[k]) / energy.sum()
        spread = left.n_elements * float(np.sum(energies * variance))
        noise = left.noise_variance(self.noise_variance, mean, remains, spread)
        return replace(
            self,
            profile=profile,
            mean=mean,
            variance=variance,
            noise_variance=noise,
            floor=floor + noise,
            n_determined=determined,
        )

    def crossing(self, gram: ComplexArray) -> ComplexArray:
        """Return what the diffuse parts of the other users add to each user's correlation, (K, N, M)."""
        return crossing_of(self.mean, gram)

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

    def paths_noise(self, fit: Fit, active: NDArray[np.bool_]) -> float:
        """Noise variance for the paths of a fit: the mean of what the active ones see."""
        seen = self.noise_at(fit)[active]
        return float(seen.mean()) if seen.size else self.noise_variance

    def rises(self, search: PathSearch) -> RealArray | None:
        """How far the diffuse part rises above the noise at every length, shape (K, G).

        None where there are too few directions to tell it from a path.
        """
        return self.floor / self.noise_variance if search.tells_directions else None

    def over_bins(self, search: PathSearch, signal: ComplexArray) -> ComplexArray:
        """Return ``sum_n conj(b_n) e_n`` of a signal (N, M) on the bins, shape (G, M)."""
        return search.over_lengths(signal)


@dataclass(frozen=True, eq=False)
class Left:
    """What the paths of a fit leave of the statistics.

    Attributes
    ----------
    statistics : Statistics
    residual : ndarray of complex, shape (K, N, M)
        Correlation.
    energy : float
        Expected energy, with the uncertainty of the gains.
    n_elements : int
        With samples.
    noise_known : bool
    whitening : Whitening, optional
        That the samples went through; the diffuse part was white before.
    """

    statistics: Statistics
    residual: ComplexArray
    energy: float
    n_elements: int
    noise_known: bool
    whitening: Whitening | None = None

    @classmethod
    def of(cls, fit: Fit, statistics: Statistics) -> Left:
        channel = fit.atoms.synthesise(fit.posterior.mean, len(statistics.cross_correlation))
        heard = fit.problem.receiver.element_mask
        if heard is not None:
            channel[..., ~heard] = 0
        residual = statistics.cross_correlation - through(statistics.symbol_gram, channel)
        explained = float(np.real(np.vdot(channel, statistics.cross_correlation + residual)))
        uncertain = float(np.real(np.vdot(fit.gram, fit.posterior.covariance)))
        energy = statistics.energy - explained + uncertain
        problem = fit.problem
        receiver = problem.receiver
        return cls(statistics, residual, energy, receiver.n_elements, problem.noise_known, receiver.whitening)

    def noise_variance(self, known: float, mean: ComplexArray, remains: ComplexArray, spread: float) -> float:
        """Noise variance from what the diffuse part leaves as well; the known one where it is known."""
        energy = self.energy + spread - float(np.real(np.vdot(mean, self.residual + remains)))
        return self.noise_of(known, energy)

    def energy_beside(self, channel: ComplexArray, spread: float) -> float:
        """Expected energy of what channels (K, N, M) of paths and clusters together leave."""
        correlation = self.statistics.cross_correlation
        remains = correlation - through(self.statistics.symbol_gram, channel)
        return self.statistics.energy + spread - float(np.real(np.vdot(channel, correlation + remains)))

    def noise_of(self, known: float, energy: float) -> float:
        """Noise variance of an expected energy of what is left; the known one where it is known."""
        if self.noise_known:
            return known
        power = self.statistics.energy / self.statistics.n_observations
        return max(energy / self.statistics.n_observations, _LEAST_NOISE * power)


def crossing_of(mean: ComplexArray, gram: ComplexArray) -> ComplexArray:
    """Return what channels (K, N, M) of the other users add to each user's correlation, (K, N, M)."""
    own = np.real(np.einsum("nkk->kn", gram))
    return np.asarray(through(gram, mean) - own[:, :, None] * mean)


def posterior_of(
    information: ComplexArray, matched: ComplexArray, power: RealArray
) -> tuple[ComplexArray, ComplexArray, float]:
    """Mean (B, M) and covariance (B, B) of amplitudes of prior powers (B,), and what these cost of evidence.

    The last is the log determinant of the prior covariance over the posterior's.
    """
    root = np.sqrt(power)
    if not root.size:
        return matched, information, 0.0
    scaled = root[:, None] * information * root
    scaled.flat[:: root.size + 1] += 1
    factor, _ = zpotrf(scaled, lower=True, clean=True)
    shrunk = 2 * float(np.sum(np.log(np.real(np.diagonal(factor)))))
    lower, _ = zpotri(factor, lower=True)  # zero above the diagonal, as the factor is
    inverse = lower + lower.conj().T
    inverse.flat[:: root.size + 1] /= 2
    covariance = root[:, None] * inverse * root
    return np.asarray(covariance @ matched), np.asarray(covariance), shrunk


def _occupied(profile: RealArray, least: float) -> IntArray:
    """Bins that hold power, in their order."""
    strongest = np.argsort(-profile, kind="stable")[:_MAX_BINS]
    return np.sort(strongest[profile[strongest] > least])
