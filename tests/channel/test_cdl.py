"""Clustered delay lines of 3GPP TR 38.901: tables, rays, and the statistics of many drops."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

import isac_toolbox as isac
from isac_toolbox.channel import CDL_MODELS, cdl_channel
from isac_toolbox.channel.array import SPEED_OF_LIGHT_M_S
from isac_toolbox.channel.cdl import cdl_rays
from isac_toolbox.channel.cdl_tables import CLUSTER_TABLES, RAY_OFFSETS

ONE = isac.UniformPlanarArray((1, 1))
SPREAD_S = 100e-9
EAST = np.array([1.0, 0.0, 0.0])


def unit(azimuth: float, zenith: float) -> np.ndarray:
    return np.array([np.sin(zenith) * np.cos(azimuth), np.sin(zenith) * np.sin(azimuth), np.cos(zenith)])


def powers_of(model: str) -> np.ndarray:
    power = 10 ** (CLUSTER_TABLES[model].rows[:, 1] / 10)
    return power / power.sum()


def spread(values: np.ndarray, power: np.ndarray) -> float:
    mean = np.sum(power * values) / power.sum()
    return float(np.sqrt(np.sum(power * (values - mean) ** 2) / power.sum()))


def ray_counts(model: str) -> np.ndarray:
    table = CLUSTER_TABLES[model]
    first = int(table.has_line_of_sight)
    return np.array([1] * first + [20] * (len(table.rows) - first))


# --- tables ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", CDL_MODELS)
def test_the_normalised_delays_have_a_spread_of_one(model):
    """The tables say so of themselves, which a wrong digit among delays or powers breaks."""
    assert spread(CLUSTER_TABLES[model].rows[:, 0], powers_of(model)) == pytest.approx(1, abs=0.007)


@pytest.mark.parametrize(
    ("model", "n_rows", "sum_deg"),
    [
        ("CDL-A", 23, (-16.9, 251.1, 2193.7, 1982.7)),
        ("CDL-B", 23, (-557.8, -143.0, 2478.3, 1575.7)),
        ("CDL-C", 24, (115.4, 876.4, 2382.2, 1647.7)),
        ("CDL-D", 14, (241.5, 249.3, 1294.8, 1122.5)),
        ("CDL-E", 15, (362.2, -710.4, 1504.7, 1236.0)),
    ],
)
def test_the_tables_are_those_printed(model, n_rows, sum_deg):
    """Checksums of the angles, whose sizes nothing else would miss."""
    rows = CLUSTER_TABLES[model].rows
    assert rows.shape == (n_rows, 6)
    assert_allclose(rows[:, 2:].sum(axis=0), sum_deg, atol=1e-9)


@pytest.mark.parametrize(("model", "k_db"), [("CDL-D", 13.3), ("CDL-E", 22.0)])
def test_the_k_factor_of_the_first_cluster(model, k_db):
    """Notes of tables 7.7.1-4 and 7.7.1-5."""
    power = powers_of(model)
    assert 10 * np.log10(power[0] / power[1]) == pytest.approx(k_db)


def test_the_offsets_of_the_rays_have_a_spread_of_one():
    assert RAY_OFFSETS.sum() == 0 and len(set(np.abs(RAY_OFFSETS))) == 10
    assert np.sqrt(np.mean(RAY_OFFSETS**2)) == pytest.approx(1, abs=1e-3)


# --- rays --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", CDL_MODELS)
def test_rays_carry_the_powers_and_delays_of_their_clusters(model):
    rays = cdl_rays(model, np.array([EAST, EAST]), SPREAD_S, np.random.default_rng(0))
    count = ray_counts(model)
    for k in range(2):
        own = rays.user == k
        cluster = np.arange(len(count)).repeat(count)
        assert_allclose(np.bincount(cluster, np.abs(rays.gain[own]) ** 2), powers_of(model))
        assert_allclose(rays.delay_s[own], SPREAD_S * CLUSTER_TABLES[model].rows[:, 0].repeat(count))
    assert_allclose(rays.powers(2), 1)
    assert not np.isclose(rays.gain[rays.user == 0], rays.gain[rays.user == 1]).any()


@pytest.mark.parametrize("model", CDL_MODELS)
def test_rays_have_the_angles_of_the_tables(model):
    """Turned to the line of sight's own angles, or the mean ones, the model is as printed: departures."""
    table, power = CLUSTER_TABLES[model], powers_of(model)
    azimuth, zenith = np.radians(table.rows[:, 2]), np.radians(table.rows[:, 4])
    centre = (azimuth[0], zenith[0])
    if not table.has_line_of_sight:
        centre = tuple(np.angle(np.sum(power * np.exp(1j * angle))) for angle in (azimuth, zenith))
    rays = cdl_rays(model, unit(*centre)[None], SPREAD_S, np.random.default_rng(1))
    count = ray_counts(model)
    first = int(table.has_line_of_sight)
    if first:
        assert_allclose(rays.direction[0], unit(*centre))
    found = rays.direction[first:].reshape(-1, 20, 3)
    assert len(found) == len(count) - first
    found_zenith = np.arccos(found[..., 2])
    turned = np.angle(np.exp(1j * (np.arctan2(found[..., 1], found[..., 0]) - azimuth[first:, None])))
    regular = np.abs(zenith[first:] - np.pi / 2) < np.pi / 2 - np.radians(table.c_zsd_deg) * 2.2
    assert regular.sum() >= 12
    assert_allclose(
        np.sort(turned),
        np.tile(np.radians(table.c_asd_deg) * np.sort(RAY_OFFSETS), (len(found), 1)),
        atol=1e-9,
    )
    offset = found_zenith - zenith[first:, None]
    expected = np.radians(table.c_zsd_deg) * np.sort(RAY_OFFSETS)
    assert_allclose(np.sort(offset)[regular], np.tile(expected, (regular.sum(), 1)), atol=1e-9)
    # coupled at random: neither in step nor alike from cluster to cluster
    assert np.abs(np.corrcoef(turned.ravel(), offset.ravel())[0, 1]) < 0.2
    assert not np.allclose(offset[0], offset[1])


