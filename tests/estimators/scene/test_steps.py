"""First steps of both M-steps by value, where nothing caps them."""

from __future__ import annotations

import numpy as np
import pytest

from helpers.scenes import true_problem
from isac_toolbox.estimators.scene.fit import evaluate
from isac_toolbox.estimators.scene.refine import gradient_steps, refine


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
