"""The same seed gives the same bits, and what is drawn is independent of what else is."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from helpers.simulated import BITS_OF_TRUTH, SMALL, clean_block, same_bits
from isac_toolbox.scenario.streams import Streams


def test_the_same_seed_gives_the_same_bits():
    assert same_bits(SMALL.simulate(seed=7), SMALL.simulate(seed=7))
    assert not same_bits(SMALL.simulate(seed=7), SMALL.simulate(seed=8))


def test_seed_sequences_are_not_used_up():
    sequence = np.random.SeedSequence(7, spawn_key=(3, 1))
    first, second = SMALL.simulate(sequence), SMALL.simulate(sequence)
    assert same_bits(first, second)
    assert same_bits(SMALL.simulate(np.random.SeedSequence(7)), SMALL.simulate(np.int64(7)))
    assert not same_bits(first, SMALL.simulate(7))


def test_global_random_state_does_not_matter():
    np.random.seed(0)  # noqa: NPY002
    first = SMALL.simulate(1)
    np.random.seed(1)  # noqa: NPY002
    state = np.random.get_state()[1].copy()  # noqa: NPY002
    assert same_bits(first, SMALL.simulate(1))
    assert_array_equal(np.random.get_state()[1], state)  # noqa: NPY002


def test_changing_the_snr_keeps_scene_symbols_and_noise_pattern():
    low, high = SMALL.replace(snr_db=0.0).simulate(3), SMALL.replace(snr_db=20.0).simulate(3)
    for name in BITS_OF_TRUTH:
        assert_array_equal(getattr(low.truth, name), getattr(high.truth, name))
    assert_array_equal(low.observation.user_positions_m, high.observation.user_positions_m)
    assert low.truth.noise_variance == pytest.approx(100 * high.truth.noise_variance)
    clean = clean_block(low)
    assert_allclose(low.observation.received - clean, 10 * (high.observation.received - clean), atol=1e-12)


@pytest.mark.parametrize("field", ["snr_db", "n_data_symbols", "user_position_std_m", "time_offset_std_s"])
def test_streams_are_independent(field):
    """None of these touches where users and scatterers are."""
    value = {"snr_db": 3.0, "n_data_symbols": 6, "user_position_std_m": 2.0, "time_offset_std_s": 1e-9}[field]
    first, second = SMALL.simulate(3).truth, SMALL.replace(**{field: value}).simulate(3).truth
    assert_array_equal(first.scatterer_positions_m, second.scatterer_positions_m)
    assert_array_equal(first.user_positions_m, second.user_positions_m)
    assert_array_equal(first.visibility, second.visibility)


def test_the_number_of_users_moves_neither_clocks_nor_errors_nor_noise():
    """Environment, users, clocks, symbols and noise each draw from a stream of their own."""
    one, two = SMALL.replace(n_users=1).simulate(3), SMALL.simulate(3)
    assert_array_equal(one.truth.time_offsets_s, two.truth.time_offsets_s[:1])
    errors = [s.observation.user_positions_m - s.truth.user_positions_m for s in (one, two)]
    assert_allclose(errors[0], errors[1][:1], atol=1e-12)
    noise = [(s.observation.received - clean_block(s)) / np.sqrt(s.truth.noise_variance) for s in (one, two)]
    assert_allclose(noise[0], noise[1], atol=1e-12)


def test_different_seeds_differ_in_everything_drawn():
    first, second = SMALL.simulate(0), SMALL.simulate(1)
    assert not np.allclose(first.truth.user_positions_m, second.truth.user_positions_m)
    assert not np.isclose(first.truth.time_offsets_s, second.truth.time_offsets_s, atol=0).any()
    assert not np.array_equal(first.truth.symbol_indices, second.truth.symbol_indices)
    assert not np.allclose(first.observation.received, second.observation.received)


def test_the_order_of_the_streams_is_what_a_seed_means():
    """Stream i is the i-th child of the seed; a later block draws four of them anew."""
    names = [field.name for field in dataclasses.fields(Streams)]
    children = np.random.SeedSequence(7).spawn(len(names))
    first, later = Streams.of(7), Streams.of(7, block=2)
    anew = {3: "symbols", 4: "noise", 9: "oscillators", 18: "interference"}
    for i, (name, child) in enumerate(zip(names, children, strict=True)):
        expected = np.random.default_rng(child).random()
        assert getattr(first, name).random() == expected
        assert (getattr(later, name).random() != expected) == (anew.get(i) == name)


def test_a_receiver_may_be_the_same_in_several_scenes():
    off = SMALL.replace(element_gain_std=0.1, n_dead_elements=1, array_rotation_std_rad=0.01)
    first, second = (off.simulate(seed, receiver_seed=5).truth for seed in (1, 2))
    assert_array_equal(first.element_response, second.element_response)
    assert_array_equal(first.array_rotation_rad, second.array_rotation_rad)
    assert not np.allclose(first.user_positions_m, second.user_positions_m)
    assert same_bits(off.simulate(3, receiver_seed=3), off.simulate(3))
    assert_array_equal(first.user_positions_m, off.simulate(1).truth.user_positions_m)
    with pytest.raises(TypeError, match="receiver_seed must be an integer"):
        off.simulate(1, receiver_seed="a")
