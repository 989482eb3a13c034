"""Search for paths in a residual: matched filter over direction and delay, constant false-alarm rate."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import product

import numpy as np
from numpy.typing import NDArray
from scipy import fft

from isac_toolbox.channel.array import SPEED_OF_LIGHT_M_S
from isac_toolbox.channel.atoms.receiver import Receiver
from isac_toolbox.channel.observation import UplinkObservation
from isac_toolbox.estimators._search_kernels import local_maxima

__all__ = ["PathSearch", "Spectrum"]

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
# Mathematics: median of the exponential distribution of unit mean.
_EXPONENTIAL_MEDIAN = np.log(2.0)
# Cost cap: bins that a median is taken of, at least, where there are more; its standard error is then one per
# cent.
_MEDIAN_SAMPLES = 8192


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
    """

    receiver: Receiver
    min_length_m: float
    max_length_m: float
    tone_step_hz: float | None = None
    sidelobe: float = 0.0

    @classmethod
    def for_observation(cls, obs: UplinkObservation) -> PathSearch:
        """Choose the window from the shortest line of sight to the longest path through the region.

        Priors widen it by five standard deviations; paths with more bounces may be longer, so it is then
        doubled in length.
        """
        bs = obs.bs_position_m
        margin = 5 * (
            SPEED_OF_LIGHT_M_S * float(obs.time_offset_stds_s.max()) + float(obs.user_position_stds_m.max())
        )
        direct = np.linalg.norm(obs.user_positions_m - bs, axis=1)
        corners = np.array(list(product(*obs.region_m.T)))
        to_bs = np.linalg.norm(corners - bs, axis=1)
        to_user = np.linalg.norm(corners[:, None] - obs.user_positions_m, axis=2)
        longest = float(np.max(to_bs[:, None] + to_user))
        search = cls(Receiver.of(obs), float(direct.min()) - margin, 2 * longest + margin)
        return search._on_tones(usable_tones(obs))

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

    def on_all_tones(self) -> PathSearch:
        """Return the search for statistics that hold every subcarrier."""
        return replace(self, tone_step_hz=None, sidelobe=0.0)

    @cached_property
    def lengths_m(self) -> RealArray:
        """Grid of path lengths, shape (G,)."""
        bandwidth = np.ptp(self.receiver.frequencies_hz) + self._spacing_hz
        step = SPEED_OF_LIGHT_M_S / bandwidth / _OVERSAMPLING
        window = min(self.max_length_m - self.min_length_m, self._period_m - step / 2)
        return self.min_length_m + step * np.arange(max(int(window / step) + 1, 1))

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
        return max(_SIDELOBE_FREE, min(_SIDELOBE_MARGIN * self.sidelobe, 1.0))

    @cached_property
    def _to_delay(self) -> ComplexArray:
        """``conj(b_n)`` on the length grid, shape (G, N)."""
        return np.exp(1j * self.lengths_m[:, None] * self.receiver.wavenumbers_per_m)

    @cached_property
    def cosine_grids(self) -> tuple[RealArray, RealArray]:
        """Direction cosines of the transform's bins, shapes (G_h,) and (G_v,)."""
        array = self.receiver.array
        grids = [
            np.asarray(np.fft.fftfreq(_OVERSAMPLING * n) / d, dtype=np.float64)
            for n, d in zip(array.shape, array.spacings, strict=True)
        ]
        return grids[0], grids[1]

    @cached_property
    def _visible(self) -> NDArray[np.bool_]:
        """Bins that are directions in front of the array, with a margin of one bin."""
        u_h, u_v = self.cosine_grids
        margin = max(1 / u.size for u in (u_h, u_v))
        return u_h[:, None] ** 2 + u_v**2 <= (1 + margin) ** 2

    @cached_property
    def _visible_bins(self) -> NDArray[np.int64]:
        """Flat indices of the visible bins, in an order that leaves no pattern to a stride."""
        bins = np.flatnonzero(self._visible)
        return np.random.default_rng(0).permutation(bins)

    def spectrum(self, residual: ComplexArray, energy: float) -> RealArray:
        """Return matched-filter power ``|phi^H e|^2 / |phi|^2`` of a residual (N, M), shape (G, G_h, G_v).

        In the precision of the residual.
        """
        array = self.receiver.array
        grid_shape = [_OVERSAMPLING * n for n in array.shape]
        cube = self._over_lengths(residual).reshape(-1, *array.shape)
        filtered = fft.fft2(cube, s=grid_shape, axes=(1, 2))
        power = filtered.real**2
        power += filtered.imag**2
        power *= self._visible / power.dtype.type(energy)
        return np.asarray(power)

    def _over_lengths(self, residual: ComplexArray) -> ComplexArray:
        """``sum_n conj(b_n) e_n`` on the length grid, shape (G, M): a transform for equal steps."""
        if not self.receiver.equally_spaced:
            return np.asarray(self._to_delay.astype(residual.dtype, copy=False) @ residual)
        n, n_lengths = residual.shape[0], self.lengths_m.size
        columns = (residual * self._at_first_length.astype(residual.dtype)[:, None]).T
        powers = fft.ifft(columns, n=_OVERSAMPLING * n, axis=-1, norm="forward")
        return np.asarray((powers[:, :n_lengths] * self._carrier.astype(residual.dtype)).T)

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
    ) -> tuple[RealArray, NDArray[np.int64], float]:
        """Do the same as :meth:`detect` in spectra (K of them) that are there already."""
        if noise_level is None:
            noise_level = float(np.median([s.noise_level for s in spectra]))
        level = max(noise_level, noise_floor, 1e-300)
        threshold = self.threshold(level, false_alarm_rate)
        found = [self.peaks(s.power, threshold)[:n] for s, n in zip(spectra, room, strict=True)]
        user = np.repeat(np.arange(len(found)), [len(f) for f in found])
        return np.concatenate(found), user, level

    def peaks(self, spectrum: RealArray, threshold: float) -> RealArray:
        """Return the local maxima (length, u_h, u_v) above the threshold, highest first, shape (P, 3).

        Maxima below ``_SIDELOBE_FREE`` times the highest may be its sidelobes and are left for another
        round; maxima closer than a resolution cell in every dimension count as one. Directions wrap around.
        """
        floor = max(threshold, self._sidelobe_free * float(spectrum.max(initial=0.0)))
        candidates = np.flatnonzero(spectrum >= max(floor, np.finfo(spectrum.dtype).tiny))
        where = candidates[local_maxima(spectrum, candidates, _OVERSAMPLING)]
        order = np.argsort(-spectrum.ravel()[where], kind="stable")
        g, h, v = np.unravel_index(where[order], spectrum.shape)
        u_h, u_v = self.cosine_grids
        return np.column_stack([self.lengths_m[g], u_h[h], u_v[v]])


def usable_tones(obs: UplinkObservation) -> RealArray:
    """Return the power (K, N) of every user's usable pilots, those where all users' symbols are known."""
    usable = np.all(obs.known, axis=0) & obs.usable_cells
    return np.sum(np.abs(np.where(usable, obs.pilots, 0)) ** 2, axis=2)


def tone_step_hz(frequencies_hz: RealArray, used: NDArray[np.bool_]) -> float:
    """Return the largest step of which all distances of the used tones (N,) are multiples.

    Delays that differ by its inverse look the same on these tones. A single tone has the step of all.
    """
    spacing = float(np.min(np.diff(np.sort(frequencies_hz))))
    distances = np.rint((frequencies_hz[used] - frequencies_hz[used][:1]) / spacing).astype(int)
    return spacing * max(int(np.gcd.reduce(distances)), 1)
