"""Which path lengths are searched: a window by priors and pilots, its grid, and the transform to it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from itertools import product
from typing import Self

import numpy as np
from numpy.typing import NDArray
from scipy import fft
from scipy.special import chdtri

from isac_toolbox.channel.array import SPEED_OF_LIGHT_M_S
from isac_toolbox.channel.atoms.receiver import Receiver, tone_step_hz
from isac_toolbox.channel.atoms.zoom import zoom_pays, zoomed
from isac_toolbox.channel.observation import UplinkObservation

__all__ = ["OVERSAMPLING", "LengthWindow", "usable_pilots", "usable_tones"]

RealArray = NDArray[np.float64]
ComplexArray = NDArray[np.complex128]

# Cost cap: bins per resolution cell; scalloping costs at most 0.9 dB an axis.
OVERSAMPLING = 2
# Guard: coherence of two users' pilots at some length above which their paths are mistaken for each other.
_COHERENT_CODES = 0.5
# Guard: the same of a user's own pilots at some length, whose lower lobes the search tells from the main one.
_COHERENT_LOBES = 0.8
# Guard: cells beyond which a lobe of a user's own pilots counts as well; nearer ones are told apart.
_NEAREST_LOBE = 8.0
# Cost cap: antennas whose powers over path length say where paths are.
_PROFILE_ANTENNAS = 16
# Guard: power over the median above which there is a path; noise of 16 antennas never reaches it.
_PROFILE_NOISE = 8.0
# Guard: share of a user's highest power above which a path is strong; sidelobes of the taper are at -31 dB.
_PROFILE_STRONG = 3e-3
# Guard: the same in highest sidelobes of the taper where subcarriers have holes.
_HOLES_MARGIN = 2.0
# Cost cap: bins per resolution cell in which that sidelobe is looked for.
_SIDELOBE_BINS = 4
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
# Tuned: parameter of the Kaiser taper that shows lengths with power; its sidelobes are below -80 dB.
_TAPER = 12.0
# Mathematics: half of its main lobe, in resolution cells;
_TAPER_HALF_WIDTH = float(np.hypot(1.0, _TAPER / np.pi))
# Mathematics: the sidelobes are this share of the highest power.
_TAPER_SIDELOBE = 1e-8


@dataclass(frozen=True, eq=False)
class LengthWindow:
    """Path lengths that are searched, on a grid oversampled twofold, and the transform to them.

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
        cyclic shifts, or like another of its own, where tones go in groups; the window is not longer.
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
    def for_observation(cls, obs: UplinkObservation) -> Self:
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

    def _on_pilots(self, obs: UplinkObservation) -> Self:
        """The search on the tones and codes of the pilots."""
        search = self._on_tones(usable_tones(obs))
        return replace(search, code_shift_m=search._code_shift_m(usable_pilots(obs)))

    def _opened(self) -> Self:
        """The search over one unambiguous interval."""
        interval = self._period_m if self.code_shift_m is None else self.code_shift_m
        first = -_EARLY_SHARE * interval
        return replace(self, min_length_m=first, max_length_m=first + interval)

    def _code_shift_m(self, pilots: ComplexArray) -> float | None:
        """Smallest length at which pilots (K, N, T) of two users are coherent; None where there is none.

        So are those of a user with themselves where tones go in groups, as in the DMRS of type 2 of 5G NR.
        """
        raster = self.receiver.raster
        if raster is None:
            return None
        gram = np.einsum("knt,jnt->kjn", pilots.conj(), pilots)
        energy = np.real(np.einsum("kkn->k", gram))
        if raster.has_holes:  # their lobes, of all users alike, are left to the search
            gram[np.arange(len(gram)), np.arange(len(gram))] = 0
        if not energy.all():
            return None
        n_users, n_tones = len(gram), raster.size
        response = (
            np.abs(fft.fft(raster.spread(gram), axis=2))
            / np.sqrt(np.multiply.outer(energy, energy))[:, :, None]
        )
        shifts = SPEED_OF_LIGHT_M_S * np.arange(n_tones) / (n_tones * self._spacing_hz) % self._period_m
        distances = np.minimum(shifts, self._period_m - shifts)
        own = np.eye(n_users, dtype=bool)[:, :, None]
        nearest, most = np.where(own, _NEAREST_LOBE, 1.0), np.where(own, _COHERENT_LOBES, _COHERENT_CODES)
        cell_m = SPEED_OF_LIGHT_M_S / np.ptp(self.receiver.frequencies_hz)
        alike = np.any((response > most) & (distances > nearest * cell_m), axis=(0, 1))
        return float(distances[alike].min()) if alike.any() else None

    def _on_tones(self, tones: RealArray) -> Self:
        """The search for statistics of users with power (K, N) on their tones."""
        different = list({power.tobytes(): power for power in tones}.values())
        heard = {(power > 0).tobytes(): power > 0 for power in different}.values()
        step = max(tone_step_hz(self.receiver.frequencies_hz, used) for used in heard)
        narrowed = replace(self, tone_step_hz=step)
        return replace(narrowed, sidelobe=max(narrowed._highest_sidelobe(power) for power in different))

    def _highest_sidelobe(self, power: RealArray) -> float:
        """Power of the highest sidelobe in length of weighted tones (N,), relative to the main lobe."""
        lengths = self.lengths_m - self.lengths_m[0]
        heard = np.flatnonzero(power)
        response = np.abs(power[heard] @ self.receiver.delay_factors(lengths)[heard])
        rising = np.flatnonzero(np.diff(response) > 0)  # the main lobe ends where it rises again
        if not rising.size:
            return 0.0
        again = self._period_m - lengths[rising[0]]  # and begins again before a period is over
        outside = response[rising[0] :][lengths[rising[0] :] < again]
        return float((outside.max(initial=0.0) / power.sum()) ** 2)

    def covering(self, correlation: ComplexArray) -> Self:
        """Return the search with its window widened to all paths that the pilots show.

        Priors choose the window; where they are wrong, or paths are late, they arrive outside it and would
        alias or be missed. Powers over path length, tapered against sidelobes and summed over antennas, tell
        where paths are: all above the noise on a raster without holes, strong ones on others.

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
        if self.receiver.raster is None or self.code_shift_m is not None:
            return self
        lengths = self._strong_lengths_m(correlation)
        if not self.receiver.raster.has_holes:  # those have sidelobes that no taper keeps down
            lengths = np.concatenate([lengths, self._loud_lengths_m(correlation)[0]])
        period, middle = self._period_m, (self.min_length_m + self.max_length_m) / 2
        lengths = lengths - period * np.rint((lengths - middle) / period)
        margin = _WINDOW_MARGIN * SPEED_OF_LIGHT_M_S / np.ptp(self.receiver.frequencies_hz)
        first = float(lengths.min(initial=np.inf)) - margin
        last = float(lengths.max(initial=-np.inf)) + margin
        if first >= self.min_length_m - 2 * margin and last <= self.max_length_m + 2 * margin:
            return self
        low, high = min(self.min_length_m, first), max(self.max_length_m, last)
        return replace(self, min_length_m=low, max_length_m=high)

    def _narrowed(self, correlation: ComplexArray) -> Self:
        """The search without the longest part of its interval in which no user (of K, N, M) has power."""
        if self.code_shift_m is not None:
            return self
        lengths, loudest_m = self._loud_lengths_m(correlation)
        if not lengths.size:
            return self
        margin = _WINDOW_MARGIN * SPEED_OF_LIGHT_M_S / np.ptp(self.receiver.frequencies_hz)
        gaps = np.diff(lengths, append=lengths[0] + self._period_m)
        firsts = np.roll(lengths, -1) - np.minimum(margin, gaps / 2)
        # Placed by the loudest length, as narrow bands blur where power begins.
        placed = firsts + (loudest_m - firsts) % self._period_m
        firsts -= self._period_m * np.floor((placed - self.min_length_m) / self._period_m)
        # Gaps before paths that are late, not before the first one, which looks early by as much as it blurs.
        cell_m = SPEED_OF_LIGHT_M_S / np.ptp(self.receiver.frequencies_hz)
        early = firsts + margin + _TAPER_HALF_WIDTH * cell_m < self.min_length_m
        quiet = int(np.argmax(np.where(early, 0.0, gaps) if not early.all() else gaps))
        first, spread = float(firsts[quiet]), self._period_m - float(gaps[quiet])
        window = min(_OPEN_WINDOWS * (spread + margin), self._period_m)
        return replace(self, min_length_m=first, max_length_m=first + window)

    def _loud_lengths_m(self, correlation: ComplexArray) -> tuple[RealArray, float]:
        """Path lengths in one period at which some user's power is no noise, (S,), and the loudest.

        Noise summed over antennas follows a chi-square law whose scale the quietest quarter of the lengths
        tells.
        """
        frequencies = self.receiver.frequencies_hz
        tone = np.rint((frequencies - frequencies.min()) / self._spacing_hz).astype(int)
        n_tones = int(tone.max()) + 1
        if n_tones > _LONGEST_RASTER:
            return np.zeros(0), 0.0
        heard = np.flatnonzero(np.any(correlation, axis=(0, 1)))
        profile = np.empty((len(correlation), n_tones))
        for k, rows in enumerate(correlation[:, :, heard]):
            raster = np.zeros((n_tones, heard.size), complex)
            raster[tone] = rows * _taper(n_tones + 2)[1 + tone, None]
            profile[k] = np.sum(np.abs(fft.ifft(raster, axis=0)) ** 2, axis=1)
        lengths = np.arange(n_tones) * SPEED_OF_LIGHT_M_S / (n_tones * self._spacing_hz)
        one_period = lengths < self._period_m * (1 - 1e-9)
        profile = profile[:, one_period]
        quiet, freedom = np.quantile(profile, _QUIET_SHARE, axis=1), 2 * heard.size
        rate = _LOUD_BY_CHANCE / profile.size
        loudest = quiet * chdtri(freedom, rate) / chdtri(freedom, 1 - _QUIET_SHARE)
        lowest = _TAPER_SIDELOBE * profile.max(axis=1)
        loud = np.any(profile > np.maximum(loudest, lowest)[:, None], axis=0)
        lengths = lengths[one_period]
        return np.asarray(lengths[loud]), float(lengths[np.argmax(profile.max(axis=0))])

    def _strong_lengths_m(self, correlation: ComplexArray) -> RealArray:
        """Path lengths, up to periods, at which users have power far above noise and sidelobes, (S,)."""
        raster, n_antennas = self.receiver.raster, correlation.shape[2]
        assert raster is not None
        n_tones = raster.size
        antennas = np.linspace(0, n_antennas - 1, min(n_antennas, _PROFILE_ANTENNAS)).astype(int)
        on_raster = raster.spread(correlation[:, :, antennas].transpose(0, 2, 1)).transpose(0, 2, 1)
        taper = np.hanning(n_tones + 2)[1:-1]
        profile = np.sum(np.abs(fft.ifft(on_raster * taper[:, None], axis=1)) ** 2, axis=2)
        strong_share = _PROFILE_STRONG
        if raster.has_holes:
            heard = raster.spread(np.any(correlation, axis=2).astype(float)) * taper
            strong_share = max(strong_share, _HOLES_MARGIN * max(map(self._highest_tapered_sidelobe, heard)))
        lengths = np.arange(n_tones) * SPEED_OF_LIGHT_M_S / (n_tones * self._spacing_hz)
        one_period = lengths < self._period_m
        profile = profile[:, one_period]
        floor = np.maximum(
            _PROFILE_NOISE * np.median(profile, axis=1), strong_share * profile.max(axis=1, initial=0.0)
        )
        strong = np.any(profile > floor[:, None], axis=0)
        return np.asarray(lengths[one_period][strong])

    def over_a_period(self) -> Self:
        """Return the search over all lengths that equally spaced tones tell apart, from zero on."""
        if not self.receiver.equally_spaced:
            return self
        free = replace(self, code_shift_m=None, tone_step_hz=None, min_length_m=0.0)
        return replace(free, max_length_m=free._period_m)

    def _highest_tapered_sidelobe(self, weights: RealArray) -> float:
        """Power of the highest sidelobe of weights on the raster in one period, relative to the main lobe."""
        size = _SIDELOBE_BINS * weights.size
        period = int(np.rint(size * self._spacing_hz * self._period_m / SPEED_OF_LIGHT_M_S))
        response = np.abs(fft.fft(weights, n=size))[: period // 2 + 1]
        rising = np.flatnonzero(np.diff(response) > 0)  # the main lobe ends where it rises again
        return float((response[rising[0] :].max() / response[0]) ** 2) if rising.size else 0.0

    def on_all_tones(self) -> Self:
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
        return self._bins_per_cell > OVERSAMPLING

    @cached_property
    def _bins_per_cell(self) -> int:
        """Bins per resolution cell in length: more by as much as gaps make the lobes more curved.

        Far blocks of tones have many lobes almost as high as the main one, which coarse bins would confuse.
        """
        frequencies = self.receiver.frequencies_hz
        bandwidth = np.ptp(frequencies) + self._spacing_hz
        return OVERSAMPLING * max(round(12 * float(np.var(frequencies)) / bandwidth**2), 1)

    @property
    def bins_per_free_cell(self) -> float:
        """Bins over which noise is the same: the tones that there are tell, not the gaps between them."""
        occupied_hz = self.receiver.frequencies_hz.size * self._spacing_hz
        return SPEED_OF_LIGHT_M_S / occupied_hz / self.length_step_m

    @cached_property
    def _spacing_hz(self) -> float:
        """Step of the subcarriers' raster, or the smallest step where they are irregular."""
        if self.receiver.raster is not None:
            return self.receiver.raster.step_hz
        return float(np.min(np.diff(np.sort(self.receiver.frequencies_hz))))

    @property
    def _period_m(self) -> float:
        """Path length after which the tones repeat."""
        return SPEED_OF_LIGHT_M_S / (self._spacing_hz if self.tone_step_hz is None else self.tone_step_hz)

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

    def responses(self, bins: NDArray[np.int64]) -> ComplexArray:
        """Return ``b_n`` at some bins of the length grid, shape (N, B)."""
        return np.exp(-1j * np.multiply.outer(self.receiver.wavenumbers_per_m, self.lengths_m[bins]))

    def over_lengths(self, residual: ComplexArray) -> ComplexArray:
        """Return ``sum_n conj(b_n) e_n`` on the length grid, shape (G, M): a transform on a raster."""
        raster = self.receiver.raster
        if raster is None:
            return np.asarray(self._to_delay.astype(residual.dtype, copy=False) @ residual)
        n_lengths = self.lengths_m.size
        columns = raster.rows(residual * self._at_first_length.astype(residual.dtype)[:, None])
        size = self._bins_per_cell * raster.size
        if zoom_pays(1 / size, n_lengths):
            powers = zoomed(columns, 0.0, 1 / size, n_lengths, 0.0)
        else:
            powers = fft.ifft(columns, n=size, axis=0, norm="forward")
        carrier = self._carrier.astype(residual.dtype)[:, None]
        if n_lengths == len(powers):
            powers *= carrier
            return np.asarray(powers)
        return np.asarray(powers[:n_lengths] * carrier)

    def at_tones(self, amplitudes: ComplexArray) -> ComplexArray:
        """Return ``sum_g b_ng a_g`` of amplitudes (G, M) on the length grid, shape (N, M)."""
        raster = self.receiver.raster
        if raster is None:
            return np.asarray(self._to_delay.conj().T @ amplitudes)
        columns = (amplitudes * self._carrier.conj()[:, None]).T
        tones = fft.fft(columns, n=self._bins_per_cell * raster.size, axis=-1)[:, raster.place]
        return np.asarray(tones.T * self._at_first_length.conj()[:, None])

    def power_over_lengths(self, residual: ComplexArray) -> RealArray:
        """Return the power of residuals (K, N, M) on the length grid, summed over antennas, shape (K, G)."""
        return np.array([np.sum(np.abs(self.over_lengths(e)) ** 2, axis=1) for e in residual])

    def overlap(self, energy: RealArray) -> ComplexArray:
        """Return ``sum_n conj(b_ng) R_n b_nh`` of lengths by their distance ``g - h`` in bins, shape (G,)."""
        return self.over_lengths((energy * self._at_first_length.conj())[:, None])[:, 0]

    def power_at_tones(self, covariance: ComplexArray, bins: NDArray[np.int64]) -> RealArray:
        """Return ``diag(B C B^H)`` of the covariance (B, B) of amplitudes at some bins of the grid, (N,).

        A sum over the distances of the bins: ``sum_d c_d b_n(d)`` with ``c_d`` that of ``C`` over the pairs
        at distance d.
        """
        n_lengths = self.lengths_m.size
        distance = (bins[:, None] - bins + n_lengths - 1).ravel()
        real, imag = (
            np.bincount(distance, part.ravel(), 2 * n_lengths - 1)[n_lengths - 1 :]
            for part in (covariance.real, covariance.imag)
        )
        at_distance = 2 * (real + 1j * imag)
        at_distance[0] /= 2
        at_tones = self.at_tones(at_distance[:, None])[:, 0]
        return np.maximum(np.real(at_tones * self._at_first_length), 0.0)

    @cached_property
    def _at_first_length(self) -> ComplexArray:
        """``conj(b_n)`` at the first length of the grid, shape (N,)."""
        return np.exp(1j * self.lengths_m[0] * self.receiver.wavenumbers_per_m)

    @cached_property
    def _carrier(self) -> ComplexArray:
        """Phase of the lowest subcarrier along the grid, relative to the first length, shape (G,)."""
        along = self.lengths_m - self.lengths_m[0]
        return np.exp(1j * along * self.receiver.wavenumbers_per_m.min())


@lru_cache(maxsize=16)
def _taper(n: int) -> RealArray:
    """Kaiser window of so many samples."""
    window = np.kaiser(n, _TAPER)
    window.flags.writeable = False
    return window


def usable_pilots(obs: UplinkObservation) -> ComplexArray:
    """Return every user's pilots (K, N, T) in usable cells where all symbols are known, zero elsewhere."""
    return np.where(np.all(obs.known, axis=0) & obs.usable_cells, obs.pilots, 0)


def usable_tones(obs: UplinkObservation) -> RealArray:
    """Return the power (K, N) of every user's usable pilots."""
    return np.asarray(np.sum(np.abs(usable_pilots(obs)) ** 2, axis=2))
