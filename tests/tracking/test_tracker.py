"""Tracks over blocks: identities, births and deaths, priors that count once, smoothing, warm starts."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

import isac_toolbox as isac
from helpers.moving import SMALL_MOVING
from helpers.scenes import SMALL
from helpers.tracks import PLACE_STD_M, Reports, observation_at, report_of
from isac_toolbox.tracking.belief import Belief

STEP_S = 0.1
QUIET = isac.ConstantVelocity((0.1, 0.1, 0.1), (0.1, 0.1, 0.1), 1e-10, 0.1)
#: Two scatterers whose ways cross in the tenth block, a wide cell apart in none of them but a few.
PLACES_M = np.array([[40.0, -6.0, 5.0], [40.0, 6.0, 5.0]])
SPEEDS_M_S = np.array([[0.0, 6.0, 0.0], [0.0, -6.0, 0.0]])


def _at(block: int) -> np.ndarray:
    return PLACES_M + block * STEP_S * SPEEDS_M_S


def _tracked(estimates, process=QUIET, **settings):
    """Results of a tracker of given estimates, the tracker, and the estimator that gave them."""
    reports = Reports(estimates)
    tracker = isac.Tracker(reports, process, **settings)
    return [tracker.update(observation_at(b * STEP_S)) for b in range(len(estimates))], tracker, reports


@pytest.mark.parametrize("seed", range(8))
def test_crossing_scatterers_keep_their_identities(seed):
    rng = np.random.default_rng(seed)
    estimates = []
    for b in range(21):
        order = rng.permutation(2)
        estimates.append(report_of(_at(b)[order], SPEEDS_M_S[order], rng))
    results, _, _ = _tracked(estimates)
    first, last = results[0], results[-1]
    assert last.track_ids.tolist() == first.track_ids.tolist()
    start = [np.argmin(np.linalg.norm(p - PLACES_M, axis=1)) for p in first.scatterer_positions_m]
    error = last.scatterer_positions_m - _at(20)[start]
    assert np.all(np.linalg.norm(error, axis=1) < 3 * PLACE_STD_M)


def test_what_cannot_be_told_apart_is_not_taken_for_gone():
    rng = np.random.default_rng(0)
    estimates = []
    for b in range(21):
        merged = abs(b - 10) <= 3
        between = _at(b).mean(axis=0, keepdims=True) + np.array([[0.0, 0.3, 0.0]])
        places = between if merged else _at(b)
        speeds = np.zeros((1, 3)) if merged else SPEEDS_M_S
        estimates.append(report_of(places, speeds, rng))
    results, _, _ = _tracked(estimates, survival_probability=0.999)
    survivors = set(results[0].track_ids) & set(results[-1].track_ids[results[-1].confirmed])
    assert len(survivors) == 2


def test_tracks_are_born_confirmed_and_given_up():
    rng = np.random.default_rng(1)
    three = np.vstack([PLACES_M, [[60.0, 20.0, 4.0]]])
    speeds = np.zeros((3, 3))
    shown = [[0, 1]] * 3 + [[0, 1, 2]] * 4 + [[1, 2]] * 6
    results, _, _ = _tracked([report_of(three[rows], speeds[rows], rng) for rows in shown])
    old, new = results[2], results[3]
    assert set(old.track_ids) < set(new.track_ids)
    assert new.confirmed.sum() == 2 and results[4].confirmed.sum() == 3
    assert results[6].existence_probability.min() > 0.95
    gone = results[-1]
    assert len(gone.track_ids) == 2 and gone.confirmed.all()
    missed = results[7]
    row = int(np.flatnonzero(missed.report < 0)[0])
    assert 0.01 < missed.existence_probability[row] < results[6].existence_probability.min()


def test_scatterers_outside_the_region_are_not_missed():
    rng = np.random.default_rng(2)
    outside = np.array([[79.5, 0.0, 5.0]])
    away = np.array([[20.0, 0.0, 0.0]])
    seen = [report_of(outside, away, rng) for _ in range(1)]
    nothing = [report_of(np.zeros((0, 3)), np.zeros((0, 3)), rng) for _ in range(5)]
    results, _, _ = _tracked(seen + nothing, survival_probability=0.999)
    assert results[-1].existence_probability[0] > 0.9


def test_users_priors_count_once():
    """Blocks that say nothing of users leave their first prior, widened by the process alone."""
    rng = np.random.default_rng(3)
    results, _, reports = _tracked([report_of(_at(b), SPEEDS_M_S, rng) for b in range(6)])
    stated = observation_at(0.0)
    first, last = results[0], results[-1]
    np.testing.assert_allclose(first.user_positions_m, stated.user_positions_m)
    one = np.diag(stated.user_position_stds_m[0] ** 2)
    np.testing.assert_allclose(first.user_position_covariance_m2[0], one, atol=1e-12)
    assert np.all(np.linalg.eigvalsh(last.user_position_covariance_m2[0] - one) > 0)
    np.testing.assert_allclose(last.time_offset_std_s, stated.time_offset_stds_s, rtol=1e-2)
    predicted = reports.asked[-1].user_position_std_m[0]
    np.testing.assert_allclose(predicted, np.sqrt(np.diag(last.user_position_covariance_m2[0])))


def test_smoothing_halves_the_error_of_early_velocities():
    rng = np.random.default_rng(4)
    estimates = [report_of(_at(b), SPEEDS_M_S, rng) for b in range(12)]
    results, tracker, _ = _tracked(estimates)
    later = tracker.smooth()
    assert [r.time_s for r in later] == [r.time_s for r in results]

    def error(result):
        return np.sqrt(np.mean((result.scatterer_velocities_m_s - SPEEDS_M_S) ** 2))

    assert error(later[0]) < 0.5 * error(results[0])
    places = [np.mean((r.scatterer_positions_m - _at(b)) ** 2) for b, r in enumerate(results)]
    smoother = [np.mean((r.scatterer_positions_m - _at(b)) ** 2) for b, r in enumerate(later)]
    assert np.mean(smoother) < 0.7 * np.mean(places)
    np.testing.assert_array_equal(later[-1].scatterer_positions_m, results[-1].scatterer_positions_m)
    for before, after in zip(results, later, strict=True):
        narrower = before.scatterer_covariance_m2 - after.scatterer_covariance_m2
        assert np.all(np.linalg.eigvalsh(narrower) > -1e-12)


def test_smoothing_goes_over_births_and_deaths():
    rng = np.random.default_rng(5)
    shown = [[0]] * 2 + [[0, 1]] * 3 + [[1]] * 6
    results, tracker, _ = _tracked([report_of(_at(0)[r], 0 * SPEEDS_M_S[r], rng) for r in shown])
    later = tracker.smooth()
    assert [r.track_ids.tolist() for r in later] == [r.track_ids.tolist() for r in results]
    assert all(np.isfinite(r.scatterer_covariance_m2).all() for r in later)


def test_a_block_without_information_is_passed_over():
    rng = np.random.default_rng(6)
    estimates = [report_of(_at(b), SPEEDS_M_S, rng) for b in range(4)]
    estimates[2].information = None
    estimates[2].status = "fell back to least squares"
    results, tracker, _ = _tracked(estimates)
    passed = results[2]
    assert passed.warnings[0].startswith("the estimate of this block holds no information")
    assert passed.report.tolist() == [-1, -1] and passed.confirmed.all()
    moved = results[1].scatterer_positions_m + STEP_S * results[1].scatterer_velocities_m_s
    np.testing.assert_allclose(passed.scatterer_positions_m, moved)
    assert results[3].track_ids.tolist() == results[0].track_ids.tolist()
    assert len(tracker.smooth()) == 4


def test_after_a_gap_users_start_anew():
    rng = np.random.default_rng(0)
    resting = np.zeros((2, 3))
    tracker = isac.Tracker(Reports([report_of(_at(0), resting, rng) for _ in range(3)]))
    before = [tracker.update(observation_at(b * STEP_S)) for b in range(2)][-1]
    later = observation_at(1e5)
    after = tracker.update(later)
    assert not before.warnings and after.warnings[0].startswith("users [0")
    stated = later.geometry
    assert np.all(
        np.abs(after.user_positions_m - stated.user_positions_m) <= 3 * stated.user_position_stds_m + 1
    )
    smooth = tracker.smooth()
    np.testing.assert_allclose(smooth[1].user_positions_m, before.user_positions_m, atol=1e-6)


def test_a_long_gap_takes_no_longer_than_a_first_block():
    """Predicted to kilometres, users once made the search run for minutes."""
    sims = list(SMALL_MOVING.simulate_track(2, 0.05, seed=0))
    tracker = isac.Tracker(isac.EMTurboBiSVBI(max_seconds=20.0))
    tracker.update(sims[0].observation)
    after = tracker.update(sims[1].observation, time_s=3600.0)
    assert after.estimate.status != "time limit"
    error = np.linalg.norm(after.user_positions_m - sims[1].truth.user_positions_m, axis=1)
    assert np.all(error < 4 * np.sqrt(np.trace(after.user_position_covariance_m2, axis1=1, axis2=2)))


def test_resting_scatterers_start_at_rest():
    rng = np.random.default_rng(7)
    (result,), _, _ = _tracked([report_of(PLACES_M, 0 * SPEEDS_M_S, rng, moving=1e-6)])
    assert np.abs(result.scatterer_velocities_m_s).max() < 0.1


def test_forgetting_starts_anew():
    rng = np.random.default_rng(8)
    estimates = [report_of(_at(0), SPEEDS_M_S, rng)] * 2
    tracker = isac.Tracker(Reports(estimates), QUIET)
    first = tracker.update(observation_at(1.0))
    tracker.reset()
    again = tracker.update(observation_at(0.5))
    np.testing.assert_array_equal(first.scatterer_positions_m, again.scatterer_positions_m)
    assert again.track_ids.tolist() == [0, 1] and len(tracker.smooth()) == 1


@pytest.fixture(scope="module")
def followed():
    """Six simulated blocks and what a tracker makes of them."""
    simulations = SMALL_MOVING.simulate_track(6, 0.02, seed=4)
    process = isac.ConstantVelocity((0.2, 0.2, 0.0), (0.2, 0.2, 0.2), 1e-11, 0.1)
    tracker = isac.Tracker(process=process)
    return simulations, [tracker.update(sim.observation) for sim in simulations], tracker


def test_tracks_beat_the_bound_of_a_block(followed):
    simulations, results, _ = followed
    truth, result = simulations[-1].truth, results[-1]
    found = isac.metrics.localisation(
        result.scatterer_positions_m[result.confirmed], truth.scatterer_positions_m
    )
    bound = isac.bounds.hybrid_crb(simulations[-1])
    assert found.misses == found.false_alarms == 0
    assert found.rmse_m < np.sqrt(np.mean(bound.position_rmse_m**2))
    for away, covariance in zip(
        result.user_positions_m - truth.user_positions_m, result.user_position_covariance_m2, strict=True
    ):
        assert away @ np.linalg.solve(covariance, away) < 16
    assert results[0].track_ids.tolist() == result.track_ids.tolist()


def test_later_blocks_start_from_the_tracks(followed):
    _, results, _ = followed
    assert max(r.estimate.n_iter for r in results[1:]) < results[0].estimate.n_iter
    assert not any(r.warnings for r in results)


def test_smoothed_users_are_nearer(followed):
    simulations, results, tracker = followed
    truth = simulations[0].truth.user_positions_m
    later = tracker.smooth()[0]
    before = np.linalg.norm(results[0].user_positions_m - truth)
    assert np.linalg.norm(later.user_positions_m - truth) < before


def test_a_wrong_expectation_is_given_up():
    """Where the tracks explain the block badly, the estimate is that from nothing."""
    sims = SMALL_MOVING.simulate_track(2, 0.02, seed=4)
    other = SMALL_MOVING.simulate(seed=11)
    tracker = isac.Tracker()
    tracker.update(other.observation, time_s=-1.0)
    tracked = tracker.update(sims[0].observation, time_s=0.0)
    found = isac.metrics.localisation(
        tracked.estimate.scatterer_positions_m, sims[0].truth.scatterer_positions_m
    )
    assert found.misses == 0


def test_static_blocks_show_velocities_by_their_places():
    scenario = SMALL.replace(numerology="30kHz", user_speed_m_s=(5.0, 10.0))
    obs = [sim.observation for sim in scenario.simulate_track(5, 0.1, seed=1)]
    truth = scenario.simulate_track(5, 0.1, seed=1)[-1].truth
    static = {"symbol_times_s": None, "user_velocity_std_m_s": None, "scatterer_velocity_std_m_s": None}
    tracker = isac.Tracker(process=isac.ConstantVelocity((0.5, 0.5, 0.0), 0.0, 1e-11, 0.0, (8.0, 8.0, 0.0)))
    for b, block in enumerate(obs):
        result = tracker.update(replace(block, **static), time_s=0.1 * b)
    error = np.linalg.norm(result.user_velocities_m_s - truth.user_velocities_m_s, axis=1)
    assert error.max() < 2.0


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"estimator": 3}, "estimator"),
        ({"process": "still"}, "process"),
        ({"survival_probability": 1.5}, "survival_probability"),
        ({"detection_probability": 0.0}, "detection_probability"),
        ({"births": -1.0}, "births"),
        ({"false_alarms": 0.0}, "false_alarms"),
    ],
)
def test_bad_settings_are_named(settings, named):
    with pytest.raises((TypeError, ValueError), match=named):
        isac.Tracker(**settings)


def test_bad_blocks_are_named():
    rng = np.random.default_rng(9)
    tracker = isac.Tracker(Reports([report_of(_at(0), SPEEDS_M_S, rng)] * 3), QUIET)
    with pytest.raises(TypeError, match="observation"):
        tracker.update(3)
    for time_s, error in ((np.nan, ValueError), ("noon", TypeError), (True, TypeError)):
        with pytest.raises(error, match="time_s"):
            tracker.update(observation_at(0.0), time_s)
    with pytest.raises(ValueError, match="time_s must be given"):
        tracker.update(SMALL.simulate(seed=0).observation)
    nowhere = observation_at(0.0, user_positions_m=None, user_position_std_m=None, region_m=None)
    with pytest.raises(ValueError, match="Tracker"):
        tracker.update(nowhere)
    turned = observation_at(0.0, array_rotation_std_rad=0.01)
    with pytest.raises(ValueError, match="array_rotation_std_rad"):
        tracker.update(turned)
    tracker.update(observation_at(1.0))
    with pytest.raises(ValueError, match="later than that of the block before"):
        tracker.update(observation_at(1.0))
    with pytest.raises(ValueError, match="2 users"):
        tracker.update(SMALL_MOVING.replace(n_users=3, n_pilot_symbols=3).simulate(0).observation, 2.0)
    assert len(tracker.smooth()) == 1


def test_an_expected_scene_must_be_of_the_block():
    obs = SMALL_MOVING.simulate(seed=0).observation
    with pytest.raises(TypeError, match="expected must be an ExpectedScene"):
        isac.EMTurboBiSVBI().estimate(obs, expected={"points": 3})


def test_a_belief_of_nothing_stays():
    nothing = Belief(np.zeros(0), np.zeros((0, 0)))
    same = nothing.informed(np.zeros((0, 0)), np.zeros(0), np.zeros(0, np.int64))
    assert same.mean.size == 0
