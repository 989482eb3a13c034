"""E-steps on a full grid: exact and inverse-free posteriors, points that join, and the whole estimator."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from numpy.testing import assert_allclose

import isac_toolbox as isac
from helpers.scenes import REGION_M, SMALL, assert_no_nan, complex_normal, random_case, true_problem
from isac_toolbox.channel.atoms.dense import Measurements
from isac_toolbox.channel.atoms.scene import Paths, Scene, path_parameters
from isac_toolbox.estimators.grid.e_step import GridEStep, full_inverse, inverse_free
from isac_toolbox.estimators.grid.inverse_free import FactorisedPosterior, MajorisedMean, separable_gram
from isac_toolbox.estimators.grid.points import LocationGrid, point_parameters
from isac_toolbox.estimators.scene.fit import evaluate
from isac_toolbox.estimators.scene.working_set import WorkingSet
from isac_toolbox.inference.hierarchy import RULES
from isac_toolbox.inference.messages import extrinsic_message
from isac_toolbox.inference.posterior import working_set_posterior
from isac_toolbox.metrics import channel_nmse_db, localisation

ENGINES = {"full": full_inverse, "mm": inverse_free}
every_engine = pytest.mark.parametrize("engine", ENGINES.values(), ids=ENGINES.keys())
NO_USER = np.zeros(0, np.int64)


def working_set(seed: int = 0, rule: str = "extrinsic", with_points: bool = True) -> WorkingSet:
    """A working set at the true scene of a small block, or of its lines of sight alone."""
    problem, scene, _, _ = true_problem(seed, 15.0)
    points = scene.points_m if with_points else scene.points_m[:0]
    scene = Scene(points, scene.users_m, scene.offsets_m, np.zeros((0, 3)))
    return WorkingSet.start(problem, scene, NO_USER, rule, gain_power=0.1, n_cells=32 * 24)


def coherent_problem(seed: int, n: int = 40, n_data: int = 25) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Gram, correlation and prior precisions of more unknowns than data, neighbours alike."""
    rng = np.random.default_rng(seed)
    atoms = complex_normal(rng, (n_data, n))
    atoms[:, 1:] += 1.5 * atoms[:, :-1]
    data = atoms[:, ::7] @ complex_normal(rng, len(range(0, n, 7))) + 0.1 * complex_normal(rng, n_data)
    precision = np.where(np.arange(n) % 7 == 0, 1.0, 10.0 ** rng.uniform(0, 6, n))
    return atoms.conj().T @ atoms, atoms.conj().T @ data, precision


# --- paths of the grid -------------------------------------------------------------------------------


@pytest.mark.parametrize("wavefront", ["planar", "spherical"])
def test_parameters_of_grid_points_are_those_of_a_scene(wavefront):
    case = random_case(2, wavefront)
    points = LocationGrid.of_size(REGION_M, 12).points()
    receiver = case.problem.receiver
    scene = Scene(points, case.scene.users_m, case.scene.offsets_m, np.zeros((0, 3)))
    paths = Paths.build(np.zeros(2, bool), np.ones((2, len(points)), bool), NO_USER)
    expected = path_parameters(scene, paths, receiver)
    got = point_parameters(points, case.scene, receiver)
    assert_allclose(got.length_m, expected.length_m, rtol=1e-12)
    assert_allclose(got.cosines, expected.cosines, atol=1e-12)
    assert (got.steering is None) == (wavefront == "planar")
    if got.steering is not None and expected.steering is not None:
        assert_allclose(got.steering[0], expected.steering[0], atol=1e-9)


