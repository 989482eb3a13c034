"""First steps of both M-steps by value, where nothing caps them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from helpers.scenes import true_problem
from isac_toolbox.estimators.scene.fit import evaluate
from isac_toolbox.estimators.scene.refine import gradient_steps, refine
from isac_toolbox.estimators.scene.still import StillFit


@pytest.fixture(scope="module")
def near():
    """A fit some millimetres from its optimum."""
    problem, scene, paths, _ = true_problem(0, 20.0)
    best = refine(evaluate(problem, scene, paths, np.ones(len(paths))), 50, tol=1e-10)
    moved = best.scene.vector() + 3e-3 * np.random.default_rng(0).standard_normal(scene.n_parameters)
    return evaluate(problem, scene.with_vector(moved), paths, np.ones(len(paths)))


def test_the_first_damped_step(near):
    """``(H + 1e-6 I) d = -g`` with ``H`` scaled to a unit diagonal."""
    hessian, gradient = near.normal_equations
    scale = 1 / np.sqrt(np.diag(hessian))
    damped = hessian * np.outer(scale, scale) + 1e-6 * np.eye(len(hessian))
    step = -scale * np.linalg.solve(damped, scale * gradient)
    moved = refine(near, 1).scene.vector() - near.scene.vector()
    np.testing.assert_allclose(moved, step, rtol=1e-6, atol=1e-9)
    plain = np.linalg.solve(hessian, -gradient)
    assert np.max(np.abs(plain - step)) > 1e-7  # the damping shows


def test_the_first_gradient_step_is_that_of_cauchy(near):
    """Points move first, along their own gradient by ``|g|^2 / g^T H g``."""
    hessian, gradient = near.normal_equations
    points = near.scene.blocks()[0]
    g = gradient[points]
    length = g @ g / (g @ hessian[points, points] @ g)
    moved = (gradient_steps(near, 1).scene.points_m - near.scene.points_m).ravel()
    np.testing.assert_allclose(moved, -length * g, rtol=1e-9)


def test_a_step_that_goes_too_far_is_shortened_to_the_lowest_point_along_it(near, monkeypatch):
    """With half the curvature a whole step would swing to the other side of the optimum and gain nothing."""
    true = StillFit.normal_equations.fget

    def flat(fit):
        hessian, gradient = true(fit)
        return hessian / 2.2, gradient

    best = refine(near, 20, tol=1e-10).objective
    little = evaluate(
        near.problem,
        near.scene.with_vector(refine(near, 20, tol=1e-10).scene.vector() + 3e-5),
        near.paths,
        near.posterior.prior_precision,
    )
    assert 1e-4 < little.objective - best < 4
    exact = refine(little, 1)
    monkeypatch.setattr(StillFit, "normal_equations", property(flat))
    shortened = refine(little, 1)
    np.testing.assert_allclose(shortened.scene.vector(), exact.scene.vector(), atol=3e-7)
    assert shortened.objective - best < 0.01 * (little.objective - best)


def test_points_beyond_the_border_end_where_nothing_inside_fits_better(near):
    """At the constrained optimum the gradient vanishes but where it pushes a coordinate out of the region."""
    points = near.scene.points_m
    low = np.array([-np.inf, -np.inf, np.sort(points[:, 2])[len(points) // 2] + 0.3])
    problem = replace(near.problem, region_m=np.array([low, np.full(3, np.inf)]))
    scene = replace(near.scene, points_m=np.maximum(points, low))
    start = evaluate(problem, scene, near.paths, near.posterior.prior_precision)
    steps, objectives = 12, []
    for n in (steps, 3 * steps):
        fit = refine(start, n, tol=1e-10)
        objectives.append(fit.objective)
    assert objectives[0] - objectives[1] < 1e-3
    hessian, gradient = fit.normal_equations
    border = np.zeros(gradient.size, bool)
    border[2 : points.size : 3] = fit.scene.points_m[:, 2] == low[2]
    assert border.any() and np.all(gradient[border] >= 0)
    assert np.all(np.abs(gradient[~border]) < 1e-3 * np.sqrt(np.diag(hessian)[~border]))
