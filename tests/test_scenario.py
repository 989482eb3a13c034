"""Scenarios: files, seeds, and the consistency of a simulated block with its truth."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

import isac_toolbox as isac
from helpers import ROOT
from isac_toolbox.channel.array import SPEED_OF_LIGHT_M_S
from isac_toolbox.channel.modulation import qam_constellation

SMALL = isac.Scenario(
    array_shape=(3, 2), n_subcarriers=8, n_users=2, n_scatterers=3, n_pilot_symbols=2, n_data_symbols=4
)
BITS_OF_TRUTH = (
    "channel",
    "scatterer_positions_m",
    "visibility",
    "user_positions_m",
    "time_offsets_s",
    "symbols",
    "symbol_indices",
    "line_of_sight",
    "line_of_sight_gain",
    "scatterer_gain",
)


def same_bits(first, second) -> bool:
    return all(
        getattr(first.truth, name).tobytes() == getattr(second.truth, name).tobytes()
        for name in BITS_OF_TRUTH
    ) and all(
        np.asarray(getattr(first.observation, f.name)).tobytes()
        == np.asarray(getattr(second.observation, f.name)).tobytes()
        for f in dataclasses.fields(first.observation)
        if f.name not in ("array", "carrier_hz", "noise_variance", "wavefront", "link")
    )


# --- files -------------------------------------------------------------------------------------------


def test_ready_scenarios_load_and_survive_a_round_trip(tmp_path):
    names = isac.scenario_names()
    assert {"urban_uplink", "low_snr", "traced_munich", "traced_street_canyon"} <= set(names)
    for name in names:
        scenario = isac.Scenario.load(name)
        assert scenario.description
        path = scenario.dump(tmp_path / f"{name}.toml")
        assert isac.Scenario.load(path) == isac.Scenario.load(str(path)) == scenario


@given(
    st.text(st.characters(exclude_categories=["Cs"])),
    st.floats(-100, 100),
    st.floats(1e-12, 1e-3),
    st.one_of(st.none(), st.floats(-np.pi, np.pi)),
    st.booleans(),
)
@settings(max_examples=100, deadline=None)
def test_any_scenario_survives_a_round_trip(tmp_path_factory, text, snr_db, std, azimuth, control):
    scenario = SMALL.replace(
        description=text, snr_db=snr_db, time_offset_std_s=std, azimuth_rad=azimuth, power_control=control
    )
    path = scenario.dump(tmp_path_factory.mktemp("scenarios") / "case.toml")
    assert isac.Scenario.load(path) == scenario


def test_replace_changes_a_copy_and_validates():
    changed = SMALL.replace(snr_db=-3.0, n_users=1)
    assert (changed.snr_db, changed.n_users) == (-3.0, 1)
    assert (SMALL.snr_db, SMALL.n_users) == (10.0, 2)
    with pytest.raises(ValueError, match="n_users"):
        SMALL.replace(n_users=0)
    with pytest.raises(ValueError, match="snr_db"):
        SMALL.snr_db = 3.0


def test_pilot_symbols_default_to_the_number_of_users():
    assert isac.Scenario(n_users=5).pilot_symbols == 5
    assert isac.Scenario(n_users=5, n_pilot_symbols=7).pilot_symbols == 7
    observation = SMALL.replace(n_pilot_symbols=None).simulate(0).observation
    assert observation.pilot_mask.sum(axis=1).tolist() == [2] * 8


# --- seeds -------------------------------------------------------------------------------------------


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


# --- the block ---------------------------------------------------------------------------------------


def clean_block(simulation) -> np.ndarray:
    truth = simulation.truth
    return np.einsum("knm,knt->nmt", truth.channel, truth.symbols)


@pytest.mark.parametrize("modulation", ["qpsk", "16qam", "64qam"])
@pytest.mark.parametrize("pattern", ["orthogonal", "comb", "random"])
def test_symbols_agree_with_constellation_pilots_and_mask(modulation, pattern):
    simulation = SMALL.replace(modulation=modulation, pilot_pattern=pattern).simulate(0)
    observation, truth = simulation.observation, simulation.truth
    data = truth.symbol_indices >= 0
    assert_array_equal(data, ~observation.known)
    assert set(np.unique(truth.symbol_indices[~data])) == {-1}
    assert_array_equal(observation.constellation, qam_constellation(modulation))
    assert_array_equal(truth.symbols[data], observation.constellation[truth.symbol_indices[data]])
    assert_array_equal(truth.symbols[~data], observation.pilots[~data])
    assert not observation.pilots[data].any()


@pytest.mark.parametrize("snr_db", [-10.0, 5.0, 30.0])
@pytest.mark.parametrize("power_control", [True, False])
def test_received_less_the_clean_block_is_noise_of_the_right_variance(snr_db, power_control):
    scenario = SMALL.replace(
        snr_db=snr_db, power_control=power_control, n_subcarriers=64, n_data_symbols=30, modulation="16qam"
    )
    simulation = scenario.simulate(2)
    noise = simulation.observation.received - clean_block(simulation)
    variance = np.mean(np.abs(noise) ** 2)
    tolerance = 5 / np.sqrt(noise.size)
    assert variance == pytest.approx(simulation.truth.noise_variance, rel=tolerance)
    power = np.mean(np.abs(simulation.truth.channel) ** 2)
    assert 10 * np.log10(power / simulation.truth.noise_variance) == pytest.approx(snr_db, abs=1e-9)
    assert power == pytest.approx(1)
    # measured: E|sum_k h u|^2 is K times the mean power per user
    received = np.mean(np.abs(clean_block(simulation)) ** 2)
    assert 10 * np.log10(received / 2 / variance) == pytest.approx(snr_db, abs=0.3)


def test_power_control():
    powers = {
        flag: np.mean(np.abs(SMALL.replace(power_control=flag).simulate(4).truth.channel) ** 2, axis=(1, 2))
        for flag in (True, False)
    }
    assert_allclose(powers[True], 1)
    assert np.ptp(powers[False]) > 0.05 and np.mean(powers[False]) == pytest.approx(1)


@given(st.integers(0, 10**6), st.sampled_from(["planar", "spherical"]))
@settings(max_examples=20, deadline=None)
def test_the_channel_is_that_of_the_truths_paths(seed, wavefront):
    """Scaled gains, positions and offsets of the truth reproduce ``truth.channel``."""
    simulation = SMALL.replace(wavefront=wavefront, line_of_sight_probability=0.5).simulate(seed)
    observation, truth = simulation.observation, simulation.truth
    bs, array = observation.bs_position_m, observation.array
    expected = np.zeros_like(truth.channel)
    for k, user in enumerate(truth.user_positions_m):
        targets = [(truth.line_of_sight_gain[k], user)]
        targets += list(zip(truth.scatterer_gain[k], truth.scatterer_positions_m))
        for gain, target in targets:
            direct = np.linalg.norm(target - bs)
            delay = (np.linalg.norm(user - target) + direct) / SPEED_OF_LIGHT_M_S + truth.time_offsets_s[k]
            steering = (
                array.steering((target - bs) / direct)
                if wavefront == "planar"
                else array.spherical_steering(target - bs, observation.carrier_hz)
            )
            b = np.exp(-2j * np.pi * observation.subcarrier_frequencies_hz * delay)
            expected[k] += gain * np.outer(b, steering)
    assert_allclose(truth.channel, expected, atol=1e-9)
    assert_array_equal(truth.visibility, truth.scatterer_gain != 0)
    assert_array_equal(truth.line_of_sight, truth.line_of_sight_gain != 0)
    assert truth.visibility.any(axis=0).all()
    assert np.all(truth.visibility.any(axis=1) | truth.line_of_sight)


def test_the_observation_holds_what_the_scenario_says():
    scenario = SMALL.replace(user_position_std_m=0.7, time_offset_std_s=3e-9, wavefront="spherical")
    observation = scenario.simulate(0).observation
    assert_allclose(np.diff(observation.subcarrier_frequencies_hz), 1.5e6)
    assert abs(observation.subcarrier_frequencies_hz.sum()) < 1e-6
    assert_array_equal(observation.user_position_stds_m, np.full((2, 3), 0.7))
    assert_array_equal(observation.time_offset_stds_s, [3e-9, 3e-9])
    assert (observation.wavefront, observation.carrier_hz) == ("spherical", 3.5e9)
    assert observation.noise_variance is None
    assert observation.received.shape == (8, 6, 6)
    assert_array_equal(observation.region_m, scenario.region_m)
    assert not observation.received.flags.writeable


def test_nominal_positions_and_clocks_have_their_deviations():
    errors, offsets = [], []
    scenario = SMALL.replace(user_position_std_m=0.5, time_offset_std_s=4e-9)
    for seed in range(100):
        simulation = scenario.simulate(seed)
        errors.append(simulation.observation.user_positions_m - simulation.truth.user_positions_m)
        offsets.append(simulation.truth.time_offsets_s)
    assert np.std(errors) == pytest.approx(0.5, rel=0.15)  # 5 standard deviations of 600 draws
    assert np.std(offsets) == pytest.approx(4e-9, rel=0.25)
    known = SMALL.replace(user_position_std_m=0.0, time_offset_std_s=0.0).simulate(0)
    assert_array_equal(known.observation.user_positions_m, known.truth.user_positions_m)
    assert not known.truth.time_offsets_s.any()


def test_the_array_faces_the_users_unless_told():
    simulation = SMALL.simulate(5)
    towards = simulation.truth.user_positions_m.mean(axis=0) - simulation.observation.bs_position_m
    assert simulation.observation.array.azimuth_rad == pytest.approx(np.arctan2(towards[1], towards[0]))
    told = SMALL.replace(azimuth_rad=0.3, elevation_rad=-0.2).simulate(5).observation.array
    assert (told.azimuth_rad, told.elevation_rad) == (0.3, -0.2)


# --- given and traced environments -------------------------------------------------------------------


@pytest.mark.parametrize("name", ["munich", "street_canyon"])
def test_traced_environments_with_chosen_users(name):
    scenario = isac.Scenario.load("urban_uplink").replace(n_subcarriers=16)
    traced, users = isac.load_traced(name), [0, 3, 5, 9]
    simulation = scenario.simulate(seed=0, environment=traced, users=users)
    truth = simulation.truth
    assert_array_equal(truth.user_positions_m, traced.user_positions_m[users])
    assert truth.visibility.any(axis=0).all()
    assert truth.channel.shape == (4, 16, 64)
    assert np.isfinite(simulation.observation.received).all()
    extra = truth.unlocated_paths
    assert len(extra) == np.isin(traced.extra_user, users).sum() > 0
    assert_array_equal(extra.probability, 1)
    # direction, delay and scaled gain of the unlocated paths, and the located ones, make up the channel
    observation = simulation.observation
    frequencies = observation.subcarrier_frequencies_hz
    channel = np.zeros_like(truth.channel)

    def add(k, gain, delay_s, steering):
        phase = np.exp(-2j * np.pi * frequencies * (delay_s + truth.time_offsets_s[k]))
        channel[k] += gain * np.outer(phase, steering)

    for i, k in enumerate(extra.user):
        steering = observation.array.steering_from_cosines(*extra.direction_cosines[i])
        add(k, extra.gain[i], extra.delay_s[i], steering)
    for k, user in enumerate(truth.user_positions_m):
        targets = [(truth.line_of_sight_gain[k], user)]
        targets += list(zip(truth.scatterer_gain[k], truth.scatterer_positions_m))
        for gain, target in targets:
            direct = np.linalg.norm(target - observation.bs_position_m)
            steering = observation.array.steering((target - observation.bs_position_m) / direct)
            add(k, gain, (np.linalg.norm(user - target) + direct) / SPEED_OF_LIGHT_M_S, steering)
    assert_allclose(channel, truth.channel, atol=1e-9)


def test_traced_scenarios_draw_users_by_seed():
    scenario = isac.Scenario.load("traced_munich").replace(n_subcarriers=8, array_shape=(2, 2))
    first, again, other = (scenario.simulate(s).truth.user_positions_m for s in (0, 0, 1))
    assert_array_equal(first, again)
    assert first.shape == (4, 3) and not np.array_equal(first, other)
    chosen = scenario.simulate(0, users=[1, 2]).truth.user_positions_m
    assert_array_equal(chosen, isac.load_traced("munich").user_positions_m[[1, 2]])


def test_a_traced_path_to_a_file_works(tmp_path):
    source = isac.load_traced("street_canyon")
    user, station, point = source.user_positions_m[0], source.bs_position_m, source.scatterer_positions_m[0]
    lengths_m = [
        np.linalg.norm(user - station),
        np.linalg.norm(user - point) + np.linalg.norm(point - station),
    ]
    np.savez(
        tmp_path / "own.npz",
        bs_position_m=source.bs_position_m,
        ue_position_m=source.user_positions_m[:1],
        path_ue=[0, 0],
        path_depth=[0, 1],
        path_gain=[1.0, 0.5j],
        path_delay_s=np.array(lengths_m) / SPEED_OF_LIGHT_M_S,
        path_first_bounce_m=[[np.nan] * 3, source.scatterer_positions_m[0]],
    )
    truth = SMALL.replace(traced=str(tmp_path / "own.npz"), n_users=1).simulate(0).truth
    assert_array_equal(truth.scatterer_positions_m, source.scatterer_positions_m[:1])
    assert truth.scatterer_gain[0, 0] / truth.line_of_sight_gain[0] == pytest.approx(0.5j)


def test_a_fixed_environment_keeps_its_scene_over_seeds():
    environment = SMALL.simulate(0).truth.environment
    first, second = (SMALL.simulate(s, environment=environment) for s in (1, 2))
    assert_array_equal(first.truth.scatterer_positions_m, second.truth.scatterer_positions_m)
    assert_array_equal(first.truth.scatterer_positions_m, environment.scatterer_positions_m)
    assert not np.array_equal(first.observation.received, second.observation.received)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("n_users", True),
        ("snr_db", True),
        ("snr_db", np.True_),
        ("array_shape", [True, 8]),
        ("array_shape", np.array([True, True])),
        ("region_m", [[0, 0, False], [1, 1, 1]]),
        ("n_pilot_symbols", True),
        ("azimuth_rad", False),
        ("traced", True),
    ],
)
def test_true_and_false_are_no_numbers(field, value):
    with pytest.raises(ValueError, match=f"{field}: must not be true or false, got"):
        SMALL.replace(**{field: value})


@pytest.mark.parametrize("name", ["own.toml", "OWN.TOML"])
def test_a_byte_order_mark_is_no_content(tmp_path, name):
    (tmp_path / name).write_bytes(b"\xef\xbb\xbfn_users = 2\n")
    assert isac.Scenario.load(tmp_path / name).n_users == 2


@pytest.fixture
def own_traced(tmp_path):
    """A folder with a scenario and, in it, a traced file that the scenario names relative to itself."""
    folder = tmp_path / "scene"
    folder.mkdir()
    (folder / "own.npz").write_bytes((ROOT / "isac_toolbox/data/traced/street_canyon.npz").read_bytes())
    (folder / "own.toml").write_text("traced = 'own.npz'\nn_users = 1\n")
    return folder


@pytest.mark.parametrize("where", [".", "scene", "/"])
def test_a_relative_traced_file_is_beside_its_scenario(own_traced, monkeypatch, where):
    monkeypatch.chdir(own_traced.parent / where)
    relative = Path(os.path.relpath(own_traced / "own.toml"))
    for path in (own_traced / "own.toml", relative):
        scenario = isac.Scenario.load(path)
        assert scenario.simulate(0).truth.environment.name == "own"
        copy = isac.Scenario.load(scenario.dump(own_traced / "copy.toml"))
        assert copy.simulate(0).truth.environment.name == "own"


def test_the_file_beside_the_scenario_comes_before_the_current_folder(own_traced, monkeypatch):
    monkeypatch.chdir(own_traced.parent)
    other = own_traced.parent / "own.npz"
    other.write_bytes((ROOT / "isac_toolbox/data/traced/munich.npz").read_bytes())
    beside = isac.Scenario.load(own_traced / "own.toml").simulate(0).observation.bs_position_m
    assert_array_equal(beside, isac.load_traced("street_canyon").bs_position_m)
    (own_traced / "own.npz").unlink()
    here = isac.Scenario.load(own_traced / "own.toml").simulate(0).observation.bs_position_m
    assert_array_equal(here, isac.load_traced("munich").bs_position_m)


def test_a_missing_traced_file_is_said_where_it_was_sought(own_traced, monkeypatch):
    monkeypatch.chdir(own_traced.parent)
    (own_traced / "own.npz").unlink()
    with pytest.raises(ValueError, match="traced") as caught:
        isac.Scenario.load(own_traced / "own.toml")
    for place in (own_traced / "own.npz", own_traced.parent / "own.npz", "munich.npz"):
        assert str(place) in str(caught.value)
