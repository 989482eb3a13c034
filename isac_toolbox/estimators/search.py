"""Search for paths in a residual: matched filter over direction and delay, constant false-alarm rate."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from typing import Self

import numpy as np
from numpy.typing import NDArray
from scipy import fft

from isac_toolbox._threads import in_threads
from isac_toolbox.channel.array import AntennaArray, ArbitraryArray, UniformPlanarArray
from isac_toolbox.channel.atoms.whitening import Whitening
from isac_toolbox.estimators._search_kernels import local_maxima
from isac_toolbox.estimators.windows import OVERSAMPLING, LengthWindow

__all__ = ["BIN_VARIANCE", "PathSearch", "Spectrum", "beside"]

RealArray = NDArray[np.float64]
ComplexArray = NDArray[np.complex128]

# Mathematics: variance in squared resolution cells of a parameter that is known to a bin.
BIN_VARIANCE = 1 / (12 * OVERSAMPLING**2)
# Tuned: maxima below this share of the highest power (-5 dB) may be its sidelobes (-13 dB) and wait for the
# next round.
_SIDELOBE_FREE = 0.3
# Tuned: the same where the tones of a user have gaps, relative to their highest sidelobe.
_SIDELOBE_MARGIN = 1.5
# Mathematics: median of the exponential distribution of unit mean.
_EXPONENTIAL_MEDIAN = np.log(2.0)
# Cost cap: directions of a grid that the responses are tabulated on.
_MOST_DIRECTIONS = 2**14
# Cost cap: bins that a median is taken of, at least, where there are more; its standard error is then one per
# cent.
_MEDIAN_SAMPLES = 8192
# Cost cap: by how much products are faster, an operation, than transforms in single precision.
_FASTER_PRODUCTS = 5.0
# Guard: resolution cells whose median may stand for a level; of fewer a peak's main lobe fills too many.
_LEAST_CELLS = 32
# Guard: resolution cells in length over which diffuse power extends at least.
_LEAST_WINDOW_CELLS = 2
# Mathematics: standard errors of the mean of medians that chance does not reach in any window.
_DIFFUSE_STDS = 8.0
# Mathematics: standard errors of a median that chance does not reach in hundreds of them.
_ELEVATED_STDS = 5.0

Bins = tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]


@dataclass(frozen=True, eq=False)
class Spectrum:
    """Matched-filter power (G, G_h, G_v) of one user, and the noise level in it."""

    power: RealArray
    noise_level: float


@dataclass(frozen=True, eq=False)
class PathSearch(LengthWindow):
    """Matched filter on a grid of path lengths and direction cosines, oversampled twofold."""

    @property
    def _sidelobe_free(self) -> float:
        """Share of the highest power above which a maximum is no sidelobe of it."""
        sidelobe, array = self.sidelobe, self.receiver.array
        if isinstance(array, ArbitraryArray):
            sidelobe = max(sidelobe, array.highest_sidelobe)
        return max(_SIDELOBE_FREE, min(_SIDELOBE_MARGIN * sidelobe, 1.0))

    @cached_property
    def cosine_grids(self) -> tuple[RealArray, RealArray]:
        """Direction cosines of the bins, shapes (G_h,) and (G_v,); zero where none is seen."""
        array = self.receiver.array
        if not isinstance(array, UniformPlanarArray):
            return _even_cosines(array)
        grids = [
            np.asarray(np.fft.fftfreq(n) / d, dtype=np.float64)
            for n, d in zip(self._transform_shape(array), array.spacings, strict=True)
        ]
        return grids[0], grids[1]

    @staticmethod
    def _transform_shape(array: UniformPlanarArray) -> list[int]:
        """Bins of the transform along columns and rows."""
        return [OVERSAMPLING * n if n > 1 else 1 for n in array.shape]

    @cached_property
    def _beams(self) -> ComplexArray:
        """Conjugate responses towards the bins of an array without a transform, shape (M, G_h G_v)."""
        u_h, u_v = (grid.ravel() for grid in np.meshgrid(*self.cosine_grids, indexing="ij"))
        return self.receiver.array.steering_from_cosines(u_h, u_v).conj().T.copy()

    @cached_property
    def _visible(self) -> NDArray[np.bool_]:
        """Bins that are directions in front of the array, with a margin of one bin."""
        u_h, u_v = self.cosine_grids
        margin = max((1 / u.size for u in (u_h, u_v) if u.size > 1), default=0.0)
        return u_h[:, None] ** 2 + u_v**2 <= (1 + margin) ** 2

    @cached_property
    def _waves(self) -> tuple[ComplexArray, ComplexArray]:
        """Conjugate responses of columns (G_h, M_h) and rows (M_v, G_v) towards the bins."""
        array = self.receiver.array
        assert isinstance(array, UniformPlanarArray)
        columns, rows = (
            _waves(bins, n) for bins, n in zip(self._transform_shape(array), array.shape, strict=True)
        )
        return columns, np.ascontiguousarray(rows.T)

    @cached_property
    def _products_pay(self) -> bool:
        """Whether products over rows and columns cost less than a transform over the array."""
        array = self.receiver.array
        assert isinstance(array, UniformPlanarArray)
        (n_h, n_v), (bins_h, bins_v) = array.shape, self._transform_shape(array)
        products = 8 * (n_h * n_v * bins_v + bins_h * n_h * bins_v)
        transform = 5 * bins_h * bins_v * np.log2(max(bins_h * bins_v, 2))
        return bool(products < _FASTER_PRODUCTS * transform)

    @property
    def tells_directions(self) -> bool:
        """Whether directions are so many that a path in one of them hardly changes their mean power."""
        return self._visible_bins.size / OVERSAMPLING**2 >= _LEAST_CELLS

    @cached_property
    def _visible_bins(self) -> NDArray[np.int64]:
        """Flat indices of the visible bins, in an order that leaves no pattern to a stride."""
        return _shuffled(self._visible.tobytes())

    def spectrum(self, residual: ComplexArray, energy: float) -> RealArray:
        """Return matched-filter power ``|phi^H e|^2 / |phi|^2`` of a residual (N, M), shape (G, G_h, G_v).

        In the precision of the residual.
        """
        filtered = self._over_directions(self.over_lengths(residual))
        power = filtered.real**2
        power += filtered.imag**2
        per_bin = self._visible / power.dtype.type(energy)
        by_length = power.reshape(len(power), -1)
        by_length *= per_bin.ravel()
        if not self.receiver.is_plain:
            power *= self._loss.astype(power.dtype)
        return np.asarray(power)

    @cached_property
    def _loss(self) -> RealArray:
        """By how much less than otherwise a whitened array hears of directions of bins, (G_h, G_v)."""
        u_h, u_v = (grid.ravel() for grid in np.meshgrid(*self.cosine_grids, indexing="ij"))
        responses = self.receiver.heard(self.receiver.array.steering_from_cosines(u_h, u_v))
        if self.receiver.element_mask is not None:
            responses = responses[:, self.receiver.element_mask]
        power = np.sum(np.abs(responses) ** 2, axis=1)
        return np.asarray(responses.shape[1] / power).reshape([grid.size for grid in self.cosine_grids])

    def whitened(self, whitening: Whitening | None) -> Self:
        """Return the search in a block that was whitened."""
        if whitening is self.receiver.whitening:
            return self
        return replace(self, receiver=replace(self.receiver, whitening=whitening))

    def coupled(self, coupling: ComplexArray | None) -> Self:
        """Return the search with an array whose elements hear each other."""
        if coupling is self.receiver.coupling:
            return self
        return replace(self, receiver=replace(self.receiver, coupling=coupling))

    def _over_directions(self, columns: ComplexArray) -> ComplexArray:
        """``sum_m conj(a_m) c_m`` on the grids of cosines, shape (G, G_h, G_v), of columns (G, M)."""
        array = self.receiver.array
        columns = self.receiver.matched(columns).astype(columns.dtype, copy=False)
        if isinstance(array, UniformPlanarArray):
            if columns.dtype == np.complex128 or not self._products_pay:
                cube = columns.reshape(-1, *array.shape)
                return np.asarray(fft.fft2(cube, s=self._transform_shape(array), axes=(1, 2)))
            of_columns, of_rows = self._waves
            over_rows = columns.reshape(-1, array.shape[1]) @ of_rows
            return np.matmul(of_columns, over_rows.reshape(len(columns), array.shape[0], -1))
        beams = self._beams.astype(columns.dtype, copy=False)
        return np.asarray((columns @ beams).reshape(-1, *(grid.size for grid in self.cosine_grids)))

    def spectra(self, residual: ComplexArray, energies: RealArray) -> list[Spectrum]:
        """Return spectra of the users' residuals (K, N, M), in single precision, with their noise levels."""

        def spectrum(user: int) -> Spectrum:
            power = self.spectrum(residual[user].astype(np.complex64), energies[user])
            return Spectrum(power, self.noise_level(power))

        return in_threads(spectrum, range(len(residual)), residual.size)

    def noise_level(self, spectrum: RealArray) -> float:
        """Return the noise power in a spectrum from its median (an exponential law)."""
        inside = spectrum.ravel()[self._median_bins(len(spectrum))]
        middle = inside.size // 2
        return float(np.partition(inside, middle)[middle] / _EXPONENTIAL_MEDIAN)

    def _median_bins(self, n_lengths: int) -> NDArray[np.int64]:
        """Flat indices of the bins of a spectrum that its median is taken of."""
        made = vars(self).setdefault("_of_median", {})
        found: NDArray[np.int64] | None = made.get(n_lengths)
        if found is None:
            bins = self._visible_bins
            stride = max(bins.size * n_lengths // _MEDIAN_SAMPLES, 1)
            lengths = np.arange(0, n_lengths, min(stride, 2)) * self._visible.size
            found = made[n_lengths] = np.add.outer(lengths, bins[:: max(stride // 2, 1)]).ravel()
        return found

    @cached_property
    def _median_sidelobe(self) -> float:
        """Twice the median over directions of what a path between two bins shows, relative to its peak."""
        pattern, array = np.ones(1), self.receiver.array
        assert isinstance(array, UniformPlanarArray)
        for n, n_bins in zip(array.shape, self._transform_shape(array), strict=True):
            phase = 2 * np.pi * (np.arange(n_bins) + 0.5) / n_bins
            along = np.abs(np.exp(1j * np.multiply.outer(phase, np.arange(n))).sum(axis=1)) ** 2
            pattern = np.multiply.outer(pattern, along if n_bins > 1 else np.ones(1))
        return 2 * float(np.median(pattern) / pattern.max())

    def levels(self, spectrum: Spectrum) -> RealArray:
        """Return the noise power at every length, from the medians over directions, shape (G,)."""
        bins = self._visible_bins[:: 2 if self.tells_directions else 1]
        visible = spectrum.power.reshape(len(spectrum.power), -1)[:, bins]
        middle = bins.size // 2
        return np.asarray(np.partition(visible, middle, axis=1)[:, middle] / _EXPONENTIAL_MEDIAN)

    def shows_diffuse(self, spectra: Sequence[Spectrum]) -> bool:
        """Return whether power over all directions at some lengths rises above the noise, for any user.

        The medians over directions, less what sidelobes of the highest direction there explain, are averaged
        over windows of lengths; none exceeds the noise level by so many standard errors by chance
        (docs/theory.md, section 5.8). Arrays of any elements have sidelobes in all directions, and show none.
        """
        if not isinstance(self.receiver.array, UniformPlanarArray):
            return False
        return any(self._highest_rise(spectrum) > _DIFFUSE_STDS for spectrum in spectra)

    def _highest_rise(self, spectrum: Spectrum) -> float:
        """Largest rise of the medians over directions above the noise level, in standard errors."""
        highest_power = spectrum.power.reshape(len(spectrum.power), -1).max(axis=1)
        over_sidelobes = self.levels(spectrum) - self._median_sidelobe * highest_power / _EXPONENTIAL_MEDIAN
        ratio = over_sidelobes / max(spectrum.noise_level, 1e-300)
        total = np.concatenate([[0.0], np.cumsum(ratio - 1)])
        cells = max(self._visible_bins.size / OVERSAMPLING**2, 1.0) / self.bins_per_free_cell
        highest = 0.0
        width = _LEAST_WINDOW_CELLS * self._bins_per_cell
        while width < len(ratio):
            rise = float(np.max(total[width:] - total[:-width]))
            highest = max(highest, rise * _EXPONENTIAL_MEDIAN * np.sqrt(cells / width))
            width *= 2
        return highest

    def user_noise_level(self, residual: ComplexArray, energies: RealArray) -> float:
        """Return the noise power in the residual correlations (K, N, M) of all users."""
        levels = [s.noise_level for s in self.spectra(residual, energies)]
        return max(float(np.median(levels)), 1e-300)

    def threshold(self, noise_level: float, false_alarm_rate: float) -> float:
        """Return power that noise exceeds anywhere in the window with probability ``false_alarm_rate``."""
        n_cells = self.lengths_m.size * np.count_nonzero(self._visible)
        return float(noise_level * np.log(n_cells / false_alarm_rate))

    def detect(
        self,
        residual: ComplexArray,
        energies: RealArray,
        false_alarm_rate: float,
        room: NDArray[np.int64],
        noise_floor: float = 0.0,
        noise_level: float | None = None,
    ) -> tuple[RealArray, NDArray[np.int64], float]:
        """Find the paths of all users that a residual (K, N, M) shows above the noise.

        Parameters
        ----------
        residual : ndarray of complex, shape (K, N, M)
        energies : ndarray, shape (K,)
            Squared norms of the users' path atoms.
        false_alarm_rate : float
            Per user.
        room : ndarray of int, shape (K,)
            Largest number of new paths per user.
        noise_floor : float
            The noise level is not taken below this.
        noise_level : float, optional
            Known level; taken from the spectra's medians if not given.

        Returns
        -------
        parameters : ndarray, shape (P, 3)
        user : ndarray of int, shape (P,)
        noise_level : float
        """
        spectra = self.spectra(residual, energies)
        return self.detect_in(spectra, false_alarm_rate, room, noise_floor, noise_level)

    def detect_in(
        self,
        spectra: Sequence[Spectrum],
        false_alarm_rate: float,
        room: NDArray[np.int64],
        noise_floor: float = 0.0,
        noise_level: float | None = None,
        rises: RealArray | None = None,
    ) -> tuple[RealArray, NDArray[np.int64], float]:
        """Do the same as :meth:`detect` in spectra (K of them) that are there already.

        ``rises`` (K, G) says how far a diffuse part rises above the noise level at every length, at least 1.
        """
        if noise_level is None:
            noise_level = float(np.median([s.noise_level for s in spectra]))
        level = max(noise_level, noise_floor, 1e-300)
        threshold = self.threshold(level, false_alarm_rate)
        of_users = [None] * len(spectra) if rises is None else list(rises)
        found = [
            self._distinct(spectrum.power, threshold, level, rise)[:n]
            for spectrum, n, rise in zip(spectra, room, of_users, strict=True)
        ]
        user = np.repeat(np.arange(len(found)), [len(f) for f in found])
        return np.concatenate(found), user, level

    def _distinct(
        self, power: RealArray, threshold: float, level: float, rise: RealArray | None
    ) -> RealArray:
        """Peaks that stand out of their surroundings as far as the threshold does of the noise level."""
        if rise is None:
            bins = self._peak_bins(power, threshold)
            return self._at(bins)[power[bins] > threshold * self._excess_at(power, bins, level)]
        bins = self._peak_bins(beside(power, rise), threshold)
        excess = np.maximum(self._excess_at(power, bins, level), rise[bins[0]])
        return self._at(bins)[power[bins] > threshold * excess]

    def excess(self, power: RealArray, parameters: RealArray, level: float) -> RealArray:
        """Return how far the surroundings of paths (P, 3) rise above the noise level, shape (P,), at least 1.

        What a model without calibration errors, distortion or diffuse scattering leaves of a path is spread
        over all directions at its length or over all lengths in its direction. The medians of a spectrum (G,
        G_h, G_v) along both show it, as peaks fill few bins; medians that noise explains do not count.
        """
        return self._excess_at(power, self._nearest_bins(parameters), level)

    def _excess_at(self, power: RealArray, bins: Bins, level: float) -> RealArray:
        visible = self._visible_bins
        regular = isinstance(self.receiver.array, UniformPlanarArray)  # others fill directions with sidelobes
        over_directions = visible.size / OVERSAMPLING**2 if regular else 0.0
        over_lengths = len(power) / self._bins_per_cell
        excess = np.ones(bins[0].size)
        for i, (g, h, v) in enumerate(zip(*bins, strict=True)):
            here = _elevation(power[g].ravel()[visible], over_directions, level)
            along = _elevation(power[:, h, v], over_lengths, level)
            excess[i] = max(here, along)
        return excess

    def _nearest_bins(self, parameters: RealArray) -> Bins:
        """Bins of paths (length, u_h, u_v), shape (P, 3)."""
        lengths = self.lengths_m
        g = np.clip(np.rint((parameters[:, 0] - lengths[0]) / self.length_step_m), 0, lengths.size - 1)
        h, v = (
            np.rint((cosines - grid[0]) / (grid[1] - grid[0])) % grid.size
            if grid.size > 1
            else np.zeros(len(g))
            for cosines, grid in zip(parameters[:, 1:].T, self.cosine_grids, strict=True)
        )
        return g.astype(np.int64), h.astype(np.int64), v.astype(np.int64)

    def peaks(self, spectrum: RealArray, threshold: float) -> RealArray:
        """Return the local maxima (length, u_h, u_v) above the threshold, highest first, shape (P, 3).

        Maxima below ``_SIDELOBE_FREE`` times the highest may be its sidelobes and are left for another
        round; maxima closer than a resolution cell in every dimension count as one. Directions wrap around.
        """
        return self._at(self._peak_bins(spectrum, threshold))

    def _peak_bins(self, spectrum: RealArray, threshold: float) -> Bins:
        floor = max(threshold, self._sidelobe_free * float(spectrum.max(initial=0.0)))
        candidates = np.flatnonzero(spectrum >= max(floor, np.finfo(spectrum.dtype).tiny))
        is_peak = np.empty(candidates.size, bool)
        local_maxima(spectrum, candidates, OVERSAMPLING, is_peak)
        where = candidates[is_peak]
        order = np.argsort(-spectrum.ravel()[where], kind="stable")
        g, h, v = np.unravel_index(where[order], spectrum.shape)
        return g, h, v

    def _at(self, bins: Bins) -> RealArray:
        """(length, u_h, u_v) of bins, shape (P, 3)."""
        g, h, v = bins
        u_h, u_v = self.cosine_grids
        return np.column_stack([self.lengths_m[g], u_h[h], u_v[v]])


@lru_cache(maxsize=16)
def _waves(n_bins: int, n: int) -> ComplexArray:
    """Conjugate responses of n elements in a row towards bins, in single precision, shape (bins, n)."""
    return np.exp(-2j * np.pi * np.multiply.outer(np.arange(n_bins) / n_bins, np.arange(n))).astype("c8")


@lru_cache(maxsize=16)
def _shuffled(visible: bytes) -> NDArray[np.int64]:
    """Flat indices of visible bins in an order that leaves no pattern to a stride."""
    return np.random.default_rng(0).permutation(np.flatnonzero(np.frombuffer(visible, bool)))


def _even_cosines(array: AntennaArray) -> tuple[RealArray, RealArray]:
    """Even grids of direction cosines, oversampled twofold, for an array without a transform."""
    counts = [
        int(np.ceil(2 * OVERSAMPLING / cell)) + 1 if seen else 1
        for cell, seen in zip(array.cosine_cells, array.sees_cosines, strict=True)
    ]
    if counts[0] * counts[1] > _MOST_DIRECTIONS:
        raise ValueError(
            f"array: {array.description} is so wide that a search has {counts[0]} x {counts[1]} directions, "
            f"more than {_MOST_DIRECTIONS}; are the positions in wavelengths? Else give a part of it"
        )
    horizontal, vertical = (np.linspace(-1, 1, n) if n > 1 else np.zeros(1) for n in counts)
    return horizontal, vertical


def beside(power: RealArray, rise: RealArray) -> RealArray:
    """Return a spectrum (G, G_h, G_v) in units of what rises above the noise at every length (G,)."""
    return np.asarray(power / rise[:, None, None].astype(power.dtype))


def _elevation(power: RealArray, n_cells: float, level: float) -> float:
    """Median of a spectrum's bins over that of noise of a level; one where noise explains it."""
    if n_cells < _LEAST_CELLS:
        return 1.0
    middle = power.size // 2
    ratio = float(np.partition(power, middle)[middle]) / (_EXPONENTIAL_MEDIAN * level)
    return ratio if ratio > 1 + _ELEVATED_STDS / (_EXPONENTIAL_MEDIAN * np.sqrt(n_cells)) else 1.0
