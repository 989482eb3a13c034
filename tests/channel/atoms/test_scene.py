"""Path parameters and their Jacobian against finite differences, for every unknown of every kind of path."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

from helpers.moving import moving_case
from isac_toolbox.channel.array import SPEED_OF_LIGHT_M_S, UniformPlanarArray
from isac_toolbox.channel.atoms.dense import make_atoms
from isac_toolbox.channel.atoms.receiver import Receiver
from isac_toolbox.channel.atoms.scene import (
    LINE_OF_SIGHT,
    UNLOCATED,
    Paths,
    Scene,
    ScenePrior,
    path_parameters,
)

seeds = st.integers(0, 2**32 - 1)
wavefronts = st.sampled_from(["planar", "spherical"])
STEP_M = 1e-3


def random_case(seed: int, wavefront: str) -> tuple[Scene, Paths, Receiver]:
    """Three points, two users, two unlocated paths; each point seen by somebody; a random tilted array."""
    rng = np.random.default_rng(seed)
    array = UniformPlanarArray(
        (3, 2), (rng.uniform(0.3, 0.8), rng.uniform(0.3, 0.8)), *rng.uniform(-1.2, 1.2, 2)
    )
    frequencies = (np.arange(5) - 2) * rng.uniform(1e6, 1e7)
    receiver = Receiver(array, rng.normal(0, 5, 3), frequencies, wavefront, 3.5e9)

    def away(count: int, nearest: float, farthest: float) -> np.ndarray:
        u = rng.standard_normal((count, 3))
        u /= np.linalg.norm(u, axis=1, keepdims=True)
        return receiver.bs_position_m + rng.uniform(nearest, farthest, (count, 1)) * u

    scene = Scene(
        away(3, 4.0, 30.0),
        away(2, 40.0, 90.0),  # beyond the points: no user lies on one
        rng.normal(0, 3, 2),
        np.column_stack([rng.uniform(50, 200, 2), rng.uniform(-0.6, 0.6, (2, 2))]),
    )
    seen = rng.random((2, 3)) < 0.5
    seen[rng.integers(2, size=3), np.arange(3)] = True
    return scene, Paths.build(np.array([True, True]), seen, np.array([1, 0])), receiver


def path_responses(scene: Scene, paths: Paths, receiver: Receiver) -> np.ndarray:
    """Every path's response over subcarriers and antennas, shape (L, N, M)."""
    atoms = make_atoms(path_parameters(scene, paths, receiver), paths, receiver)
    return np.einsum("nl,lm->lnm", atoms.delay, atoms.steering[0])


def difference_quotient(function, scene: Scene, index: int, step: float):
    """Fourth-order central difference of ``function(scene)`` in one unknown."""
    start = scene.vector()

    def at(shift: float):
        moved = start.copy()
        moved[index] += shift
        return function(scene.with_vector(moved))

    return (8 * (at(step) - at(-step)) - (at(2 * step) - at(-2 * step))) / (12 * step)


@given(seeds, wavefronts)
@settings(max_examples=40, deadline=None)
def test_responses_are_those_of_the_geometry(seed, wavefront):
    scene, paths, receiver = random_case(seed, wavefront)
    response = path_responses(scene, paths, receiver)
    bs, array = receiver.bs_position_m, receiver.array
    for i in range(len(paths)):
        user = scene.users_m[paths.user[i]]
        if paths.target[i] == UNLOCATED:
            length, u_h, u_v = scene.unlocated_m[paths.unlocated[i]]
            steering = array.steering_from_cosines(u_h, u_v)
        else:
            target = user if paths.target[i] == LINE_OF_SIGHT else scene.points_m[paths.target[i]]
            length = (
                np.linalg.norm(target - user) + np.linalg.norm(target - bs) + scene.offsets_m[paths.user[i]]
            )
            direction = (target - bs) / np.linalg.norm(target - bs)
            steering = (
                array.steering(direction)
                if wavefront == "planar"
                else array.spherical_steering(target - bs, receiver.carrier_hz)
            )
        delay = np.exp(-2j * np.pi * receiver.frequencies_hz * length / SPEED_OF_LIGHT_M_S)
        assert_allclose(response[i], np.outer(delay, steering), atol=1e-9)


