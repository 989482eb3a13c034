"""Baselines, and their order against the joint estimator."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from numpy.testing import assert_allclose

import isac_toolbox as isac
from helpers.scenes import SMALL, assert_no_nan, with_arguments
from isac_toolbox.metrics import channel_nmse_db, localisation, symbol_error_rate

URBAN = isac.Scenario.load("urban_uplink")


def mean_nmse_db(estimator, simulations) -> float:
    """Linear mean of the NMSE over runs, in dB."""
    values = [
        channel_nmse_db(estimator.estimate(s.observation).channel, s.truth.channel) for s in simulations
    ]
    return 10 * np.log10(np.mean(10 ** (np.array(values) / 10)))


def test_order_of_the_methods():
    simulations = [URBAN.simulate(seed) for seed in range(3)]
    joint, nomp, music, plain = (
        mean_nmse_db(estimator, simulations)
        for estimator in (isac.EMTurboBiSVBI(), isac.NOMP(), isac.MusicSCVBI(), isac.LeastSquares())
    )
    assert joint < nomp - 3 and nomp < music - 3 and music < plain


# --- least squares -----------------------------------------------------------------------------------


@pytest.mark.parametrize("snr_db", [0.0, 20.0])
def test_least_squares_error_is_the_noise_over_the_pilot_energy(snr_db):
    simulation = URBAN.replace(snr_db=snr_db).simulate(0)
    result = isac.LeastSquares().estimate(simulation.observation)
    error = np.mean(np.abs(result.channel - simulation.truth.channel) ** 2)
    assert error == pytest.approx(simulation.truth.noise_variance / 4, rel=0.1)  # four pilot symbols
    assert np.mean(result.channel_variance) == pytest.approx(error, rel=0.15)
    assert result.noise_variance == pytest.approx(simulation.truth.noise_variance, rel=0.1)
    assert len(result.scatterer_positions_m) == len(result.unlocated_paths) == 0
    assert np.all(result.line_of_sight_probability == 0.5)
    assert np.array_equal(result.user_positions_m, simulation.observation.user_positions_m)


def test_least_squares_noise_when_the_pilots_are_just_enough():
    """As many pilot symbols as users: the fit leaves no residual, and the noise must come otherwise."""
    estimates = []
    for snr_db in (0.0, 20.0):
        simulation = URBAN.replace(n_pilot_symbols=3, snr_db=snr_db).simulate(0)
        result = isac.LeastSquares().estimate(simulation.observation)
        assert result.noise_variance > 0
        estimates.append(result.noise_variance / simulation.truth.noise_variance)
    assert np.all(np.array(estimates) < 10) and np.all(np.array(estimates) > 0.3)


def test_least_squares_interpolates_a_comb():
    """A channel that varies slowly over frequency survives the gaps between the comb's teeth."""
    scenario = SMALL.replace(
        pilot_pattern="comb", n_pilot_symbols=1, subcarrier_spacing_hz=2e4, snr_db=60.0, time_offset_std_s=0.0
    )
    simulation = scenario.simulate(0)
    result = isac.LeastSquares().estimate(simulation.observation)
    assert channel_nmse_db(result.channel, simulation.truth.channel) < -30
    assert symbol_error_rate(result, simulation) < 0.01


# --- NOMP --------------------------------------------------------------------------------------------


def test_nomp_reports_certainties():
    simulation = URBAN.replace(snr_db=20.0).simulate(0)
    truth = simulation.truth
    result = isac.NOMP().estimate(simulation.observation)
    assert np.all(result.candidates.scatterer_probability == 1)
    assert np.isin(result.visibility_probability, (0, 1)).all()
    assert np.isin(result.line_of_sight_probability, (0, 1)).all()
    score = localisation(result.scatterer_positions_m, truth.scatterer_positions_m)
    assert score.misses == 0 and score.false_alarms <= 1
    assert symbol_error_rate(result, simulation) == 0
    assert (result.n_iter, result.status, result.converged) == (1, "finished", True)


def test_nomp_finds_less_the_fewer_false_alarms_it_may_raise():
    noise = SMALL.simulate(0).observation
    rng = np.random.default_rng(0)
    pure = with_arguments(noise, received=rng.standard_normal(noise.received.shape) + 0j)
    strict = isac.NOMP(false_alarm_rate=1e-6).estimate(pure)
    loose = isac.NOMP(false_alarm_rate=0.9).estimate(pure)
    assert strict.history.n_active[0] <= loose.history.n_active[0]
    assert_no_nan(strict)


