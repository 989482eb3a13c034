"""EM-Turbo-BiSVBI as a whole: at the bound where it should be, and sane in every setting."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from numpy.testing import assert_allclose

import isac_toolbox as isac
from helpers import TESTS
from helpers.scenes import SMALL, assert_no_nan, with_arguments
from isac_toolbox.estimators.bisvbi import BiSVBILoop
from isac_toolbox.inference.hierarchy import RULES
from isac_toolbox.metrics import channel_nmse_db, localisation, symbol_error_rate

URBAN = isac.Scenario.load("urban_uplink")


def excess_db(result: isac.EstimationResult, simulation: isac.Simulation) -> float:
    """Channel NMSE above the hybrid bound with known data, in dB."""
    bound = isac.bounds.hybrid_crb(simulation).channel_nmse_db
    return channel_nmse_db(result.channel, simulation.truth.channel) - bound


# --- the standard case -------------------------------------------------------------------------------


@pytest.mark.parametrize("coarse", ["nomp", "music"])
def test_standard_case_reaches_the_bound(coarse):
    excess = []
    for seed in range(3):
        simulation = URBAN.simulate(seed)
        result = isac.EMTurboBiSVBI(coarse=coarse).estimate(simulation.observation)
        truth = simulation.truth
        assert_no_nan(result)
        excess.append(excess_db(result, simulation))
        score = localisation(result.scatterer_positions_m, truth.scatterer_positions_m)
        assert (score.misses, score.false_alarms) == (0, 0)
        bound = isac.bounds.hybrid_crb(simulation)
        assert score.rmse_m < 3 * np.sqrt(np.mean(bound.position_rmse_m**2))
        assert symbol_error_rate(result, simulation) == 0
        assert result.converged and result.status == "converged"
        assert np.all(result.line_of_sight_probability > 0.9)
        matched = truth.visibility[:, score.truth_index]
        assert np.mean((result.visibility_probability[:, score.estimate_index] > 0.5) == matched) > 0.95
        assert np.linalg.norm(result.user_positions_m - truth.user_positions_m, axis=1).max() < 2
        assert np.abs(result.time_offsets_s - truth.time_offsets_s).max() < 5e-9
        assert result.noise_variance == pytest.approx(truth.noise_variance, rel=0.05)
    assert np.mean(excess) < 1.0


def test_both_coarse_stages_end_at_the_same_scene():
    observation = URBAN.simulate(0).observation
    results = [isac.EMTurboBiSVBI(coarse=coarse).estimate(observation) for coarse in ("nomp", "music")]
    score = localisation(results[0].scatterer_positions_m, results[1].scatterer_positions_m, 0.1)
    assert score.misses == score.false_alarms == 0
    assert channel_nmse_db(results[0].channel, results[1].channel) < -50
    assert np.array_equal(results[0].symbol_decision, results[1].symbol_decision)


@pytest.mark.parametrize("snr_db", [0.0, 25.0])
def test_other_snrs(snr_db):
    excess, misses, false_alarms = [], 0, 0
    for seed in range(3):
        simulation = URBAN.replace(snr_db=snr_db).simulate(seed)
        result = isac.EMTurboBiSVBI().estimate(simulation.observation)
        assert_no_nan(result)
        excess.append(excess_db(result, simulation))
        score = localisation(result.scatterer_positions_m, simulation.truth.scatterer_positions_m)
        misses, false_alarms = misses + score.misses, false_alarms + score.false_alarms
    assert np.mean(excess) < 2.0
    assert misses <= 2 and false_alarms <= 2


def test_variances_cover_the_errors():
    """Reported channel, user and clock variances against the errors made, over seeds."""
    channel, position = [], []
    for seed in range(6):
        simulation = SMALL.simulate(seed)
        truth = simulation.truth
        result = isac.EMTurboBiSVBI().estimate(simulation.observation)
        squared = np.abs(result.channel - truth.channel) ** 2
        channel.append(squared.sum() / result.channel_variance.sum())
        score = localisation(result.scatterer_positions_m, truth.scatterer_positions_m)
        for i, j in zip(score.estimate_index, score.truth_index, strict=True):
            error = result.scatterer_positions_m[i] - truth.scatterer_positions_m[j]
            position.append(error @ np.linalg.solve(result.scatterer_covariance_m2[i], error))
    assert 0.3 < np.median(channel) < 2.5
    assert 0.5 < np.median(position) < 8  # chi-square of three: median 2.4


# --- result ------------------------------------------------------------------------------------------


def check_result(result: isac.EstimationResult, observation: isac.UplinkObservation) -> None:
    """Shapes, dtypes and ranges that every result has."""
    k, n, t = observation.pilots.shape
    m, bits = observation.array.n_elements, observation.bits_per_symbol
    s, c, p = (
        len(result.scatterer_positions_m),
        len(result.candidates.scatterer_positions_m),
        len(result.unlocated_paths),
    )
    real, integer = np.dtype(float), np.dtype(np.int64)
    expected = {
        "channel": ((k, n, m), np.dtype(complex)),
        "channel_variance": ((k, n, m), real),
        "scatterer_positions_m": ((s, 3), real),
        "scatterer_probability": ((s,), real),
        "scatterer_covariance_m2": ((s, 3, 3), real),
        "visibility_probability": ((k, s), real),
        "line_of_sight_probability": ((k,), real),
        "user_positions_m": ((k, 3), real),
        "user_position_covariance_m2": ((k, 3, 3), real),
        "time_offsets_s": ((k,), real),
        "time_offset_std_s": ((k,), real),
        "symbol_mean": ((k, n, t), np.dtype(complex)),
        "symbol_decision": ((k, n, t), integer),
        "llr": ((k, n, t, bits), real),
        "candidates.scatterer_positions_m": ((c, 3), real),
        "candidates.scatterer_probability": ((c,), real),
        "candidates.visibility_probability": ((k, c), real),
        "unlocated_paths.user": ((p,), integer),
        "unlocated_paths.direction_cosines": ((p, 2), real),
        "unlocated_paths.delay_s": ((p,), real),
        "unlocated_paths.gain": ((p,), np.dtype(complex)),
        "unlocated_paths.probability": ((p,), real),
    }
    for name, (shape, dtype) in expected.items():
        value = result
        for part in name.split("."):
            value = getattr(value, part)
        assert (value.shape, value.dtype) == (shape, dtype), name
        if "probability" in name:
            assert np.all((value >= 0) & (value <= 1)), name
    assert_no_nan(result)
    assert isinstance(result.noise_variance, float) and result.noise_variance > 0
    assert isinstance(result.converged, bool) and isinstance(result.n_iter, int)
    assert len(result.history) == result.n_iter >= 1 and result.status
    assert result.converged == (result.status in ("converged", "finished", "ambiguous", "misfit"))
    assert np.all(result.channel_variance >= 0) and np.all(result.time_offset_std_s >= 0)
    for covariance in (result.scatterer_covariance_m2, result.user_position_covariance_m2):
        assert_allclose(covariance, np.swapaxes(covariance, 1, 2), rtol=1e-3, atol=1e-9)
        if len(covariance):
            assert np.linalg.eigvalsh(covariance).min() > -1e-9 * max(covariance.max(), 1e-12)
    low, high = observation.region_m
    for points in (result.scatterer_positions_m, result.candidates.scatterer_positions_m):
        assert np.all(points >= low) and np.all(points <= high)
    assert np.all(result.scatterer_probability >= 0.5)
    # every reported point is a candidate with the same probability
    for point, probability in zip(result.scatterer_positions_m, result.scatterer_probability, strict=True):
        same = np.all(result.candidates.scatterer_positions_m == point, axis=1)
        assert probability in result.candidates.scatterer_probability[same]
    known = observation.known
    assert np.array_equal(result.symbol_mean[known], observation.pilots[known])
    assert np.all(result.symbol_decision[known] == -1) and not result.llr[known].any()
    decision, llr = result.symbol_decision[~known], result.llr[~known]
    assert np.all((decision >= 0) & (decision < observation.constellation.size))
    if observation.constellation.size == 4:  # two bits each surer than 3 : 1 leave their point above one half
        weights = 1 << np.arange(bits)[::-1]
        clear = np.all(np.abs(llr) > np.log(3), axis=1)
        assert np.array_equal(((llr < 0) @ weights)[clear], decision[clear])
    known_clock = observation.time_offset_stds_s == 0
    assert not result.time_offsets_s[known_clock].any() and not result.time_offset_std_s[known_clock].any()
    known_place = observation.user_position_stds_m == 0
    assert np.array_equal(result.user_positions_m[known_place], observation.user_positions_m[known_place])


ESTIMATORS = {
    "bisvbi": isac.EMTurboBiSVBI(),
    "bisvbi_music": isac.EMTurboBiSVBI(coarse="music"),
    "music_scvbi": isac.MusicSCVBI(),
    "nomp": isac.NOMP(),
    "least_squares": isac.LeastSquares(),
}


@pytest.mark.parametrize("name", ESTIMATORS)
def test_fields_of_every_result(name):
    observation = SMALL.simulate(0).observation
    check_result(ESTIMATORS[name].estimate(observation), observation)


BLOCKS = {
    "one_user": {"n_users": 1},
    "no_line_of_sight": {"line_of_sight_probability": 0.0},
    "some_lines_of_sight": {"line_of_sight_probability": 0.5, "n_users": 3, "n_pilot_symbols": 3},
    "no_scatterers": {"n_scatterers": 0},
    "no_data": {"n_data_symbols": 0},
    "known_users": {"user_position_std_m": 0.0},
    "known_clocks": {"time_offset_std_s": 0.0},
    "everything_known": {"user_position_std_m": 0.0, "time_offset_std_s": 0.0},
    "comb": {"pilot_pattern": "comb"},
    "short_comb": {"pilot_pattern": "comb", "n_pilot_symbols": 1},
    "random": {"pilot_pattern": "random", "n_pilot_symbols": 4},
    "16qam": {"modulation": "16qam", "snr_db": 20.0},
    "spherical": {"wavefront": "spherical", "carrier_hz": 1e9},
    "spherical_28ghz": {
        "wavefront": "spherical",
        "carrier_hz": 28e9,
        "spacing_wavelengths": 8.0,
        "snr_db": 20.0,
    },
    "low_snr": {"snr_db": -15.0},
    "high_snr": {"snr_db": 80.0},
    "no_noise": {"snr_db": 300.0},
    "no_power_control": {"power_control": False},
    "tilted": {"elevation_rad": -0.2, "azimuth_rad": 0.1},
    "line_array": {"array_shape": (24, 1)},
    "one_symbol_each": {"n_data_symbols": 1},
}


@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.slow)])
@pytest.mark.parametrize("block", BLOCKS)
@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=pytest.mark.slow if n == "bisvbi_music" else ()) for n in ESTIMATORS],
)
def test_every_estimator_on_every_kind_of_block(name, block, seed):
    observation = SMALL.replace(**BLOCKS[block]).simulate(seed).observation
    check_result(ESTIMATORS[name].estimate(observation), observation)


@pytest.mark.parametrize(
    "block",
    ["one_user", "known_users", "known_clocks", "everything_known", "comb", "random", "spherical", "no_data"],
)
def test_kinds_of_blocks_near_the_bound(block):
    excess, errors = [], []
    for seed in range(4):
        simulation = SMALL.replace(**BLOCKS[block]).simulate(seed)
        result = isac.EMTurboBiSVBI().estimate(simulation.observation)
        excess.append(excess_db(result, simulation))
        errors.append(symbol_error_rate(result, simulation))
    assert np.median(excess) < 3.0
    if block != "no_data":
        assert np.mean(errors) < 0.02


def test_16qam_is_detected():
    for seed in range(2):
        simulation = URBAN.replace(modulation="16qam", snr_db=12.0).simulate(seed)
        result = isac.EMTurboBiSVBI().estimate(simulation.observation)
        assert symbol_error_rate(result, simulation) < 0.01
        assert excess_db(result, simulation) < 2.0


def test_a_curved_wavefront_needs_the_spherical_model():
    """A wide array at 400 MHz: the planar model leaves an error that the spherical one does not."""
    simulation = SMALL.replace(wavefront="spherical", carrier_hz=400e6, snr_db=25.0).simulate(0)
    curved = isac.EMTurboBiSVBI().estimate(simulation.observation)
    flat = isac.EMTurboBiSVBI(max_iter=10).estimate(
        with_arguments(simulation.observation, wavefront="planar")
    )
    truth = simulation.truth.channel
    assert excess_db(curved, simulation) < 2.0
    assert channel_nmse_db(curved.channel, truth) < channel_nmse_db(flat.channel, truth) - 3


def test_a_scene_without_scatterers_reports_none():
    reported, excess = 0, []
    for seed in range(6):
        simulation = URBAN.replace(n_scatterers=0).simulate(seed)
        result = isac.EMTurboBiSVBI().estimate(simulation.observation)
        reported += len(result.scatterer_positions_m) + len(result.unlocated_paths)
        excess.append(excess_db(result, simulation))  # few unknowns: single runs scatter
        assert np.all(result.line_of_sight_probability > 0.9)
    assert reported <= 1
    assert np.mean(excess) < 2.0


def test_lines_of_sight_that_do_not_exist_are_doubted():
    simulation = URBAN.replace(line_of_sight_probability=0.5).simulate(0)
    truth = simulation.truth
    assert 0 < truth.line_of_sight.sum() < 3
    result = isac.EMTurboBiSVBI().estimate(simulation.observation)
    assert np.array_equal(result.line_of_sight_probability > 0.5, truth.line_of_sight)


def test_known_noise_is_kept():
    simulation = URBAN.simulate(0)
    known = simulation.truth.noise_variance
    for estimator in (isac.EMTurboBiSVBI(), isac.NOMP(), isac.MusicSCVBI(), isac.LeastSquares()):
        result = estimator.estimate(with_arguments(simulation.observation, noise_variance=known))
        assert result.noise_variance == pytest.approx(known, rel=1e-9)
        assert_allclose(result.history.noise_variance, known, rtol=1e-9)


# --- settings ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("m_step", ["gauss_newton", "gradient"])
@pytest.mark.parametrize(("coarse", "max_iter"), [("nomp", 8), ("music", 2)])
def test_every_rule_and_m_step_runs(rule, m_step, coarse, max_iter):
    simulation = SMALL.simulate(0)
    estimator = isac.EMTurboBiSVBI(rule=rule, m_step=m_step, coarse=coarse, max_iter=max_iter)
    result = estimator.estimate(simulation.observation)
    check_result(result, simulation.observation)
    assert channel_nmse_db(result.channel, simulation.truth.channel) < (-20 if coarse == "nomp" else -10)


@pytest.mark.slow
@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("m_step", ["gauss_newton", "gradient"])
def test_every_rule_ends_from_the_music_start(rule, m_step):
    """Rules that keep many of MUSIC's peaks must not search their merges without end."""
    code = (
        "import isac_toolbox as isac\n"
        "from helpers.scenes import SMALL\n"
        f"estimator = isac.EMTurboBiSVBI(coarse='music', rule={rule!r}, m_step={m_step!r})\n"
        "estimator.estimate(SMALL.simulate(0).observation)\n"
    )
    subprocess.run([sys.executable, "-c", code], cwd=TESTS, check=True, timeout=60)


