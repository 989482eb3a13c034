"""From received samples and symbol moments to the sufficient statistics of the channel."""

from __future__ import annotations

from copy import copy
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from isac_toolbox.channel.atoms.dense import Statistics
from isac_toolbox.channel.observation import UplinkObservation

__all__ = [
    "SymbolMoments",
    "amplitude_scale",
    "data_statistics",
    "least_squares_channel",
    "pilot_statistics",
    "some_symbols",
    "split_symbols",
]

ComplexArray = NDArray[np.complex128]

# A cell with a data symbol less certain than this (posterior variance) is not used.
_UNCERTAIN = 0.5
# Of the users' mean pilot energy: a coupling below this is orthogonality up to rounding.
_ROUNDING = 1e-12


@dataclass(frozen=True, eq=False)
class SymbolMoments:
    """Posterior moments of the symbols; pilots are exact.

    Attributes
    ----------
    mean : ndarray of complex, shape (K, N, T)
    variance : ndarray, shape (K, N, T)
    correlation : ndarray of complex, shape (N, T, K, K), optional
        Correlation coefficients ``corr(u_k, u_j)`` of the users' errors.
    """

    mean: ComplexArray
    variance: NDArray[np.float64]
    correlation: ComplexArray | None = None


def amplitude_scale(obs: UplinkObservation) -> float:
    """Root mean square of the received block; estimators work on ``received / scale``."""
    peak = float(np.max(np.abs(obs.received)))
    return peak * float(np.sqrt(np.mean(np.abs(obs.received / peak) ** 2)))


def pilot_statistics(obs: UplinkObservation, received: ComplexArray) -> Statistics:
    """Statistics of the cells in which every user's symbol is known (docs/theory.md, section 2).

    Raises
    ------
    ValueError
        If a user has no pilot energy in such cells.
    """
    used = np.all(obs.known, axis=0)
    pilots = np.where(used, obs.pilots, 0)
    silent = np.flatnonzero(np.sum(np.abs(pilots) ** 2, axis=(1, 2)) == 0)
    if silent.size:
        raise ValueError(
            f"pilot_mask: user(s) {silent.tolist()} send no pilot where every user's symbol is known"
        )
    statistics = _statistics(received, pilots, None, used)
    size = np.abs(statistics.coupling)
    statistics.coupling[size < _ROUNDING * size.max()] = 0
    return statistics


def split_symbols(obs: UplinkObservation) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """OFDM symbols that are known all over, and those with data of some user."""
    has_data = np.any(~obs.known, axis=(0, 1))
    return np.flatnonzero(~has_data), np.flatnonzero(has_data)


def some_symbols(obs: UplinkObservation, symbols: NDArray[np.int64]) -> UplinkObservation:
    """The observation of some OFDM symbols; unlike one made by hand it may lack pilots."""
    part = copy(obs)
    for name in ("received", "pilots", "pilot_mask", "known"):
        object.__setattr__(part, name, getattr(obs, name)[..., symbols])
    return part


def data_statistics(received: ComplexArray, moments: SymbolMoments) -> Statistics:
    """Statistics of the block with soft symbols, cells with an uncertain symbol left out.

    The users' symbol errors are correlated where their channels are alike; leaving that out of
    ``E[conj(u_k) u_j]`` would bias the channel towards wrong decisions (docs/theory.md, section 5).
    """
    used = np.max(moments.variance, axis=0) < _UNCERTAIN
    spread = np.sqrt(moments.variance * used)
    statistics = _statistics(received, moments.mean * used, spread, used)
    if moments.correlation is not None:
        users = np.arange(len(spread))
        errors = moments.correlation.copy()
        errors[:, :, users, users] = 0
        scaled = spread.transpose(1, 2, 0)
        errors *= scaled[:, :, :, None] * scaled[:, :, None, :]
        statistics.coupling[:] += errors.sum(axis=1).transpose(0, 2, 1)
    return statistics


def _statistics(
    received: ComplexArray,
    mean: ComplexArray,
    spread: NDArray[np.float64] | None,
    used: NDArray[np.bool_],
) -> Statistics:
    """``R_n[k, j] = sum_t E[conj(u_knt) u_jnt]`` and ``Z_kn = sum_t y_nt E[conj(u_knt)]`` over used cells.

    The means (K, N, T) are zero in the other cells (N, T).
    """
    by_subcarrier = mean.transpose(1, 0, 2)
    coupling = np.matmul(by_subcarrier.conj(), by_subcarrier.transpose(0, 2, 1))
    if spread is not None:
        users = np.arange(mean.shape[0])
        coupling[:, users, users] += np.sum(spread**2, axis=2).T
    samples = received.transpose(0, 2, 1)
    correlation = np.matmul(by_subcarrier.conj(), samples).transpose(1, 0, 2)
    counted = received if used.all() else samples[used]
    energy = float(np.vdot(counted, counted).real)
    n_observations = int(np.count_nonzero(used)) * received.shape[1]
    return Statistics(coupling, np.ascontiguousarray(correlation), energy, n_observations)


def least_squares_channel(statistics: Statistics, frequencies_hz: NDArray[np.float64]) -> ComplexArray:
    """Least-squares channel ``H_n = R_n^+ Z_n`` of every user, shape (K, N, M).

    On subcarriers where a user sends nothing (comb) its channel is interpolated linearly over frequency.
    """
    inverse = np.linalg.pinv(statistics.coupling, hermitian=True)
    channel = np.matmul(inverse, statistics.correlation.transpose(1, 0, 2)).transpose(1, 0, 2)
    sounded = np.real(np.einsum("nkk->kn", statistics.coupling)) > 0
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