@given(seeds, wavefronts)
@settings(max_examples=25, deadline=None)
def test_jacobian_of_every_unknown(seed, wavefront):
    """``d (b a) / d theta = b' a dL/dtheta + sum_d b a_d ds_d/dtheta`` for all paths and unknowns."""
    scene, paths, receiver = random_case(seed, wavefront)
    parameters = path_parameters(scene, paths, receiver)
    atoms = make_atoms(parameters, paths, receiver)
    delay = atoms.delay.T[:, :, None]
    steering = atoms.steering[:, :, None, :]
    in_length = -1j * receiver.wavenumbers_per_m[:, None] * delay * steering[0]
    jacobian = parameters.jacobian
    assert jacobian.shape == (atoms.n_types - 1, len(paths), scene.n_parameters)
    for p in range(scene.n_parameters):
        analytic = jacobian[0, :, p, None, None] * in_length
        for d in range(1, jacobian.shape[0]):
            analytic = analytic + jacobian[d, :, p, None, None] * delay * steering[d]
        numeric = difference_quotient(lambda s: path_responses(s, paths, receiver), scene, p, STEP_M)
        assert_allclose(analytic, numeric, atol=2e-8 * (1 + np.abs(analytic).max()))


@given(seeds)
@settings(max_examples=25, deadline=None)
def test_planar_jacobian_holds_length_and_direction_cosines(seed):
    scene, paths, receiver = random_case(seed, "planar")
    jacobian = path_parameters(scene, paths, receiver).jacobian

    def explicit(s: Scene) -> np.ndarray:
        rows = np.empty((3, len(paths)))
        for i in range(len(paths)):
            user = s.users_m[paths.user[i]]
            if paths.is_unlocated[i]:
                rows[:, i] = s.unlocated_m[paths.unlocated[i]]
                continue
            target = user if paths.is_line_of_sight[i] else s.points_m[paths.target[i]]
            from_bs = target - receiver.bs_position_m
            rows[0, i] = np.linalg.norm(from_bs) + np.linalg.norm(target - user) + s.offsets_m[paths.user[i]]
            rows[1:, i] = receiver.array.axes[1:] @ from_bs / np.linalg.norm(from_bs)
        return rows

    for p in range(scene.n_parameters):
        assert_allclose(jacobian[:, :, p], difference_quotient(explicit, scene, p, STEP_M), atol=1e-8)


@pytest.mark.parametrize("wavefront", ["planar", "spherical"])
def test_the_cases_exercise_every_kind_of_path_and_unknown(wavefront):
    scene, paths, receiver = random_case(3, wavefront)
    assert paths.is_point.any() and paths.is_line_of_sight.any() and paths.is_unlocated.any()
    assert not np.any(paths.is_point & paths.is_line_of_sight)
    moved = np.abs(path_parameters(scene, paths, receiver).jacobian).max(axis=(0, 1))
    assert np.all(moved > 0)


def test_vector_layout_round_trip():
    scene, _, _ = random_case(0, "planar")
    vector = np.arange(scene.n_parameters, dtype=float)
    back = scene.with_vector(vector)
    assert_array_equal(back.vector(), vector)
    points, users, offsets, unlocated = scene.blocks()
    assert_array_equal(vector[points].reshape(-1, 3), back.points_m)
    assert_array_equal(vector[users].reshape(-1, 3), back.users_m)
    assert_array_equal(vector[offsets], back.offsets_m)
    assert_array_equal(vector[unlocated].reshape(-1, 3), back.unlocated_m)
    assert unlocated.stop == scene.n_parameters


def test_paths_are_lines_of_sight_then_points_then_free():
    seen = np.array([[True, False], [True, True]])
    paths = Paths.build(np.array([False, True]), seen, np.array([0]))
    assert paths.user.tolist() == [1, 0, 1, 1, 0]
    assert paths.target.tolist() == [LINE_OF_SIGHT, 0, 0, 1, UNLOCATED]
    assert paths.unlocated.tolist() == [-1, -1, -1, -1, 0]


def test_prior_of_known_and_uncertain_unknowns():
    scene, _, _ = random_case(0, "planar")
    stds = np.array([[0.0, 0.5, 2.0], [0.1, 0.0, 0.0]])
    mean = scene.users_m - 0.25
    prior = ScenePrior(mean, stds, np.array([0.0, 4.0]))
    _, users, offsets, _ = scene.blocks()
    known, precision, deviation = prior.known(scene), prior.precision(scene), prior.deviation(scene)
    assert known[users].tolist() == (stds == 0).ravel().tolist()
    assert known[offsets].tolist() == [True, False]
    assert np.count_nonzero(known) == 4
    assert_allclose(precision[users], [0, 4, 0.25, 100, 0, 0])
    assert_allclose(precision[offsets], [0, 1 / 16])
    assert np.count_nonzero(precision) == 4
    assert_allclose(deviation[users], 0.25)
    assert_allclose(deviation[offsets], scene.offsets_m)
    assert np.count_nonzero(deviation) == 8