@pytest.mark.parametrize("rule", RULES)
def test_every_rule_of_music_scvbi_runs(rule):
    observation = SMALL.simulate(0).observation
    check_result(isac.MusicSCVBI(rule=rule).estimate(observation), observation)


def test_data_help():
    aided, alone = [], []
    for seed in range(3):
        simulation = URBAN.replace(snr_db=5.0).simulate(seed)
        for data_aided, values in ((True, aided), (False, alone)):
            result = isac.EMTurboBiSVBI(data_aided=data_aided).estimate(simulation.observation)
            check_result(result, simulation.observation)
            values.append(channel_nmse_db(result.channel, simulation.truth.channel))
    assert np.mean(aided) < np.mean(alone) - 2


@pytest.mark.parametrize("coarse", ["nomp", "music"])
def test_without_unlocated_paths_there_are_none(coarse):
    observation = SMALL.simulate(0).observation
    result = isac.EMTurboBiSVBI(unlocated_paths=False, coarse=coarse).estimate(observation)
    check_result(result, observation)
    assert len(result.unlocated_paths) == 0


def test_a_city_without_unlocated_paths():
    observation = isac.Scenario.load("traced_munich").simulate(0).observation
    result = isac.EMTurboBiSVBI(unlocated_paths=False, max_iter=4).estimate(observation)
    check_result(result, observation)


