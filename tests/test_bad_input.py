"""Bad input raises before any work, and the message names the argument."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import isac_toolbox as isac

K, N, M, T = 2, 4, 4, 5


def good() -> dict:
    """Arguments of a valid observation: two pilot symbols, three data symbols."""
    rng = np.random.default_rng(0)
    pilots = np.zeros((K, N, T), complex)
    pilots[:, :, :2] = np.exp(1j * rng.uniform(0, 6, (K, N, 2)))
    return {
        "received": rng.standard_normal((N, M, T)) + 1j * rng.standard_normal((N, M, T)),
        "pilots": pilots,
        "pilot_mask": np.broadcast_to(np.arange(T) < 2, (N, T)),
        "array": isac.UniformPlanarArray((2, 2)),
        "subcarrier_frequencies_hz": (np.arange(N) - 1.5) * 1e6,
        "bs_position_m": np.array([0.0, 0.0, 20.0]),
        "user_positions_m": np.array([[40.0, 0.0, 1.5], [50.0, 10.0, 1.5]]),
        "user_position_std_m": 0.3,
        "time_offset_std_s": 5e-9,
        "constellation": isac.qam_constellation("qpsk"),
        "region_m": ((20.0, -30.0, 0.0), (80.0, 30.0, 15.0)),
    }


def at(index, value):
    """A change of one entry of an array argument."""

    def change(array):
        changed = np.array(array)
        changed[index] = value
        return changed

    return change


def test_the_good_observation_is_good():
    observation = isac.UplinkObservation(**good())
    assert (observation.n_users, observation.n_subcarriers, observation.n_symbols) == (K, N, T)
    assert observation.bits_per_symbol == 2


WRONG_SHAPES = [
    ("received", lambda v: v[0]),
    ("received", lambda v: v[:, :3]),
    ("received", lambda v: v.transpose(1, 0, 2)[:, :3]),
    ("received", lambda v: v[:1]),  # fewer than two subcarriers
    ("received", lambda v: v[:, :, :0]),
    ("received", lambda v: v[None]),
    ("element_mask", lambda v: np.ones(M + 1, bool)),
    ("element_mask", lambda v: np.ones((1, M), bool)),
    ("sample_mask", lambda v: np.ones((N, M), bool)),
    ("sample_mask", lambda v: np.ones((2, N, M, T), bool)),
    ("pilots", lambda v: v[0]),
    ("pilots", lambda v: v[:, :-1]),
    ("pilots", lambda v: v[:, :, :-1]),
    ("pilots", lambda v: v[:0]),
    ("pilots", lambda v: v.transpose(1, 2, 0)),
    ("pilot_mask", lambda v: v[0]),
    ("pilot_mask", lambda v: v.T),
    ("pilot_mask", lambda v: np.broadcast_to(v, (K + 1, N, T))),
    ("subcarrier_frequencies_hz", lambda v: v[:-1]),
    ("subcarrier_frequencies_hz", lambda v: v[:, None]),
    ("subcarrier_frequencies_hz", lambda v: 0.0),
    ("bs_position_m", lambda v: v[:2]),
    ("bs_position_m", lambda v: v[None]),
    ("user_positions_m", lambda v: v[:1]),
    ("user_positions_m", lambda v: v[:, :2]),
    ("user_positions_m", lambda v: v[0]),
    ("user_position_std_m", lambda v: np.full(2, v)),
    ("user_position_std_m", lambda v: np.full((3, 3), v)),
    ("time_offset_std_s", lambda v: np.full(3, v)),
    ("time_offset_std_s", lambda v: np.full((2, 1), v)),
    ("constellation", lambda v: v[:, None]),
    ("region_m", lambda v: v[0]),
    ("region_m", lambda v: np.array(v).T),
]

WRONG_VALUES = [
    ("received", np.zeros_like, "all zero"),
    ("received", at((1, 2, 3), np.nan), "finite"),
    ("received", at((1, 2, 3), np.inf), "finite"),
    ("received", at((1, 2, 3), complex(0, -np.inf)), "finite"),
    ("pilots", at((0, 0, 0), np.nan), "finite"),
    ("pilots", at((0, 0, 4), 1.0), "zero wherever pilot_mask is False"),
    ("pilots", at(1, 0.0), r"no pilots for user\(s\) \[1\]"),
    ("pilots", np.zeros_like, r"no pilots for user\(s\) \[0, 1\]"),
    ("subcarrier_frequencies_hz", at(0, np.nan), "finite"),
    ("subcarrier_frequencies_hz", at(0, 0.5e6), "distinct"),
    ("bs_position_m", at(0, np.nan), "finite"),
    ("bs_position_m", lambda v: np.array([40.0, 0.0, 1.5]), "coincide"),
    ("user_positions_m", at((0, 0), np.inf), "finite"),
    ("user_positions_m", at(1, [0.0, 0.0, 20.0]), r"user\(s\) \[1\] coincide with bs_position_m"),
    ("user_position_std_m", lambda v: -v, "non-negative"),
    ("user_position_std_m", lambda v: [v, v, -v], "non-negative"),
    ("user_position_std_m", lambda v: np.nan, "finite"),
    ("time_offset_std_s", lambda v: -v, "non-negative"),
    ("time_offset_std_s", lambda v: [v, np.inf], "finite"),
    ("constellation", lambda v: 2 * v, "unit mean energy"),
    ("constellation", lambda v: v[:3], "power of two"),
    ("constellation", lambda v: v[:1], "power of two"),
    ("constellation", lambda v: v[:0], "power of two"),
    ("constellation", lambda v: v[[0, 0, 1, 1]], "distinct"),
    ("constellation", at(0, np.nan), "finite"),
    ("region_m", lambda v: (v[1], v[0]), "positive extent"),
    ("region_m", lambda v: (v[0], (80.0, 30.0, 0.0)), "positive extent"),
    ("region_m", lambda v: (v[0], v[0]), "positive extent"),
    ("region_m", at((0, 0), np.nan), "finite"),
    ("carrier_hz", lambda v: 0.0, "positive"),
    ("carrier_hz", lambda v: -1.0, "positive"),
    ("carrier_hz", lambda v: np.nan, "positive"),
    ("noise_variance", lambda v: 0.0, "positive"),
    ("noise_variance", lambda v: -1.0, "positive"),
    ("noise_variance", lambda v: np.inf, "positive"),
    ("wavefront", lambda v: "cylindrical", "planar.*spherical"),
    ("wavefront", lambda v: None, "planar.*spherical"),
    ("link", lambda v: "downlink", "uplink"),
]

WRONG_TYPES = [
    ("element_mask", lambda v: np.ones(M)),
    ("sample_mask", lambda v: np.ones((N, M, T), int)),
    ("sample_mask", lambda v: np.ma.masked_array(np.ones(T, bool), np.arange(T) < 1)),
    *[
        (name, lambda v: np.ma.masked_array(v, np.ones(np.shape(v), bool)))
        for name in ("pilots", "pilot_mask", "user_positions_m", "subcarrier_frequencies_hz", "constellation")
    ],
    *[
        (name, lambda v: np.asarray(v) * 1j)
        for name in (
            "subcarrier_frequencies_hz",
            "bs_position_m",
            "user_positions_m",
            "user_position_std_m",
            "time_offset_std_s",
            "region_m",
        )
    ],
    *[(name, lambda v: np.asarray(v).astype(str)) for name in good() if name not in ("array",)],
    *[(name, lambda v: np.asarray(v).astype(object)) for name in good() if name not in ("array",)],
    *[(name, lambda v: None) for name in good() if name != "region_m"],
    ("pilot_mask", lambda v: v.astype(int)),
    ("pilot_mask", lambda v: v.astype(float)),
    ("array", lambda v: (2, 2)),
    ("array", lambda v: "2x2"),
    ("carrier_hz", lambda v: "3.5e9"),
    ("carrier_hz", lambda v: True),
    ("noise_variance", lambda v: [0.1, 0.1]),
]


def build_with(name: str, change) -> isac.UplinkObservation:
    arguments = good()
    arguments[name] = change(arguments.get(name))
    return isac.UplinkObservation(**arguments)


@pytest.mark.parametrize(("name", "change"), WRONG_SHAPES)
def test_wrong_shapes(name, change):
    with pytest.raises(ValueError, match=f"^{name}"):
        build_with(name, change)


@pytest.mark.parametrize(("name", "change", "reason"), WRONG_VALUES)
def test_wrong_values(name, change, reason):
    with pytest.raises(ValueError, match=reason) as caught:
        build_with(name, change)
    assert name in str(caught.value)


@pytest.mark.parametrize(("name", "change"), WRONG_TYPES)
def test_wrong_types(name, change):
    with pytest.raises(TypeError, match=f"^{name}"):
        build_with(name, change)


@pytest.mark.parametrize("masks", [{"sample_mask": False}, {"element_mask": np.zeros(M, bool)}])
def test_masks_leave_something(masks):
    with pytest.raises(ValueError, match="sample_mask and element_mask must leave samples"):
        isac.UplinkObservation(**good(), **masks)


def test_masked_samples_are_kept_as_zero_whatever_they_held():
    """A mask of the samples' own joins the other; NaN under a mask is no error."""
    arguments = good()
    values = arguments.pop("received")
    own = np.zeros(values.shape, bool)
    own[0, 1, 2] = True
    broken = np.array(values)
    broken[0, 1, 2], broken[:, 3], broken[2, :, 4] = np.nan, 1e9, np.inf
    observation = isac.UplinkObservation(
        received=np.ma.masked_array(broken, own),
        sample_mask=~(np.arange(N)[:, None, None] == 2) | (np.arange(T) < 4),
        element_mask=np.arange(M) < 3,
        **arguments,
    )
    usable = np.ones(values.shape, bool)
    usable[0, 1, 2] = usable[:, 3] = usable[2, :, 4] = False
    assert np.array_equal(observation.usable, usable)
    assert np.array_equal(observation.received, np.where(usable, values, 0))
    assert observation.usable_elements.tolist() == [True, True, True, False]
    assert np.argwhere(~observation.usable_cells).tolist() == [[2, 4]]


