"""Blocks that move through the estimators: accuracy, what results say, and what does not go together."""

from __future__ import annotations

from dataclasses import fields, replace
from functools import cache

import numpy as np
import pytest

import isac_toolbox as isac
from helpers.moving import SMALL_MOVING
from helpers.scenes import SMALL
from isac_toolbox.estimators.bisvbi import BiSVBILoop
from isac_toolbox.estimators.fallback import better_of

MOVING = ("moving_uplink", "moving_mmwave", "hidden_offset", "monostatic_moving")
pytestmark = pytest.mark.filterwarnings("ignore::isac_toolbox.ImplausibleValueWarning")


@pytest.fixture(scope="module")
def small():
    simulation = SMALL_MOVING.simulate(2)
    return simulation, isac.EMTurboBiSVBI().estimate(simulation.observation)


@cache
def estimated(name: str):
    """A block of a ready scenario, its result and its bound."""
    simulation = isac.Scenario.load(name).simulate(0)
    result = isac.EMTurboBiSVBI().estimate(simulation.observation)
    return simulation, result, isac.bounds.hybrid_crb(simulation)


@pytest.fixture(params=MOVING)
def ready(request):
    return estimated(request.param)


def error_over_time_db(result, truth) -> float:
    symbols = range(truth.symbols.shape[2])
    return isac.metrics.channel_nmse_db(result.channel_at(symbols), truth.channel_at(symbols))


def test_ready_scenarios_come_near_the_bound_over_all_symbols(ready):
    simulation, result, bound = ready
    assert result.status == "converged" and not result.warnings
    assert error_over_time_db(result, simulation.truth) < bound.channel_nmse_db + 1
    found = isac.metrics.localisation(result.scatterer_positions_m, simulation.truth.scatterer_positions_m)
    assert found.misses <= 1 and found.false_alarms <= 1


def test_velocities_and_offsets_err_as_they_are_said_to(ready):
    simulation, result, bound = ready
    truth = simulation.truth
    error = result.user_velocities_m_s - truth.user_velocities_m_s
    assert np.all(np.linalg.norm(error, axis=1) <= 4 * bound.user_velocity_rmse_m_s + 1e-9)
    offsets = np.abs(result.frequency_offsets_hz - truth.frequency_offsets_hz)
    assert np.all(offsets <= 4 * bound.frequency_offset_rmse_hz + 1e-9)
    assert np.all(offsets <= 4 * result.frequency_offset_std_hz + 1e-9)


def test_the_phases_of_all_oscillators_together_are_those_of_the_truth():
    """Beside a line over time, part of which the frequency offset may take."""
    simulation, result, _ = estimated("hidden_offset")
    truth = simulation.truth
    times = simulation.observation.motion.times_s
    found, expected = (
        x.symbol_phase_rad + x.user_symbol_phase_rad + 2 * np.pi * np.outer(x.frequency_offsets_hz, times)
        for x in (result, truth)
    )
    apart = found - expected
    apart -= apart.mean(axis=1, keepdims=True)
    slopes = apart @ times / (times @ times)
    assert np.std(apart - np.outer(slopes, times)) < 0.2 * np.std(expected)
    # each oscillator alone is known only to what walks leave open
    assert np.abs(result.symbol_phase_rad.mean()) < 1e-12
    assert np.all(result.frequency_offset_std_hz > 20)


def test_pilots_alone_tell_phases_as_well():
    simulation = isac.Scenario.load("hidden_offset").simulate(0)
    result = isac.EMTurboBiSVBI(data_aided=False).estimate(simulation.observation)
    assert result.user_symbol_phase_rad.any()
    bound = isac.bounds.hybrid_crb(simulation, known_data=False)
    assert error_over_time_db(result, simulation.truth) < bound.channel_nmse_db + 2


def test_results_are_saved_with_what_moves(small, tmp_path):
    _, result = small
    again = isac.EstimationResult.load(result.save(tmp_path / "moving"))
    assert np.array_equal(again.channel_at([0, 5]), result.channel_at([0, 5]))
    assert again.reference_time_s == result.reference_time_s
    for field in fields(result):
        value = getattr(result, field.name)
        if isinstance(value, np.ndarray):
            assert np.array_equal(getattr(again, field.name), value), field.name


def test_the_channel_of_the_reference_time_is_that_of_the_paths(small):
    """No phase walks here, so the evolution passes through it at the mean of the times."""
    simulation, result = small
    times = simulation.observation.symbol_times_s
    middle = np.flatnonzero(times == times.mean())
    assert result.reference_time_s == pytest.approx(times.mean())
    assert middle.size == 0  # eight symbols: none is in the middle
    two = result.channel_at([3, 4])
    assert isac.metrics.channel_nmse_db(two.mean(axis=3), result.channel) < -30
    assert np.all(result.channel_variance > 0)


@pytest.mark.parametrize("settings", [{"m_step": "gradient"}, {"dtype": "complex64"}, {"diffuse": False}])
def test_other_settings_follow_motion(settings, small):
    simulation, result = small
    other = isac.EMTurboBiSVBI(**settings).estimate(simulation.observation)
    expected = error_over_time_db(result, simulation.truth)
    assert error_over_time_db(other, simulation.truth) < expected + 2


