"""Doppler shifts of a scene against moved positions, their Jacobian against differences, priors of motion."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.testing import assert_allclose

from helpers.moving import HZ_PER_M_S, doppler_by_definition, motion_of, moving_case
from isac_toolbox.channel.atoms.kinematics import KinematicPrior, Kinematics, MovingJacobian
from isac_toolbox.channel.atoms.scene import path_parameters


@pytest.fixture(params=[("planar", 0), ("planar", 1), ("spherical", 0)], ids=lambda p: f"{p[0]}-{p[1]}")
def case(request):
    wavefront, seed = request.param
    return moving_case(seed, wavefront)


def shifts_of(case, vector=None) -> np.ndarray:
    scene = case.scene if vector is None else case.scene.with_vector(vector)
    return path_parameters(scene, case.paths, case.problem.receiver).doppler_hz


def test_shifts_are_those_of_lengths_that_change(case):
    expected = doppler_by_definition(case.scene, case.paths, case.problem.receiver.bs_position_m)
    assert_allclose(shifts_of(case), expected, atol=1e-5)
    assert np.abs(expected).max() > 50


def test_the_jacobian_is_that_of_differences(case):
    """In positions, clocks, offsets, velocities of users and points, and unlocated paths."""
    parameters = path_parameters(case.scene, case.paths, case.problem.receiver)
    vector, step = case.scene.vector(), 1e-4
    numerical = np.stack(
        [
            (shifts_of(case, vector + step * unit) - shifts_of(case, vector - step * unit)) / (2 * step)
            for unit in np.eye(vector.size)
        ],
        axis=1,
    )
    assert isinstance(parameters.derivatives, MovingJacobian)
    assert parameters.jacobian.shape[2] == vector.size == case.scene.n_parameters
    assert_allclose(parameters.jacobian[-1], numerical, atol=1e-6 * np.abs(numerical).max())


def test_pulling_slopes_is_the_product_with_the_jacobian(case):
    parameters = path_parameters(case.scene, case.paths, case.problem.receiver)
    jacobian = parameters.jacobian
    slopes = np.random.default_rng(0).standard_normal(jacobian.shape[:2])
    assert_allclose(parameters.derivatives.pull(slopes), np.einsum("dl,dlp->p", slopes, jacobian), rtol=1e-10)


def test_without_motion_lengths_and_responses_are_the_same(case):
    still = type(case.scene)(
        *(getattr(case.scene, n) for n in ("points_m", "users_m", "offsets_m", "unlocated_m"))
    )
    first, second = (path_parameters(s, case.paths, case.problem.receiver) for s in (still, case.scene))
    assert first.doppler_hz is None
    assert np.array_equal(first.length_m, second.length_m) and np.array_equal(first.cosines, second.cosines)
    n = still.n_parameters
    assert np.array_equal(second.jacobian[:-1, :, :n], first.jacobian)
    assert not second.jacobian[:-1, :, n:].any()


def some_motion() -> Kinematics:
    rng = np.random.default_rng(0)
    return Kinematics(
        rng.standard_normal(2),
        rng.standard_normal((2, 3)),
        rng.standard_normal((3, 3)),
        np.array([True, False, True]),
        rng.standard_normal(4),
        HZ_PER_M_S,
    )


def test_vectors_go_to_motion_and_back():
    motion = some_motion()
    vector = motion.vector()
    assert vector.size == motion.size == 2 + 6 + 9 + 4
    again = motion.with_vector(vector[::-1])
    assert np.array_equal(again.vector(), vector[::-1]) and np.array_equal(again.moving, motion.moving)
    offsets, users, points, further = motion.blocks(5)
    shifted = np.concatenate([np.zeros(5), vector])
    assert np.array_equal(shifted[offsets], motion.offsets_hz)
    assert np.array_equal(shifted[users].reshape(-1, 3), motion.user_velocities_m_s)
    assert np.array_equal(shifted[points].reshape(-1, 3), motion.point_velocities_m_s)
    assert np.array_equal(shifted[further], motion.further_hz)


def test_some_points_and_paths_are_taken_and_new_ones_stand_still():
    motion = some_motion()
    taken = motion.take(np.array([2, 2, 0]), np.array([False, True, False, True]))
    assert np.array_equal(taken.point_velocities_m_s, motion.point_velocities_m_s[[2, 2, 0]])
    assert taken.moving.all() and np.array_equal(taken.further_hz, motion.further_hz[[1, 3]])
    longer = motion.extended(2, np.array([7.0]))
    assert not longer.point_velocities_m_s[3:].any() and not longer.moving[3:].any()
    assert longer.further_hz[-1] == 7.0 and longer.size == motion.size + 7
    back = longer.take(slice(0, 3), slice(0, 4))
    assert np.array_equal(back.vector(), motion.vector()) and np.array_equal(back.moving, motion.moving)


def test_parts_without_points_are_joined():
    none = some_motion().take(slice(0, 0), slice(None))
    both = Kinematics.joined([none, none.take(slice(0, 0), slice(1, 2))])
    assert both.offsets_hz.shape == (4,) and both.user_velocities_m_s.shape == (4, 3)
    assert np.array_equal(both.further_hz, np.append(none.further_hz, none.further_hz[1]))
    assert both.point_velocities_m_s.shape == (0, 3)


# --- priors ------------------------------------------------------------------------------------------


def test_the_prior_knows_deviations_and_means_of_every_entry():
    nominal = np.array([[1.0, 2.0, 0.0], [0.0, -3.0, 0.0]])
    prior = KinematicPrior.of(motion_of(user_velocities_m_s=nominal))
    motion = some_motion()
    stds, means = prior.stds(motion), prior.means(motion)
    offsets, users, points, further = motion.blocks()
    assert np.array_equal(stds[offsets], [60.0, 60.0]) and not means[offsets].any()
    assert np.array_equal(stds[users], [4.0, 3.0, 0.5] * 2)
    assert np.array_equal(means[users].reshape(2, 3), nominal)
    assert np.array_equal(stds[points], [3.0] * 3 + [0.0] * 3 + [3.0] * 3) and not means[points].any()
    assert np.all(stds[further] == prior.further_std_hz) and not means[further].any()


def test_the_shift_of_a_path_of_unknown_directions_has_the_stated_deviation():
    """Of users that move in a plane, and scatterers that move anywhere, seen from anywhere."""
    rng, n = np.random.default_rng(0), 200_000
    motion = motion_of(1, user_velocity_stds_m_s=np.array([[5.0, 5.0, 0.0]]), scatterer_velocity_std_m_s=2.0)
    prior = KinematicPrior.of(motion)
    angle = rng.uniform(0, 2 * np.pi, n)
    away = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    speed = rng.normal(0, 5, (n, 2))
    of_user = HZ_PER_M_S * np.sum(away * speed, axis=1)
    of_point = HZ_PER_M_S * 2 * rng.normal(0, 2, n)  # straight back: both legs change alike
    assert np.std(of_user + of_point) == pytest.approx(prior.further_std_hz, rel=0.02)
    assert prior.largest_doppler_hz == pytest.approx(4 * np.hypot(60, prior.further_std_hz))


def test_a_mean_shift_is_divided_as_the_priors_say():
    prior = KinematicPrior.of(motion_of())
    expected = prior.expected(np.array([100.0, -40.0]))
    share = 60.0**2 / (60.0**2 + prior.further_std_hz**2)
    assert_allclose(expected.offsets_hz, [100 * share, -40 * share])
    assert expected.size == 2 + 6 and not expected.user_velocities_m_s.any()
    nothing = KinematicPrior.of(
        motion_of(
            frequency_offset_stds_hz=np.zeros(2),
            user_velocity_stds_m_s=np.zeros((2, 3)),
            scatterer_velocity_std_m_s=0.0,
        )
    )
    assert np.array_equal(nothing.expected(np.ones(2)).offsets_hz, [0, 0])


def test_the_prior_of_one_user_is_its_own():
    prior = KinematicPrior.of(motion_of(frequency_offset_stds_hz=np.array([1.0, 2.0])))
    alone = prior.of_user(1)
    assert alone.offset_stds_hz.tolist() == [2.0] and alone.user_velocity_stds_m_s.shape == (1, 3)
    assert alone.further_std_hz == prior.further_std_hz
