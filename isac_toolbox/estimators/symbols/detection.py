"""Soft symbol detection under an uncertain channel."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from isac_toolbox._threads import in_threads, stretches
from isac_toolbox.channel.atoms.dense import PathAtoms
from isac_toolbox.channel.modulation import bit_labels
from isac_toolbox.estimators.symbols.block import Masks, ReceivedBlock
from isac_toolbox.estimators.symbols.derotation import Derotation
from isac_toolbox.estimators.symbols.joint import SymbolLikelihood, symbol_posterior
from isac_toolbox.estimators.symbols.statistics import SymbolMoments

__all__ = ["ChannelKnowledge", "Detection", "detect", "detect_over_time"]

RealArray = NDArray[np.float64]
ComplexArray = NDArray[np.complex128]
IntArray = NDArray[np.int64]


# Guard: of the mean noise after matching; keeps silent users and users with one channel from making it
# singular.
_LEAST_LOADING = 1e-12
# Cost cap: products of users, paths and subcarriers that are held at once.
_MOST_PRODUCTS = 2**17
# Guard: inverse variance of a symbol beyond which double precision cannot keep users apart.
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
        """Return the knowledge in a posterior of path gains."""
        return cls(atoms.synthesise(gains, n_users), atoms, gains, covariance)


@dataclass(frozen=True, eq=False)
class Detection:
    """Posterior of the symbols.

    Attributes
    ----------
    moments : SymbolMoments
        Mean and variance (K, N, T); pilots exact.
    log_probability : ndarray, shape (K, N, T, Q)
        Of every point of the constellation, zero at pilots.
    known : ndarray of bool, shape (K, N, T)
        Pilots.
    prior_llr : ndarray, shape (K, N, T, bits), optional
        What was known of the bits beforehand.
    """

    moments: SymbolMoments
    log_probability: RealArray
    known: NDArray[np.bool_]
    prior_llr: RealArray | None = None

    @cached_property
    def decision(self) -> NDArray[np.int64]:
        """Most probable index, -1 at pilots, shape (K, N, T)."""
        return np.where(self.known, -1, np.argmax(self.log_probability, axis=-1))

    @cached_property
    def llr(self) -> RealArray:
        """``ln P(bit = 0) / P(bit = 1)`` less the bit's own prior, zero at pilots, (K, N, T, bits)."""
        labels = bit_labels(self.log_probability.shape[-1])
        llr = np.empty((*self.log_probability.shape[:-1], labels.shape[1]))

        def fill_in(part: slice) -> None:
            some = self.log_probability[:, part]
            for i, bit in enumerate(labels.T):
                llr[:, part, :, i] = _log_sum(some[..., ~bit]) - _log_sum(some[..., bit])

        most = _MOST_PRODUCTS // max(self.log_probability[:, :1].size, 1)
        in_threads(fill_in, stretches(llr.shape[1], most), self.log_probability.size)
        return llr if self.prior_llr is None else llr - self.prior_llr


def log_prior_of(llr: RealArray) -> RealArray:
    """Return log-probabilities of constellation points (..., Q) from LLRs of their bits (..., bits)."""
    labels = bit_labels(1 << llr.shape[-1]).astype(float)
    of_ones, of_zeros = -np.logaddexp(0.0, llr), -np.logaddexp(0.0, -llr)
    return np.asarray(of_ones @ labels.T + of_zeros @ (1 - labels).T)


def detect(
    block: ReceivedBlock,
    channel: ChannelKnowledge,
    noise_variance: float,
    joint: bool = True,
    prior_llr: RealArray | None = None,
) -> Detection:
    """Detect the data symbols of a block (docs/theory.md, section 5.6).

    Known symbols are subtracted. The likelihood of the sending users' symbols takes the channel's uncertainty
    as noise of covariance ``sum_j P_j C_jj P_j^H`` (``P_j`` the user's path atoms); users that a linear
    receiver cannot keep apart are decided jointly, unless ``joint`` is False: then it is the unbiased LMMSE
    receiver. Cells with the same set of senders share one likelihood. Masked samples are not used; data of
    which none is left keep their prior: uniform, or by the LLRs of bits ``prior_llr`` (K, N, T, bits), as a
    decoder gives them.
    """
    if prior_llr is not None:
        prior_llr = np.where(block.known[..., None], 0.0, prior_llr)
    if block.masks is not None and block.masks.samples is not None:
        return _detect_by_cell(block, channel, noise_variance, joint, prior_llr)
    gram, matched = _matched_filter(channel.mean, block.received, block.pilots, block.masks)

    def likelihood_of(users: IntArray, symbols: IntArray) -> SymbolLikelihood:
        error = _error_after_matching(channel, gram[:, users[:, None], users], users)
        return _likelihood(gram, error, matched[:, :, symbols], users, noise_variance)

    return _decide(block, likelihood_of, joint, prior_llr)


