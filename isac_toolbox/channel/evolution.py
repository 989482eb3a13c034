"""A channel over the symbols of a block: a few parts that stand still, and how much of each a symbol has."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from isac_toolbox._validation import as_indices, check_finite, check_shape

__all__ = ["ChannelEvolution", "check_symbol_indices"]

ComplexArray = NDArray[np.complex128]


@dataclass(frozen=True, eq=False)
class ChannelEvolution:
    """``h_knmt = sum_r curves[k, r, t] parts[r, k, n, m]``: R parts and their curves over time.

    Attributes
    ----------
    parts : ndarray of complex, shape (R, K, N, M)
    curves : ndarray of complex, shape (K, R, T)

    Raises
    ------
    ValueError
        If shapes disagree or values are not finite.

    Notes
    -----
    Parts may be moments of a channel over Doppler, ``sum_l x_l (j d_l)^p b a``, with the curves
    ``s_t^p / p!`` times the phases that all paths of a user share (:meth:`from_moments`).
    """

    parts: ComplexArray
    curves: ComplexArray

    def __post_init__(self) -> None:
        check_shape("parts", self.parts, (None, None, None, None), "(R, K, N, M)")
        n_parts, n_users = self.parts.shape[:2]
        check_shape("curves", self.curves, (n_users, n_parts, None), "(K, R, T)")
        check_finite("parts", self.parts)
        check_finite("curves", self.curves)

    @classmethod
    def from_moments(
        cls, moments: ComplexArray, scaled_times: NDArray[np.float64], factors: ComplexArray
    ) -> ChannelEvolution:
        """Return the evolution of a power series in time.

        Parameters
        ----------
        moments : ndarray of complex, shape (P + 1, K, N, M)
            ``sum_l x_l (j d_l)^p b a`` of every user's paths, ``d_l`` the phase that path ``l`` has beyond
            ``factors`` at a scaled time of one.
        scaled_times : ndarray, shape (T,)
            ``s_t``, between -1 and 1.
        factors : ndarray of complex, shape (K, T)
            What all paths of a user turn by.
        """
        powers = np.ones((len(moments), scaled_times.size))
        for p in range(1, len(moments)):
            powers[p] = powers[p - 1] * scaled_times / p
        return cls(parts=moments, curves=factors[:, None, :] * powers)

    @property
    def n_symbols(self) -> int:
        """Number of OFDM symbols T."""
        return int(self.curves.shape[2])

    def at(self, symbols: Sequence[int]) -> ComplexArray:
        """Return the channel at OFDM symbols, shape (K, N, M, len(symbols)).

        Raises
        ------
        TypeError, ValueError
            If they are no indices of symbols.
        """
        index = check_symbol_indices(symbols, self.n_symbols)
        return np.einsum("rknm,krt->knmt", self.parts, self.curves[..., index], optimize=True)


def check_symbol_indices(symbols: Sequence[int], n_symbols: int) -> NDArray[np.int64]:
    """Return indices of OFDM symbols as an array.

    Raises
    ------
    TypeError, ValueError
        If they are not integers from 0 to ``n_symbols - 1``.
    """
    index = as_indices("symbols", symbols)
    check_shape("symbols", index, (None,), "a sequence of indices")
    if index.size and (index.min() < 0 or index.max() >= n_symbols):
        raise ValueError(f"symbols must be indices in 0..{n_symbols - 1}, got {index.min()} to {index.max()}")
    return index
