"""Converters between our conventions and those of other link-level programs, on plain arrays.

docs/interop.md has them side by side.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from isac_toolbox._validation import (
    as_array,
    check_choice,
    check_finite,
    check_integer,
    check_positive,
    check_shape,
)
from isac_toolbox.channel.array import UniformPlanarArray
from isac_toolbox.channel.modulation import bit_labels

__all__ = [
    "channel_over_symbols",
    "elements_from_top",
    "llr_on_grid",
    "llr_stream",
    "noise_variance_from_ebno",
    "nr_constellation",
    "pilots_on_grid",
    "snr_db_from_ebno",
]

POLARISATIONS = ("single", "dual")

RealArray = NDArray[np.float64]
ComplexArray = NDArray[np.complex128]
IntArray = NDArray[np.int64]
# Beyond any standard, and still a small table.
_MOST_BITS = 16


def nr_constellation(bits_per_symbol: int) -> ComplexArray:
    """Return the QAM of 5G NR, which Sionna's ``"qam"`` is as well: point ``c`` has the bits of ``c``.

    Bits 0, 2, 4, ... of a label choose the in-phase amplitude and bits 1, 3, 5, ... the quadrature; label
    zero lies at (+, +). :func:`isac_toolbox.channel.qam_constellation` has the upper half of the bits choose
    the in-phase amplitude.

    Parameters
    ----------
    bits_per_symbol : int
        Even: 2, 4, 6, 8, ...

    Returns
    -------
    ndarray of complex, shape (Q,)
        Unit mean energy.

    Raises
    ------
    TypeError, ValueError
        If it is no even number up to 16.

    Notes
    -----
    Source: 3GPP TS 38.211, clause 5.1.

    Examples
    --------
    >>> import numpy as np
    >>> from isac_toolbox.interop.conventions import nr_constellation
    >>> np.round(nr_constellation(2), 3)
    array([ 0.707+0.707j,  0.707-0.707j, -0.707+0.707j, -0.707-0.707j])
    """
    n_bits = check_integer("bits_per_symbol", bits_per_symbol, 2)
    if n_bits > _MOST_BITS:
        raise ValueError(f"bits_per_symbol must be at most {_MOST_BITS}, got {n_bits}")
    if n_bits % 2:
        raise ValueError(f"bits_per_symbol must be even (square QAM), got {bits_per_symbol}")
    signs = 1.0 - 2.0 * bit_labels(1 << n_bits).astype(float)
    points = _amplitude(signs[:, 0::2]) + 1j * _amplitude(signs[:, 1::2])
    return np.asarray(points / np.sqrt(np.mean(np.abs(points) ** 2)))


def _refuse_nan(name: str, values: NDArray) -> None:
    """Raise for values that are no numbers; bits that are sure have infinite LLRs."""
    count = int(np.count_nonzero(np.isnan(values)))
    if count:
        raise ValueError(f"{name} must be numbers, got {count} NaN of {values.size}")


def _amplitude(signs: RealArray) -> RealArray:
    """Amplitudes ``s_0 (2^(b-1) - s_1 (2^(b-2) - ...))`` of the labels' signs (Q, b)."""
    amplitude = np.ones(len(signs))
    for i in range(signs.shape[1] - 1, 0, -1):
        amplitude = 2.0 ** (signs.shape[1] - i) - signs[:, i] * amplitude
    return np.asarray(signs[:, 0] * amplitude)


def elements_from_top(array: UniformPlanarArray, polarisation: str = "single") -> IntArray:
    """Return where our elements are in an order of columns from the top row down, as Sionna's panels count.

    Both count column by column from the left, ours from the bottom row up. ``theirs[..., order]`` is in our
    order; with two polarisations the second half has the same elements again. The order is its own inverse.

    Parameters
    ----------
    array : UniformPlanarArray
    polarisation : {"single", "dual"}

    Returns
    -------
    ndarray of int, shape (M,) or (2 M,)

    Raises
    ------
    TypeError, ValueError
        For another kind of array or polarisation.

    Examples
    --------
    >>> import isac_toolbox as isac
    >>> from isac_toolbox.interop.conventions import elements_from_top
    >>> elements_from_top(isac.UniformPlanarArray((2, 3)))
    array([2, 1, 0, 5, 4, 3])
    """
    if not isinstance(array, UniformPlanarArray):
        raise TypeError(f"array must be a UniformPlanarArray, got {type(array).__name__}")
    check_choice("polarisation", polarisation, POLARISATIONS)
    order = np.arange(array.n_elements).reshape(array.shape)[:, ::-1].ravel()
    return np.concatenate([order, order + order.size]) if polarisation == "dual" else order


