"""Paths that look the same: the lattice against atoms, places against differences, beliefs against sums."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose

import isac_toolbox as isac
from helpers.scenes import random_case
from isac_toolbox.channel.array import SPEED_OF_LIGHT_M_S
from isac_toolbox.channel.atoms.dense import make_atoms
from isac_toolbox.channel.atoms.receiver import Receiver
from isac_toolbox.channel.atoms.scene import Paths, Scene, path_parameters
from isac_toolbox.channel.geometry import bistatic_point_m
from isac_toolbox.estimators.scene.alternatives import (
    Alternatives,
    Lattice,
    beliefs,
    joint_points,
    length_limits_m,
)
from isac_toolbox.estimators.scene.cones import single_bounce
from isac_toolbox.estimators.scene.fit import evaluate
from isac_toolbox.estimators.scene.locate import arrival_directions
from isac_toolbox.estimators.scene.place import list_alternatives, weigh_alternatives
from isac_toolbox.estimators.scene.problem import Problem
from isac_toolbox.estimators.symbols.block import ReceivedBlock

UPLINK = isac.Scenario.load("urban_uplink").replace(snr_db=20, n_users=2)


def problem_of(**changes) -> tuple[Problem, isac.Scenario]:
    scenario = UPLINK.replace(**changes)
    observation = scenario.simulate(0).observation
    return Problem.on_pilots(observation, ReceivedBlock.of(observation)), scenario


def unlocated_atoms(problem: Problem, parameters, user):
    scene = Scene(np.zeros((0, 3)), problem.prior.users_m, np.zeros(2), np.atleast_2d(parameters))
    paths = Paths.build(np.zeros(2, bool), np.zeros((2, 0), bool), np.full(len(scene.unlocated_m), user))
    return make_atoms(path_parameters(scene, paths, problem.receiver), paths, problem.receiver)


@pytest.mark.parametrize(
    "changes",
    [
        {"pilot_pattern": "comb", "n_pilot_symbols": 1},
        {"subcarrier_spacing_hz": 5e6, "n_subcarriers": 20},
        {"spacing_wavelengths": 1.5},
    ],
)
def test_shifted_parameters_have_the_same_atom(changes):
    problem, _ = problem_of(**changes)
    lattice = Lattice.of(problem)
    parameters = np.array([[90.0, 0.1, -0.2], [120.0, -0.5, 0.05]])
    limits = np.tile([30.0, 400.0], (2, 1))
    path, shifted = lattice.shifts(parameters, np.zeros(2, int), limits)
    assert len(path) > 2
    gram = unlocated_atoms(problem, np.vstack([parameters, shifted]), 0).gram(problem.statistics.symbol_gram)
    energy = problem.user_energies[0]
    for row, of in enumerate(path):
        assert abs(gram[of, 2 + row]) == pytest.approx(energy, rel=1e-9)


@given(
    st.floats(20, 300),
    st.floats(-0.7, 0.7),
    st.floats(-0.7, 0.7),
    st.floats(30, 500),
    st.floats(0.5, 2.5),
    st.floats(0.5, 2.5),
)
@settings(max_examples=60, deadline=None)
def test_all_shifts_that_can_be_and_no_others(length, u_h, u_v, period, d_h, d_v):
    lattice = Lattice(np.array([period]), np.array([1 / d_h, 1 / d_v]))
    low, high = 40.0, 260.0
    multiples = length + period * np.arange(-30, 31)
    assume(np.min(np.abs(multiples[:, None] - [low, high])) > 1e-6)  # rounding decides at a limit
    norms = np.hypot.outer(u_h + np.arange(-6, 7) / d_h, u_v + np.arange(-6, 7) / d_v)
    assume(np.min(np.abs(norms - 1)) > 1e-6)
    path, shifted = lattice.shifts(np.array([[length, u_h, u_v]]), np.zeros(1, int), np.array([[low, high]]))
    expected = {(0, 0, 0)}
    for n in range(-30, 31):
        for a in range(-6, 7):
            for b in range(-6, 7):
                point = length + n * period, u_h + a / d_h, u_v + b / d_v
                if low <= point[0] <= high and point[1] ** 2 + point[2] ** 2 < 1:
                    expected.add((n, a, b))
    steps = (shifted - [length, u_h, u_v]) / [period, 1 / d_h, 1 / d_v]
    assert {tuple(step) for step in np.rint(steps).astype(int).tolist()} == expected
    assert len(path) == len(expected) and np.all(np.rint(steps[0]) == 0)


def test_nearest_difference_is_the_smallest():
    lattice = Lattice(np.array([50.0]), np.array([0.5, 2.0]))
    assert_allclose(lattice.nearest(np.array([120.0, 0.7, -1.2]), 0), [20.0, 0.2, 0.8], atol=1e-12)


def test_places_move_with_lengths_directions_users_and_clocks():
    """The covariance of located points against differences of the bistatic inversion."""
    case = random_case(3)
    problem, scene = case.problem, case.scene
    points = np.array([[40.0, 10.0, 5.0], [60.0, -12.0, 9.0]])
    user = np.array([0, 1])
    parameters = single_bounce(problem, points, scene.users_m[user])
    parameters[:, 0] += scene.offsets_m[user]
    alone = Scene(np.zeros((0, 3)), scene.users_m, scene.offsets_m, parameters)

    def located(vector):
        moved = alone.with_vector(vector)
        directions, _ = arrival_directions(problem, moved.unlocated_m[:, 1:])
        lengths = moved.unlocated_m[:, 0] - moved.offsets_m[user]
        found, _ = bistatic_point_m(directions, lengths, moved.users_m[user], problem.receiver.bs_position_m)
        return found.ravel()

    start = alone.vector()
    assert_allclose(located(start), points.ravel(), atol=1e-9)
    steps = 1e-6 * np.eye(start.size)
    slopes = np.array([(located(start + s) - located(start - s)) / 2e-6 for s in steps]).T
    root = np.random.default_rng(0).standard_normal((start.size, start.size)) * 1e-3
    covariance = root @ root.T
    joint, density = joint_points(problem, alone, covariance, points, user, np.arange(2))
    assert_allclose(joint, slopes @ covariance @ slopes.T, rtol=1e-5, atol=1e-12)
    for i in range(2):
        own = slopes[3 * i : 3 * i + 3, alone.blocks()[3]][:, 3 * i : 3 * i + 3]
        assert density[i] == pytest.approx(abs(np.linalg.det(own)), rel=1e-5)


def two_users_with_doubles(apart_m: float):
    """Two paths of two users: each has a true place, near the other's, and a false one far away."""
    problem, _ = problem_of()
    points = np.array([[40.0, 0.0, 5.0], [70.0, 20.0, 5.0], [40.0 + apart_m, 0.0, 5.0], [30.0, -25.0, 9.0]])
    return problem, Alternatives(np.array([0, 0, 1, 1]), np.zeros((4, 3)), points)