@pytest.mark.parametrize("estimator", [isac.EMTurboBiSVBI(max_iter=1), isac.MusicSCVBI(max_iter=1)])
def test_one_iteration(estimator):
    observation = SMALL.simulate(0).observation
    result = estimator.estimate(observation)
    check_result(result, observation)
    assert (result.n_iter, len(result.history), result.status) == (1, 1, "iteration limit")
    assert not result.converged


def test_settings_are_frozen():
    with pytest.raises(AttributeError):
        isac.EMTurboBiSVBI().max_iter = 3


# --- the loop ----------------------------------------------------------------------------------------


def test_callbacks_see_every_iteration():
    observation = SMALL.simulate(0).observation
    for estimator in (isac.EMTurboBiSVBI(max_iter=6), isac.MusicSCVBI(max_iter=6)):
        seen: list[int] = []
        result = estimator.estimate(observation, callback=lambda loop, seen=seen: seen.append(loop.n_iter))
        assert seen == list(range(1, result.n_iter + 1))
        seconds = result.history.seconds
        assert np.all(np.diff(seconds) >= 0) and np.all(seconds > 0)


def test_a_time_limit_leaves_a_valid_result():
    """However little time there is: the coarse stage, one E-step, and what they know."""
    simulation = isac.Scenario.load("traced_munich").simulate(0)
    limited = isac.EMTurboBiSVBI(max_seconds=1e-6).estimate(simulation.observation)
    assert (limited.status, limited.converged, limited.n_iter) == ("time limit", False, 1)
    check_result(limited, simulation.observation)
    assert isac.metrics.channel_nmse_db(limited.channel, simulation.truth.channel) < -5
    roomy = isac.EMTurboBiSVBI(max_seconds=1e4).estimate(simulation.observation)
    free = isac.EMTurboBiSVBI().estimate(simulation.observation)
    assert roomy.status == free.status
    np.testing.assert_array_equal(roomy.channel, free.channel)


