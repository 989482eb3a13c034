"""From paths to points, fusion and merging by evidence, against explicit Gaussian formulas."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from numpy.testing import assert_allclose

from helpers.scenes import REGION_M, SMALL, random_case, true_problem
from isac_toolbox.channel.array import SPEED_OF_LIGHT_M_S
from isac_toolbox.channel.atoms.scene import Paths, Scene
from isac_toolbox.channel.geometry import unit_vectors
from isac_toolbox.estimators.coarse.nomp import newtonised_omp
from isac_toolbox.estimators.scene import locate
from isac_toolbox.estimators.scene.evidence import log_evidence
from isac_toolbox.estimators.scene.fit import evaluate, scene_covariance
from isac_toolbox.estimators.scene.locate import (
    arrival_directions,
    coincidence_evidence,
    condition_on_coincidence,
    find_lines_of_sight,
    fuse_points,
    locate_paths,
)
from isac_toolbox.estimators.scene.place import place_points
from isac_toolbox.estimators.scene.problem import Problem
from isac_toolbox.estimators.scene.refine import refine
from isac_toolbox.estimators.search import PathSearch
from isac_toolbox.estimators.symbols.block import ReceivedBlock


def observed(problem: Problem, scene: Scene, points_m, user) -> np.ndarray:
    """Observed (length, u_h, u_v) of single-bounce paths, from the definitions."""
    bs = problem.receiver.bs_position_m
    direction, to_bs = unit_vectors(bs, points_m)
    to_user = np.linalg.norm(points_m - scene.users_m[user], axis=1)
    cosines = problem.receiver.array.direction_cosines(direction)
    return np.column_stack([to_bs + to_user + scene.offsets_m[user], *cosines])


def random_gaussian(seed: int, size: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    root = rng.standard_normal((size, size))
    return rng.standard_normal(size), root @ root.T + 0.1 * np.eye(size)


# --- single-bounce points ----------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(5))
def test_bistatic_inversion_gives_the_points_back(seed):
    case = random_case(seed)
    rng = np.random.default_rng(seed)
    points, user = rng.uniform(REGION_M[0], REGION_M[1], (20, 3)), rng.integers(0, 2, 20)
    found, located = locate_paths(
        case.problem,
        case.scene,
        observed(case.problem, case.scene, points, user),
        user,
        np.full(len(user), 1e3),
    )
    assert located.all()
    assert_allclose(found, points, atol=1e-6)


def test_points_outside_the_region_are_refused_unless_the_border_explains_the_path():
    """By their own spread: a strong path half a metre outside is refused, a weak one is not."""
    case = random_case(0)
    known = replace(case.problem.prior, user_stds_m=np.zeros((2, 3)), offset_stds_m=np.zeros(2))
    problem = replace(case.problem, prior=known)
    middle = REGION_M.mean(axis=0)
    points = middle + np.outer([0, 30.5, 30.5, 30 + 3 * problem.length_cell_m], [0, 1, 0])
    user = np.zeros(4, int)
    parameters = observed(problem, case.scene, points, user)
    snr = np.array([1e6, 1e6, 10.0, 100.0])
    found, located = locate_paths(problem, case.scene, parameters, user, snr)
    assert located.tolist() == [True, False, True, False]
    assert np.all((found >= REGION_M[0]) & (found <= REGION_M[1]))


def test_a_vague_place_of_the_user_lets_a_path_end_at_the_border():
    """Half a metre outside along the ray is half a metre of length, which the user's place explains."""
    case = random_case(0)
    problem = case.problem
    bs = problem.receiver.bs_position_m
    inside = REGION_M[1] - [0.0, 20.0, 1.0]
    ray = (inside - bs) / np.linalg.norm(inside - bs)
    point = (inside + 0.5 * ray / ray[0])[None]
    parameters = observed(problem, case.scene, point, np.zeros(1, int))
    for std_m, expected in ((0.0, False), (0.5, True)):
        stds = np.full((2, 3), std_m)
        prior = replace(problem.prior, user_stds_m=stds, offset_stds_m=np.zeros(2))
        vague = replace(problem, prior=prior)
        found, located = locate_paths(vague, case.scene, parameters, np.zeros(1, int), np.array([1e7]))
        assert located[0] == expected
        assert_allclose(found[0], inside, atol=0.1)


