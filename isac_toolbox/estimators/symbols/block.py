"""The samples and known symbols of a block, scaled to unit mean power."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from isac_toolbox.channel.atoms.receiver import Receiver
from isac_toolbox.channel.atoms.whitening import Whitening
from isac_toolbox.channel.observation import UplinkObservation
from isac_toolbox.estimators.symbols.coupling import Coupling
from isac_toolbox.estimators.symbols.derotation import Derotation

__all__ = ["Masks", "ReceivedBlock"]

ComplexArray = NDArray[np.complex128]
BoolArray = NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Masks:
    """Which samples of a block can be used; the others are zero.

    Attributes
    ----------
    elements : ndarray of bool, shape (M,)
        Elements that the receiver's atoms run over.
    cells : ndarray of bool, shape (N, T)
        Subcarriers and symbols with some usable sample.
    samples : ndarray of bool, shape (N, M, T), optional
        Usable samples, where single ones are missing beside whole elements and cells.
    """

    elements: BoolArray
    cells: BoolArray
    samples: BoolArray | None = None

    @classmethod
    def of(cls, obs: UplinkObservation) -> Masks | None:
        """Return an observation's masks, None where nothing is masked."""
        if obs.usable is None:
            return None
        mask = Receiver.of(obs).element_mask
        elements = np.ones(obs.array.n_elements, bool) if mask is None else mask
        whole = elements[:, None] & obs.usable_cells[:, None, :]
        single = None if np.array_equal(whole, obs.usable) else obs.usable
        return cls(elements, obs.usable_cells, single)

    def take(self, symbols: NDArray[np.int64]) -> Masks:
        """Return the masks of some OFDM symbols."""
        samples = None if self.samples is None else self.samples.take(symbols, axis=2)
        return Masks(self.elements, self.cells[:, symbols], samples)

    def share(self) -> NDArray[np.float64]:
        """Return the share of the elements whose sample is usable, shape (N, T)."""
        if self.samples is None:
            return self.cells.astype(float)
        return np.sum(self.samples, axis=1) / np.count_nonzero(self.elements)

    def count(self, used: BoolArray) -> int:
        """Return the number of usable samples in some cells (N, T)."""
        if self.samples is None:
            return int(np.count_nonzero(used & self.cells)) * int(np.count_nonzero(self.elements))
        return int(np.count_nonzero(self.samples & used[:, None, :]))


# Guard: peaks of samples, and of pilots in single precision, whose squares and sums of them floats hold.
_SAMPLES, _PILOTS = (1e-160, 1e154), (1e-6, 1e12)
# Guard: peaks of samples whose energy floats hold without a scale.
_SQUARES = (1e-140, 1e140)
# Cost cap: samples whose powers are held at once.
_MOST_AT_ONCE = 2**16


