"""From received samples and symbol moments to the sufficient statistics of the channel."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from isac_toolbox._threads import in_threads, stretches
from isac_toolbox.channel.atoms.dense import Statistics
from isac_toolbox.channel.atoms.frames import Frames, interpolation
from isac_toolbox.estimators.symbols.block import Masks, ReceivedBlock
from isac_toolbox.estimators.symbols.derotation import Derotation

__all__ = [
    "SymbolMoments",
    "bytes_over_time",
    "data_statistics",
    "error_moments",
    "least_squares_channel",
    "pilot_statistics",
    "sounded_entries",
]

RealArray = NDArray[np.float64]
ComplexArray = NDArray[np.complex128]
BoolArray = NDArray[np.bool_]

# Tuned: a cell with a data symbol of a larger posterior variance (of a mean energy of one) is not used.
_UNCERTAIN = 0.5
# Guard: of the largest entry; one of the symbol Gram below this is orthogonality up to rounding.
_ROUNDING = 1e-12
# Cost cap: products of samples, and of pairs of users' symbols, that are held at once.
_MOST_PRODUCTS = 2**18
# Cost cap: correlations over time beyond which they are kept in single precision; its rounding is averaged.
_MOST_DOUBLES = 2**20


@dataclass(frozen=True, eq=False)
class SymbolMoments:
    """Posterior moments of the symbols; pilots are exact.

    Attributes
    ----------
    mean : ndarray of complex, shape (K, N, T)
    variance : ndarray, shape (K, N, T)
    error_correlation : ndarray of complex, shape (N, T, K, K) or (N, 1, K, K), optional
        Correlation coefficients ``corr(u_k, u_j)`` of the users' errors; those of one symbol hold for all.
    """

    mean: ComplexArray
    variance: NDArray[np.float64]
    error_correlation: ComplexArray | None = None

    def on_subcarriers(self, part: slice) -> SymbolMoments:
        """Return the moments on some subcarriers."""
        correlation = self.error_correlation
        return SymbolMoments(
            self.mean[:, part],
            self.variance[:, part],
            None if correlation is None else correlation[part],
        )

    def derotated(self, factors: ComplexArray) -> SymbolMoments:
        """Return the moments of the symbols times factors (K, T) of magnitude one."""
        correlation = self.error_correlation
        if correlation is not None:
            turn = factors.T[:, :, None] * factors.T.conj()[:, None, :]
            correlation = correlation * turn
        return SymbolMoments(self.mean * factors[:, None, :], self.variance, correlation)


def pilot_statistics(block: ReceivedBlock) -> Statistics:
    """Return the statistics of the cells in which every user's symbol is known (docs/theory.md, section 2).

    Raises
    ------
    ValueError
        If a user has no pilot energy in such cells.
    """
    used = np.all(block.known, axis=0) & block.has_samples
    pilots = np.where(used, block.pilots, 0)
    silent = np.flatnonzero(np.sum(np.abs(pilots) ** 2, axis=(1, 2)) == 0)
    if silent.size:
        where = "every user's symbol is known" + ("" if block.masks is None else " and samples are usable")
        raise ValueError(f"pilot_mask: user(s) {silent.tolist()} send no pilot where {where}")
    certain = SymbolMoments(pilots, np.zeros(pilots.shape))
    if block.derotation is not None:
        return _statistics_over_time(block.received, certain, used, block.masks, block.derotation)
    if block.masks is not None and block.masks.samples is not None:
        return _statistics_of_samples(block.received, certain, used, block.masks)
    symbol_gram = _symbol_gram(pilots)
    size = np.abs(symbol_gram)
    symbol_gram[size < _ROUNDING * size.max()] = 0
    return _statistics(block.received, pilots, symbol_gram, used, block.masks)


def data_statistics(
    received: ComplexArray,
    moments: SymbolMoments,
    masks: Masks | None = None,
    derotation: Derotation | None = None,
    energies: RealArray | None = None,
) -> Statistics:
    """Return the statistics of a block with soft symbols, cells with an uncertain symbol left out.

    ``energies`` (N, T) of the cells over the elements save adding them up again.

    The users' symbol errors are correlated where their channels are alike; leaving that out of
    ``E[conj(u_k) u_j]`` would bias the channel towards wrong decisions (docs/theory.md, section 5).
    """
    used = np.max(moments.variance, axis=0) < _UNCERTAIN
    if derotation is not None:
        return _statistics_over_time(received, moments, used, masks, derotation)
    if masks is not None:
        used &= masks.cells
        if masks.samples is not None:
            return _statistics_of_samples(received, moments, used, masks)
    spread = np.sqrt(moments.variance * used)
    mean = moments.mean * used
    symbol_gram = _symbol_gram(mean)
    users = np.arange(len(spread))
    symbol_gram[:, users, users] += np.sum(spread**2, axis=2).T
    if moments.error_correlation is not None:
        symbol_gram += _error_gram(spread, moments.error_correlation)
    return _statistics(received, mean, symbol_gram, used, masks, energies)


def _error_gram(spread: NDArray[np.float64], correlation: ComplexArray) -> ComplexArray:
    """``sum_t E[conj(e_knt) e_jnt]`` of the errors of different users, of deviations (K, N, T), (N, K, K)."""
    users, scaled = np.arange(len(spread)), spread.transpose(1, 2, 0)
    if correlation.shape[1] == 1:  # the same in all symbols
        errors = correlation[:, 0] * np.matmul(scaled.transpose(0, 2, 1), scaled)
    else:
        errors = np.sum(correlation * (scaled[:, :, :, None] * scaled[:, :, None, :]), axis=1)
    errors[:, users, users] = 0
    return np.asarray(errors.transpose(0, 2, 1))


def _statistics_of_samples(
    received: ComplexArray, moments: SymbolMoments, used: BoolArray, masks: Masks
) -> Statistics:
    """Statistics where single samples are missing: the symbol Gram of the mean over elements, and the rest.

    ``R_n = sum_t f_nt S_nt`` with the share ``f_nt`` of elements that have a sample and the second moments
    ``S_nt`` of the symbols; ``D_nm = R_n - sum_t w_nmt S_nt`` is left to :meth:`Statistics.completed`.
    """
    assert masks.samples is not None
    n_sub, n_antennas, n_symbols = received.shape
    n_users = len(moments.mean)
    second = _second_moments(moments, used).reshape(n_sub, n_symbols, n_users**2)
    share = masks.share()[:, None, :]
    symbol_gram = np.matmul(share, second)
    of_elements = np.matmul(masks.samples.astype(float), second)
    missing = np.where(masks.elements[:, None], symbol_gram - of_elements, 0)
    statistics = _statistics(
        received, moments.mean * used, symbol_gram.reshape(n_sub, n_users, n_users), used, masks
    )
    return replace(statistics, missing=missing.reshape(n_sub, n_antennas, n_users, n_users))


def _statistics_over_time(
    received: ComplexArray,
    moments: SymbolMoments,
    used: BoolArray,
    masks: Masks | None,
    derotation: Derotation,
) -> Statistics:
    """Statistics of a block that moves: of symbols turned by their users, summed and over time."""
    used = used if masks is None else used & masks.cells
    (n_sub, n_elements, n_symbols), n_users = received.shape, len(moments.mean)
    nodes_s, factors = derotation.nodes_s, derotation.factors
    weights = None if derotation.keeps_symbols else interpolation(nodes_s, derotation.times_s)
    entries = (n_users, n_sub, nodes_s.size, n_elements)
    over_time = np.empty(entries, f"c{bytes_over_time(int(np.prod(entries)))}")
    gram_over_time = np.empty((nodes_s.size, n_sub, n_users, n_users), complex)
    symbol_gram = np.empty((n_sub, n_users, n_users), complex)
    cross_correlation, energy = np.empty((n_users, n_sub, n_elements), complex), 0.0
    step = max(_MOST_PRODUCTS // max(n_symbols * max(n_elements, n_users**2), 1), 1)
    for part in (slice(first, first + step) for first in range(0, n_sub, step)):
        samples, cells = received[part].transpose(0, 2, 1), used[part]
        some = moments.on_subcarriers(part).derotated(factors)
        second, back = _second_moments(some, cells), some.mean.conj() * cells
        symbol_gram[part] = second.sum(axis=1)
        gram_over_time[:, part] = (
            _at_nodes(second.reshape(*cells.shape, -1), weights)
            .reshape(len(second), nodes_s.size, n_users, n_users)
            .swapaxes(0, 1)
        )
        for k in range(n_users):
            products = back[k][..., None] * samples
            over_time[k, part] = _at_nodes(products, weights)
            cross_correlation[k, part] = products.sum(axis=1)
        power = np.sum(samples.real**2 + samples.imag**2, axis=2)
        energy += float(np.sum(power[cells]))
    n_observations = int(np.count_nonzero(used)) * n_elements if masks is None else masks.count(used)
    frames = Frames(nodes_s, gram_over_time, over_time, derotation.doppler_hz)
    return Statistics(symbol_gram, cross_correlation, energy, n_observations, frames=frames)


def bytes_over_time(n_entries: int) -> int:
    """Return the bytes of a correlation over time, of which there are so many."""
    return 8 if n_entries > _MOST_DOUBLES else 16


def _at_nodes(products: ComplexArray, weights: RealArray | None) -> ComplexArray:
    """What products (N, T, X) of every symbol are at the nodes of weights (Q, T), shape (N, Q, X)."""
    if weights is None:
        return products
    parts = np.ascontiguousarray(products).view(np.float64)
    return np.matmul(weights, parts).view(np.complex128)


def _second_moments(moments: SymbolMoments, used: BoolArray) -> ComplexArray:
    """``E[conj(u_knt) u_jnt]`` in the used cells, zero elsewhere, shape (N, T, K, K)."""
    mean = moments.mean.transpose(1, 2, 0) * used[..., None]
    return mean.conj()[..., :, None] * mean[..., None, :] + error_moments(moments, used)


def error_moments(moments: SymbolMoments, used: BoolArray) -> ComplexArray:
    """Return ``E[conj(e_knt) e_jnt]`` of the errors ``e = u - E[u]``, zero in cells that are not used.

    Parameters
    ----------
    moments : SymbolMoments
        Of the symbols (K, N, T).
    used : ndarray of bool, shape (N, T)

    Returns
    -------
    ndarray of complex, shape (N, T, K, K)
    """
    spread = np.sqrt(moments.variance).transpose(1, 2, 0) * used[..., None]
    correlation = np.zeros((*used.shape, spread.shape[2], spread.shape[2]), complex)
    if moments.error_correlation is not None:
        correlation += moments.error_correlation.transpose(0, 1, 3, 2)
    users = np.arange(spread.shape[2])
    correlation[..., users, users] = 1
    correlation *= spread[..., :, None]
    correlation *= spread[..., None, :]
    return correlation


def _symbol_gram(mean: ComplexArray) -> ComplexArray:
    """``sum_t conj(u_knt) u_jnt`` of the symbols' means (K, N, T), shape (N, K, K)."""
    by_subcarrier = mean.transpose(1, 0, 2)
    return np.matmul(by_subcarrier.conj(), by_subcarrier.transpose(0, 2, 1))


