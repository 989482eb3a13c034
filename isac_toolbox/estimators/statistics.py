"""From received samples and symbol moments to the sufficient statistics of the channel."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from isac_toolbox.channel.atoms import Statistics
from isac_toolbox.channel.observation import UplinkObservation

__all__ = [
    "SymbolMoments",
    "amplitude_scale",
    "data_statistics",
    "least_squares_channel",
    "pilot_statistics",
]

ComplexArray = NDArray[np.complex128]


@dataclass(frozen=True, eq=False)
class SymbolMoments:
    """Posterior mean and variance of every symbol, each (K, N, T); pilots are exact."""

    mean: ComplexArray
    variance: NDArray[np.float64]


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
    return _statistics(received * used[:, None, :], pilots, None, int(np.count_nonzero(used)))


def data_statistics(received: ComplexArray, moments: SymbolMoments) -> Statistics:
    """Statistics of the whole block, with soft symbols."""
    n_sub, _, n_symbols = received.shape
    return _statistics(received, moments.mean, moments.variance, n_sub * n_symbols)


def _statistics(
    received: ComplexArray, mean: ComplexArray, variance: NDArray[np.float64] | None, n_cells: int
) -> Statistics:
    """``R_n[k, j] = sum_t E[conj(u_knt) u_jnt]`` and ``Z_kn = sum_t y_nt E[conj(u_knt)]``."""
    by_subcarrier = mean.transpose(1, 0, 2)
    coupling = np.matmul(by_subcarrier.conj(), by_subcarrier.transpose(0, 2, 1))
    if variance is not None:
        users = np.arange(mean.shape[0])
        coupling[:, users, users] += variance.sum(axis=2).T
    correlation = np.matmul(by_subcarrier.conj(), received.transpose(0, 2, 1)).transpose(1, 0, 2)
    energy = float(np.vdot(received, received).real)
    return Statistics(coupling, np.ascontiguousarray(correlation), energy, n_cells * received.shape[1])


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
