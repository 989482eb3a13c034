"""Scenarios that move: blocks against sums over paths and symbols, what observations know, errors by name."""

from __future__ import annotations

import warnings
from dataclasses import replace

import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy.special import j0

import isac_toolbox as isac
from isac_toolbox.channel.array import SPEED_OF_LIGHT_M_S

MOVING = ("moving_uplink", "moving_mmwave", "monostatic_moving", "hidden_offset")
SMALL = isac.Scenario(
    array_shape=(3, 2),
    n_subcarriers=6,
    n_users=2,
    n_scatterers=3,
    n_data_symbols=3,
    numerology="30kHz",
    snr_db=300,
)
MOTION = {
    "user_speed_m_s": (10.0, 20.0),
    "scatterer_speed_m_s": 5.0,
    "moving_share": 0.7,
    "frequency_offset_std_hz": 150.0,
    "phase_noise_std_rad": 0.05,
    "user_phase_noise_std_rad": 0.1,
}
quiet = pytest.mark.filterwarnings("ignore::isac_toolbox.ImplausibleValueWarning")


def summed_over_paths(sim: isac.Simulation) -> np.ndarray:
    """The channel (K, N, M, T), path by path and symbol by symbol; lengths are differentiated numerically."""
    obs, truth = sim.observation, sim.truth
    env, array, bs = truth.environment, obs.array, obs.bs_position_m
    times = obs.symbol_times_s - np.mean(obs.symbol_times_s)
    channel = np.zeros((*truth.channel.shape, times.size), complex)

    def add(k: int, gain: complex, length_m: float, doppler_hz: float, steering: np.ndarray) -> None:
        delay_s = length_m / SPEED_OF_LIGHT_M_S + truth.time_offsets_s[k]
        response = np.exp(-2j * np.pi * obs.subcarrier_frequencies_hz * delay_s)[:, None] * steering
        for t, time_s in enumerate(times):
            turn = 2 * np.pi * (doppler_hz + truth.frequency_offsets_hz[k]) * time_s
            turn += truth.symbol_phase_rad[t] + truth.user_symbol_phase_rad[k, t]
            channel[k, :, :, t] += gain * response * np.exp(1j * turn)

    def towards(point: np.ndarray) -> np.ndarray:
        if obs.wavefront == "spherical":
            return array.spherical_steering(point - bs, obs.carrier_hz)[None]
        return direction_response((point - bs) / np.linalg.norm(point - bs))

    def direction_response(direction: np.ndarray) -> np.ndarray:
        if not obs.beam_squint:
            return array.steering(direction)[None]
        stretch = 1 + obs.subcarrier_frequencies_hz[:, None] / obs.carrier_hz
        return np.exp(1j * phase(direction) * stretch)

    def phase(direction: np.ndarray) -> np.ndarray:
        slopes = np.add.outer(
            array.phase_slopes[0] * (array.axes[1] @ direction),
            array.phase_slopes[1] * (array.axes[2] @ direction),
        )
        return slopes.ravel()

    def shift(length_at) -> float:
        step_s = 1e-4
        change = (length_at(step_s) - length_at(-step_s)) / (2 * step_s)
        return -obs.carrier_hz / SPEED_OF_LIGHT_M_S * change

    for k, (user, velocity) in enumerate(zip(env.user_positions_m, truth.user_velocities_m_s)):

        def sight(time_s, user=user, velocity=velocity):
            return np.linalg.norm(user + time_s * velocity - bs)

        if truth.line_of_sight[k]:
            add(k, truth.line_of_sight_gain[k], sight(0), shift(sight), towards(user))
        for q, point in enumerate(env.scatterer_positions_m):

            def bounce(time_s, user=user, velocity=velocity, q=q, point=point):
                there = point + time_s * truth.scatterer_velocities_m_s[q]
                return np.linalg.norm(user + time_s * velocity - there) + np.linalg.norm(there - bs)

            if truth.visibility[k, q]:
                add(k, truth.scatterer_gain[k, q], bounce(0), shift(bounce), towards(point))
    extra = truth.unlocated_paths
    for p in range(len(extra)):
        length_m = SPEED_OF_LIGHT_M_S * extra.delay_s[p]
        response = direction_response(env.extra_direction[p])
        add(extra.user[p], extra.gain[p], length_m, extra.doppler_hz[p], response)
    return channel