def detect_over_time(
    block: ReceivedBlock,
    channel_of: Callable[[Derotation], ChannelKnowledge],
    noise_variance: float,
    joint: bool = True,
    prior_llr: RealArray | None = None,
) -> Detection:
    """Detect the data symbols of a block whose channels turn.

    ``channel_of`` gives the knowledge of some symbols from their derotation, with resource elements in the
    subcarriers' place, one subcarrier's symbols after another; see :func:`detect` for the rest.
    """
    assert block.derotation is not None
    (n_users, n_sub, n_symbols), n_points = block.known.shape, block.constellation.size
    mean, variance = block.pilots.copy(), np.zeros(block.known.shape)
    log_probability = np.zeros((*block.known.shape, n_points))
    correlation = np.zeros((n_sub, n_symbols, n_users, n_users), complex)
    if prior_llr is not None:
        prior_llr = np.where(block.known[..., None], 0.0, prior_llr)
    data = np.flatnonzero(block.has_data)
    with_data = block.derotation.take(data)
    for symbols in (data[some] for some in with_data.parts(n_sub)):
        part = block.take(symbols)
        assert part.derotation is not None
        llr = (
            None
            if prior_llr is None
            else prior_llr[:, :, symbols].reshape(n_users, -1, 1, prior_llr.shape[-1])
        )
        found = detect(part.by_cell(), channel_of(part.derotation), noise_variance, joint, llr)
        shape = (n_users, n_sub, symbols.size)
        mean[..., symbols] = found.moments.mean.reshape(shape)
        variance[..., symbols] = found.moments.variance.reshape(shape)
        log_probability[:, :, symbols] = found.log_probability.reshape(*shape, n_points)
        if found.moments.error_correlation is not None:
            correlation[:, symbols] = found.moments.error_correlation.reshape(*shape[1:], n_users, n_users)
    moments = SymbolMoments(mean, variance, correlation if data.size else None)
    return Detection(moments, log_probability, block.known, prior_llr)


def _detect_by_cell(
    block: ReceivedBlock,
    channel: ChannelKnowledge,
    noise_variance: float,
    joint: bool,
    prior_llr: RealArray | None,
) -> Detection:
    """Detect where single samples are missing: every cell has a matched filter of its own.

    Cells take the place of subcarriers. The channel's uncertainty is that after matching on all elements,
    times the squared share of those that have a sample.
    """
    assert block.masks is not None and block.masks.samples is not None
    n_sub, n_antennas, n_symbols = block.received.shape
    whole, _ = _matched_filter(channel.mean, block.received[:, :, :0], block.pilots[..., :0], block.masks)
    gram, matched = _matched_by_cell(channel.mean, block)
    squared_share = block.masks.share().reshape(-1, 1, 1) ** 2

    def likelihood_of(users: IntArray, symbols: IntArray) -> SymbolLikelihood:
        del symbols
        error = _error_after_matching(channel, whole[:, users[:, None], users], users)
        error = np.repeat(error, n_symbols, axis=0) * squared_share
        return _likelihood(gram, error, matched, users, noise_variance)

    cells = n_sub * n_symbols
    flat = replace(
        block,
        received=block.received.transpose(0, 2, 1).reshape(cells, n_antennas, 1),
        pilots=block.pilots.reshape(block.n_users, cells, 1),
        known=block.known.reshape(block.n_users, cells, 1),
        masks=Masks(block.masks.elements, block.masks.cells.reshape(cells, 1)),
    )
    flat_llr = None if prior_llr is None else prior_llr.reshape(block.n_users, cells, 1, -1)
    found, shape = _decide(flat, likelihood_of, joint, flat_llr), block.pilots.shape
    correlation = found.moments.error_correlation
    if correlation is not None:
        correlation = correlation.reshape(n_sub, n_symbols, *correlation.shape[2:])
    moments = SymbolMoments(
        found.moments.mean.reshape(shape), found.moments.variance.reshape(shape), correlation
    )
    log_probability = found.log_probability.reshape(*shape, block.constellation.size)
    return Detection(moments, log_probability, block.known, prior_llr)


