"""Measured channels of receivers with three antennas: what half of the packets says of the others.

Usage: ``python benchmarks/accuracy/measured_csi.py FOLDER [--packets 400]``

FOLDER holds logs of an Intel 5300 (``*.dat``; extra ``csi``); their scenes stand still. Packets with an even
number teach, those with an odd one are predicted: a packet's own phase, delay, jumps and order of antennas
are taken from every other subcarrier, and the subcarriers between are predicted.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

import isac_toolbox as isac
from isac_toolbox.interop import csi

ARRAY = isac.UniformPlanarArray((3, 1))
QUARTER = np.pi / 2
GROUPS = 10
STABLE_DEG = 3.0


def left_db(packets: np.ndarray, predicted: np.ndarray) -> float:
    """Return power that a prediction leaves of packets, in dB."""
    return float(10 * np.log10(np.sum(np.abs(packets - predicted) ** 2) / np.sum(np.abs(packets) ** 2)))


def as_measured(template: np.ndarray, packets: csi.AlignedPackets, frequencies_hz: np.ndarray) -> np.ndarray:
    """Return a template (N, M) with what packets have of their own, (P, N, M)."""
    turn = packets.phase_rad[:, None] - 2 * np.pi * np.multiply.outer(packets.delay_s, frequencies_hz)
    turned = template * np.exp(1j * (turn[:, :, None] + packets.jumps_rad[:, None]))
    out = np.empty_like(turned)
    for p, order in enumerate(packets.order):
        out[p][:, order] = turned[p]
    return out


def of_ideal_elements(template: np.ndarray) -> np.ndarray:
    """Return the nearest template of a single direction and ideal elements."""
    cosines = np.linspace(-1, 1, 721)
    responses = ARRAY.steering_from_cosines(cosines, np.zeros_like(cosines))
    best = responses[np.argmax(np.sum(np.abs(template @ responses.conj().T) ** 2, axis=0))]
    return np.outer(template @ best.conj(), best) / len(best)


def of_learned_elements(template: np.ndarray) -> np.ndarray:
    """Return the nearest template of a single direction and elements of any response."""
    left, values, right = np.linalg.svd(template, full_matrices=False)
    return values[0] * np.outer(left[:, 0], right[0])


def ways(channel: np.ndarray, frequencies_hz: np.ndarray) -> tuple[csi.AlignedPackets, float | None, bool]:
    """Return aligned packets with as few jumps and orders as bring them to agree."""
    best = None
    for jump, permuted in ((None, False), (QUARTER, False), (QUARTER, True)):
        packets = csi.align_packets(channel, frequencies_hz, jump_rad=jump, permuted=permuted)
        if best is None or packets.agreement > best[0].agreement + 0.05:
            best = packets, jump, permuted
    assert best is not None
    return best


def row(path: Path, n_packets: int) -> str:
    """Return the line of a log."""
    log = csi.read_intel5300(path)
    frequencies = log.subcarrier_frequencies_hz
    channel = log.channel[:n_packets]
    learned, jump, permuted = ways(channel[::2], frequencies)
    known, others = np.arange(0, frequencies.size, 2), np.arange(1, frequencies.size, 2)
    measured = channel[1::2]
    own = csi.align_packets(
        measured[:, known],
        frequencies[known],
        jump_rad=jump,
        permuted=permuted,
        reference=learned.mean[known],
    )
    templates = (of_ideal_elements(learned.mean), of_learned_elements(learned.mean), learned.mean)
    nothing = left_db(
        measured[:, others], np.broadcast_to(channel[::2].mean(axis=0), measured.shape)[:, others]
    )
    left = [left_db(measured[:, others], as_measured(t[others], own, frequencies[others])) for t in templates]
    whole = csi.align_packets(measured, frequencies, jump_rad=jump, permuted=permuted, reference=learned.mean)
    response = csi.element_response(learned.mean, ARRAY, [1.0, 0.0, 0.0])
    angles = [
        np.degrees(csi.strongest_direction(part.mean(axis=0) / response, frequencies, ARRAY)[0])
        for part in np.array_split(whole.channel, GROUPS)
    ]
    states = ("jumps" if jump else "") + (" order" if permuted else "")
    numbers = "".join(f"{value:>10.1f}" for value in (nothing, *left))
    named = f"{path.stem:<18}{len(channel):>8}{learned.agreement:>8.2f}{states:>13}"
    away = np.abs(angles - np.median(angles))
    return f"{named}{numbers}{away.max():>10.1f}{np.sum(away <= STABLE_DEG):>6d}"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--packets", type=int, default=400)
    arguments = parser.parse_args()
    print(
        "Power that is left of packets nothing was learned from, dB: without anything of their own; with it"
    )
    print(
        f"and ideal elements, learned elements, all of the mean. Largest deviation of the angle of {GROUPS}"
    )
    print(f"groups of packets from its median in degrees, and groups within {STABLE_DEG:.0f} degrees.\n")
    print(
        f"{'log':<18}{'packets':>8}{'agree':>8}{'':>13}{'nothing':>10}{'ideal':>10}{'elements':>10}{'mean':>10}"
        f"{'angles':>10}{'in':>6}"
    )
    for path in sorted(arguments.folder.glob("*.dat")):
        print(row(path, arguments.packets), flush=True)


if __name__ == "__main__":
    main()
