"""Bodies, clusters and diffuse tails: powers, spreads, and what a scenario makes of them."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

import isac_toolbox as isac
from isac_toolbox.channel.array import SPEED_OF_LIGHT_M_S
from isac_toolbox.channel.clutter import (
    draw_clusters,
    draw_diffuse,
    first_delays_s,
    path_powers,
    spread_scatterers,
)
from isac_toolbox.channel.model import multi_user_channel

SMALL = isac.Scenario(array_shape=(3, 2), n_subcarriers=16, n_users=2, n_scatterers=4, n_pilot_symbols=3)
NEW = {
    "bodies": {"rays_per_scatterer": 10, "scatterer_extent_m": 1.0},
    "clusters": {"n_clusters": 5},
    "diffuse": {"diffuse_power_db": -10.0},
    "all": {
        "rays_per_scatterer": 10,
        "scatterer_extent_m": 1.0,
        "n_clusters": 5,
        "diffuse_power_db": -10.0,
    },
}


def scene(seed: int = 0, **fields) -> isac.Environment:
    return SMALL.replace(**fields).simulate(seed).truth.environment


# --- bodies ------------------------------------------------------------------------------------------


def test_the_rays_of_a_body_fill_a_ball_and_share_its_power():
    given = scene(n_users=3)
    body = spread_scatterers(given, 500, 2.0, np.random.default_rng(0))
    places = body.scatterer_positions_m.reshape(-1, 500, 3) - given.scatterer_positions_m[:, None]
    radius = np.linalg.norm(places, axis=2)
    assert radius.max() <= 2.0
    # uniform in a ball: mean radius 3/4, and no direction preferred
    assert np.mean(radius) == pytest.approx(1.5, abs=0.05)
    assert_allclose(places.mean(axis=(0, 1)), 0, atol=0.15)
    assert_allclose(np.var(places, axis=(0, 1)), 2.0**2 / 5, rtol=0.15)
    gain = body.scatterer_gain.reshape(3, -1, 500)
    assert_allclose(np.abs(gain), np.abs(given.scatterer_gain)[..., None] / np.sqrt(500) * np.ones(500))
    assert_allclose(path_powers(body), path_powers(given))


def test_a_body_of_no_extent_is_a_point():
    simulation = SMALL.replace(rays_per_scatterer=7, scatterer_extent_m=1e-9).simulate(1)
    truth = simulation.truth
    assert np.abs(truth.diffuse_channel).max() < 1e-6
    assert_array_equal(truth.scatterer_positions_m, truth.environment.scatterer_positions_m)
    assert_array_equal(truth.visibility, truth.environment.scatterer_gain != 0)


# --- clusters ----------------------------------------------------------------------------------------


def test_clusters_have_power_delay_and_azimuth_spread():
    given = scene(n_users=2)
    n_clusters, spread_s, spread_rad = 4000, 200e-9, 0.3
    rays = draw_clusters(given, n_clusters, -7.0, spread_s, spread_rad, np.random.default_rng(0))
    assert_allclose(rays.powers(2), path_powers(given) * 10**-0.7)
    towards = given.user_positions_m - given.bs_position_m
    length_m = np.linalg.norm(towards, axis=1)
    for k in range(2):
        own = rays.user == k
        late_s = rays.delay_s[own] - length_m[k] / SPEED_OF_LIGHT_M_S
        power = np.abs(rays.gain[own]) ** 2
        assert late_s.min() == pytest.approx(0, abs=1e-15)
        # exponential delays of mean r DS and powers that fall with (r - 1) / (r DS): an RMS spread of DS
        mean = np.sum(power * late_s) / power.sum()
        rms = np.sqrt(np.sum(power * (late_s - mean) ** 2) / power.sum())
        assert rms == pytest.approx(spread_s, rel=0.1)
        user_azimuth = np.arctan2(towards[k, 1], towards[k, 0])
        direction = rays.direction[own].reshape(n_clusters, 20, 3)
        azimuth = np.angle(np.exp(1j * (np.arctan2(direction[..., 1], direction[..., 0]) - user_azimuth)))
        assert np.std(azimuth.mean(axis=1)) == pytest.approx(spread_rad, rel=0.1)
        assert_allclose(np.std(azimuth, axis=1), np.radians(10), rtol=1e-3)
        zenith = np.arccos(direction[..., 2])
        assert_allclose(np.std(zenith, axis=1), np.radians(0.375), rtol=1e-3)


def test_a_user_keeps_its_clusters_when_others_join():
    given = scene(n_users=3)
    alone = draw_clusters(given.select_users([0]), 4, 0.0, 1e-7, 0.3, np.random.default_rng(1))
    among = draw_clusters(given, 4, 0.0, 1e-7, 0.3, np.random.default_rng(1))
    assert_allclose(alone.gain, among.gain[among.user == 0])


# --- diffuse tail ------------------------------------------------------------------------------------


def test_a_tail_is_exponential_in_delay_and_white_over_the_array():
    n_elements, decay_s, start_s = 20_000, 120e-9, 300e-9
    frequencies = (np.arange(12) - 5.5) * 0.8e6
    rng = np.random.default_rng(0)
    tails = draw_diffuse(
        np.array([1.0, 0.25]), np.array([start_s, 0.0]), decay_s, frequencies, n_elements, rng
    )
    assert tails.shape == (2, 12, n_elements)
    apart = frequencies[:, None] - frequencies
    for tail, power, start in zip(tails, (1.0, 0.25), (start_s, 0.0)):
        # against the sum over a fine profile
        late = (np.arange(20_000) + 0.5) * 1e-10
        profile = np.exp(-late / decay_s)
        steps = np.exp(-2j * np.pi * np.outer(frequencies - frequencies[0], start + late))
        column = steps @ profile / profile.sum()
        expected = power * np.where(apart >= 0, column[np.abs(np.rint(apart / 0.8e6)).astype(int)], 0)
        expected = np.tril(expected) + np.tril(expected, -1).conj().T
        found = tail @ tail.conj().T / n_elements
        assert_allclose(found, expected, atol=5 * power / np.sqrt(n_elements))
        over_array = np.mean(tail[:, :-1] * tail[:, 1:].conj())
        assert abs(over_array) < 5 * power / np.sqrt(tail.size)
    assert abs(np.mean(tails[0] * tails[1].conj())) < 5 * 0.5 / np.sqrt(tails[0].size)


@pytest.mark.parametrize("power_db", [-20.0, -3.0, 6.0])
def test_the_power_of_a_tail_is_relative_to_the_paths(power_db):
    ratio = []
    for seed in range(30):
        truth = SMALL.replace(diffuse_power_db=power_db, diffuse_decay_s=1e-6).simulate(seed).truth
        gains = np.abs(truth.line_of_sight_gain) ** 2 + np.sum(np.abs(truth.scatterer_gain) ** 2, axis=1)
        ratio.append(np.mean(np.abs(truth.diffuse_channel) ** 2, axis=(1, 2)) / gains)
    assert 10 * np.log10(np.mean(ratio)) == pytest.approx(power_db, abs=0.4)


def test_a_tail_starts_with_the_users_first_path():
    given = scene(line_of_sight_probability=0.0)
    users, points = given.user_positions_m, given.scatterer_positions_m
    lengths = np.linalg.norm(users[:, None] - points, axis=2) + np.linalg.norm(
        points - given.bs_position_m, axis=1
    )
    seen = given.scatterer_gain != 0
    expected = [lengths[k][seen[k]].min() / SPEED_OF_LIGHT_M_S for k in range(2)]
    assert_allclose(first_delays_s(given), expected)
    direct = scene()
    flight = np.linalg.norm(direct.user_positions_m - direct.bs_position_m, axis=1)
    assert_allclose(first_delays_s(direct), flight / SPEED_OF_LIGHT_M_S)


# --- in a scenario -----------------------------------------------------------------------------------


@pytest.mark.parametrize("which", NEW)
@pytest.mark.parametrize("power_control", [True, False])
def test_listed_paths_and_the_diffuse_channel_make_up_the_channel(which, power_control):
    scenario = SMALL.replace(power_control=power_control, line_of_sight_probability=0.5, **NEW[which])
    simulation = scenario.simulate(4)
    truth, observation = simulation.truth, simulation.observation
    listed = isac.Environment(
        **{
            **vars(truth.environment),
            "line_of_sight_gain": truth.line_of_sight_gain,
            "scatterer_gain": truth.scatterer_gain,
        }
    )
    channel = multi_user_channel(
        listed, observation.array, observation.subcarrier_frequencies_hz, truth.time_offsets_s
    )
    assert_allclose(channel + truth.diffuse_channel, truth.channel, atol=1e-12)
    assert np.mean(np.abs(truth.diffuse_channel) ** 2) > 1e-4
    assert np.mean(np.abs(truth.channel) ** 2) == pytest.approx(1)
    noise = observation.received - np.einsum("knm,knt->nmt", truth.channel, truth.symbols)
    assert np.mean(np.abs(noise) ** 2) == pytest.approx(truth.noise_variance, rel=0.2)
    assert len(truth.rays) == (200 if which in ("clusters", "all") else 0)


@pytest.mark.parametrize("which", NEW)
def test_the_new_parts_draw_from_streams_of_their_own(which):
    """Scene, symbols, clocks and noise stay as they are, to the bit."""
    plain, changed = SMALL.simulate(5), SMALL.replace(**NEW[which]).simulate(5)
    for name in ("scatterer_positions_m", "user_positions_m", "visibility", "time_offsets_s", "symbols"):
        assert_array_equal(getattr(plain.truth, name), getattr(changed.truth, name))
    assert_array_equal(plain.observation.user_positions_m, changed.observation.user_positions_m)
    noise = [
        (s.observation.received - np.einsum("knm,knt->nmt", s.truth.channel, s.truth.symbols))
        / np.sqrt(s.truth.noise_variance)
        for s in (plain, changed)
    ]
    assert_allclose(noise[0], noise[1], atol=1e-12)
    assert plain.truth.diffuse_channel is None and len(plain.truth.rays) == 0
    assert not np.array_equal(plain.truth.channel, changed.truth.channel)


def test_parts_do_not_move_each_other():
    clusters, everything = (SMALL.replace(**NEW[name]).simulate(6).truth for name in ("clusters", "all"))
    assert_array_equal(clusters.rays.delay_s, everything.rays.delay_s)
    assert_array_equal(clusters.rays.direction_cosines, everything.rays.direction_cosines)


def test_blocks_of_earlier_scenarios_are_those_of_earlier():
    """Drawn before these parts existed."""
    block = isac.Scenario.load("urban_uplink").simulate(3)
    assert_allclose(block.truth.user_positions_m[0], [61.65478597053578, -7.279298843830841, 1.5], rtol=1e-14)
    assert block.truth.time_offsets_s[0] == pytest.approx(-1.811501565398957e-09, rel=1e-14)
    assert block.truth.symbol_indices[0, 0, -4:].tolist() == [3, 2, 2, 3]
    received = block.observation.received
    assert received[0, 0, 0] == pytest.approx(0.5869151793024542 - 1.91661805214802j, rel=1e-9)
    assert received[-1, -1, -1] == pytest.approx(-1.2222558290434402 + 0.5930130095827398j, rel=1e-9)
    echo = isac.Scenario.load("monostatic_echo").simulate(3).observation.received
    assert echo[0, 0, 0] == pytest.approx(-0.34458570068002947 - 1.198776559346571j, rel=1e-9)
    munich = isac.Scenario.load("traced_munich").simulate(3).observation.received
    assert munich[0, 0, 0] == pytest.approx(1.9951636063323455 + 0.10511440215559237j, rel=1e-9)


@pytest.mark.parametrize("name", ["umi_like", "diffuse_uplink", "extended_scatterers"])
def test_the_ready_scenarios_have_what_they_say(name):
    truth = isac.Scenario.load(name).simulate(0).truth
    share = np.mean(np.abs(truth.diffuse_channel) ** 2)
    assert 1e-3 < share < 0.5
    assert truth.visibility.any()
    assert len(truth.rays) == (4 * 12 * 20 if name == "umi_like" else 0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rays_per_scatterer": 0}, "rays_per_scatterer"),
        ({"rays_per_scatterer": 5}, "need each other, got 5 and 0.0"),
        ({"scatterer_extent_m": 0.5}, "need each other, got 1 and 0.5"),
        ({"rays_per_scatterer": 5, "scatterer_extent_m": -1.0}, "scatterer_extent_m"),
        ({"rays_per_scatterer": True}, "rays_per_scatterer: must not be true or false"),
        ({"cdl": "CDL-F"}, "cdl"),
        ({"cdl": "CDL-A", "traced": "munich"}, "cdl and traced exclude each other"),
        (
            {"cdl": "CDL-A", "rays_per_scatterer": 5, "scatterer_extent_m": 1.0},
            "rays_per_scatterer must be 1",
        ),
        ({"cdl": "CDL-A", "link": "monostatic", "n_users": 1}, "monostatic"),
        ({"n_clusters": 3, "link": "monostatic", "n_users": 1}, "monostatic"),
        ({"delay_spread_s": 0.0}, "delay_spread_s"),
        ({"n_clusters": -1}, "n_clusters"),
        ({"n_clusters": 2.5}, "n_clusters"),
        ({"cluster_power_db": np.inf}, "cluster_power_db"),
        ({"cluster_azimuth_spread_rad": -0.1}, "cluster_azimuth_spread_rad"),
        ({"diffuse_power_db": 300.0}, "diffuse_power_db"),
        ({"diffuse_power_db": np.nan}, "diffuse_power_db"),
        ({"diffuse_decay_s": 0.0}, "diffuse_decay_s"),
    ],
)
def test_bad_fields_are_named(changes, message):
    with pytest.raises(ValueError, match=message):
        SMALL.replace(**changes)