def test_zeniths_beyond_the_poles_come_back():
    rays = cdl_rays("CDL-A", unit(0.3, 2.9)[None], SPREAD_S, np.random.default_rng(0))
    assert_allclose(np.linalg.norm(rays.direction, axis=1), 1)


def test_a_user_does_not_depend_on_how_many_there_are():
    one, three = (
        cdl_rays("CDL-C", np.tile(EAST, (n, 1)), SPREAD_S, np.random.default_rng(5)) for n in (1, 3)
    )
    own = three.user == 0
    assert_array_equal(one.gain, three.gain[own])
    assert_array_equal(one.direction, three.direction[own])


@pytest.mark.parametrize("model", ["CDL-B", "CDL-D"])
def test_the_channel_is_the_sum_over_its_rays(model):
    """Against a loop over rays, elements and subcarriers with the conventions written out."""
    array = isac.UniformPlanarArray((3, 2), (0.5, 0.7), azimuth_rad=0.4, elevation_rad=-0.2)
    frequencies = np.array([-2.0e6, 0.5e6, 3.0e6])
    towards = np.array([unit(0.5, 1.7), unit(-0.2, 1.5)])
    channel = cdl_channel(model, array, frequencies, n_users=2, towards=towards, seed=3)
    rays = cdl_rays(model, towards, 100e-9, np.random.default_rng(3))
    _, horizontal, vertical = array.axes
    expected = np.zeros((2, 3, 6), complex)
    for user, direction, delay_s, gain in zip(rays.user, rays.direction, rays.delay_s, rays.gain):
        for m_h in range(3):
            for m_v in range(2):
                turns = 0.5 * (m_h - 1) * (direction @ horizontal)
                turns += 0.7 * (m_v - 0.5) * (direction @ vertical)
                phase = 2 * np.pi * (turns - frequencies * delay_s)
                expected[user, :, m_h * 2 + m_v] += gain * np.exp(1j * phase)
    assert_allclose(channel, expected, atol=1e-12)


def test_the_boresight_is_where_a_model_is_turned_by_default():
    array = isac.UniformPlanarArray((4, 4), azimuth_rad=1.0, elevation_rad=0.1)
    given = cdl_channel("CDL-E", array, [0.0, 1e6], towards=array.axes[0], seed=2)
    assert_array_equal(given, cdl_channel("CDL-E", array, [0.0, 1e6], seed=2))
    # the line of sight of 9 dB then hits all elements in phase
    assert np.abs(given.mean(axis=2)).min() > 0.7


