"""Drawn and ray-traced environments."""

from __future__ import annotations

import warnings
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

from helpers import ROOT
from isac_toolbox import ImplausibleValueWarning, Scenario
from isac_toolbox.channel.array import SPEED_OF_LIGHT_M_S
from isac_toolbox.channel.environment import Environment, draw_environment, load_traced
from isac_toolbox.channel.geometry import bistatic_delays_s, line_of_sight_delays_s, unit_vectors

TRACED = ROOT / "isac_toolbox" / "data" / "traced"
seeds = st.integers(0, 2**32 - 1)


def draw(seed: int, **fields) -> Environment:
    return draw_environment(Scenario(**fields), np.random.default_rng(seed))


def pairwise_distances(points: np.ndarray) -> np.ndarray:
    distance = np.linalg.norm(points[:, None] - points[None], axis=2)
    return distance[np.triu_indices(len(points), 1)]


@given(seeds, st.sampled_from([1, 3]))
@settings(max_examples=25, deadline=None)
def test_draws_keep_separation_excess_path_and_region(seed, burst_size):
    scenario = Scenario(n_users=4, n_scatterers=9, burst_size=burst_size, min_separation_m=4.0)
    drawn = draw_environment(scenario, np.random.default_rng(seed))
    users, points = drawn.user_positions_m, drawn.scatterer_positions_m
    assert users.shape == (4, 3) and len(points) <= 9
    assert pairwise_distances(points).min() >= 4.0
    assert pairwise_distances(users).min() >= 4.0
    assert np.linalg.norm(users[:, None] - points[None], axis=2).min() >= 4.0
    direct = line_of_sight_delays_s(users, drawn.bs_position_m)
    excess = bistatic_delays_s(users, points, drawn.bs_position_m) - direct[:, None]
    assert excess.min() * SPEED_OF_LIGHT_M_S >= scenario.min_excess_path_m - 1e-9
    for found, box in ((points, scenario.region_m), (users, scenario.user_region_m)):
        assert np.all(found >= np.array(box)[0]) and np.all(found <= np.array(box)[1])
    assert_array_equal(drawn.region_m, scenario.region_m)


@given(seeds)
@settings(max_examples=25, deadline=None)
def test_bursts_stay_within_their_radius(seed):
    size, radius = 4, 8.0
    drawn = draw(
        seed,
        n_users=1,
        n_scatterers=12,
        burst_size=size,
        burst_radius_m=radius,
        visibility_probability=1.0,
        min_separation_m=0.5,
    )
    bursts = drawn.scatterer_positions_m.reshape(3, size, 3)
    assert np.max(np.abs(bursts - bursts[:, :1])) <= radius


def test_without_bursts_scatterers_spread_over_the_region():
    def mean_gap(burst_size: int) -> float:
        fields = {"n_scatterers": 2, "burst_size": burst_size, "visibility_probability": 1.0}
        gaps = [np.diff(draw(s, **fields).scatterer_positions_m[:, :2], axis=0) for s in range(30)]
        return float(np.abs(gaps).mean())

    assert mean_gap(2) < 8.0 < mean_gap(1)  # of a uniform pair: 20 m along either side


@given(seeds, st.floats(0, 1), st.floats(0, 1))
@settings(max_examples=50, deadline=None)
def test_every_user_has_a_path_and_every_scatterer_a_user(seed, visibility, line_of_sight):
    drawn = draw(seed, n_users=3, visibility_probability=visibility, line_of_sight_probability=line_of_sight)
    assert np.all(drawn.path_counts > 0)
    assert np.all(np.any(drawn.scatterer_gain != 0, axis=0))
    counts = (drawn.line_of_sight_gain != 0) + (drawn.scatterer_gain != 0).sum(axis=1)
    assert_array_equal(drawn.path_counts, counts)