@pytest.mark.parametrize(
    ("wavefront", "squinted"), [("planar", False), ("spherical", False), ("planar", True)]
)
def test_the_gram_is_applied_without_being_formed(wavefront, squinted):
    case = random_case(3, wavefront)
    if squinted:
        receiver = replace(case.problem.receiver, carrier_hz=1e9, beam_squint=True)
        data = Measurements(case.problem.statistics, receiver)
        case.problem = replace(case.problem, data=data)
    fit = case.fit()
    symbol_gram = case.problem.statistics.symbol_gram
    x = complex_normal(np.random.default_rng(0), len(case.paths))
    tolerance = 1e-5 if squinted else 1e-9  # the squint's series is cut
    assert_allclose(separable_gram(fit.atoms, symbol_gram, squinted)(x), fit.gram @ x, rtol=tolerance)


# --- inverse-free posterior --------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(4))
def test_the_fixed_point_is_the_exact_posterior_mean(seed):
    gram, correlation, precision = coherent_problem(seed)
    gamma = 20.0
    exact = working_set_posterior(gram, correlation, gamma, precision).mean
    energy = np.real(np.diagonal(gram))
    minimise = MajorisedMean(lambda x: gram @ x, correlation, energy, gamma)
    found = minimise(precision, np.zeros(40, complex), 3000)
    assert_allclose(found.mean, exact, atol=1e-6 * np.abs(exact).max())
    assert_allclose(
        found.residual_correlation, correlation - gram @ exact, atol=1e-5 * np.abs(correlation).max()
    )
    again = minimise(precision, exact, 5)
    assert_allclose(again.mean, exact, atol=1e-9 * np.abs(exact).max())


def test_no_step_exceeds_its_majoriser_and_momentum_helps():
    gram, correlation, precision = coherent_problem(7)
    energy, gamma = np.real(np.diagonal(gram)), 20.0
    scale = 1 / np.sqrt(energy)
    largest = np.linalg.eigvalsh(gram * scale[:, None] * scale).max()

    def objective(x: np.ndarray) -> float:
        fit = np.vdot(x, gram @ x - 2 * correlation).real
        return gamma * fit + float(np.sum(precision * np.abs(x) ** 2))

    minimise = MajorisedMean(lambda x: gram @ x, correlation, energy, gamma)
    values, x = [], np.zeros(40, complex)
    for _ in range(60):  # one step at a time: no momentum
        x = minimise(precision, x, 1).mean
        values.append(objective(x))
    assert np.all(np.diff(values) <= 1e-9 * abs(values[-1]))
    assert 1 <= minimise.curvature <= 1.5 * largest + 1e-9
    fast = minimise(precision, np.zeros(40, complex), 60).mean
    assert objective(fast) < values[-1]


def test_factorised_posterior_and_its_message():
    gram, correlation, precision = coherent_problem(1)
    energy = np.real(np.diagonal(gram))
    mean = working_set_posterior(gram, correlation, 3.0, precision).mean
    posterior = FactorisedPosterior(mean, correlation - gram @ mean, energy, 3.0, precision)
    assert_allclose(posterior.variance, 1 / (3.0 * energy + precision))
    expected = extrinsic_message(mean, posterior.variance, precision)
    message = posterior.message()
    assert_allclose(message.variance, expected.variance, rtol=1e-6)
    assert_allclose(message.mean, expected.mean, rtol=1e-6)


# --- sweeps on the full set --------------------------------------------------------------------------


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("with_points", [True, False])
def test_an_empty_grid_leaves_the_subspace_e_step(rule, with_points):
    plain = working_set(0, rule, with_points).e_step(3)
    other = GridEStep(np.zeros((0, 3)), full_inverse)(working_set(0, rule, with_points), 3)
    assert_allclose(other.fit.posterior.mean, plain.fit.posterior.mean, rtol=1e-9)
    assert_allclose(other.fit.posterior.covariance, plain.fit.posterior.covariance, rtol=1e-9)
    assert_allclose(other.state.probability, plain.state.probability, rtol=1e-9)
    assert_allclose(other.prior.slab_precision, plain.prior.slab_precision, rtol=1e-9)
    assert_allclose(other.point_probability, plain.point_probability, rtol=1e-9)
    again, expected = GridEStep(np.zeros((0, 3)), full_inverse)(other, 1), plain.e_step(1)
    assert_allclose(again.state.log_likelihood_ratio, expected.state.log_likelihood_ratio, rtol=1e-8)