@pytest.mark.parametrize("apart_m", [0.02, 0.3])
def test_beliefs_of_two_paths_are_sums_over_all_pairs(apart_m):
    problem, alternatives = two_users_with_doubles(apart_m)
    covariance, density = 0.01 * np.eye(12), np.array([30.0, 10.0, 20.0, 20.0])
    believed = beliefs(problem, alternatives, np.array([0, 0, 1, 1]), covariance, density, np.zeros(4))
    extent = problem.region_m[1] - problem.region_m[0]
    volume = np.prod(extent)
    elsewhere = 0.1 / (2 * np.linalg.norm(extent) * np.pi)
    prior = np.append(0.9 * density / volume, elsewhere)
    spread = 0.02
    same = volume * (2 * np.pi * spread) ** -1.5 * np.exp(-0.5 * apart_m**2 / spread)
    table = np.multiply.outer(prior[[0, 1, 4]], prior[[2, 3, 4]])
    for i, j in ((0, 0), (0, 1), (1, 0), (1, 1)):
        distance = np.sum((alternatives.points_m[i] - alternatives.points_m[2 + j]) ** 2)
        table[i, j] *= 1 + volume * (2 * np.pi * spread) ** -1.5 * np.exp(-0.5 * distance / spread)
    table /= table.sum()
    assert same > 100
    # messages go round between the two paths, so certainty comes a little sooner than in the sum
    assert_allclose(believed[:2], table.sum(axis=1)[:2], atol=0.03)
    assert_allclose(believed[2:], table.sum(axis=0)[:2], atol=0.03)
    assert believed[0] > 0.95 and believed[2] > 0.95


def test_beliefs_of_one_path_follow_volume_and_likelihood():
    problem, alternatives = two_users_with_doubles(0.0)
    alone = alternatives.only(np.array([True, True, False, False]))
    density = np.array([30.0, 10.0])
    believed = beliefs(problem, alone, np.zeros(2, int), np.eye(6), density, np.zeros(2))
    assert believed[0] / believed[1] == pytest.approx(3.0)
    assert believed.sum() < 1
    tilted = beliefs(problem, alone, np.zeros(2, int), np.eye(6), density, np.array([0.0, 2.0]))
    assert tilted[1] / tilted[0] == pytest.approx(np.exp(2) / 3)


def test_limits_hold_every_single_bounce():
    problem, _ = problem_of()
    low, high = length_limits_m(problem, problem.prior.users_m).T
    points = np.random.default_rng(0).uniform(*problem.region_m, (2000, 3))
    for k in range(2):
        lengths = single_bounce(problem, points, np.broadcast_to(problem.prior.users_m[k], points.shape))[
            :, 0
        ]
        assert low[k] <= lengths.min() and lengths.max() <= high[k]