@quiet
@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"wavefront": "spherical"},
        {"beam_squint": True},
        {"traced": "munich"},
        {"traced": "munich", "beam_squint": True},
        {"numerology": None, "symbol_period_s": 40e-6, "slot_symbols": (0, 1, 4, 5, 20)},
        {"link": "monostatic", "n_users": 1, "user_speed_m_s": 0.0, "n_data_symbols": 4},
        {"pilot_positions": (1, 3)},
    ],
)
def test_a_block_is_the_sum_over_paths_and_symbols(fields):
    sim = SMALL.replace(**{**MOTION, **fields}).simulate(3)
    obs, truth = sim.observation, sim.truth
    expected = summed_over_paths(sim)
    n_symbols = obs.n_symbols
    assert_allclose(truth.channel_at(range(n_symbols)), expected, atol=1e-8)
    assert_allclose(truth.channel_at([4, 0]), expected[..., [4, 0]], atol=1e-8)
    assert_allclose(obs.received, np.einsum("knmt,knt->nmt", expected, truth.symbols), atol=1e-7)


@quiet
def test_the_channel_is_that_of_the_reference_time():
    """Of phases of mean zero and shifts around the mean time, to first order the mean over symbols."""
    slow = {"numerology": "240kHz", "subcarrier_spacing_hz": 2.4e6, **dict.fromkeys(MOTION, 0.0)}
    sim = SMALL.replace(**{**slow, "user_speed_m_s": 2.0, "frequency_offset_std_hz": 5.0}).simulate(0)
    over_time = sim.truth.channel_at(range(sim.observation.n_symbols))
    assert isac.metrics.channel_nmse_db(over_time.mean(axis=3), sim.truth.channel) < -90
    assert isac.metrics.channel_nmse_db(over_time[..., 0], sim.truth.channel) > -60


@quiet
@pytest.mark.parametrize("name", ["urban_uplink", "traced_munich", "umi_like", "monostatic_echo"])
def test_times_alone_change_no_bit(name):
    still = isac.Scenario.load(name)
    n_symbols = still.pilot_symbols + still.n_data_symbols
    timed = still.replace(symbol_period_s=1 / 1.5e6, slot_symbols=range(2, 2 + n_symbols))
    first, second = still.simulate(5), timed.simulate(5)
    assert first.observation.symbol_times_s is None and second.observation.motion is None
    assert_allclose(second.observation.symbol_times_s, (np.arange(n_symbols) + 2.5) / 1.5e6)
    assert np.array_equal(first.observation.received, second.observation.received)
    assert second.truth.channel_over_time is None
    static = second.truth.channel_at([1, 2, 0])
    assert np.array_equal(static, np.repeat(second.truth.channel[..., None], 3, axis=3))


@quiet
def test_motion_keeps_scene_data_and_noise():
    still, moving = SMALL.simulate(4), SMALL.replace(**MOTION).simulate(4)
    for name in ("channel", "symbols", "symbol_indices", "time_offsets_s", "scatterer_positions_m"):
        assert np.array_equal(getattr(still.truth, name), getattr(moving.truth, name)), name
    assert not still.truth.user_velocities_m_s.any() and not still.truth.symbol_phase_rad.any()
    assert still.truth.unlocated_paths.doppler_hz is None


@quiet
def test_everything_that_has_no_place_moves_too():
    """Clusters, bodies, clustered delay lines and tails: the block is that of the channel over time."""
    parts = {
        "clusters": {"n_clusters": 2},
        "bodies": {"rays_per_scatterer": 4, "scatterer_extent_m": 0.5},
        "tail": {"diffuse_power_db": 0.0},
        "lines": {"cdl": "CDL-D"},
    }
    for name, fields in parts.items():
        sim = SMALL.replace(user_speed_m_s=30.0, **fields).simulate(1)
        truth = sim.truth
        over_time = truth.channel_at(range(sim.observation.n_symbols))
        again = np.einsum("knmt,knt->nmt", over_time, truth.symbols)
        assert_allclose(sim.observation.received, again, atol=1e-9, err_msg=name)
        assert isac.metrics.channel_nmse_db(over_time[..., 2], over_time[..., 3]) > -50, name


