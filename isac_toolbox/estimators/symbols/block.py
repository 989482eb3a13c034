"""The samples and known symbols of a block, scaled to unit mean power."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from isac_toolbox.channel.observation import UplinkObservation

__all__ = ["ReceivedBlock"]

ComplexArray = NDArray[np.complex128]

# Guard: peaks of samples, and of pilots in single precision, whose squares and sums of them floats hold.
_SAMPLES, _PILOTS = (1e-160, 1e154), (1e-6, 1e12)


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
    """

    received: ComplexArray
    pilots: ComplexArray
    known: NDArray[np.bool_]
    constellation: ComplexArray
    scale: float

    @classmethod
    def of(cls, obs: UplinkObservation, scale: float | None = None) -> ReceivedBlock:
        """Return an observation's block, scaled to unit mean power or by a given amplitude.

        Raises
        ------
        ValueError
            If squares of samples or pilots would leave the range of floats.
        """
        _check_peak("received", float(np.max(np.abs(obs.received))), _SAMPLES)
        for peak in np.max(np.abs(obs.pilots), axis=(1, 2)):
            _check_peak("pilots", float(peak), _PILOTS)
        amplitude = amplitude_scale(obs) if scale is None else scale
        return cls(obs.received / amplitude, obs.pilots, obs.known, obs.constellation, amplitude)

    @property
    def n_users(self) -> int:
        """Number of users K."""
        return int(self.pilots.shape[0])

    def take(self, symbols: NDArray[np.int64]) -> ReceivedBlock:
        """Return the block of some OFDM symbols."""
        return replace(
            self,
            received=self.received.take(symbols, axis=2),
            pilots=self.pilots[..., symbols],
            known=self.known[..., symbols],
        )

    def divided(self) -> tuple[ReceivedBlock, ReceivedBlock]:
        """Return the OFDM symbols that hold pilots alone, and those with data of some user."""
        has_data = np.any(~self.known, axis=(0, 1))
        return self.take(np.flatnonzero(~has_data)), self.take(np.flatnonzero(has_data))


def _check_peak(name: str, peak: float, limits: tuple[float, float]) -> None:
    low, high = limits
    if not 0.99 * low <= peak <= 1.01 * high:  # a rounding more or less
        raise ValueError(
            f"{name} must have a largest magnitude between {low:g} and {high:g} to estimate from, as sums of "
            f"squares leave the range of floats otherwise, got {peak:.4g}; scale it"
        )


def amplitude_scale(obs: UplinkObservation) -> float:
    """Return the root mean square of the received block."""
    peak = float(np.max(np.abs(obs.received)))
    return peak * float(np.sqrt(np.mean(np.abs(obs.received / peak) ** 2)))