@pytest.mark.parametrize("mask", [np.ma.nomask, np.zeros((N, M, T), bool)])
def test_a_mask_that_hides_nothing_changes_nothing(mask):
    arguments = good()
    arguments["received"] = np.ma.masked_array(arguments["received"], mask)
    observation = isac.UplinkObservation(**arguments)
    assert observation.sample_mask is None and observation.usable is None
    assert np.array_equal(observation.received, arguments["received"].data)


def test_spherical_wavefronts_need_a_carrier():
    with pytest.raises(ValueError, match=r"carrier_hz.*spherical"):
        isac.UplinkObservation(**good(), wavefront="spherical")
    assert isac.UplinkObservation(**good(), wavefront="spherical", carrier_hz=3.5e9).carrier_hz == 3.5e9


def test_more_users_than_antennas():
    arguments = good()
    arguments["pilots"] = np.tile(arguments["pilots"], (3, 1, 1))[:5]
    arguments["user_positions_m"] = np.tile(arguments["user_positions_m"], (3, 1))[:5]
    with pytest.raises(ValueError, match=r"more users than antennas \(5 > 4\)"):
        isac.UplinkObservation(**arguments)


def test_data_of_one_user_under_pilots_of_another():
    arguments = good()
    mask = np.repeat(arguments["pilot_mask"][None], K, axis=0)
    mask[1, 0, 0] = False  # user 1 sends data there, but its pilot is not zero
    with pytest.raises(ValueError, match="pilots must be zero wherever pilot_mask is False"):
        isac.UplinkObservation(**{**arguments, "pilot_mask": mask})
    arguments["pilots"][1, 0, 0] = 0
    observation = isac.UplinkObservation(**{**arguments, "pilot_mask": mask})
    assert not observation.known[1, 0, 0] and observation.known[0, 0, 0]


