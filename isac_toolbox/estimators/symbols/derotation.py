"""How symbols of a moving block are turned back before they are compared (docs/theory.md, section 2.6)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

__all__ = ["Derotation"]

RealArray = NDArray[np.float64]
ComplexArray = NDArray[np.complex128]

# Cost cap: resource elements whose channels are held at once.
_MOST_CELLS = 2**11


@dataclass(frozen=True, eq=False)
class Derotation:
    """Present estimate of what turns all paths of a user alike.

    Attributes
    ----------
    times_s : ndarray, shape (T,)
        Centres of the OFDM symbols, relative to the reference time.
    nodes_s : ndarray, shape (Q,)
        Times at which statistics are kept: those of the symbols, or fewer between which is interpolated.
    doppler_hz : ndarray, shape (K,)
        Mean Doppler shifts of the users.
    phases_rad : ndarray, shape (K, T)
        Phases of the oscillators, station's and user's, beside what the Doppler shifts give.
    """

    times_s: RealArray
    nodes_s: RealArray
    doppler_hz: RealArray
    phases_rad: RealArray

    @property
    def factors(self) -> ComplexArray:
        """By which a user's symbols turn, shape (K, T)."""
        return np.asarray(
            np.exp(1j * (2 * np.pi * self.doppler_hz[:, None] * self.times_s + self.phases_rad))
        )

    @property
    def keeps_symbols(self) -> bool:
        """Whether statistics are kept symbol by symbol."""
        return self.nodes_s is self.times_s

    def parts(self, n_subcarriers: int) -> Iterator[NDArray[np.int64]]:
        """Runs of symbols whose resource elements are few enough for their channels to be held at once."""
        step = max(_MOST_CELLS // n_subcarriers, 1)
        for first in range(0, self.times_s.size, step):
            yield np.arange(first, min(first + step, self.times_s.size))

    def take(self, symbols: NDArray[np.int64]) -> Derotation:
        """Return the same for some OFDM symbols."""
        times = self.times_s[symbols]
        nodes = times if self.keeps_symbols else self.nodes_s
        return replace(self, times_s=times, nodes_s=nodes, phases_rad=self.phases_rad[:, symbols])
