"""Measured channel state information: logs of an Intel 5300, and arrays from any other instrument.

A receiver that is not synchronised gives every packet a phase and a delay of its own, the same on all
antennas, and every antenna a fixed phase. :func:`align_packets` takes away the first,
:func:`element_response` learns the second from packets of a known direction. Reading logs needs the extra
``csi``; the rest does not.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import minimize, minimize_scalar

from isac_toolbox._validation import (
    as_array,
    check_choice,
    check_finite,
    check_integer,
    check_shape,
    import_optional,
)
from isac_toolbox.channel.array import AntennaArray
from isac_toolbox.channel.observation import UplinkObservation
from isac_toolbox.channel.sounded import observation_from_channel

__all__ = [
    "AlignedPackets",
    "CsiLog",
    "align_packets",
    "element_response",
    "observation_from_packets",
    "read_intel5300",
    "strongest_direction",
]

RealArray = NDArray[np.float64]
ComplexArray = NDArray[np.complex128]

_SPACING_HZ = 312.5e3
# Subcarriers of a report with 30 groups (IEEE 802.11n-2009, 7.3.1.28): by two (20 MHz) and four (40 MHz).
_GROUPS = {
    "20 MHz": np.concatenate([np.arange(-28, -1, 2), [-1], np.arange(1, 28, 2), [28]]),
    "40 MHz": np.arange(-58, 59, 4),
}
# Steps of the search for a delay per resolution cell, and passes with a better reference each.
_STEPS_PER_CELL = 8
_PASSES = 3


@dataclass(frozen=True, eq=False)
class CsiLog:
    """Packets of a log, as they were measured.

    Attributes
    ----------
    channel : ndarray of complex, shape (P, N, M)
        Of every packet, subcarrier and receive antenna, scaled by the gain control.
    subcarrier_frequencies_hz : ndarray, shape (N,)
        Unequally spaced in general.
    time_s : ndarray, shape (P,)
        Of the first packet zero.
    """

    channel: ComplexArray
    subcarrier_frequencies_hz: RealArray
    time_s: RealArray


@dataclass(frozen=True, eq=False)
class AlignedPackets:
    """Packets without a phase and a delay of their own.

    Attributes
    ----------
    channel : ndarray of complex, shape (P, N, M)
    phase_rad, delay_s : ndarray, shape (P,)
        What was taken away, relative to the mean of all packets.
    """

    channel: ComplexArray
    phase_rad: RealArray
    delay_s: RealArray

    @property
    def mean(self) -> ComplexArray:
        """Mean over the packets, shape (N, M)."""
        return np.asarray(self.channel.mean(axis=0))

    @property
    def agreement(self) -> float:
        """Share of the packets' power that their mean has; far below one, antennas have phases that jump."""
        return float(np.mean(np.abs(self.mean) ** 2) / np.mean(np.abs(self.channel) ** 2))

    @property
    def noise_variance(self) -> float:
        """Of an entry of the mean, from how packets scatter about it; zero for a single one."""
        n_packets = len(self.channel)
        scatter = float(np.mean(np.abs(self.channel - self.mean) ** 2))
        return scatter / max(n_packets - 1, 1)


def read_intel5300(path: str | Path, *, bandwidth: str = "20 MHz", transmitter: int = 0) -> CsiLog:
    """Read the log of an Intel 5300 (Linux 802.11n CSI tool).

    Parameters
    ----------
    path : str or Path
        A ``.dat`` file.
    bandwidth : {"20 MHz", "40 MHz"}
        Of the channel that was sounded, which says what the 30 subcarriers are.
    transmitter : int
        Which transmit stream.

    Returns
    -------
    CsiLog
        Antennas in the order of the ports A, B, C. Packets with fewer antennas or streams than most are left
        out.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ImportError
        Without the extra ``csi``.
    ValueError
        If it holds no packets or no such stream.
    """
    check_choice("bandwidth", bandwidth, tuple(_GROUPS))
    stream = check_integer("transmitter", transmitter, 0)
    source = Path(path)
    if not source.is_file():
        raise FileNotFoundError(f"path: no such log: {path} (sought as {source.absolute()})")
    csiread = import_optional("csiread", "csiread", "csi", "read_intel5300")
    log = csiread.Intel(str(source), nrxnum=3, ntxnum=3, if_report=False)
    log.read()
    if not log.count:
        raise ValueError(f"path: {path} holds no packets of an Intel 5300")
    n_rx = int(np.bincount(log.Nrx).argmax())
    whole = (log.Nrx == n_rx) & (log.Ntx > stream)
    if not whole.any():
        raise ValueError(
            f"transmitter must be below {int(log.Ntx.max())}, the streams of {path}, got {stream}"
        )
    scaled = np.asarray(log.get_scaled_csi(), dtype=complex)[whole][:, :, :n_rx, stream]
    ticks = np.unwrap(log.timestamp_low[whole].astype(float), period=2.0**32)
    return CsiLog(scaled, _GROUPS[bandwidth] * _SPACING_HZ, (ticks - ticks[0]) * 1e-6)


