"""Search for paths in a residual: matched filter over direction and delay, constant false-alarm rate."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from itertools import product

import numpy as np
from numpy.typing import NDArray
from scipy import fft
from scipy.ndimage import maximum_filter

from isac_toolbox.channel.array import SPEED_OF_LIGHT_M_S
from isac_toolbox.channel.observation import UplinkObservation
from isac_toolbox.channel.scene import Receiver

__all__ = ["PathSearch"]

RealArray = NDArray[np.float64]
ComplexArray = NDArray[np.complex128]

_OVERSAMPLING = 2
_SIDELOBE_FREE = 0.3
_EXPONENTIAL_MEDIAN = np.log(2.0)


@dataclass(frozen=True, eq=False)
class PathSearch:
    """Matched filter on a grid of path length and direction cosines, oversampled twofold.

    Parameters
    ----------
    receiver : Receiver
    min_length_m, max_length_m : float
        Window of observed path lengths; cut to one unambiguous interval.
    """

    receiver: Receiver
    min_length_m: float
    max_length_m: float

    @classmethod
    def for_observation(cls, obs: UplinkObservation) -> PathSearch:
        """Window from the shortest possible line of sight to the longest path through the region.

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
        return cls(Receiver.of(obs), float(direct.min()) - margin, 2 * longest + margin)

    @cached_property
    def lengths_m(self) -> RealArray:
        """Grid of path lengths, shape (G,)."""
        frequencies = self.receiver.frequencies_hz
        spacing = np.min(np.diff(np.sort(frequencies)))
        unambiguous = SPEED_OF_LIGHT_M_S / spacing
        step = SPEED_OF_LIGHT_M_S / (np.ptp(frequencies) + spacing) / _OVERSAMPLING
        window = min(self.max_length_m - self.min_length_m, unambiguous - step / 2)
        return self.min_length_m + step * np.arange(max(int(window / step) + 1, 1))

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

    def spectrum(self, residual: ComplexArray, energy: float) -> RealArray:
        """Matched-filter power ``|phi^H e|^2 / |phi|^2`` of a residual (N, M), shape (G, G_h, G_v)."""
        array = self.receiver.array
        grid_shape = [_OVERSAMPLING * n for n in array.shape]
        cube = residual.reshape(-1, *array.shape)
        angular = fft.fft2(cube, s=grid_shape, axes=(1, 2)).reshape(cube.shape[0], -1)
        filtered = self._to_delay @ angular
        power = (filtered.real**2 + filtered.imag**2).reshape(-1, *grid_shape) / energy
        return np.where(self._visible, power, 0.0)

    def noise_level(self, spectrum: RealArray) -> float:
        """Noise power in a spectrum from its median (an exponential law)."""
        inside = spectrum[:, self._visible]
        return float(np.median(inside) / _EXPONENTIAL_MEDIAN)

    def user_noise_level(self, residual: ComplexArray, energies: RealArray) -> float:
        """Noise power in the residual correlations (K, N, M) of all users."""
        spectra = [self.spectrum(e, d) for e, d in zip(residual, energies, strict=True)]
        return max(float(np.median([self.noise_level(s) for s in spectra])), 1e-300)

    def threshold(self, noise_level: float, false_alarm_rate: float) -> float:
        """Power that noise exceeds anywhere in the window with probability ``false_alarm_rate``."""
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
        """Paths of all users that a residual (K, N, M) shows above the noise.

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
        spectra = [self.spectrum(e, d) for e, d in zip(residual, energies, strict=True)]
        if noise_level is None:
            noise_level = float(np.median([self.noise_level(s) for s in spectra]))
        level = max(noise_level, noise_floor, 1e-300)
        threshold = self.threshold(level, false_alarm_rate)
        found = [self.peaks(s, threshold)[:n] for s, n in zip(spectra, room, strict=True)]
        user = np.repeat(np.arange(len(found)), [len(f) for f in found])
        return np.concatenate(found), user, level

    def peaks(self, spectrum: RealArray, threshold: float) -> RealArray:
        """Local maxima (length, u_h, u_v) above the threshold, highest first, shape (P, 3).

        Maxima below ``_SIDELOBE_FREE`` times the highest may be its sidelobes and are left for another
        round; maxima closer than a resolution cell in every dimension count as one. Directions wrap around.
        """
        floor = max(threshold, _SIDELOBE_FREE * float(spectrum.max(initial=0.0)))
        size = 2 * _OVERSAMPLING + 1
        highest = maximum_filter(spectrum, size=size, mode=("nearest", "wrap", "wrap"))
        where = np.nonzero((spectrum >= floor) & (spectrum == highest) & (spectrum > 0))
        u_h, u_v = self.cosine_grids
        order = np.argsort(-spectrum[where], kind="stable")
        return np.column_stack([self.lengths_m[where[0]], u_h[where[1]], u_v[where[2]]])[order]
