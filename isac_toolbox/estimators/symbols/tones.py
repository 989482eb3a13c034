"""Users that share tones by codes over frequency: least squares over groups of tones."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from isac_toolbox.channel.atoms.dense import Statistics

__all__ = ["GroupedChannel", "least_squares_over_groups"]

ComplexArray = NDArray[np.complex128]
RealArray = NDArray[np.float64]

# Guard: smallest eigenvalue of a symbol Gram of unit diagonal below which its users are not kept apart.
_SINGULAR = 1e-9
# Tuned: the same at which a group of tones keeps its users apart well enough; a whole code has one.
_REGULAR = 0.1
# Tuned: passes in which a user's delay is learned from its channel over the groups, and taken out of it.
_PASSES = 3


@dataclass(frozen=True, eq=False)
class GroupedChannel:
    """A least-squares channel from groups of tones.

    Attributes
    ----------
    channel : ndarray of complex, shape (K, N, M)
    inverse_gram : ndarray of complex, shape (N, K, K)
        Of the group of every tone.
    n_estimated : int
        Groups of each user, added up: how many vectors (M,) were estimated.
    span_hz : float
        Of the widest group.
    agreement : float
        Correlation of neighbouring groups, one where the channel is constant and noise is low.
    roughness : float
        Noise variance per sample that would explain what neighbouring groups differ from a straight line;
        infinite with fewer than three groups.
    """

    channel: ComplexArray
    inverse_gram: ComplexArray
    n_estimated: int
    span_hz: float
    agreement: float
    roughness: float


def least_squares_over_groups(
    statistics: Statistics, frequencies_hz: RealArray, nominal_delays_s: RealArray
) -> GroupedChannel | None:
    """Solve over groups of tones where users share tones by codes over frequency (docs/theory.md, 2.1).

    Over a group a user's channel is constant but for one delay of the user; it starts at the nominal one and
    is learned from the phase between groups. Between groups the channel is interpolated linearly.

    Parameters
    ----------
    statistics : Statistics
        Of the pilots.
    frequencies_hz : ndarray, shape (N,)
    nominal_delays_s : ndarray, shape (K,)
        Of the users' lines of sight: timing that the block is received with.

    Returns
    -------
    GroupedChannel, optional
        None where every tone alone keeps its users apart.

    Raises
    ------
    ValueError
        If no group of tones keeps some users apart.
    """
    group = _code_groups(statistics.symbol_gram, frequencies_hz)
    if group is None:
        return None
    energy = np.real(np.einsum("nkk->nk", statistics.symbol_gram))
    lost = np.flatnonzero(~np.any(energy[group >= 0] > 0, axis=0))
    if lost.size:
        raise ValueError(
            f"pilots must keep users apart over groups of tones at least, got pilots of user(s) "
            f"{lost.tolist()} that are a combination of those of other users on every group"
        )
    n_groups = int(group.max()) + 1
    sounded = group >= 0
    count = np.bincount(group[sounded], minlength=n_groups)
    centre_hz = np.bincount(group[sounded], frequencies_hz[sounded], minlength=n_groups) / count
    offset_hz = np.where(sounded, frequencies_hz - centre_hz[group], 0.0)
    delay_s = np.array(nominal_delays_s)

    def further(h: ComplexArray, s: NDArray[np.bool_], tau: float) -> tuple[float, float]:
        return _further_delay_s(centre_hz[s], h[s], tau)

    for last in (*[False] * _PASSES, True):
        grouped, gram = _solve(statistics, group, n_groups, offset_hz, delay_s)
        sends = np.real(np.einsum("gkk->kg", gram)) > 0
        if not last:
            delay_s += [further(h, s, tau)[0] for h, s, tau in zip(grouped, sends, delay_s)]
    parts = [
        _interpolated(frequencies_hz, centre_hz[s], h[s], tau) for h, s, tau in zip(grouped, sends, delay_s)
    ]
    agreement = min(further(h, s, tau)[1] for h, s, tau in zip(grouped, sends, delay_s))
    inverse = np.linalg.pinv(gram, hermitian=True)
    return GroupedChannel(
        channel=np.stack(parts),
        inverse_gram=np.where(sounded[:, None, None], inverse[group], 0),
        n_estimated=int(np.count_nonzero(sends)),
        span_hz=2 * float(np.max(np.abs(offset_hz))),
        agreement=agreement,
        roughness=min(
            _roughness(_straightened(centre_hz[s], h[s], tau)[1], np.real(inverse[s, k, k]))
            for k, (h, s, tau) in enumerate(zip(grouped, sends, delay_s))
        ),
    )


def _code_groups(symbol_gram: ComplexArray, frequencies_hz: RealArray) -> NDArray[np.int64] | None:
    """Group of every tone (N,), -1 where none separates the users; None where every tone does alone."""
    sends = np.real(np.einsum("nkk->nk", symbol_gram)) > 0
    alone = _are_separate(symbol_gram)
    if alone.all():
        return None
    parts = [np.array([n]) for n in np.flatnonzero(alone & sends.any(axis=1))]
    for users in np.unique(sends[~alone], axis=0):
        shared = np.flatnonzero(~alone & np.all(sends == users, axis=1))
        parts += _split(symbol_gram, shared[np.argsort(frequencies_hz[shared])])
    group = np.full(len(sends), -1)
    for number, part in enumerate(parts):
        group[part] = number
    return group


def _split(symbol_gram: ComplexArray, tones: NDArray[np.int64]) -> list[NDArray[np.int64]]:
    """Runs of tones, each just long enough to keep its users apart; none if even all tones do not."""
    parts, first = [], 0
    for end in range(1, tones.size + 1):
        if _separation(symbol_gram[tones[first:end]].sum(axis=0)) > _REGULAR:
            parts.append(tones[first:end])
            first = end
    if first < tones.size:  # what is left joins the last run
        parts[-1:] = [np.concatenate([*parts[-1:], tones[first:]])]
    return parts if _separation(symbol_gram[parts[-1]].sum(axis=0)) > _SINGULAR else parts[:-1]


def _are_separate(gram: ComplexArray) -> NDArray[np.bool_]:
    """Whether each of Grams (N, K, K) keeps its users apart; clear ones need no eigenvalues."""
    scaled = _unit_diagonal(gram)
    separate = np.max(np.sum(np.abs(scaled), axis=2), axis=1) < 2 - _SINGULAR  # dominated by the diagonal
    rest = np.flatnonzero(~separate)
    separate[rest] = np.linalg.eigvalsh(scaled[rest])[:, 0] > _SINGULAR
    return separate


def _separation(gram: ComplexArray) -> float:
    """Smallest eigenvalue of a Gram (K, K) of unit diagonal."""
    return float(np.linalg.eigvalsh(_unit_diagonal(gram))[0])


def _unit_diagonal(gram: ComplexArray) -> ComplexArray:
    """Grams (..., K, K) scaled to a diagonal of ones, also where a user is silent."""
    energy = np.real(np.einsum("...kk->...k", gram))
    scale = 1 / np.sqrt(np.where(energy > 0, energy, 1.0))
    scaled = gram * scale[..., :, None] * scale[..., None, :]
    users = np.arange(gram.shape[-1])
    scaled[..., users, users] = 1.0
    return scaled


def _solve(
    statistics: Statistics,
    group: NDArray[np.int64],
    n_groups: int,
    offset_hz: RealArray,
    delay_s: RealArray,
) -> tuple[ComplexArray, ComplexArray]:
    """Channel at the centre of every group (K, G, M) and its symbol Gram (G, K, K), delays taken out."""
    turn = np.exp(-2j * np.pi * delay_s[:, None] * offset_hz)
    n_users, _, n_antennas = statistics.cross_correlation.shape
    gram = np.zeros((n_groups, n_users, n_users), complex)
    correlation = np.zeros((n_groups, n_users, n_antennas), complex)
    used = group >= 0
    turned = statistics.symbol_gram * turn.conj().T[:, :, None] * turn.T[:, None, :]
    np.add.at(gram, group[used], turned[used])
    straight = (turn.conj()[:, :, None] * statistics.cross_correlation).transpose(1, 0, 2)
    np.add.at(correlation, group[used], straight[used])
    return np.matmul(np.linalg.pinv(gram, hermitian=True), correlation).transpose(1, 0, 2), gram


def _straightened(
    centre_hz: RealArray, channel: ComplexArray, delay_s: float
) -> tuple[RealArray, ComplexArray]:
    """Centres of a user's groups in order, and its channel over them (G, M) with a delay taken out."""
    order = np.argsort(centre_hz)
    turn = np.exp(2j * np.pi * centre_hz[order] * delay_s)
    return centre_hz[order], channel[order] * turn[:, None]


