"""Plane waves in a covariance."""

from __future__ import annotations

import numpy as np
from numpy.testing import assert_allclose

from helpers.scenes import SMALL
from isac_toolbox.estimators.scene.interferers import plane_waves
from isac_toolbox.estimators.search import PathSearch

OBS = SMALL.simulate(0).observation
SEARCH = PathSearch.for_observation(OBS)


def directions_of(cosines: np.ndarray) -> np.ndarray:
    forward = np.sqrt(1 - np.sum(cosines**2, axis=1))
    return np.column_stack([forward, cosines]) @ OBS.array.axes


def test_waves_are_found_where_they_come_from():
    cosines, power = np.array([[0.31, -0.12], [-0.43, 0.22]]), np.array([2.0, 0.7])
    waves = OBS.array.steering(directions_of(cosines))
    found, strength = plane_waves(0.1 * np.eye(24) + (waves.T * power) @ waves.conj(), SEARCH)
    assert_allclose(found, directions_of(cosines), atol=1e-4)
    assert_allclose(strength, power, rtol=1e-4)


def test_elements_left_out_take_no_part():
    wave = OBS.array.steering(directions_of(np.array([[0.2, 0.1]])))[0]
    in_use = np.arange(24) % 5 > 0
    covariance = np.where(np.outer(in_use, in_use), np.eye(24) + np.outer(wave, wave.conj()), 7 * np.eye(24))
    found, strength = plane_waves(covariance, SEARCH, in_use)
    assert_allclose(found, directions_of(np.array([[0.2, 0.1]])), atol=1e-4)
    assert_allclose(strength, 1, rtol=1e-4)


def test_levels_and_neighbours_are_no_waves():
    columns, rows = (0.7 ** np.abs(np.subtract.outer(np.arange(n), np.arange(n))) for n in (6, 4))
    along = np.kron(columns, rows)
    for covariance in (np.eye(24), np.diag(np.linspace(1, 3, 24)), along):
        found, strength = plane_waves(covariance.astype(complex), SEARCH)
        assert found.shape == (0, 3) and strength.shape == (0,)