@every_engine
def test_a_sweep_sees_the_posterior_of_the_full_set(engine):
    """Means of working set and grid against a scene that holds both, at the precisions of the sweep."""
    working = working_set(1)
    points = LocationGrid.of_size(REGION_M, 18).points()
    step = GridEStep(points, engine)
    joint = step._joined(working)
    assert joint.graph.n_points == working.n_points + len(points)
    n_all, k = joint.graph.n_coefficients, working.n_users
    precision = 10.0 ** np.random.default_rng(0).uniform(1, 5, n_all)
    scene = working.fit.scene
    both = Scene(np.vstack([scene.points_m, points]), scene.users_m, scene.offsets_m, scene.unlocated_m)
    direct = evaluate(working.problem, both, joint.graph.paths(NO_USER), precision).posterior
    mean = np.zeros(n_all, complex)
    for _ in range(1 if engine is full_inverse else 40):
        posterior = joint.engine(precision, mean)
        mean = posterior.mean
    assert_allclose(mean, direct.mean, atol=1e-5 * np.abs(direct.mean).max())
    if engine is full_inverse:
        assert_allclose(posterior.variance, direct.variance, rtol=1e-6)
    assert np.array_equal(np.sort(joint.place), np.arange(n_all))
    assert np.array_equal(joint.place[:k], np.arange(k))


@every_engine
def test_free_paths_stay_behind_the_grid(engine):
    case = random_case(4)
    rule, unlocated_user = "extrinsic", np.array([1, 0])
    start = WorkingSet.start(case.problem, case.scene, unlocated_user, rule, gain_power=0.1, n_cells=36)
    renewed = GridEStep(LocationGrid.of_size(REGION_M, 8).points(), engine)(start, 2)
    kept = renewed.fit.paths
    assert np.array_equal(renewed.unlocated_user, unlocated_user)
    assert np.array_equal(kept.unlocated[kept.is_unlocated], [0, 1])
    assert renewed.n_points >= start.n_points
    assert renewed.graph.n_coefficients == len(kept) == renewed.state.probability.size


@every_engine
def test_likely_grid_points_join_and_the_grid_stays_complete(engine):
    """A working set without points, and a grid that holds the true ones: they join, and nothing else."""
    for seed in range(3):
        _, truth, paths, _ = true_problem(seed, 15.0)
        others = LocationGrid.of_size(REGION_M, 30).points()
        far = np.min(np.linalg.norm(others[:, None] - truth.points_m, axis=2), axis=1) > 6.0
        grid = np.vstack([others[far], truth.points_m])
        step = GridEStep(grid, engine)
        working = working_set(seed, with_points=False)
        for _ in range(3):
            working = step(working, 3).learn_noise()
        score = localisation(working.fit.scene.points_m, truth.points_m, 1e-6)
        assert (score.misses, score.false_alarms) == (0, 0)
        _, seen, _ = paths.membership(2, len(truth.points_m))
        order = score.estimate_index, score.truth_index
        assert np.array_equal(working.visibility_probability[:, order[0]] > 0.5, seen[:, order[1]])
        assert step.state is not None and step.state.probability.size == 2 * len(grid)
        assert step.state.probability.max() < 0.5  # what joined left its place at the spike


@every_engine
def test_one_scatterer_between_grid_points_joins_once(engine):
    _, truth, _, _ = true_problem(0, 15.0)
    around = truth.points_m[0] + 1.0 * np.array([[1, 0, 0], [-1, 0, 0], [0, 1, 0], [0, -1, 0.0]])
    working = GridEStep(around, engine)(working_set(0, with_points=False), 3)
    assert working.n_points == 1
    assert np.linalg.norm(working.fit.scene.points_m[0] - truth.points_m[0]) == pytest.approx(1.0)


# --- the estimator -----------------------------------------------------------------------------------