@given(
    st.lists(
        st.tuples(
            st.integers(0, N - 1),
            st.integers(0, M - 1),
            st.integers(0, T - 1),
            st.sampled_from([np.nan, np.inf, -np.inf, complex(0, np.nan), complex(1, -np.inf)]),
        ),
        min_size=1,
        max_size=N * M * T,
    )
)
@settings(max_examples=60, deadline=None)
def test_corrupt_samples_anywhere_name_received(corruptions):
    def corrupt(received):
        for *index, value in corruptions:
            received[tuple(index)] = value
        return received

    with pytest.raises(ValueError, match=r"^received must be finite"):
        build_with("received", corrupt)


def test_arguments_are_copied_and_frozen():
    arguments = good()
    observation = isac.UplinkObservation(**arguments)
    before = observation.received.copy()
    arguments["received"][:] = 0
    assert np.array_equal(observation.received, before)
    with pytest.raises(ValueError, match="read-only"):
        observation.received[0, 0, 0] = 0
    with pytest.raises(AttributeError):
        observation.link = "downlink"


@pytest.mark.parametrize("order", [(2, 1, 0), (1, 0, 2), (0, 2, 1), (1, 2, 0), (2, 0, 1)])
@pytest.mark.parametrize("name", ["received", "pilots"])
def test_axes_in_another_order_are_named_with_the_order_that_fits(name, order):
    """Sizes that all differ, so that one order alone fits."""
    arguments = isac.Scenario(array_shape=(3, 3), n_subcarriers=8, n_users=2).simulate(0).observation
    given = getattr(arguments, name)
    turned = np.ascontiguousarray(given.transpose(order))
    with pytest.raises(ValueError, match=rf"^{name} must have shape .* got .* looks transposed") as caught:
        replace(arguments, **{name: turned})
    back = tuple(map(int, re.search(rf"{name}\.transpose\((\d), (\d), (\d)\)", str(caught.value)).groups()))
    assert np.array_equal(turned.transpose(back), given)