def test_the_spread_at_the_border_is_that_of_a_lone_path():
    """Variance of a path's length from the main lobe's curvature, against the Fisher information."""
    problem, *_ = true_problem(0, 20.0)
    n = problem.receiver.frequencies_hz.size
    wavenumbers = problem.receiver.wavenumbers_per_m
    snr = 250.0
    fisher = 2 * snr * np.var(wavenumbers)
    cells = problem.length_cell_m
    expected = locate._MAIN_LOBE_VARIANCE / snr * cells**2
    assert expected == pytest.approx((1 - 1 / n**2) / fisher, rel=1e-6)


def test_impossible_paths_are_not_located():
    case = random_case(0)
    direct = np.linalg.norm(case.scene.users_m - case.problem.receiver.bs_position_m, axis=1)
    shorter = [direct[0] + case.scene.offsets_m[0] - 1.0, 0.1, -0.2]
    invisible = [90.0, 0.8, 0.8]
    _, located = locate_paths(
        case.problem, case.scene, np.array([shorter, invisible]), np.zeros(2, int), np.full(2, 1e3)
    )
    assert not located.any()
    nothing, located = locate_paths(case.problem, case.scene, np.zeros((0, 3)), np.zeros(0, int), np.zeros(0))
    assert nothing.shape == (0, 3) and located.shape == (0,)


def test_arrival_directions_invert_direction_cosines():
    problem = random_case(0).problem
    rng = np.random.default_rng(0)
    cosines = rng.uniform(-0.9, 0.9, (50, 2))
    directions, valid = arrival_directions(problem, cosines)
    assert np.array_equal(valid, np.sum(cosines**2, axis=1) < 1)
    assert_allclose(np.linalg.norm(directions[valid], axis=1), 1)
    back = np.column_stack(problem.receiver.array.direction_cosines(directions[valid]))
    assert_allclose(back, cosines[valid], atol=1e-12)
    assert np.all(directions[valid] @ problem.receiver.array.axes[0] >= 0)


# --- coincidence -------------------------------------------------------------------------------------


def test_coincidence_evidence_is_the_explicit_gaussian():
    """ln of N(d; 0, V) times the region's volume: one point against two independent ones."""
    mean, covariance = random_gaussian(0, 15)
    mean *= 3
    points, log_volume = np.array([0, 2, 4]), 7.5
    evidence = coincidence_evidence(mean, covariance, points, log_volume)
    for i in range(3):
        for j in range(3):
            if j <= i:
                assert evidence[i, j] == -np.inf
                continue
            pick = np.zeros((3, 15))
            pick[:, 3 * points[i] : 3 * points[i] + 3] = np.eye(3)
            pick[:, 3 * points[j] : 3 * points[j] + 3] -= np.eye(3)
            d, v = pick @ mean, pick @ covariance @ pick.T
            density = np.exp(-0.5 * d @ np.linalg.inv(v) @ d) / np.sqrt(np.linalg.det(2 * np.pi * v))
            assert evidence[i, j] == pytest.approx(log_volume + np.log(density), rel=1e-9)
    for few in ([], [1]):
        assert coincidence_evidence(mean, covariance, np.array(few, int), 1.0).shape == (len(few),) * 2


@pytest.mark.parametrize(("kept", "gone"), [(0, 2), (2, 1)])
def test_conditioning_equals_the_gaussian_on_the_subspace(kept, gone):
    """Restrict the joint density to p_kept = p_gone: the Gaussian in the remaining unknowns."""
    mean, covariance = random_gaussian(1, 13)  # three points and four more unknowns
    new_mean, new_covariance = condition_on_coincidence(mean, covariance, kept, gone)
    stays = np.ones(13, bool)
    stays[3 * gone : 3 * gone + 3] = False
    embed = np.zeros((13, 10))
    embed[stays] = np.eye(10)
    order = np.flatnonzero(stays)
    for axis in range(3):
        embed[3 * gone + axis, np.flatnonzero(order == 3 * kept + axis)[0]] = 1
    precision = np.linalg.inv(covariance)
    restricted = np.linalg.inv(embed.T @ precision @ embed)
    assert_allclose(new_mean, embed @ restricted @ embed.T @ precision @ mean, atol=1e-8)
    assert_allclose(new_covariance, embed @ restricted @ embed.T, atol=1e-8)
    assert_allclose(new_mean[3 * kept : 3 * kept + 3], new_mean[3 * gone : 3 * gone + 3], atol=1e-9)