def test_without_places_paths_have_shifts_of_their_own():
    simulation = SMALL_MOVING.simulate(2)
    unknown = dict.fromkeys(("user_positions_m", "user_position_std_m", "region_m"))
    result = isac.EMTurboBiSVBI().estimate(replace(simulation.observation, **unknown))
    assert error_over_time_db(result, simulation.truth) < -30
    assert result.unlocated_paths.doppler_hz.shape == (len(result.unlocated_paths),)
    assert result.unlocated_paths.doppler_hz.any()


def test_masked_cells_and_elements_are_left_out(small):
    simulation, _ = small
    obs = simulation.observation
    cells = np.random.default_rng(0).random((obs.n_subcarriers, 1, obs.n_symbols)) < 0.9
    cells[:, 0, :2] = True
    elements = np.arange(obs.array.n_elements) != 7
    received = np.where(cells & elements[:, None], obs.received, 1e6)
    masked = replace(
        obs,
        received=received,
        sample_mask=np.broadcast_to(cells, obs.received.shape),
        element_mask=elements,
    )
    result = isac.EMTurboBiSVBI().estimate(masked)
    bound = isac.bounds.hybrid_crb(replace(simulation, observation=masked))
    assert error_over_time_db(result, simulation.truth) < bound.channel_nmse_db + 3


# --- nothing moves -----------------------------------------------------------------------------------


def test_times_alone_change_no_bit_of_a_result():
    still = SMALL.simulate(0).observation
    timed = replace(still, symbol_times_s=np.arange(still.n_symbols) * 4e-6)
    assert timed.motion is None
    first, second = (isac.EMTurboBiSVBI().estimate(obs) for obs in (still, timed))
    assert second.reference_time_s is None and second.evolution is None
    for field in fields(first):
        value = getattr(first, field.name)
        if isinstance(value, np.ndarray):
            assert np.array_equal(value, getattr(second, field.name)), field.name


def test_a_block_that_could_move_but_does_not_is_estimated_as_well():
    simulation = SMALL.simulate(0)
    obs = simulation.observation
    could = replace(
        obs, symbol_times_s=np.arange(obs.n_symbols) * 36e-6, frequency_offset_std_hz=100.0, carrier_hz=3.5e9
    )
    plain, moving = (isac.EMTurboBiSVBI().estimate(o) for o in (obs, could))
    errors = [isac.metrics.channel_nmse_db(r.channel, simulation.truth.channel) for r in (plain, moving)]
    assert errors[1] < errors[0] + 1.5
    assert np.all(np.abs(moving.frequency_offsets_hz) < 4 * moving.frequency_offset_std_hz)


# --- what does not go together -----------------------------------------------------------------------


@pytest.mark.parametrize("inverse", ["full", "mm"])
def test_inverses_on_a_grid_are_refused(inverse, small):
    with pytest.raises(ValueError, match=rf"inverse must be 'subspace' .*symbol_times_s.* got '{inverse}'"):
        isac.EMTurboBiSVBI(inverse=inverse).estimate(small[0].observation)


def test_single_missing_samples_are_refused(small):
    obs = small[0].observation
    mask = np.ones(obs.received.shape, bool)
    mask[3, 2, 4] = mask[5, 1:3, 0] = False
    with pytest.raises(ValueError, match=r"sample_mask must leave out whole .*element_mask: got 2 resource"):
        isac.EMTurboBiSVBI().estimate(replace(obs, sample_mask=mask))


def test_nomp_takes_the_place_of_music(small):
    simulation, result = small
    other = isac.EMTurboBiSVBI(coarse="music").estimate(simulation.observation)
    assert any("symbol_times_s" in w and "NOMP" in w and "coarse='music'" in w for w in other.warnings)
    assert np.array_equal(other.channel, result.channel)


@pytest.mark.parametrize("name", ["MusicSCVBI", "NOMP", "OMP", "LeastSquares", "GenieLMMSE"])
def test_methods_that_follow_no_motion_say_so(name):
    for scenario, expected in ((SMALL_MOVING, 1), (SMALL, 0)):
        simulation = scenario.simulate(0)
        kind = getattr(isac, name)
        estimator = kind(simulation.truth) if name == "GenieLMMSE" else kind()
        result = estimator.estimate(simulation.observation)
        said = [w for w in result.warnings if w.startswith("symbol_times_s:") and "EMTurboBiSVBI" in w]
        assert len(said) == expected and result.evolution is None


# --- parts that look at the whole block --------------------------------------------------------------


def test_least_squares_is_compared_with_the_channel_over_time(small):
    simulation, result = small
    obs, plain = simulation.observation, isac.LeastSquares().estimate(simulation.observation)
    kept = replace(result, channel=np.zeros_like(result.channel))
    assert better_of(obs, kept, plain) is kept
    turned = replace(result.evolution, curves=result.evolution.curves * np.exp(1.5j))
    other = better_of(obs, replace(result, evolution=turned), plain)
    assert other.channel is plain.channel
    assert np.array_equal(other.channel_at([3])[..., 0], plain.channel)


def test_doubts_about_the_data_count_what_the_moving_channel_leaves():
    """Where the model fits there is nothing to temper decisions for, as little as in a block at rest."""
    simulation = isac.Scenario.load("moving_uplink").simulate(0)
    loop = BiSVBILoop(isac.EMTurboBiSVBI(data_aided=False), simulation.observation)
    sure = loop.run_bounded()
    loop.doubts_data = True
    doubting = loop.result()
    data = np.abs(sure.llr) > 1
    assert np.median(doubting.llr[data] / sure.llr[data]) > 0.5
