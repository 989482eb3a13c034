"""Measured channel state information: logs of an Intel 5300, and arrays from any other instrument.

A receiver that is not synchronised gives every packet a phase and a delay of its own, the same on all
antennas, and every antenna a fixed phase. :func:`align_packets` takes away the first,
:func:`element_response` learns the second from packets of a known direction. Reading logs needs the extra
``csi``; the rest does not.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import permutations
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import minimize, minimize_scalar

from isac_toolbox._files import check_size
from isac_toolbox._validation import (
    as_array,
    check_choice,
    check_finite,
    check_flag,
    check_integer,
    check_positive,
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
#: Code of a beamforming report, and bytes of it before the matrix.
_REPORT, _REPORT_HEAD = 0xBB, 21
_GROUPS = {
    "20 MHz": np.concatenate([np.arange(-28, -1, 2), [-1], np.arange(1, 28, 2), [28]]),
    "40 MHz": np.arange(-58, 59, 4),
}
# Steps of the search for a delay per resolution cell, and passes with a better reference each.
_STEPS_PER_CELL = 8
_PASSES = 3
# Passes where antennas jump or change places as well, and antennas whose orders are all tried.
_DISCRETE_PASSES, _MOST_PERMUTED = 5, 4


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
    jumps_rad : ndarray, shape (P, M)
        Jumps of the antennas' phases that were taken away beside, zero where none were looked for.
    order : ndarray of int, shape (P, M)
        Which antenna of a packet came where; in their order where no other was looked for.
    """

    channel: ComplexArray
    phase_rad: RealArray
    delay_s: RealArray
    jumps_rad: RealArray
    order: NDArray[np.int64]

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
    check_size(source, source.stat().st_size)
    _check_reports(source)
    csiread = import_optional("csiread", "csiread", "csi", "read_intel5300")
    log = csiread.Intel(str(source), nrxnum=3, ntxnum=3, if_report=False)
    try:
        log.read()
    except Exception as error:  # of which kind csiread's errors are is not stated
        raise ValueError(f"{path} is no log of an Intel 5300, or damaged: {error}") from error
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


def _check_reports(source: Path) -> None:
    """Refuse a log whose lengths do not fit: csiread follows them wherever they lead, or for ever.

    Raises
    ------
    ValueError
        With the file and the place in it.
    """
    content, at = source.read_bytes(), 0
    while at < len(content):
        length = int.from_bytes(content[at : at + 2], "big")
        report = content[at + 2 : at + 2 + length]
        if not length or len(report) < length:
            raise ValueError(
                f"{source} is no log of an Intel 5300, or damaged: at byte {at} it says that {length} more "
                f"follow, but there are {len(report)}"
            )
        if report[0] == _REPORT and not _holds_its_matrix(report):
            raise ValueError(
                f"{source} is no log of an Intel 5300, or damaged: the report at byte {at} does not hold the "
                "matrix of 1 to 3 by 1 to 3 antennas that it says"
            )
        at += 2 + length


def _holds_its_matrix(report: bytes) -> bool:
    """Whether a beamforming report is as long as the matrix whose sizes it states."""
    if len(report) < _REPORT_HEAD:
        return False
    n_rx, n_tx = report[9], report[10]
    stated = int.from_bytes(report[17:19], "little")
    needed = (30 * (n_rx * n_tx * 16 + 3) + 7) // 8
    return 1 <= n_rx <= 3 and 1 <= n_tx <= 3 and stated == needed and len(report) == _REPORT_HEAD + stated


