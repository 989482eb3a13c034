"""Laplace evidence of a scene by value: dense matrices, quadrature over positions, and flat directions."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import numpy as np
import pytest

from helpers.scenes import REGION_M, Case, full_information, random_case, true_problem, unknown
from isac_toolbox.channel.atoms.scene import Paths, Scene
from isac_toolbox.estimators.scene.evidence import log_evidence
from isac_toolbox.estimators.scene.fit import Fit, evaluate, scene_covariance
from isac_toolbox.estimators.scene.problem import with_noise_precision
from isac_toolbox.estimators.scene.refine import refine

EXTENT_M = REGION_M[1] - REGION_M[0]
# Length, and the side of a square with the area of all directions.
UNLOCATED_EXTENT = np.array([2 * np.linalg.norm(EXTENT_M), np.sqrt(np.pi), np.sqrt(np.pi)])


def dense_evidence(case: Case) -> float:
    """``ln p(Y)`` by Laplace over gains and scene at once, every prior with its normaliser.

    Without the constant of the likelihood, and without the normaliser of the users' priors, which no change
    of structure touches.
    """
    fit = case.fit()
    information, _ = full_information(case, fit)
    n_paths, n_points, n_unlocated = len(case.paths), len(case.scene.points_m), len(case.scene.unlocated_m)
    uniform = np.zeros(len(information))
    points, _, _, unlocated = (
        slice(2 * n_paths + b.start, 2 * n_paths + b.stop) for b in case.scene.blocks()
    )
    uniform[points] = np.tile(12 / EXTENT_M**2, n_points)
    uniform[unlocated] = np.tile(12 / UNLOCATED_EXTENT**2, n_unlocated)
    keep = unknown(case, case.scene)
    inner = (information + np.diag(uniform))[np.ix_(keep, keep)]
    scale = 1 / np.sqrt(np.diag(inner))
    log_det = np.linalg.slogdet(inner * np.outer(scale, scale))[1] - 2 * np.sum(np.log(scale))
    integral = -fit.objective + 0.5 * (keep.sum() * np.log(2 * np.pi) - log_det)
    gain_prior = np.sum(np.log(case.precision / np.pi))
    place_prior = -n_points * np.sum(np.log(EXTENT_M)) - n_unlocated * np.sum(np.log(UNLOCATED_EXTENT))
    return float(integral + gain_prior + place_prior)


@pytest.mark.parametrize("wavefront", ["planar", "spherical"])
@pytest.mark.parametrize(
    ("stds", "n_unlocated"),
    [((0.3, 1.5), 2), ((0.3, 1.5), 0), ((0.0, 0.0), 1), (([[0.2, 0.0, 0.3], [0.0, 0.4, 0.0]], [0, 2.0]), 3)],
)
def test_evidence_equals_the_dense_laplace_integral(wavefront, stds, n_unlocated):
    case = random_case(6, wavefront, *stds, n_unlocated=n_unlocated)
    case.problem = with_noise_precision(case.problem, 30.0)
    assert log_evidence(case.fit()) == pytest.approx(dense_evidence(case), abs=2e-3)


def by_quadrature(fit: Fit, volume: float, n_nodes: int = 7) -> float:
    """``ln`` of the integral of ``exp(-J) det(Sigma) prod(rho) / volume`` over all unknown positions."""
    unknown = ~fit.problem.prior.known(fit.scene)
    root = np.linalg.cholesky(scene_covariance(fit)[np.ix_(unknown, unknown)])
    nodes, weights = np.polynomial.hermite_e.hermegauss(n_nodes)
    total, centre = 0.0, fit.scene.vector()
    for index in product(range(n_nodes), repeat=len(root)):
        standard = nodes[list(index)]
        vector = centre.copy()
        vector[unknown] += root @ standard
        trial = evaluate(fit.problem, fit.scene.with_vector(vector), fit.paths, fit.posterior.prior_precision)
        log_ratio = fit.objective - trial.objective + trial.posterior.log_det - fit.posterior.log_det
        total += np.prod(weights[list(index)]) * np.exp(log_ratio + 0.5 * standard @ standard)
    at_mode = fit.posterior.log_det + np.sum(np.log(fit.posterior.prior_precision)) - fit.objective
    return float(np.log(total) + np.sum(np.log(np.diag(root))) + at_mode - np.log(volume))


@pytest.mark.parametrize("kind", ["point", "unlocated"])
def test_evidence_is_the_integral_over_the_position(kind):
    """One unknown place at 40 dB, users and clocks known: the Gaussian is then nearly exact."""
    problem, scene, _, _ = true_problem(0, 40.0)
    prior = replace(problem.prior, user_stds_m=np.zeros((2, 3)), offset_stds_m=np.zeros(2))
    problem = replace(problem, prior=prior)
    nothing = np.zeros((0, 3))
    if kind == "point":
        start = Scene(scene.points_m[:1], scene.users_m, scene.offsets_m, nothing)
        paths = Paths.build(np.ones(2, bool), np.array([[True], [False]]), np.zeros(0, np.int64))
    else:
        alone = Scene(scene.points_m[:1], scene.users_m, scene.offsets_m, nothing)
        one = Paths.build(np.zeros(2, bool), np.array([[True], [False]]), np.zeros(0, np.int64))
        seen = evaluate(problem, alone, one, np.ones(1)).parameters
        unlocated = np.array([[seen.length_m[0], *seen.cosines[:, 0]]])
        start = Scene(nothing, scene.users_m, scene.offsets_m, unlocated)
        paths = Paths.build(np.ones(2, bool), np.zeros((2, 0), bool), np.zeros(1, np.int64))
    fit = refine(evaluate(problem, start, paths, np.full(len(paths), 0.1)), 50, tol=1e-10)
    volume = np.prod(EXTENT_M if kind == "point" else UNLOCATED_EXTENT)
    assert log_evidence(fit) == pytest.approx(by_quadrature(fit, volume), abs=0.02)


@pytest.mark.parametrize("size", [1.0, 30.0])
def test_a_place_that_the_data_do_not_know_costs_the_same_in_any_region(size):
    """A path without a gain: its place is as uncertain as its prior, a Gaussian of the uniform's variance."""
    case = random_case(2, n_unlocated=1)
    middle = REGION_M.mean(axis=0)
    case.problem = replace(case.problem, region_m=middle + size * (REGION_M - middle))
    scene = Scene(case.scene.points_m[:1], case.scene.users_m, case.scene.offsets_m, case.scene.unlocated_m)
    unseen = Scene(scene.points_m[:0], scene.users_m, scene.offsets_m, scene.unlocated_m[:0])
    both, none = np.array([[True], [False]]), np.zeros((2, 0), bool)
    nobody = np.zeros(0, np.int64)
    without = evaluate(case.problem, unseen, Paths.build(np.ones(2, bool), none, nobody), np.ones(2))
    paths = Paths.build(np.ones(2, bool), both, np.zeros(1, np.int64))
    spike = np.array([1.0, 1.0, 1e13, 1e13])
    fit = evaluate(case.problem, scene, paths, spike)
    cost = 2 * 1.5 * np.log(12 / (2 * np.pi))
    assert log_evidence(without) - log_evidence(fit) == pytest.approx(cost, abs=1e-6)