@pytest.mark.parametrize("bad", [0, -2.0, np.nan, True, "3"])
def test_max_seconds_is_checked(bad):
    with pytest.raises((TypeError, ValueError), match="max_seconds must be a positive number"):
        isac.EMTurboBiSVBI(max_seconds=bad)


def test_a_callback_stops_inside_an_iteration(monkeypatch):
    """With no second to wait it is asked between moves: the third iteration searches for structure."""
    monkeypatch.setattr("isac_toolbox.inference.turbo._ASK_EVERY_S", 0.0)
    observation = isac.Scenario.load("traced_munich").simulate(0).observation
    seen: list[int] = []

    def stop(loop):
        seen.append(loop.n_iter)
        return seen.count(2) == 4

    result = isac.EMTurboBiSVBI().estimate(observation, callback=stop)
    assert (result.status, result.n_iter) == ("stopped by callback", 3)
    check_result(result, observation)


def test_a_callback_stops_the_loop():
    observation = SMALL.simulate(0).observation
    for estimator in (isac.EMTurboBiSVBI(), isac.MusicSCVBI()):
        result = estimator.estimate(observation, callback=lambda loop: loop.n_iter == 2)
        assert (result.n_iter, result.status, result.converged) == (2, "stopped by callback", False)
        check_result(result, observation)


