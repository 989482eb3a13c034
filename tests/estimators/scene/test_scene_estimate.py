"""What a result says of the scene, by value: units, clocks, hidden points."""

from __future__ import annotations

import numpy as np
import pytest

from helpers.scenes import dense_atoms, random_case
from isac_toolbox.channel.array import SPEED_OF_LIGHT_M_S
from isac_toolbox.estimators.scene.channel_estimate import ChannelEstimate
from isac_toolbox.estimators.scene.fit import scene_covariance
from isac_toolbox.estimators.scene.problem import with_noise_precision
from isac_toolbox.estimators.scene.scene_estimate import SceneEstimate

SCALE = 7.0


@pytest.fixture(scope="module")
def case():
    made = random_case(3, n_unlocated=2)
    made.problem = with_noise_precision(made.problem, 30.0)
    return made


@pytest.fixture(scope="module")
def estimate(case):
    """The second point is less likely than not."""
    fit = case.fit()
    return SceneEstimate.of_fit(
        fit,
        SCALE,
        point_probability=np.array([0.9, 0.4, 0.5]),
        visibility_probability=np.array([[0.9, 0.8, 0.1], [0.7, 0.2, 0.6]]),
        line_of_sight_probability=np.array([0.9, 0.8]),
        path_probability=np.linspace(0.51, 0.99, len(fit.paths)),
    )


def test_points_are_shown_from_one_half(case, estimate):
    np.testing.assert_array_equal(estimate.scatterer_positions_m, case.scene.points_m[[0, 2]])
    np.testing.assert_array_equal(estimate.scatterer_probability, [0.9, 0.5])
    np.testing.assert_array_equal(estimate.visibility_probability, [[0.9, 0.1], [0.7, 0.6]])
    np.testing.assert_array_equal(estimate.candidates.scatterer_positions_m, case.scene.points_m)
    np.testing.assert_array_equal(estimate.candidates.scatterer_probability, [0.9, 0.4, 0.5])


def test_covariances_are_blocks_of_the_scene(case, estimate):
    covariance = scene_covariance(case.fit())
    _, users, offsets, _ = case.scene.blocks()
    for i, point in enumerate((0, 2)):
        own = slice(3 * point, 3 * point + 3)
        np.testing.assert_array_equal(estimate.scatterer_covariance_m2[i], covariance[own, own])
    for k in range(2):
        own = slice(users.start + 3 * k, users.start + 3 * k + 3)
        np.testing.assert_array_equal(estimate.user_position_covariance_m2[k], covariance[own, own])
    variance = np.diag(covariance)[offsets]
    np.testing.assert_allclose(estimate.time_offset_std_s, np.sqrt(variance) / SPEED_OF_LIGHT_M_S)
    np.testing.assert_allclose(estimate.time_offsets_s, case.scene.offsets_m / SPEED_OF_LIGHT_M_S)


def test_hidden_points_and_free_paths_are_unlocated(case, estimate):
    """With the delay of propagation, clocks taken away, and gains in the units of the observation."""
    paths, scene, receiver = case.paths, case.scene, case.problem.receiver
    index = np.flatnonzero((paths.target == 1) | paths.is_unlocated)
    assert index.size == 3
    unlocated = estimate.unlocated_paths
    gains = case.fit().posterior.mean
    for i, path in enumerate(index):
        user = paths.user[path]
        assert unlocated.user[i] == user
        if paths.is_unlocated[path]:
            length = scene.unlocated_m[paths.unlocated[path], 0] - scene.offsets_m[user]
            cosines = scene.unlocated_m[paths.unlocated[path], 1:]
        else:
            ray = scene.points_m[1] - receiver.bs_position_m
            length = np.linalg.norm(ray) + np.linalg.norm(scene.points_m[1] - scene.users_m[user])
            cosines = receiver.array.axes[1:] @ ray / np.linalg.norm(ray)
        assert unlocated.delay_s[i] * SPEED_OF_LIGHT_M_S == pytest.approx(length)
        np.testing.assert_allclose(unlocated.direction_cosines[i], cosines)
        assert unlocated.gain[i] == pytest.approx(SCALE * gains[path])
        assert unlocated.probability[i] == pytest.approx(np.linspace(0.51, 0.99, len(paths))[path])


def test_the_channel_has_the_amplitude_of_the_observation(case):
    fit = case.fit()
    unit, scaled = (ChannelEstimate.of_fit(fit, 2).in_units(scale) for scale in (1.0, SCALE))
    channel = np.tensordot(fit.posterior.mean, dense_atoms(case.problem.receiver, case.scene, case.paths), 1)
    np.testing.assert_allclose(scaled.mean, SCALE * channel, atol=1e-9)
    np.testing.assert_allclose(scaled.variance, SCALE**2 * unit.variance)
    assert scaled.noise_variance == pytest.approx(SCALE**2 / 30.0)
