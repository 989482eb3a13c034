"""Statistics of a block over time, and atoms of paths with Doppler shifts (docs/theory.md, section 2.6)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

__all__ = ["Frames", "MovingAtoms", "StillAtoms", "chebyshev_times", "interpolation"]

RealArray = NDArray[np.float64]
ComplexArray = NDArray[np.complex128]
IntArray = NDArray[np.int64]

# Guard: nodes beyond the largest phase in radians, and times its cube root; leaves 1e-8 of the atom.
_FURTHER_NODES, _GROWTH = 12.0, 4.0
# Entries of a correlation over time that are worked on at once; bounds memory beside the statistics.
_MOST_ENTRIES = 2**18


@dataclass(frozen=True, eq=False)
class Pair:
    """Two users that send together, or one with itself, where they do.

    Attributes
    ----------
    first, second : int
        Users.
    times, tones : ndarray of int, shapes (q,) and (n,)
    gram : ndarray of complex, shape (q, n)
        Their entry of the symbol Gram.
    """

    first: int
    second: int
    times: IntArray
    tones: IntArray
    gram: ComplexArray

    @classmethod
    def of(cls, gram: ComplexArray, first: int, second: int) -> Pair:
        """Return the pair of entries (Q, N) without empty times and tones."""
        times, tones = (np.flatnonzero(gram.any(axis=axis)) for axis in (1, 0))
        return cls(first, second, times, tones, gram[np.ix_(times, tones)])


@dataclass(frozen=True, eq=False)
class Frames:
    """Sufficient statistics of a block at Q times.

    They are those of the OFDM symbols themselves, or of fewer times between which everything that turns is
    interpolated. Every user's symbols are turned back by its mean Doppler shift and phases beforehand.

    Attributes
    ----------
    times_s : ndarray, shape (Q,)
        Relative to the reference time of the block.
    symbol_gram : ndarray of complex, shape (Q, N, K, K)
        ``R_qn[k, j] = E[conj(u_knq) u_jnq]``.
    cross_correlation : ndarray of complex, shape (K, N, Q, M)
        ``Z_knq = y_nq E[conj(u_knq)]``.
    mean_doppler_hz : ndarray, shape (K,)
        By which the users' symbols were turned back.
    """

    times_s: RealArray
    symbol_gram: ComplexArray
    cross_correlation: ComplexArray
    mean_doppler_hz: RealArray

    def __add__(self, other: Frames) -> Frames:
        """Frames of two parts of a block together, turned back alike."""
        if not other.times_s.size:
            return self
        if np.array_equal(self.times_s, other.times_s):
            return replace(
                self,
                symbol_gram=self.symbol_gram + other.symbol_gram,
                cross_correlation=self.cross_correlation + other.cross_correlation,
            )
        return Frames(
            np.concatenate([self.times_s, other.times_s]),
            np.concatenate([self.symbol_gram, other.symbol_gram]),
            np.concatenate([self.cross_correlation, other.cross_correlation], axis=2),
            self.mean_doppler_hz,
        )

    def stored_as(self, dtype: str) -> Frames:
        """The same with the correlation kept in a precision that is no higher than its own."""
        dtype = min(np.dtype(dtype), self.cross_correlation.dtype, key=lambda d: d.itemsize).name
        return replace(self, cross_correlation=self.cross_correlation.astype(dtype, copy=False))

    def parts(self) -> Iterator[tuple[slice, Frames]]:
        """Runs of times whose correlations are a few megabytes, with the frames of these times."""
        n_users, n_sub, n_times, n_elements = self.cross_correlation.shape
        step = max(_MOST_ENTRIES // (n_users * n_sub * n_elements), 1)
        for first in range(0, n_times, step):
            yield (part := slice(first, first + step)), self.take(part)

    def take(self, part: slice) -> Frames:
        """Frames of some times, without a copy."""
        if part.start == 0 and part.stop >= self.times_s.size:
            return self
        return replace(
            self,
            times_s=self.times_s[part],
            symbol_gram=self.symbol_gram[part],
            cross_correlation=self.cross_correlation[:, :, part],
        )

    def of_user(self, user: int) -> Frames:
        """Frames of one user, for users that never send together."""
        alone = slice(user, user + 1)
        return Frames(
            self.times_s,
            self.symbol_gram[:, :, alone, alone],
            self.cross_correlation[alone],
            self.mean_doppler_hz[alone],
        )

    @cached_property
    def pairs(self) -> list[Pair]:
        """Pairs of users that send together, every user with itself among them."""
        together = np.argwhere(np.triu(np.any(self.symbol_gram, axis=(0, 1))))
        return [Pair.of(self.symbol_gram[:, :, k, j], int(k), int(j)) for k, j in together]

    def turns(self, doppler_hz: RealArray, user: IntArray) -> ComplexArray:
        """Factors by which paths turn beside their users' means, shape (Q, L)."""
        beside = doppler_hz - self.mean_doppler_hz[user]
        return np.asarray(np.exp(2j * np.pi * self.times_s[:, None] * beside))


