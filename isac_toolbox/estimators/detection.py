"""Soft symbol detection under an uncertain channel."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from isac_toolbox.channel.atoms import PathAtoms
from isac_toolbox.channel.modulation import bit_labels
from isac_toolbox.channel.observation import UplinkObservation
from isac_toolbox.estimators.joint_symbols import SymbolLikelihood, log_sum, symbol_posterior
from isac_toolbox.estimators.statistics import SymbolMoments

__all__ = ["ChannelKnowledge", "Detection", "detect"]

RealArray = NDArray[np.float64]
ComplexArray = NDArray[np.complex128]


# Of the mean noise after matching: keeps silent users and users with one channel from making it singular.
_LEAST_LOADING = 1e-12
# Inverse variance of a symbol beyond which double precision cannot keep users apart.
_MOST_INFORMATION = 1e12


@dataclass(frozen=True, eq=False)
class ChannelKnowledge:
    """Channel mean and, where there is one, the path model of its error.

    Attributes
    ----------
    mean : ndarray of complex, shape (K, N, M)
    atoms : PathAtoms, optional
    gains : ndarray of complex, shape (L,), optional
        Of the paths, whose channel the mean is.
    covariance : ndarray of complex, shape (L, L), optional
        Of the path gains.
    white_variance : ndarray, shape (K,), optional
        Error variance per entry, when the error has no path model.
    """

    mean: ComplexArray
    atoms: PathAtoms | None = None
    gains: ComplexArray | None = None
    covariance: ComplexArray | None = None
    white_variance: RealArray | None = None

    @classmethod
    def from_paths(
        cls, atoms: PathAtoms, gains: ComplexArray, covariance: ComplexArray, n_users: int
    ) -> ChannelKnowledge:
        """Knowledge in a posterior of path gains."""
        return cls(atoms.synthesise(gains, n_users), atoms, gains, covariance)


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
    obs: UplinkObservation,
    received: ComplexArray,
    channel: ChannelKnowledge,
    noise_variance: float,
    joint: bool = True,
) -> Detection:
    """Detect the data symbols of a block (docs/theory.md, section 5.6).

    Known symbols are subtracted. The likelihood of the sending users' symbols takes the channel's uncertainty
    as noise of covariance ``sum_j P_j C_jj P_j^H`` (``P_j`` the user's path atoms); users that a linear
    receiver cannot keep apart are decided jointly, unless ``joint`` is False: then it is the unbiased LMMSE
    receiver. Cells with the same set of senders share one likelihood.
    """
    data = ~obs.known
    shape = obs.pilots.shape
    mean, variance = obs.pilots.copy(), np.zeros(shape)
    decision, llr = np.full(shape, -1), np.zeros((*shape, obs.bits_per_symbol))
    correlation = np.zeros((*shape[1:], obs.n_users, obs.n_users), complex)
    h = np.ascontiguousarray(channel.mean.transpose(1, 2, 0))
    clean = received - np.matmul(h, obs.pilots.transpose(1, 0, 2))
    for pattern in np.unique(data.reshape(obs.n_users, -1), axis=1).T:
        users = np.flatnonzero(pattern)
        if not users.size:
            continue
        cells = np.all(data == pattern[:, None, None], axis=0)
        likelihood = _likelihood(channel, h, clean, users, noise_variance)
        posterior = symbol_posterior(likelihood, obs.constellation, joint)
        log_probability = posterior.log_probability[:, cells]
        where = (users[:, None], *np.nonzero(cells))
        probability = np.exp(log_probability)
        mean[where] = probability @ obs.constellation
        power = probability @ (np.abs(obs.constellation) ** 2)
        variance[where] = np.maximum(power - np.abs(mean[where]) ** 2, 0.0)
        decision[where] = np.argmax(log_probability, axis=-1)
        llr[where] = _bit_llrs(log_probability)
        at_cells = correlation[cells]
        at_cells[:, users[:, None], users] = posterior.correlation[cells]
        correlation[cells] = at_cells
    return Detection(SymbolMoments(mean, variance, correlation if data.any() else None), decision, llr)


def _bit_llrs(log_probability: RealArray) -> RealArray:
    """LLRs (..., bits) from log-probabilities of the points (..., Q)."""
    labels = bit_labels(log_probability.shape[-1])
    llrs = [log_sum(log_probability[..., ~bit]) - log_sum(log_probability[..., bit]) for bit in labels.T]
    return np.stack(llrs, axis=-1)


def _likelihood(
    channel: ChannelKnowledge,
    h: ComplexArray,
    clean: ComplexArray,
    users: NDArray[np.int64],
    noise_variance: float,
) -> SymbolLikelihood:
    """Likelihood of the symbols of ``users`` in every cell, after matching to their channels.

    ``z = H^H y = G s + noise`` of covariance ``s2 G + E``, hence ``A = G (s2 G + E)^-1 G``.
    """
    own = h[:, :, users]
    own_conj = own.conj().transpose(0, 2, 1)
    gram = np.matmul(own_conj, own)
    noise = noise_variance * gram + _error_after_matching(channel, gram, users)
    least = _LEAST_LOADING * np.real(np.trace(noise, axis1=1, axis2=2)) / users.size
    noise = noise + np.maximum(least, 1e-200)[:, None, None] * np.eye(users.size)
    whitened = np.linalg.solve(noise, gram)
    information = np.matmul(gram, whitened)
    matched = np.matmul(whitened.conj().transpose(0, 2, 1), np.matmul(own_conj, clean))
    most = np.max(np.real(np.diagonal(information, axis1=1, axis2=2)), axis=1)
    scale = 0.5 * (_MOST_INFORMATION / np.maximum(most, _MOST_INFORMATION))[:, None, None]
    return SymbolLikelihood(
        scale * (information + information.conj().transpose(0, 2, 1)), 2 * scale * matched
    )


def _error_after_matching(
    channel: ChannelKnowledge, gram: ComplexArray, users: NDArray[np.int64]
) -> ComplexArray:
    """``H^H (sum_j P_j C_jj P_j^H) H`` over the sending users, per subcarrier, shape (N, U, U)."""
    if channel.atoms is None or channel.gains is None or channel.covariance is None:
        if channel.white_variance is None:
            return np.zeros_like(gram)
        return gram * np.sum(channel.white_variance[users])
    through = channel.atoms.match(channel.gains, users)
    error = np.zeros_like(gram)
    for j in users:
        own = np.flatnonzero(channel.atoms.user == j)
        if not own.size:
            continue
        part = np.ascontiguousarray(through[:, :, own])
        flat = part.reshape(-1, own.size) @ channel.covariance[own[:, None], own]
        error += np.matmul(flat.reshape(part.shape), part.conj().transpose(0, 2, 1))
    return error
