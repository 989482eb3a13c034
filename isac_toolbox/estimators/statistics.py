"""From received samples and symbol moments to the sufficient statistics of the channel."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from isac_toolbox.channel.atoms import Statistics
from isac_toolbox.channel.observation import UplinkObservation

__all__ = ["SymbolMoments", "amplitude_scale", "data_statistics", "pilot_moments", "pilot_statistics"]

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


def pilot_moments(obs: UplinkObservation) -> SymbolMoments:
    """Pilots are known exactly; data have mean zero and variance one."""
    return SymbolMoments(obs.pilots, np.where(obs.known, 0.0, 1.0))


def pilot_statistics(obs: UplinkObservation, received: ComplexArray) -> Statistics:
    """Statistics of the cells in which every user's symbol is known (docs/theory.md, section 2).

    Raises
    ------
    ValueError
        If a user has no pilot energy in such cells.
    """
    used = obs.known.all(axis=0)
    pilots = np.where(used, obs.pilots, 0)
    silent = np.flatnonzero(np.sum(np.abs(pilots) ** 2, axis=(1, 2)) == 0)
    if silent.size:
        raise ValueError(
            f"pilot_mask: user(s) {silent.tolist()} send no pilot where every user's symbol is known"
        )
    return _statistics(np.where(used[:, None, :], received, 0), pilots, None, int(used.sum()))


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