def test_callbacks_may_look_at_the_result_on_the_way():
    observation = SMALL.simulate(0).observation
    on_the_way = []
    final = isac.EMTurboBiSVBI(max_iter=5).estimate(
        observation, callback=lambda loop: on_the_way.append(loop.result().channel)
    )
    assert np.array_equal(on_the_way[-1], final.channel)


def test_setup_and_step_by_hand():
    observation = SMALL.simulate(0).observation
    loop = BiSVBILoop(isac.EMTurboBiSVBI(), observation)
    loop.setup()
    first = loop.working
    for _ in range(3):
        loop.step()
        assert np.isfinite(loop.objective) and loop.noise_variance > 0 and loop.n_active > 0
    assert loop.working is not first
    assert len(loop.result().history) == 0  # only run keeps a history
    assert_no_nan(loop.result())
    loop.run()
    again = isac.EMTurboBiSVBI().estimate(observation)
    assert loop.status == again.status and len(loop.history) == again.n_iter
    assert_allclose(loop.result().channel, again.channel, rtol=1e-8)


# --- cities ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["traced_munich", "traced_street_canyon"])
def test_traced_cities_run_through(name):
    simulation = isac.Scenario.load(name).simulate(0)
    result = isac.EMTurboBiSVBI().estimate(simulation.observation)
    check_result(result, simulation.observation)
    assert channel_nmse_db(result.channel, simulation.truth.channel) < -35
    assert symbol_error_rate(result, simulation) < 0.01
    if name == "traced_munich":
        assert len(result.unlocated_paths) > 0