def chebyshev_times(
    times_s: RealArray, largest_doppler_hz: float, further: float = _FURTHER_NODES
) -> RealArray:
    """Return times at which all that turns by no more than a Doppler shift is known between as well.

    The symbols' own times where these are fewer; else Chebyshev nodes, as many as the phases over half the
    block have radians and some more (Trefethen, Approximation Theory and Approximation Practice, ch. 8).
    """
    middle, half = (times_s.max() + times_s.min()) / 2, np.ptp(times_s) / 2
    phase = 2 * np.pi * largest_doppler_hz * half
    n_nodes = int(np.ceil(phase + further + _GROWTH * phase ** (1 / 3)))
    if n_nodes >= times_s.size:
        return times_s
    return np.asarray(middle + half * np.cos(np.pi * (np.arange(n_nodes)[::-1] + 0.5) / n_nodes))


def interpolation(nodes_s: RealArray, times_s: RealArray) -> RealArray:
    """Return the matrix (Q, T) that interpolates between Chebyshev nodes, the identity at these times."""
    if np.array_equal(nodes_s, times_s):
        return np.eye(times_s.size)
    n_nodes = nodes_s.size
    middle = (nodes_s[0] + nodes_s[-1]) / 2
    half = (nodes_s[-1] - nodes_s[0]) / 2 / np.cos(np.pi / (2 * n_nodes))
    at_nodes, at_times = (
        np.polynomial.chebyshev.chebvander((x - middle) / half, n_nodes - 1) for x in (nodes_s, times_s)
    )
    weights = np.full(n_nodes, 2.0 / n_nodes)
    weights[0] = 1.0 / n_nodes
    return np.asarray((at_nodes * weights) @ at_times.T)


class StillAtoms(Protocol):
    """What atoms must offer for their paths to turn as well."""

    @property
    def user(self) -> IntArray: ...
    @property
    def delay(self) -> ComplexArray: ...
    @property
    def wavenumbers_per_m(self) -> RealArray: ...
    @property
    def steering(self) -> ComplexArray: ...
    @property
    def n_types(self) -> int: ...
    def gram(self, symbol_gram: ComplexArray) -> ComplexArray: ...
    def full_gram(self, symbol_gram: ComplexArray) -> ComplexArray: ...
    def correlate(self, cross_correlation: ComplexArray, derivatives: bool = False) -> ComplexArray: ...
    def correlate_over_time(self, cross_correlation: ComplexArray, turns: ComplexArray) -> ComplexArray: ...
    def delay_orders(self, n_types: int) -> int: ...
    def assembled(self, delay: ComplexArray, n_types: int) -> ComplexArray: ...
    def synthesise(self, gains: ComplexArray, n_users: int) -> ComplexArray: ...
    def respond(self, rows: ComplexArray) -> ComplexArray: ...
    def match(self, gains: ComplexArray, users: IntArray) -> ComplexArray: ...
    def take(self, index: IntArray) -> StillAtoms: ...
    def on_subcarriers(self, part: slice) -> StillAtoms: ...
    def over_cells(self, delay: ComplexArray) -> StillAtoms: ...


