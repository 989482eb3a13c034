"""Search for paths over Doppler shifts as well (docs/theory.md, section 7.8)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, fields
from typing import Self

import numpy as np
from numpy.typing import NDArray

from isac_toolbox._threads import in_threads
from isac_toolbox.channel.atoms.frames import Frames
from isac_toolbox.estimators.search import PathSearch, Spectrum

__all__ = ["DopplerSearch", "ShiftedSpectrum"]

RealArray = NDArray[np.float64]
ComplexArray = NDArray[np.complex128]

# Cost cap: Doppler shifts that are tried for every user.
_MOST_SHIFTS = 512
# Cost cap: trials in a cell of Doppler resolution; scalloping costs at most 0.9 dB.
_STEPS_PER_CELL = 2


@dataclass(frozen=True, eq=False)
class ShiftedSpectrum(Spectrum):
    """Highest matched-filter power over Doppler shifts, and the index of the shift, both (G, G_h, G_v).

    ``tops`` (F, 4) holds the highest power at every shift, and its length and direction cosines.
    """

    shift: NDArray[np.int16]
    tops: RealArray


@dataclass(frozen=True, eq=False)
class DopplerSearch(PathSearch):
    """Matched filter over direction, delay and Doppler shift.

    Attributes
    ----------
    shifts_hz : ndarray, shape (F,)
        Trials, evenly spaced.
    stds_hz : ndarray, shape (K,)
        Deviation of the shift of a user's paths.
    """

    shifts_hz: RealArray = field(default_factory=lambda: np.zeros(1))
    stds_hz: RealArray = field(default_factory=lambda: np.zeros(1))

    @classmethod
    def over(
        cls, search: PathSearch, stds_hz: RealArray, times_s: RealArray, steps: int = _STEPS_PER_CELL
    ) -> Self:
        """Return a search with trials up to four deviations, ``steps`` in what these times resolve."""
        span, reach = float(np.ptp(times_s)), 4 * float(np.max(stds_hz))
        n = min(int(np.ceil(reach * span * steps)), _MOST_SHIFTS // 2)
        values = {f.name: getattr(search, f.name) for f in fields(search)}
        shifts = np.linspace(-reach, reach, 2 * n + 1) if n else np.zeros(1)
        return cls(**{**values, "shifts_hz": shifts, "stds_hz": stds_hz})

    def threshold(self, noise_level: float, false_alarm_rate: float) -> float:
        """Return power that noise exceeds at any shift with probability ``false_alarm_rate``."""
        cells = max(self.shifts_hz.size / _STEPS_PER_CELL, 1.0)
        return super().threshold(noise_level, false_alarm_rate / cells)

    def spectra_over_time(
        self, residual: Iterable[tuple[slice, ComplexArray]], frames: Frames, energies: RealArray
    ) -> list[ShiftedSpectrum]:
        """Return the spectra of residuals, the shifts' prior taken off, with noise levels.

        The residuals (K, N, Q', M) come for some of the frames' times after others.
        """
        n_users, n_sub, _, n_elements = frames.cross_correlation.shape
        beside_hz = self.shifts_hz[:, None] - frames.mean_doppler_hz[:, None, None]
        back = np.exp(-2j * np.pi * beside_hz * frames.times_s).astype(np.complex64)  # (K, F, Q)
        turned = np.zeros((n_users, n_sub, self.shifts_hz.size, n_elements), "c8")
        for part, left in residual:
            turned += np.matmul(back[:, None, :, part], left.astype(np.complex64))
        return in_threads(
            lambda user: self._shifted(turned[user], energies[user], self.stds_hz[user]),
            range(n_users),
            turned.size,
        )

    def _shifted(self, turned: ComplexArray, energy: float, std_hz: float) -> ShiftedSpectrum:
        """The spectrum of one user, whose residual (N, F, M) was turned back by every shift."""
        order = np.argsort(np.abs(self.shifts_hz), kind="stable")
        highest, shift, level = np.zeros(0), np.zeros(0, np.int16), 0.0
        tops = np.zeros((order.size, 4))
        for index in order:
            power = self.spectrum(turned[:, index], energy)
            tops[index] = self._top(power)
            if not highest.size:
                level = self.noise_level(power)
                highest, shift = power, np.full(power.shape, index, np.int16)
                continue
            power -= power.dtype.type(0.5 * level * (self.shifts_hz[index] / max(std_hz, 1e-9)) ** 2)
            higher = power > highest
            shift[higher] = index
            np.maximum(highest, power, out=highest)
        return ShiftedSpectrum(highest, level, shift, tops)

    def _top(self, power: RealArray) -> RealArray:
        """Highest power in a spectrum, its length and direction cosines, shape (4,)."""
        g, h, v = np.unravel_index(int(np.argmax(power)), power.shape)
        u_h, u_v = self.cosine_grids
        return np.array([power[g, h, v], self.lengths_m[g], u_h[h], u_v[v]])

    def shifts_at(
        self, spectra: Sequence[Spectrum], parameters: RealArray, user: NDArray[np.int64]
    ) -> RealArray:
        """Return the Doppler shifts (P,) at which paths (P, 3) of users stand out."""
        g, h, v = self._nearest_bins(parameters)
        index = np.zeros(user.size, int)
        for row, (k, i, j, m) in enumerate(zip(user, g, h, v, strict=True)):
            spectrum = spectra[k]
            if isinstance(spectrum, ShiftedSpectrum):
                index[row] = spectrum.shift[i, j, m]
        return self.shifts_hz[index]

    def power_at(
        self, spectra: Sequence[Spectrum], parameters: RealArray, user: NDArray[np.int64]
    ) -> RealArray:
        """Return the power (P,) of paths (P, 3) of users."""
        g, h, v = self._nearest_bins(parameters)
        power = [spectra[k].power[i, j, m] for k, i, j, m in zip(user, g, h, v, strict=True)]
        return np.array(power, dtype=float)
