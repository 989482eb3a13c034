"""Converters of plain arrays; against Sionna itself in test_sionna.py."""

from __future__ import annotations

import numpy as np
import pytest

import isac_toolbox as isac
from isac_toolbox.channel import bit_labels
from isac_toolbox.interop import conventions


def test_nr_points_are_those_of_the_standard():
    """3GPP TS 38.211, 5.1.3 and 5.1.4, written out as products of signs."""
    for n_bits, norm in ((2, 2), (4, 10), (6, 42)):
        b = 1 - 2.0 * bit_labels(1 << n_bits)
        i, q = b[:, 0::2], b[:, 1::2]
        if n_bits == 2:
            points = i[:, 0] + 1j * q[:, 0]
        elif n_bits == 4:
            points = i[:, 0] * (2 - i[:, 1]) + 1j * q[:, 0] * (2 - q[:, 1])
        else:
            points = i[:, 0] * (4 - i[:, 1] * (2 - i[:, 2])) + 1j * q[:, 0] * (4 - q[:, 1] * (2 - q[:, 2]))
        np.testing.assert_allclose(conventions.nr_constellation(n_bits), points / np.sqrt(norm), atol=1e-15)


@pytest.mark.parametrize("n_bits", [4, 6, 8])
def test_nr_neighbours_differ_in_one_bit(n_bits):
    points, labels = conventions.nr_constellation(n_bits), bit_labels(1 << n_bits)
    distance = np.abs(points[:, None] - points)
    i, j = np.nonzero(np.isclose(distance, distance[distance > 1e-9].min()))
    assert np.all(np.sum(labels[i] != labels[j], axis=1) == 1)


def test_elements_from_top_names_the_same_places_twice():
    array = isac.UniformPlanarArray((2, 3))
    order = conventions.elements_from_top(array)
    np.testing.assert_array_equal(order[order], np.arange(6))
    places = array.element_offsets_m(3e9)[order]
    assert np.all(np.diff(places[:3, 2]) < 0) and np.all(places[:3, 1] < places[3:, 1])
    both = conventions.elements_from_top(array, "dual")
    np.testing.assert_array_equal(both, np.concatenate([order, 6 + order]))


def test_llr_streams_and_grids_are_inverse_and_ordered():
    rng = np.random.default_rng(0)
    known = np.zeros((2, 3, 4), bool)
    known[0, :, 1] = known[1, :, 2] = True  # users may differ in where their pilots are
    llr = np.where(known[..., None], 0, rng.standard_normal((2, 3, 4, 2)))
    stream = conventions.llr_stream(llr, known)
    by_hand = [-llr[1, n, t, b] for t in range(4) for n in range(3) for b in range(2) if not known[1, n, t]]
    np.testing.assert_array_equal(stream[1], by_hand)
    np.testing.assert_array_equal(conventions.llr_on_grid(stream, known), llr)


def test_pilots_on_the_grid_count_subcarriers_first():
    mask = np.zeros((1, 3, 2), bool)
    mask[0, 1] = mask[0, 2] = True
    pilots, known = conventions.pilots_on_grid(mask, [[1, 2, 3, 4]])
    np.testing.assert_array_equal(pilots[0], [[0, 1, 3], [0, 2, 4]])
    np.testing.assert_array_equal(known[0], [[False, True, True]] * 2)


def test_channel_over_symbols_repeats():
    values = np.arange(24.0).reshape(2, 3, 4)
    found = conventions.channel_over_symbols(values, 5)
    assert found.shape == (4, 2, 5, 3)
    assert np.all(found[3, 1, :, 2] == values[1, 2, 3])


def test_snr_at_an_ebno_counts_pilots_and_prefix():
    """10 dB per information bit of a 16-QAM of rate 1/2 are 13 dB per symbol, plus what is no data."""
    known = np.zeros((10, 4), bool)
    known[:, 0] = True
    snr_db = conventions.snr_db_from_ebno(
        10.0, bits_per_symbol=4, code_rate=0.5, known=known, fft_size=16, cyclic_prefix=4, channel_power=2.0
    )
    assert snr_db == pytest.approx(10 + 10 * np.log10(4 * 0.5 * 2.0 * (3 / 4) * (16 / 20)))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: conventions.nr_constellation(3), "bits_per_symbol must be even"),
        (lambda: conventions.elements_from_top("4x4"), "array must be a UniformPlanarArray, got str"),
        (
            lambda: conventions.elements_from_top(isac.UniformPlanarArray((2, 2)), "cross"),
            "polarisation must be one of",
        ),
        (lambda: conventions.pilots_on_grid([[[True, False]]], [[1, 2]]), "mask must hold 2 pilots"),
        (
            lambda: conventions.llr_stream(np.zeros((1, 2, 2, 1)), np.zeros((1, 3, 2), bool)),
            "known must have shape",
        ),
        (
            lambda: conventions.llr_stream(np.zeros((2, 1, 2, 1)), [[[True, False]], [[False, False]]]),
            "as many data symbols",
        ),
        (
            lambda: conventions.llr_on_grid(np.zeros((1, 3)), np.zeros((1, 2, 1), bool)),
            "stream must hold the bits",
        ),
        (lambda: conventions.channel_over_symbols(np.zeros((2, 3)), 2), "values must have shape"),
        (lambda: conventions.channel_over_symbols(np.full((2, 3, 4), np.nan), 2), "values must be numbers"),
        (lambda: conventions.nr_constellation(64), "bits_per_symbol must be at most 16"),
        (lambda: conventions.pilots_on_grid([[[True]]], [[np.nan]]), "pilots must be finite"),
        (lambda: conventions.llr_stream(np.full((1, 1, 1, 2), np.nan), [[[False]]]), "llr must be numbers"),
        (lambda: conventions.llr_on_grid([[np.nan]], [[[False]]]), "stream must be numbers"),
        (
            lambda: conventions.noise_variance_from_ebno(
                np.nan, bits_per_symbol=2, code_rate=0.5, known=np.zeros((2, 2), bool), fft_size=2
            ),
            "ebno_db must be finite",
        ),
        (
            lambda: conventions.noise_variance_from_ebno(
                0.0, bits_per_symbol=2, code_rate=0.5, known=np.zeros((4, 2), bool), fft_size=2
            ),
            "fft_size must hold the 4 subcarriers",
        ),
        (
            lambda: conventions.noise_variance_from_ebno(
                0.0, bits_per_symbol=2, code_rate=0.5, known=np.ones((2, 2), bool), fft_size=2
            ),
            "known must leave data",
        ),
        (
            lambda: conventions.noise_variance_from_ebno(
                0.0, bits_per_symbol=2, code_rate=1.5, known=np.zeros((2, 2), bool), fft_size=2
            ),
            "code_rate must lie in",
        ),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises((TypeError, ValueError), match=message):
        call()