# --- fusion ------------------------------------------------------------------------------------------


def own_points(seed: int, snr_db: float = 15.0):
    """Every (user, scatterer) path as a point of its own, refined from near the truth."""
    problem, scene, _, simulation = true_problem(seed, snr_db)
    truth = simulation.truth
    user, which = np.nonzero(truth.visibility)
    seen = np.zeros((2, user.size), bool)
    seen[user, np.arange(user.size)] = True
    start = Scene(scene.points_m[which], scene.users_m, scene.offsets_m, scene.unlocated_m)
    paths = Paths.build(truth.line_of_sight, seen, np.zeros(0, np.int64))
    fit = refine(evaluate(problem, start, paths, np.full(len(paths), 1e-9)), 20)
    return problem, fit, seen, simulation


@pytest.mark.parametrize("seed", range(4))
def test_fusion_merges_the_users_points_of_each_scatterer(seed):
    _, fit, seen, simulation = own_points(seed)
    fused, fused_seen = fuse_points(fit, seen)
    truth = simulation.truth
    assert len(fused.points_m) == len(truth.scatterer_positions_m)
    distance = np.linalg.norm(fused.points_m[:, None] - truth.scatterer_positions_m, axis=2)
    nearest = distance.argmin(axis=1)
    assert sorted(nearest) == list(range(len(nearest)))
    assert np.array_equal(fused_seen, truth.visibility[:, nearest])
    assert np.array_equal(seen, own_points(seed)[2])  # the argument is left alone


def test_fusion_never_merges_two_points_of_one_user():
    problem, scene, _, simulation = true_problem(0, -5.0)
    for gap in (1e-6, 1e-3, 0.1):
        points = np.vstack([scene.points_m[0], scene.points_m[0] + gap, scene.points_m[0] - gap])
        seen = np.array([[True, True, False], [False, False, True]])
        paths = Paths.build(simulation.truth.line_of_sight, seen, np.zeros(0, np.int64))
        crowded = Scene(points, scene.users_m, scene.offsets_m, scene.unlocated_m)
        fit = evaluate(problem, crowded, paths, np.ones(len(paths)))
        fused, fused_seen = fuse_points(fit, seen)
        assert len(fused.points_m) >= 2
        assert fused_seen[0].sum() == 2 and fused_seen[1].sum() == 1
        assert np.all(np.isfinite(fused.vector()))


@pytest.mark.parametrize("is_one", [True, False])
def test_fusion_takes_what_is_more_likely_one_than_two(is_one):
    """On both sides of an evidence of zero."""
    problem, scene, _, simulation = true_problem(0, 10.0)
    seen = np.array([[True, False], [False, True]])
    paths = Paths.build(simulation.truth.line_of_sight, seen, np.zeros(0, np.int64))
    log_volume = float(np.sum(np.log(problem.region_m[1] - problem.region_m[0])))

    def apart(distance: float):
        points = np.vstack([scene.points_m[0], scene.points_m[0] + [0.0, distance, 0.0]])
        place = Scene(points, scene.users_m, scene.offsets_m, np.zeros((0, 3)))
        fit = evaluate(problem, place, paths, np.ones(len(paths)))
        both = coincidence_evidence(place.vector(), scene_covariance(fit), np.arange(2), log_volume)
        return fit, both[0, 1]

    low, high = 0.0, 20.0
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (middle, high) if apart(middle)[1] > (0.2 if is_one else -0.2) else (low, middle)
    fit, evidence = apart(middle)
    assert evidence == pytest.approx(0.2 if is_one else -0.2, abs=1e-6)
    fused, fused_seen = fuse_points(fit, seen)
    assert len(fused.points_m) == fused_seen.shape[1] == (1 if is_one else 2)


def test_fusion_leaves_distant_points_and_few_points_alone():
    problem, fit, seen, _ = own_points(0)
    keep = np.array([0])
    one = Scene(fit.scene.points_m[keep], fit.scene.users_m, fit.scene.offsets_m, fit.scene.unlocated_m)
    paths = Paths.build(np.array([True, True]), seen[:, keep], np.zeros(0, np.int64))
    fused, fused_seen = fuse_points(evaluate(problem, one, paths, np.ones(len(paths))), seen[:, keep])
    assert_allclose(fused.points_m, one.points_m)
    assert np.array_equal(fused_seen, seen[:, keep])


