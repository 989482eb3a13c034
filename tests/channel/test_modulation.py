"""Square QAM: energy, Gray labels, bit order."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from isac_toolbox.channel.modulation import MODULATIONS, bit_labels, qam_constellation


@pytest.mark.parametrize(("modulation", "size"), [("qpsk", 4), ("16qam", 16), ("64qam", 64)])
class TestConstellations:
    def test_energy_mean_and_size(self, modulation, size):
        points = qam_constellation(modulation)
        assert points.shape == (size,) and np.unique(points).size == size
        assert np.mean(np.abs(points) ** 2) == pytest.approx(1)
        assert abs(points.sum()) < 1e-12

    def test_points_form_a_square_grid(self, modulation, size):
        points = qam_constellation(modulation)
        side = int(np.sqrt(size))
        step = 2 * np.sqrt(3 / (2 * (size - 1)))  # of a unit-energy square QAM
        levels = step * (np.arange(side) - (side - 1) / 2)
        assert_allclose(np.unique(np.round(points.real, 12)), levels, atol=1e-9)
        assert_allclose(np.unique(np.round(points.imag, 12)), levels, atol=1e-9)

    def test_nearest_neighbours_differ_in_one_bit(self, modulation, size):
        points, bits = qam_constellation(modulation), bit_labels(size)
        distance = np.abs(points[:, None] - points[None])
        step = distance[distance > 0].min()
        near = (distance > 0) & (distance < 1.001 * step)
        side = int(np.sqrt(size))
        assert near.sum() == 4 * side * (side - 1)
        differing = (bits[:, None] != bits[None]).sum(axis=2)
        assert_array_equal(differing[near], 1)

    def test_upper_bits_select_the_in_phase_part(self, modulation, size):
        points, bits = qam_constellation(modulation), bit_labels(size)
        half = bits.shape[1] // 2
        for upper in np.unique(bits[:, :half], axis=0):
            same = np.all(bits[:, :half] == upper, axis=1)
            assert np.ptp(points[same].real) == 0
        for lower in np.unique(bits[:, half:], axis=0):
            same = np.all(bits[:, half:] == lower, axis=1)
            assert np.ptp(points[same].imag) == 0


def test_bits_come_most_significant_first():
    assert bit_labels(4).astype(int).tolist() == [[0, 0], [0, 1], [1, 0], [1, 1]]
    weights = 2 ** np.arange(5, -1, -1)
    assert_array_equal(bit_labels(64) @ weights, np.arange(64))


def test_unknown_modulations_list_the_known_ones():
    with pytest.raises(ValueError, match=r"modulation.*qpsk, 16qam, 64qam.*8psk"):
        qam_constellation("8psk")
    assert {name: len(qam_constellation(name)) for name in MODULATIONS} == MODULATIONS
