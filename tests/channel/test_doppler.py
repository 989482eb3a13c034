"""Doppler shifts against lengths that are moved, and what turns whole users."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from numpy.testing import assert_allclose

import isac_toolbox as isac
from isac_toolbox.channel.array import SPEED_OF_LIGHT_M_S
from isac_toolbox.channel.cdl import cdl_dopplers, cdl_environment
from isac_toolbox.channel.doppler import fill_dopplers, interference_power, path_dopplers
from isac_toolbox.channel.movement import draw_turning, draw_velocities

CARRIER_HZ = 3.5e9
SCENE = isac.Scenario(n_users=3, n_scatterers=4, symbol_period_s=36e-6, user_speed_m_s=(3, 30))


def moving_scene(seed: int = 0) -> isac.channel.Environment:
    rng = np.random.default_rng(seed)
    still = isac.channel.draw_environment(SCENE, rng)
    shape = still.scatterer_positions_m.shape
    return replace(
        still,
        user_velocities_m_s=rng.normal(0, 10, (3, 3)),
        scatterer_velocities_m_s=rng.normal(0, 5, shape),
    )


def lengths(scene: isac.channel.Environment, time_s: float) -> tuple[np.ndarray, np.ndarray]:
    """Lengths of lines of sight (K,) and bounces (K, S), after everybody has moved on."""
    users = scene.user_positions_m + time_s * scene.user_velocities_m_s
    points = scene.scatterer_positions_m + time_s * scene.scatterer_velocities_m_s
    sight = np.linalg.norm(users - scene.bs_position_m, axis=1)
    to_point = np.linalg.norm(users[:, None] - points, axis=2)
    return sight, to_point + np.linalg.norm(points - scene.bs_position_m, axis=1)


def test_shifts_are_those_of_lengths_that_change():
    scene = moving_scene()
    found = path_dopplers(scene, CARRIER_HZ)
    step_s = 1e-4
    for own, before, after in zip(found, lengths(scene, -step_s), lengths(scene, step_s)):
        expected = -CARRIER_HZ / SPEED_OF_LIGHT_M_S * (after - before) / (2 * step_s)
        assert_allclose(own, expected, rtol=1e-6, atol=1e-6)


def test_constant_shifts_leave_out_next_to_nothing_over_a_slot():
    """Theory, section 1.7: what path lengths bend within a quarter of a millisecond, as a phase."""
    scene = moving_scene()
    half_s = 0.25e-3
    for ahead, now, back in zip(lengths(scene, half_s), lengths(scene, 0.0), lengths(scene, -half_s)):
        bend_m = (ahead + back - 2 * now) / 2
        assert np.max(np.abs(2 * np.pi * CARRIER_HZ / SPEED_OF_LIGHT_M_S * bend_m)) < 1e-3


def test_who_comes_closer_has_a_positive_shift():
    scene = moving_scene()
    towards = scene.bs_position_m - scene.user_positions_m
    coming = replace(scene, user_velocities_m_s=towards, scatterer_velocities_m_s=None, extra_doppler_hz=None)
    expected = CARRIER_HZ / SPEED_OF_LIGHT_M_S * np.linalg.norm(towards, axis=1)
    assert_allclose(path_dopplers(coming, CARRIER_HZ).line_of_sight, expected)


def test_shifts_of_unplaced_paths_are_kept_where_known_and_drawn_elsewhere():
    scene = replace(
        moving_scene(),
        extra_user=np.array([0, 2, 2]),
        extra_direction=np.eye(3),
        extra_delay_s=np.full(3, 1e-6),
        extra_gain=np.ones(3),
        extra_doppler_hz=np.array([np.nan, 12.0, np.nan]),
        rays=isac.channel.Rays(np.array([1, 1]), np.eye(3)[:2], np.full(2, 1e-6), np.ones(2)),
    )
    assert path_dopplers(scene, CARRIER_HZ).extra.tolist() == [0, 12, 0]
    filled = fill_dopplers(CARRIER_HZ, scene, np.random.default_rng(1))
    assert filled.extra_doppler_hz[1] == 12 and np.all(np.isfinite(filled.extra_doppler_hz))
    speed = np.linalg.norm(scene.user_velocities_m_s[:, :2], axis=1)
    largest = CARRIER_HZ / SPEED_OF_LIGHT_M_S * speed
    assert np.all(np.abs(filled.extra_doppler_hz[[0, 2]]) <= largest[[0, 2]])
    assert np.all(np.abs(filled.rays.doppler_hz) <= largest[1])
    again = fill_dopplers(CARRIER_HZ, filled, np.random.default_rng(2))
    assert np.array_equal(again.rays.doppler_hz, filled.rays.doppler_hz)
    some = filled.select_users([2])
    assert np.array_equal(some.extra_doppler_hz, filled.extra_doppler_hz[1:])
    assert np.array_equal(some.user_velocities_m_s, scene.user_velocities_m_s[2:])
    seen = scene.scatterer_gain[2] != 0
    assert np.array_equal(some.scatterer_velocities_m_s, scene.scatterer_velocities_m_s[seen])


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("user_velocities_m_s", np.zeros((2, 3))),
        ("scatterer_velocities_m_s", np.full((4, 3), np.inf)),
        ("extra_doppler_hz", np.zeros(1)),
    ],
)
def test_bad_motion_of_an_environment_is_named(name, value):
    with pytest.raises(ValueError, match=name):
        replace(moving_scene(), **{name: value})
    rays = isac.channel.Rays(np.array([1]), np.eye(3)[:1], np.full(1, 1e-6), np.ones(1))
    with pytest.raises(ValueError, match=r"rays\.doppler_hz must be finite"):
        replace(rays, doppler_hz=[np.inf])


def test_joined_rays_keep_the_shifts_that_are_known():
    rays = isac.channel.Rays(np.array([1]), np.eye(3)[:1], np.full(1, 1e-6), np.ones(1))
    assert isac.channel.Rays.joined([rays, rays]).doppler_hz is None
    joined = isac.channel.Rays.joined([rays, replace(rays, doppler_hz=[3.0])])
    assert_allclose(joined.doppler_hz, [np.nan, 3.0])


@pytest.mark.parametrize("model", ["CDL-C", "CDL-D"])
def test_rays_of_clusters_leave_where_the_tables_arrive(model):
    """Seen from the user, the power-weighted mean shift is that of the direction to the base station."""
    settings = SCENE.replace(cdl=model, n_scatterers=0)
    scene = cdl_environment(settings, np.random.default_rng(0))
    to_bs = scene.bs_position_m - scene.user_positions_m
    to_bs /= np.linalg.norm(to_bs, axis=1, keepdims=True)
    speed = 10.0
    with pytest.raises(ValueError, match="user_velocities_m_s"):
        cdl_dopplers(model, scene, CARRIER_HZ, np.random.default_rng(1))
    moving = cdl_dopplers(
        model, replace(scene, user_velocities_m_s=speed * to_bs), CARRIER_HZ, np.random.default_rng(1)
    )
    largest = CARRIER_HZ / SPEED_OF_LIGHT_M_S * speed
    assert np.all(np.abs(moving.rays.doppler_hz) <= largest * (1 + 1e-12))
    power = np.abs(moving.rays.gain) ** 2
    for k in range(3):
        own = moving.rays.user == k
        mean = np.sum(power[own] * moving.rays.doppler_hz[own]) / power[own].sum()
        assert (0.2 if model == "CDL-C" else -0.3) * largest < mean < largest
    assert np.array_equal(moving.rays.gain, scene.rays.gain)


def test_velocities_are_horizontal_of_the_speeds_asked_for():
    settings = SCENE.replace(n_scatterers=8, scatterer_speed_m_s=2.0, moving_share=0.5, min_separation_m=1)
    still = isac.channel.draw_environment(settings, np.random.default_rng(0))
    speeds, moving = [], []
    for seed in range(50):
        scene = draw_velocities(settings, still, np.random.default_rng(seed))
        assert not scene.user_velocities_m_s[:, 2].any() and not scene.scatterer_velocities_m_s[:, 2].any()
        speeds.append(np.linalg.norm(scene.user_velocities_m_s, axis=1))
        moving.append(np.linalg.norm(scene.scatterer_velocities_m_s, axis=1))
    assert np.min(speeds) > 3 and np.max(speeds) < 30 and abs(np.mean(speeds) - 16.5) < 2
    assert np.all(np.isclose(moving, 0) | np.isclose(moving, 2))
    assert abs(np.mean(np.array(moving) > 0) - 0.5) < 0.1
    given = replace(still, user_velocities_m_s=np.ones((3, 3)))
    kept = draw_velocities(settings, given, np.random.default_rng(0))
    assert np.array_equal(kept.user_velocities_m_s, np.ones((3, 3)))


def test_oscillators_walk_by_the_steps_asked_for():
    """Over gaps of one and two symbols, relative to their mean."""
    settings = SCENE.replace(
        frequency_offset_std_hz=100, phase_noise_std_rad=0.1, user_phase_noise_std_rad=0.2
    )
    times_s = 36e-6 * np.array([0.0, 1, 3, 4])
    drawn = [draw_turning(settings, times_s, 2, np.random.default_rng(seed)) for seed in range(2000)]
    station = np.array([turning.symbol_phase_rad for turning in drawn])
    users = np.array([turning.user_symbol_phase_rad for turning in drawn]).reshape(-1, 4)
    assert_allclose(station.mean(axis=1), 0, atol=1e-12)
    assert_allclose(np.var(np.diff(station), axis=0), 0.01 * np.array([1, 2, 1]), rtol=0.15)
    assert_allclose(np.var(np.diff(users), axis=0), 0.04 * np.array([1, 2, 1]), rtol=0.15)
    assert np.std([turning.frequency_offsets_hz for turning in drawn]) == pytest.approx(100, rel=0.05)
    turning = drawn[0]
    phase = np.angle(turning.factors[1, 2])
    centred = times_s[2] - times_s.mean()
    expected = 2 * np.pi * turning.frequency_offsets_hz[1] * centred + turning.symbol_phase_rad[2]
    assert phase == pytest.approx(expected + turning.user_symbol_phase_rad[1, 2])


def test_interference_is_what_a_tone_loses_to_its_neighbours():
    """Against the sum over the other subcarriers of a rotating OFDM symbol, for one path a user."""
    n_sub, nu = 64, 0.03
    samples = np.arange(n_sub)
    spectrum = np.fft.fft(np.exp(2j * np.pi * nu * samples / n_sub)) / n_sub
    lost = np.sum(np.abs(spectrum[1:]) ** 2)
    scene = moving_scene()
    alone = replace(
        scene,
        scatterer_gain=np.zeros_like(scene.scatterer_gain),
        line_of_sight_gain=np.ones(3),
        user_velocities_m_s=np.zeros((3, 3)),
        scatterer_velocities_m_s=None,
    )
    power = interference_power(alone, CARRIER_HZ, np.full(3, 30e3 * nu), 30e3)
    assert_allclose(power, lost, rtol=0.01)