def test_prior_of_where_the_array_points():
    scene = replace(random_case(0, "planar")[0], pointing=np.array([0.02, -0.03]))
    prior = ScenePrior(scene.users_m, np.zeros((2, 3)), np.zeros(2), pointing_stds=np.array([0.01, 0.0]))
    block = scene.pointing_block
    assert prior.known(scene)[block].tolist() == [False, True]
    assert_allclose(prior.precision(scene)[block], [1e4, 0])
    assert_allclose(prior.deviation(scene)[block], scene.pointing)
    assert prior.penalty(scene) == pytest.approx(0.5 * (0.02 / 0.01) ** 2)
    untold = replace(prior, pointing_stds=None)
    assert untold.known(scene)[block].all() and untold.penalty(scene) == 0


@pytest.mark.parametrize("wavefront", ["planar", "spherical"])
def test_pulled_slopes_are_those_of_the_dense_jacobian(wavefront):
    scene, paths, receiver = random_case(0, wavefront)
    derivatives = path_parameters(scene, paths, receiver).derivatives
    slopes = np.random.default_rng(1).standard_normal((derivatives.entries.shape[1], len(paths)))
    expected = np.einsum("dl,dlp->p", slopes, derivatives.dense())
    assert_allclose(derivatives.pull(slopes), expected, atol=1e-12)


# --- scenes that move --------------------------------------------------------------------------------


def test_a_vector_of_a_scene_that_moves_holds_its_motion():
    scene = moving_case(0).scene
    vector = scene.vector()
    assert vector.size == scene.n_parameters
    again = scene.with_vector(vector[::-1])
    assert np.array_equal(again.vector(), vector[::-1])
    assert np.array_equal(vector[-scene.motion.size :], scene.motion.vector())
    assert max(block.stop for block in scene.blocks()) == vector.size - scene.motion.size


def test_parts_of_a_scene_keep_their_motion():
    scene = moving_case(0).scene
    taken = scene.take(np.array([2, 0, 0]), slice(1, 2))
    assert np.array_equal(taken.motion.point_velocities_m_s, scene.motion.point_velocities_m_s[[2, 0, 0]])
    assert np.array_equal(taken.points_m, scene.points_m[[2, 0, 0]])
    assert np.array_equal(taken.motion.further_hz, scene.motion.further_hz[1:2])
    longer = scene.extended(np.ones((2, 3)), np.ones((3, 3)), 5.0)
    assert longer.motion.point_velocities_m_s.shape == (5, 3) and not longer.motion.moving[3:].any()
    assert np.array_equal(longer.motion.further_hz[-3:], [5.0] * 3)
    back = longer.take(slice(0, 3), slice(0, 2))
    assert np.array_equal(back.vector(), scene.vector())
    still = Scene(scene.points_m, scene.users_m, scene.offsets_m, scene.unlocated_m)
    assert still.extended(np.ones((1, 3)), np.ones((1, 3)), 5.0).motion is None


def test_the_prior_of_a_scene_that_moves_is_gaussian_in_all_that_is_unknown():
    case = moving_case(0)
    prior, scene = case.problem.prior, case.scene
    stds, means = prior.motion.stds(scene.motion), prior.motion.means(scene.motion)
    known, precision, deviation = prior.known(scene), prior.precision(scene), prior.deviation(scene)
    n = scene.motion.size
    assert np.array_equal(known[-n:], stds == 0) and known[-n:].sum() == 3  # of the point at rest
    free = ~known
    assert_allclose(precision[-n:][stds > 0], stds[stds > 0] ** -2.0)
    assert not precision[known].any()
    assert_allclose(deviation[-n:], scene.motion.vector() - means)
    expected = 0.5 * np.sum(precision[free] * deviation[free] ** 2)
    assert prior.penalty(scene) == pytest.approx(expected)
    alone = prior.of_user(1)
    assert alone.motion.offset_stds_hz.shape == (1,)
