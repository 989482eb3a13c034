"""When OFDM symbols are: numerologies of 3GPP TS 38.211 with the normal cyclic prefix, or a plain period."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from isac_toolbox._validation import as_indices, check_choice, check_non_negative, check_shape

__all__ = ["NUMEROLOGIES", "SYMBOLS_PER_SLOT", "check_raster", "slot_times_s"]

#: Subcarrier spacing in Hz of every numerology (table 4.2-1).
NUMEROLOGIES = {"15kHz": 15e3, "30kHz": 30e3, "60kHz": 60e3, "120kHz": 120e3, "240kHz": 240e3}

#: With the normal cyclic prefix (table 4.3.2-1).
SYMBOLS_PER_SLOT = 14

# Section 5.3.1, in units of the useful part over 2048: prefixes, and what that of every half millisecond's
# first symbol has more at 15 kHz.
_USEFUL, _PREFIX, _LONGER = 2048, 144, 16


def slot_times_s(numerology: str, symbols: ArrayLike) -> NDArray[np.float64]:
    """Return the centres of the useful parts of OFDM symbols, in seconds from the start of a subframe.

    Parameters
    ----------
    numerology : {"15kHz", "30kHz", "60kHz", "120kHz", "240kHz"}
        By its subcarrier spacing.
    symbols : array_like of int, shape (T,)
        Counted from the start of the subframe; 14 make a slot.

    Returns
    -------
    ndarray, shape (T,)

    Raises
    ------
    TypeError, ValueError
        For another numerology, or symbols that are no counts.

    Notes
    -----
    3GPP TS 38.211, sections 4.3 and 5.3.1: of every ``7 * 2**mu`` symbols, half a millisecond, the first has
    a longer prefix.

    Examples
    --------
    >>> from isac_toolbox.channel.numerology import slot_times_s
    >>> (slot_times_s("30kHz", [0, 1, 13]) * 1e6).round(2).tolist()
    [19.53, 55.21, 483.33]
    """
    spacing_hz = NUMEROLOGIES[check_choice("numerology", numerology, tuple(NUMEROLOGIES))]
    index = as_indices("symbols", symbols)
    check_shape("symbols", index, (None,), "(T,)")
    check_non_negative("symbols", index)
    scale = round(spacing_hz / 15e3)
    longer = 1 + index // (7 * scale)
    ends = (index + 1) * (_USEFUL + _PREFIX) + longer * _LONGER * scale
    return np.asarray((ends - _USEFUL / 2) / (_USEFUL * spacing_hz))


def check_raster(numerology: str, used_spacing_hz: float) -> int:
    """Return how many subcarriers of a numerology the used ones are apart.

    Raises
    ------
    ValueError
        If that is no whole number.
    """
    spacing_hz = NUMEROLOGIES[check_choice("numerology", numerology, tuple(NUMEROLOGIES))]
    step = round(used_spacing_hz / spacing_hz)
    if step < 1 or abs(step * spacing_hz - used_spacing_hz) > 1e-9 * used_spacing_hz:
        raise ValueError(
            f"subcarrier_spacing_hz must be a multiple of the {spacing_hz:g} Hz of numerology "
            f"{numerology!r}, of which every n-th subcarrier is used, got {used_spacing_hz:g}"
        )
    return step


def check_symbols(name: str, symbols: Sequence[int], count: int) -> None:
    """Raise unless there are ``count`` symbols in ascending order."""
    if len(symbols) != count or min(symbols) < 0 or np.any(np.diff(symbols) <= 0):
        raise ValueError(f"{name} must be {count} ascending indices, one per OFDM symbol, got {symbols}")
