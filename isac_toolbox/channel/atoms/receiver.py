"""What an estimator knows about the receiver: array, place, subcarriers and wavefront model."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from isac_toolbox.channel.array import SPEED_OF_LIGHT_M_S, AntennaArray, UniformPlanarArray
from isac_toolbox.channel.atoms.whitening import Whitening
from isac_toolbox.channel.observation import UplinkObservation

__all__ = ["Raster", "Receiver", "tone_step_hz"]

RealArray = NDArray[np.float64]
ComplexArray = NDArray[np.complex128]

# Cost cap: places of a raster per subcarrier; beyond, sums over subcarriers cost less than transforms.
_PLACES_PER_TONE = 4
# Guard: distance of a subcarrier from its place on the raster, in steps.
_OFF_RASTER = 1e-8
# Cost cap: fine factors of delays below which a product of factors costs as much as all exponentials.
_FEWEST_FACTORS = 4
# Guard: distance from even wavenumbers that rounding explains, relative to the largest.
_ROUNDING = 1e-14


@dataclass(frozen=True, eq=False)
class Raster:
    """Subcarriers as places on an even raster, in any order and with holes (DC, guards, resource blocks).

    Attributes
    ----------
    step_hz : float
    size : int
        Places from the lowest subcarrier to the highest.
    place : ndarray of int, shape (N,)
        Of every subcarrier; the lowest has 0.
    """

    step_hz: float
    size: int
    place: NDArray[np.int64]

    @classmethod
    def of(cls, frequencies_hz: RealArray) -> Raster | None:
        """Return the raster with the largest step that holds all subcarriers, None where there is none.

        Nor is there one with more than four places per subcarrier.
        """
        if frequencies_hz.size < 2:
            return None
        from_lowest = frequencies_hz - frequencies_hz.min()
        least = float(from_lowest.max()) / (_PLACES_PER_TONE * frequencies_hz.size)
        step = _common_step(np.diff(np.sort(frequencies_hz)), least)
        if step is None:
            return None
        place = np.rint(from_lowest / step).astype(np.int64)
        if np.max(np.abs(from_lowest / step - place)) > _OFF_RASTER * place.max():
            return None
        return cls(step, int(place.max()) + 1, place)

    @property
    def has_holes(self) -> bool:
        """Whether places between the lowest and the highest subcarrier are empty."""
        return self.size > self.place.size

    def spread(self, values: NDArray[Any]) -> NDArray[Any]:
        """Return values of the subcarriers (..., N) on the raster (..., size), zero in holes."""
        out = np.zeros((*values.shape[:-1], self.size), values.dtype)
        out[..., self.place] = values
        return out

    def rows(self, values: NDArray[Any]) -> NDArray[Any]:
        """Return values of the subcarriers (N, X) by place (size, X), the same where that changes nothing."""
        if np.array_equal(self.place, np.arange(self.size)):
            return values
        return self.spread(values.T).T


def _common_step(distances: RealArray, least: float) -> float | None:
    """Largest step, not below ``least``, of which all distances are multiples (Euclid's algorithm)."""
    step = float(distances.min())
    while step >= least > 0:
        rest = np.abs(distances - step * np.rint(distances / step))
        broken = rest > _OFF_RASTER * distances
        if not broken.any():
            return step
        step = float(rest[broken].min())
    return None


@dataclass(frozen=True, eq=False)
class Receiver:
    """What the receiver knows about itself: array, position, subcarriers, wavefront model, elements in use.

    Elements outside ``element_mask`` (M,) take no part in inner products (their correlations ``Z`` are zero);
    channels are synthesised for them as well. None: all are in use. Under a ``whitening`` all responses, and
    channels that are synthesised of them, are those of whitened samples; with ``coupling`` (M, M) they are
    behind what the elements hear of each other.
    """

    array: AntennaArray
    bs_position_m: RealArray
    frequencies_hz: RealArray
    wavefront: str = "planar"
    carrier_hz: float | None = None
    beam_squint: bool = False
    element_mask: NDArray[np.bool_] | None = None
    whitening: Whitening | None = None
    coupling: ComplexArray | None = None

    @classmethod
    def of(cls, obs: UplinkObservation) -> Receiver:
        """Return the receiver of an observation."""
        return cls(
            array=obs.array,
            bs_position_m=np.zeros(3) if obs.geometry is None else obs.geometry.bs_position_m.copy(),
            frequencies_hz=obs.subcarrier_frequencies_hz,
            wavefront=obs.wavefront,
            carrier_hz=obs.carrier_hz,
            beam_squint=obs.beam_squint,
            element_mask=_elements_in_use(obs),
        )

    @property
    def n_elements(self) -> int:
        """Number of elements in use."""
        if self.element_mask is None:
            return self.array.n_elements
        return int(np.count_nonzero(self.element_mask))

    @property
    def is_plain(self) -> bool:
        """Whether samples have the responses of the elements as they are."""
        return self.whitening is None and self.coupling is None

    def heard(self, responses: ComplexArray) -> ComplexArray:
        """Return responses (..., M) of the elements as the samples have them: coupled, then whitened."""
        coupled = responses if self.coupling is None else responses @ self.coupling.T
        return self.whitened(coupled)

    def matched(self, samples: ComplexArray) -> ComplexArray:
        """Return the adjoint of :meth:`heard` of samples (..., M)."""
        samples = self.whitened(samples)
        return samples if self.coupling is None else samples @ self.coupling.conj()

    def whitened(self, values: ComplexArray) -> ComplexArray:
        """Return channels or samples (..., M) on the elements whitened, where the block is."""
        return values if self.whitening is None else self.whitening.apply(values)

    def stated(self, values: ComplexArray) -> ComplexArray:
        """Return channels or samples (..., M) as they are on the elements, whitened or not."""
        return values if self.whitening is None else self.whitening.undo(values)

    @cached_property
    def hole_slopes(self) -> RealArray:
        """Phase slopes (horizontal, vertical) of a planar array's elements left out, shape (H, 2)."""
        if self.element_mask is None or not isinstance(self.array, UniformPlanarArray):
            return np.zeros((0, 2))
        slope_h, slope_v = self.array.phase_slopes
        column, row = np.divmod(np.flatnonzero(~self.element_mask), self.array.shape[1])
        return np.column_stack([slope_h[column], slope_v[row]])

    @cached_property
    def wavenumbers_per_m(self) -> RealArray:
        """Phase per metre of path length on every subcarrier, ``2 pi f_n / c``, shape (N,)."""
        return 2 * np.pi * self.frequencies_hz / SPEED_OF_LIGHT_M_S

    def delay_factors(self, lengths_m: RealArray) -> ComplexArray:
        """Return ``exp(-j w_n l)`` of lengths (L,), shape (N, L).

        Where subcarriers are equally spaced as a product of few coarse and few fine factors.
        """
        wavenumbers, step = self.wavenumbers_per_m, self._even_step_per_m
        n_fine = int(np.sqrt(wavenumbers.size))
        if step is None or n_fine < _FEWEST_FACTORS:
            return np.asarray(np.exp(-1j * wavenumbers[:, None] * lengths_m))
        coarse = np.exp(-1j * wavenumbers[::n_fine, None] * lengths_m)
        fine = np.exp(-1j * (step * np.arange(n_fine))[:, None] * lengths_m)
        both = (coarse[:, None] * fine).reshape(len(coarse) * n_fine, len(lengths_m))
        return both[: wavenumbers.size]

    @cached_property
    def _even_step_per_m(self) -> float | None:
        """Step of wavenumbers that are even to rounding, None where they are not."""
        wavenumbers = self.wavenumbers_per_m
        even = np.linspace(wavenumbers[0], wavenumbers[-1], wavenumbers.size)
        if np.max(np.abs(wavenumbers - even)) > _ROUNDING * np.max(np.abs(wavenumbers)):
            return None
        return float(wavenumbers[-1] - wavenumbers[0]) / max(wavenumbers.size - 1, 1)

    @cached_property
    def raster(self) -> Raster | None:
        """The raster that the subcarriers are on, None where they are irregular."""
        return Raster.of(self.frequencies_hz)

    @cached_property
    def equally_spaced(self) -> bool:
        """Whether subcarriers ascend in equal steps."""
        spacing = np.diff(self.frequencies_hz)
        return bool(spacing.size and spacing[0] > 0 and np.ptp(spacing) <= 1e-9 * spacing[0])

    @cached_property
    def cross_axes(self) -> RealArray:
        """Horizontal and vertical axis of the array, shape (2, 3)."""
        return self.array.axes[1:]

    @property
    def squint_m(self) -> float:
        """Inverse wavenumber of the carrier, ``c / (2 pi f_c)``; zero where beam squint is not modelled."""
        if not self.beam_squint:
            return 0.0
        assert self.carrier_hz is not None
        return SPEED_OF_LIGHT_M_S / (2 * np.pi * self.carrier_hz)


def _elements_in_use(obs: UplinkObservation) -> NDArray[np.bool_] | None:
    """Elements with usable samples, None where all are.

    With beam squint an array response is no product that elements can be taken out of; there they count as
    single missing samples (``Statistics.missing``).
    """
    if obs.beam_squint or obs.usable_elements.all():
        return None
    return obs.usable_elements


def tone_step_hz(frequencies_hz: RealArray, used: NDArray[np.bool_]) -> float:
    """Return the largest step of which all distances of the used tones (N,) are multiples.

    Delays that differ by its inverse look the same on these tones. A single tone has the step of all.
    """
    raster = Raster.of(frequencies_hz)
    spacing = float(np.min(np.diff(np.sort(frequencies_hz)))) if raster is None else raster.step_hz
    distances = np.rint((frequencies_hz[used] - frequencies_hz[used][:1]) / spacing).astype(int)
    return spacing * max(int(np.gcd.reduce(distances)), 1)