def test_visibility_and_line_of_sight_probabilities():
    everything = draw(0, visibility_probability=1.0, line_of_sight_probability=1.0)
    assert np.all(everything.scatterer_gain != 0) and np.all(everything.line_of_sight_gain != 0)
    nothing = draw(0, visibility_probability=0.0, line_of_sight_probability=1.0)
    assert nothing.scatterer_gain.shape == (3, 0) and len(nothing.scatterer_positions_m) == 0
    assert not draw(0, line_of_sight_probability=0.0).line_of_sight_gain.any()
    seen = [
        np.count_nonzero(draw(s, n_users=4, n_scatterers=8, visibility_probability=0.3).scatterer_gain)
        for s in range(60)
    ]
    assert np.mean(seen) / 32 == pytest.approx(0.3, abs=0.05)  # 4.5 standard deviations


def test_gains_are_free_space_less_the_reflection_loss():
    drawn = draw(1, visibility_probability=1.0, reflection_loss_db=6.0, reflection_loss_std_db=0.0)
    length = (
        bistatic_delays_s(drawn.user_positions_m, drawn.scatterer_positions_m, drawn.bs_position_m)
        * SPEED_OF_LIGHT_M_S
    )
    assert_allclose(np.abs(drawn.scatterer_gain) * length, 10 ** (-6 / 20))
    direct = line_of_sight_delays_s(drawn.user_positions_m, drawn.bs_position_m) * SPEED_OF_LIGHT_M_S
    assert_allclose(np.abs(drawn.line_of_sight_gain) * direct, 1)


def test_losses_never_amplify():
    drawn = draw(2, visibility_probability=1.0, reflection_loss_db=0.0, reflection_loss_std_db=10.0)
    length = (
        bistatic_delays_s(drawn.user_positions_m, drawn.scatterer_positions_m, drawn.bs_position_m)
        * SPEED_OF_LIGHT_M_S
    )
    assert np.max(np.abs(drawn.scatterer_gain) * length) == pytest.approx(1)
    assert np.min(np.abs(drawn.scatterer_gain) * length) < 0.9


@pytest.mark.parametrize(
    ("fields", "names"),
    [
        ({"n_scatterers": 500}, "region_m"),
        ({"min_excess_path_m": 1e4}, "region_m.*excess path"),
        ({"burst_size": 4, "burst_radius_m": 1.0}, "burst_radius_m"),
        ({"n_users": 30, "user_region_m": ((40, 0, 1), (45, 5, 1))}, "user_region_m"),
        ({"n_scatterers": 0, "line_of_sight_probability": 0.5}, "line_of_sight_probability"),
        ({"n_users": 1, "user_region_m": ((0, 0, 20), (0, 0, 20))}, "user_region_m"),
    ],
)
def test_impossible_draws_are_refused(fields, names):
    with pytest.raises(ValueError, match=names):
        draw(0, **fields)


