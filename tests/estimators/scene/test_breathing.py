"""Paths whose gains change over a block: slopes that were put in are found, and none where there are none."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from numpy.testing import assert_allclose

from helpers.moving import SMALL_MOVING, moving_atoms, true_fit, true_scene
from helpers.scenes import complex_normal
from isac_toolbox.estimators.scene.breathing import breathing

pytestmark = pytest.mark.filterwarnings("ignore::isac_toolbox.ImplausibleValueWarning")

BLOCKS = SMALL_MOVING.replace(n_data_symbols=12, snr_db=40.0)


def slopes_of(seed: int, std_hz: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
    """Slopes put into the gains of every user's paths, and those found."""
    simulation = BLOCKS.simulate(seed)
    fit, _ = true_fit(simulation)
    obs, truth = simulation.observation, simulation.truth
    user, times_s = fit.paths.user, obs.motion.times_s
    slopes_hz = complex_normal(np.random.default_rng(seed), (user.size,)) * std_hz[user]
    scene, paths = true_scene(simulation)
    atoms = moving_atoms(fit.problem.receiver, scene, paths, times_s)
    change = 2j * np.pi * times_s * (slopes_hz * fit.posterior.mean)[:, None]
    received = obs.received + np.einsum("lknmt,lt,knt->nmt", atoms, change, truth.symbols, optimize=True)
    fit, _ = true_fit(replace(simulation, observation=replace(obs, received=received)))
    found = breathing(fit, fit.problem.statistics)
    return slopes_hz, found.slopes_hz


@pytest.mark.parametrize("seed", range(3))
def test_slopes_are_found(seed):
    slopes_hz, found_hz = slopes_of(seed, np.array([60.0, 0.0]))
    assert found_hz is not None
    assert_allclose(found_hz, slopes_hz, atol=5)


def test_gains_that_stay_have_no_slopes():
    _, found_hz = slopes_of(0, np.zeros(2))
    assert found_hz is None
