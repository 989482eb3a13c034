"""Paths that no shared scatterer explains."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["UnlocatedPaths"]


@dataclass(frozen=True, eq=False)
class UnlocatedPaths:
    """Paths given by direction and delay only (double bounces, clutter): P of them.

    Attributes
    ----------
    user : ndarray of int, shape (P,)
        User the path belongs to.
    direction_cosines : ndarray, shape (P, 2)
        Horizontal and vertical direction cosines at the array, a vector no longer than one. An estimate has 0
        for a cosine that a linear array does not see: the path is a cone around the array's axis.
    delay_s : ndarray, shape (P,)
        Propagation delay, clock offset removed.
    gain : ndarray of complex, shape (P,)
    probability : ndarray, shape (P,)
        1 in a simulation's truth.
    doppler_hz : ndarray, shape (P,), optional
        Doppler shift by motion, frequency offset removed; None for a static block.
    """

    user: NDArray[np.int64]
    direction_cosines: NDArray[np.float64]
    delay_s: NDArray[np.float64]
    gain: NDArray[np.complex128]
    probability: NDArray[np.float64]
    doppler_hz: NDArray[np.float64] | None = None

    def __len__(self) -> int:
        return int(self.user.size)

    @classmethod
    def none(cls) -> UnlocatedPaths:
        """Return no path at all."""
        return cls(np.zeros(0, np.int64), np.zeros((0, 2)), np.zeros(0), np.zeros(0, complex), np.zeros(0))