def _matched_by_cell(channel: ComplexArray, block: ReceivedBlock) -> tuple[ComplexArray, ComplexArray]:
    """``H^H W H`` (N T, K, K) and ``H^H W (y - H u)`` (N T, K, 1) over the samples ``W`` of every cell.

    Cells without a sample are not decided; they get the Gram of a whole one, so as to unsettle no other.
    """
    assert block.masks is not None and block.masks.samples is not None
    n_users, n_sub, n_antennas = channel.shape
    by_subcarrier = channel.transpose(1, 2, 0)
    pairs = by_subcarrier.conj()[..., :, None] * by_subcarrier[..., None, :]
    samples = (block.masks.samples.transpose(0, 2, 1) | ~block.masks.cells[..., None]).astype(float)
    gram = np.matmul(samples, pairs.reshape(n_sub, n_antennas, n_users**2))
    n_cells = samples.shape[0] * samples.shape[1]
    gram = gram.reshape(n_cells, n_users, n_users)
    matched = np.matmul(block.received.transpose(0, 2, 1), by_subcarrier.conj())
    known = np.matmul(gram, block.pilots.transpose(1, 2, 0).reshape(n_cells, n_users, 1))
    return gram, matched.reshape(n_cells, n_users, 1) - known


def _decide(
    block: ReceivedBlock,
    likelihood_of: Callable[[IntArray, IntArray], SymbolLikelihood],
    joint: bool,
    prior_llr: RealArray | None,
) -> Detection:
    """Posteriors of all data from the likelihood of some users in some OFDM symbols."""
    data = ~block.known
    if data.size and data.all() and (block.masks is None or block.masks.cells.all()):
        return _decide_all(block, likelihood_of, joint, prior_llr)
    shape = block.pilots.shape
    mean, variance = block.pilots.copy(), np.zeros(shape)
    log_probability = np.zeros((*shape, block.constellation.size))
    error_correlation: ComplexArray | None = None
    log_prior = None if prior_llr is None else log_prior_of(prior_llr)
    if block.masks is not None:
        unseen = data & ~block.masks.cells
        variance[unseen], log_probability[unseen] = 1.0, -np.log(block.constellation.size)
        if log_prior is not None:
            log_probability[unseen] = log_prior[unseen]
        data = data & block.masks.cells
    for users, cells in _sender_sets(data):
        symbols = np.flatnonzero(cells.any(axis=0))
        likelihood = likelihood_of(users, symbols)
        prior = None if log_prior is None else np.ascontiguousarray(log_prior[users][:, :, symbols])
        posterior = symbol_posterior(likelihood, block.constellation, joint, prior)
        inside = cells[:, symbols]
        if inside.all():
            whole = np.ix_(users, np.arange(shape[1]), symbols)
            mean[whole], variance[whole] = posterior.mean, posterior.variance
            log_probability[whole] = posterior.log_probability
        else:
            where = (users[:, None], *np.nonzero(cells))
            mean[where], variance[where] = posterior.mean[:, inside], posterior.variance[:, inside]
            log_probability[where] = posterior.log_probability[:, inside]
        correlation = posterior.error_correlation
        if correlation.shape[1] == 1 and np.array_equal(data.any(axis=0), cells) and users.size == len(mean):
            error_correlation = correlation  # there is no other set, and symbols that are known have no error
            continue
        if error_correlation is None:
            error_correlation = np.zeros((*shape[1:], block.n_users, block.n_users), complex)
        at_cells = error_correlation[cells]
        correlation = np.broadcast_to(correlation, (*inside.shape, *correlation.shape[2:]))
        at_cells[:, users[:, None], users] = correlation[inside]
        error_correlation[cells] = at_cells
    moments = SymbolMoments(mean, variance, error_correlation)
    return Detection(moments, log_probability, block.known, prior_llr)


def _decide_all(
    block: ReceivedBlock,
    likelihood_of: Callable[[IntArray, IntArray], SymbolLikelihood],
    joint: bool,
    prior_llr: RealArray | None,
) -> Detection:
    """Posteriors of a block in which all users send data everywhere."""
    likelihood = likelihood_of(np.arange(block.n_users), np.arange(block.pilots.shape[2]))
    log_prior = None if prior_llr is None else log_prior_of(prior_llr)
    found = symbol_posterior(likelihood, block.constellation, joint, log_prior)
    moments = SymbolMoments(found.mean, found.variance, found.error_correlation)
    return Detection(moments, found.log_probability, block.known, prior_llr)


def _sender_sets(data: NDArray[np.bool_]) -> Iterator[tuple[NDArray[np.int64], NDArray[np.bool_]]]:
    """Every set of users that send data together, with its cells (N, T)."""
    left = data.any(axis=0)
    while left.any():
        n, t = np.unravel_index(np.argmax(left), left.shape)
        cells = left & np.all(data == data[:, n, t, None, None], axis=0)
        yield np.flatnonzero(data[:, n, t]), cells
        left &= ~cells


