"""Objective, gradient, Gauss-Newton matrix and steps against dense brute force."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from numpy.testing import assert_allclose

import isac_toolbox as isac
from helpers.scenes import (
    REGION_M,
    SMALL,
    Case,
    complex_normal,
    dense_atoms,
    dense_inner,
    full_information,
    random_case,
    true_problem,
    unknown,
    with_arguments,
)
from isac_toolbox.channel.array import SPEED_OF_LIGHT_M_S
from isac_toolbox.channel.atoms.scene import Paths, Scene
from isac_toolbox.estimators.scene import refine as gauss_newton
from isac_toolbox.estimators.scene.channel_estimate import channel_variance
from isac_toolbox.estimators.scene.fit import (
    evaluate,
    residual_correlation,
    scene_covariance,
)
from isac_toolbox.estimators.scene.problem import Problem, with_noise_precision
from isac_toolbox.estimators.scene.refine import gradient_steps, refine
from isac_toolbox.estimators.scene.still import StillFit
from isac_toolbox.estimators.symbols.block import ReceivedBlock

WAVEFRONTS = ("planar", "spherical")


@pytest.fixture(params=[(w, s) for w in WAVEFRONTS for s in range(2)], ids=lambda p: f"{p[0]}-{p[1]}")
def case(request) -> Case:
    wavefront, seed = request.param
    return random_case(seed, wavefront)


# --- objective ---------------------------------------------------------------------------------------


def test_objective_is_the_explicit_minimum_over_gains(case):
    fit, gamma, statistics = case.fit(), case.problem.noise_precision, case.problem.statistics
    atoms = dense_atoms(case.problem.receiver, case.scene, case.paths)
    gram = dense_inner(atoms, statistics.symbol_gram, atoms)
    correlation = np.einsum("lknm,knm->l", atoms.conj(), statistics.cross_correlation)
    assert_allclose(fit.gram, gram, atol=1e-9)
    assert_allclose(fit.correlation, correlation, atol=1e-9)
    precision = gamma * gram + np.diag(case.precision)
    gains = gamma * np.linalg.solve(precision, correlation)
    assert_allclose(fit.posterior.mean, gains, atol=1e-9)
    assert_allclose(fit.posterior.covariance, np.linalg.inv(precision), atol=1e-9)
    deviation = case.problem.prior.deviation(case.scene)
    penalty = 0.5 * np.sum(case.problem.prior.precision(case.scene) * deviation**2)

    def negative_log_posterior(x):
        data = (x.conj() @ gram @ x).real - 2 * np.vdot(x, correlation).real
        return gamma * data + np.sum(case.precision * np.abs(x) ** 2) + penalty

    assert fit.objective == pytest.approx(negative_log_posterior(gains), rel=1e-10)
    rng = np.random.default_rng(0)
    for size in (1e-3, 1e-1, 1.0):
        assert negative_log_posterior(gains + size * complex_normal(rng, gains.size)) > fit.objective


def test_prior_penalty_uses_length_units():
    case = random_case(0, user_stds_m=0.5, offset_stds_m=2.0)
    nominal = Scene(case.scene.points_m, case.problem.prior.users_m, np.zeros(2), case.scene.unlocated_m)
    assert case.problem.prior.deviation(nominal).max() == 0
    moved = case.scene
    deviation = case.problem.prior.deviation(moved)
    expected = np.sum((moved.users_m - case.problem.prior.users_m) ** 2) / 0.25
    expected += np.sum(moved.offsets_m**2) / 4.0
    assert np.sum(case.problem.prior.precision(moved) * deviation**2) == pytest.approx(expected)


def test_residual_correlation_is_what_the_paths_leave(case):
    fit = case.fit()
    atoms = dense_atoms(case.problem.receiver, case.scene, case.paths)
    channel = np.tensordot(fit.posterior.mean, atoms, 1)
    statistics = case.problem.statistics
    expected = np.array(statistics.cross_correlation)
    for n in range(statistics.symbol_gram.shape[0]):
        for k in range(2):
            for j in range(2):
                expected[k, n] -= statistics.symbol_gram[n, k, j] * channel[j, n]
    assert_allclose(residual_correlation(fit), expected, atol=1e-9)


# --- derivatives -------------------------------------------------------------------------------------


def test_gradient_equals_finite_differences_in_every_block(case):
    _, gradient = case.fit().normal_equations
    vector = case.scene.vector()
    numerical = np.empty(vector.size)
    for i in range(vector.size):
        step = 1e-5
        both = [case.objective(vector + sign * step * (np.arange(vector.size) == i)) for sign in (1, -1)]
        numerical[i] = (both[0] - both[1]) / (2 * step)
    for block in case.scene.blocks():
        size = np.abs(numerical[block]).max()
        assert size > 1e-3, "a block without influence proves nothing"
        assert_allclose(2 * gradient[block], numerical[block], rtol=1e-5, atol=1e-6 * size)


def test_hessian_is_the_schur_complement_of_the_full_information(case):
    fit = case.fit()
    hessian, _ = fit.normal_equations
    information, _ = full_information(case, fit)
    n = 2 * len(case.paths)
    gains, cross, scene = information[:n, :n], information[:n, n:], information[n:, n:]
    expected = scene - cross.T @ np.linalg.solve(gains, cross)
    assert_allclose(2 * hessian, expected, rtol=1e-5, atol=1e-6 * np.abs(expected).max())


@pytest.mark.parametrize("wavefront", WAVEFRONTS)
@pytest.mark.parametrize(
    ("user_stds_m", "offset_stds_m"),
    [(0.3, 1.5), (0.0, 1.5), (0.3, 0.0), (0.0, 0.0), ([[0.2, 0.0, 0.3], [0.0, 0.4, 0.0]], [0.0, 2.0])],
)
def test_scene_covariance_inverts_the_brute_force_information(wavefront, user_stds_m, offset_stds_m):
    case = random_case(3, wavefront, user_stds_m, offset_stds_m, n_unlocated=1)
    case.problem = with_noise_precision(case.problem, 30.0)
    fit = case.fit()
    covariance = scene_covariance(fit)
    information, _ = full_information(case, fit)
    keep = unknown(case, case.scene)
    expected = np.zeros_like(information)
    inner = information[np.ix_(keep, keep)]
    expected[np.ix_(keep, keep)] = np.linalg.inv(inner)
    expected = expected[2 * len(case.paths) :, 2 * len(case.paths) :]
    std = np.sqrt(np.maximum(np.diag(expected), 1e-300))
    tolerance = 1e-3 if np.linalg.cond(inner) < 1e9 else 5e-2
    assert_allclose(covariance / np.outer(std, std), expected / np.outer(std, std), atol=tolerance)
    known = case.problem.prior.known(case.scene)
    assert not covariance[known].any() and not covariance[:, known].any()
    assert np.linalg.eigvalsh(covariance).min() > -1e-9 * np.abs(covariance).max()


@pytest.mark.parametrize("wavefront", WAVEFRONTS)
@pytest.mark.parametrize("stds", [(0.3, 1.5), (0.0, 0.0)])
@pytest.mark.parametrize("n_unlocated", [0, 2])
def test_channel_variance_is_the_propagated_covariance(wavefront, stds, n_unlocated):
    case = random_case(4, wavefront, *stds, n_unlocated=n_unlocated)
    case.problem = with_noise_precision(case.problem, 30.0)
    fit = case.fit()
    variance = channel_variance(fit, scene_covariance(fit), 2)
    information, derivatives = full_information(case, fit)
    keep = unknown(case, case.scene)
    covariance = np.linalg.inv(information[np.ix_(keep, keep)])
    jacobian = derivatives[keep]
    expected = np.einsum("aknm,ab,bknm->knm", jacobian.conj(), covariance, jacobian).real
    assert_allclose(variance, expected, rtol=2e-3, atol=1e-5 * expected.max())


def test_channel_variance_against_drawn_errors():
    """Draws of (dx, d theta) through the linearised channel have the reported variance."""
    case = random_case(5)
    case.problem = with_noise_precision(case.problem, 30.0)
    fit = case.fit()
    variance = channel_variance(fit, scene_covariance(fit), 2)
    information, derivatives = full_information(case, fit)
    factor = np.linalg.cholesky(np.linalg.inv(information))
    draws = np.random.default_rng(0).standard_normal((4000, len(information))) @ factor.T
    error = np.tensordot(draws, derivatives, 1)
    measured = np.mean(np.abs(error) ** 2, axis=0)
    assert_allclose(measured, variance, rtol=0.15)
    assert measured.sum() == pytest.approx(variance.sum(), rel=0.05)


def test_cells():
    problem = random_case(0).problem
    n = problem.receiver.frequencies_hz.size
    spacing = np.ptp(problem.receiver.frequencies_hz) / (n - 1)
    assert problem.length_cell_m == pytest.approx(SPEED_OF_LIGHT_M_S / (n * spacing))
    assert_allclose(problem.cosine_cells, [1 / (3 * 0.5), 1 / (2 * 0.6)])
    atoms = dense_atoms(problem.receiver, random_case(0).scene, random_case(0).paths)
    energy = dense_inner(atoms, problem.statistics.symbol_gram, atoms).diagonal().real
    assert_allclose(energy, problem.user_energies[random_case(0).paths.user])


# --- steps -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("length", [0.1, 3.0, 300.0])
def test_steps_are_capped(length):
    case = random_case(0, n_unlocated=3)
    problem, scene = case.problem, case.scene
    step = length * np.random.default_rng(2).standard_normal(scene.n_parameters)
    moved, plain = gauss_newton._moved(case.fit(), step), scene.with_vector(step)
    size = np.linalg.norm(plain.points_m, axis=1, keepdims=True)
    points = scene.points_m + plain.points_m * np.minimum(1, 0.7 * problem.length_cell_m / size)
    assert_allclose(moved.points_m, np.clip(points, *problem.region_m))
    assert_allclose(moved.users_m, scene.users_m + plain.users_m)
    assert_allclose(moved.offsets_m, scene.offsets_m + plain.offsets_m)
    cells = 0.7 * np.array([problem.length_cell_m, *problem.cosine_cells])
    excess = np.max(np.abs(plain.unlocated_m) / cells, axis=1, keepdims=True)
    expected = scene.unlocated_m + plain.unlocated_m / np.maximum(1, excess)
    assert_allclose(moved.unlocated_m, expected)


def test_a_step_that_promises_nothing_is_not_tried(monkeypatch):
    problem, scene, paths, _ = true_problem(0, 20.0)
    start = evaluate(problem, scene, paths, np.full(len(paths), 1e-3))
    fit = refine(start, n_steps=40, tol=1e-9)
    assert fit is not start
    tried = []
    monkeypatch.setattr(gauss_newton, "evaluate", lambda *a: tried.append(a) or evaluate(*a))
    assert refine(fit, n_steps=2) is fit and not tried


@pytest.mark.parametrize("move", [refine, gradient_steps], ids=["gauss_newton", "gradient"])
@pytest.mark.parametrize("seed", range(6))
def test_the_objective_never_rises_and_points_stay_inside(move, seed):
    case = random_case(seed, WAVEFRONTS[seed % 2])
    fit = case.fit()
    first = fit.objective
    for _ in range(12):
        moved = move(fit, 1)
        assert moved.objective <= fit.objective
        assert np.all(moved.scene.points_m >= REGION_M[0]) and np.all(moved.scene.points_m <= REGION_M[1])
        assert np.all(np.isfinite(moved.scene.vector()))
        fit = moved
    assert fit.objective < first
    assert fit.objective == pytest.approx(case.fit(fit.scene).objective, rel=1e-9)


@pytest.mark.parametrize("move", [refine, gradient_steps], ids=["gauss_newton", "gradient"])
def test_known_coordinates_do_not_move(move):
    user_stds = np.array([[0.3, 0.0, 0.2], [0.0, 0.0, 0.0]])
    case = random_case(1, user_stds_m=user_stds, offset_stds_m=[0.0, 1.0])
    fit = move(case.fit(), 8)
    known = user_stds == 0
    assert np.array_equal(fit.scene.users_m[known], case.scene.users_m[known])
    assert np.all(fit.scene.users_m[~known] != case.scene.users_m[~known])
    assert fit.scene.offsets_m[0] == case.scene.offsets_m[0]
    assert fit.scene.offsets_m[1] != case.scene.offsets_m[1]


@pytest.mark.parametrize("move", [refine, gradient_steps], ids=["gauss_newton", "gradient"])
def test_nothing_to_move_is_no_error(move):
    case = random_case(0, user_stds_m=0.0, offset_stds_m=0.0, n_unlocated=0)
    empty = Scene(np.zeros((0, 3)), case.scene.users_m, case.scene.offsets_m, np.zeros((0, 3)))
    paths = Paths.build(np.array([True, True]), np.zeros((2, 0), bool), np.zeros(0, np.int64))
    fit = evaluate(case.problem, empty, paths, np.ones(2))
    moved = move(fit, 3)
    assert moved.objective == fit.objective


@pytest.mark.parametrize("wavefront", WAVEFRONTS)
@pytest.mark.parametrize("snr_db", [30.0, 60.0])
@pytest.mark.parametrize("seed", range(3))
def test_refine_recovers_the_truth_from_a_perturbed_start(wavefront, snr_db, seed):
    problem, scene, paths, simulation = true_problem(seed, snr_db, wavefront)
    rng = np.random.default_rng(seed)
    vector = scene.vector()
    start = scene.with_vector(vector + 0.1 * rng.standard_normal(vector.size))
    weak = np.full(len(paths), 1e-9)
    refined = refine(evaluate(problem, start, paths, weak), n_steps=60, tol=1e-9)
    bound = isac.bounds.hybrid_crb(simulation)
    error = np.linalg.norm(refined.scene.points_m - scene.points_m, axis=1)
    user_error = np.linalg.norm(refined.scene.users_m - scene.users_m, axis=1)
    clock_error = np.abs(refined.scene.offsets_m - scene.offsets_m) / SPEED_OF_LIGHT_M_S
    assert np.all(error < 4 * bound.position_rmse_m)
    assert np.all(user_error < 4 * bound.user_position_rmse_m)
    assert np.all(clock_error < 4 * bound.time_offset_rmse_s)
    assert refined.objective <= evaluate(problem, scene, paths, weak).objective


def test_the_coupled_step_beats_the_gradient():
    problem, scene, paths, _ = true_problem(0, 30.0)
    start = Scene(scene.points_m + 0.2, problem.prior.users_m, np.zeros(2), scene.unlocated_m)
    fit = evaluate(problem, start, paths, np.full(len(paths), 1e-9))
    assert refine(fit, 10).objective < gradient_steps(fit, 10).objective < fit.objective


def test_known_noise_is_kept():
    problem = random_case(0).problem
    assert with_noise_precision(problem, 7.0).noise_precision == 7.0
    simulation = SMALL.simulate(0)
    observation = with_arguments(simulation.observation, noise_variance=0.04)
    problem = Problem.on_pilots(observation, ReceivedBlock.of(observation, 2.0))
    assert problem.noise_known and problem.noise_precision == pytest.approx(4 / 0.04)
    assert with_noise_precision(problem, 7.0).noise_precision == problem.noise_precision


# --- a refinement on plain arrays --------------------------------------------------------------------


def on_a_raster(seed: int = 0, **changes) -> Case:
    """A random case whose subcarriers are on a raster, so that there are tables."""
    case = random_case(seed, **changes)
    receiver = case.problem.receiver
    even = replace(receiver, frequencies_hz=np.linspace(-40e6, 40e6, receiver.frequencies_hz.size))
    data = replace(case.problem.data, receiver=even)
    return replace(case, problem=replace(case.problem, data=data))


@pytest.mark.parametrize("known", [False, True])
def test_a_fit_on_plain_arrays_is_the_fit(known):
    case = on_a_raster(1, user_stds_m=0.0 if known else 0.3)
    fit = case.fit()
    still = StillFit.of(fit)
    assert still is not None and still.fit() is fit
    assert still.objective == pytest.approx(fit.objective, rel=1e-12)
    for own, expected in zip(still.normal_equations, fit.normal_equations, strict=True):
        assert_allclose(own, expected, atol=1e-9 * np.abs(expected).max())
    step = 1e-3 * np.random.default_rng(0).standard_normal(case.scene.n_parameters)
    moved = still.moved(step, 10.0, np.full(3, 10.0)).fit()
    expected = case.fit(case.scene.with_vector(case.scene.vector() + step))
    assert_allclose(moved.scene.vector(), expected.scene.vector(), atol=1e-12)
    assert_allclose(moved.gram, expected.gram, atol=1e-9)
    assert_allclose(moved.posterior.mean, expected.posterior.mean, atol=1e-9)
    assert moved.objective == pytest.approx(expected.objective, rel=1e-12)


def test_plain_arrays_refine_as_fits_do(monkeypatch):
    case = on_a_raster(2)
    found = refine(case.fit(), n_steps=4)
    monkeypatch.setattr(StillFit, "of", classmethod(lambda cls, fit: None))
    expected = refine(case.fit(), n_steps=4)
    assert_allclose(found.scene.vector(), expected.scene.vector(), atol=1e-9)
    assert found.objective == pytest.approx(expected.objective, rel=1e-12)
    assert found.objective < case.fit().objective
