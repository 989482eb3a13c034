"""The prior of phases that walk against walks as simulations draw them."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.testing import assert_allclose

from helpers.moving import motion_of
from isac_toolbox.channel.movement import draw_turning
from isac_toolbox.estimators.symbols.phases import PhasePrior, walk_precision
from isac_toolbox.scenario import Scenario

EVEN = (np.arange(6) - 2.5) * 1e-4
WITH_GAPS = np.array([-4e-4, -3e-4, -2e-4, 1e-4, 2e-4, 6e-4])
N_DRAWS = 4000


def walks(times_s: np.ndarray, station: float, user: float, n_users: int = 2) -> np.ndarray:
    """Phases of users (draws, K, T), station's and user's together."""
    settings = Scenario(
        n_users=n_users, symbol_period_s=1e-4, phase_noise_std_rad=station, user_phase_noise_std_rad=user
    )
    rng = np.random.default_rng(0)
    drawn = (draw_turning(settings, times_s, n_users, rng) for _ in range(N_DRAWS))
    return np.array([d.symbol_phase_rad + d.user_symbol_phase_rad for d in drawn])


def noisy(times_s: np.ndarray, station: float = 0.05, user: float = 0.1):
    times_s = times_s - times_s.mean()
    return motion_of(times_s=times_s, phase_noise_std_rad=station, user_phase_noise_stds_rad=np.full(2, user))


@pytest.mark.parametrize("times_s", [EVEN, WITH_GAPS], ids=["even", "with gaps"])
@pytest.mark.parametrize("stds", [(0.05, 0.1), (0.0, 0.1)])
def test_the_precision_is_the_inverse_of_the_drawn_covariance(times_s, stds):
    prior = PhasePrior(noisy(times_s, *stds))
    assert prior.basis.shape == (6, 4)
    drawn = (walks(times_s, *stds) @ prior.basis).reshape(N_DRAWS, -1)
    covariance = drawn.T @ drawn / N_DRAWS
    whitened = np.linalg.cholesky(prior.precision).T @ covariance @ np.linalg.cholesky(prior.precision)
    assert_allclose(whitened, np.eye(8), atol=6 / np.sqrt(N_DRAWS))


@pytest.mark.parametrize("times_s", [EVEN, WITH_GAPS], ids=["even", "with gaps"])
def test_walks_look_like_frequencies_of_the_stated_deviation(times_s):
    prior = PhasePrior(noisy(times_s))
    times = prior.motion.times_s
    slopes = walks(times_s, 0.05, 0.1) @ times / (times @ times) / (2 * np.pi)
    assert_allclose(slopes.std(axis=0), prior.slope_stds_hz, rtol=4 / np.sqrt(2 * N_DRAWS))


def test_the_basis_is_blind_to_gains_and_frequencies():
    prior = PhasePrior(noisy(WITH_GAPS))
    times = prior.motion.times_s
    assert_allclose(prior.basis.T @ np.column_stack([np.ones(6), times / times.max()]), 0, atol=1e-12)
    assert_allclose(prior.basis.T @ prior.basis, np.eye(4), atol=1e-12)


def test_users_of_one_oscillator_have_one_phase():
    """The ridge keeps the matrix regular, and what users do apart all but impossible."""
    prior = PhasePrior(noisy(EVEN, 0.1, 0.0))
    apart = np.kron([1.0, -1.0], np.ones(4))
    together = np.kron([1.0, 1.0], np.ones(4))
    assert apart @ prior.precision @ apart > 1e6 * (together @ prior.precision @ together)


def test_a_shorter_basis_has_the_marginal_precision():
    motion = noisy(WITH_GAPS)
    whole, part = np.eye(6)[:, 1:], np.eye(6)[:, [2, 4]]
    covariance = np.linalg.inv(walk_precision(motion, whole))
    rows = np.array([1, 3, 6, 8])  # entries 2 and 4 of both users, the first having been left out
    assert_allclose(np.linalg.inv(walk_precision(motion, part)), covariance[np.ix_(rows, rows)], rtol=1e-8)


def test_there_is_no_prior_where_nothing_walks():
    assert PhasePrior.of(motion_of()) is None
    two = noisy(EVEN[:2])
    assert PhasePrior.of(two) is None  # two symbols have a line alone
    assert PhasePrior.of(noisy(EVEN)) is not None
