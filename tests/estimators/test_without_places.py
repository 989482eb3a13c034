"""Blocks without places: channel, data, delays and directions, and nothing located."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pytest

import isac_toolbox as isac
from helpers.scenes import SMALL, assert_no_nan
from isac_toolbox.channel.array import SPEED_OF_LIGHT_M_S
from isac_toolbox.estimators.scene.problem import Problem
from isac_toolbox.estimators.search import PathSearch
from isac_toolbox.estimators.symbols.block import ReceivedBlock

PLACES = ("bs_position_m", "user_positions_m", "user_position_std_m", "time_offset_std_s", "region_m")
ESTIMATORS = {"bisvbi": isac.EMTurboBiSVBI(), "nomp": isac.NOMP(), "ls": isac.LeastSquares()}
SPACING_HZ = 30e3


def without_places(observation: isac.UplinkObservation) -> isac.UplinkObservation:
    return replace(observation, **dict.fromkeys(PLACES))


@dataclass
class Block:
    """An observation of a made-up channel, and what is behind it."""

    observation: isac.UplinkObservation
    channel: np.ndarray
    sent: np.ndarray
    user: np.ndarray
    delay_s: np.ndarray
    cosines: np.ndarray

    def error_rate(self, result: isac.EstimationResult) -> float:
        data = self.sent >= 0
        return float(np.mean(result.symbol_decision[data] != self.sent[data]))

    def nmse_db(self, result: isac.EstimationResult) -> float:
        return isac.metrics.channel_nmse_db(result.channel, self.channel)


def made_up(
    seed: int,
    array=None,
    n_sub: int = 128,
    n_users: int = 2,
    n_paths: int = 8,
    first_s: float = 0.0,
    spread_s: float = 1e-6,
    without_tones=(),
    n_data: int = 6,
) -> Block:
    """Random delays and directions, gains within 15 dB; 10 dB of SNR, orthogonal pilots, QPSK."""
    rng = np.random.default_rng(seed)
    array = isac.UniformPlanarArray((8, 8)) if array is None else array
    frequencies = np.delete((np.arange(n_sub) - (n_sub - 1) / 2) * SPACING_HZ, without_tones)
    user = np.repeat(np.arange(n_users), n_paths)
    delay = first_s + rng.uniform(0, spread_s, user.size)
    towards = rng.standard_normal((user.size, 3))
    towards[:, 0] = np.abs(towards[:, 0])
    towards /= np.linalg.norm(towards, axis=1, keepdims=True)
    gain = rng.standard_normal((user.size, 2)) @ [1, 1j] * 10 ** (-rng.uniform(0, 15, user.size) / 20)
    channel = np.zeros((n_users, frequencies.size, array.n_elements), complex)
    for k, tau, direction, x in zip(user, delay, towards, gain, strict=True):
        channel[k] += x * np.outer(np.exp(-2j * np.pi * frequencies * tau), array.steering(direction))
    known = np.arange(n_users + n_data) < n_users
    mask = np.tile(known, (frequencies.size, 1))
    constellation = isac.qam_constellation("qpsk")
    sent = np.where(mask, -1, rng.integers(0, 4, (n_users, *mask.shape)))
    pilots = np.zeros(sent.shape, complex)
    pilots[:, :, known] = np.fft.fft(np.eye(n_users))[:, None]
    clean = np.einsum("knm,knt->nmt", channel, np.where(mask, pilots, constellation[sent]))
    noise = rng.standard_normal((*clean.shape, 2)) @ [1, 1j] * np.sqrt(np.mean(np.abs(clean) ** 2) / 20)
    observation = isac.UplinkObservation(
        clean + noise, pilots, mask, array, frequencies, constellation=constellation
    )
    return Block(observation, channel, sent, user, delay, towards @ array.axes[1:].T)


def test_the_channel_is_at_its_bound_and_near_that_of_the_scene():
    """Geometry ties paths together; without it the bound is higher by what the ties say."""
    excess, lost = [], []
    for seed in range(4):
        simulation = isac.Scenario.load("urban_uplink").replace(snr_db=20).simulate(seed)
        free = without_places(simulation.observation)
        result = isac.EMTurboBiSVBI().estimate(free)
        located = isac.EMTurboBiSVBI().estimate(simulation.observation)
        bound = isac.bounds.hybrid_crb(replace(simulation, observation=free))
        nmse = isac.metrics.channel_nmse_db(result.channel, simulation.truth.channel)
        excess.append(nmse - bound.channel_nmse_db)
        lost.append(bound.channel_nmse_db - isac.bounds.hybrid_crb(simulation).channel_nmse_db)
        assert np.array_equal(result.symbol_decision, located.symbol_decision)
        assert len(result.scatterer_positions_m) == 0 and result.converged
        n_located = np.count_nonzero(located.visibility_probability >= 0.5) + len(located.unlocated_paths)
        n_located += np.count_nonzero(located.line_of_sight_probability >= 0.5)
        assert len(result.unlocated_paths) == n_located
    assert abs(np.mean(excess)) < 0.5
    assert np.min(lost) > 0 and np.max(lost) < 1.5


def test_delays_and_directions_are_those_of_the_scene():
    simulation = isac.Scenario.load("urban_uplink").replace(snr_db=20).simulate(0)
    truth, result = simulation.truth, isac.EMTurboBiSVBI().estimate(without_places(simulation.observation))
    paths, station = result.unlocated_paths, truth.environment.bs_position_m
    for k in np.flatnonzero(truth.line_of_sight):
        ray = truth.user_positions_m[k] - station
        length = np.linalg.norm(ray)
        delay = length / SPEED_OF_LIGHT_M_S + truth.time_offsets_s[k]
        own = paths.user == k
        assert np.min(np.abs(paths.delay_s[own] - delay)) < 0.1e-9
        apart = paths.direction_cosines[own] - (ray / length) @ simulation.observation.array.axes[1:].T
        assert np.min(np.linalg.norm(apart, axis=1)) < 1e-3


@pytest.mark.parametrize("seed", range(3))
def test_a_made_up_channel_is_better_known_than_by_the_baselines(seed):
    block = made_up(seed)
    nmse = {}
    for name, estimator in ESTIMATORS.items():
        result = estimator.estimate(block.observation)
        assert_no_nan(result)
        nmse[name] = block.nmse_db(result)
    joint = isac.EMTurboBiSVBI().estimate(block.observation)
    assert nmse["bisvbi"] < nmse["nomp"] - 2 and nmse["nomp"] < nmse["ls"] - 15
    assert block.error_rate(joint) == 0
    paths = joint.unlocated_paths
    strongest = np.argmax(np.abs(paths.gain))
    apart = np.abs(block.delay_s - paths.delay_s[strongest])[block.user == paths.user[strongest]]
    assert apart.min() < 10e-9


@pytest.mark.parametrize("first_s", [-1.5e-6, 20e-6])
def test_delays_are_on_the_receivers_time_base(first_s):
    block = made_up(3, first_s=first_s)
    paths = isac.EMTurboBiSVBI().estimate(block.observation).unlocated_paths
    assert first_s - 30e-9 < paths.delay_s.min() and paths.delay_s.max() < first_s + 1.03e-6


@pytest.mark.parametrize(
    "changes",
    [
        {"spread_s": 1 / SPACING_HZ},
        {"array": isac.UniformPlanarArray((16, 1))},
        {"array": isac.UniformPlanarArray((1, 1)), "n_users": 1, "n_paths": 3},
        {"without_tones": [64]},
        {"without_tones": [0, 5, 64, 65, 66, 90]},
        {"n_users": 1, "n_data": 0},
    ],
    ids=["whole interval", "linear", "single", "no dc", "gaps", "pilots alone"],
)
def test_other_blocks(changes):
    block = made_up(5, **changes)
    joint, plain = (ESTIMATORS[name].estimate(block.observation) for name in ("bisvbi", "ls"))
    assert_no_nan(joint)
    assert joint.converged
    assert block.nmse_db(joint) < block.nmse_db(plain) - 12
    assert len(joint.user_positions_m) == len(joint.scatterer_positions_m) == 0
    assert np.all(joint.line_of_sight_probability == 0.5)
    assert any(text.startswith("user_positions_m: none given") for text in joint.warnings)


def narrowed(observation) -> tuple[PathSearch, PathSearch]:
    search = PathSearch.for_observation(observation)
    problem = Problem.on_pilots(observation, ReceivedBlock.of(observation))
    return search, search.covering(problem.statistics.cross_correlation)


@pytest.mark.parametrize(("n_sub", "tones"), [(3276, ()), (3276, [1638]), (256, ())])
def test_the_window_is_where_the_pilots_have_power(n_sub, tones):
    array = isac.UniformPlanarArray((4, 2))
    block = made_up(0, array, n_sub, first_s=3e-6, without_tones=tones, n_data=0)
    whole, search = narrowed(block.observation)
    period = SPEED_OF_LIGHT_M_S / SPACING_HZ
    assert whole.max_length_m - whole.min_length_m == pytest.approx(period)
    assert search.min_length_m < SPEED_OF_LIGHT_M_S * block.delay_s.min()
    assert search.max_length_m > SPEED_OF_LIGHT_M_S * block.delay_s.max()
    assert search.max_length_m - search.min_length_m < 0.25 * period
    assert search.lengths_m.size < 0.25 * (2 * n_sub)


def test_a_weak_late_path_is_in_the_window():
    """33 dB below the others and ten times as late: a tapered profile shows it."""
    block = made_up(0, isac.UniformPlanarArray((8, 8)), 512, n_data=0)
    frequencies, array = block.observation.subcarrier_frequencies_hz, block.observation.array
    strength = 10 ** (-33 / 20) * np.sqrt(np.mean(np.abs(block.channel[0]) ** 2))
    late = strength * np.outer(np.exp(-2j * np.pi * frequencies * 10e-6), np.ones(array.n_elements))
    received = block.observation.received + late[:, :, None] * block.observation.pilots[0][:, None]
    _, search = narrowed(replace(block.observation, received=received))
    assert search.max_length_m > SPEED_OF_LIGHT_M_S * 10e-6


def test_a_gap_before_late_paths_does_not_make_them_early():
    """Late paths behind a wide gap, strong ones: from the next period they look a little early."""
    block = made_up(0, isac.UniformPlanarArray((4, 4)), 512, n_data=0)
    frequencies, array = block.observation.subcarrier_frequencies_hz, block.observation.array
    late = np.outer(np.exp(-2j * np.pi * frequencies * 26e-6), np.ones(array.n_elements))
    late *= 0.5 * np.sqrt(np.mean(np.abs(block.channel[0]) ** 2))
    received = block.observation.received + late[:, :, None] * block.observation.pilots[0][:, None]
    _, search = narrowed(replace(block.observation, received=received))
    assert search.min_length_m < SPEED_OF_LIGHT_M_S * block.delay_s.min()
    assert search.max_length_m > SPEED_OF_LIGHT_M_S * 26e-6


def test_too_many_irregular_tones_are_refused_by_name():
    block = made_up(0, isac.UniformPlanarArray((2, 1)), 2000, n_users=1, n_data=0)
    rng = np.random.default_rng(0)
    scattered = np.sort(rng.choice(200_000, 2000, replace=False)) * 1e3
    scattered[1] = scattered[0] + 1e3
    observation = replace(block.observation, subcarrier_frequencies_hz=scattered - scattered.mean())
    with pytest.raises(ValueError, match=r"^subcarrier_frequencies_hz: 2000 irregular"):
        isac.NOMP().estimate(observation)


def test_what_needs_places_says_so():
    observation = made_up(0, isac.UniformPlanarArray((4, 2)), 32, n_data=1).observation
    for estimator, name in (
        (isac.OMP(), "OMP"),
        (isac.MusicSCVBI(), "MusicSCVBI"),
        (isac.EMTurboBiSVBI(coarse="music"), "coarse='music'"),
        (isac.EMTurboBiSVBI(inverse="mm"), "inverse='mm'"),
        (isac.EMTurboBiSVBI(unlocated_paths=False), "unlocated_paths=False"),
    ):
        with pytest.raises(ValueError, match=r"^user_positions_m, region_m: ") as caught:
            estimator.estimate(observation)
        assert name in str(caught.value)


@pytest.mark.parametrize(
    ("left_out", "name"),
    [
        (("user_positions_m",), "user_positions_m must be given with region_m"),
        (("user_positions_m", "region_m"), "user_positions_m must be given with user_position_std_m"),
        (("user_position_std_m",), "user_position_std_m must be given"),
        (("bs_position_m",), "bs_position_m must be given"),
        (("time_offset_std_s",), "time_offset_std_s must be given"),
    ],
)
def test_half_a_geometry_is_refused(left_out, name):
    with pytest.raises(TypeError, match=f"^{name}"):
        replace(SMALL.simulate(0).observation, **dict.fromkeys(left_out))


def test_curved_wavefronts_need_places():
    with pytest.raises(ValueError, match=r"^wavefront='spherical' needs places"):
        replace(made_up(0).observation, wavefront="spherical", carrier_hz=3.5e9)


@pytest.mark.parametrize("estimator", ESTIMATORS.values(), ids=ESTIMATORS)
def test_users_without_a_region_stay_nominal(estimator):
    observation = replace(SMALL.simulate(0).observation, region_m=None)
    result = estimator.estimate(observation)
    assert len(result.scatterer_positions_m) == 0
    assert np.array_equal(result.user_positions_m, observation.user_positions_m)
    assert np.array_equal(result.time_offset_std_s, observation.time_offset_stds_s)
    free = estimator.estimate(without_places(observation))
    assert np.array_equal(result.channel, free.channel)
    assert free.user_positions_m.shape == (0, 3) and free.user_position_covariance_m2.shape == (0, 3, 3)


def test_observation_and_result_are_saved(tmp_path):
    observation = without_places(SMALL.simulate(0).observation)
    again = isac.UplinkObservation.load(observation.save(tmp_path / "block.npz"))
    assert all(getattr(again, name) is None for name in PLACES if name != "time_offset_std_s")
    result, second = (isac.EMTurboBiSVBI().estimate(obs) for obs in (observation, again))
    assert np.array_equal(result.channel, second.channel)
    loaded = isac.EstimationResult.load(result.save(tmp_path / "result.npz"))
    assert np.array_equal(loaded.unlocated_paths.delay_s, result.unlocated_paths.delay_s)
    assert loaded.user_positions_m.shape == (0, 3)


def test_there_is_nothing_to_draw():
    observation = without_places(SMALL.simulate(0).observation)
    recording = isac.estimators.SceneRecorder()
    result = isac.EMTurboBiSVBI().estimate(observation, callback=recording)
    assert recording[-1].user_positions_m.shape == (0, 3)
    from isac_toolbox.plotting import scene_3d, scene_html

    for draw in (scene_3d, scene_html):
        for obs in (observation, None):
            with pytest.raises(ValueError, match="nothing to draw"):
                draw(result, observation=obs)
