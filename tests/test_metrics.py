"""Figures of merit against brute force."""

from __future__ import annotations

from itertools import combinations, permutations
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.testing import assert_allclose

import isac_toolbox as isac
from isac_toolbox import metrics
from isac_toolbox.inference import sparse_recover

SCENARIO = isac.Scenario(
    array_shape=(2, 2), n_subcarriers=8, n_users=2, n_scatterers=2, n_pilot_symbols=2, n_data_symbols=5
)
small_sets = st.integers(0, 4).flatmap(lambda n: arrays(float, (n, 3), elements=st.floats(-1.5, 1.5)))


# --- channel -----------------------------------------------------------------------------------------


def test_channel_nmse():
    truth = np.array([[3 + 4j, 0], [0, 5j]])
    estimate = truth + np.array([[0.1, 0.2j], [-0.2, 0.1]])
    assert metrics.channel_nmse_db(estimate, truth) == pytest.approx(10 * np.log10(0.1 / 50))
    assert metrics.channel_nmse_db(np.zeros((2, 2)), truth) == pytest.approx(0)
    assert metrics.channel_nmse_db(truth, truth) == -np.inf


def test_channel_nmse_pools_users_before_the_ratio():
    truth = np.array([[10.0], [1.0]])
    assert metrics.channel_nmse_db([[10.0], [0.0]], truth) == pytest.approx(10 * np.log10(1 / 101))


@pytest.mark.parametrize(
    ("estimate", "truth", "name"),
    [
        (np.ones(3), np.ones(4), "estimate"),
        ([1.0, np.nan], [1.0, 1.0], "estimate"),
        ([1.0, 1.0], [1.0, np.inf], "truth"),
        ([1.0, 1.0], [0.0, 0.0], "truth"),
    ],
)
def test_channel_nmse_refuses(estimate, truth, name):
    with pytest.raises(ValueError, match=name):
        metrics.channel_nmse_db(estimate, truth)


@pytest.mark.parametrize(
    "call",
    [
        lambda hidden: metrics.channel_nmse_db(hidden, np.ones(3)),
        lambda hidden: metrics.channel_nmse_db(np.ones(3), hidden),
        lambda hidden: metrics.localisation(hidden[None], np.ones((1, 3))),
        lambda hidden: metrics.auroc(hidden, [0, 1, 1]),
        lambda hidden: metrics.auroc([0.1, 0.2, 0.3], hidden),
        lambda hidden: metrics.expected_calibration_error(hidden, [0, 1, 1]),
        lambda hidden: sparse_recover(np.eye(3), hidden),
        lambda hidden: sparse_recover(np.ma.masked_array(np.eye(3), np.eye(3)), np.ones(3)),
    ],
)
def test_masked_entries_are_refused_not_used(call):
    """Without this a value under a mask, of whatever size, is taken for good."""
    with pytest.raises(TypeError, match=r"must be a plain array, got a masked one with [13] masked entr"):
        call(np.ma.masked_array([0.5, 1.0, 1e9], [False, False, True]))


def test_arrays_that_mask_nothing_are_plain():
    plain = np.array([1.0, 2.0, 3.0])
    assert metrics.channel_nmse_db(np.ma.masked_array(plain), 2 * plain) == metrics.channel_nmse_db(
        plain, 2 * plain
    )


# --- localisation ------------------------------------------------------------------------------------


def best_matching(estimate: np.ndarray, truth: np.ndarray, limit: float) -> tuple[int, float]:
    """Most matches within the limit, then the least sum of squares, over every assignment."""
    distance = np.linalg.norm(estimate[:, None] - truth[None], axis=2)
    for size in range(min(len(estimate), len(truth)), 0, -1):
        costs = [
            sum(distance[i, j] ** 2 for i, j in zip(rows, columns))
            for rows in combinations(range(len(estimate)), size)
            for columns in permutations(range(len(truth)), size)
            if all(distance[i, j] <= limit for i, j in zip(rows, columns))
        ]
        if costs:
            return size, min(costs)
    return 0, 0.0