def align_packets(channel: ArrayLike, subcarrier_frequencies_hz: ArrayLike) -> AlignedPackets:
    """Take away the phase and the delay that every packet has of its own, by comparison with their mean.

    Parameters
    ----------
    channel : array_like of complex, shape (P, N, M)
        Of one transmitter; the scene stands still.
    subcarrier_frequencies_hz : array_like, shape (N,)

    Returns
    -------
    AlignedPackets

    Raises
    ------
    ValueError
        For wrong shapes, values that are not finite, or a packet that is all zero.
    """
    packets = as_array("channel", channel, complex)
    check_shape("channel", packets, (None, None, None), "(P, N, M)")
    check_finite("channel", packets)
    frequencies = as_array("subcarrier_frequencies_hz", subcarrier_frequencies_hz, float)
    check_shape("subcarrier_frequencies_hz", frequencies, (packets.shape[1],), "(N,)")
    _check_frequencies(frequencies)
    if not len(packets):
        raise ValueError("channel must hold packets, got none")
    silent = np.flatnonzero(~np.any(packets, axis=(1, 2)))
    if silent.size:
        raise ValueError(f"channel must hold packets with power, got none in packet(s) {silent.tolist()}")
    reference = packets[0]
    for _ in range(_PASSES):
        across = np.einsum("pnm,nm->pn", packets, reference.conj())
        delay_s = np.array([_delay_s(row, frequencies) for row in across])
        turned = across * np.exp(2j * np.pi * np.multiply.outer(delay_s, frequencies))
        phase = np.angle(turned.sum(axis=1))
        back = np.exp(2j * np.pi * np.multiply.outer(delay_s, frequencies) - 1j * phase[:, None])
        aligned = packets * back[:, :, None]
        reference = aligned.mean(axis=0)
    return AlignedPackets(aligned, phase, delay_s)


def _check_frequencies(frequencies_hz: RealArray) -> None:
    """Raise unless subcarriers (N,) tell delays: finite, distinct, two at least."""
    check_finite("subcarrier_frequencies_hz", frequencies_hz)
    distinct = np.unique(frequencies_hz).size
    if distinct < max(2, frequencies_hz.size):
        raise ValueError(
            f"subcarrier_frequencies_hz must be at least two, all distinct, got {distinct} distinct of "
            f"{frequencies_hz.size}"
        )


def _check_power(channel: ComplexArray) -> None:
    if not np.any(channel):
        raise ValueError("channel must not be all zero: it has no strongest path")


def _delay_s(across: ComplexArray, frequencies_hz: RealArray) -> float:
    """Delay of a packet behind the reference, from their products (N,)."""
    span, step = np.ptp(frequencies_hz), np.min(np.diff(np.sort(frequencies_hz)))

    def power(delay: RealArray | float) -> RealArray:
        return np.abs(np.exp(2j * np.pi * np.multiply.outer(delay, frequencies_hz)) @ across)

    cell = 1 / (span * _STEPS_PER_CELL)
    scan = np.arange(-0.5 / step, 0.5 / step, cell)
    best = float(scan[np.argmax(power(scan))])
    bounds = (best - cell, best + cell)
    found = minimize_scalar(
        lambda d: -float(power(d)), bounds=bounds, method="bounded", options={"xatol": 1e-13}
    )
    return float(found.x)


def element_response(channel: ArrayLike, array: AntennaArray, direction: ArrayLike) -> ComplexArray:
    """Return the elements' own phases, from a channel whose strongest path comes from a known direction.

    Parameters
    ----------
    channel : array_like of complex, shape (N, M)
        Aligned mean of packets.
    array : AntennaArray
    direction : array_like, shape (3,)
        Unit vector towards the transmitter.

    Returns
    -------
    ndarray of complex, shape (M,)
        Of modulus one, relative to the first element; divide channels by it.

    Raises
    ------
    ValueError
        For wrong shapes or a vector of another length.
    """
    sounded = as_array("channel", channel, complex)
    check_shape("channel", sounded, (None, array.n_elements), "(N, M)")
    check_finite("channel", sounded)
    _check_power(sounded)
    response = sounded / array.steering(as_array("direction", direction, float))
    _, _, rows = np.linalg.svd(response, full_matrices=False)
    phases = np.angle(rows[0] * np.conj(rows[0, 0]))
    return np.asarray(np.exp(1j * phases))


