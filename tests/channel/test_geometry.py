"""Delays, directions and the closed-form bistatic point."""

from __future__ import annotations

import numpy as np
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose

from isac_toolbox.channel.array import SPEED_OF_LIGHT_M_S
from isac_toolbox.channel.geometry import (
    bistatic_delays_s,
    bistatic_point_m,
    delay_response,
    line_of_sight_delays_s,
    unit_vectors,
)

positions = st.tuples(*[st.floats(-100, 100)] * 3).map(np.array)


def test_delays_of_every_pair():
    rng = np.random.default_rng(0)
    users, points, bs = rng.normal(0, 40, (3, 3)), rng.normal(0, 40, (4, 3)), rng.normal(0, 40, 3)
    delays = bistatic_delays_s(users, points, bs)
    assert delays.shape == (3, 4)
    for k in range(3):
        for q in range(4):
            length = np.linalg.norm(users[k] - points[q]) + np.linalg.norm(points[q] - bs)
            assert_allclose(delays[k, q] * 299_792_458.0, length, rtol=1e-14)
        assert_allclose(
            line_of_sight_delays_s(users, bs)[k] * 299_792_458.0, np.linalg.norm(users[k] - bs), rtol=1e-14
        )


def test_no_points_give_no_delays():
    assert bistatic_delays_s(np.zeros((2, 3)), np.zeros((0, 3)), np.ones(3)).shape == (2, 0)


def test_delay_response():
    delays, frequencies = np.array([[1e-7, 2e-7], [3e-7, 0.0]]), np.array([-1.5e6, 0.0, 2e6])
    response = delay_response(delays, frequencies)
    assert response.shape == (2, 2, 3)
    for index in np.ndindex(2, 2, 3):
        expected = np.exp(-1j * 2 * np.pi * frequencies[index[2]] * delays[index[:2]])
        assert_allclose(response[index], expected, atol=1e-14)


def test_unit_vectors_point_from_first_to_second():
    vectors, distances = unit_vectors([1.0, 1.0, 1.0], [[4.0, 5.0, 1.0], [1.0, 1.0, -1.0]])
    assert_allclose(vectors, [[0.6, 0.8, 0.0], [0.0, 0.0, -1.0]], atol=1e-15)
    assert_allclose(distances, [5.0, 2.0])


@given(positions, positions, positions)
@settings(max_examples=200, deadline=None)
def test_bistatic_point_inverts_the_delay(user, point, bs):
    direction, radius = unit_vectors(bs, point)
    length = bistatic_delays_s(user, point, bs)[0, 0] * SPEED_OF_LIGHT_M_S
    assume(radius > 1e-2)
    assume(length - np.linalg.norm(user - bs) > 1e-2)  # off the line of sight, where any point fits
    found, valid = bistatic_point_m(direction, length, user, bs)
    assert valid
    assert_allclose(found, point, atol=1e-6)


def test_bistatic_point_broadcasts():
    rng = np.random.default_rng(1)
    users, points, bs = rng.normal(0, 40, (3, 1, 3)), rng.normal(0, 40, (5, 3)), rng.normal(0, 40, 3)
    directions, _ = unit_vectors(bs, points)
    lengths = bistatic_delays_s(users[:, 0], points, bs) * SPEED_OF_LIGHT_M_S
    found, valid = bistatic_point_m(directions, lengths, users, bs)
    assert valid.all()
    assert_allclose(found, np.broadcast_to(points, (3, 5, 3)), atol=1e-9)


def test_paths_no_longer_than_the_line_of_sight_have_no_point():
    user, bs = np.array([30.0, 0.0, 0.0]), np.zeros(3)
    directions = np.array([[0.0, 1.0, 0.0], [1.0, 0.0, 0.0], [0.6, 0.8, 0.0]])
    points, valid = bistatic_point_m(directions, [29.0, 30.0, 31.0], user, bs)
    assert valid.tolist() == [False, False, True]
    assert np.isnan(points[:2]).all() and np.isfinite(points[2]).all()
