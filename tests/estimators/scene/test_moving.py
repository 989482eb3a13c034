"""Which scatterers move: probabilities in clear cases, over many blocks, and the mover among many."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from numpy.testing import assert_allclose

from helpers.moving import SMALL_MOVING, true_fit
from helpers.scenes import random_case
from isac_toolbox.estimators.scene.fit import Fit, evaluate
from isac_toolbox.estimators.scene.moving import Movers, movers_of, with_movers
from isac_toolbox.estimators.scene.refine import refine

pytestmark = pytest.mark.filterwarnings("ignore::isac_toolbox.ImplausibleValueWarning")

MOVERS = SMALL_MOVING.replace(
    n_users=3,
    n_pilot_symbols=3,
    n_scatterers=4,
    visibility_probability=1.0,
    scatterer_speed_m_s=(5.0, 15.0),
    snr_db=15.0,
)


def at_rest(fit: Fit) -> Fit:
    """The same scene with all points at rest, as a first estimate has it."""
    motion = fit.scene.motion
    still = replace(
        motion,
        moving=np.zeros_like(motion.moving),
        point_velocities_m_s=np.zeros_like(motion.point_velocities_m_s),
    )
    scene = replace(fit.scene, motion=still)
    return refine(evaluate(fit.problem, scene, fit.paths, fit.posterior.prior_precision), 20)


def test_the_one_mover_is_found_and_its_velocity():
    """As long as it counts as resting, users and offsets are wrong and others look like movers too."""
    for seed in range(20):
        fit, _ = true_fit(MOVERS.simulate(seed))
        if fit.scene.motion.moving.sum() == 1:
            break
    truth = fit.scene.motion
    wrong = at_rest(fit)
    assert wrong.objective > fit.objective + 20
    found = with_movers(wrong)
    assert np.array_equal(found.scene.motion.moving, truth.moving)
    assert found.objective < fit.objective
    movers = movers_of(found)
    assert np.all(movers.probability[truth.moving] > 0.999)
    assert np.all(movers.probability[~truth.moving] < 0.3)
    error = movers.velocities_m_s[truth.moving][0] - truth.point_velocities_m_s[truth.moving][0]
    assert error @ np.linalg.solve(movers.covariances_m2_s2[truth.moving][0], error) < 16


def test_probabilities_are_calibrated_over_blocks():
    """One scatterer in ten moves: what is said to move does, and its velocity errs as it is said to."""
    blocks = MOVERS.replace(scatterer_speed_m_s=(0.0, 40.0), moving_share=0.1)
    said, moves, errors = [], [], []
    for seed in range(40):
        fit, _ = true_fit(blocks.simulate(seed))
        movers, truth = movers_of(with_movers(at_rest(fit))), fit.scene.motion
        said.append(movers.probability)
        moves.append(truth.moving)
        for q in np.flatnonzero(truth.moving & (movers.probability > 0.5)):
            error = movers.velocities_m_s[q] - truth.point_velocities_m_s[q]
            errors.append(error @ np.linalg.solve(movers.covariances_m2_s2[q], error) / 3)
    said, moves = np.concatenate(said), np.concatenate(moves)
    assert moves.sum() > 12
    assert moves[said < 0.1].mean() < 0.05 and moves[said > 0.9].mean() > 0.9
    assert said.mean() == pytest.approx(moves.mean(), abs=0.03)
    assert 0.5 < np.mean(errors) < 1.6


def test_removing_a_mover_that_rests_gives_back_the_rest():
    fit, _ = true_fit(MOVERS.replace(moving_share=0.0, scatterer_velocity_std_m_s=10.0).simulate(0))
    assert not fit.scene.motion.moving.any()
    wrong = replace(fit.scene, motion=replace(fit.scene.motion, moving=np.ones(4, bool)))
    start = refine(evaluate(fit.problem, wrong, fit.paths, fit.posterior.prior_precision), 10)
    assert start.scene.motion.point_velocities_m_s.any()
    found = with_movers(start)
    assert not found.scene.motion.moving.any() and not found.scene.motion.point_velocities_m_s.any()


def test_the_evidence_does_not_depend_on_what_the_point_counts_as():
    """Density at rest, posterior over prior: the same from the fit at rest and from that of the mover."""
    fit, _ = true_fit(MOVERS.replace(moving_share=0.0, scatterer_velocity_std_m_s=10.0).simulate(3))
    resting = refine(fit, 20, tol=1e-9)
    free = replace(resting.scene, motion=replace(resting.scene.motion, moving=np.arange(4) == 2))
    moving = refine(evaluate(fit.problem, free, fit.paths, fit.posterior.prior_precision), 20, tol=1e-9)
    first, second = movers_of(resting), movers_of(moving)
    assert_allclose(first.velocities_m_s[2], second.velocities_m_s[2], atol=0.02)
    assert_allclose(first.covariances_m2_s2[2], second.covariances_m2_s2[2], rtol=0.05, atol=1e-4)
    assert first.probability[2] == pytest.approx(second.probability[2], abs=0.02)


def test_nothing_moves_where_nothing_may():
    for fit in (
        random_case(0).fit(),
        true_fit(MOVERS.replace(scatterer_velocity_std_m_s=0.0).simulate(0))[0],
    ):
        movers = movers_of(fit)
        assert not movers.probability.any() and movers.velocities_m_s.shape == fit.scene.points_m.shape
    assert with_movers(random_case(0).fit()).scene.motion is None


def test_reported_velocities_are_those_of_movers_and_doubts_those_of_the_rest():
    velocity, covariance = np.array([[3.0, 0, 0], [0.0, 2.0, 0]]), np.stack([np.eye(3), 4 * np.eye(3)])
    velocities, covariances = Movers(np.array([0.9, 0.2]), velocity, covariance).marginal()
    assert_allclose(velocities, [[3, 0, 0], [0, 0, 0]])
    assert_allclose(covariances[0], np.eye(3))
    # at rest with 0.8: its second moment about rest
    assert_allclose(covariances[1], 0.2 * np.diag([4.0, 8.0, 4.0]))