def test_a_block_of_another_size_is_not_called_transposed():
    with pytest.raises(ValueError, match=r"^received must") as caught:
        build_with("received", lambda v: v[:, :-1])
    assert "transposed" not in str(caught.value)


@pytest.mark.parametrize(
    "name", ["carrier_hz", "noise_variance", "beam_squint", "user_position_std_m", "time_offset_std_s"]
)
def test_arrays_of_no_dimension_are_numbers(name):
    """As files and reductions give them."""
    changes = {"carrier_hz": 3.5e9, "noise_variance": 0.1, "beam_squint": True}
    value = changes.get(name, 0.25)
    plain = isac.UplinkObservation(**{**good(), "carrier_hz": 3.5e9, name: value})
    wrapped = isac.UplinkObservation(**{**good(), "carrier_hz": 3.5e9, name: np.array(value)})
    assert getattr(wrapped, name) == getattr(plain, name)
    assert type(getattr(wrapped, name)) is type(getattr(plain, name))
    one, other = isac.UniformPlanarArray(spacing_wavelengths=np.array(0.5)), isac.UniformPlanarArray()
    assert one == other and hash(one) == hash(other)


@pytest.mark.parametrize("value", [np.array("3.5e9"), np.array(True), np.array(1j), np.array([3.5e9])])
def test_arrays_of_no_dimension_are_checked_like_numbers(value):
    with pytest.raises(TypeError, match="carrier_hz must be a positive number"):
        build_with("carrier_hz", lambda _: value)


