"""Codings: round trip and honest bit counts."""

import numpy as np
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from isac_toolbox.nn.export.codings import (
    RunLengthIndex,
    coding_bits,
    decode_runs,
    encode_runs,
    mean_run,
    runs,
)

QUICK = settings(max_examples=60, deadline=None, phases=[Phase.explicit, Phase.generate])


@st.composite
def masks(draw):
    shape = draw(st.sampled_from([(1, 1), (3, 7), (5, 2, 3, 3), (16, 40)]))
    density = draw(st.sampled_from([0.0, 0.05, 0.4, 1.0]))
    rng = np.random.default_rng(draw(st.integers(0, 10_000)))
    return rng.random(shape) < density


@QUICK
@given(mask=masks(), value_bits=st.sampled_from([8, 16, 32]))
def test_round_trip_and_bits(mask, value_bits):
    index = encode_runs(mask)
    np.testing.assert_array_equal(decode_runs(index), mask)
    assert index.stream.size == -(-index.n_bits // 8)
    bits, kept = coding_bits(mask, value_bits), int(mask.sum())
    assert bits["run_length"] == kept * value_bits + index.n_bits + 48
    assert bits["dense"] == mask.size * value_bits
    assert bits["bitmap"] == mask.size + kept * value_bits


def test_csr_by_hand():
    mask = np.zeros((3, 10), dtype=bool)
    mask[0, :4] = True
    bits = coding_bits(mask, 32)
    assert bits["csr"] == 4 * 32 + 4 * 4 + 4 * 3  # columns 0..9 in 4 bits, pointers 0..4 in 3 bits
    assert bits["csr_int32"] == 4 * 64 + 4 * 32


def test_runs_by_hand():
    mask = np.array([[1, 1, 0, 1], [1, 0, 0, 0]], dtype=bool)
    starts, lengths = runs(mask)
    assert starts.tolist() == [0, 3] and lengths.tolist() == [2, 2]  # the stream goes over row ends
    assert mean_run(mask) == pytest.approx(4 / 3)  # the statistic does not
    assert mean_run(np.zeros((2, 2), dtype=bool)) == 0.0


def test_regular_masks_cost_less_than_scattered_ones():
    regular, scattered = np.zeros((20, 100), bool), np.zeros((20, 100), bool)
    regular[::2, 10:20] = True
    scattered.ravel()[np.random.default_rng(0).permutation(2000)[:100]] = True
    assert coding_bits(regular, 8)["run_length"] < 0.75 * coding_bits(regular, 8)["csr"]
    assert coding_bits(regular, 8)["run_length"] < coding_bits(scattered, 8)["run_length"]


def test_damaged_streams_are_refused():
    index = encode_runs(np.eye(6, dtype=bool))
    short = RunLengthIndex(index.stream[:-2], index.n_runs, index.gap_order, index.length_order, (6, 6), 0)
    with pytest.raises(ValueError, match="ends before"):
        decode_runs(short)
    small = RunLengthIndex(index.stream, index.n_runs, index.gap_order, index.length_order, (2, 6), 0)
    with pytest.raises(ValueError, match="beyond the 12 weights"):
        decode_runs(small)


def test_value_bits_must_be_positive():
    with pytest.raises(ValueError, match="value_bits must be at least 1, got 0"):
        coding_bits(np.ones((2, 2), bool), 0)