def _statistics(
    received: ComplexArray,
    mean: ComplexArray,
    symbol_gram: ComplexArray,
    used: BoolArray,
    masks: Masks | None,
    energies: RealArray | None = None,
) -> Statistics:
    """Statistics with ``Z_kn = sum_t y_nt E[conj(u_knt)]`` over used cells.

    The means (K, N, T) are zero in the other cells (N, T).
    """
    n_users, n_sub, _ = mean.shape
    cross_correlation = np.empty((n_users, n_sub, received.shape[1]), complex)

    def correlate(part: slice) -> None:
        back = mean[:, part].conj().transpose(1, 0, 2)
        np.matmul(back, received[part].transpose(0, 2, 1), out=cross_correlation[:, part].transpose(1, 0, 2))

    in_threads(correlate, stretches(n_sub, _MOST_PRODUCTS // max(received[0].size, 1)), received.size)
    if energies is None:
        counted = received if used.all() else received.transpose(0, 2, 1)[used]
        energy = float(np.vdot(counted, counted).real)
    else:
        energy = float(energies[used].sum())
    whole = int(np.count_nonzero(used)) * received.shape[1]
    n_observations = whole if masks is None else masks.count(used)
    return Statistics(symbol_gram, cross_correlation, energy, n_observations)


def least_squares_channel(statistics: Statistics, frequencies_hz: NDArray[np.float64]) -> ComplexArray:
    """Return the least-squares channel ``H_n = R_n^+ Z_n`` of every user, shape (K, N, M).

    Where a user cannot be told (a comb's other subcarriers, missing samples) its channel is interpolated
    linearly over frequency; on an element without any sample it is zero.
    """
    correlation = statistics.cross_correlation.transpose(1, 0, 2)
    if statistics.missing is None:
        inverse = np.linalg.pinv(statistics.symbol_gram, hermitian=True)
        channel = np.matmul(inverse, correlation).transpose(1, 0, 2)
    else:
        inverse = np.linalg.pinv(_element_grams(statistics), hermitian=True)
        channel = np.einsum("nmkj,njm->knm", inverse, correlation)
    sounded = sounded_entries(statistics)
    return np.stack([_interpolated(h, s, frequencies_hz) for h, s in zip(channel, sounded, strict=True)])


def sounded_entries(statistics: Statistics) -> BoolArray:
    """Return where least squares tells a user's channel without its neighbours, shape (K, N, M) or (K, N, 1).

    Where samples of an element are missing those left must tell as many users apart as all would.
    """
    sent = np.real(np.einsum("nkk->kn", statistics.symbol_gram)) > 0
    if statistics.missing is None:
        return sent[..., None]
    grams = _element_grams(statistics)
    told = np.linalg.matrix_rank(grams, hermitian=True)
    wanted = np.linalg.matrix_rank(statistics.symbol_gram, hermitian=True)
    return np.asarray(sent[..., None] & (told == wanted[:, None]))


def _element_grams(statistics: Statistics) -> ComplexArray:
    """Symbol Grams ``R_n - D_nm`` of the samples that are there, shape (N, M, K, K)."""
    assert statistics.missing is not None
    return np.asarray(statistics.symbol_gram[:, None] - statistics.missing)


def _interpolated(
    channel: ComplexArray, sounded: BoolArray, frequencies_hz: NDArray[np.float64]
) -> ComplexArray:
    """Linear interpolation over frequency of a channel (N, M) from where it was sounded, (N, M) or (N, 1)."""
    if sounded.all():
        return channel
    order = np.argsort(frequencies_hz)
    columns = []
    for column, there in zip(channel.T, np.broadcast_to(sounded, channel.shape).T, strict=True):
        known = order[there[order]]
        columns.append(
            np.interp(frequencies_hz, frequencies_hz[known], column[known]) if known.size else 0 * column
        )
    return np.stack(columns, axis=1)