# --- placing the paths of a block --------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(4))
def test_paths_of_a_block_become_lines_of_sight_and_points(seed):
    simulation = SMALL.replace(snr_db=20.0).simulate(seed)
    observation, truth = simulation.observation, simulation.truth
    problem = Problem.on_pilots(observation, ReceivedBlock.of(observation))
    problem, unlocated = newtonised_omp(problem, PathSearch.for_observation(observation))
    sight = find_lines_of_sight(unlocated)
    assert np.array_equal(unlocated.paths.user[sight], [0, 1])
    placed, has_sight, seen = place_points(unlocated)
    assert has_sight.all() and seen.sum() == seen.shape[1] == len(placed.scene.points_m)
    assert len(placed.paths) == len(unlocated.paths)
    direct = np.linalg.norm(placed.scene.users_m - observation.bs_position_m, axis=1)
    true_direct = np.linalg.norm(truth.user_positions_m - observation.bs_position_m, axis=1)
    observed_length = direct + placed.scene.offsets_m
    true_length = true_direct + SPEED_OF_LIGHT_M_S * truth.time_offsets_s
    assert_allclose(observed_length, true_length, atol=0.15)
    assert np.all(placed.scene.points_m >= REGION_M[0]) and np.all(placed.scene.points_m <= REGION_M[1])


def test_a_user_without_line_of_sight_gets_none():
    scenario = SMALL.replace(line_of_sight_probability=0.0, snr_db=20.0)
    for seed in range(3):
        simulation = scenario.simulate(seed)
        observation = simulation.observation
        problem = Problem.on_pilots(observation, ReceivedBlock.of(observation))
        problem, unlocated = newtonised_omp(problem, PathSearch.for_observation(observation))
        sight = find_lines_of_sight(unlocated)
        bs, truth = observation.bs_position_m, simulation.truth
        direct = np.linalg.norm(truth.user_positions_m - bs, axis=1)
        for k in np.flatnonzero(sight >= 0):  # only a bounce close to the line of sight may pass for it
            length = unlocated.scene.unlocated_m[unlocated.paths.unlocated[sight[k]], 0]
            assert abs(length - direct[k] - SPEED_OF_LIGHT_M_S * truth.time_offsets_s[k]) < 12


# --- evidence of a scene -----------------------------------------------------------------------------


def scene_evidence(problem, points, simulation, seen) -> float:
    truth = simulation.truth
    paths = Paths.build(truth.line_of_sight, seen, np.zeros(0, np.int64))
    scene = Scene(
        points,
        truth.user_positions_m,
        SPEED_OF_LIGHT_M_S * truth.time_offsets_s,
        np.zeros((0, 3)),
    )
    slab = np.full(len(paths), 5.0)
    return log_evidence(refine(evaluate(problem, scene, paths, slab), 20))


@pytest.mark.parametrize("snr_db", [0.0, 15.0])
@pytest.mark.parametrize("seed", range(3))
def test_evidence_prefers_the_true_scene_to_a_split_and_to_a_wrong_merge(seed, snr_db):
    scenario = SMALL.replace(visibility_probability=1.0)
    problem, scene, _, simulation = true_problem(seed, snr_db, scenario=scenario)
    points, n_points = scene.points_m, len(scene.points_m)
    assert n_points == 3
    everyone = np.ones((2, 3), bool)
    true = scene_evidence(problem, points, simulation, everyone)

    split_seen = np.array([[True, False, True, True], [False, True, True, True]])
    split = scene_evidence(problem, np.vstack([points[0], points]), simulation, split_seen)
    assert true > split

    merged = np.vstack([points[:2].mean(axis=0), points[2]])
    wrong = scene_evidence(problem, merged, simulation, everyone[:, :2])
    assert true > wrong

    missing = scene_evidence(problem, points[1:], simulation, everyone[:, 1:])
    assert true > missing


def test_evidence_of_an_empty_scene_is_finite():
    problem, _, _, simulation = true_problem(0, 10.0)
    nothing = np.zeros((2, 0), bool)
    value = scene_evidence(problem, np.zeros((0, 3)), simulation, nothing)
    assert np.isfinite(value)
