"""Phases of the oscillators from symbol to symbol, a random walk each (docs/theory.md, section 5.9)."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from isac_toolbox.estimators.scene.derotation import channels_of
from isac_toolbox.estimators.scene.fit import Fit
from isac_toolbox.estimators.symbols.block import ReceivedBlock
from isac_toolbox.estimators.symbols.derotation import Derotation
from isac_toolbox.estimators.symbols.phases import PhasePrior
from isac_toolbox.estimators.symbols.statistics import SymbolMoments

__all__ = ["phases_of"]

RealArray = NDArray[np.float64]
ComplexArray = NDArray[np.complex128]
BoolArray = NDArray[np.bool_]

# Tuned: Gauss-Newton steps; the phases of a symbol move by less than a radian at once.
_STEPS = 3


def phases_of(
    prior: PhasePrior, fit: Fit, block: ReceivedBlock, moments: SymbolMoments, used: BoolArray
) -> tuple[Derotation, RealArray]:
    """Return the derotation of a block with the most probable phases, and their deviations (K, T).

    Gauss-Newton on the phases of all users, channels and symbols as they are.

    Parameters
    ----------
    prior : PhasePrior
    fit : Fit
        Whose paths make the channels.
    block : ReceivedBlock
    moments : SymbolMoments
        Of all symbols of the block.
    used : ndarray of bool, shape (N, T)
        Cells to compare.
    """
    derotation = block.derotation
    assert derotation is not None
    gamma, basis = fit.problem.noise_precision, prior.basis
    n_users, n_times = derotation.phases_rad.shape
    matched, gram = _inner_products(fit, block, moments, used)
    phases = derotation.phases_rad
    covariance = np.zeros((n_users * basis.shape[1],) * 2)
    for _ in range(_STEPS):
        turn = np.exp(1j * (phases - derotation.phases_rad))
        coupled = turn.conj()[:, None] * gram * turn[None]
        left = turn.conj() * matched - coupled.sum(axis=1)
        hessian = np.zeros((n_users, n_times, n_users, n_times))
        at = np.arange(n_times)
        hessian[:, at, :, at] = 2 * gamma * coupled.real.transpose(2, 0, 1)
        in_basis = np.einsum("ktjs,tb,sc->kbjc", hessian, basis, basis, optimize=True)
        covariance = np.linalg.inv(in_basis.reshape(covariance.shape) + prior.precision)
        gradient = 2 * gamma * (left.imag @ basis).ravel() - prior.precision @ (phases @ basis).ravel()
        step = (covariance @ gradient).reshape(n_users, -1)
        phases = phases + step @ basis.T
    variance = np.einsum("tb,kbc,tc->kt", basis, _user_blocks(covariance, n_users), basis, optimize=True)
    return replace(derotation, phases_rad=phases), np.sqrt(np.maximum(variance, 0.0))


def _user_blocks(covariance: RealArray, n_users: int) -> RealArray:
    n = len(covariance) // n_users
    users = np.arange(n_users)
    return covariance.reshape(n_users, n, n_users, n)[users, :, users]


def _inner_products(
    fit: Fit, block: ReceivedBlock, moments: SymbolMoments, used: BoolArray
) -> tuple[ComplexArray, ComplexArray]:
    """``sum_n E[conj(u)] h^H y`` (K, T) and ``sum_n h_k^H h_j E[conj(u_k) u_j]`` (K, K, T) over symbols."""
    derotation = block.derotation
    assert derotation is not None
    n_users, n_times = derotation.phases_rad.shape
    matched = np.empty((n_users, n_times), complex)
    gram = np.empty((n_users, n_users, n_times), complex)
    heard = fit.problem.receiver.element_mask
    for symbols, channel in channels_of(fit, derotation):
        if heard is not None:
            channel = np.where(heard, channel, 0)
        there = used[:, symbols]
        sent = channel * (moments.mean[..., symbols] * there)[..., None]
        received = block.received[..., symbols].transpose(0, 2, 1)
        matched[:, symbols] = np.einsum("kntm,ntm->kt", sent.conj(), received, optimize=True)
        by_symbol = sent.transpose(2, 0, 1, 3).reshape(symbols.size, n_users, -1)
        gram[..., symbols] = np.matmul(by_symbol.conj(), by_symbol.transpose(0, 2, 1)).transpose(1, 2, 0)
        spread = np.sum(np.abs(channel) ** 2, axis=3) * moments.variance[..., symbols] * there
        for k in range(n_users):
            gram[k, k, symbols] += np.sum(spread[k], axis=0)
    return matched, gram
