"""Users, clocks, array and environment of a simulation: drawn, given or traced."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

import isac_toolbox as isac
from helpers.simulated import SMALL
from isac_toolbox.channel.array import SPEED_OF_LIGHT_M_S


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