def test_a_moving_tail_decorrelates_as_waves_from_all_sides_do():
    """The mean over many elements is the Bessel function of Clarke's model."""
    scenario = SMALL.replace(
        n_users=1,
        n_scatterers=0,
        array_shape=(64, 64),
        n_data_symbols=9,
        diffuse_power_db=30.0,
        user_speed_m_s=300.0,
        symbol_period_s=1e-4,
        numerology=None,
        snr_db=0,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", isac.ImplausibleValueWarning)
        found = []
        for seed in range(12):
            channel = scenario.simulate(seed).truth.channel_at(range(10))[0]
            found.append(np.mean(channel[..., :-1] * channel[..., 1:].conj()))
    expected = j0(2 * np.pi * 3.5e9 / SPEED_OF_LIGHT_M_S * 300.0 * 1e-4)
    assert abs(np.mean(found) - expected) < 0.12


@quiet
def test_an_observation_knows_the_laws_of_what_was_drawn():
    obs = SMALL.replace(**MOTION).simulate(0).observation
    rms = np.sqrt((100 + 200 + 400) / 3)
    assert_allclose(obs.user_velocity_std_m_s, [rms / np.sqrt(2)] * 2 + [0])
    assert obs.scatterer_velocity_std_m_s == pytest.approx(5 / np.sqrt(2))
    assert obs.frequency_offset_std_hz == 150 and obs.user_velocities_m_s is None
    assert obs.phase_noise_std_rad == 0.05 and obs.user_phase_noise_std_rad == 0.1
    told = SMALL.replace(**MOTION, user_velocity_std_m_s=(1, 2, 3), scatterer_velocity_std_m_s=4)
    told = told.simulate(0).observation
    assert told.user_velocity_std_m_s.tolist() == [1, 2, 3] and told.scatterer_velocity_std_m_s == 4
    assert np.array_equal(told.received, obs.received)


@quiet
def test_an_environment_brings_its_own_velocities():
    still = SMALL.simulate(0).truth.environment
    rng = np.random.default_rng(0)
    moving = replace(
        still,
        user_velocities_m_s=rng.normal(0, 9, (2, 3)),
        scatterer_velocities_m_s=rng.normal(0, 3, still.scatterer_positions_m.shape),
    )
    sim = SMALL.simulate(0, environment=moving, users=[1, 0])
    assert np.array_equal(sim.truth.user_velocities_m_s, moving.user_velocities_m_s[::-1])
    assert_allclose(sim.truth.channel_at(range(5)), summed_over_paths(sim), atol=1e-8)
    expected = np.sqrt(np.mean(moving.user_velocities_m_s**2, axis=0))
    assert_allclose(sim.observation.user_velocity_std_m_s, expected)
    assert sim.observation.scatterer_velocity_std_m_s > 0
    with pytest.raises(ValueError, match="environment moves: numerology or symbol_period_s"):
        SMALL.replace(numerology=None).simulate(0, environment=moving, users=[0, 1])


def test_pilots_go_where_they_are_asked_to():
    first = SMALL.simulate(2)
    spread = SMALL.replace(pilot_positions=(1, 4)).simulate(2)
    assert spread.observation.pilot_mask[0].tolist() == [False, True, False, False, True]
    order = [2, 0, 3, 4, 1]
    assert np.array_equal(spread.truth.symbols, first.truth.symbols[..., order])
    assert np.array_equal(spread.truth.symbol_indices, first.truth.symbol_indices[..., order])
    assert SMALL.replace(pilot_positions=(0, 2, 3)).pilot_symbols == 3


def test_interference_above_the_noise_is_said():
    with pytest.warns(isac.ImplausibleValueWarning, match="inter-carrier interference"):
        SMALL.replace(frequency_offset_std_hz=2000.0, snr_db=30).simulate(0)
    for name in MOVING:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            isac.Scenario.load(name).simulate(0)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"numerology": None, "user_speed_m_s": 1.0}, "user_speed_m_s needs numerology or symbol_period_s"),
        ({"numerology": None, "phase_noise_std_rad": 0.1}, "phase_noise_std_rad needs numerology"),
        ({"numerology": None, "slot_symbols": range(5)}, "slot_symbols needs numerology"),
        ({"symbol_period_s": 1e-5}, "numerology and symbol_period_s exclude each other"),
        ({"subcarrier_spacing_hz": 1e5}, "subcarrier_spacing_hz must be a multiple of the 30000 Hz"),
        ({"slot_symbols": (0, 1)}, "slot_symbols must be 5 ascending indices"),
        ({"slot_symbols": (0, 1, 2, 4, 3)}, "slot_symbols must be 5 ascending indices"),
        ({"pilot_positions": (0, 5)}, "pilot_positions must be below 5 symbols"),
        ({"pilot_positions": (2, 1)}, "pilot_positions must be 2 ascending indices"),
        ({"pilot_positions": (0, 1), "n_pilot_symbols": 3}, "pilot_positions must be 3 ascending"),
        ({"pilot_positions": ()}, "pilot_positions"),
        ({"user_speed_m_s": (2.0, 1.0)}, "user_speed_m_s must have its upper limit second"),
        ({"user_speed_m_s": -1.0}, "user_speed_m_s"),
        ({"moving_share": 1.5}, "moving_share"),
        ({"phase_noise_std_rad": True}, "phase_noise_std_rad"),
        ({"link": "monostatic", "n_users": 1, "user_speed_m_s": 1.0}, "user_speed_m_s must be zero for link"),
    ],
)
def test_what_does_not_fit_is_named(fields, message):
    with pytest.raises(ValueError, match=message):
        SMALL.replace(**fields)