@dataclass(frozen=True, eq=False)
class MovingAtoms:
    """Atoms of paths with Doppler shifts; one more type, the last, is the derivative in the shift (Hz).

    What concerns a moment, or arrays without a time axis, is that of the atoms at the reference time.

    Attributes
    ----------
    still : PathAtoms
        The atoms at the reference time.
    doppler_hz : ndarray, shape (L,)
    """

    still: StillAtoms
    doppler_hz: RealArray

    @property
    def user(self) -> IntArray:
        """User of every path, shape (L,)."""
        return self.still.user

    @property
    def delay(self) -> ComplexArray:
        """Delay factors, shape (N, L)."""
        return self.still.delay

    @property
    def wavenumbers_per_m(self) -> RealArray:
        """Phase per metre on every subcarrier, shape (N,)."""
        return self.still.wavenumbers_per_m

    @property
    def steering(self) -> ComplexArray:
        """Array factors at the carrier with their D derivatives, shape (1 + D, L, M)."""
        return self.still.steering

    @property
    def n_types(self) -> int:
        """Number of atom types, that of the Doppler shift included."""
        return self.still.n_types + 1

    def gram_over_time(self, frames: Frames) -> ComplexArray:
        """Return the Gram of the path atoms, shape (L, L)."""
        return self.still.assembled(self._moments(frames, 1)[0], 1)[0, 0]

    def full_gram_over_time(self, frames: Frames) -> ComplexArray:
        """Return the Gram of all atom types, shape (3 + D, 3 + D, L, L)."""
        n = self.still.n_types
        zeroth, first, second = self._moments(frames, n)
        gram = np.empty((n + 1, n + 1, *zeroth.shape[1:]), complex)
        gram[:n, :n] = self.still.assembled(zeroth, n)
        turned = self.still.assembled(first, n)
        gram[:n, n] = 2j * np.pi * turned[:, 0]
        gram[n, :n] = -2j * np.pi * turned[0]
        gram[n, n] = 4 * np.pi**2 * self.still.assembled(second[:1], 1)[0, 0]
        return gram

    def _moments(self, frames: Frames, n_types: int) -> ComplexArray:
        """``sum t_q^r w_n^a conj(b_ni v_qi) R_qn b_nj v_qj`` with the turns ``v``, shape (3, A, L, L)."""
        return moving_moments(
            self.delay,
            frames.turns(self.doppler_hz, self.user),
            self.user,
            self.wavenumbers_per_m,
            frames,
            self.still.delay_orders(n_types),
        )

    def correlate_over_time(self, frames: Frames, derivatives: bool = False) -> ComplexArray:
        """Return inner products with the block: shape (L,), or (3 + D, L) with derivatives."""
        back = frames.turns(self.doppler_hz, self.user).conj()
        slope = -2j * np.pi * frames.times_s[:, None] * back
        turns = np.stack([back, slope] if derivatives else [back])
        total: ComplexArray | int = 0
        for part, some in frames.parts():
            total = total + self.still.correlate_over_time(some.cross_correlation, turns[:, part])
        return np.asarray(total)

    def explained(self, frames: Frames, gains: ComplexArray) -> ComplexArray:
        """Return ``sum_q sum_j R_q[k, j] H_jq``: what the paths are in ``sum_q Z_kq``, shape (K, N, M)."""
        n_users, n_sub, _, n_elements = frames.cross_correlation.shape
        total = np.zeros((n_users, n_sub, n_elements), complex)
        for _, some in frames.parts():
            total += self.explained_over_time(some, gains).sum(axis=2)
        return total

    def explained_over_time(self, frames: Frames, gains: ComplexArray) -> ComplexArray:
        """Return ``sum_j R_q[k, j] H_jq``: what the paths are in ``Z_kq``, shape (K, N, Q, M).

        Gains are (L,), or (Q, L) where they change over time.
        """
        turned = gains * frames.turns(self.doppler_hz, self.user)
        explained = np.empty(frames.cross_correlation.shape, complex)
        for q, (gram, at) in enumerate(zip(frames.symbol_gram, turned, strict=True)):
            channel = self.still.synthesise(at, len(explained))
            explained[:, :, q] = np.matmul(gram, channel.transpose(1, 0, 2)).transpose(1, 0, 2)
        return explained

    def gram(self, symbol_gram: ComplexArray) -> ComplexArray:
        """Gram of the path atoms at the reference time, shape (L, L)."""
        return self.still.gram(symbol_gram)

    def full_gram(self, symbol_gram: ComplexArray) -> ComplexArray:
        """Gram of all atom types but the last, shape (2 + D, 2 + D, L, L)."""
        return self.still.full_gram(symbol_gram)

    def correlate(self, cross_correlation: ComplexArray, derivatives: bool = False) -> ComplexArray:
        """Inner products with ``Z`` (K, N, M): shape (L,), or (2 + D, L) with derivatives."""
        return self.still.correlate(cross_correlation, derivatives)

    def synthesise(self, gains: ComplexArray, n_users: int) -> ComplexArray:
        """Channel at the reference time, shape (K, N, M)."""
        return self.still.synthesise(gains, n_users)

    def respond(self, rows: ComplexArray) -> ComplexArray:
        """Inner products ``sum_m y_num b_ni a_mi`` of rows (N, U, M) with every path, shape (N, U, L)."""
        return self.still.respond(rows)

    def match(self, gains: ComplexArray, users: IntArray) -> ComplexArray:
        """``sum_m conj(h_unm) b_ni a_mi`` of users' channels with every path, shape (N, U, L)."""
        return self.still.match(gains, users)

    def on_subcarriers(self, part: slice) -> MovingAtoms:
        """Return the atoms on some subcarriers."""
        return MovingAtoms(self.still.on_subcarriers(part), self.doppler_hz)

    def take(self, index: IntArray) -> MovingAtoms:
        """The atoms of some paths."""
        return MovingAtoms(self.still.take(index), self.doppler_hz[index])


