"""Soft symbol detection: LMMSE with the channel's uncertainty, made unbiased, then the constellation."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import logsumexp

from isac_toolbox.channel.atoms import PathAtoms
from isac_toolbox.channel.modulation import bit_labels
from isac_toolbox.channel.observation import UplinkObservation
from isac_toolbox.estimators.statistics import SymbolMoments

__all__ = ["ChannelKnowledge", "Detection", "detect"]

RealArray = NDArray[np.float64]
ComplexArray = NDArray[np.complex128]


# Of the mean channel power: keeps the filters of collinear users apart at vanishing noise.
_LEAST_LOADING = 1e-12


@dataclass(frozen=True, eq=False)
class ChannelKnowledge:
    """Channel mean and, where there is one, the path model of its error.

    Attributes
    ----------
    mean : ndarray of complex, shape (K, N, M)
    atoms : PathAtoms, optional
    covariance : ndarray of complex, shape (L, L), optional
        Of the path gains.
    white_variance : ndarray, shape (K,), optional
        Error variance per entry, when the error has no path model.
    """

    mean: ComplexArray
    atoms: PathAtoms | None = None
    covariance: ComplexArray | None = None
    white_variance: RealArray | None = None

    @classmethod
    def from_paths(
        cls, atoms: PathAtoms, gains: ComplexArray, covariance: ComplexArray, n_users: int
    ) -> ChannelKnowledge:
        """Knowledge in a posterior of path gains."""
        return cls(atoms.synthesise(gains, n_users), atoms, covariance)


@dataclass(frozen=True, eq=False)
class Detection:
    """Posterior of the symbols.

    Attributes
    ----------
    moments : SymbolMoments
        Mean and variance (K, N, T); pilots exact.
    decision : ndarray of int, shape (K, N, T)
        Most probable index, -1 at pilots.
    llr : ndarray, shape (K, N, T, bits)
        ``ln P(bit = 0) / P(bit = 1)``, zero at pilots.
    """

    moments: SymbolMoments
    decision: NDArray[np.int64]
    llr: RealArray


def detect(
    obs: UplinkObservation, received: ComplexArray, channel: ChannelKnowledge, noise_variance: float
) -> Detection:
    """Detect the data symbols of a block (docs/theory.md, section 5).

    Per subcarrier ``W = (H^H H + s I)^-1 H^H`` over the sending users; its output divided by its own gain is
    unbiased, and its error variance collects interference, noise and the channel's uncertainty
    ``sum_j P_j C_jj P_j^H`` (``P_j`` the user's path atoms). The posterior over the constellation follows.
    """
    data = ~obs.known
    pilots = SymbolMoments(obs.pilots, np.zeros(obs.pilots.shape))
    shape = obs.pilots.shape
    if not data.any():
        return Detection(pilots, np.full(shape, -1), np.zeros((*shape, obs.bits_per_symbol)))
    symbol, variance, correlation = _unbiased_lmmse(obs, received, channel, noise_variance)
    distance = np.abs(symbol[data][:, None] - obs.constellation) ** 2
    log_probability = -distance / variance[data][:, None]
    log_probability -= logsumexp(log_probability, axis=1, keepdims=True)
    probability = np.exp(log_probability)
    mean = probability @ obs.constellation
    power = probability @ (np.abs(obs.constellation) ** 2)

    soft_mean, soft_variance = pilots.mean.copy(), pilots.variance.copy()
    soft_mean[data] = mean
    soft_variance[data] = np.maximum(power - np.abs(mean) ** 2, 0.0)
    decision = np.full(shape, -1)
    decision[data] = np.argmax(log_probability, axis=1)
    llr = np.zeros((*shape, obs.bits_per_symbol))
    llr[data] = _bit_llrs(log_probability)
    return Detection(SymbolMoments(soft_mean, soft_variance, correlation), decision, llr)


def _bit_llrs(log_probability: RealArray) -> RealArray:
    """LLRs (symbols, bits) from log-probabilities of the points (symbols, Q)."""
    labels = bit_labels(log_probability.shape[1])
    llrs = [
        logsumexp(log_probability[:, ~bit], axis=1) - logsumexp(log_probability[:, bit], axis=1)
        for bit in labels.T
    ]
    return np.stack(llrs, axis=1)


def _unbiased_lmmse(
    obs: UplinkObservation, received: ComplexArray, channel: ChannelKnowledge, noise_variance: float
) -> tuple[ComplexArray, RealArray, ComplexArray]:
    """Unbiased symbol estimates and their error variances, each (K, N, T), and error correlations.

    Symbols are zero and variances one at pilots; the correlations (N, T, K, K) are those of the LMMSE error.

    Known symbols are subtracted; cells with the same set of sending users share one filter.
    """
    h = np.ascontiguousarray(channel.mean.transpose(1, 2, 0))
    clean = received - np.matmul(h, obs.pilots.transpose(1, 0, 2))
    symbol, variance = np.zeros(obs.pilots.shape, complex), np.ones(obs.pilots.shape)
    correlation = np.zeros((*obs.pilots.shape[1:], obs.n_users, obs.n_users), complex)
    data = ~obs.known
    for pattern in np.unique(data.reshape(obs.n_users, -1), axis=1).T:
        users = np.flatnonzero(pattern)
        if not users.size:
            continue
        cells = np.all(data == pattern[:, None, None], axis=0)
        own_symbol, own_variance, own_correlation = _filter_users(channel, h, clean, users, noise_variance)
        symbol[users] = np.where(cells, own_symbol, symbol[users])
        variance[users] = np.where(cells, own_variance[:, :, None], variance[users])
        full = np.zeros((obs.pilots.shape[1], obs.n_users, obs.n_users), complex)
        full[:, users[:, None], users] = own_correlation
        correlation += np.where(cells[:, :, None, None], full[:, None], 0)
    return symbol, variance, correlation


def _filter_users(
    channel: ChannelKnowledge,
    h: ComplexArray,
    clean: ComplexArray,
    users: NDArray[np.int64],
    noise_variance: float,
) -> tuple[ComplexArray, RealArray, ComplexArray]:
    """Unbiased LMMSE among ``users``: symbols (U, N, T), error variances (U, N), correlations (N, U, U)."""
    own = h[:, :, users]
    own_conj = own.conj().transpose(0, 2, 1)
    gram = np.matmul(own_conj, own)
    error = _error_after_matching(channel, own_conj, gram, users)
    gram_trace = np.maximum(np.real(np.trace(gram, axis1=1, axis2=2)), 1e-300)
    mean_error = np.real(np.trace(error, axis1=1, axis2=2)) / gram_trace
    least = _LEAST_LOADING * gram_trace / users.size
    index = np.arange(users.size)
    loading = (noise_variance + mean_error + least)[:, None, None] * np.eye(users.size)
    inverse = np.linalg.inv(gram + loading)
    response = np.matmul(inverse, gram)
    bias = np.maximum(np.real(response[:, index, index]), 1e-12)
    power = np.abs(response) ** 2
    interference = power.sum(axis=2) - power[:, index, index]
    inside = noise_variance * gram + error
    noise = np.real(np.einsum("nkj,njl,nkl->nk", inverse, inside, inverse.conj(), optimize=True))
    variance = (interference + noise) / bias**2
    symbol = np.matmul(inverse, np.matmul(own_conj, clean)) / bias[:, :, None]
    deviation = np.sqrt(np.maximum(np.real(inverse[:, index, index]), 1e-300))
    correlation = inverse / (deviation[:, :, None] * deviation[:, None, :])
    return symbol.transpose(1, 0, 2), np.maximum(variance, 1e-12).T, correlation


def _error_after_matching(
    channel: ChannelKnowledge, h_conj: ComplexArray, gram: ComplexArray, users: NDArray[np.int64]
) -> ComplexArray:
    """``H^H (sum_j P_j C_jj P_j^H) H`` over the sending users, per subcarrier, shape (N, U, U)."""
    if channel.atoms is None or channel.covariance is None:
        if channel.white_variance is None:
            return np.zeros_like(gram)
        return gram * np.sum(channel.white_variance[users])
    of_senders = np.flatnonzero(np.isin(channel.atoms.user, users))
    atoms = channel.atoms.take(of_senders)
    same_user = atoms.user[:, None] == atoms.user
    covariance = channel.covariance[np.ix_(of_senders, of_senders)]
    through = atoms.respond(h_conj)
    weighted = np.matmul(through, np.where(same_user, covariance, 0))
    return np.matmul(weighted, through.conj().transpose(0, 2, 1))