# --- array -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "error", "name"),
    [
        ({"shape": (0, 8)}, ValueError, "shape"),
        ({"shape": (-2, -2)}, ValueError, "shape"),
        ({"shape": (2.0, 2)}, TypeError, "shape"),
        ({"shape": (True, 2)}, TypeError, "shape"),
        ({"shape": "ab"}, TypeError, "shape"),
        ({"shape": 4}, TypeError, "shape"),
        ({"shape": (2, 2, 2)}, TypeError, "shape"),
        ({"spacing_wavelengths": 0.0}, ValueError, "spacing_wavelengths"),
        ({"spacing_wavelengths": -0.5}, ValueError, "spacing_wavelengths"),
        ({"spacing_wavelengths": np.nan}, ValueError, "spacing_wavelengths"),
        ({"spacing_wavelengths": (0.5, np.inf)}, ValueError, "spacing_wavelengths"),
        ({"spacing_wavelengths": (0.5,)}, ValueError, "spacing_wavelengths"),
        ({"spacing_wavelengths": (0.5, 0.5, 0.5)}, ValueError, "spacing_wavelengths"),
        ({"spacing_wavelengths": "half"}, TypeError, "spacing_wavelengths"),
        ({"spacing_wavelengths": None}, TypeError, "spacing_wavelengths"),
        ({"azimuth_rad": np.nan}, ValueError, "azimuth_rad"),
        ({"azimuth_rad": [0.0, 1.0]}, TypeError, "azimuth_rad"),
        ({"azimuth_rad": 1j}, TypeError, "azimuth_rad"),
        ({"elevation_rad": np.inf}, ValueError, "elevation_rad"),
        ({"elevation_rad": "up"}, TypeError, "elevation_rad"),
    ],
)
def test_bad_arrays(arguments, error, name):
    with pytest.raises(error, match=name):
        isac.UniformPlanarArray(**arguments)


@pytest.mark.parametrize(
    ("directions", "error"),
    [
        ([1.0, 1.0, 0.0], ValueError),
        ([1.0, 0.0], ValueError),
        (1.0, ValueError),
        ([np.nan, 0.0, 0.0], ValueError),
        ([1j, 0.0, 0.0], TypeError),
        (["x", "y", "z"], TypeError),
    ],
)
def test_bad_directions(directions, error):
    with pytest.raises(error, match=r"^directions must"):
        isac.UniformPlanarArray().steering(directions)


# --- scenarios ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("array_shape", (0, 8)),
        ("array_shape", (-2, -8)),
        ("array_shape", 8),
        ("array_shape", (2, 2, 2)),
        ("spacing_wavelengths", 0.0),
        ("azimuth_rad", np.nan),
        ("azimuth_rad", "north"),
        ("elevation_rad", np.inf),
        ("carrier_hz", -1.0),
        ("wavefront", "cylindrical"),
        ("bs_position_m", (0.0, 0.0)),
        ("bs_position_m", (np.nan, 0.0, 0.0)),
        ("n_subcarriers", 1),
        ("n_subcarriers", 2.5),
        ("subcarrier_spacing_hz", 0.0),
        ("modulation", "8psk"),
        ("pilot_pattern", "zigzag"),
        ("n_pilot_symbols", 0),
        ("n_data_symbols", -1),
        ("snr_db", np.nan),
        ("snr_db", "loud"),
        ("snr_db", 1j),
        ("power_control", "maybe"),
        ("n_users", 0),
        ("n_users", 65),
        ("n_users", "many"),
        ("n_users", None),
        ("user_region_m", ((0.0, 0.0, 0.0), (1.0, -1.0, 0.0))),
        ("user_region_m", ((0.0, 0.0, 0.0), (1.0, np.inf, 0.0))),
        ("user_position_std_m", -0.1),
        ("user_position_std_m", np.inf),
        ("time_offset_std_s", -1e-9),
        ("line_of_sight_probability", 1.5),
        ("n_scatterers", -1),
        ("region_m", ((0.0, 0.0, 0.0), (1.0, 1.0, 0.0))),
        ("region_m", ((1.0, 1.0, 1.0), (0.0, 0.0, 0.0))),
        ("region_m", ((0.0, 0.0, 0.0), (1.0, 1.0, np.nan))),
        ("region_m", ((0.0, 0.0), (1.0, 1.0))),
        ("region_m", "everywhere"),
        ("min_separation_m", -1.0),
        ("min_excess_path_m", -1.0),
        ("visibility_probability", np.nan),
        ("visibility_probability", -0.1),
        ("reflection_loss_db", -1.0),
        ("reflection_loss_std_db", -1.0),
        ("burst_size", 0),
        ("burst_radius_m", 0.0),
        ("traced", 5),
        ("colour", "blue"),
    ],
)
def test_bad_scenario_fields(field, value):
    with pytest.raises(ValueError, match=field):
        isac.Scenario(**{field: value})
    with pytest.raises(ValueError, match=field) as caught:
        isac.Scenario().replace(**{field: value})
    assert "pydantic" not in str(caught.value)


