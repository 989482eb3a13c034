"""What the samples say of a scene, priors left out: with the priors it is the estimate again."""

from __future__ import annotations

import numpy as np
import pytest

import isac_toolbox as isac
from helpers.moving import SMALL_MOVING
from helpers.scenes import SMALL
from isac_toolbox.channel.array import SPEED_OF_LIGHT_M_S
from isac_toolbox.estimators.scene.information import blurred, marginal


def _random_information(rng: np.random.Generator, size: int) -> tuple[np.ndarray, np.ndarray]:
    root = rng.normal(size=(size, size))
    return root @ root.T + np.eye(size), rng.normal(size=size)


@pytest.mark.parametrize("scenario", [SMALL, SMALL_MOVING])
def test_information_with_the_priors_is_the_estimate(scenario):
    sim = scenario.simulate(seed=3)
    obs, res = sim.observation, isac.EMTurboBiSVBI().estimate(sim.observation)
    told, moving = res.information, obs.motion is not None
    n, k = told.n_scatterers, told.n_users
    assert told.moves == moving
    mean, std = np.zeros(told.vector.size), np.full(told.vector.size, np.inf)
    users, clocks = slice(3 * n, 3 * n + 3 * k), slice(3 * n + 3 * k, 3 * n + 4 * k)
    mean[users], std[users] = obs.user_positions_m.ravel(), obs.user_position_stds_m.ravel()
    std[clocks] = SPEED_OF_LIGHT_M_S * obs.time_offset_stds_s
    if moving:
        carriers, first = slice(clocks.stop, clocks.stop + k), clocks.stop + k
        std[carriers] = obs.motion.frequency_offset_stds_hz
        std[first : first + 3 * k] = obs.motion.user_velocity_stds_m_s.ravel()
        moves = np.repeat(res.moving_probability > 0.5, 3)
        std[first + 3 * k :] = np.where(moves, obs.motion.scatterer_velocity_std_m_s, 0.0)
    precision = 1 / np.maximum(std, 1e-8) ** 2
    covariance = np.linalg.inv(told.matrix + np.diag(precision))
    fused = covariance @ (told.vector + precision * mean)
    np.testing.assert_allclose(fused[: 3 * n].reshape(-1, 3), res.scatterer_positions_m, atol=1e-3)
    np.testing.assert_allclose(fused[users].reshape(-1, 3), res.user_positions_m, atol=1e-3)
    np.testing.assert_allclose(fused[clocks] / SPEED_OF_LIGHT_M_S, res.time_offsets_s, atol=1e-11)
    for q in range(n):
        own = slice(3 * q, 3 * q + 3)
        np.testing.assert_allclose(covariance[own, own], res.scatterer_covariance_m2[q], rtol=1e-3, atol=1e-8)
    if moving:
        np.testing.assert_allclose(fused[carriers], res.frequency_offsets_hz, atol=0.1)
        speeds = fused[first : first + 3 * k].reshape(-1, 3)
        np.testing.assert_allclose(speeds, res.user_velocities_m_s, atol=1e-2)


def test_marginal_is_a_block_of_the_inverse():
    matrix, vector = _random_information(np.random.default_rng(0), 7)
    kept, hidden = np.array([4, 0, 2]), np.array([1, 3, 5, 6])
    inner, pulled = marginal(matrix, vector, kept, hidden)
    covariance = np.linalg.inv(matrix)
    np.testing.assert_allclose(np.linalg.inv(inner), covariance[np.ix_(kept, kept)], atol=1e-10)
    np.testing.assert_allclose(np.linalg.solve(inner, pulled), (covariance @ vector)[kept], atol=1e-10)


@pytest.mark.parametrize("unit", [1.0, 1e-9, 1e9])
def test_blur_adds_to_the_covariance_in_any_unit(unit):
    rng = np.random.default_rng(1)
    matrix, vector = _random_information(rng, 6)
    index, root = np.array([5, 1]), rng.normal(size=(2, 2))
    inner, pulled = blurred(matrix / unit**2, vector / unit, index, root @ root.T * unit**2)
    inner, pulled = inner * unit**2, pulled * unit
    expected = np.linalg.inv(matrix)
    expected[np.ix_(index, index)] += root @ root.T
    np.testing.assert_allclose(np.linalg.inv(inner), expected, atol=1e-10)
    np.testing.assert_allclose(np.linalg.solve(inner, pulled), np.linalg.solve(matrix, vector), atol=1e-10)


def test_blur_of_nothing_changes_nothing():
    matrix, vector = _random_information(np.random.default_rng(2), 4)
    same, pulled = blurred(matrix, vector, np.array([1, 2]), np.diag([0.0, -1.0]))
    assert same is matrix and pulled is vector


def test_information_survives_a_file(tmp_path):
    res = isac.EMTurboBiSVBI().estimate(SMALL.simulate(seed=3).observation)
    again = isac.EstimationResult.load(res.save(tmp_path / "result.npz")).information
    np.testing.assert_array_equal(again.matrix, res.information.matrix)
    np.testing.assert_array_equal(again.vector, res.information.vector)
    assert (again.n_scatterers, again.n_users) == (res.information.n_scatterers, res.information.n_users)
