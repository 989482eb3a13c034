"""Square QAM constellations with Gray labels."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["MODULATIONS", "bit_labels", "qam_constellation"]

MODULATIONS = {"qpsk": 4, "16qam": 16, "64qam": 64}


def _gray_pam(n_levels: int) -> NDArray[np.float64]:
    """Amplitude of every label so that neighbouring amplitudes differ in one bit."""
    position = np.arange(n_levels)
    amplitude = np.empty(n_levels)
    amplitude[position ^ (position >> 1)] = 2 * position - (n_levels - 1)
    return amplitude


def qam_constellation(modulation: str) -> NDArray[np.complex128]:
    """Return unit-energy square QAM; the index of a point is its Gray label.

    The upper half of the label's bits selects the in-phase amplitude, the lower half the quadrature.

    Parameters
    ----------
    modulation : {"qpsk", "16qam", "64qam"}

    Returns
    -------
    ndarray, shape (Q,), complex128

    Raises
    ------
    ValueError
        For an unknown name (the known ones are listed).

    Examples
    --------
    >>> import numpy as np
    >>> import isac_toolbox as isac
    >>> np.round(isac.qam_constellation("qpsk"), 3)
    array([-0.707-0.707j, -0.707+0.707j,  0.707-0.707j,  0.707+0.707j])
    """
    if modulation not in MODULATIONS:
        raise ValueError(f"modulation must be one of {', '.join(MODULATIONS)}, got {modulation!r}")
    size = MODULATIONS[modulation]
    side = int(np.sqrt(size))
    pam = _gray_pam(side)
    points = (pam[:, None] + 1j * pam[None, :]).ravel()
    return points / np.sqrt(np.mean(np.abs(points) ** 2))


def bit_labels(n_points: int) -> NDArray[np.bool_]:
    """Return the bits of every constellation index, most significant first, shape (Q, bits).

    Parameters
    ----------
    n_points : int
        Size Q of the constellation, a power of two.

    Returns
    -------
    ndarray of bool, shape (Q, bits)

    Examples
    --------
    >>> from isac_toolbox.channel import bit_labels
    >>> bit_labels(4).astype(int).tolist()
    [[0, 0], [0, 1], [1, 0], [1, 1]]
    """
    n_bits = int(n_points).bit_length() - 1
    shifts = np.arange(n_bits - 1, -1, -1)
    return (np.arange(n_points)[:, None] >> shifts & 1).astype(bool)
