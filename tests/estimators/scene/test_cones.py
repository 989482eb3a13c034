"""Places that a linear array leaves open: curves of cones, and choices among their points."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from numpy.testing import assert_allclose

import isac_toolbox as isac
from helpers.scenes import SMALL, true_problem
from isac_toolbox.channel.atoms.scene import Paths, Scene, ScenePrior
from isac_toolbox.estimators.scene import cones
from isac_toolbox.estimators.scene.cones import (
    best_places,
    points_on_cones,
    shared_places,
    single_bounce,
)
from isac_toolbox.estimators.scene.fit import Fit, evaluate, scene_covariance
from isac_toolbox.estimators.scene.locate import locate_paths
from isac_toolbox.estimators.scene.place import release_points
from isac_toolbox.estimators.scene.problem import Problem
from isac_toolbox.estimators.scene.refine import refine

FLAT_M = np.array([[20.0, -30.0, 1.4], [80.0, 30.0, 1.6]])
TALL_M = np.array([[20.0, -30.0, 0.0], [80.0, 30.0, 15.0]])
ARRAYS = [
    isac.UniformPlanarArray((16, 1)),
    isac.UniformPlanarArray((16, 1), azimuth_rad=0.3, elevation_rad=-0.2),
    isac.UniformPlanarArray((1, 16), elevation_rad=0.1),
]


def problem_of(array: isac.UniformPlanarArray, region_m: np.ndarray, user_std_m: float = 0.0) -> Problem:
    """The receiver's knowledge alone, without data that belong to it."""
    problem, *_ = true_problem(0, 20.0)
    prior = replace(problem.prior, user_stds_m=np.full((2, 3), user_std_m), offset_stds_m=np.zeros(2))
    receiver = replace(problem.receiver, array=array)
    data = replace(problem.data, receiver=receiver)
    prior = replace(prior, region_m=region_m, sees_cosines=array.sees_cosines)
    return replace(problem, data=data, prior=prior, region_m=region_m)


