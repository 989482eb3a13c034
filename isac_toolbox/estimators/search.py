"""Search for paths in a residual: matched filter over direction and delay, constant false-alarm rate."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import product

import numpy as np
from numpy.typing import NDArray
from scipy import fft
from scipy.special import chdtri

from isac_toolbox.channel.array import (
    SPEED_OF_LIGHT_M_S,
    AntennaArray,
    ArbitraryArray,
    UniformPlanarArray,
)
from isac_toolbox.channel.atoms.receiver import Receiver, tone_step_hz
from isac_toolbox.channel.observation import UplinkObservation
from isac_toolbox.estimators._search_kernels import local_maxima

__all__ = ["PathSearch", "Spectrum", "beside"]

RealArray = NDArray[np.float64]
ComplexArray = NDArray[np.complex128]

# Cost cap: bins per resolution cell; scalloping costs at most 0.9 dB an axis.
_OVERSAMPLING = 2
# Mathematics: variance in squared resolution cells of a parameter that is known to a bin.
BIN_VARIANCE = 1 / (12 * _OVERSAMPLING**2)
# Tuned: maxima below this share of the highest power (-5 dB) may be its sidelobes (-13 dB) and wait for the
# next round.
_SIDELOBE_FREE = 0.3
# Tuned: the same where the tones of a user have gaps, relative to their highest sidelobe.
_SIDELOBE_MARGIN = 1.5
# Guard: coherence of two users' pilots at some length above which their paths are mistaken for each other.
_COHERENT_CODES = 0.5
# Cost cap: antennas whose powers over path length say where paths are.
_PROFILE_ANTENNAS = 16
# Guard: power over the median above which there is a path; noise of 16 antennas never reaches it.
_PROFILE_NOISE = 8.0
# Guard: share of a user's highest power above which a path is strong; sidelobes of the taper are at -31 dB.
_PROFILE_STRONG = 3e-3
# Guard: resolution cells that a window is wider than the strong paths.
_WINDOW_MARGIN = 3.0
# Prior: share of an open window before the receiver's time base, for users that are early.
_EARLY_SHARE = 1 / 8
# Cost cap: entries of the table of delays for irregular subcarriers; 0.8 GB with its copy.
_LARGEST_TABLE = 2**25
# Guard: length of a narrowed open window in spreads of the paths; most of it is quiet, as medians need.
_OPEN_WINDOWS = 4
# Guard: share of the lengths of an open window that counts as free of paths.
_QUIET_SHARE = 0.25
# Cost cap: tones of a raster on which power over length is looked at.
_LONGEST_RASTER = 2**16
# Guard: probability that noise makes an open window wider than it need be.
_LOUD_BY_CHANCE = 1e-2
# Tuned: parameter of the Kaiser taper that shows lengths with power; its sidelobes are below -80 dB,
_TAPER = 12.0
# Mathematics: which is this share of the highest power.
_TAPER_SIDELOBE = 1e-8
# Mathematics: median of the exponential distribution of unit mean.
_EXPONENTIAL_MEDIAN = np.log(2.0)
# Cost cap: directions of a grid that the responses are tabulated on.
_MOST_DIRECTIONS = 2**14
# Cost cap: bins that a median is taken of, at least, where there are more; its standard error is then one per
# cent.
_MEDIAN_SAMPLES = 8192
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
class PathSearch:
    """Matched filter on a grid of path length and direction cosines, oversampled twofold.

    Parameters
    ----------
    receiver : Receiver
    min_length_m, max_length_m : float
        Window of observed path lengths; cut to one unambiguous interval.
    tone_step_hz : float, optional
        Step of the tones that the statistics hold, where it is wider than that of the subcarriers.
    sidelobe : float
        Power of the highest sidelobe in length, relative to the main lobe, of the tones of any user.
    code_shift_m : float, optional
        Smallest length by which a path of one user looks like one of another, where users share tones by
        cyclic shifts; the window is not longer.
    open_window : bool
        Whether nothing is known of the lengths beforehand, so that the window is one unambiguous interval,
        to be narrowed to where there is power (:meth:`covering`).
    """

    receiver: Receiver
    min_length_m: float
    max_length_m: float
    tone_step_hz: float | None = None
    sidelobe: float = 0.0
    code_shift_m: float | None = None
    open_window: bool = False

    @classmethod
    def for_observation(cls, obs: UplinkObservation) -> PathSearch:
        """Choose the window from the shortest line of sight to the longest path through the region.

        Priors widen it by five standard deviations; paths with more bounces may be longer, so it is then
        doubled in length. Without places it is one unambiguous interval around the receiver's time base, most
        of it later.
        """
        places = obs.geometry
        if places is None:
            return cls(Receiver.of(obs), 0.0, 0.0, open_window=True)._on_pilots(obs)._opened()
        bs = places.bs_position_m
        margin = 5 * (
            SPEED_OF_LIGHT_M_S * float(obs.time_offset_stds_s.max())
            + float(places.user_position_stds_m.max())
        )
        direct = np.linalg.norm(places.user_positions_m - bs, axis=1)
        corners = np.array(list(product(*places.region_m.T)))
        to_bs = np.linalg.norm(corners - bs, axis=1)
        to_user = np.linalg.norm(corners[:, None] - places.user_positions_m, axis=2)
        longest = float(np.max(to_bs[:, None] + to_user))
        search = cls(Receiver.of(obs), float(direct.min()) - margin, 2 * longest + margin)
        return search._on_pilots(obs)

    def _on_pilots(self, obs: UplinkObservation) -> PathSearch:
        """The search on the tones and codes of the pilots."""
        search = self._on_tones(usable_tones(obs))
        return replace(search, code_shift_m=search._code_shift_m(usable_pilots(obs)))

    def _opened(self) -> PathSearch:
        """The search over one unambiguous interval."""
        interval = self._period_m if self.code_shift_m is None else self.code_shift_m
        first = -_EARLY_SHARE * interval
        return replace(self, min_length_m=first, max_length_m=first + interval)

    def _code_shift_m(self, pilots: ComplexArray) -> float | None:
        """Smallest length at which pilots (K, N, T) of two users are coherent; None where there is none."""
        gram = np.einsum("knt,jnt->kjn", pilots.conj(), pilots)
        energy = np.real(np.einsum("kkn->k", gram))
        gram[np.arange(len(gram)), np.arange(len(gram))] = 0
        if not (gram.any() and self.receiver.equally_spaced):
            return None
        n_tones = gram.shape[2]
        response = np.abs(fft.fft(gram, axis=2)) / np.sqrt(np.multiply.outer(energy, energy))[:, :, None]
        shifts = SPEED_OF_LIGHT_M_S * np.arange(n_tones) / (n_tones * self._spacing_hz) % self._period_m
        distances = np.minimum(shifts, self._period_m - shifts)
        coherent = distances[np.any(response > _COHERENT_CODES, axis=(0, 1))]
        cells = coherent[coherent > SPEED_OF_LIGHT_M_S / np.ptp(self.receiver.frequencies_hz)]
        return float(cells.min()) if cells.size else None

    def _on_tones(self, tones: RealArray) -> PathSearch:
        """The search for statistics of users with power (K, N) on their tones."""
        step = max(tone_step_hz(self.receiver.frequencies_hz, power > 0) for power in tones)
        narrowed = replace(self, tone_step_hz=step)
        return replace(narrowed, sidelobe=max(narrowed._highest_sidelobe(power) for power in tones))

    def _highest_sidelobe(self, power: RealArray) -> float:
        """Power of the highest sidelobe in length of weighted tones (N,), relative to the main lobe."""
        lengths = self.lengths_m - self.lengths_m[0]
        response = np.abs(np.exp(1j * np.multiply.outer(lengths, self.receiver.wavenumbers_per_m)) @ power)
        rising = np.flatnonzero(np.diff(response) > 0)  # the main lobe ends where it rises again
        if not rising.size:
            return 0.0
        again = self._period_m - lengths[rising[0]]  # and begins again before a period is over
        outside = response[rising[0] :][lengths[rising[0] :] < again]
        return float((outside.max(initial=0.0) / power.sum()) ** 2)

    def covering(self, correlation: ComplexArray) -> PathSearch:
        """Return the search with its window widened to all strong paths of the pilots.

        Priors choose the window; where they are wrong, paths arrive outside it and would alias. Powers over
        path length, tapered against sidelobes and summed over some antennas, tell where paths are.

        Parameters
        ----------
        correlation : ndarray of complex, shape (K, N, M)
            Of the received pilots with those sent.

        Notes
        -----
        Where nothing is known beforehand, the window is narrowed to the lengths at which the mean power over
        the antennas is above the noise, and three times as much behind them, for paths that only a beam shows
        and for the noise level.
        """
        if self.open_window:
            return self._narrowed(correlation)
        if not self.receiver.equally_spaced or self.code_shift_m is not None:
            return self
        lengths = self._strong_lengths_m(correlation)
        period, middle = self._period_m, (self.min_length_m + self.max_length_m) / 2
        lengths = lengths - period * np.rint((lengths - middle) / period)
        margin = _WINDOW_MARGIN * SPEED_OF_LIGHT_M_S / np.ptp(self.receiver.frequencies_hz)
        first = float(lengths.min(initial=np.inf)) - margin
        last = float(lengths.max(initial=-np.inf)) + margin
        if first >= self.min_length_m - 2 * margin and last <= self.max_length_m + 2 * margin:
            return self
        low, high = min(self.min_length_m, first), max(self.max_length_m, last)
        return replace(self, min_length_m=low, max_length_m=high)

    def _narrowed(self, correlation: ComplexArray) -> PathSearch:
        """The search without the longest part of its interval in which no user (of K, N, M) has power."""
        if self.code_shift_m is not None:
            return self
        lengths = np.sort(self._loud_lengths_m(correlation) % self._period_m)
        if not lengths.size:
            return self
        gaps = np.diff(lengths, append=lengths[0] + self._period_m)
        quiet = int(np.argmax(gaps))
        first = float(lengths[(quiet + 1) % lengths.size])
        margin = _WINDOW_MARGIN * SPEED_OF_LIGHT_M_S / np.ptp(self.receiver.frequencies_hz)
        spread = self._period_m - float(gaps[quiet])
        window = min(_OPEN_WINDOWS * (spread + margin), self._period_m)
        first -= min(margin, (self._period_m - spread) / 2)
        first -= self._period_m * np.floor((first - self.min_length_m) / self._period_m)
        return replace(self, min_length_m=first, max_length_m=first + window)

    def _loud_lengths_m(self, correlation: ComplexArray) -> RealArray:
        """Path lengths in one period at which some user's power is no noise, (S,).

        Noise summed over antennas follows a chi-square law whose scale the quietest quarter of the lengths
        tells.
        """
        frequencies = self.receiver.frequencies_hz
        tone = np.rint((frequencies - frequencies.min()) / self._spacing_hz).astype(int)
        n_tones = int(tone.max()) + 1
        if n_tones > _LONGEST_RASTER:
            return np.zeros(0)
        heard = np.flatnonzero(np.any(correlation, axis=(0, 1)))
        profile = np.empty((len(correlation), n_tones))
        for k, rows in enumerate(correlation[:, :, heard]):
            raster = np.zeros((n_tones, heard.size), complex)
            raster[tone] = rows * np.kaiser(n_tones + 2, _TAPER)[1 + tone, None]
            profile[k] = np.sum(np.abs(fft.ifft(raster, axis=0)) ** 2, axis=1)
        lengths = np.arange(n_tones) * SPEED_OF_LIGHT_M_S / (n_tones * self._spacing_hz)
        one_period = lengths < self._period_m * (1 - 1e-9)
        profile = profile[:, one_period]
        quiet, freedom = np.quantile(profile, _QUIET_SHARE, axis=1), 2 * heard.size
        rate = _LOUD_BY_CHANCE / profile.size
        loudest = quiet * chdtri(freedom, rate) / chdtri(freedom, 1 - _QUIET_SHARE)
        lowest = _TAPER_SIDELOBE * profile.max(axis=1)
        loud = np.any(profile > np.maximum(loudest, lowest)[:, None], axis=0)
        return np.asarray(lengths[one_period][loud])

    def _strong_lengths_m(self, correlation: ComplexArray) -> RealArray:
        """Path lengths, up to periods, at which users have power far above noise and sidelobes, (S,)."""
        n_tones, n_antennas = correlation.shape[1:]
        antennas = np.linspace(0, n_antennas - 1, min(n_antennas, _PROFILE_ANTENNAS)).astype(int)
        tapered = correlation[:, :, antennas] * np.hanning(n_tones + 2)[1:-1, None]
        profile = np.sum(np.abs(fft.ifft(tapered, axis=1)) ** 2, axis=2)
        lengths = np.arange(n_tones) * SPEED_OF_LIGHT_M_S / (n_tones * self._spacing_hz)
        one_period = lengths < self._period_m
        profile = profile[:, one_period]
        floor = np.maximum(
            _PROFILE_NOISE * np.median(profile, axis=1), _PROFILE_STRONG * profile.max(axis=1, initial=0.0)
        )
        strong = np.any(profile > floor[:, None], axis=0)
        return np.asarray(lengths[one_period][strong])

    def on_all_tones(self) -> PathSearch:
        """Return the search for statistics that hold every subcarrier and tell the users apart."""
        free = replace(self, code_shift_m=None, tone_step_hz=None, sidelobe=0.0)
        if self.receiver.equally_spaced:
            return free
        return free._on_tones(np.ones((1, self.receiver.frequencies_hz.size)))

    @cached_property
    def lengths_m(self) -> RealArray:
        """Grid of path lengths, shape (G,)."""
        step = self.length_step_m
        longest = self._period_m if self.code_shift_m is None else self.code_shift_m
        window = min(self.max_length_m - self.min_length_m, longest - step / 2)
        return np.asarray(self.min_length_m + step * np.arange(max(int(window / step) + 1, 1)))

    @property
    def length_step_m(self) -> float:
        """Step of the grid of lengths."""
        bandwidth = np.ptp(self.receiver.frequencies_hz) + self._spacing_hz
        return float(SPEED_OF_LIGHT_M_S / bandwidth / self._bins_per_cell)

    @property
    def has_high_lobes(self) -> bool:
        """Whether gaps in the band make lobes that compete with the main one."""
        return self._bins_per_cell > _OVERSAMPLING

    @cached_property
    def _bins_per_cell(self) -> int:
        """Bins per resolution cell in length: more by as much as gaps make the lobes more curved.

        Far blocks of tones have many lobes almost as high as the main one, which coarse bins would confuse.
        """
        frequencies = self.receiver.frequencies_hz
        bandwidth = np.ptp(frequencies) + self._spacing_hz
        return _OVERSAMPLING * max(round(12 * float(np.var(frequencies)) / bandwidth**2), 1)

    @cached_property
    def _spacing_hz(self) -> float:
        """Smallest step of the subcarriers."""
        return float(np.min(np.diff(np.sort(self.receiver.frequencies_hz))))

    @property
    def _period_m(self) -> float:
        """Path length after which the tones repeat."""
        return SPEED_OF_LIGHT_M_S / (self._spacing_hz if self.tone_step_hz is None else self.tone_step_hz)

    @property
    def _sidelobe_free(self) -> float:
        """Share of the highest power above which a maximum is no sidelobe of it."""
        sidelobe, array = self.sidelobe, self.receiver.array
        if isinstance(array, ArbitraryArray):
            sidelobe = max(sidelobe, array.highest_sidelobe)
        return max(_SIDELOBE_FREE, min(_SIDELOBE_MARGIN * sidelobe, 1.0))

    @cached_property
    def _to_delay(self) -> ComplexArray:
        """``conj(b_n)`` on the length grid, shape (G, N)."""
        n_tones, n_lengths = self.receiver.frequencies_hz.size, self.lengths_m.size
        if self.open_window and n_lengths * n_tones > _LARGEST_TABLE:
            raise ValueError(
                f"subcarrier_frequencies_hz: {n_tones} irregular subcarriers, as close as "
                f"{self._spacing_hz:.4g} Hz, leave {n_lengths} delays to tell apart, which is too much "
                "without places: use equally spaced ones, or give region_m and the users"
            )
        return np.exp(1j * self.lengths_m[:, None] * self.receiver.wavenumbers_per_m)

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
        return [_OVERSAMPLING * n if n > 1 else 1 for n in array.shape]

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

    @property
    def tells_directions(self) -> bool:
        """Whether directions are so many that a path in one of them hardly changes their mean power."""
        return self._visible_bins.size / _OVERSAMPLING**2 >= _LEAST_CELLS

    @cached_property
    def _visible_bins(self) -> NDArray[np.int64]:
        """Flat indices of the visible bins, in an order that leaves no pattern to a stride."""
        bins = np.flatnonzero(self._visible)
        return np.random.default_rng(0).permutation(bins)

    def spectrum(self, residual: ComplexArray, energy: float) -> RealArray:
        """Return matched-filter power ``|phi^H e|^2 / |phi|^2`` of a residual (N, M), shape (G, G_h, G_v).

        In the precision of the residual.
        """
        filtered = self._over_directions(self.over_lengths(residual))
        power = filtered.real**2
        power += filtered.imag**2
        power *= self._visible / power.dtype.type(energy)
        return np.asarray(power)

    def _over_directions(self, columns: ComplexArray) -> ComplexArray:
        """``sum_m conj(a_m) c_m`` on the grids of cosines, shape (G, G_h, G_v), of columns (G, M)."""
        array = self.receiver.array
        if isinstance(array, UniformPlanarArray):
            cube = columns.reshape(-1, *array.shape)
            return np.asarray(fft.fft2(cube, s=self._transform_shape(array), axes=(1, 2)))
        beams = self._beams.astype(columns.dtype, copy=False)
        return np.asarray((columns @ beams).reshape(-1, *(grid.size for grid in self.cosine_grids)))

    def responses(self, bins: NDArray[np.int64]) -> ComplexArray:
        """Return ``b_n`` at some bins of the length grid, shape (N, B)."""
        return np.exp(-1j * np.multiply.outer(self.receiver.wavenumbers_per_m, self.lengths_m[bins]))

    def over_lengths(self, residual: ComplexArray) -> ComplexArray:
        """Return ``sum_n conj(b_n) e_n`` on the length grid, shape (G, M): a transform for equal steps."""
        if not self.receiver.equally_spaced:
            return np.asarray(self._to_delay.astype(residual.dtype, copy=False) @ residual)
        n, n_lengths = residual.shape[0], self.lengths_m.size
        columns = (residual * self._at_first_length.astype(residual.dtype)[:, None]).T
        powers = fft.ifft(columns, n=_OVERSAMPLING * n, axis=-1, norm="forward")
        return np.asarray((powers[:, :n_lengths] * self._carrier.astype(residual.dtype)).T)

    def power_over_lengths(self, residual: ComplexArray) -> RealArray:
        """Return the power of residuals (K, N, M) on the length grid, summed over antennas, shape (K, G)."""
        return np.array([np.sum(np.abs(self.over_lengths(e)) ** 2, axis=1) for e in residual])

    def overlap(self, energy: RealArray) -> ComplexArray:
        """Return ``sum_n conj(b_ng) R_n b_nh`` between all lengths of the grid, shape (G, G)."""
        lag = np.arange(self.lengths_m.size)
        along = np.multiply.outer(lag * self.length_step_m, self.receiver.wavenumbers_per_m)
        column = np.exp(1j * along) @ energy
        both = np.concatenate([column[:0:-1].conj(), column])
        return np.asarray(both[lag[:, None] - lag + lag.size - 1])

    @cached_property
    def _at_first_length(self) -> ComplexArray:
        """``conj(b_n)`` at the first length of the grid, shape (N,)."""
        return np.exp(1j * self.lengths_m[0] * self.receiver.wavenumbers_per_m)

    @cached_property
    def _carrier(self) -> ComplexArray:
        """Phase of the first subcarrier along the grid, relative to the first length, shape (G,)."""
        along = self.lengths_m - self.lengths_m[0]
        return np.exp(1j * along * self.receiver.wavenumbers_per_m[0])

    def spectra(self, residual: ComplexArray, energies: RealArray) -> list[Spectrum]:
        """Return spectra of the users' residuals (K, N, M), in single precision, with their noise levels."""
        powers = [self.spectrum(e.astype(np.complex64), d) for e, d in zip(residual, energies, strict=True)]
        return [Spectrum(power, self.noise_level(power)) for power in powers]

    def noise_level(self, spectrum: RealArray) -> float:
        """Return the noise power in a spectrum from its median (an exponential law)."""
        bins = self._visible_bins
        stride = max(bins.size * len(spectrum) // _MEDIAN_SAMPLES, 1)
        lengths = spectrum.reshape(len(spectrum), -1)[:: min(stride, 2)]
        inside = lengths[:, bins[:: max(stride // 2, 1)]].ravel()
        middle = inside.size // 2
        return float(np.partition(inside, middle)[middle] / _EXPONENTIAL_MEDIAN)

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
        cells = max(self._visible_bins.size / _OVERSAMPLING**2, 1.0) / self._bins_per_cell
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
        over_directions = visible.size / _OVERSAMPLING**2 if regular else 0.0
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
        where = candidates[local_maxima(spectrum, candidates, _OVERSAMPLING)]
        order = np.argsort(-spectrum.ravel()[where], kind="stable")
        g, h, v = np.unravel_index(where[order], spectrum.shape)
        return g, h, v

    def _at(self, bins: Bins) -> RealArray:
        """(length, u_h, u_v) of bins, shape (P, 3)."""
        g, h, v = bins
        u_h, u_v = self.cosine_grids
        return np.column_stack([self.lengths_m[g], u_h[h], u_v[v]])


def _even_cosines(array: AntennaArray) -> tuple[RealArray, RealArray]:
    """Even grids of direction cosines, oversampled twofold, for an array without a transform."""
    counts = [
        int(np.ceil(2 * _OVERSAMPLING / cell)) + 1 if seen else 1
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


def usable_pilots(obs: UplinkObservation) -> ComplexArray:
    """Return every user's pilots (K, N, T) in usable cells where all symbols are known, zero elsewhere."""
    return np.where(np.all(obs.known, axis=0) & obs.usable_cells, obs.pilots, 0)


def usable_tones(obs: UplinkObservation) -> RealArray:
    """Return the power (K, N) of every user's usable pilots."""
    return np.asarray(np.sum(np.abs(usable_pilots(obs)) ** 2, axis=2))