def test_callbacks_of_methods_without_iterations_are_never_called():
    def never(loop):
        raise AssertionError("there is no loop to watch")

    simulation = SMALL.simulate(0)
    for estimator in (isac.NOMP(), isac.LeastSquares(), isac.GenieLMMSE(truth=simulation.truth)):
        estimator.estimate(simulation.observation, callback=never)


# --- genie -------------------------------------------------------------------------------------------


def test_the_genie_knows_the_truth():
    simulation = URBAN.simulate(0)
    truth = simulation.truth
    result = isac.GenieLMMSE(truth=truth).estimate(simulation.observation)
    assert np.array_equal(result.channel, truth.channel) and not result.channel_variance.any()
    assert np.array_equal(result.scatterer_positions_m, truth.scatterer_positions_m)
    assert np.array_equal(result.visibility_probability > 0.5, truth.visibility)
    assert np.array_equal(result.line_of_sight_probability > 0.5, truth.line_of_sight)
    assert_allclose(result.time_offsets_s, truth.time_offsets_s)
    assert result.noise_variance == truth.noise_variance
    assert symbol_error_rate(result, simulation) == 0
    assert_no_nan(result)


def test_the_genie_is_the_best_linear_receiver():
    genie, joint, plain = [], [], []
    for seed in range(4):
        simulation = URBAN.replace(snr_db=-13.0).simulate(seed)
        for estimator, errors in (
            (isac.GenieLMMSE(truth=simulation.truth), genie),
            (isac.EMTurboBiSVBI(), joint),
            (isac.LeastSquares(), plain),
        ):
            errors.append(symbol_error_rate(estimator.estimate(simulation.observation), simulation))
    assert 0 < np.mean(genie) < np.mean(plain)
    assert np.mean(joint) < 1.05 * np.mean(genie)  # decides users jointly, which the linear genie does not


@pytest.mark.parametrize("changes", [{"n_subcarriers": 16}, {"array_shape": (4, 4)}, {"n_users": 1}])
def test_a_truth_of_another_block_is_refused(changes):
    genie = isac.GenieLMMSE(truth=SMALL.replace(**changes).simulate(0).truth)
    with pytest.raises(ValueError, match=r"truth\.channel must have shape"):
        genie.estimate(SMALL.simulate(0).observation)


# --- MUSIC-SCVBI -------------------------------------------------------------------------------------


def test_music_scvbi_finds_most_scatterers():
    hits = total = 0
    for seed in range(3):
        simulation = URBAN.replace(snr_db=20.0).simulate(seed)
        observation = simulation.observation
        result = isac.MusicSCVBI().estimate(observation)
        score = localisation(
            result.candidates.scatterer_positions_m, simulation.truth.scatterer_positions_m, 2.0
        )
        hits, total = hits + score.hits, total + score.hits + score.misses
        assert np.array_equal(result.user_positions_m, observation.user_positions_m)
        assert len(result.candidates.scatterer_probability) >= len(result.scatterer_probability)
        assert symbol_error_rate(result, simulation) < 0.01
    assert hits >= 0.8 * total


def test_music_scvbi_keeps_the_only_scatterer():
    """Many peaks around one strong scatterer share its evidence; one of them must survive."""
    scenario = URBAN.replace(n_users=1, n_scatterers=1, visibility_probability=1.0, snr_db=20.0)
    kept = 0
    for seed in range(4):
        simulation = scenario.simulate(seed)
        result = isac.MusicSCVBI().estimate(simulation.observation)
        score = localisation(result.scatterer_positions_m, simulation.truth.scatterer_positions_m, 3.0)
        kept += score.hits
    assert kept >= 3


def test_history_of_a_single_record():
    simulation = SMALL.simulate(0)
    for estimator in (isac.NOMP(), isac.LeastSquares()):
        history = estimator.estimate(simulation.observation).history
        assert len(history) == 1 and history[0].seconds > 0 and history[0].n_active > 0
        assert np.isnan(history.objective[0])  # no objective to speak of


def test_genie_settings_are_frozen():
    genie = isac.GenieLMMSE(truth=SMALL.simulate(0).truth)
    with pytest.raises(AttributeError):
        genie.truth = None
    assert replace(isac.NOMP(), false_alarm_rate=0.1).false_alarm_rate == 0.1