@pytest.mark.slow
@pytest.mark.parametrize("name", ["traced_munich", "traced_street_canyon"])
def test_traced_cities_for_many_users(name):
    for seed in range(1, 7):
        simulation = isac.Scenario.load(name).simulate(seed)
        for estimator in (isac.EMTurboBiSVBI(), isac.NOMP(), isac.LeastSquares()):
            check_result(estimator.estimate(simulation.observation), simulation.observation)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["urban_uplink", "low_snr", "rich_scattering"])
def test_ready_scenarios_over_seeds(name):
    excess, misses, false_alarms, total = [], 0, 0, 0
    for seed in range(10):
        simulation = isac.Scenario.load(name).simulate(seed)
        result = isac.EMTurboBiSVBI().estimate(simulation.observation)
        check_result(result, simulation.observation)
        excess.append(excess_db(result, simulation))
        score = localisation(result.scatterer_positions_m, simulation.truth.scatterer_positions_m)
        misses, false_alarms = misses + score.misses, false_alarms + score.false_alarms
        total += score.hits + score.misses
    assert np.mean(excess) < (6.0 if name == "low_snr" else 1.5)
    assert misses <= 0.1 * total and false_alarms <= 0.15 * total


@pytest.mark.parametrize("seed", [13, 14])
def test_births_from_nothing(seed):
    """Far below the noise the coarse search finds no path of an echo: births start from an empty scene."""
    standard = isac.Scenario.load("monostatic_echo").model_dump()
    small = {"n_subcarriers": 24, "array_shape": (4, 4), "n_scatterers": 1, "snr_db": -26.0}
    simulation = isac.Scenario(**(standard | small)).simulate(seed)
    result = isac.EMTurboBiSVBI(coarse="music").estimate(simulation.observation)
    assert np.isfinite(result.channel).all()
    assert np.mean(np.abs(result.channel) ** 2) < simulation.truth.noise_variance


# --- linear arrays -----------------------------------------------------------------------------------

ROW = URBAN.replace(array_shape=(16, 1), snr_db=20.0)
#: Base station, users and scatterers at one height, in a region 0.2 m thick.
FLAT = ROW.replace(bs_position_m=(0.0, 0.0, 1.5), region_m=((20.0, -30.0, 1.4), (80.0, 30.0, 1.6)))


