"""Which path passes for a line of sight: the gate by value, with priors and the path's own uncertainty."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy.optimize import brentq

from helpers.scenes import SMALL, random_case, true_problem
from isac_toolbox.channel.atoms.scene import Paths, Scene
from isac_toolbox.estimators.scene.fit import Fit, evaluate, scene_covariance
from isac_toolbox.estimators.scene.locate import find_lines_of_sight
from isac_toolbox.estimators.scene.place import place_points
from isac_toolbox.estimators.scene.problem import with_noise_precision

USER_STDS_M = np.array([[0.8, 0.3, 0.5], [0.2, 0.9, 0.4]])
CLOCK_STDS_M = np.array([0.7, 0.4])


def problem(noise_precision: float):
    return with_noise_precision(random_case(0, "planar", USER_STDS_M, CLOCK_STDS_M).problem, noise_precision)


def nominal(problem, position_m: np.ndarray) -> np.ndarray:
    """Length and direction cosines of the line of sight of a user at a position."""
    ray = position_m - problem.receiver.bs_position_m
    distance = np.linalg.norm(ray)
    return np.array([distance, *(problem.receiver.array.axes[1:] @ ray / distance)])


def fit_of(problem, unlocated_m, user) -> Fit:
    scene = Scene(np.zeros((0, 3)), problem.prior.users_m, np.zeros(2), np.asarray(unlocated_m, float))
    paths = Paths.build(np.zeros(2, bool), np.zeros((2, 0), bool), np.asarray(user))
    fit = evaluate(problem, scene, paths, np.full(len(user), 0.5))
    gains = np.linspace(2.0, 1.0, len(user)) + 0j  # so strong that the covariance is one
    return replace(fit, posterior=replace(fit.posterior, mean=gains))


def squared_distance(fit: Fit, path: int) -> float:
    """Chi-square of a path against its user's nominal line of sight, by finite differences."""
    problem, user = fit.problem, fit.paths.user[path]
    place, step = problem.prior.users_m[user], 1e-4
    slope = np.column_stack(
        [(nominal(problem, place + e) - nominal(problem, place - e)) / (2 * step) for e in step * np.eye(3)]
    )
    spread = slope @ np.diag(USER_STDS_M[user] ** 2) @ slope.T
    spread += np.diag([CLOCK_STDS_M[user] ** 2, 0, 0])
    start = fit.scene.blocks()[3].start + 3 * fit.paths.unlocated[path]
    own = scene_covariance(fit)[start : start + 3, start : start + 3]
    deviation = fit.scene.unlocated_m[fit.paths.unlocated[path]] - nominal(problem, place)
    return float(deviation @ np.linalg.solve(spread + own, deviation))


@pytest.mark.parametrize("noise_precision", [0.02, 3.0, 1e4])
@pytest.mark.parametrize("user", [0, 1])
@pytest.mark.parametrize("direction", [[1.0, 0.0, 0.0], [0.0, 0.01, 0.0], [0.3, 0.004, -0.01]])
def test_a_path_fits_within_five_deviations(noise_precision, user, direction):
    """From a path that tells its place badly, so that its own covariance matters, to a perfect one."""
    here = problem(noise_precision)
    other = np.add(nominal(here, here.prior.users_m[1 - user]), [40.0, 0.3, 0.3])

    def moved(length: float) -> Fit:
        sight = nominal(here, here.prior.users_m[user]) + length * np.array(direction)
        return fit_of(here, [other, sight], [1 - user, user])

    limit = brentq(lambda length: squared_distance(moved(length), 1) - 25.0, 0.0, 1000.0, xtol=1e-6)
    expected = np.full(2, -1)
    np.testing.assert_array_equal(find_lines_of_sight(moved(1.01 * limit)), expected)
    expected[user] = 1
    np.testing.assert_array_equal(find_lines_of_sight(moved(0.99 * limit)), expected)


def test_the_uncertainty_of_a_path_opens_the_gate():
    """Six deviations of the priors are three of priors and path together where the path is as uncertain."""
    sure, unsure = problem(1e4), problem(0.003)
    sight = np.add(nominal(sure, sure.prior.users_m[0]), [6.0, 0.0, 0.0])
    other = np.add(nominal(sure, sure.prior.users_m[1]), [40.0, 0.3, 0.3])
    assert find_lines_of_sight(fit_of(sure, [sight, other], [0, 1])).tolist() == [-1, -1]
    assert find_lines_of_sight(fit_of(unsure, [sight, other], [0, 1])).tolist() == [0, -1]


@pytest.mark.parametrize("order", [[0, 1, 2], [2, 1, 0], [1, 2, 0]])
def test_of_several_paths_that_fit_the_strongest_is_taken(order):
    here = problem(10.0)
    sights = np.array([np.add(nominal(here, here.prior.users_m[0]), [x, 0.0, 0.0]) for x in (0.3, -0.2, 0.1)])
    fit = fit_of(here, sights[order], [0, 0, 0])
    strengths = np.array([1.0, 3.0, 2.0])[order]
    fit = replace(fit, posterior=replace(fit.posterior, mean=strengths * np.exp(1j * np.arange(3))))
    assert find_lines_of_sight(fit).tolist() == [order.index(1), -1]


@pytest.mark.parametrize(("stds", "offsets"), [([1e4, 1e4], [0.6, -0.3]), ([1e4, 0.0], [0.6, 0.0])])
def test_the_line_of_sight_starts_the_clock(stds, offsets):
    """At the path's length beyond the nominal distance, or at zero for a known clock."""
    here = problem(1e-9)  # data and prior leave the start as it is
    here = replace(here, prior=replace(here.prior, offset_stds_m=np.array(stds)))
    sights = np.array([nominal(here, p) for p in here.prior.users_m])
    sights[:, 0] += [0.6, -0.3]
    fit = fit_of(here, sights, [0, 1])
    placed, has_sight, seen = place_points(fit)
    assert has_sight.all() and seen.shape == (2, 0)
    np.testing.assert_allclose(placed.scene.offsets_m, offsets, atol=1e-3)


def test_a_linear_array_compares_the_cosine_that_it_sees():
    """The other one of an unlocated path is zero, wherever the user is."""
    for shape, seen in (((12, 1), 1), ((1, 12), 2)):
        problem, *_ = true_problem(0, 20.0, scenario=SMALL.replace(array_shape=shape))
        sights = [nominal(problem, user) for user in problem.prior.users_m]
        cones = np.array([np.where(np.isin(np.arange(3), [0, seen]), sight, 0.0) for sight in sights])
        assert np.all(np.abs(np.array(sights)[:, 3 - seen]) > 0.01)
        assert find_lines_of_sight(fit_of(problem, cones, [0, 1])).tolist() == [0, 1]
        cones[:, seen] += 0.3
        assert find_lines_of_sight(fit_of(problem, cones, [0, 1])).tolist() == [-1, -1]