def pilots_on_grid(mask: ArrayLike, pilots: ArrayLike) -> tuple[ComplexArray, NDArray[np.bool_]]:
    """Return pilots and their mask on the grid from a list in the order of a resource grid.

    Parameters
    ----------
    mask : array_like of bool, shape (K, T, N)
        True at pilots.
    pilots : array_like of complex, shape (K, P)
        Of every user, symbol by symbol, subcarriers fastest; zero is silence.

    Returns
    -------
    pilots : ndarray of complex, shape (K, N, T)
    pilot_mask : ndarray of bool, shape (K, N, T)

    Raises
    ------
    ValueError
        If a user's mask has not as many entries as it has pilots.
    """
    known = as_array("mask", mask, bool)
    values = as_array("pilots", pilots, complex)
    check_shape("mask", known, (None, None, None), "(K, T, N)")
    check_shape("pilots", values, (len(known), None), "(K, P)")
    check_finite("pilots", values)
    counts = known.sum(axis=(1, 2))
    if np.any(counts != values.shape[1]):
        raise ValueError(f"mask must hold {values.shape[1]} pilots of every user, got {counts.tolist()}")
    grid = np.zeros(known.shape, complex)
    grid[known] = values.ravel()
    return grid.transpose(0, 2, 1), known.transpose(0, 2, 1)


def llr_stream(llr: ArrayLike, known: ArrayLike) -> RealArray:
    """Return LLRs as a stream ``ln P(1) / P(0)``: symbol by symbol, subcarriers and then bits fastest.

    Parameters
    ----------
    llr : array_like, shape (K, N, T, bits)
        ``ln P(0) / P(1)``, as results have them.
    known : array_like of bool, shape (K, N, T)
        Pilots, which are left out.

    Returns
    -------
    ndarray, shape (K, D bits)

    Raises
    ------
    ValueError
        If users differ in their number of data symbols.
    """
    values, pilots = as_array("llr", llr, float), as_array("known", known, bool)
    check_shape("llr", values, (None, None, None, None), "(K, N, T, bits)")
    _refuse_nan("llr", values)
    check_shape("known", pilots, values.shape[:3], "(K, N, T)")
    counts = np.sum(~pilots, axis=(1, 2))
    if np.any(counts != counts[0]):
        raise ValueError(f"known must leave every user as many data symbols, got {counts.tolist()}")
    by_symbol, data = values.transpose(0, 2, 1, 3), ~pilots.transpose(0, 2, 1)
    return -by_symbol[data].reshape(len(values), -1)