def observation_from_packets(
    packets: AlignedPackets,
    subcarrier_frequencies_hz: ArrayLike,
    array: AntennaArray,
    response: ArrayLike = 1.0,
) -> UplinkObservation:
    """Return the mean of aligned packets as an observation of one user without places.

    Parameters
    ----------
    packets : AlignedPackets
    subcarrier_frequencies_hz : array_like, shape (N,)
    array : AntennaArray
    response : array_like of complex, shape (M,), optional
        Of the elements (:func:`element_response`).

    Returns
    -------
    UplinkObservation
    """
    if not isinstance(packets, AlignedPackets):
        raise TypeError(f"packets must be AlignedPackets, got {type(packets).__name__}")
    corrected = packets.mean / as_array("response", response, complex)
    return observation_from_channel(
        corrected[None],
        packets.noise_variance or None,
        array=array,
        subcarrier_frequencies_hz=subcarrier_frequencies_hz,
    )


def strongest_direction(
    channel: ArrayLike, subcarrier_frequencies_hz: ArrayLike, array: AntennaArray
) -> tuple[float, float]:
    """Return azimuth and elevation, relative to the boresight, at which a channel's spectrum is highest.

    The spectrum over delay and direction is that of a matched filter. It needs no model that fits, and so
    tells the direction of the strongest path of measured channels, in which estimators of paths explain
    errors of calibration by more paths.

    Parameters
    ----------
    channel : array_like of complex, shape (N, M)
        Aligned mean of packets over the elements' own response.
    subcarrier_frequencies_hz : array_like, shape (N,)
    array : AntennaArray
        A linear one leaves the elevation at zero.

    Returns
    -------
    azimuth_rad, elevation_rad : float

    Raises
    ------
    ValueError
        For wrong shapes or values that are not finite.
    """
    sounded = as_array("channel", channel, complex)
    frequencies = as_array("subcarrier_frequencies_hz", subcarrier_frequencies_hz, float)
    check_shape("channel", sounded, (frequencies.size, array.n_elements), "(N, M)")
    check_finite("channel", sounded)
    _check_power(sounded)
    _check_frequencies(frequencies)
    step, cell = np.min(np.diff(np.sort(frequencies))), 1 / np.ptp(frequencies)
    delays = np.arange(-0.5 / step, 0.5 / step, cell / _STEPS_PER_CELL)
    axes = [
        np.arange(-1, 1, width / _STEPS_PER_CELL) if seen else np.zeros(1)
        for width, seen in zip(array.cosine_cells, array.sees_cosines, strict=True)
    ]
    cosines = np.stack([g.ravel() for g in np.meshgrid(*axes, indexing="ij")], axis=1)
    cosines = cosines[np.sum(cosines**2, axis=1) <= 1]
    by_delay = np.exp(2j * np.pi * np.multiply.outer(delays, frequencies)) @ sounded
    power = np.abs(by_delay @ array.steering_from_cosines(cosines[:, 0], cosines[:, 1]).conj().T)
    at_delay, at_cosine = np.unravel_index(np.argmax(power), power.shape)
    seen = np.array(array.sees_cosines)

    def negative_power(x: RealArray) -> float:
        u = np.zeros(2)
        u[seen] = np.clip(x[1:], -1, 1)
        matched = np.exp(2j * np.pi * frequencies * x[0] * cell) @ sounded
        return -float(np.abs(matched @ array.steering_from_cosines(u[0], u[1]).conj()))

    start = np.array([delays[at_delay] / cell, *cosines[at_cosine][seen]])
    found = minimize(negative_power, start, method="Nelder-Mead", options={"xatol": 1e-6, "fatol": 1e-9}).x
    u = np.zeros(2)
    u[seen] = np.clip(found[1:], -1, 1)
    horizontal, vertical = u.tolist()
    if not array.sees_cosines[1]:
        return math.asin(horizontal), 0.0
    ahead = math.sqrt(max(1 - horizontal**2 - vertical**2, 0.0))
    return math.atan2(horizontal, ahead), math.asin(vertical)
