"""Successive simulated blocks: one scene that goes on."""

from __future__ import annotations

import numpy as np
import pytest

from helpers.moving import SMALL_MOVING
from helpers.scenes import SMALL
from isac_toolbox.channel.array import SPEED_OF_LIGHT_M_S
from isac_toolbox.channel.geometry import bistatic_delays_s, line_of_sight_delays_s
from isac_toolbox.channel.process import ConstantVelocity

INTERVAL_S = 0.01


def test_the_first_block_is_that_of_simulate():
    first, alone = SMALL_MOVING.simulate_track(2, INTERVAL_S, seed=4)[0], SMALL_MOVING.simulate(seed=4)
    np.testing.assert_array_equal(first.observation.received, alone.observation.received)
    np.testing.assert_array_equal(first.observation.symbol_times_s, alone.observation.symbol_times_s)


def test_without_a_process_velocities_clocks_and_carriers_stay():
    track = SMALL_MOVING.simulate_track(4, INTERVAL_S, seed=4)
    first = track[0].truth
    for b, sim in enumerate(track):
        truth, obs = sim.truth, sim.observation
        for name in ("time_offsets_s", "frequency_offsets_hz", "visibility", "user_velocities_m_s"):
            np.testing.assert_array_equal(getattr(truth, name), getattr(first, name))
        for place, velocity in (
            ("user_positions_m", "user_velocities_m_s"),
            ("scatterer_positions_m", "scatterer_velocities_m_s"),
        ):
            moved = getattr(first, place) + b * INTERVAL_S * getattr(first, velocity)
            np.testing.assert_allclose(getattr(truth, place), moved, atol=1e-9)
        error = obs.user_positions_m - truth.user_positions_m
        np.testing.assert_allclose(error, track[0].observation.user_positions_m - first.user_positions_m)
        assert obs.motion.reference_time_s == pytest.approx(
            track[0].observation.motion.reference_time_s + b * INTERVAL_S
        )


def test_noise_and_symbols_are_anew_in_every_block():
    first, second, third = SMALL_MOVING.simulate_track(3, INTERVAL_S, seed=4)
    assert np.any(first.truth.symbols != second.truth.symbols)
    assert np.any(second.truth.symbols != third.truth.symbols)


def test_gains_follow_the_lengths_of_paths():
    scenario = SMALL_MOVING.replace(power_control=False)
    before, after = (sim.truth for sim in scenario.simulate_track(2, INTERVAL_S, seed=4))
    bs = before.environment.bs_position_m

    def expected(gain, delays):
        old, new = delays
        return gain * old / new * np.exp(-2j * np.pi * scenario.carrier_hz * (new - old))

    sights = [line_of_sight_delays_s(t.user_positions_m, bs) for t in (before, after)]
    points = [bistatic_delays_s(t.user_positions_m, t.scatterer_positions_m, bs) for t in (before, after)]
    scale = np.abs(after.line_of_sight_gain / expected(before.line_of_sight_gain, sights))
    np.testing.assert_allclose(
        after.line_of_sight_gain, scale * expected(before.line_of_sight_gain, sights), rtol=1e-6
    )
    np.testing.assert_allclose(
        after.scatterer_gain, scale[:, None] * expected(before.scatterer_gain, points), rtol=1e-6, atol=1e-15
    )


def test_phases_between_blocks_turn_as_the_doppler_shift_says():
    short = 1e-5
    before, after = (sim.truth for sim in SMALL_MOVING.simulate_track(2, short, seed=4))
    away = before.user_positions_m - before.environment.bs_position_m
    away /= np.linalg.norm(away, axis=1, keepdims=True)
    speed = np.sum(away * before.user_velocities_m_s, axis=1)
    turn = np.angle(after.line_of_sight_gain / before.line_of_sight_gain)
    shift = -SMALL_MOVING.carrier_hz / SPEED_OF_LIGHT_M_S * speed
    np.testing.assert_allclose(turn, 2 * np.pi * shift * short, rtol=1e-3)


def test_a_process_shakes_in_the_plane_what_moves():
    process = ConstantVelocity(3.0, 3.0, 1e-8, 50.0)
    track = SMALL_MOVING.replace(moving_share=0.0).simulate_track(3, INTERVAL_S, seed=4, process=process)
    first, last = track[0].truth, track[-1].truth
    np.testing.assert_array_equal(first.scatterer_positions_m, last.scatterer_positions_m)
    assert np.all(last.user_velocities_m_s[:, :2] != first.user_velocities_m_s[:, :2])
    np.testing.assert_array_equal(last.user_velocities_m_s[:, 2], 0)
    assert np.all(last.time_offsets_s != first.time_offsets_s)
    assert np.all(last.frequency_offsets_hz != first.frequency_offsets_hz)


def test_a_static_scenario_repeats_its_scene():
    first, second = SMALL.simulate_track(2, 1.0, seed=2)
    np.testing.assert_array_equal(first.truth.channel, second.truth.channel)
    assert second.observation.symbol_times_s is None


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"n_blocks": 0}, "n_blocks"),
        ({"interval_s": 0.0}, "interval_s"),
        ({"process": "random walk"}, "process"),
        ({"seed": -1}, "seed"),
    ],
)
def test_bad_arguments_are_named(changes, named):
    arguments = {"n_blocks": 2, "interval_s": 0.1, **changes}
    with pytest.raises((TypeError, ValueError), match=named):
        SMALL_MOVING.simulate_track(**arguments)


@pytest.mark.parametrize(
    "name",
    [
        "user_acceleration_std_m_s2",
        "scatterer_acceleration_std_m_s2",
        "clock_drift_std_s",
        "offset_drift_std_hz",
    ],
)
@pytest.mark.parametrize("value", [-1.0, np.nan, "fast", [1.0, 2.0]])
def test_a_bad_process_is_named(name, value):
    with pytest.raises((TypeError, ValueError), match=name):
        ConstantVelocity(**{name: value})


def test_a_process_stays_as_it_was_made():
    given = np.array([1.0, 2.0, 0.0])
    process = ConstantVelocity(user_acceleration_std_m_s2=given)
    given[0] = 5.0  # the caller's array stays the caller's
    assert process.user_acceleration_std_m_s2.tolist() == [1.0, 2.0, 0.0]
    with pytest.raises(ValueError, match="read-only"):
        process.user_acceleration_std_m_s2[0] = 5.0


def test_the_steps_of_a_process():
    process = ConstantVelocity((1.0, 2.0, 0.0), 3.0, 1e-9, 2.0)
    transition, noise = process.user_step(0.5)
    place, velocity = np.array([1.0, 2.0, 3.0]), np.array([-4.0, 5.0, 6.0])
    after = transition @ np.concatenate([place, velocity, [7.0, 8.0]])
    np.testing.assert_allclose(after, [*(place + 0.5 * velocity), *velocity, 7.0, 8.0])
    np.testing.assert_allclose(np.diag(noise)[:3], (0.5**2 / 2 * np.array([1, 2, 0])) ** 2)
    np.testing.assert_allclose(np.diag(noise)[3:6], (0.5 * np.array([1, 2, 0])) ** 2)
    np.testing.assert_allclose(noise[6, 6], (SPEED_OF_LIGHT_M_S * 1e-9) ** 2 * 0.5)
    np.testing.assert_allclose(noise[7, 7], 2.0)
    assert np.linalg.matrix_rank(process.scatterer_step(0.5)[1]) == 3
