"""Prior of a scene by value, and what becomes of beliefs when the structure changes (docs/theory.md, 4.3)."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy.special import expit, logit

from helpers.scenes import dense_atoms, dense_inner, random_case
from isac_toolbox.channel.atoms.scene import Scene
from isac_toolbox.estimators.scene.problem import with_noise_precision
from isac_toolbox.estimators.scene.working_set import ScenePriorGraph, WorkingSet
from isac_toolbox.inference.state import PriorState

N_USERS, N_POINTS, N_UNLOCATED, N_CELLS = 2, 3, 2, 50


def graph(**changes) -> ScenePriorGraph:
    sizes = {
        "n_users": N_USERS,
        "n_points": N_POINTS,
        "n_unlocated": N_UNLOCATED,
        "n_cells": N_CELLS,
    } | changes
    return ScenePriorGraph.start(**sizes)


def started(n_unlocated: int = N_UNLOCATED, gain_power: float = 0.25) -> WorkingSet:
    case = random_case(0, n_unlocated=n_unlocated)
    user = case.paths.user[case.paths.is_unlocated]
    return WorkingSet.start(case.problem, case.scene, user, "extrinsic", gain_power, N_CELLS)


# --- graph -------------------------------------------------------------------------------------------


def test_the_prior_of_a_scene_before_any_evidence():
    """Line of sight 0.9, a member half of its gate, and cells in which nothing was found."""
    prior = expit(graph().extrinsic_log_odds(np.zeros(N_USERS + N_USERS * N_POINTS + N_UNLOCATED)))
    gate = (1 + N_POINTS) / (1 + N_CELLS + N_POINTS)
    unlocated = (1 + N_UNLOCATED) / (1 + N_USERS * N_CELLS + N_UNLOCATED)
    expected = [0.9] * N_USERS + [gate / 2] * (N_USERS * N_POINTS) + [unlocated] * N_UNLOCATED
    np.testing.assert_allclose(prior, expected, rtol=1e-12)
    without = graph(has_line_of_sight=False)
    assert without.n_lines == 0 and without.n_coefficients == N_USERS * N_POINTS + N_UNLOCATED


def test_an_em_step_of_the_scene_counts_the_empty_cells():
    """Gate (1 + sum) : (cells), members (2 + sum) : (2), unlocated paths (1 + sum) : (users cells)."""
    L = np.array([9.0, -9.0, 5.0, 1.0, -2.0, 6.0, 0.5, -1.0, 3.0, 5.5])
    before = graph()
    learned = before.learned(L)
    odds = np.exp(L[N_USERS:-N_UNLOCATED].reshape(N_POINTS, N_USERS))
    gate = (1 + N_POINTS) / (1 + N_CELLS + N_POINTS)
    evidence = np.prod(0.5 + 0.5 * odds, axis=1)
    is_open = gate * evidence / (gate * evidence + 1 - gate)
    on = is_open[:, None] * odds / (1 + odds)
    np.testing.assert_allclose(before.point_probability(L), is_open, rtol=1e-12)
    assert float(learned.points.gate) == pytest.approx((1 + is_open.sum()) / (1 + N_CELLS + N_POINTS))
    member = (2 + on.sum(axis=0)) / (4 + is_open.sum())
    np.testing.assert_allclose(learned.points.member_probability, member, rtol=1e-12)
    np.testing.assert_allclose(learned.visibility, member, rtol=1e-12)
    prior = (1 + N_UNLOCATED) / (1 + N_USERS * N_CELLS + N_UNLOCATED)
    active = expit(logit(prior) + L[-N_UNLOCATED:]).sum()
    assert learned.unlocated.probability == pytest.approx(
        (1 + active) / (1 + N_USERS * N_CELLS + N_UNLOCATED)
    )
    np.testing.assert_array_equal(learned.lines.probability, before.lines.probability)


def test_another_size_keeps_what_was_learned_of_the_users():
    learned = graph().learned(np.full(N_USERS + N_USERS * N_POINTS + N_UNLOCATED, 4.0))
    other = learned.sized(5, 0)
    assert (other.n_points, other.n_unlocated, other.n_lines) == (5, 0, N_USERS)
    np.testing.assert_array_equal(other.points.member_probability, learned.visibility)
    assert float(other.points.gate) == pytest.approx(6 / (6 + N_CELLS))
    more = learned.with_points(7)
    assert float(more.points.gate) == pytest.approx(float(learned.points.gate))
    assert more.unlocated.probability == learned.unlocated.probability
    assert float(graph(n_points=0).with_points(4).points.gate) == pytest.approx(1 / (1 + N_CELLS))


# --- working set -------------------------------------------------------------------------------------


def test_a_working_set_starts_with_every_path_at_its_slab():
    working = started(gain_power=0.25)
    np.testing.assert_allclose(working.prior.slab_precision, 4.0)
    np.testing.assert_allclose(working.state.precision, 4.0)
    np.testing.assert_array_equal(working.classes[:N_USERS], N_USERS)  # lines of sight have their own slab
    np.testing.assert_array_equal(working.classes[N_USERS:-N_UNLOCATED], np.tile([0, 1], N_POINTS))
    np.testing.assert_array_equal(working.classes[-N_UNLOCATED:], working.unlocated_user)


def test_the_spike_is_far_below_the_noise():
    """``max(1e4 gamma M max_k sum_n R_n[k, k], 1e3 rho_1)`` after every sweep, per class."""
    working = started()
    swept = working.e_step(1)
    case = random_case(0)
    atoms = dense_atoms(case.problem.receiver, case.scene, case.paths)
    energy = dense_inner(atoms, case.problem.statistics.symbol_gram, atoms).diagonal().real.max()
    spike = 1e4 * case.problem.noise_precision * energy
    np.testing.assert_allclose(swept.prior.spike_precision, spike, rtol=1e-9)
    weak = started(gain_power=1e-9)
    np.testing.assert_allclose(weak.e_step(1).prior.spike_precision, 1e12, rtol=1e-9)


def test_the_noise_is_learned_from_the_expected_residual():
    """``(a + N) / (b + |Y|^2 - 2 Re mu^H zeta + mu^H G mu + tr G Sigma)``; the posterior follows."""
    working = started()
    statistics, posterior = working.problem.statistics, working.fit.posterior
    gram, mean = working.fit.gram, posterior.mean
    residual = statistics.energy - 2 * np.vdot(mean, working.fit.correlation).real
    residual += np.vdot(mean, gram @ mean).real + np.trace(gram @ posterior.covariance).real
    learned = working.learn_noise()
    expected = (1e-6 + statistics.n_observations) / (1e-12 + residual)
    assert learned.problem.noise_precision == pytest.approx(expected, rel=1e-9)
    assert learned.fit.posterior.noise_precision == learned.problem.noise_precision
    known = working.with_problem(replace(working.problem, noise_known=True))
    assert known.learn_noise().problem.noise_precision == working.problem.noise_precision
    assert with_noise_precision(working.problem, 1e30).noise_precision == 1e14


def marked(working: WorkingSet) -> WorkingSet:
    """Beliefs that name their path: 1 + index in every field."""
    names = 1.0 + np.arange(len(working.fit.paths))
    fields = {name: names * 10**-i for i, name in enumerate(PriorState.__dataclass_fields__)}
    return replace(working, state=PriorState(**fields))


def test_beliefs_follow_their_points_and_paths():
    """Two of three points kept in another order with a new one between, one of two unlocated paths."""
    working = marked(started())
    scene = working.fit.scene
    points = np.vstack([scene.points_m[2], scene.points_m[:1] + 1.0, scene.points_m[0]])
    new = Scene(points, scene.users_m, scene.offsets_m, scene.unlocated_m[[1]])
    changed = working.restructured(new, working.unlocated_user[[1]], np.array([2, -1, 0]), np.array([1]))
    # two lines of sight, two users a point, two unlocated paths
    old = np.array([0, 1, 6, 7, -1, -1, 2, 3, 9])
    kept = old >= 0
    np.testing.assert_array_equal(changed.state.precision[kept], 1.0 + old[kept])
    np.testing.assert_allclose(changed.state.log_likelihood_ratio[kept], (1.0 + old[kept]) * 1e-3)
    np.testing.assert_allclose(changed.state.precision[~kept], working.prior.slab_precision[:N_USERS])
    np.testing.assert_allclose(changed.state.probability[~kept], 0.5)
    np.testing.assert_allclose(changed.state.log_likelihood_ratio[~kept], 0.0)
    np.testing.assert_array_equal(changed.fit.posterior.prior_precision, changed.state.precision)


def test_an_adopted_scene_has_its_paths_active_and_no_others():
    working = started().e_step(1)
    case = random_case(0)
    adopted = working.adopt(case.fit())
    paths = adopted.fit.paths
    seen = np.array([[True, True, False], [True, False, True]])
    expected = np.concatenate([[True, True], seen.T.ravel(), [True, True]])
    np.testing.assert_array_equal(adopted.active, expected)
    np.testing.assert_allclose(adopted.state.probability, np.where(expected, 0.99, 0.01))
    slab, spike = working.prior.class_precisions(adopted.classes)
    np.testing.assert_allclose(adopted.state.precision, np.where(expected, slab, spike))
    fit, points, unlocated = adopted.active_fit()
    assert points.tolist() == [0, 1, 2] and unlocated.tolist() == [0, 1]
    np.testing.assert_array_equal(fit.paths.target, case.paths.target)
    np.testing.assert_array_equal(fit.paths.user, case.paths.user)
    np.testing.assert_allclose(fit.posterior.prior_precision, slab[expected])
    np.testing.assert_allclose(fit.gram, case.fit().gram, atol=1e-9)
    assert len(paths) == N_USERS + N_USERS * N_POINTS + N_UNLOCATED


def test_the_active_fit_leaves_out_what_nobody_sees():
    working = started()
    probability = np.full(len(working.fit.paths), 0.9)
    # a line of sight, point 1, user 1 at point 2, the first unlocated path
    probability[[0, 4, 5, 7, 8]] = 0.1
    doubted = replace(working, state=replace(working.state, probability=probability))
    fit, points, unlocated = doubted.active_fit()
    assert points.tolist() == [0, 2] and unlocated.tolist() == [1]
    np.testing.assert_array_equal(fit.scene.points_m, working.fit.scene.points_m[[0, 2]])
    sight, seen, unlocated_user = fit.paths.membership(N_USERS, 2)
    assert sight.tolist() == [False, True]
    assert seen.tolist() == [[True, True], [True, False]]
    assert unlocated_user.tolist() == working.unlocated_user[[1]].tolist()
    np.testing.assert_allclose(doubted.line_of_sight_probability, [0.1, 0.9])
    expected = np.array([[0.9, 0.1, 0.9], [0.9, 0.1, 0.1]])
    np.testing.assert_allclose(doubted.visibility_probability, expected)
    np.testing.assert_allclose(doubted.unlocated_probability, [0.1, 0.9])


# --- the sweep as a kernel ---------------------------------------------------------------------------


@pytest.mark.parametrize("n_unlocated", [0, 2])
@pytest.mark.parametrize("without_points", [False, True])
def test_the_kernel_of_a_sweep_is_the_sweep_of_the_prior(n_unlocated, without_points):
    working = started(n_unlocated, gain_power=0.02)
    if without_points:
        scene = working.fit.scene.take(points=slice(0, 0))
        kept = np.zeros(0, np.int64), np.arange(n_unlocated)
        working = working.restructured(scene, working.unlocated_user, *kept)
    expected = working
    for _ in range(3):
        expected = expected._sweep()
    found = working.e_step(3)
    for name in PriorState.__dataclass_fields__:
        np.testing.assert_allclose(getattr(found.state, name), getattr(expected.state, name), rtol=1e-9)
    np.testing.assert_allclose(found.prior.slab_precision, expected.prior.slab_precision, rtol=1e-9)
    np.testing.assert_allclose(found.prior.spike_precision, expected.prior.spike_precision, rtol=1e-9)
    np.testing.assert_allclose(found.fit.posterior.mean, expected.fit.posterior.mean, rtol=1e-9)
    np.testing.assert_allclose(found.graph.visibility, expected.graph.visibility, rtol=1e-9)
    assert found.graph.unlocated.probability == pytest.approx(expected.graph.unlocated.probability, rel=1e-9)
    assert found.graph.points.gate == pytest.approx(expected.graph.points.gate, rel=1e-9)
    message = found.state.log_likelihood_ratio
    np.testing.assert_allclose(
        found.graph.extrinsic_log_odds(message), expected.graph.extrinsic_log_odds(message), rtol=1e-9
    )
