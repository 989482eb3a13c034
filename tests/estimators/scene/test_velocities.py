"""Velocities and offsets from Doppler shifts of paths, some of which lead over scatterers that move."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from numpy.testing import assert_allclose

from helpers.moving import SMALL_MOVING, doppler_by_definition, true_fit
from isac_toolbox.estimators.scene.fit import Fit
from isac_toolbox.estimators.scene.velocities import doppler_information, kinematics_of

pytestmark = pytest.mark.filterwarnings("ignore::isac_toolbox.ImplausibleValueWarning")

SCENE = SMALL_MOVING.replace(
    n_scatterers=8, visibility_probability=1.0, moving_share=0.0, min_separation_m=4.0
)
EXACT = 1e8


def of_users(fit: Fit, doppler_hz: np.ndarray, information=EXACT):
    information = np.broadcast_to(information, doppler_hz.shape)
    return kinematics_of(fit.problem, fit.scene, fit.paths, doppler_hz, information)


def exact_shifts(fit: Fit) -> np.ndarray:
    return doppler_by_definition(fit.scene, fit.paths, fit.problem.receiver.bs_position_m)


@pytest.mark.parametrize("std", [0.0, 10.0])
def test_velocities_follow_from_exact_shifts(std):
    """Horizontal ones: heights are known to be at rest."""
    fit, _ = true_fit(SCENE.replace(scatterer_velocity_std_m_s=std).simulate(0))
    found = of_users(fit, exact_shifts(fit))
    assert_allclose(found.user_velocities_m_s, fit.scene.motion.user_velocities_m_s, atol=0.01)
    assert_allclose(found.offsets_hz, fit.scene.motion.offsets_hz, atol=0.1)
    assert not found.point_velocities_m_s.any()


def test_one_scatterer_that_moves_does_not_mislead():
    fit, _ = true_fit(SCENE.replace(scatterer_velocity_std_m_s=10.0).simulate(0))
    shifts = exact_shifts(fit)
    shifts[fit.paths.target == 2] += [150.0, -90.0]
    found = of_users(fit, shifts, 1.0)  # known to a Hertz
    assert_allclose(found.user_velocities_m_s, fit.scene.motion.user_velocities_m_s, atol=0.3)
    trusting = true_fit(SCENE.replace(scatterer_velocity_std_m_s=0.0).simulate(0))[0]
    misled = of_users(trusting, shifts, 1.0)
    error, worse = (
        np.abs(m.user_velocities_m_s - fit.scene.motion.user_velocities_m_s).max() for m in (found, misled)
    )
    assert worse > 5 * error


def test_the_prior_decides_what_shifts_leave_open():
    """Of one line of sight: offset and radial speed by their variances, nothing across."""
    simulation = SCENE.replace(n_scatterers=0, n_users=1).simulate(1)
    fit, _ = true_fit(simulation)
    found, motion = of_users(fit, np.array([100.0]), 1e4), fit.problem.prior.motion
    bs, user = fit.problem.receiver.bs_position_m, fit.scene.users_m[0]
    slope = -motion.hz_per_m_s * (user - bs) / np.linalg.norm(user - bs)
    variance = motion.user_velocity_stds_m_s[0] ** 2
    total = motion.offset_stds_hz[0] ** 2 + slope**2 @ variance
    assert found.offsets_hz[0] == pytest.approx(100 * motion.offset_stds_hz[0] ** 2 / total, rel=1e-4)
    assert_allclose(found.user_velocities_m_s[0], 100 * variance * slope / total, rtol=1e-4, atol=1e-6)


def test_unlocated_paths_keep_their_shifts():
    fit, _ = true_fit(SCENE.simulate(0))
    scene = fit.scene.extended(np.zeros((0, 3)), np.array([[80.0, 0.1, 0.0]]), 0.0)
    paths = replace(
        fit.paths,
        user=np.append(fit.paths.user, 1),
        target=np.append(fit.paths.target, -2),
        unlocated=np.append(fit.paths.unlocated, 0),
    )
    shifts = np.append(exact_shifts(fit), 321.0)
    found = kinematics_of(fit.problem, scene, paths, shifts, np.full(shifts.size, EXACT))
    assert found.offsets_hz[1] + found.further_hz[0] == pytest.approx(321.0)


def test_information_is_that_of_the_shift_alone():
    """Of one path: the Schur complement of its gain in the Fisher matrix of gain and shift."""
    fit, _ = true_fit(SCENE.replace(n_scatterers=0, n_users=1).simulate(2))
    gamma, gain = fit.problem.noise_precision, fit.posterior.mean[0]
    gram = fit.problem.statistics.full_gram(fit.atoms)[:, :, 0, 0]
    shift = 2 * gamma * abs(gain) ** 2 * gram[-1, -1].real
    across = 2 * gamma * np.array([(gain * gram[0, -1]).real, (gain * gram[0, -1]).imag])
    alone = shift - across @ across / (2 * gamma * gram[0, 0].real)
    assert doppler_information(fit)[0] == pytest.approx(alone, rel=1e-6)