def moving_moments(
    delay: ComplexArray,
    turns: ComplexArray,
    user: IntArray,
    wavenumbers_per_m: RealArray,
    frames: Frames,
    n_orders: int,
) -> ComplexArray:
    """Return ``sum t_q^r w_n^a conj(b_ni v_qi) R_qn[k_i, k_j] b_nj v_qj`` for r < 3, a < A, (3, A, L, L).

    ``delay`` (N, L), ``turns`` (Q, L). Matrix products for every pair of users that send together, on the
    tones and at the times that they share.
    """
    out = np.zeros((3, n_orders, user.size, user.size), complex)
    powers = frames.times_s ** np.arange(3)[:, None]
    for pair in frames.pairs:
        first, second = np.flatnonzero(user == pair.first), np.flatnonzero(user == pair.second)
        if not (first.size and second.size):
            continue
        before, after = delay[np.ix_(pair.tones, first)].conj(), delay[np.ix_(pair.tones, second)]
        back, forth = turns[np.ix_(pair.times, first)].conj(), turns[np.ix_(pair.times, second)]
        total = np.zeros((n_orders, 3, first.size, second.size), complex)
        step = max(_MOST_ENTRIES // max(before.size, first.size * second.size), 1)
        for a in range(n_orders):
            for some in (slice(at, at + step) for at in range(0, pair.times.size, step)):
                weighted = pair.gram[some, None, :] * before.T
                over_tones = (weighted.reshape(-1, before.shape[0]) @ after).reshape(
                    -1, first.size, second.size
                )
                over_tones *= back[some, :, None]
                over_tones *= forth[some, None, :]
                total[a] += np.tensordot(powers[:, pair.times[some]], over_tones, 1)
            before *= wavenumbers_per_m[pair.tones, None]
        out[:, :, first[:, None], second] = total.swapaxes(0, 1)
        if pair.first != pair.second:
            out[:, :, second[:, None], first] = total.conj().transpose(1, 0, 3, 2)
    return out