@dataclass(frozen=True, eq=False)
class ReceivedBlock:
    """Samples and known symbols of a block, or of some of its OFDM symbols.

    Attributes
    ----------
    received : ndarray of complex, shape (N, M, T)
        Samples divided by ``scale``.
    pilots : ndarray of complex, shape (K, N, T)
        Known symbols, zero elsewhere.
    known : ndarray of bool, shape (K, N, T)
        Where a user's symbol is known.
    constellation : ndarray of complex, shape (Q,)
    scale : float
        Amplitude that the samples were divided by.
    masks : Masks, optional
        Of the samples, where some are masked.
    derotation : Derotation, optional
        How the users' symbols turn, where the block moves.
    response : ndarray of complex, shape (M,), optional
        By which the samples of every element were divided.
    whitening : Whitening, optional
        Of the noise over the array, which the samples then went through.
    coupling : Coupling, optional
        What elements are taken to hear of each other; the samples are as they came.
    """

    received: ComplexArray
    pilots: ComplexArray
    known: NDArray[np.bool_]
    constellation: ComplexArray
    scale: float
    masks: Masks | None = None
    derotation: Derotation | None = None
    response: ComplexArray | None = None
    whitening: Whitening | None = None
    coupling: Coupling | None = None

    @classmethod
    def of(cls, obs: UplinkObservation, scale: float | None = None) -> ReceivedBlock:
        """Return an observation's block, scaled to unit mean power or by a given amplitude.

        Raises
        ------
        ValueError
            If squares of samples or pilots would leave the range of floats.
        """
        if not _far_inside(obs.received, _SAMPLES):
            _check_peak("received", float(np.max(np.abs(obs.received))), _SAMPLES)
        for pilots in obs.pilots:
            if not _far_inside(pilots, _PILOTS):
                _check_peak("pilots", float(np.max(np.abs(pilots))), _PILOTS)
        amplitude = amplitude_scale(obs) if scale is None else scale
        samples = np.ascontiguousarray(obs.received, complex)
        return cls(
            (samples.view(float) / amplitude).view(complex),
            obs.pilots,
            obs.known,
            obs.constellation.copy(),
            amplitude,
            Masks.of(obs),
        )

    def with_response(self, response: ComplexArray) -> ReceivedBlock:
        """Return the block with its samples divided by other responses of the elements (M,)."""
        if self.response is None and np.all(response == 1):
            return self
        factor = response if self.response is None else response / self.response
        received = self.unwhitened_samples / factor[:, None]
        again = replace(self, received=received, response=response, whitening=None)
        return again.whitened(self.whitening)

    def whitened(self, whitening: Whitening | None) -> ReceivedBlock:
        """Return the block with its samples whitened over the array by another whitening, or by none."""
        if whitening is self.whitening:
            return self
        received = self.unwhitened_samples
        if whitening is not None:
            received = np.matmul(whitening.matrix, received)
        return replace(self, received=received, whitening=whitening)

    @property
    def unwhitened_samples(self) -> ComplexArray:
        """Samples as the elements have them, shape (N, M, T)."""
        return self.received if self.whitening is None else np.matmul(self.whitening.inverse, self.received)

    @property
    def n_users(self) -> int:
        """Number of users K."""
        return int(self.pilots.shape[0])

    @cached_property
    def cell_energies(self) -> NDArray[np.float64]:
        """Energy over the elements, shape (N, T)."""
        return self.energies()[1]

    def energies(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return the energy over the symbols (N, M), and over the elements (N, T)."""
        n_sub, n_elements, n_symbols = self.received.shape
        over_symbols, over_elements = np.empty((n_sub, n_elements)), np.empty((n_sub, n_symbols))
        step = max(_MOST_AT_ONCE // max(n_elements * n_symbols, 1), 1)
        for part in (slice(first, first + step) for first in range(0, n_sub, step)):
            power = self.received[part].real ** 2 + self.received[part].imag ** 2
            over_symbols[part] = np.einsum("nmt->nm", power)
            over_elements[part] = np.einsum("nmt->nt", power)
        return over_symbols, over_elements

    @property
    def has_samples(self) -> BoolArray:
        """Subcarriers and symbols with some usable sample, shape (N, T)."""
        return np.ones(self.known.shape[1:], bool) if self.masks is None else self.masks.cells

    def take(self, symbols: NDArray[np.int64]) -> ReceivedBlock:
        """Return the block of some OFDM symbols."""
        if np.array_equal(symbols, np.arange(self.known.shape[2])):
            return self
        which: NDArray[np.int64] | slice = symbols
        if symbols.size and np.array_equal(symbols, np.arange(symbols[0], symbols[-1] + 1)):
            which = slice(symbols[0], symbols[-1] + 1)  # no copy of what lies together
        return replace(
            self,
            received=self.received[..., which],
            pilots=self.pilots[..., which],
            known=self.known[..., which],
            masks=None if self.masks is None else self.masks.take(symbols),
            derotation=None if self.derotation is None else self.derotation.take(symbols),
        )

    def by_cell(self) -> ReceivedBlock:
        """Return the block as one OFDM symbol, with its resource elements in the subcarriers' place."""
        n_sub, n_elements, n_symbols = self.received.shape
        shape = (self.n_users, n_sub * n_symbols, 1)
        masks = self.masks
        if masks is not None:
            masks = Masks(masks.elements, masks.cells.reshape(shape[1:]))
        return replace(
            self,
            received=self.received.transpose(0, 2, 1).reshape(shape[1], n_elements, 1),
            pilots=self.pilots.reshape(shape),
            known=self.known.reshape(shape),
            masks=masks,
        )

    @property
    def has_data(self) -> BoolArray:
        """OFDM symbols with data of some user, shape (T,)."""
        return np.asarray(np.any(~self.known, axis=(0, 1)))

    def divided(self) -> tuple[ReceivedBlock, ReceivedBlock]:
        """Return the OFDM symbols that hold pilots alone, and those with data of some user."""
        return self.take(np.flatnonzero(~self.has_data)), self.take(np.flatnonzero(self.has_data))


def _far_inside(values: ComplexArray, limits: tuple[float, float]) -> bool:
    """Whether the largest magnitude is ten times away from its limits, by real and imaginary parts."""
    low, high = limits
    highest = max(float(np.max(np.abs(part))) for part in (values.real, values.imag))
    return 10 * low < highest < high / 10


def _check_peak(name: str, peak: float, limits: tuple[float, float]) -> None:
    low, high = limits
    if not 0.99 * low <= peak <= 1.01 * high:  # a rounding more or less
        raise ValueError(
            f"{name} must have a largest magnitude between {low:g} and {high:g} to estimate from, as sums of "
            f"squares leave the range of floats otherwise, got {peak:.4g}; scale it"
        )


def amplitude_scale(obs: UplinkObservation) -> float:
    """Return the root mean square of the usable samples."""
    n_samples = obs.received.size if obs.usable is None else np.count_nonzero(obs.usable)
    if _far_inside(obs.received, _SQUARES):
        return float(np.sqrt(np.vdot(obs.received, obs.received).real / n_samples))
    peak = float(np.max(np.abs(obs.received)))
    parts = (obs.received / peak).view(float).ravel()
    return peak * float(np.sqrt(parts @ parts / n_samples))