@pytest.mark.parametrize("name", ["munich", "street_canyon"])
class TestTraced:
    def test_single_bounce_delays_equal_the_geometry(self, name):
        environment = load_traced(name)
        raw = np.load(TRACED / f"{name}.npz")
        single = raw["path_depth"] == 1
        assert single.any()
        delays = bistatic_delays_s(
            environment.user_positions_m, raw["path_first_bounce_m"][single], environment.bs_position_m
        )
        traced = raw["path_delay_s"][single]
        user = raw["path_ue"][single]
        assert np.max(np.abs(delays[user, np.arange(user.size)] - traced)) < 1e-11
        direct = raw["path_depth"] == 0
        los = line_of_sight_delays_s(environment.user_positions_m, environment.bs_position_m)
        assert direct.any()
        assert np.max(np.abs(los[raw["path_ue"][direct]] - raw["path_delay_s"][direct])) < 1e-11

    def test_every_traced_path_is_kept(self, name):
        environment = load_traced(name)
        raw = np.load(TRACED / f"{name}.npz")
        depth, user, gain = raw["path_depth"], raw["path_ue"], raw["path_gain"]
        expected = np.bincount(user[depth == 0], minlength=len(raw["ue_position_m"])) > 0
        assert_array_equal(environment.line_of_sight_gain != 0, expected)
        for k in range(environment.n_users):
            own = (user == k) & (depth == 1)
            assert environment.scatterer_gain[k].sum() == pytest.approx(gain[own].sum(), rel=1e-12)
            positions = environment.scatterer_positions_m[environment.scatterer_gain[k] != 0]
            for bounce in raw["path_first_bounce_m"][own]:
                assert np.min(np.linalg.norm(positions - bounce, axis=1)) < 1e-3
        assert_array_equal(environment.extra_user, user[depth > 1])
        assert_array_equal(environment.extra_gain, gain[depth > 1])
        assert_array_equal(environment.extra_delay_s, raw["path_delay_s"][depth > 1])
        towards, _ = unit_vectors(raw["bs_position_m"], raw["path_first_bounce_m"][depth > 1])
        assert_allclose(environment.extra_direction, towards)
        assert_array_equal(
            environment.path_counts,
            np.bincount(user[depth != 1], minlength=environment.n_users)
            + np.count_nonzero(environment.scatterer_gain, axis=1),
        )

    def test_points_are_distinct_and_in_the_region(self, name):
        environment = load_traced(name, margin_m=2.0)
        points, users = environment.scatterer_positions_m, environment.user_positions_m
        assert pairwise_distances(points).min() >= 1e-3
        box = np.vstack([points, users])
        assert_allclose(environment.region_m, [box.min(axis=0) - 2, box.max(axis=0) + 2])

    def test_selecting_users_drops_what_they_do_not_see(self, name):
        environment = load_traced(name)
        users = [5, 0, 9]
        chosen = environment.select_users(users)
        seen = np.any(environment.scatterer_gain[users] != 0, axis=0)
        assert not seen.all() and seen.any()
        assert_array_equal(chosen.scatterer_positions_m, environment.scatterer_positions_m[seen])
        assert_array_equal(chosen.scatterer_gain, environment.scatterer_gain[users][:, seen])
        assert_array_equal(chosen.user_positions_m, environment.user_positions_m[users])
        assert_array_equal(chosen.line_of_sight_gain, environment.line_of_sight_gain[users])
        assert_array_equal(chosen.path_counts, environment.path_counts[users])
        for new, old in enumerate(users):
            assert_array_equal(
                chosen.extra_delay_s[chosen.extra_user == new],
                environment.extra_delay_s[environment.extra_user == old],
            )

    def test_name_with_and_without_suffix(self, name):
        assert load_traced(name).name == load_traced(f"{name}.npz").name == name
        assert load_traced(TRACED / f"{name}.npz").name == name


def test_users_without_paths_are_refused():
    environment = load_traced("munich")
    environment.line_of_sight_gain[3] = 0
    environment.scatterer_gain[3] = 0
    environment.extra_user[environment.extra_user == 3] = 4
    with pytest.raises(ValueError, match=r"users: user\(s\) \[3\] have no path"):
        environment.select_users([0, 3])
    scenario = Scenario(n_users=23, n_scatterers=0)
    drawn = scenario.simulate(0, environment=environment)  # exactly the 23 others
    assert_array_equal(drawn.truth.user_positions_m, np.delete(environment.user_positions_m, 3, axis=0))
    with pytest.raises(ValueError, match="n_users is 24"):
        scenario.replace(n_users=24).simulate(0, environment=environment)


@pytest.mark.parametrize(
    "users",
    [[], [0, 0], [24], [-1], [0.5], "abc", [[0, 1]], [[0], [1, 2]], [True, False], 5, ["a"], [None]],
)
def test_bad_choices_of_users_are_refused(users):
    with pytest.raises(ValueError, match="users must be"):
        load_traced("munich").select_users(users)