def align_packets(
    channel: ArrayLike,
    subcarrier_frequencies_hz: ArrayLike,
    *,
    jump_rad: float | None = None,
    permuted: bool = False,
    reference: ArrayLike | None = None,
) -> AlignedPackets:
    """Take away the phase and the delay that every packet has of its own, by comparison with their mean.

    Parameters
    ----------
    channel : array_like of complex, shape (P, N, M)
        Of one transmitter; the scene stands still.
    subcarrier_frequencies_hz : array_like, shape (N,)
    jump_rad : float, optional
        Antennas' phases jump from packet to packet by multiples of this against each other, as those of an
        Intel 5300 do at 2.4 GHz by quarters of a turn (``pi / 2``). They do not if not given.
    permuted : bool
        Antennas may come in another order in every packet; for at most four.
    reference : array_like of complex, shape (N, M), optional
        What packets are compared with; their own mean if not given.

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
    if jump_rad is not None:
        check_positive("jump_rad", jump_rad)
    orders = _orders(packets.shape[2], check_flag("permuted", permuted))
    if reference is not None:
        compared = as_array("reference", reference, complex)
        check_shape("reference", compared, packets.shape[1:], "(N, M)")
        return _aligned(packets, frequencies, compared, jump_rad, orders)
    compared = packets[0]
    for _ in range(_PASSES if len(orders) == 1 and jump_rad is None else _DISCRETE_PASSES):
        found = _aligned(packets, frequencies, compared, jump_rad, orders)
        compared = found.mean
    return found


def _orders(n_antennas: int, permuted: bool) -> NDArray[np.int64]:
    """Orders of antennas that are looked for, one a row."""
    if not permuted:
        return np.arange(n_antennas)[None]
    if n_antennas > _MOST_PERMUTED:
        raise ValueError(f"permuted=True is for at most {_MOST_PERMUTED} antennas, got {n_antennas}")
    return np.array(list(permutations(range(n_antennas))))


def _aligned(
    packets: ComplexArray,
    frequencies_hz: RealArray,
    reference: ComplexArray,
    jump_rad: float | None,
    orders: NDArray[np.int64],
) -> AlignedPackets:
    """Packets turned to a reference."""
    n_packets, _, n_antennas = packets.shape
    aligned, phase, delay = np.empty_like(packets), np.empty(n_packets), np.empty(n_packets)
    jumps, order = np.zeros((n_packets, n_antennas)), np.empty((n_packets, n_antennas), np.int64)
    for p, packet in enumerate(packets):
        best = -np.inf
        for candidate in orders:
            products = packet[:, candidate] * reference.conj()
            apart = jump_rad is not None
            at = _delay_s(products if apart else products.sum(axis=1, keepdims=True), frequencies_hz)
            turned = np.exp(2j * np.pi * frequencies_hz * at) @ products
            own = np.zeros(n_antennas) if jump_rad is None else _jumps(turned, jump_rad)
            total = np.sum(turned * np.exp(-1j * own))
            if abs(total) > best:
                best, phase[p], delay[p], jumps[p], order[p] = abs(total), np.angle(total), at, own, candidate
        turn = 2 * np.pi * frequencies_hz * delay[p] - phase[p]
        aligned[p] = packet[:, order[p]] * np.exp(1j * (turn[:, None] - jumps[p]))
    return AlignedPackets(aligned, phase, delay, jumps, order)


def _jumps(products: ComplexArray, jump_rad: float) -> RealArray:
    """Multiples of a jump (M,), that of the first antenna zero, after which products (M,) agree best."""
    angles, best, found = np.angle(products), -np.inf, np.zeros(products.size)
    for common in angles % jump_rad:
        own = np.rint((angles - common) / jump_rad) * jump_rad
        power = abs(np.sum(products * np.exp(-1j * own)))
        if power > best:
            best, found = power, own
    return (found - found[0] + np.pi) % (2 * np.pi) - np.pi


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
    """Delay of a packet behind the reference, from products (N, A) that are coherent over N alone."""
    span, step = np.ptp(frequencies_hz), np.min(np.diff(np.sort(frequencies_hz)))

    def power(delay: RealArray | float) -> RealArray:
        turned = np.exp(2j * np.pi * np.multiply.outer(delay, frequencies_hz)) @ across
        return np.asarray(np.sum(np.abs(turned), axis=-1))

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