def truths_in_ellipsoids(result: isac.EstimationResult, simulation: isac.Simulation) -> tuple[int, int]:
    """Scatterers inside the 99.9 % ellipsoid of a point, and points without one, ridges of 0.1 mm aside."""
    truths = simulation.truth.scatterer_positions_m
    found: set[int] = set()
    false = 0
    for point, covariance in zip(result.scatterer_positions_m, result.scatterer_covariance_m2, strict=True):
        apart = point - truths
        inverse = np.linalg.inv(covariance + 1e-8 * np.eye(3))
        squared = np.einsum("si,ij,sj->s", apart, inverse, apart)
        nearest = int(np.argmin(squared))
        if squared[nearest] < 16.3 and nearest not in found:
            found.add(nearest)
        else:
            false += 1
    return len(found), false


@pytest.mark.parametrize("n_seeds", [5, pytest.param(20, marks=pytest.mark.slow)], ids=["few", "many"])
def test_a_row_of_antennas_finds_what_lies_in_a_plane(n_seeds):
    found = false = wanted = 0
    excess = []
    for seed in range(n_seeds):
        simulation = FLAT.simulate(seed)
        result = isac.EMTurboBiSVBI().estimate(simulation.observation)
        bound = isac.bounds.hybrid_crb(simulation)
        hits, misses = truths_in_ellipsoids(result, simulation)
        found, false = found + hits, false + misses
        wanted += len(simulation.truth.scatterer_positions_m)
        excess.append(excess_db(result, simulation))
        stated = np.sqrt(np.trace(result.scatterer_covariance_m2, axis1=1, axis2=2))
        assert np.median(stated) == pytest.approx(np.median(bound.position_rmse_m), rel=0.3)
        assert len(result.warnings) == 1 and "vertical direction cosine" in result.warnings[0]
    assert found >= 0.9 * wanted and false <= 0.03 * wanted
    assert np.mean(excess) < 1.0 and np.mean(np.array(excess) < 1.0) >= 0.8


@pytest.mark.parametrize("n_seeds", [5, pytest.param(20, marks=pytest.mark.slow)], ids=["few", "many"])
def test_a_row_of_antennas_invents_nothing_in_space(n_seeds):
    """Heights are open but for what users see from different sides; the channel does not suffer."""
    confident = shown = 0
    excess = []
    for seed in range(n_seeds):
        simulation = ROW.simulate(seed)
        result = isac.EMTurboBiSVBI(coarse="music").estimate(simulation.observation)
        hits, misses = truths_in_ellipsoids(result, simulation)
        shown += hits + misses
        sure = result.scatterer_probability > 0.9
        _, wrong = truths_in_ellipsoids(
            replace(
                result,
                scatterer_positions_m=result.scatterer_positions_m[sure],
                scatterer_covariance_m2=result.scatterer_covariance_m2[sure],
            ),
            simulation,
        )
        confident += wrong
        excess.append(excess_db(result, simulation))
        assert any("MUSIC" in text for text in result.warnings)
    assert shown >= 2 * n_seeds and confident <= 0.03 * shown
    assert np.mean(excess) < 1.0


def test_one_antenna_keeps_channel_and_data():
    scenario = URBAN.replace(array_shape=(1, 1), n_users=1, n_pilot_symbols=1, n_scatterers=3, snr_db=20.0)
    for seed in range(3):
        simulation = scenario.simulate(seed)
        result = isac.EMTurboBiSVBI().estimate(simulation.observation)
        assert excess_db(result, simulation) < 3.0
        genie = isac.GenieLMMSE(simulation.truth).estimate(
            simulation.observation
        )  # fades cost it symbols too
        assert symbol_error_rate(result, simulation) <= symbol_error_rate(genie, simulation) + 0.005
        assert not len(result.scatterer_positions_m) and not result.unlocated_paths.direction_cosines.any()