def _log_sum(logarithms: RealArray) -> RealArray:
    """``ln sum exp`` over the last axis of finite numbers, shape (...,)."""
    largest = logarithms.max(axis=-1, keepdims=True)
    total: RealArray = np.log(np.sum(np.exp(logarithms - largest), axis=-1)) + largest[..., 0]
    return total


def _matched_filter(
    channel: ComplexArray, received: ComplexArray, pilots: ComplexArray, masks: Masks | None
) -> tuple[ComplexArray, ComplexArray]:
    """``G = H^H H`` (N, K, K) and ``H^H (y - H u)`` (N, K, T), the known symbols ``u`` taken away."""
    n_users, n_sub, n_antennas = channel.shape
    n_symbols = received.shape[2]
    gram = np.empty((n_sub, n_users, n_users), complex)
    matched = np.empty((n_sub, n_users, n_symbols), complex)
    heard = None if masks is None or masks.elements.all() else masks.elements

    def fill_in(part: slice) -> None:
        own = channel[:, part] if heard is None else np.where(heard, channel[:, part], 0)
        conjugate = own.conj().transpose(1, 0, 2)
        np.matmul(conjugate, own.transpose(1, 2, 0), out=gram[part])
        np.matmul(conjugate, received[part], out=matched[part])
        if pilots.any():
            matched[part] -= np.matmul(gram[part], pilots[:, part].transpose(1, 0, 2))

    parts = stretches(n_sub, _MOST_PRODUCTS // max(n_antennas * max(n_users, n_symbols), 1))
    in_threads(fill_in, parts, n_sub * n_antennas * n_symbols)
    return gram, matched


def _likelihood(
    gram: ComplexArray, error: ComplexArray, matched: ComplexArray, users: IntArray, noise_variance: float
) -> SymbolLikelihood:
    """Likelihood of the symbols of ``users`` in every cell, after matching to their channels.

    ``z = H^H y = G s + noise`` of covariance ``s2 G + E``, hence ``A = G (s2 G + E)^-1 G``.
    """
    information = np.empty(error.shape, complex)
    own_match = np.empty((len(error), users.size, matched.shape[2]), complex)

    def fill_in(part: slice) -> None:
        block = gram[part][:, users[:, None], users]
        noise = noise_variance * block + error[part]
        least = _LEAST_LOADING * np.real(np.trace(noise, axis1=1, axis2=2)) / users.size
        noise = noise + np.maximum(least, 1e-200)[:, None, None] * np.eye(users.size)
        whitened = np.linalg.solve(noise, block)
        both = np.matmul(block, whitened)
        most = np.max(np.real(np.diagonal(both, axis1=1, axis2=2)), axis=1)
        scale = 0.5 * (_MOST_INFORMATION / np.maximum(most, _MOST_INFORMATION))[:, None, None]
        information[part] = scale * (both + both.conj().transpose(0, 2, 1))
        own_match[part] = 2 * scale * np.matmul(whitened.conj().transpose(0, 2, 1), matched[part][:, users])

    parts = stretches(len(gram), _MOST_PRODUCTS // max(users.size * (users.size + matched.shape[2]), 1))
    in_threads(fill_in, parts, matched.size)
    return SymbolLikelihood(information, own_match)


def _error_after_matching(
    channel: ChannelKnowledge, gram: ComplexArray, users: NDArray[np.int64]
) -> ComplexArray:
    """``H^H (sum_j P_j C_jj P_j^H) H`` over the sending users, per subcarrier, shape (N, U, U)."""
    if channel.atoms is None or channel.gains is None or channel.covariance is None:
        if channel.white_variance is None:
            return np.zeros_like(gram)
        return gram * np.sum(channel.white_variance[users])
    order = np.argsort(channel.atoms.user, kind="stable")
    atoms, gains = channel.atoms.take(order), channel.gains[order]
    covariance, error = channel.covariance[order[:, None], order], np.empty(gram.shape, complex)
    own = [slice(*np.searchsorted(atoms.user, (j, j + 1))) for j in users]
    parts = stretches(len(gram), _MOST_PRODUCTS // max(users.size * order.size, 1))

    def fill_in(part: slice) -> None:
        some = atoms if len(parts) == 1 else atoms.on_subcarriers(part)
        through = some.match(gains, users)
        flat = through.reshape(len(through) * users.size, order.size)
        weighted = np.zeros_like(flat)
        for paths in own:
            weighted[:, paths] = flat[:, paths] @ covariance[paths, paths]
        np.conj(through, out=through)
        np.matmul(weighted.reshape(through.shape), through.transpose(0, 2, 1), out=error[part])

    in_threads(fill_in, parts, len(gram) * users.size * order.size)
    return error