def traced_arrays() -> dict[str, np.ndarray]:
    with np.load(TRACED / "street_canyon.npz") as file:
        return {key: file[key] for key in file.files}


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("path_gain", lambda v: v[:-1]),
        ("path_delay_s", lambda v: v[:-1]),
        ("path_depth", lambda v: v[:-1]),
        ("path_first_bounce_m", lambda v: v[:-1]),
        ("path_first_bounce_m", lambda v: v[:, :2]),
        ("path_first_bounce_m", lambda v: np.full_like(v, np.nan)),
        ("ue_position_m", lambda v: v[:, :2]),
        ("ue_position_m", lambda v: np.full_like(v, np.inf)),
        ("bs_position_m", lambda v: v[:2]),
        ("bs_position_m", lambda v: v * 1j),
        ("path_gain", lambda v: np.where(np.arange(v.size) == 3, np.nan, v)),
        ("path_delay_s", lambda v: np.where(np.arange(v.size) == 3, np.inf, v)),
        ("path_delay_s", lambda v: v.astype(str)),
        ("path_ue", lambda v: v + 100),
        ("path_ue", lambda v: v - 1),
    ],
)
def test_inconsistent_traced_files_are_refused(tmp_path, key, value):
    arrays = traced_arrays()
    arrays[key] = value(arrays[key])
    np.savez(tmp_path / "bad.npz", **arrays)
    with pytest.raises((ValueError, TypeError), match=key):
        load_traced(tmp_path / "bad.npz")


@pytest.mark.parametrize("key", ["bs_position_m", "ue_position_m", "path_ue", "path_depth", "path_gain"])
def test_traced_files_with_missing_keys_name_them(tmp_path, key):
    arrays = traced_arrays()
    del arrays[key]
    np.savez(tmp_path / "bad.npz", **arrays)
    with pytest.raises(ValueError, match=key):
        load_traced(tmp_path / "bad.npz")


@pytest.mark.parametrize("path", ["nowhere", "nowhere.npz", "/no/such/folder/munich.npz", ""])
def test_unknown_traced_environments_name_the_shipped_ones(path):
    with pytest.raises(FileNotFoundError, match=r"munich\.npz, street_canyon\.npz"):
        load_traced(path)


def test_a_folder_of_the_same_name_does_not_hide_a_shipped_environment(tmp_path, monkeypatch):
    (tmp_path / "munich").mkdir()
    monkeypatch.chdir(tmp_path)
    assert load_traced("munich").n_users == 24


def changed(key: str, value) -> dict[str, np.ndarray]:
    arrays = traced_arrays()
    arrays[key] = value(arrays[key])
    return arrays


def twice_in_sight(depth: np.ndarray) -> np.ndarray:
    """The first single bounce of a user called a second line of sight."""
    return np.where(np.arange(depth.size) == np.flatnonzero(depth == 1)[0], 0, depth)


@pytest.mark.parametrize(
    ("key", "value", "error", "reason"),
    [
        ("path_depth", twice_in_sight, ValueError, "one line of sight .* got 2 of user"),
        ("path_depth", lambda v: v - 1, ValueError, "path_depth must be non-negative"),
        ("path_depth", lambda v: v.astype(float), TypeError, "path_depth must hold integers"),
        ("path_ue", lambda v: v.astype(float), TypeError, "path_ue must hold integers, got dtype float64"),
        ("path_ue", lambda v: v > 0, TypeError, "path_ue must hold integers, got dtype bool"),
        ("path_ue", lambda v: v.astype(str), TypeError, "path_ue must hold integers"),
        ("path_delay_s", lambda v: -v, ValueError, "path_delay_s must be non-negative"),
        ("path_delay_s", lambda v: v * 1e9, ValueError, "must hold seconds .* of flight"),
        ("path_delay_s", lambda v: v * 1e6, ValueError, "must hold seconds .* of flight"),
        ("path_delay_s", lambda v: v * 1e3, ValueError, "must hold seconds .* of flight"),
        ("ue_position_m", lambda v: v[:0], ValueError, "at least one user"),
    ],
)
def test_traced_files_in_other_units_or_with_doubled_paths_are_refused(tmp_path, key, value, error, reason):
    arrays = changed(key, value)
    if key == "ue_position_m":
        arrays |= {name: arrays[name][:0] for name in arrays if name.startswith("path_")}
    np.savez(tmp_path / "bad.npz", **arrays)
    with pytest.raises(error, match=f"bad: .*{reason}"):
        load_traced(tmp_path / "bad.npz")