@given(small_sets, small_sets, st.floats(0.2, 3.0))
@settings(max_examples=150, deadline=None)
def test_matching_is_the_best_of_all(estimate, truth, limit):
    hits, cost = best_matching(estimate, truth, limit)
    found = metrics.localisation(estimate, truth, limit)
    assert (found.hits, found.misses, found.false_alarms) == (hits, len(truth) - hits, len(estimate) - hits)
    assert len(set(found.estimate_index)) == len(set(found.truth_index)) == hits
    expected = np.linalg.norm(estimate[found.estimate_index] - truth[found.truth_index], axis=1)
    assert_allclose(found.distances_m, expected, atol=1e-12)
    assert np.all(found.distances_m <= limit)
    if hits:
        assert found.rmse_m == pytest.approx(np.sqrt(cost / hits), rel=1e-9, abs=1e-9)
    else:
        assert np.isnan(found.rmse_m)
    larger = max(len(estimate), len(truth))
    if larger:
        ospa = np.sqrt((cost + limit**2 * (larger - hits)) / larger)
        assert found.ospa_m == pytest.approx(ospa, rel=1e-9, abs=1e-9)
    else:
        assert found.ospa_m == 0


def test_two_matches_beat_one_better_match():
    found = metrics.localisation([[0, 0, 0], [1.5, 0, 0]], [[1.4, 0, 0], [3.0, 0, 0]], 2.0)
    assert found.hits == 2 and found.truth_index.tolist() == [0, 1]


def test_counts_of_a_plain_case():
    found = metrics.localisation(
        [[0, 0, 0.1], [10, 0, 0], [50, 0, 0]], [[0, 0, 0], [10, 1.0, 0], [20, 0, 0], [30, 0, 0]]
    )
    assert (found.hits, found.misses, found.false_alarms) == (2, 2, 1)
    assert found.rmse_m == pytest.approx(np.sqrt((0.01 + 1) / 2))


def test_the_limit_is_inclusive():
    assert metrics.localisation([[2.0, 0, 0]], [[0.0, 0, 0]], 2.0).hits == 1
    assert metrics.localisation([[2.0 + 1e-9, 0, 0]], [[0.0, 0, 0]], 2.0).hits == 0


@pytest.mark.parametrize("empty", [[], np.zeros((0, 3))])
def test_empty_inputs(empty):
    points = np.ones((3, 3))
    nothing_found = metrics.localisation(empty, points)
    assert (nothing_found.hits, nothing_found.misses, nothing_found.false_alarms) == (0, 3, 0)
    all_false = metrics.localisation(points, empty)
    assert (all_false.hits, all_false.misses, all_false.false_alarms) == (0, 0, 3)
    assert np.isnan(all_false.rmse_m) and all_false.ospa_m == pytest.approx(2.0)
    neither = metrics.localisation(empty, empty)
    assert (neither.hits, neither.misses, neither.false_alarms, neither.ospa_m) == (0, 0, 0, 0.0)


@pytest.mark.parametrize(
    ("arguments", "error", "name"),
    [
        ((np.ones((2, 2)), np.ones((2, 3))), ValueError, "estimate_m"),
        ((np.ones((2, 3)), np.ones(3)), ValueError, "truth_m"),
        (([[np.nan, 0, 0]], np.ones((2, 3))), ValueError, "estimate_m"),
        ((np.ones((2, 3)), [[np.inf, 0, 0]]), ValueError, "truth_m"),
        (([[1j, 0, 0]], np.ones((2, 3))), TypeError, "estimate_m"),
        (([["a", "b", "c"]], np.ones((2, 3))), TypeError, "estimate_m"),
        ((np.ones((2, 3)), None), TypeError, "truth_m"),
        ((np.ones((2, 3)), np.ones((2, 3)), 0.0), ValueError, "max_distance_m"),
        ((np.ones((2, 3)), np.ones((2, 3)), -1.0), ValueError, "max_distance_m"),
        ((np.ones((2, 3)), np.ones((2, 3)), np.nan), ValueError, "max_distance_m"),
        ((np.ones((2, 3)), np.ones((2, 3)), "2"), TypeError, "max_distance_m"),
    ],
)
def test_localisation_refuses(arguments, error, name):
    with pytest.raises(error, match=name):
        metrics.localisation(*arguments)


# --- symbols and bits --------------------------------------------------------------------------------


def decided(decision: np.ndarray) -> SimpleNamespace:
    return SimpleNamespace(symbol_decision=decision)


@pytest.mark.parametrize(("modulation", "bits"), [("qpsk", 2), ("16qam", 4)])
def test_symbol_and_bit_errors_count_data_only(modulation, bits):
    simulation = SCENARIO.replace(modulation=modulation).simulate(0)
    sent = simulation.truth.symbol_indices
    data = sent >= 0
    assert data.sum() == 80
    right = decided(np.where(data, sent, 3))  # whatever stands at pilots does not count
    assert metrics.symbol_error_rate(right, simulation) == 0
    assert metrics.bit_error_rate(right, simulation) == 0
    wrong = sent.copy()
    positions = np.argwhere(data)[:7]
    for i, position in enumerate(positions):
        wrong[tuple(position)] ^= 1 if i < 4 else 3  # one wrong bit four times, two three times
    assert metrics.symbol_error_rate(decided(wrong), simulation) == pytest.approx(7 / 80)
    assert metrics.bit_error_rate(decided(wrong), simulation) == pytest.approx(10 / (80 * bits))