def _further_delay_s(centre_hz: RealArray, channel: ComplexArray, delay_s: float) -> tuple[float, float]:
    """Delay beyond a known one from the phase between neighbouring groups (G, M), and how alike these are."""
    at, ordered = _straightened(centre_hz, channel, delay_s)
    step_hz = np.diff(at)
    near = step_hz < 1.5 * step_hz.min(initial=np.inf)
    products = np.sum(ordered[:-1].conj() * ordered[1:], axis=1)[near]
    if not products.size:
        return 0.0, 1.0
    total = np.sum(products)
    energy = np.sum(np.abs(ordered[:-1][near]) ** 2 + np.abs(ordered[1:][near]) ** 2) / 2
    return float(-np.angle(total) / (2 * np.pi * np.mean(step_hz[near]))), float(np.abs(total) / energy)


def _roughness(channel: ComplexArray, inverse: RealArray) -> float:
    """Mean square second difference of a channel (G, M), as a multiple of that of noise of unit variance."""
    if len(channel) < 3:
        return np.inf
    bend = channel[:-2] - 2 * channel[1:-1] + channel[2:]
    return max(float(np.mean(np.abs(bend) ** 2) / (6 * np.mean(inverse))), 1e-300)


def _interpolated(
    frequencies_hz: RealArray, centre_hz: RealArray, channel: ComplexArray, delay_s: float
) -> ComplexArray:
    """Linear interpolation from the groups (G, M), the delay taken out, to all tones (N, M)."""
    at, straight = _straightened(centre_hz, channel, delay_s)
    columns = [np.interp(frequencies_hz, at, column) for column in straight.T]
    return np.stack(columns, axis=1) * np.exp(-2j * np.pi * frequencies_hz * delay_s)[:, None]
