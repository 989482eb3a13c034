"""Pilot patterns, data symbols, the definition of SNR, and the received block."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "PILOT_PATTERNS",
    "Block",
    "all_known",
    "draw_symbols",
    "make_pilots",
    "noise_variance_for_snr",
    "receive",
    "with_pilots_at",
]

PILOT_PATTERNS = ("orthogonal", "comb", "random")

ComplexArray = NDArray[np.complex128]


class Block(NamedTuple):
    """Transmitted symbols (K, N, T), indices (K, N, T; -1 at pilots), pilots (K, N, T), mask (N, T)."""

    symbols: ComplexArray
    indices: NDArray[np.int64]
    pilots: ComplexArray
    mask: NDArray[np.bool_]


def make_pilots(
    pattern: str, n_users: int, n_subcarriers: int, n_pilot_symbols: int, rng: np.random.Generator
) -> ComplexArray:
    """Return the pilot symbols of mean energy one, shape (K, N, T_p).

    Parameters
    ----------
    pattern : {"orthogonal", "comb", "random"}
        ``orthogonal``: every user sends on every subcarrier in every pilot symbol; the users' sequences
        over time are rows of a DFT matrix, so they are orthogonal on each subcarrier.
        ``comb``: in a pilot symbol user ``k`` sends on every K-th subcarrier with K-fold energy, the comb
        shifts by one from symbol to symbol. ``random``: independent QPSK.
    n_users, n_subcarriers, n_pilot_symbols : int

    Raises
    ------
    ValueError
        For an unknown pattern; for orthogonal pilots with fewer pilot symbols than users; for a comb
        with fewer subcarriers than users.
    """
    if pattern not in PILOT_PATTERNS:
        raise ValueError(f"pilot_pattern must be one of {PILOT_PATTERNS}, got {pattern!r}")
    shape = (n_users, n_subcarriers, n_pilot_symbols)
    random_phase = np.exp(0.5j * np.pi * (rng.integers(0, 4, shape) + 0.5))
    if pattern == "random":
        return random_phase
    if pattern == "comb":
        if n_subcarriers < n_users:
            raise ValueError(
                f"pilot_pattern 'comb' needs n_subcarriers >= n_users, got {n_subcarriers} < {n_users}"
            )
        shift = np.arange(n_subcarriers)[:, None] + np.arange(n_pilot_symbols)[None, :]
        sends = shift[None] % n_users == np.arange(n_users)[:, None, None]
        return np.sqrt(n_users) * sends * random_phase
    if n_pilot_symbols < n_users:
        raise ValueError(
            f"n_pilot_symbols must be at least n_users for orthogonal pilots, got {n_pilot_symbols} < "
            f"{n_users}; use pilot_pattern 'comb' or 'random' for fewer"
        )
    sequence = np.exp(
        -2j * np.pi * np.outer(np.arange(n_users), np.arange(n_pilot_symbols)) / n_pilot_symbols
    )
    return sequence[:, None, :] * random_phase[:1, :, :1]


def draw_symbols(
    pilots: ComplexArray, n_data_symbols: int, constellation: ComplexArray, rng: np.random.Generator
) -> Block:
    """Draw ``n_data_symbols`` of independent uniform data after the pilots (K, N, T_p)."""
    n_users, n_sub, n_pilot = pilots.shape
    data = rng.integers(0, constellation.size, (n_users, n_sub, n_data_symbols))
    blank = np.zeros(data.shape)
    mask = np.zeros((n_sub, n_pilot + n_data_symbols), bool)
    mask[:, :n_pilot] = True
    return Block(
        symbols=np.concatenate([pilots, constellation[data]], axis=2),
        indices=np.concatenate([np.full(pilots.shape, -1), data], axis=2),
        pilots=np.concatenate([pilots, blank], axis=2),
        mask=mask,
    )


def with_pilots_at(block: Block, positions: Sequence[int]) -> Block:
    """Return the block with its pilots, which come first, at these OFDM symbols; data keep their order."""
    n_symbols = block.mask.shape[1]
    data = np.setdiff1d(np.arange(n_symbols), positions)
    source = np.empty(n_symbols, np.int64)
    source[np.concatenate([np.asarray(positions, np.int64), data])] = np.arange(n_symbols)
    return Block(
        block.symbols[..., source],
        block.indices[..., source],
        block.pilots[..., source],
        block.mask[:, source],
    )


def all_known(block: Block) -> Block:
    """Return the block as its transmitter knows it: every symbol a pilot."""
    return Block(
        symbols=block.symbols,
        indices=np.full_like(block.indices, -1),
        pilots=block.symbols,
        mask=np.ones_like(block.mask),
    )


def noise_variance_for_snr(channel: ComplexArray, snr_db: float) -> float:
    """Return the noise variance per sample at an SNR: the toolbox's one definition of SNR.

    ``SNR = mean over k, n, m of |h_knm|^2 E|u|^2 / sigma^2`` with ``E|u|^2 = 1``
    (docs/theory.md, section 1).

    Parameters
    ----------
    channel : ndarray of complex, shape (K, N, M)
    snr_db : float

    Returns
    -------
    float
    """
    return float(np.mean(np.abs(channel) ** 2) / 10 ** (snr_db / 10))


def receive(
    channel: ComplexArray,
    symbols: ComplexArray,
    noise_variance: float,
    rng: np.random.Generator,
    noise_covariance: NDArray[np.float64] | None = None,
) -> ComplexArray:
    """Return the block ``y_nt = sum_k h_knt u_knt + w`` from (K, N, M) and (K, N, T), shape (N, M, T).

    A channel that changes from symbol to symbol has the shape (K, N, M, T). The noise is white over the
    antennas, or of the shape ``noise_covariance`` (M, M) of trace M.
    """
    if channel.ndim == 4:
        clean = np.einsum("knmt,knt->nmt", channel, symbols)
    else:
        clean = np.matmul(channel.transpose(1, 2, 0), symbols.transpose(1, 0, 2))
    noise = rng.standard_normal((2, *clean.shape))
    if noise_covariance is not None:
        noise = np.linalg.cholesky(noise_covariance) @ noise
    return clean + np.sqrt(noise_variance / 2) * (noise[0] + 1j * noise[1])