def observed(problem: Problem, points: np.ndarray, users: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Lengths and cosines of the points; the cosine that is not seen is nonsense."""
    bounce = single_bounce(problem, points, users)
    blind = np.logical_not(problem.receiver.array.sees_cosines)
    return bounce[:, 0], np.where(blind, 0.77, bounce[:, 1:])


# --- curves ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("array", ARRAYS[:2])
@pytest.mark.parametrize("height_m", [1.5, 20.0])
def test_a_flat_region_gives_the_points_back(array, height_m):
    """Within the region's thickness across the curve, whatever stands in the cosine that is not seen."""
    problem = problem_of(array, FLAT_M)
    receiver = replace(problem.receiver, bs_position_m=np.array([0.0, 0.0, height_m]))
    problem = replace(problem, data=replace(problem.data, receiver=receiver))
    rng = np.random.default_rng(0)
    points = rng.uniform(FLAT_M[0], FLAT_M[1], (120, 3))
    users = rng.uniform([40.0, -30.0, 1.5], [80.0, 30.0, 1.5], (120, 3))
    direct = np.linalg.norm(users - receiver.bs_position_m, axis=1)
    resolved = single_bounce(problem, points, users)[:, 0] - direct > 3.0
    points, users = points[resolved], users[resolved]
    variance = np.ones((len(points), 3))
    found, extent = points_on_cones(problem, users, *observed(problem, points, users), variance, 9.0)
    near = extent < problem.length_cell_m
    assert near.mean() > (0.95 if height_m == 1.5 else 0.6)  # seen from above, curves meet the plane twice
    apart = np.linalg.norm(found[near] - points[near], axis=1)
    assert np.mean(apart < 0.6) > 0.97 and apart.max() < problem.length_cell_m
    assert np.median(np.linalg.norm(found - points, axis=1)) < 0.15
    assert np.all((found >= FLAT_M[0]) & (found <= FLAT_M[1]))


@pytest.mark.parametrize("array", ARRAYS)
def test_points_explain_their_paths_and_a_tall_region_leaves_them_open(array):
    """In a region 15 m tall curves are metres long; what is given lies on them."""
    problem = problem_of(array, TALL_M)
    rng = np.random.default_rng(1)
    points, users = rng.uniform(TALL_M[0], TALL_M[1], (40, 3)), problem.prior.users_m[rng.integers(0, 2, 40)]
    lengths, cosines = observed(problem, points, users)
    found, extent = points_on_cones(problem, users, lengths, cosines, np.ones((40, 3)), 9.0)
    sees = list(array.sees_cosines)
    bounce = single_bounce(problem, found, users)
    assert_allclose(bounce[:, 0], lengths, atol=0.1)
    assert_allclose(bounce[:, 1:][:, sees], cosines[:, sees], atol=3e-3)
    assert np.median(extent) > 2 * problem.length_cell_m


def test_location_asks_for_a_short_curve_unless_it_may_be_vague():
    problem = problem_of(ARRAYS[0], TALL_M)
    users = problem.prior.users_m
    scene = Scene(np.zeros((0, 3)), users, np.zeros(2), np.zeros((0, 3)))
    point = np.array([[50.0, 10.0, 7.0]])
    length, cosines = observed(problem, point, users[:1])
    parameters, user, snr = np.column_stack([length, cosines]), np.zeros(1, int), np.full(1, 1e3)
    assert not locate_paths(problem, scene, parameters, user, snr)[1].any()
    found, located = locate_paths(problem, scene, parameters, user, snr, vague=True)
    assert located.all()
    thin = np.array([[20.0, -30.0, 6.5], [80.0, 30.0, 7.5]])
    found, located = locate_paths(replace(problem, region_m=thin), scene, parameters, user, snr)
    assert located.all() and np.linalg.norm(found - point) < 0.6
    elsewhere = np.array([[20.0, 15.0, 0.0], [80.0, 30.0, 15.0]])  # five metres of cosine away
    for vague in (False, True):
        _, located = locate_paths(
            replace(problem, region_m=elsewhere), scene, parameters, user, snr, vague=vague
        )
        assert not located.any()


def test_the_border_takes_what_it_explains():
    """A curve that ends beside the region is placed on the border if the path allows it."""
    problem = problem_of(ARRAYS[0], FLAT_M)
    users = problem.prior.users_m[:1]
    point = np.array([[80.3, 5.0, 1.5]])
    lengths, cosines = observed(problem, point, users)
    for variance, expected in ((1.0, True), (1e-4, False)):
        spread = np.array([[variance, 1e-4, 1e-4]])
        found, extent = points_on_cones(problem, users, lengths, cosines, spread, 9.0)
        assert np.isfinite(extent[0]) == expected
        if expected:
            assert np.linalg.norm(found - point) < 1.0 and found[0, 0] <= 80.0


def test_a_single_antenna_has_no_cone():
    problem = problem_of(isac.UniformPlanarArray((1, 1)), FLAT_M)
    point, users = np.array([[50.0, 5.0, 1.5]]), problem.prior.users_m[:1]
    _, extent = points_on_cones(problem, users, *observed(problem, point, users), np.ones((1, 3)), 9.0)
    assert extent[0] == np.inf


def test_only_vague_points_of_one_user_are_released():
    problem = problem_of(ARRAYS[0], TALL_M)
    users = problem.prior.users_m
    points = np.array([[50.0, 10.0, 7.0], [40.0, -20.0, 3.0], [60.0, 0.0, 8.0]])
    seen = np.array([[True, True, False], [False, True, True]])
    offsets = np.array([1.0, -2.0])
    scene = Scene(points, users, offsets, np.array([[90.0, 0.1, 0.0]]))
    released, kept, user = release_points(problem, scene, seen, np.array([1]))
    assert_allclose(released.points_m, points[1:2])
    assert np.array_equal(kept, seen[:, 1:2]) and user.tolist() == [1, 0, 1]
    assert_allclose(released.unlocated_m[:, 2], 0)
    bounce = single_bounce(problem, points[[0, 2]], users)
    assert_allclose(released.unlocated_m[1:, 0], bounce[:, 0] + offsets)
    assert_allclose(released.unlocated_m[1:, 1], bounce[:, 1])
    planar = problem_of(isac.UniformPlanarArray((4, 4)), TALL_M)
    assert release_points(planar, scene, seen, np.array([1]))[0] is scene


# --- users that agree --------------------------------------------------------------------------------


@pytest.mark.parametrize("array", ARRAYS)
def test_paths_of_users_that_agree_share_a_place(array):
    """Every path of a scatterer joins its group, there; a path with a length of its own does not."""
    problem = problem_of(array, TALL_M, user_std_m=0.05)
    rng = np.random.default_rng(3)
    places = np.array([[30.0, -15.0, 3.0], [55.0, 20.0, 12.0], [70.0, -5.0, 8.0]])
    sites = np.array([[60.0, -20.0, 1.5], [45.0, 15.0, 1.5], [75.0, 10.0, 1.5]])
    scatterer, user = np.divmod(rng.permutation(9), 3)
    lengths, cosines = observed(problem, places[scatterer], sites[user])
    lengths, cosines = np.append(lengths, lengths[0] + 25.0), np.vstack([cosines, cosines[:1]])
    user, users = np.append(user, (user[0] + 1) % 3), np.vstack([sites[user], sites[(user[0] + 1) % 3]])
    variance = np.tile([2 * 0.05**2, 1e-6, 1e-6], (10, 1)) * rng.uniform(1, 2, (10, 1))
    group, found = shared_places(problem, users, lengths, cosines, variance, user)
    assert group[9] == -1 and len(found) == 3
    for i in range(3):
        of_scatterer = group[:9][scatterer == i]
        assert np.all(of_scatterer == of_scatterer[0]) and of_scatterer[0] >= 0
        assert np.linalg.norm(found[of_scatterer[0]] - places[i]) < 2.0


def test_paths_of_one_user_never_share_a_place():
    problem = problem_of(ARRAYS[0], TALL_M, user_std_m=1.0)
    point, site = np.array([[50.0, 5.0, 5.0]]), np.array([[60.0, -20.0, 1.5]])
    lengths, cosines = (np.repeat(x, 2, axis=0) for x in observed(problem, point, site))
    variance, user = np.ones((2, 3)), np.zeros(2, int)
    group, found = shared_places(problem, np.repeat(site, 2, axis=0), lengths, cosines, variance, user)
    assert group.tolist() == [-1, -1] and not len(found)


# --- choices -----------------------------------------------------------------------------------------


def linear_case(bs_height_m: float, seed: int, **changes) -> tuple[Fit, Scene]:
    """A true scene before a row of antennas, every scatterer seen by both users; its fit and itself."""
    known = {"user_position_std_m": 0.05, "time_offset_std_s": 1e-10, "visibility_probability": 1.0}
    place = {"array_shape": (24, 1), "bs_position_m": (0.0, 0.0, bs_height_m)}
    scenario = SMALL.replace(**{**known, **place, **changes})
    problem, scene, paths, _ = true_problem(seed, 25.0, scenario=scenario)
    return refine(evaluate(problem, scene, paths, np.full(len(paths), 1e-3)), 20), scene


#: Users at the height of the base station, in the middle of the region: up and down look the same to a row.
MIRRORED = {"user_region_m": ((40.0, -30.0, 7.5), (80.0, 30.0, 7.5)), "user_position_std_m": 0.0}


def test_mirror_images_share_the_weight_and_join_the_covariance():
    fit, _ = linear_case(7.5, 2, **MIRRORED)
    heights = fit.scene.points_m[:, 2] - 7.5
    far = np.abs(heights) > 3.0
    assert far.any()
    _, share, doubt = best_places(fit)
    assert_allclose(share[far], 0.5, atol=0.1)
    assert_allclose(np.sqrt(doubt[far, 2, 2]), np.sqrt(0.5) * 2 * np.abs(heights[far]), rtol=0.25)


def test_the_better_of_two_places_is_taken():
    """Users at different heights break the mirror: an image that fits worse is left for a better place.

    In one of ten blocks the way there is too far.
    """
    started = taken = 0
    for seed in range(10):
        fit, truth = linear_case(7.5, seed, **{**MIRRORED, "user_region_m": ((40, -30, 5.0), (80, 30, 10.0))})
        for point in np.flatnonzero(np.abs(truth.points_m[:, 2] - 7.5) > 3.0):
            points = fit.scene.points_m.copy()
            points[point, 2] = 15.0 - points[point, 2]
            scene = replace(fit.scene, points_m=points)
            image = refine(evaluate(fit.problem, scene, fit.paths, fit.posterior.prior_precision), 30)
            if not 3.0 < image.objective - fit.objective < 1e4:
                continue
            started += 1
            best, _, _ = best_places(image)
            assert best.objective < fit.objective + 0.5 * (image.objective - fit.objective)
            apart = np.linalg.norm(best.scene.points_m[point] - fit.scene.points_m[point])
            taken += bool(best.objective < fit.objective + 0.5 and apart < 0.3)
    assert started >= 4 and taken >= started - 1


def test_a_bent_curve_widens_the_covariance_across_its_tangent():
    """Second moments of a Gaussian along the curve, against the tangent's plus what is added."""
    problem, scene, _, _ = true_problem(0, 20.0, scenario=SMALL.replace(array_shape=(24, 1)))
    seen = np.ones((2, 1), bool)
    alone = replace(scene, points_m=scene.points_m[:1])
    paths = Paths.build(np.ones(2, bool), seen, np.zeros(0, np.int64))
    fit = evaluate(problem, alone, paths, np.full(len(paths), 1e-3))
    covariance = np.diag([0.0, 0.0, 4.0])
    added = cones._bend(fit, 0, covariance)
    user = alone.users_m[paths.user[cones._paths_over(fit, 0)[:1]]]
    bounce = single_bounce(problem, alone.points_m, user)
    angles = np.linspace(-0.3, 0.3, 6001)
    ray = alone.points_m[0] - problem.receiver.bs_position_m
    front, _, other = problem.receiver.array.axes
    centre = np.arctan2(ray @ other, ray @ front)
    curve, _ = cones._curves(problem, user, bounce[:, 0], bounce[:, 1:2], centre + angles)
    curve = curve[0] - alone.points_m[0]
    steps = np.linalg.norm(np.diff(curve, axis=0), axis=1)
    along = np.concatenate([[0], np.cumsum(steps)])
    along -= np.interp(0, angles, along)
    tangent = (curve[3001] - curve[2999]) / np.linalg.norm(curve[3001] - curve[2999])
    weight = np.exp(-0.5 * along**2 / (4.0 * tangent[2] ** 2)) * np.gradient(along)
    weight /= weight.sum()
    across = curve - np.outer(curve @ tangent, tangent)
    expected = (across.T * weight) @ across
    assert np.trace(added) == pytest.approx(np.trace(expected), rel=0.25)
    assert np.trace(expected @ added) > 0.95 * np.linalg.norm(expected) * np.linalg.norm(added)


def test_a_planar_array_keeps_its_places():
    problem, scene, paths, _ = true_problem(0, 20.0)
    fit = evaluate(problem, scene, paths, np.full(len(paths), 1e-3))
    same, share, doubt = best_places(fit)
    assert same is fit and np.all(share == 1) and not doubt.any()


def test_the_prior_of_points_is_that_of_a_uniform_law():
    """Penalty, precision and deviation agree, and planar arrays have none."""
    simulation = SMALL.replace(array_shape=(8, 1)).simulate(0)
    prior = ScenePrior.of(simulation.observation)
    region = simulation.observation.region_m
    rng = np.random.default_rng(0)
    scene = Scene(rng.uniform(region[0], region[1], (4, 3)), prior.users_m, np.zeros(2), np.zeros((2, 3)))
    extent = np.tile(region[1] - region[0], 4)
    assert_allclose(prior.precision(scene)[:12], 12 / extent**2)
    expected = 0.5 * prior.precision(scene) @ prior.deviation(scene) ** 2
    assert prior.penalty(scene) == pytest.approx(expected)
    assert prior.known(scene)[-6:].tolist() == [False, False, True] * 2
    planar = ScenePrior.of(SMALL.simulate(0).observation)
    assert not planar.precision(scene)[:12].any() and not planar.known(scene)[-6:].any()
    assert np.array_equal(prior.of_user(1).region_m, region)


def test_no_place_is_less_certain_than_the_region():
    """The covariance of a point of one user keeps the region's deviation where nothing is seen."""
    problem, scene, _, _ = true_problem(0, 20.0, scenario=SMALL.replace(array_shape=(24, 1)))
    seen = np.zeros((2, 1), bool)
    seen[0] = True
    alone = replace(scene, points_m=scene.points_m[:1])
    paths = Paths.build(np.ones(2, bool), seen, np.zeros(0, np.int64))
    covariance = scene_covariance(evaluate(problem, alone, paths, np.full(3, 1e-3)))[:3, :3]
    deviation = (problem.region_m[1] - problem.region_m[0]) / np.sqrt(12)
    assert 0.5 * deviation[2] < np.sqrt(covariance[2, 2]) <= deviation[2] * (1 + 1e-9)
    assert np.all(np.diag(covariance) <= deviation**2 * (1 + 1e-9))
