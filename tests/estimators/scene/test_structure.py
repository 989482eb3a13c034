"""Changes of structure by evidence, and single against multiple bounces."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

import isac_toolbox as isac
from helpers.scenes import SMALL
from isac_toolbox.channel.atoms.scene import LINE_OF_SIGHT, Paths, Scene
from isac_toolbox.channel.geometry import bistatic_delays_s, line_of_sight_delays_s
from isac_toolbox.estimators.bisvbi import BiSVBILoop
from isac_toolbox.estimators.scene import structure
from isac_toolbox.estimators.scene.evidence import log_evidence
from isac_toolbox.estimators.scene.fit import evaluate, scene_covariance
from isac_toolbox.estimators.scene.plausibility import (
    ground_reflections,
    reflection_loss_db,
    single_bounce_probability,
    wall_reflections,
)
from isac_toolbox.estimators.scene.refine import refine


@pytest.fixture(scope="module")
def finished():
    """A converged loop on a small scene, with its truth."""
    simulation = SMALL.simulate(seed=3)
    loop = BiSVBILoop(isac.EMTurboBiSVBI(), simulation.observation)
    loop.run()
    return loop, simulation.truth


def shared_path(fit) -> int:
    """A path over a point that several users see."""
    located = np.flatnonzero(fit.paths.is_point)
    seen = np.bincount(fit.paths.target[located])
    return int(located[seen[fit.paths.target[located]] > 1][0])


def test_no_move_leaves_a_true_scene(finished):
    loop, _ = finished
    for move in (structure.split_points, structure.merge_points, structure.absorb_duplicates):
        assert move(loop.working) is None


@pytest.mark.parametrize("above", [-1e-3, 1e-3])
def test_points_may_be_one_by_the_volume_they_could_be_in(above):
    """``ln V + ln N(d; 0, 2)`` beside the least that is tried; a cube of centimetres or kilometres alike."""
    log_side = (structure._PROMISING_EVIDENCE + above + 1.5 * np.log(4 * np.pi)) / 3
    apart_m = np.array([0.3, 0.2, -0.1])
    scene = Scene(np.stack([np.zeros(3), apart_m]), np.zeros((1, 3)), np.zeros(1), np.zeros((0, 3)))
    for further_m in (0.0, 5.0):
        scene.points_m[1, 0] = 0.3 + further_m
        side_m = np.exp(log_side + np.sum(scene.points_m[1] ** 2) / 4 / 3)
        problem = SimpleNamespace(region_m=np.array([np.full(3, 1.0), np.full(3, 1.0) + side_m]))
        fit = SimpleNamespace(problem=problem, scene=scene)
        pairs = structure._promising_pairs(fit, np.eye(scene.n_parameters))
        assert pairs == ([(0, 1)] if above > 0 else [])


def test_a_split_point_is_merged_again(finished):
    loop, truth = finished
    working = loop.working
    fit, _, _ = working.active_fit()
    split = structure._split_fit(working, fit, shared_path(fit))
    assert len(split.scene.points_m) == len(truth.scatterer_positions_m) + 1
    merged = structure.merge_points(working.adopt(split))
    assert merged is not None and merged.n_points == len(truth.scatterer_positions_m)


def wrongly_merged(loop):
    """Two true points forced into one, each half of its users."""
    working = loop.working
    fit, _, _ = working.active_fit()
    covariance = scene_covariance(fit)
    return working.adopt(structure._merged_fit(working, fit, covariance, 0, 1))


def test_a_wrong_merge_is_split(finished):
    loop, truth = finished
    merged = wrongly_merged(loop)
    before = log_evidence(merged.active_fit()[0])
    split = structure.split_points(merged)
    assert split is not None and split.n_points >= len(truth.scatterer_positions_m)
    assert log_evidence(split.active_fit()[0]) > before


def test_the_score_predicts_the_fall_of_a_small_contradiction(finished):
    loop, _ = finished
    working = loop.working
    fit, _, _ = working.active_fit()
    path = shared_path(fit)
    own = fit.paths.target[path]
    sight, seen, unlocated_user = fit.paths.membership(working.n_users, len(fit.scene.points_m))
    users = np.flatnonzero(seen[:, own])
    shifted = fit.scene.points_m[own] + np.array([0.0, 0.004, 0.0])
    apart = replace(fit.scene, points_m=np.vstack([fit.scene.points_m, shifted]))
    alone = np.zeros((working.n_users, 1), bool)
    alone[users[-1]], seen[users[-1], own] = True, False
    untied = Paths.build(sight, np.hstack([seen, alone]), unlocated_user)
    noiseless = evaluate(working.problem, apart, untied, fit.posterior.prior_precision)
    tied = refine(fit, n_steps=20, tol=1e-9)
    untied_fit = refine(noiseless, n_steps=40, tol=1e-9)
    target = int(np.flatnonzero((tied.paths.target == own) & (tied.paths.user == users[-1]))[0])
    predicted = structure._tie_scores(tied)[target]
    assert predicted == pytest.approx(tied.objective - untied_fit.objective, rel=0.1, abs=0.05)


def test_newborn_points_survive_the_other_moves(finished):
    loop, truth = finished
    working = loop.working
    scene = working.fit.scene
    kept = np.arange(1, working.n_points)
    without = Scene(scene.points_m[1:], scene.users_m, scene.offsets_m, scene.unlocated_m)
    loop.working = working.restructured(
        without, working.unlocated_user, kept, np.arange(len(scene.unlocated_m))
    )
    try:
        assert loop._search_structure()
        points = loop.working.active_fit()[0].scene.points_m
        assert isac.metrics.localisation(points, truth.scatterer_positions_m).misses == 0
    finally:
        loop.working = working


def test_a_point_on_a_line_of_sight_is_absorbed(finished):
    loop, _ = finished
    working = loop.working
    fit, _, _ = working.active_fit()
    sight, seen, unlocated_user = fit.paths.membership(working.n_users, len(fit.scene.points_m))
    bs = working.problem.receiver.bs_position_m
    on_line = bs + 0.9 * (fit.scene.users_m[0] - bs)
    alone = np.zeros((working.n_users, 1), bool)
    alone[0] = True
    scene = replace(fit.scene, points_m=np.vstack([fit.scene.points_m, on_line]))
    paths = Paths.build(sight, np.hstack([seen, alone]), unlocated_user)
    slab = np.full(len(paths), 1.0)
    doubled = working.adopt(evaluate(working.problem, scene, paths, slab))
    absorbed = structure.absorb_duplicates(doubled)
    assert absorbed is not None and absorbed.n_points == working.n_points


def ground_point(bs, user):
    """Where level ground at height zero reflects."""
    share = bs[2] / (bs[2] + user[2])
    return np.array([*(bs[:2] + share * (user[:2] - bs[:2])), 0.0])


def test_ground_reflections_obey_the_law(finished):
    loop, _ = finished
    working = loop.working
    fit, _, _ = working.active_fit()
    sight, _, _ = fit.paths.membership(working.n_users, len(fit.scene.points_m))
    bs = working.problem.receiver.bs_position_m
    exact = ground_point(bs, fit.scene.users_m[0])
    beside = exact + np.array([0.0, 5.0, 0.0])
    above = np.array([*exact[:2], 10.0])
    scene = replace(fit.scene, points_m=np.vstack([exact, beside, above]))
    seen = np.zeros((working.n_users, 3), bool)
    seen[0] = True
    paths = Paths.build(sight, seen, np.zeros(0, np.int64))
    trial = evaluate(working.problem, scene, paths, np.ones(len(paths)))
    covariance = 0.01 * np.eye(scene.n_parameters)
    assert ground_reflections(trial, covariance).tolist() == [True, False, False]


def test_wall_reflections_keep_the_slope_of_the_ray(finished):
    loop, _ = finished
    working = loop.working
    fit, _, _ = working.active_fit()
    sight, _, _ = fit.paths.membership(working.n_users, len(fit.scene.points_m))
    bs, user = working.problem.receiver.bs_position_m, fit.scene.users_m[0]
    # the image of the user in a vertical wall two metres beyond it: the ray to the image crosses the wall
    normal = np.array([0.6, 0.8, 0.0])
    wall = np.dot(user, normal) + 2.0
    image = user + 4.0 * normal
    share = (wall - np.dot(bs, normal)) / np.dot(image - bs, normal)
    exact = bs + share * (image - bs)
    raised = exact + np.array([0.0, 0.0, 3.0])
    scene = replace(fit.scene, points_m=np.vstack([exact, raised]))
    seen = np.zeros((working.n_users, 2), bool)
    seen[0] = True
    paths = Paths.build(sight, seen, np.zeros(0, np.int64))
    trial = evaluate(working.problem, scene, paths, np.ones(len(paths)))
    tight = 1e-4 * np.eye(scene.n_parameters)
    assert wall_reflections(trial, tight).tolist() == [True, False]
    wide = 4.0 * np.eye(scene.n_parameters)
    assert wall_reflections(trial, wide).tolist() == [True, True]


def test_reflection_loss_is_that_of_the_draw(finished):
    loop, truth = finished
    fit, _, _ = loop.working.active_fit()
    loss = reflection_loss_db(fit)
    bs = loop.working.problem.receiver.bs_position_m
    length = bistatic_delays_s(truth.user_positions_m, truth.scatterer_positions_m, bs)
    direct = line_of_sight_delays_s(truth.user_positions_m, bs)
    true_level = np.abs(truth.scatterer_gain) * length
    reference = np.abs(truth.line_of_sight_gain) * direct
    assert np.allclose(loss[fit.paths.target == LINE_OF_SIGHT], 0.0)
    for i in np.flatnonzero(fit.paths.is_point):
        user, point = fit.paths.user[i], fit.scene.points_m[fit.paths.target[i]]
        nearest = int(np.argmin(np.linalg.norm(truth.scatterer_positions_m - point, axis=1)))
        expected = 20 * np.log10(reference[user] / true_level[user, nearest])
        assert loss[i] == pytest.approx(expected, abs=1.0)


def test_shared_points_are_single_bounces_and_weak_lonely_ones_are_doubted(finished):
    loop, _ = finished
    working = loop.working
    fit, _, _ = working.active_fit()
    covariance = scene_covariance(fit)
    probability = single_bounce_probability(fit, covariance)
    seen = np.bincount(fit.paths.target[fit.paths.is_point], minlength=len(probability))
    assert np.all(probability[seen > 1] > 0.95)
    assert np.all(probability > 0.5)
    gains = fit.posterior.mean.copy()
    lonely = fit.paths.target == shared_point_alone(fit)
    gains[lonely] *= 0.02
    faint = replace(fit, posterior=replace(fit.posterior, mean=gains))
    doubted = single_bounce_probability(faint, covariance)
    assert doubted[shared_point_alone(fit)] < probability[shared_point_alone(fit)]


def shared_point_alone(fit) -> int:
    """Index of the last point."""
    return len(fit.scene.points_m) - 1


def test_pilots_contradict_a_channel_led_astray(finished):
    loop, _ = finished
    assert not loop.contradicts_pilots()
    residual = loop._pilot_misfit
    try:
        loop._pilot_misfit = 0.5 * residual
        assert loop.contradicts_pilots()
    finally:
        loop._pilot_misfit = residual
