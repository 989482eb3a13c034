"""Bits of a masked weight tensor in five codings (docs/theory-networks.md, section 6).

Every count is value bits plus index bits, in the narrowest whole-bit fields that each coding allows; the
run-length index is a real bit stream that can be read back.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from isac_toolbox._validation import check_integer

__all__ = ["CODINGS", "RunLengthIndex", "coding_bits", "decode_runs", "encode_runs", "mean_run", "runs"]

CODINGS = ("dense", "bitmap", "csr", "csr_int32", "run_length")
_MAX_ORDER = 20
#: What a reader needs besides the run-length stream: number of runs and both orders.
_HEADER_BITS = 32 + 8 + 8


def runs(mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return start and length of every run of kept weights, each (n_runs,), in the flattened mask.

    Parameters
    ----------
    mask : ndarray of bool, any shape
        True where a weight is kept; read in C order, so a run may continue in the next row.
    """
    flat = np.concatenate([[0], np.asarray(mask, dtype=bool).ravel().astype(np.int8), [0]])
    change = np.diff(flat)
    starts = np.flatnonzero(change == 1)
    return starts, np.flatnonzero(change == -1) - starts


def mean_run(mask: np.ndarray) -> float:
    """Return the mean length of the runs of kept weights inside the rows (axis 0) of a mask; 0 if none."""
    rows = np.asarray(mask, dtype=bool).reshape(len(mask), -1)
    padded = np.pad(rows, ((0, 0), (1, 0)))
    n_runs = int(np.count_nonzero(padded[:, 1:] & ~padded[:, :-1]))
    return float(np.count_nonzero(rows)) / n_runs if n_runs else 0.0


def _bit_width(largest: int) -> int:
    """Return the bits of a field that holds 0 ... largest."""
    return max(int(largest).bit_length(), 1)


def _golomb_bits(values: np.ndarray, order: int) -> int:
    """Return the total length of the exponential Golomb codes of non-negative ``values``."""
    high = (values >> order) + 1
    return int(np.sum(2 * np.floor(np.log2(high)).astype(np.int64) + 1 + order))


def _best_order(values: np.ndarray) -> int:
    """Return the order of the shortest exponential Golomb code."""
    if values.size == 0:
        return 0
    return int(np.argmin([_golomb_bits(values, order) for order in range(_MAX_ORDER)]))


@dataclass(frozen=True)
class RunLengthIndex:
    """Positions of the kept weights as alternating gaps and lengths, in exponential Golomb codes.

    Attributes
    ----------
    stream : ndarray of uint8
        The bits, most significant first, padded to a whole byte.
    n_runs : int
        Number of runs.
    gap_order, length_order : int
        Orders of the two codes.
    shape : tuple of int
        Shape of the mask.
    n_bits : int
        Bits used in the stream.
    """

    stream: np.ndarray
    n_runs: int
    gap_order: int
    length_order: int
    shape: tuple[int, ...]
    n_bits: int


def encode_runs(mask: np.ndarray) -> RunLengthIndex:
    """Write the positions of a mask as a bit stream.

    A gap counts the zeros since the last run. Runs are never empty, so length minus one is written, and from
    the second run on gap minus one.

    Parameters
    ----------
    mask : ndarray of bool, any shape
        True where a weight is kept.

    Returns
    -------
    RunLengthIndex

    Notes
    -----
    Source: docs/theory-networks.md, section 6.
    """
    gaps, lengths = _gaps_and_lengths(mask)
    gap_order, length_order = _best_order(gaps), _best_order(lengths)
    bits: list[str] = []
    for gap, length in zip(gaps.tolist(), lengths.tolist()):
        bits += (_golomb_word(gap, gap_order), _golomb_word(length, length_order))
    text = "".join(bits)
    stream = np.packbits(np.frombuffer(text.encode(), np.uint8) - ord("0")) if text else np.zeros(0, np.uint8)
    return RunLengthIndex(stream, gaps.size, gap_order, length_order, tuple(np.shape(mask)), len(text))


def _gaps_and_lengths(mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the numbers of every run: zeros before it (less one from the second on), length less one."""
    starts, lengths = runs(mask)
    gaps = starts - np.concatenate([[0], (starts + lengths)[:-1]]) if starts.size else starts
    gaps[1:] -= 1
    return gaps, lengths - 1


def _golomb_word(value: int, order: int) -> str:
    """Return the exponential Golomb code word of one value."""
    high = bin((value >> order) + 1)[2:]
    low = format(value & ((1 << order) - 1), f"0{order}b") if order else ""
    return "0" * (len(high) - 1) + high + low


def decode_runs(index: RunLengthIndex) -> np.ndarray:
    """Read the mask back from its bit stream.

    Raises
    ------
    ValueError
        If the stream ends early or goes beyond the end of the mask.
    """
    bits = np.unpackbits(np.asarray(index.stream, dtype=np.uint8)).tobytes()
    mask = np.zeros(int(np.prod(index.shape, dtype=np.int64)), dtype=bool)
    at, position = 0, 0
    for i in range(index.n_runs):
        gap, at = _read_golomb(bits, at, index.gap_order)
        length, at = _read_golomb(bits, at, index.length_order)
        start = position + gap + (1 if i else 0)
        position = start + length + 1
        if position > mask.size:
            raise ValueError(f"run {i} ends at {position}, beyond the {mask.size} weights of {index.shape}")
        mask[start:position] = True
    return mask.reshape(index.shape)


def _read_golomb(bits: bytes, at: int, order: int) -> tuple[int, int]:
    """Return one value and the position after it."""
    one = bits.find(b"\x01", at)
    stop = 2 * one - at + 1 + order
    if one < 0 or stop > len(bits):
        raise ValueError("the run-length stream ends before its last run")
    word = bits[one:stop]
    value = int(word.translate(_TO_TEXT), 2)
    return value - (1 << order), stop


_TO_TEXT = bytes([ord("0"), ord("1")]) + bytes(254)


def coding_bits(mask: np.ndarray, value_bits: int = 32) -> dict[str, int]:
    """Return the bits of one weight tensor in every coding.

    Parameters
    ----------
    mask : ndarray of bool, shape (rows, ...)
        True where a weight is kept.
    value_bits : int
        Bits of one stored value.

    Returns
    -------
    dict of str to int
        ``dense``: all values. ``bitmap``: one bit per weight and the kept values. ``csr``: kept values,
        column indices and row pointers in the narrowest whole-bit fields. ``csr_int32``: the same with the
        32-bit indices of numerical libraries. ``run_length``: kept values, the bit stream of ``encode_runs``
        and its header.

    Notes
    -----
    Source: docs/theory-networks.md, section 6.
    """
    value_bits = check_integer("value_bits", value_bits, 1)
    flags = np.asarray(mask, dtype=bool)
    rows = flags.reshape(len(flags), -1)
    kept = int(np.count_nonzero(flags))
    gaps, lengths = _gaps_and_lengths(flags)
    stream = _golomb_bits(gaps, _best_order(gaps)) + _golomb_bits(lengths, _best_order(lengths))
    columns, pointers = _bit_width(rows.shape[1] - 1), _bit_width(kept)
    values = kept * value_bits
    return {
        "dense": flags.size * value_bits,
        "bitmap": flags.size + values,
        "csr": values + kept * columns + (rows.shape[0] + 1) * pointers,
        "csr_int32": values + kept * 32 + (rows.shape[0] + 1) * 32,
        "run_length": values + stream + _HEADER_BITS,
    }