def test_too_few_orthogonal_pilots_name_the_alternatives():
    with pytest.raises(ValueError, match=r"n_pilot_symbols.*comb.*random"):
        isac.Scenario(n_users=4, n_pilot_symbols=2)
    for pattern in ("comb", "random"):
        assert isac.Scenario(n_users=4, n_pilot_symbols=2, pilot_pattern=pattern).pilot_symbols == 2
    with pytest.raises(ValueError, match="n_subcarriers"):
        isac.Scenario(n_users=4, n_subcarriers=3, pilot_pattern="comb")


def test_too_few_orthogonal_pilots_for_the_chosen_users():
    scenario = isac.Scenario(n_users=3, n_pilot_symbols=4)
    with pytest.raises(ValueError, match=r"n_pilot_symbols.*comb.*random"):
        scenario.simulate(0, environment=isac.load_traced("munich"), users=[0, 1, 2, 3, 4])


def test_unknown_scenarios_list_the_known_ones():
    with pytest.raises(ValueError, match="rural_uplink") as caught:
        isac.Scenario.load("rural_uplink")
    assert all(name in str(caught.value) for name in isac.scenario_names())


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"n_users = 2\ncolour = 'blue'\n", "unknown key 'colour'; known are .*n_users"),
        (b"n_users = = 2\n", "not valid TOML"),
        (b"description = '\xff\xfe'\n", "not valid TOML"),
        (b"n_users = 'many'\n", "n_users"),
        (b"n_users = 2.5\n", "n_users.*2.5"),
        (b"snr_db = nan\n", "snr_db"),
        (b"snr_db = [1, 2]\n", "snr_db"),
        (b"region_m = [[0, 0, 0], [1, 1]]\n", "region_m"),
        (b"[n_users]\nvalue = 2\n", "n_users"),
    ],
)
def test_bad_scenario_files(tmp_path, content, reason):
    path = tmp_path / "own.toml"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=reason) as caught:
        isac.Scenario.load(path)
    assert str(path) in str(caught.value)


def test_missing_scenario_files_are_named(tmp_path):
    with pytest.raises(ValueError, match=r"no such scenario file: .*nothing\.toml"):
        isac.Scenario.load(tmp_path / "nothing.toml")


@pytest.mark.parametrize(
    ("seed", "error"),
    [
        (-1, ValueError),
        (1.0, TypeError),
        ("0", TypeError),
        (None, TypeError),
        (True, TypeError),
        ([1, 2], TypeError),
        (np.random.default_rng(0), TypeError),
    ],
)
def test_bad_seeds(seed, error):
    with pytest.raises(error, match="seed must be"):
        isac.Scenario().simulate(seed)


@pytest.mark.parametrize("environment", ["munich", 5, {}])
def test_bad_environments(environment):
    with pytest.raises(TypeError, match="environment must be an Environment"):
        isac.Scenario().simulate(0, environment=environment)


def test_bad_users():
    scenario, traced = isac.Scenario(), isac.load_traced("munich")
    with pytest.raises(ValueError, match="users can only be chosen"):
        scenario.simulate(0, users=[0])
    for users in ([], [0, 0, 1], [24], [-1], [0.5, 1, 2], "abc", [[0], [1, 2]]):
        with pytest.raises(ValueError, match="users must be"):
            scenario.simulate(0, environment=traced, users=users)


def test_more_chosen_users_than_antennas():
    with pytest.raises(ValueError, match="more users than antennas"):
        isac.Scenario(array_shape=(2, 1), n_users=2).simulate(
            0, environment=isac.load_traced("munich"), users=[0, 1, 2]
        )


def test_unknown_traced_environments_name_the_shipped_ones():
    with pytest.raises(FileNotFoundError, match=r"atlantis.*munich\.npz"):
        isac.Scenario(traced="atlantis").simulate(0)