def test_curved_wavefronts_tell_places_apart_that_planar_ones_do_not():
    """The likelihood of alternatives: nothing between them for planar waves, decisive in the near field."""
    changes = {"spacing_wavelengths": 2.0, "line_of_sight_probability": 0.0, "n_scatterers": 1}
    for wavefront, decisive in (("planar", False), ("spherical", True)):
        scenario = UPLINK.replace(
            wavefront=wavefront, carrier_hz=3.5e9, n_users=1, visibility_probability=1.0, **changes
        )
        simulation = scenario.simulate(1)
        observation = simulation.observation
        problem = Problem.on_pilots(observation, ReceivedBlock.of(observation))
        problem = replace(problem, noise_precision=1e3)
        true = simulation.truth.scatterer_positions_m
        parameters = single_bounce(problem, true, simulation.truth.user_positions_m)
        scene = Scene(np.zeros((0, 3)), simulation.truth.user_positions_m, np.zeros(1), parameters)
        clock_m = simulation.truth.time_offsets_s * SPEED_OF_LIGHT_M_S
        late = parameters + np.array([clock_m[0], 0.0, 0.0])
        scene = replace(scene, offsets_m=clock_m, unlocated_m=late)
        alternatives = list_alternatives(problem, scene, scene.unlocated_m, np.zeros(1, int), np.full(1, 1e6))
        assert len(alternatives.path) > 1
        paths = Paths.build(np.zeros(1, bool), np.zeros((1, 0), bool), np.zeros(1, int))
        believed = weigh_alternatives(evaluate(problem, scene, paths, np.full(1, 1e-9)), alternatives)
        right = np.linalg.norm(alternatives.points_m - true, axis=1) < 0.5
        assert (believed[right].sum() > 0.9) == decisive


def test_an_unseen_cosine_has_no_period():
    receiver = Receiver.of(UPLINK.replace(array_shape=(16, 1)).simulate(0).observation)
    lattice = Lattice.on_tones(receiver, np.ones((1, receiver.frequencies_hz.size)))
    path, _ = lattice.shifts(np.array([[80.0, 0.2, 0.0]]), np.zeros(1, int), np.array([[20.0, 150.0]]))
    assert len(path) == 1


def test_paths_that_look_like_too_many_others_have_no_shifts():
    """Neither for cosines nor for lengths is a table of them made; the other paths keep theirs."""
    limits = np.array([[20.0, 150.0], [20.0, 1e9]])
    far_apart = Lattice(np.array([60.0, 60.0]), np.full(2, 1e-3))
    assert far_apart.shifts(np.array([[80.0, 0.2, 0.0]]), np.zeros(1, int), limits)[0].size == 0
    parameters = np.array([[80.0, 0.2, 0.0], [80.0, 0.1, 0.0]])
    path, shifted = Lattice(np.array([60.0, 60.0]), np.full(2, 2.0)).shifts(parameters, np.arange(2), limits)
    assert path.tolist() == [0, 0, 0] and sorted(shifted[:, 0]) == [20.0, 80.0, 140.0]


@pytest.mark.parametrize(("n_more", "n_found"), [(0, 10_000), (1, 0)])
def test_up_to_ten_thousand_shifts_are_listed(n_more, n_found):
    limits = np.array([[20.0, 20.0 + 9999.5 + n_more]])
    lengths = Lattice(np.ones(1), np.full(2, 2.0))
    assert len(lengths.shifts(np.array([[80.0, 0.2, 0.0]]), np.zeros(1, int), limits)[0]) == n_found


def test_paths_with_most_alternatives_are_left_out_where_not_all_can_be_weighed():
    counts = [900, 20, 2500, 1000]
    path = np.repeat(np.arange(4), counts)
    points = np.arange(3.0 * path.size).reshape(-1, 3)
    found = Alternatives(path, points, points)
    few = found.of_few_paths()
    assert few.counts(4).tolist() == [900, 20, 0, 1000]
    assert np.array_equal(few.points_m, points[path != 2])
    assert few.of_few_paths() is few


def test_arrays_hundreds_of_wavelengths_wide_are_estimated():
    """Of thousands of directions that look the same none is the right one: paths stay without a place."""
    scenario = isac.Scenario(array_shape=(2, 2), n_subcarriers=16, n_users=2, spacing_wavelengths=300.0)
    with pytest.warns(isac.channel.ImplausibleValueWarning, match="spacing_wavelengths"):
        observation = scenario.simulate(0).observation
    result = isac.EMTurboBiSVBI().estimate(observation)
    assert np.all(np.isfinite(result.channel)) and len(result.scatterer_positions_m) == 0