# --- many drops --------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", CDL_MODELS)
def test_power_delay_profile_of_many_drops(model):
    """Correlation over frequency is the transform of the profile."""
    n_drops = 3000
    frequencies = np.linspace(0, 12e6, 7)
    channel = cdl_channel(model, ONE, frequencies, n_users=n_drops, delay_spread_s=SPREAD_S, seed=1)[..., 0]
    found = channel.T @ channel.conj() / n_drops
    apart = frequencies[:, None] - frequencies
    delays = SPREAD_S * CLUSTER_TABLES[model].rows[:, 0]
    expected = np.exp(-2j * np.pi * apart[..., None] * delays) @ powers_of(model)
    assert np.abs(expected[0, -1]) < 0.98  # the profile shows over the band
    assert_allclose(found, expected, atol=5 / np.sqrt(n_drops))


@pytest.mark.parametrize("model", CDL_MODELS)
def test_fading_of_many_drops_has_the_k_factor(model):
    """``E|h|^4 = 2 - sum of squared ray powers`` under random phases: Rayleigh without a line of sight."""
    n_drops = 6000
    power = np.abs(cdl_channel(model, ONE, [0.0], n_users=n_drops, seed=2).ravel()) ** 2
    count = ray_counts(model)
    expected = 2 - np.sum((powers_of(model) / count) ** 2 * count)
    deviation = np.std(power**2) / np.sqrt(n_drops)
    assert np.mean(power) == pytest.approx(1, abs=5 * np.std(power) / np.sqrt(n_drops))
    assert np.mean(power**2) == pytest.approx(expected, abs=5 * deviation)
    # Rician ratio against the tables: 9 dB for D and E, nothing for the others
    ratio = np.sqrt(max(2 - np.mean(power**2) / np.mean(power) ** 2, 0))
    if CLUSTER_TABLES[model].has_line_of_sight:
        line, rest = powers_of(model)[0], powers_of(model)[1:].sum()
        assert ratio / (1 - ratio) == pytest.approx(line / rest, rel=0.15)
    else:
        assert ratio < 0.4


@pytest.mark.parametrize("model", ["CDL-A", "CDL-B", "CDL-D"])
def test_spatial_covariance_of_many_drops(model):
    """Against the tables: every azimuth offset of a cluster meets every zenith offset equally often."""
    n_drops = 3000
    array = isac.UniformPlanarArray((3, 2))
    table, power = CLUSTER_TABLES[model], powers_of(model)
    azimuth, zenith = np.radians(table.rows[:, 2]), np.radians(table.rows[:, 4])
    first = int(table.has_line_of_sight)
    centre = (azimuth[0], zenith[0])
    if not first:
        centre = tuple(np.angle(np.sum(power * np.exp(1j * angle))) for angle in (azimuth, zenith))
    channel = cdl_channel(model, array, [0.0], n_users=n_drops, towards=unit(*centre), seed=4)[:, 0]
    found = channel.T @ channel.conj() / n_drops
    expected = np.zeros((6, 6), complex)
    if first:
        steering = array.steering(unit(*centre))
        expected += power[0] * np.outer(steering, steering.conj())
    for p, a, z in zip(power[first:], azimuth[first:], zenith[first:]):
        for d_azimuth in np.radians(table.c_asd_deg) * RAY_OFFSETS:
            for d_zenith in np.radians(table.c_zsd_deg) * RAY_OFFSETS:
                steering = array.steering(unit(a + d_azimuth, z + d_zenith))
                expected += p / 400 * np.outer(steering, steering.conj())
    assert_allclose(found, expected, atol=5 / np.sqrt(n_drops))


def test_users_are_independent_drops():
    channel = cdl_channel("CDL-D", ONE, [0.0], n_users=4000, seed=3).reshape(-1, 2)
    assert abs(np.mean(channel[:, 0] * channel[:, 1].conj())) < 5 / np.sqrt(len(channel))