def test_symbols_asked_for_must_exist():
    truth = SMALL.simulate(0).truth
    for symbols in ([5], [-1]):
        with pytest.raises(ValueError, match=r"symbols must be indices in 0\.\.4"):
            truth.channel_at(symbols)


@pytest.mark.parametrize("name", MOVING)
def test_ready_scenarios_move(name, tmp_path):
    sim = isac.Scenario.load(name).simulate(0)
    obs, truth = sim.observation, sim.truth
    assert obs.motion is not None and obs.n_symbols == 14
    over_time = truth.channel_at(range(14))
    assert isac.metrics.channel_nmse_db(over_time[..., :1], over_time[..., -1:]) > -20
    again = isac.UplinkObservation.load(obs.save(tmp_path / name))
    assert_allclose(again.motion.times_s, obs.motion.times_s)


def test_results_over_symbols_come_back_from_files(tmp_path):
    obs = isac.Scenario.load("hidden_offset").simulate(0).observation
    still = isac.LeastSquares().estimate(obs)
    assert still.reference_time_s is None and still.evolution is None
    assert np.array_equal(still.channel_at([3, 1])[..., 1], still.channel)
    rng = np.random.default_rng(0)
    moments = np.stack([still.channel, 0.1j * still.channel])
    evolution = isac.channel.ChannelEvolution.from_moments(
        moments, np.linspace(-1, 1, 14), np.exp(1j * rng.uniform(0, 1, (3, 14)))
    )
    motion = {
        "reference_time_s": 1e-3,
        "frequency_offsets_hz": rng.normal(size=3),
        "frequency_offset_std_hz": rng.random(3),
        "user_velocities_m_s": rng.normal(size=(3, 3)),
        "user_velocity_covariance_m2_s2": rng.normal(size=(3, 3, 3)),
        "scatterer_velocities_m_s": np.zeros((0, 3)),
        "scatterer_velocity_covariance_m2_s2": np.zeros((0, 3, 3)),
        "moving_probability": np.zeros(0),
        "symbol_phase_rad": rng.normal(size=14),
        "user_symbol_phase_rad": rng.normal(size=(3, 14)),
    }
    paths = replace(still.unlocated_paths, doppler_hz=np.zeros(0))
    result = replace(still, **motion, evolution=evolution, unlocated_paths=paths)
    again = isac.EstimationResult.load(result.save(tmp_path / "moving"))
    for name, value in motion.items():
        assert np.array_equal(getattr(again, name), value), name
    assert again.unlocated_paths.doppler_hz.shape == (0,)
    assert np.array_equal(again.channel_at([0, 13]), result.channel_at([0, 13]))
    plain = isac.EstimationResult.load(still.save(tmp_path / "still"))
    assert plain.evolution is None and plain.moving_probability is None
    assert plain.unlocated_paths.doppler_hz is None
