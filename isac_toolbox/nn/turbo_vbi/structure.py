"""Support graphs whose weights leave in patterns that hardware likes (docs/theory-networks.md, 4.4)."""

from __future__ import annotations

import copy
from typing import Any, Self

import numpy as np

from isac_toolbox.inference import GatedChain, IndependentSupport

__all__ = ["AtMostSupport", "BlockSupport", "allowed", "is_kept", "levelled", "n_of_blocks"]


class BlockSupport:
    """Blocks of a matrix that are active or inactive as a whole; a graph decides over the blocks.

    The log-likelihood ratio of a block is the sum of those of its entries, because these are independent
    given the support. All entries of a block therefore have the same posterior.

    Parameters
    ----------
    graph : GatedChain or IndependentSupport
        Graph of the blocks, row of blocks by row of blocks.
    shape : (int, int)
        Rows and columns of the matrix.
    block : (int, int)
        Rows and columns of a block; the last ones of a matrix may have fewer.

    Raises
    ------
    ValueError
        If the graph has another number of blocks.
    """

    def __init__(
        self, graph: GatedChain | IndependentSupport, shape: tuple[int, int], block: tuple[int, int]
    ) -> None:
        rows, columns = (np.arange(n) // size for n, size in zip(shape, block))
        n_blocks = n_of_blocks(shape, block)
        self.labels = (rows[:, None] * n_blocks[1] + columns).ravel()
        if graph.n_coefficients != n_blocks[0] * n_blocks[1]:
            raise ValueError(f"graph has {graph.n_coefficients} blocks, the matrix {n_blocks}")
        self.graph = graph

    @property
    def n_coefficients(self) -> int:
        """Number of entries of the matrix."""
        return int(self.labels.size)

    def extrinsic_log_odds(self, L: np.ndarray) -> np.ndarray:
        """Return what the rest of its block and the other blocks say about every entry, (n,)."""
        total = self._sums(L)
        return np.asarray((total + self.graph.extrinsic_log_odds(total))[self.labels] - L)

    def learned(self, L: np.ndarray) -> Self:
        """Return the graph after one EM step over the blocks."""
        return self._with(self.graph.learned(self._sums(L)))

    def with_parameters(self, **probabilities: float) -> Self:
        """Return the same graph with other parameters of the graph of the blocks."""
        return self._with(self.graph.with_parameters(**probabilities))

    def mean(self, values: np.ndarray) -> np.ndarray:
        """Return the mean of its block for every entry, (n,)."""
        sizes = np.bincount(self.labels)
        return np.asarray((self._sums(values) / sizes)[self.labels])

    def _sums(self, values: np.ndarray) -> np.ndarray:
        return np.bincount(self.labels, weights=values)

    def _with(self, graph: Any) -> Self:
        new = copy.copy(self)
        new.graph = graph
        return new


class AtMostSupport:
    """At most ``n`` of every ``m`` neighbours in a row are active, all such supports alike.

    Parameters
    ----------
    shape : (int, int)
        Rows and columns of the matrix; the last neighbours of a row may be fewer.
    n, m : int
        Most active entries of so many neighbours.
    """

    def __init__(self, shape: tuple[int, int], n: int, m: int) -> None:
        self.shape, self.n, self.m = shape, n, m

    @property
    def n_coefficients(self) -> int:
        """Number of entries of the matrix."""
        return self.shape[0] * self.shape[1]

    def extrinsic_log_odds(self, L: np.ndarray) -> np.ndarray:
        """Return the log-odds of "at most n - 1 of the others" to "at most n of the others", (n,)."""
        groups = self._groups(L, -np.inf)
        found = np.empty_like(groups)
        for i in range(self.m):
            counts = _log_weight_of_counts(np.delete(groups, i, axis=1), self.n)
            found[:, i] = np.logaddexp.reduce(counts[:-1]) - np.logaddexp.reduce(counts)
        return self._entries(found)

    def learned(self, L: np.ndarray) -> Self:
        """Return this graph, which has nothing to learn."""
        return self

    def with_parameters(self) -> Self:
        """Return this graph."""
        return self

    def largest(self, values: np.ndarray) -> np.ndarray:
        """Return which entries are among the ``n`` largest of their neighbours, bool (n,).

        Where all neighbours are equal, as before the first update, all of them are.
        """
        groups = self._groups(values, -np.inf)
        rank = np.argsort(np.argsort(-groups, axis=1, kind="stable"), axis=1)
        return self._entries((rank < self.n) | (groups == groups[:, :1]).all(1)[:, None])

    def _groups(self, values: np.ndarray, filler: float) -> np.ndarray:
        """Return neighbours in rows, (n_groups, m), with a filler where a row of the matrix ends."""
        rows, columns = self.shape
        wide = np.full((rows, -(-columns // self.m) * self.m), filler)
        wide[:, :columns] = np.reshape(values, self.shape)
        return wide.reshape(-1, self.m)

    def _entries(self, groups: np.ndarray) -> np.ndarray:
        """Return the entries of the matrix, without the filler."""
        return groups.reshape(self.shape[0], -1)[:, : self.shape[1]].ravel()


def n_of_blocks(shape: tuple[int, int], block: tuple[int, int]) -> tuple[int, int]:
    """Return the rows and columns of blocks of a matrix."""
    return -(-shape[0] // block[0]), -(-shape[1] // block[1])


def _log_weight_of_counts(L: np.ndarray, most: int) -> np.ndarray:
    """Return the logarithm of the sum over all supports with k active entries, (most + 1, n_groups)."""
    counts = np.full((most + 1, len(L)), -np.inf)
    counts[0] = 0.0
    for column in L.T:
        counts[1:] = np.logaddexp(counts[1:], counts[:-1] + column)
    return counts


def is_kept(log_odds: np.ndarray, graph: Any = None, rank: np.ndarray | None = None) -> np.ndarray:
    """Return which weights are kept: those whose support probability is at least one half.

    Blocks stay or leave as a whole. Of neighbours of which so many may stay, the most probable do, or those
    of the largest ``rank``.
    """
    return (levelled(graph, log_odds) >= 0.0) & allowed(graph, log_odds if rank is None else rank)


def allowed(graph: Any, rank: np.ndarray) -> np.ndarray:
    """Return which weights may stay beside those of larger rank, bool."""
    return graph.largest(rank) if isinstance(graph, AtMostSupport) else np.ones(rank.shape, dtype=bool)


def levelled(graph: Any, values: np.ndarray) -> np.ndarray:
    """Return the mean of its block for every weight, or the values where there are no blocks."""
    return graph.mean(values) if isinstance(graph, BlockSupport) else values
