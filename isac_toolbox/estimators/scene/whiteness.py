"""Whether what an estimate leaves of the samples is noise: over delay, direction, symbols and elements.

docs/theory.md, section 7.9.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import fdtrc, gdtrc

from isac_toolbox.channel.atoms.dense import through
from isac_toolbox.estimators.result import Misfit, MisfitAxis
from isac_toolbox.estimators.scene.clusters import Clusters
from isac_toolbox.estimators.scene.diffuse import Diffuse
from isac_toolbox.estimators.search import PathSearch
from isac_toolbox.estimators.symbols.block import ReceivedBlock
from isac_toolbox.estimators.symbols.statistics import SymbolMoments, error_moments

__all__ = ["FittedBlock", "whiteness"]

RealArray = NDArray[np.float64]
ComplexArray = NDArray[np.complex128]
BoolArray = NDArray[np.bool_]

# Tuned: mean posterior variance of an OFDM symbol's data (of unit energy) above which they are left out.
_UNCERTAIN = 0.05
# Cost cap: snapshots of the array, per element; more make a common direction little clearer.
_SNAPSHOTS_PER_ELEMENT = 4
# Cost cap: samples whose residual is held at once, so that a cache holds it.
_MOST_SAMPLES = 2**16
# Cost cap: elements from which on the largest eigenvalue of a covariance is sought alone.
_MANY_ELEMENTS = 128
# Guard: its relative error, far below what chance makes of it.
_EIGENVALUE_ERROR = 1e-6
# Guard: residual relative to the samples' power (-70 dB) below which any fit is good.
_NEGLIGIBLE = 1e-7
# Mathematics: eigenvalues of a Gram matrix relative to its largest below which signals are dependent.
_DEPENDENT = 1e-9
# Mathematics: shape, scale and shift of the Gamma law that stands for the Tracy-Widom law (complex case).
_TRACY_WIDOM = (79.6595, 0.101037, 9.81961)


@dataclass(frozen=True, eq=False)
class FittedBlock:
    """A scaled block and what an estimator makes of it.

    Attributes
    ----------
    block : ReceivedBlock
    channel : ndarray of complex, shape (K, N, M)
        Posterior mean, in the scale of the block.
    moments : SymbolMoments
        Of the symbols (K, N, T).
    n_fitted : float
        Complex parameters that were fitted to the samples.
    diffuse : Diffuse or Clusters, optional
        Diffuse part of the channel, on the lengths of the search.
    """

    block: ReceivedBlock
    channel: ComplexArray
    moments: SymbolMoments
    n_fitted: float
    diffuse: Diffuse | Clusters | None = None

    @cached_property
    def elements(self) -> BoolArray:
        """Elements with samples, shape (M,)."""
        masks = self.block.masks
        return np.ones(self.channel.shape[2], bool) if masks is None else masks.elements

    @cached_property
    def used(self) -> BoolArray:
        """Cells that are judged, shape (N, T): those of pilots, and OFDM symbols whose data are decided."""
        data = ~self.block.known & self.block.has_samples
        count = np.maximum(np.sum(data, axis=(0, 1)), 1)
        doubt = np.sum(self.moments.variance * data, axis=(0, 1)) / count
        certain = (doubt < _UNCERTAIN) | np.all(self.block.known, axis=0)
        return np.asarray(certain & self.block.has_samples)

    def symbol_errors(self, part: slice) -> ComplexArray:
        """``E[conj(e_k) e_j]`` of the symbols' errors in used cells of subcarriers, shape (N', T, K, K)."""
        errors, masks = error_moments(self.moments.on_subcarriers(part), self.used[part]), self.block.masks
        return errors if masks is None else errors * masks.share()[part, :, None, None]

    @cached_property
    def counts(self) -> tuple[RealArray, RealArray]:
        """Samples that are judged, of every OFDM symbol (T,) and of every element (M,)."""
        masks = self.block.masks
        if masks is None or masks.samples is None:
            of_cells = self.used.sum(axis=0, dtype=float)
            return np.count_nonzero(self.elements) * of_cells, self.elements * of_cells.sum()
        judged = masks.samples & self.used[:, None]
        return judged.sum(axis=(0, 1), dtype=float), judged.sum(axis=(0, 2), dtype=float)

    def residuals(
        self, mean: NDArray[np.complex64]
    ) -> Iterator[tuple[slice, NDArray[np.complex64], NDArray[np.complex64]]]:
        """Channel (N', K, M) of some subcarriers at a time, and what it leaves, ``y - H E[u]`` (N', M, T).

        The channel is zero on elements that are left out, the symbols (N, K, T) in such cells, and what is
        left where nothing is judged.
        """
        n_sub, n_elements, n_symbols = self.block.received.shape
        masks, step = self.block.masks, max(_MOST_SAMPLES // (n_elements * n_symbols), 1)
        judged = self.used[:, None]
        if masks is not None:
            judged = judged & (self.elements[:, None] if masks.samples is None else masks.samples)
        for first in range(0, n_sub, step):
            part = slice(first, first + step)
            channel = self.channel[:, part].astype(mean.dtype).transpose(1, 0, 2)
            channel[..., ~self.elements] = 0
            residual = self.block.received[part].astype(mean.dtype)
            residual -= np.matmul(channel.transpose(0, 2, 1), mean[part])
            if not self.used.all() or masks is not None:
                residual *= judged[part]
            yield part, channel, residual

    def times(self, found: _Factors) -> FittedBlock:
        """Return the block with its fit times factors."""
        factors, n_fitted = found.values, self.n_fitted + found.freedom
        if factors.ndim == 1 and self.diffuse is not None:
            return self  # the diffuse part has taken up what they explain
        if factors.ndim == 1:
            return replace(self, channel=self.channel * factors, n_fitted=n_fitted)
        moments = replace(self.moments, mean=self.moments.mean * factors.T[:, None])
        return replace(self, moments=moments, n_fitted=n_fitted)


def whiteness(fitted: FittedBlock, search: PathSearch) -> Misfit:
    """Return how far the residual of a fitted block is from white noise.

    What factors of every user and symbol, or of every element, explain of the residual is taken out of it
    before the rest is judged, the larger of the two first: it has delays and directions of its own.

    Parameters
    ----------
    fitted : FittedBlock
    search : PathSearch
        Of the block.
    """
    sums = _Sums.of(fitted)
    if sums.noise < _NEGLIGIBLE:
        return Misfit(*(_untold(part) for part in ("echoes", "colour", "rotation", "response")))
    found = {"rotation": _rotation(sums), "response": _response(sums, fitted, search)}
    first, second = sorted(found, key=lambda part: -found[part].surplus)
    if found[first].axis(first).fails:
        fitted = fitted.times(found[first])
        sums = _Sums.of(fitted)
        found[second] = _rotation(sums) if second == "rotation" else _response(sums, fitted, search)
    if found[second].axis(second).fails:
        sums = _Sums.of(fitted.times(found[second]))
    freed = sums.freedom / max(float(sums.n_symbols.sum()), 1.0)
    loud_symbol = _loudest(sums.of_symbols, sums.n_symbols, freed * sums.independent_share)
    loud_element = _loudest(sums.of_elements, sums.n_elements, freed)
    return Misfit(
        delay=_echoes(sums, search),
        direction=_colour(sums),
        time=_likelier(found["rotation"].axis("rotation"), loud_symbol),
        element=_likelier(found["response"].axis("response"), loud_element),
    )


@dataclass(frozen=True, eq=False)
class _Factors:
    """Factors of the fitted signal that leave the least residual, and how much less.

    Attributes
    ----------
    values : ndarray of complex, shape (T, K) or (M,)
    energy : float
        That they take from the residual, over its noise variance.
    freedom : float
        Complex degrees of freedom, those of the fit itself left out.
    rest : float
        The same of the residual.
    """

    values: ComplexArray
    energy: float
    freedom: float
    rest: float

    @property
    def surplus(self) -> float:
        """Energy beyond what noise has."""
        return self.energy - self.freedom

    def axis(self, part: str) -> MisfitAxis:
        """Return what there is to say."""
        if self.freedom < 1:
            return _untold(part)
        ratio = max(self.energy, 0.0) / self.freedom  # less than nothing is rounding
        return _axis(part, ratio, fdtrc(2 * self.freedom, 2 * self.rest, ratio))


@dataclass(frozen=True, eq=False)
class _Sums:
    """Sums over the residual ``r = y - H E[u]``; what is uncertain of the symbols counts in expectation.

    Attributes
    ----------
    of_symbols, n_symbols : ndarray, shape (T,)
        Energy of the residual in every OFDM symbol, and number of its samples.
    of_elements, n_elements : ndarray, shape (M,)
        The same on every element.
    correlation : ndarray of complex, shape (K, N, M)
        With the users' symbols, in single precision.
    grams : ndarray of complex, shape (N, K, K)
        Second moments of the users' symbols.
    in_time, gram_in_time : ndarray of complex, shapes (T, K) and (T, K, K)
        Correlation with every user's fitted signal in every OFDM symbol, and Gram matrices of the latter.
    snapshots : ndarray of complex, shape (C, M')
        Residual of cells on the elements in use, in single precision.
    n_fitted : float
    """

    of_symbols: RealArray
    n_symbols: RealArray
    of_elements: RealArray
    n_elements: RealArray
    correlation: NDArray[np.complex64]
    grams: ComplexArray
    in_time: ComplexArray
    gram_in_time: ComplexArray
    snapshots: NDArray[np.complex64]
    n_fitted: float

    @property
    def freedom(self) -> float:
        """Complex degrees of freedom of the residual, at least one."""
        return max(float(self.n_symbols.sum()) - self.n_fitted, 1.0)

    @property
    def energies(self) -> RealArray:
        """Of the users' symbols, shape (K, N)."""
        return np.real(np.einsum("nkk->kn", self.grams))

    @cached_property
    def noise(self) -> float:
        """Noise variance that the power of the residual stands for."""
        return max(float(self.of_symbols.sum()) / self.freedom, 1e-300)

    @cached_property
    def covariance(self) -> NDArray[np.complex64]:
        """Of the residual over the elements in use, of unit diagonal, shape (M', M')."""
        sums = self.snapshots.conj().T @ self.snapshots
        scale = 1 / np.sqrt(np.maximum(np.real(np.diagonal(sums)), np.finfo(np.float32).tiny))
        return np.asarray(scale[:, None] * sums * scale)

    @cached_property
    def independent_share(self) -> float:
        """Share of the elements that are independent of others, from the covariance's squared norm."""
        n, m = self.snapshots.shape
        together = float(np.linalg.norm(self.covariance)) ** 2 - m * m / n
        return min(m / max(together, 1.0), 1.0)

    def without(self, energy: float, freedom: float) -> tuple[float, float]:
        """Return noise variance and degrees of freedom of the residual without a part of it."""
        rest = max(self.freedom - freedom, 1.0)
        left = float(self.of_symbols.sum()) - energy
        return max(left / rest, 1e-300), rest

    @classmethod
    def of(cls, fitted: FittedBlock) -> _Sums:
        """Add up the residual of a fitted block, in single precision, whose rounding is far below noise."""
        used, there = fitted.used, fitted.elements
        mean = (fitted.moments.mean * used).astype(np.complex64).transpose(1, 0, 2)
        n_users, n_symbols = mean.shape[1:]
        stride = max(int(np.count_nonzero(used)) // (_SNAPSHOTS_PER_ELEMENT * there.size), 1)
        of_symbols, of_elements = np.zeros(used.shape[1]), np.zeros(there.size)
        in_time, correlation = (
            np.zeros(mean.shape[1:], complex),
            np.empty((len(mean), n_users, there.size), np.complex64),
        )
        lost = np.zeros((n_symbols, n_users, n_users), complex)
        gram_in_time, grams = np.zeros_like(lost), np.empty((len(mean), n_users, n_users), complex)
        snapshots = []
        for part, heard, residual in fitted.residuals(mean):
            power = residual.real**2 + residual.imag**2
            of_symbols += power.sum(axis=(0, 1), dtype=float)
            of_elements += power.sum(axis=(0, 2), dtype=float)
            matched = mean[part].conj() * np.matmul(heard.conj(), residual)
            in_time += matched.sum(axis=0, dtype=complex)
            by_cell = residual.transpose(0, 2, 1)
            correlation[part] = np.matmul(mean[part].conj(), by_cell)
            snapshots.append(_snapshots(by_cell, used[part], stride)[:, there])
            # what is uncertain of the symbols
            errors = fitted.symbol_errors(part)
            over_elements = np.matmul(heard.conj(), heard.transpose(0, 2, 1))
            over_symbols = errors.sum(axis=1)
            lost += np.einsum("nkj,ntkj->tkj", over_elements, errors)
            uncertain = np.matmul(over_symbols, heard)
            of_elements += np.real(np.sum(heard.conj() * uncertain, axis=(0, 1)))
            correlation[part] -= uncertain
            # what was sent
            by_symbol = mean[part].transpose(2, 0, 1)
            pairs = by_symbol.conj()[..., :, None] * by_symbol[..., None, :]
            gram_in_time += np.einsum("tnkj,nkj->tkj", pairs, over_elements, dtype=complex)
            grams[part] = np.sum(pairs, axis=0, dtype=complex) + over_symbols
        of_symbols += np.real(lost.sum(axis=(1, 2)))
        counts = fitted.counts
        return cls(
            of_symbols,
            counts[0],
            of_elements,
            counts[1],
            correlation.transpose(1, 0, 2),
            grams,
            in_time.T - lost.sum(axis=2),
            gram_in_time + lost,
            np.concatenate(snapshots),
            fitted.n_fitted,
        )


def _snapshots(by_cell: NDArray[np.complex64], used: BoolArray, stride: int) -> NDArray[np.complex64]:
    """Every so many used cells (N, T) of a residual (N, T, M), shape (C, M)."""
    cells = np.flatnonzero(used)[::stride]
    return by_cell[np.unravel_index(cells, used.shape)]


def _rotation(sums: _Sums) -> _Factors:
    """A factor for every user and OFDM symbol; one for all symbols of a user is the channel's."""
    information, matched = sums.gram_in_time, sums.in_time
    changes, energies, ranks = _least_squares(information, matched)
    _, common, rank = _least_squares(information.sum(axis=0)[None], matched.sum(axis=0)[None])
    energy, freedom = float(energies.sum() - common.sum()), float(ranks.sum() - rank.sum())
    noise, rest = sums.without(energy, freedom)
    return _Factors(1 + changes, energy / noise, freedom, rest)


def _response(sums: _Sums, fitted: FittedBlock, search: PathSearch) -> _Factors:
    """A factor of the paths' signal on every element; one for all is the channel's.

    A diffuse part is noise here, of the variance that its profile gives it on the signal: it would take up
    what differs from element to element, but not alike on all paths.
    """
    channel = fitted.channel if fitted.elements.all() else np.where(fitted.elements, fitted.channel, 0)
    correlation: ComplexArray | NDArray[np.complex64] = sums.correlation
    diffuse = fitted.diffuse
    if diffuse is not None:
        own = np.where(fitted.elements, diffuse.mean, 0)
        channel, correlation = channel - own, correlation + through(sums.grams, own)
    matched, information = np.zeros(channel.shape[2], complex), np.zeros(channel.shape[2])
    step = max(_MOST_SAMPLES // max(channel.shape[0] * channel.shape[2], 1), 1)
    for part in (slice(first, first + step) for first in range(0, channel.shape[1], step)):
        some = channel[:, part]
        sent = through(sums.grams[part], some)
        matched += np.einsum("knm,knm->m", some.conj(), correlation[:, part])
        information += np.einsum("knm,knm->m", some.conj(), sent).real
    variance = information.copy()
    if diffuse is not None:
        for profile, signal in zip(diffuse.profile, sums.energies[..., None] * channel, strict=True):
            variance += profile @ np.abs(diffuse.over_bins(search, signal)) ** 2 / sums.noise
    heard = information > _DEPENDENT * information.max(initial=0.0)
    matched, information, variance = matched[heard], information[heard], variance[heard]
    energy = float(np.sum(np.abs(matched) ** 2 / variance))
    weight = information / variance
    energy -= float(np.abs(weight @ matched) ** 2 / max(weight @ information, 1e-300))
    freedom = float(np.count_nonzero(heard) - 1)
    noise, rest = sums.without(energy if diffuse is None else 0.0, freedom)
    values = np.ones(heard.size, complex)
    values[heard] += matched / information
    return _Factors(values, energy / noise, freedom, rest)


def _least_squares(
    information: ComplexArray, matched: ComplexArray
) -> tuple[ComplexArray, RealArray, NDArray[np.int64]]:
    """Solutions (T, K) of ``A x = b``, energies ``b^H A^+ b`` and ranks (T,), with A Hermitian (T, K, K)."""
    values, vectors = np.linalg.eigh(information)
    told = values > _DEPENDENT * np.maximum(values[:, -1:], 1e-300)
    inside = np.matmul(vectors.conj().transpose(0, 2, 1), matched[..., None])[..., 0]
    scaled = np.where(told, inside / np.where(told, values, 1.0), 0)
    energy = np.sum(np.abs(scaled) ** 2 * values * told, axis=1)
    return np.matmul(vectors, scaled[..., None])[..., 0], energy, np.count_nonzero(told, axis=1)


def _echoes(sums: _Sums, search: PathSearch) -> MisfitAxis:
    """Power of a user's residual in windows of path length, of one bin and of one, two, four, ... cells."""
    search = search.over_a_period()
    n_elements = int(np.count_nonzero(sums.n_elements))
    n_independent = max(n_elements * sums.independent_share, 1.0)
    of_tones = sums.energies
    energies = of_tones.sum(axis=1)
    loud = energies > _DEPENDENT * energies.max()
    power = np.array([_power_over_lengths(search, own) for own, told in zip(sums.correlation, loud) if told])
    ratio = power / (sums.noise * n_elements * energies[loud, None])
    tones = energies[loud] ** 2 / np.sum(of_tones[loud] ** 2, axis=1) / of_tones.shape[1]
    total = np.concatenate([np.zeros((len(ratio), 1)), np.cumsum(ratio, axis=1)], axis=1)
    found = [(float(r.max()), n_independent) for r in ratio]
    n_looks = float(ratio.size)
    cells = 1
    while (width := round(cells * search.bins_per_free_cell)) < ratio.shape[1]:
        means = np.max(total[:, width:] - total[:, :-width], axis=1) / width
        found += [(float(r), n_independent * max(cells * t, 1.0)) for r, t in zip(means, tones, strict=True)]
        n_looks += ratio.size * min(2 / width, 1.0)
        cells *= 2
    chances = [float(fdtrc(2 * freedom, 2 * sums.freedom, r)) for r, freedom in found]
    best = int(np.argmin(chances))
    return _axis("echoes", found[best][0], n_looks * chances[best])


def _power_over_lengths(search: PathSearch, residual: NDArray[Any]) -> RealArray:
    """Power of a residual (N, M) on the lengths of a search, of some elements after others, shape (G,)."""
    n_lengths = search.lengths_m.size
    total, step = np.zeros(n_lengths), max(2 * _MOST_SAMPLES // n_lengths, 1)
    for part in (slice(first, first + step) for first in range(0, residual.shape[1], step)):
        amplitudes = search.over_lengths(residual[:, part])
        power = amplitudes.real**2
        power += amplitudes.imag**2
        total += np.sum(power, axis=1)
    return total


def _colour(sums: _Sums) -> MisfitAxis:
    """Largest eigenvalue of the residual's covariance over the array, relative to the edge of the noise's."""
    n, m = sums.snapshots.shape
    if m < 2 or n < 2:
        return _untold("colour")
    largest = n * _largest_eigenvalue(sums.covariance)
    edge = (np.sqrt(n) + np.sqrt(m)) ** 2
    width = (np.sqrt(n) + np.sqrt(m)) * (1 / np.sqrt(n) + 1 / np.sqrt(m)) ** (1 / 3)
    shape, unit, shift = _TRACY_WIDOM
    above = max((largest - edge) / width + shift, 0.0)
    return _axis("colour", largest / edge, gdtrc(1 / unit, shape, above))


def _largest_eigenvalue(covariance: NDArray[np.complex64]) -> float:
    """Largest eigenvalue of a Hermitian matrix (M, M), of a large one by Lanczos' iteration."""
    if len(covariance) > _MANY_ELEMENTS:
        from scipy.sparse.linalg import ArpackError, eigsh  # its import takes a tenth of a second

        start = np.ones(len(covariance), covariance.dtype)
        with suppress(ArpackError):
            options = {"k": 1, "which": "LA", "v0": start, "tol": _EIGENVALUE_ERROR}
            return float(eigsh(covariance, return_eigenvectors=False, **options)[0])
    return float(np.linalg.eigvalsh(covariance)[-1])


def _loudest(energy: RealArray, count: RealArray, share: float) -> MisfitAxis:
    """Power of the loudest of some parts of the residual, relative to the others.

    ``share`` is that of the samples that are degrees of freedom.
    """
    there = count > 0
    if np.count_nonzero(there) < 2:
        return _untold("power")
    own, others = share * count[there], share * (count.sum() - count[there])
    ratio = (energy[there] / own) / np.maximum((energy.sum() - energy[there]) / others, 1e-300)
    best = int(np.argmax((ratio - 1) * np.sqrt(own)))
    chance = fdtrc(2 * own[best], 2 * others[best], ratio[best])
    return _axis("power", float(ratio[best]), ratio.size * float(chance))


def _axis(part: str, ratio: float, chance: float) -> MisfitAxis:
    """What to say of a power ratio that noise reaches with a probability, or with one that is smaller."""
    return MisfitAxis(part, float(10 * np.log10(max(ratio, 1e-30))), float(min(chance, 1.0)))


def _untold(part: str) -> MisfitAxis:
    """What a block cannot tell."""
    return MisfitAxis(part, 0.0, 1.0)


def _likelier(*axes: MisfitAxis) -> MisfitAxis:
    """That of several looks at one axis which noise explains least; its chance counts all of them."""
    best = min(axes, key=lambda axis: (axis.p_value, -axis.excess_db))
    return replace(best, p_value=min(len(axes) * best.p_value, 1.0))