@pytest.mark.parametrize("inverse", ["full", "mm"])
@pytest.mark.parametrize("coarse", ["nomp", "music"])
def test_the_same_channel_as_in_the_subspace(inverse, coarse):
    for seed in range(2):
        simulation = SMALL.simulate(seed)
        observation, truth = simulation.observation, simulation.truth
        subspace = isac.EMTurboBiSVBI(coarse=coarse).estimate(observation)
        result = isac.EMTurboBiSVBI(coarse=coarse, inverse=inverse, grid_points=64).estimate(observation)
        assert_no_nan(result)
        assert np.all(np.diff(result.history.seconds) > 0)
        tolerance_db = 0.1 if inverse == "full" else 1.0
        assert channel_nmse_db(result.channel, truth.channel) == pytest.approx(
            channel_nmse_db(subspace.channel, truth.channel), abs=tolerance_db
        )
        score = localisation(result.scatterer_positions_m, truth.scatterer_positions_m)
        assert score.misses == score.false_alarms == 0


@pytest.mark.parametrize("inverse", ["full", "mm"])
@pytest.mark.parametrize("rule", ["structured", "mean_field"])
def test_every_rule_runs_on_the_full_set(inverse, rule):
    simulation = SMALL.replace(snr_db=10.0).simulate(0)
    estimator = isac.EMTurboBiSVBI(inverse=inverse, rule=rule, grid_points=27, max_iter=5)
    result = estimator.estimate(simulation.observation)
    assert_no_nan(result)
    plain = isac.LeastSquares().estimate(simulation.observation)
    truth = simulation.truth.channel
    assert channel_nmse_db(result.channel, truth) < channel_nmse_db(plain.channel, truth) - 3


@pytest.mark.parametrize("inverse", ["full", "mm"])
def test_spherical_wavefronts_on_the_full_set(inverse):
    simulation = SMALL.replace(wavefront="spherical", carrier_hz=300e6).simulate(0)
    estimator = isac.EMTurboBiSVBI(inverse=inverse, grid_points=27)
    result = estimator.estimate(simulation.observation)
    assert_no_nan(result)
    assert channel_nmse_db(result.channel, simulation.truth.channel) < -35


def test_the_grid_means_nothing_to_the_subspace():
    observation = SMALL.simulate(2).observation
    one, other = (isac.EMTurboBiSVBI(grid_points=n).estimate(observation) for n in (1, 1024))
    assert np.array_equal(one.channel, other.channel)


def test_a_full_inverse_that_cannot_fit_is_refused():
    observation = SMALL.simulate(0).observation
    with pytest.raises(ValueError, match=r"grid_points must be at most 4096 for 2 users .* got 5000"):
        isac.EMTurboBiSVBI(inverse="full", grid_points=5000).estimate(observation)


@pytest.mark.parametrize("inverse", ["full", "mm"])
def test_echoes_without_a_line_of_sight(inverse):
    simulation = isac.Scenario.load("monostatic_echo").simulate(0)
    observation, truth = simulation.observation, simulation.truth.channel
    subspace = isac.EMTurboBiSVBI().estimate(observation)
    result = isac.EMTurboBiSVBI(inverse=inverse, grid_points=64).estimate(observation)
    assert_no_nan(result)
    expected = channel_nmse_db(subspace.channel, truth)
    assert channel_nmse_db(result.channel, truth) == pytest.approx(expected, abs=0.1)


@pytest.mark.slow
@pytest.mark.parametrize("inverse", ["full", "mm"])
def test_the_standard_case_on_a_thousand_grid_points(inverse):
    simulation = isac.Scenario.load("urban_uplink").simulate(0)
    observation, truth = simulation.observation, simulation.truth.channel
    subspace = isac.EMTurboBiSVBI().estimate(observation)
    result = isac.EMTurboBiSVBI(inverse=inverse).estimate(observation)
    expected = channel_nmse_db(subspace.channel, truth)
    assert channel_nmse_db(result.channel, truth) == pytest.approx(expected, abs=0.1)