# --- whole blocks ------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", ["CDL-C", "CDL-D"])
def test_a_scenario_draws_blocks(model):
    scenario = isac.Scenario.load("urban_uplink").replace(cdl=model, n_users=2, delay_spread_s=50e-9)
    simulation = scenario.simulate(3)
    truth, observation = simulation.truth, simulation.observation
    sight = CLUSTER_TABLES[model].has_line_of_sight
    assert truth.line_of_sight.tolist() == [sight, sight]
    assert len(truth.scatterer_positions_m) == len(truth.unlocated_paths) == 0
    assert len(truth.rays) == 2 * 20 * (len(CLUSTER_TABLES[model].rows) - sight)
    flight_s = np.linalg.norm(truth.user_positions_m - observation.bs_position_m, axis=1) / SPEED_OF_LIGHT_M_S
    late_s = truth.rays.delay_s - flight_s[truth.rays.user]
    assert late_s.min() == pytest.approx(0, abs=1e-15)
    assert late_s.max() == pytest.approx(50e-9 * CLUSTER_TABLES[model].rows[:, 0].max())
    steering = observation.array.steering_from_cosines(*truth.rays.direction_cosines.T)
    delay_s = truth.rays.delay_s + truth.time_offsets_s[truth.rays.user]
    phase = np.exp(-2j * np.pi * observation.subcarrier_frequencies_hz[:, None] * delay_s)
    for k in range(2):
        own = truth.rays.user == k
        expected = (phase[:, own] * truth.rays.gain[own]) @ steering[own]
        assert_allclose(truth.diffuse_channel[k], expected, atol=1e-12)
    if not sight:
        assert_allclose(truth.channel, truth.diffuse_channel, atol=1e-12)
    assert_allclose(np.mean(np.abs(truth.channel) ** 2, axis=(1, 2)), 1)


def test_a_fixed_drop_keeps_its_rays_and_users_can_be_chosen():
    scenario = isac.Scenario.load("urban_uplink").replace(cdl="CDL-E", n_users=3)
    environment = scenario.simulate(0).truth.environment
    truth = scenario.simulate(7, environment=environment, users=[2, 0]).truth
    assert_array_equal(truth.user_positions_m, environment.user_positions_m[[2, 0]])
    for new, old in ((0, 2), (1, 0)):
        kept = environment.rays.gain[environment.rays.user == old]
        ratio = truth.rays.gain[truth.rays.user == new] / kept
        assert_allclose(ratio, ratio[0])


# --- bad input ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model": "CDL-F"}, "model must be one of"),
        ({"array": (8, 8)}, "array must be a UniformPlanarArray"),
        ({"subcarrier_frequencies_hz": 1e6}, "subcarrier_frequencies_hz must have shape"),
        ({"subcarrier_frequencies_hz": [0.0, np.nan]}, "subcarrier_frequencies_hz must be finite"),
        ({"n_users": 0}, "n_users must be at least 1"),
        ({"n_users": 1.5}, "n_users must be an integer"),
        ({"delay_spread_s": 0.0}, "delay_spread_s must be a positive number"),
        ({"delay_spread_s": 100.0}, "rays.delay_s must be in seconds"),
        ({"towards": [1.0, 1.0, 0.0]}, "towards must hold unit vectors"),
        ({"towards": np.tile(EAST, (3, 1))}, "towards must have shape"),
    ],
)
def test_bad_arguments_are_named(change, message):
    given = {"model": "CDL-A", "array": ONE, "subcarrier_frequencies_hz": [0.0, 1e6]} | change
    with pytest.raises((TypeError, ValueError), match=message):
        cdl_channel(given.pop("model"), given.pop("array"), given.pop("subcarrier_frequencies_hz"), **given)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"user": [0, 3]}, "rays.user must index user_positions_m"),
        ({"user": [0.0, 1.0]}, "rays.user must hold integers"),
        ({"direction": [EAST, 2 * EAST]}, "rays.direction must hold unit vectors"),
        ({"delay_s": [0.0, -1e-9]}, "rays.delay_s must be non-negative"),
        ({"delay_s": [0.0, 100.0]}, "rays.delay_s must be in seconds"),
        ({"gain": [1.0]}, "rays.gain must have shape"),
        ({"gain": [1.0, np.inf]}, "rays.gain must be finite"),
    ],
)
def test_rays_by_hand_are_checked(change, message):
    fields = {"user": [0, 1], "direction": [EAST, EAST], "delay_s": [0.0, 1e-9], "gain": [1.0, 1j]}
    environment = isac.Scenario(n_users=2).simulate(0).truth.environment
    with pytest.raises((TypeError, ValueError), match=message):
        rays = isac.channel.Rays(**(fields | change))
        isac.Environment(**{**vars(environment), "rays": rays})
    with pytest.raises(TypeError, match="rays must be Rays, got dict"):
        isac.Environment(**{**vars(environment), "rays": fields})
