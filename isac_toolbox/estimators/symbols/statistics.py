"""From received samples and symbol moments to the sufficient statistics of the channel."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from isac_toolbox.channel.atoms.dense import Statistics
from isac_toolbox.estimators.symbols.block import ReceivedBlock

__all__ = [
    "SymbolMoments",
    "data_statistics",
    "least_squares_channel",
    "pilot_statistics",
]

ComplexArray = NDArray[np.complex128]

# Tuned: a cell with a data symbol of a larger posterior variance (of a mean energy of one) is not used.
_UNCERTAIN = 0.5
# Guard: of the largest entry; one of the symbol Gram below this is orthogonality up to rounding.
_ROUNDING = 1e-12


@dataclass(frozen=True, eq=False)
class SymbolMoments:
    """Posterior moments of the symbols; pilots are exact.

    Attributes
    ----------
    mean : ndarray of complex, shape (K, N, T)
    variance : ndarray, shape (K, N, T)
    error_correlation : ndarray of complex, shape (N, T, K, K), optional
        Correlation coefficients ``corr(u_k, u_j)`` of the users' errors.
    """

    mean: ComplexArray
    variance: NDArray[np.float64]
    error_correlation: ComplexArray | None = None


def pilot_statistics(block: ReceivedBlock) -> Statistics:
    """Return the statistics of the cells in which every user's symbol is known (docs/theory.md, section 2).

    Raises
    ------
    ValueError
        If a user has no pilot energy in such cells.
    """
    used = np.all(block.known, axis=0)
    pilots = np.where(used, block.pilots, 0)
    silent = np.flatnonzero(np.sum(np.abs(pilots) ** 2, axis=(1, 2)) == 0)
    if silent.size:
        raise ValueError(
            f"pilot_mask: user(s) {silent.tolist()} send no pilot where every user's symbol is known"
        )
    symbol_gram = _symbol_gram(pilots)
    size = np.abs(symbol_gram)
    symbol_gram[size < _ROUNDING * size.max()] = 0
    return _statistics(block.received, pilots, symbol_gram, used)


def data_statistics(received: ComplexArray, moments: SymbolMoments) -> Statistics:
    """Return the statistics of a block with soft symbols, cells with an uncertain symbol left out.

    The users' symbol errors are correlated where their channels are alike; leaving that out of
    ``E[conj(u_k) u_j]`` would bias the channel towards wrong decisions (docs/theory.md, section 5).
    """
    used = np.max(moments.variance, axis=0) < _UNCERTAIN
    spread = np.sqrt(moments.variance * used)
    mean = moments.mean * used
    symbol_gram = _symbol_gram(mean)
    users = np.arange(len(spread))
    symbol_gram[:, users, users] += np.sum(spread**2, axis=2).T
    if moments.error_correlation is not None:
        errors = moments.error_correlation.copy()
        errors[:, :, users, users] = 0
        scaled = spread.transpose(1, 2, 0)
        errors *= scaled[:, :, :, None] * scaled[:, :, None, :]
        symbol_gram += errors.sum(axis=1).transpose(0, 2, 1)
    return _statistics(received, mean, symbol_gram, used)


def _symbol_gram(mean: ComplexArray) -> ComplexArray:
    """``sum_t conj(u_knt) u_jnt`` of the symbols' means (K, N, T), shape (N, K, K)."""
    by_subcarrier = mean.transpose(1, 0, 2)
    return np.matmul(by_subcarrier.conj(), by_subcarrier.transpose(0, 2, 1))


def _statistics(
    received: ComplexArray, mean: ComplexArray, symbol_gram: ComplexArray, used: NDArray[np.bool_]
) -> Statistics:
    """Statistics with ``Z_kn = sum_t y_nt E[conj(u_knt)]`` over used cells.

    The means (K, N, T) are zero in the other cells (N, T).
    """
    samples = received.transpose(0, 2, 1)
    cross_correlation = np.matmul(mean.transpose(1, 0, 2).conj(), samples).transpose(1, 0, 2)
    counted = received if used.all() else samples[used]
    energy = float(np.vdot(counted, counted).real)
    n_observations = int(np.count_nonzero(used)) * received.shape[1]
    return Statistics(symbol_gram, np.ascontiguousarray(cross_correlation), energy, n_observations)


def least_squares_channel(statistics: Statistics, frequencies_hz: NDArray[np.float64]) -> ComplexArray:
    """Return the least-squares channel ``H_n = R_n^+ Z_n`` of every user, shape (K, N, M).

    On subcarriers where a user sends nothing (comb) its channel is interpolated linearly over frequency.
    """
    inverse = np.linalg.pinv(statistics.symbol_gram, hermitian=True)
    channel = np.matmul(inverse, statistics.cross_correlation.transpose(1, 0, 2)).transpose(1, 0, 2)
    sounded = np.real(np.einsum("nkk->kn", statistics.symbol_gram)) > 0
    return np.stack([_interpolated(h, s, frequencies_hz) for h, s in zip(channel, sounded, strict=True)])


def _interpolated(
    channel: ComplexArray, sounded: NDArray[np.bool_], frequencies_hz: NDArray[np.float64]
) -> ComplexArray:
    """Linear interpolation over frequency from the subcarriers that were sounded, (N, M)."""
    if sounded.all():
        return channel
    order = np.argsort(frequencies_hz)
    known = order[sounded[order]]
    columns = [np.interp(frequencies_hz, frequencies_hz[known], column[known]) for column in channel.T]
    return np.stack(columns, axis=1)