def test_a_traced_scene_in_kilometres_is_refused(tmp_path):
    arrays = traced_arrays()
    for key in ("bs_position_m", "ue_position_m", "path_first_bounce_m"):
        arrays[key] = arrays[key] / 1e3
    np.savez(tmp_path / "bad.npz", **arrays)
    with pytest.raises(ValueError, match="positions are in metres"):
        load_traced(tmp_path / "bad.npz")


def test_traced_delays_relative_to_the_first_path_are_said(tmp_path):
    arrays = traced_arrays()
    first = np.full(len(arrays["ue_position_m"]), np.inf)
    np.minimum.at(first, arrays["path_ue"], arrays["path_delay_s"])
    arrays["path_delay_s"] -= first[arrays["path_ue"]]
    np.savez(tmp_path / "excess.npz", **arrays)
    with pytest.warns(ImplausibleValueWarning, match="not relative to a first path"):
        load_traced(tmp_path / "excess.npz")


@pytest.mark.parametrize("name", ["munich", "street_canyon"])
def test_shipped_environments_give_no_warning(name):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load_traced(name)


@pytest.mark.parametrize("depth", [0, 1, 2])
def test_paths_of_zero_gain_pad_and_are_left_out(tmp_path, depth):
    """As ray tracers pad users with fewer paths: no gain, a delay of -1, no points."""
    arrays = traced_arrays()
    padding = {"path_ue": 3, "path_depth": depth, "path_gain": 0, "path_delay_s": -1.0}
    padded = {key: np.append(arrays[key], value) for key, value in padding.items()}
    bounces = np.vstack([arrays["path_first_bounce_m"], [[np.nan] * 3]])
    np.savez(tmp_path / "padded.npz", **{**arrays, **padded, "path_first_bounce_m": bounces})
    found, expected = load_traced(tmp_path / "padded.npz"), load_traced("street_canyon")
    for field in ("line_of_sight_gain", "scatterer_gain", "extra_user", "extra_delay_s", "region_m"):
        assert_array_equal(getattr(found, field), getattr(expected, field))


def test_a_user_with_padding_alone_has_no_path(tmp_path):
    arrays = traced_arrays()
    arrays["path_gain"] = np.where(arrays["path_ue"] == 3, 0, arrays["path_gain"])
    np.savez(tmp_path / "padded.npz", **arrays)
    environment = load_traced(tmp_path / "padded.npz")
    assert environment.path_counts[3] == 0
    with pytest.raises(ValueError, match=r"user\(s\) \[3\] have no path to the base station"):
        Scenario(n_users=1).simulate(0, environment=environment, users=[3])
    assert Scenario(n_users=23).simulate(0, environment=environment).truth.channel.all()


@pytest.mark.parametrize("margin_m", [-1.0, np.nan, "wide", [1.0, 2.0]])
def test_bad_margins_are_refused(margin_m):
    with pytest.raises((ValueError, TypeError), match="margin_m must"):
        load_traced("munich", margin_m=margin_m)


