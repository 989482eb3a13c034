"""A turn of the array: displacements by finite rotation, the prior in its frame, the way back."""

from __future__ import annotations

import numpy as np
from numpy.testing import assert_allclose
from scipy.spatial.transform import Rotation

import isac_toolbox as isac
from isac_toolbox.channel.atoms.turn import Turn

ARRAY = isac.UniformPlanarArray((4, 4), azimuth_rad=0.3, elevation_rad=-0.2)
BS_M = np.array([1.0, -2.0, 15.0])
USERS_M = np.array([[40.0, 10.0, 1.5], [30.0, -15.0, 2.0], [55.0, 3.0, 1.0]])


def turn_of(stds=(0.01, 0.02, 0.03, 0.0, 0.0), user_std_m=0.5) -> Turn:
    return Turn(ARRAY, BS_M, np.array(stds), USERS_M, np.full((3, 3), user_std_m))


def test_rotations_move_places_as_seen_from_the_turned_array():
    """A place seen by an array turned by a small rotation is the place turned back."""
    turn, angle = turn_of(), 1e-5
    moves = turn.displacements(USERS_M).reshape(3, 3, 5)
    for column, axis in enumerate(ARRAY.axes):
        back = Rotation.from_rotvec(-angle * axis).apply(USERS_M - BS_M) + BS_M
        assert_allclose((back - USERS_M) / angle, moves[:, :, column], atol=1e-3)


def test_slopes_shift_both_cosines_and_no_distance():
    moves = turn_of().displacements(USERS_M).reshape(3, 3, 5)
    for column, shift in ((3, (1e-6, 0.0)), (4, (0.0, 1e-6))):
        moved = USERS_M + 1e-6 * moves[:, :, column]
        before, after = (
            np.array(ARRAY.direction_cosines((p - BS_M) / np.linalg.norm(p - BS_M, axis=1)[:, None]))
            for p in (USERS_M, moved)
        )
        assert_allclose(after - before, np.array(shift)[:, None] * np.ones(3), atol=1e-10)
        distances = [np.linalg.norm(p - BS_M, axis=1) for p in (USERS_M, moved)]
        assert_allclose(*distances, atol=1e-9)


def test_prior_and_way_back_are_those_of_the_joint_gaussian():
    turn = turn_of()
    moves = turn.displacements(USERS_M)
    covariance = 0.25 * np.eye(9) + (moves * turn.stds**2) @ moves.T
    assert_allclose(turn.stds_m.ravel() ** 2, np.diag(covariance))
    assert_allclose(turn.coupling + np.diag(1 / np.diag(covariance)), np.linalg.inv(covariance), rtol=1e-8)
    rng = np.random.default_rng(0)
    draws = turn.stds * rng.standard_normal((20000, 5))
    places = draws @ moves.T + 0.5 * rng.standard_normal((20000, 9))
    estimates = np.array([turn.back(USERS_M + p.reshape(3, 3))[0] for p in places[:3000]])
    _, gain, remaining = turn.back(USERS_M)
    errors = estimates - draws[:3000]
    assert_allclose(np.cov(errors.T)[:3, :3], remaining[:3, :3], atol=2e-5)
    assert_allclose(estimates[0], gain @ places[0])