@pytest.mark.parametrize("metric", [metrics.symbol_error_rate, metrics.bit_error_rate])
def test_error_rates_of_other_objects_name_them(metric):
    simulation = SCENARIO.simulate(0)
    result = decided(simulation.truth.symbol_indices)
    for wrong in (simulation, simulation.truth.symbol_indices, None):
        with pytest.raises(
            TypeError, match=f"result must be an EstimationResult, got {type(wrong).__name__}"
        ):
            metric(wrong, simulation)
    for wrong in (simulation.truth, result, "urban_uplink"):
        with pytest.raises(TypeError, match=f"simulation must be a Simulation, got {type(wrong).__name__}"):
            metric(result, wrong)


@pytest.mark.parametrize("metric", [metrics.symbol_error_rate, metrics.bit_error_rate])
@pytest.mark.parametrize(
    ("change", "error"),
    [
        (lambda v: v[:1], ValueError),  # of another block: nothing is broadcast
        (lambda v: v[:, :, :1], ValueError),
        (lambda v: np.where(v < 0, v, -1), ValueError),  # no decision at data
        (lambda v: v + 4, ValueError),
        (lambda v: v.astype(float), TypeError),
    ],
)
def test_decisions_that_do_not_fit_the_block_are_refused(metric, change, error):
    simulation = SCENARIO.simulate(0)
    with pytest.raises(error, match=r"result\.symbol_decision must"):
        metric(decided(change(simulation.truth.symbol_indices)), simulation)


def test_all_bits_wrong():
    simulation = SCENARIO.simulate(0)
    sent = simulation.truth.symbol_indices
    assert metrics.bit_error_rate(decided(np.where(sent >= 0, sent ^ 3, -1)), simulation) == 1


def test_a_block_without_data_has_no_error_rate():
    simulation = SCENARIO.replace(n_data_symbols=0).simulate(0)
    decision = decided(np.full_like(simulation.truth.symbol_indices, -1))
    assert np.isnan(metrics.symbol_error_rate(decision, simulation))
    assert np.isnan(metrics.bit_error_rate(decision, simulation))


# --- calibration and ranking -------------------------------------------------------------------------


def test_calibration_error_of_honest_and_boasting_probabilities():
    rng = np.random.default_rng(0)
    p = rng.random(20_000)
    assert isac.metrics.expected_calibration_error(p, rng.random(p.size) < p) < 0.01
    assert isac.metrics.expected_calibration_error(np.ones(4), [1, 0, 0, 0]) == pytest.approx(0.75)
    assert isac.metrics.expected_calibration_error([0.25, 0.25], [True, False], n_bins=2) == pytest.approx(
        0.25
    )


def test_auroc_is_the_share_of_pairs_in_order():
    rng = np.random.default_rng(1)
    score, event = np.round(rng.random(60), 1), rng.random(60) < 0.4
    pairs = score[event][:, None] - score[~event]
    expected = np.mean((pairs > 0) + 0.5 * (pairs == 0))
    assert isac.metrics.auroc(score, event) == pytest.approx(expected)
    assert isac.metrics.auroc([0.1, 0.9], [False, True]) == 1.0


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: isac.metrics.expected_calibration_error([1.5], [True]), "probability"),
        (lambda: isac.metrics.expected_calibration_error([0.5, 0.5], [True]), "outcome"),
        (lambda: isac.metrics.expected_calibration_error([], []), "probability"),
        (lambda: isac.metrics.auroc([0.5, 0.1], [True, True]), "outcome"),
        (lambda: isac.metrics.auroc([np.nan, 0.1], [True, False]), "score"),
    ],
)
def test_calibration_and_ranking_refuse_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize("outcome", [[0.3, 1.0], [np.nan, 1.0], ["False", "True"], [None, True], [2, 0]])
@pytest.mark.parametrize("metric", [isac.metrics.auroc, isac.metrics.expected_calibration_error])
def test_outcomes_that_are_no_events_are_refused(metric, outcome):
    """What numpy takes for True because it is not zero."""
    with pytest.raises(ValueError, match="outcome must hold True and False"):
        metric([0.2, 0.9], outcome)
    assert metric([0.2, 0.9], [0, 1]) == metric([0.2, 0.9], [False, True])