@pytest.mark.parametrize(
    ("field", "change", "error", "reason"),
    [
        ("extra_direction", lambda v: 2 * v, ValueError, "unit vectors, got one of length 2"),
        ("extra_direction", lambda v: 0 * v, ValueError, "unit vectors, got one of length 0"),
        ("extra_direction", lambda v: v[:, :2], ValueError, "shape"),
        ("extra_delay_s", lambda v: -v, ValueError, "non-negative"),
        ("extra_delay_s", lambda v: 1e9 * v, ValueError, "in seconds, .* farther than the moon"),
        ("extra_delay_s", lambda v: v[:-1], ValueError, "shape"),
        ("extra_delay_s", lambda v: np.full_like(v, np.nan), ValueError, "finite"),
        ("extra_user", lambda v: v.astype(float), TypeError, "integers, got dtype float64"),
        ("extra_user", lambda v: v > 0, TypeError, "integers, got dtype bool"),
        ("extra_user", lambda v: v + 24, ValueError, r"index user_positions_m \(0..23\)"),
        ("extra_user", lambda v: v - 1, ValueError, "index user_positions_m"),
        ("extra_gain", lambda v: v * np.nan, ValueError, "finite"),
        ("extra_gain", lambda v: v.astype(str), TypeError, "numeric"),
        ("scatterer_gain", lambda v: v.T, ValueError, r"shape \(K, S\)"),
        ("line_of_sight_gain", lambda v: v[:-1], ValueError, r"shape \(K,\)"),
        ("user_positions_m", lambda v: v[:, :2], ValueError, r"shape \(K, 3\)"),
        ("user_positions_m", lambda v: v[:0], ValueError, "at least one user|shape"),
        ("bs_position_m", lambda v: v * 1j, TypeError, "real"),
        ("region_m", lambda v: v[::-1], ValueError, "second corner beyond the first"),
    ],
)
def test_environments_filled_by_hand_are_checked_like_loaded_ones(field, change, error, reason):
    environment = load_traced("street_canyon")
    with pytest.raises(error, match=f"^{field} .*({reason})"):
        replace(environment, **{field: change(getattr(environment, field))})


@pytest.mark.parametrize(
    ("field", "change", "reason"),
    [
        ("extra_delay_s", lambda v: v - v.min(), "shorter than the straight line"),
        ("extra_delay_s", lambda v: v * 1e4, "in a scene of"),
        ("user_positions_m", lambda v: v * 1e3, "shorter than the straight line"),
    ],
)
def test_delays_that_do_not_fit_the_scene_are_said(field, change, reason):
    environment = load_traced("munich")
    with pytest.warns(ImplausibleValueWarning, match=f"extra_delay_s.*{reason}"):
        replace(environment, **{field: change(getattr(environment, field))})


def test_lists_make_an_environment():
    further, region = ([], np.zeros((0, 3)), [], []), [[0] * 3, [60] * 3]
    environment = Environment([0, 0, 10], [[50, 0, 2]], [[30, 10, 2]], [1], [[0.5j]], *further, region)
    truth = Scenario(n_users=1).simulate(0, environment=environment).truth
    assert truth.scatterer_gain[0, 0] / truth.line_of_sight_gain[0] == pytest.approx(0.5j)


def test_arrays_changed_in_place_are_checked_when_used():
    environment = load_traced("munich")
    environment.extra_direction[...] *= 2
    with pytest.raises(ValueError, match="extra_direction must hold unit vectors"):
        Scenario(n_users=2).simulate(0, environment=environment)


@pytest.mark.parametrize("gain", [1e-170, 1e160])
def test_gains_without_power_are_named(gain):
    environment = load_traced("munich")
    names = ("line_of_sight_gain", "scatterer_gain", "extra_gain")
    environment = replace(environment, **{name: getattr(environment, name) * gain for name in names})
    with pytest.raises(ValueError, match=r"gains of user\(s\) \[0, 1\] must give a channel with power"):
        Scenario(n_users=2).simulate(0, environment=environment)


@pytest.mark.parametrize("path", ["nowhere.npz", "traced/nowhere.npz"])
def test_a_missing_traced_file_is_said_where_it_was_sought(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError, match=f"sought as {tmp_path / path}"):
        load_traced(path)
