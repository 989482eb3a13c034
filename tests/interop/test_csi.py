"""Measured channels: alignment of packets, calibration of elements, directions, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.testing import assert_allclose

import isac_toolbox as isac
from helpers.foreign import intel_report
from isac_toolbox.interop import csi

ARRAY = isac.UniformPlanarArray((3, 1))
FREQUENCIES_HZ = csi._GROUPS["20 MHz"] * 312.5e3


def direction(azimuth_rad):
    return np.array([np.cos(azimuth_rad), np.sin(azimuth_rad), 0.0])


def packets(azimuth_rad=0.3, n_packets=40, noise=1e-2, seed=0, element=1.0):
    """Two paths, with a phase and a delay of every packet; and these."""
    rng = np.random.default_rng(seed)
    still = np.zeros((30, 3), complex)
    for gain, delay_s, angle in ((1.0, 2e-8, azimuth_rad), (0.3j, 1.5e-7, -0.7)):
        phase = np.exp(-2j * np.pi * FREQUENCIES_HZ * delay_s)
        still += gain * phase[:, None] * ARRAY.steering(direction(angle)) * element
    turn, late = rng.uniform(-np.pi, np.pi, n_packets), rng.uniform(-2e-7, 2e-7, n_packets)
    own = np.exp(1j * turn[:, None] - 2j * np.pi * np.multiply.outer(late, FREQUENCIES_HZ))
    white = rng.standard_normal((2, n_packets, 30, 3)) * np.sqrt(noise / 2)
    return own[:, :, None] * still + white[0] + 1j * white[1], still, late


def test_aligned_packets_agree_and_their_scatter_is_the_noise():
    measured, still, late = packets()
    found = csi.align_packets(measured, FREQUENCIES_HZ)
    assert_allclose(found.delay_s - found.delay_s.mean(), late - late.mean(), atol=4e-9)
    assert found.noise_variance == pytest.approx(1e-2 / 40, rel=0.1)
    mean = found.mean
    both = np.stack([mean, still])
    again = csi.align_packets(both, FREQUENCIES_HZ).channel
    assert np.mean(np.abs(again[0] - again[1]) ** 2) < 3e-3 * np.mean(np.abs(still) ** 2)


@pytest.mark.parametrize("azimuth_rad", [-0.9, 0.0, 0.4])
def test_directions_after_a_calibration(azimuth_rad):
    element = np.exp(1j * np.array([0.0, 1.1, -2.0]))
    straight, _, _ = packets(0.0, seed=1, element=element)
    reference = csi.align_packets(straight, FREQUENCIES_HZ)
    response = csi.element_response(reference.mean, ARRAY, direction(0.0))
    assert_allclose(np.angle(response / element), 0, atol=0.25)
    measured, _, _ = packets(azimuth_rad, element=element)
    aligned = csi.align_packets(measured, FREQUENCIES_HZ)
    assert aligned.agreement > 0.95
    obs = csi.observation_from_packets(aligned, FREQUENCIES_HZ, ARRAY, response)
    found = csi.strongest_direction(obs.received[..., 0], FREQUENCIES_HZ, ARRAY)
    assert found == (pytest.approx(azimuth_rad, abs=0.12), 0.0)


def test_an_estimator_finds_the_paths_of_packets():
    aligned = csi.align_packets(packets()[0], FREQUENCIES_HZ)
    result = isac.EMTurboBiSVBI().estimate(csi.observation_from_packets(aligned, FREQUENCIES_HZ, ARRAY))
    paths = result.unlocated_paths
    order = np.argsort(-np.abs(paths.gain))[:2]
    assert_allclose(np.arcsin(paths.direction_cosines[order, 0]), [0.3, -0.7], atol=0.05)
    assert np.diff(paths.delay_s[order])[0] == pytest.approx(1.3e-7, abs=5e-9)


def test_planar_arrays_have_an_elevation():
    array = isac.UniformPlanarArray((4, 4))
    towards = np.array([np.cos(0.2) * np.cos(0.5), np.cos(0.2) * np.sin(0.5), np.sin(0.2)])
    found = csi.strongest_direction(np.ones((30, 1)) * array.steering(towards), FREQUENCIES_HZ, array)
    assert found == (pytest.approx(0.5, abs=1e-3), pytest.approx(0.2, abs=1e-3))


def test_a_log_is_read(tmp_path):
    csiread = pytest.importorskip("csiread")
    rng = np.random.default_rng(0)
    made = [intel_report(rng) for _ in range(4)]
    path = tmp_path / "log.dat"
    path.write_bytes(b"".join(m[0] for m in made))
    log = csi.read_intel5300(path)
    raw = csiread.Intel(str(path), nrxnum=3, ntxnum=1, if_report=False)
    raw.read()
    assert_allclose(raw.csi[..., 0], [m[1][..., 0] for m in made])
    assert log.channel.shape == (4, 30, 3)
    scale = log.channel[0, 0, 0] / raw.csi[0, 0, 0, 0]
    assert scale.real > 0
    assert_allclose(log.channel[0], raw.csi[0, ..., 0] * scale, rtol=1e-9)
    assert log.time_s[0] == 0
    indices = log.subcarrier_frequencies_hz / 312.5e3
    assert_allclose(indices, csiread.utils.scidx(20, 2))
    wide = csi.read_intel5300(path, bandwidth="40 MHz").subcarrier_frequencies_hz / 312.5e3
    assert_allclose(wide, csiread.utils.scidx(40, 4))
    with pytest.raises(ValueError, match="transmitter must be below 1"):
        csi.read_intel5300(path, transmitter=1)
    empty = tmp_path / "empty.dat"
    empty.write_bytes(b"")
    with pytest.raises(ValueError, match="holds no packets"):
        csi.read_intel5300(empty)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: csi.read_intel5300("nowhere.dat"), "no such log: nowhere.dat"),
        (lambda: csi.read_intel5300("nowhere.dat", bandwidth="80 MHz"), "bandwidth must be one of"),
        (
            lambda: csi.align_packets(np.zeros((2, 30, 3)), FREQUENCIES_HZ),
            r"got none in packet\(s\) \[0, 1\]",
        ),
        (
            lambda: csi.align_packets(np.ones((2, 29, 3)), FREQUENCIES_HZ),
            "subcarrier_frequencies_hz must have shape",
        ),
        (lambda: csi.align_packets(np.ones((0, 30, 3)), FREQUENCIES_HZ), "must hold packets, got none"),
        (
            lambda: csi.align_packets(np.ones((2, 30, 3)), np.full(30, np.nan)),
            "subcarrier_frequencies_hz must be finite",
        ),
        (
            lambda: csi.strongest_direction(np.ones((30, 3)), np.zeros(30), ARRAY),
            "at least two, all distinct, got 1 distinct of 30",
        ),
        (lambda: csi.strongest_direction(np.zeros((30, 3)), FREQUENCIES_HZ, ARRAY), "must not be all zero"),
        (lambda: csi.element_response(np.zeros((30, 3)), ARRAY, direction(0)), "must not be all zero"),
        (lambda: csi.element_response(np.ones((30, 4)), ARRAY, direction(0)), "channel must have shape"),
        (
            lambda: csi.observation_from_packets(np.ones((2, 30, 3)), FREQUENCIES_HZ, ARRAY),
            "must be AlignedPackets",
        ),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises((ValueError, TypeError, FileNotFoundError), match=message):
        call()


@pytest.mark.parametrize("permuted", [False, True])
def test_jumps_and_orders_of_antennas_are_found(permuted):
    rng = np.random.default_rng(5)
    measured, _, _ = packets(n_packets=12, seed=4, element=np.array([1.0, 0.6, 0.3j]))
    jumps = rng.integers(0, 4, (12, 3)) * np.pi / 2
    order = np.array([rng.permutation(3) if permuted else np.arange(3) for _ in range(12)])
    mixed = np.empty_like(measured)
    for p in range(12):
        mixed[p][:, order[p]] = measured[p] * np.exp(1j * jumps[p])
    assert csi.align_packets(mixed, FREQUENCIES_HZ).agreement < 0.8
    found = csi.align_packets(mixed, FREQUENCIES_HZ, jump_rad=np.pi / 2, permuted=permuted)
    assert found.agreement > 0.97
    if permuted:  # the same antenna of the scene is at the same place of all packets
        whose = np.take_along_axis(np.argsort(order, axis=1), found.order, axis=1)
        assert np.array_equal(whose, np.broadcast_to(whose[0], whose.shape))
    else:
        expected = jumps - jumps[:, :1]
        found_turns = np.exp(1j * (found.jumps_rad - found.jumps_rad[0]))
        assert_allclose(found_turns, np.exp(1j * (expected - expected[0])), atol=1e-6)


def test_a_reference_may_be_given():
    measured, still, _ = packets(n_packets=5)
    found = csi.align_packets(measured, FREQUENCIES_HZ, reference=still)
    assert np.mean(np.abs(found.mean - still) ** 2) < 0.01


def test_what_cannot_be_aligned_is_named():
    with pytest.raises(ValueError, match="permuted=True is for at most 4 antennas, got 5"):
        csi.align_packets(np.ones((2, 30, 5)), FREQUENCIES_HZ, permuted=True)
    with pytest.raises(ValueError, match="jump_rad"):
        csi.align_packets(np.ones((2, 30, 3)), FREQUENCIES_HZ, jump_rad=0.0)
    with pytest.raises(ValueError, match="reference must have shape"):
        csi.align_packets(np.ones((2, 30, 3)), FREQUENCIES_HZ, reference=np.ones((30, 2)))


def test_damaged_logs_are_refused_before_a_library_reads_them(tmp_path):
    """It would leave the process, or read without end."""
    pytest.importorskip("csiread")
    rng = np.random.default_rng(0)
    whole = b"".join(intel_report(rng)[0] for _ in range(2))
    one, path = len(whole) // 2, tmp_path / "log.dat"
    spoiled = {
        "at byte 0 it says that 0 more": b"\0\0" + whole,
        "more follow, but there are": whole[:-1],
        "at byte 0 it says that 54715": b"\xd5\xbb@",
        "the report at byte 0": whole[:11] + b"\x04" + whole[12:],
        f"the report at byte {one}": whole[: one + 12] + b"\x00" + whole[one + 13 :],
        "does not hold the matrix": whole[:19] + b"\xff" + whole[20:],
    }
    for message, content in spoiled.items():
        path.write_bytes(content)
        with pytest.raises(
            ValueError, match=rf"log\.dat is no log of an Intel 5300, or damaged: .*{message}"
        ):
            csi.read_intel5300(path)
    path.write_bytes(b"\x00\x03\xc1ab" + whole)  # other records are passed over
    assert len(csi.read_intel5300(path).channel) == 2


def test_errors_of_the_library_name_the_file(tmp_path, monkeypatch):
    csiread = pytest.importorskip("csiread")

    def broken(self):
        raise Exception("0th packet is broken!")

    monkeypatch.setattr(csiread.Intel, "read", broken)
    (tmp_path / "log.dat").write_bytes(intel_report(np.random.default_rng(0))[0])
    with pytest.raises(ValueError, match=r"log\.dat is no log .*: 0th packet is broken!"):
        csi.read_intel5300(tmp_path / "log.dat")