def llr_on_grid(stream: ArrayLike, known: ArrayLike) -> RealArray:
    """Return a stream of LLRs ``ln P(1) / P(0)`` on the grid as ``ln P(0) / P(1)``, zero at pilots.

    The inverse of :func:`llr_stream`.

    Parameters
    ----------
    stream : array_like, shape (K, D bits)
    known : array_like of bool, shape (K, N, T)

    Returns
    -------
    ndarray, shape (K, N, T, bits)

    Raises
    ------
    ValueError
        If the stream is no multiple of the data symbols.
    """
    values, pilots = as_array("stream", stream, float), as_array("known", known, bool)
    check_shape("known", pilots, (None, None, None), "(K, N, T)")
    check_shape("stream", values, (len(pilots), None), "(K, D bits)")
    _refuse_nan("stream", values)
    data = ~pilots.transpose(0, 2, 1)
    counts = data.sum(axis=(1, 2))
    if np.any(counts != counts[0]) or not counts[0] or values.shape[1] % counts[0]:
        raise ValueError(
            f"stream must hold the bits of {counts.tolist()} data symbols, got {values.shape[1]}"
        )
    grid = np.zeros((*data.shape, values.shape[1] // counts[0]))
    grid[data] = -values.reshape(-1, grid.shape[-1])
    return grid.transpose(0, 2, 1, 3)


def channel_over_symbols(values: ArrayLike, n_symbols: int) -> NDArray:
    """Return a channel of a whole block, or of each of its symbols, in the order (M, K, T, N).

    That is the order of Sionna's estimates without the axes of blocks, receivers and streams; variances have
    it as well.

    Parameters
    ----------
    values : array_like, shape (K, N, M) or (K, N, M, T)
        Without an axis of OFDM symbols they are repeated over them.
    n_symbols : int
        T.

    Returns
    -------
    ndarray, shape (M, K, T, N)
    """
    given = np.asarray(values)
    _refuse_nan("values", given)
    count = check_integer("n_symbols", n_symbols, 1)
    check_shape("values", given, (None, None, None, count)[: max(3, given.ndim)], "(K, N, M) or (K, N, M, T)")
    if given.ndim == 4:
        return given.transpose(2, 0, 3, 1)
    by_element = given.transpose(2, 0, 1)[:, :, None, :]
    return np.broadcast_to(by_element, (*by_element.shape[:2], count, by_element.shape[3]))


def noise_variance_from_ebno(
    ebno_db: float,
    *,
    bits_per_symbol: int,
    code_rate: float,
    known: ArrayLike,
    fft_size: int,
    cyclic_prefix: int = 0,
) -> float:
    """Return the noise variance per complex sample at an Eb/N0, as Sionna's ``ebnodb2no`` states it.

    ``sigma^2 = E_s / (Eb/N0 rate bits)``, where the energy of a data symbol carries that of pilots and cyclic
    prefix: ``E_s = T (1 + cyclic_prefix / fft_size) N / D``.

    Parameters
    ----------
    ebno_db : float
    bits_per_symbol : int
    code_rate : float
    known : array_like of bool, shape (N, T)
        Pilots of a user among the used subcarriers; D are the others.
    fft_size, cyclic_prefix : int
        In samples.

    Returns
    -------
    float

    Raises
    ------
    TypeError, ValueError
        If there are no data, or for numbers out of range.
    """
    n_bits, rate = (
        check_integer("bits_per_symbol", bits_per_symbol, 1),
        check_positive("code_rate", code_rate),
    )
    if rate > 1:
        raise ValueError(f"code_rate must lie in (0, 1], got {code_rate}")
    size, prefix = check_integer("fft_size", fft_size, 1), check_integer("cyclic_prefix", cyclic_prefix, 0)
    pilots = as_array("known", known, bool)
    check_shape("known", pilots, (None, None), "(N, T)")
    if len(pilots) > size:
        raise ValueError(f"fft_size must hold the {len(pilots)} subcarriers of known, got {size}")
    n_data = int(np.count_nonzero(~pilots))
    if not n_data:
        raise ValueError("known must leave data symbols, got pilots alone")
    energy = pilots.size * (1 + prefix / size) / n_data
    given = as_array("ebno_db", ebno_db, float)
    check_shape("ebno_db", given, (), "scalar")
    check_finite("ebno_db", given)
    ebno = float(given)
    return float(energy / (10 ** (ebno / 10) * rate * n_bits))


def snr_db_from_ebno(ebno_db: float, *, channel_power: float = 1.0, **grid: int | float | ArrayLike) -> float:
    """Return our SNR, mean power of a channel entry over the noise of a sample, at an Eb/N0.

    Parameters
    ----------
    ebno_db : float
    channel_power : float
        Mean of ``|h|^2`` over users, subcarriers and antennas.
    **grid
        As for :func:`noise_variance_from_ebno`.

    Returns
    -------
    float
    """
    power = check_positive("channel_power", channel_power)
    return float(10 * np.log10(power / noise_variance_from_ebno(ebno_db, **grid)))  # type: ignore[arg-type]
