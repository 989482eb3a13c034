"""Points that cannot be resolved are one body: who joins, what is kept, and blocks of real bodies."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from numpy.testing import assert_allclose

import isac_toolbox as isac
from isac_toolbox.channel.array import SPEED_OF_LIGHT_M_S
from isac_toolbox.channel.geometry import delay_response, unit_vectors
from isac_toolbox.estimators import Ambiguity, Candidates
from isac_toolbox.estimators.scene.bodies import join_bodies
from isac_toolbox.estimators.scene.scene_estimate import SceneEstimate

UPLINK = isac.Scenario.load("urban_uplink").replace(snr_db=20)
CELL_M = 3.0


def scene_of(points_m, seen) -> SceneEstimate:
    """A scene of sure points that users see as said, (K, S)."""
    points_m, seen = np.asarray(points_m, float), np.asarray(seen, float)
    n_points = len(points_m)
    unknown = SceneEstimate.unknown(UPLINK.simulate(0).observation)
    return replace(
        unknown,
        scatterer_positions_m=points_m,
        scatterer_probability=np.full(n_points, 0.9),
        scatterer_covariance_m2=np.tile(0.01 * np.eye(3), (n_points, 1, 1)),
        scatterer_extent_m2=np.zeros((n_points, 3, 3)),
        visibility_probability=seen,
        candidates=Candidates(points_m, np.full(n_points, 0.9), seen),
    )


def test_points_apart_stay_as_they_are():
    scene = scene_of([[40, 0, 5], [44, 0, 5], [40, 2, 5]], [[1, 1, 0], [0, 0, 1]])
    joined, ambiguities = join_bodies(scene, (), np.ones(3), CELL_M)
    assert joined is scene and ambiguities == ()


def test_what_one_user_cannot_resolve_is_one_body():
    """Points 0 and 1 are seen by one user, point 2 by another, inside; points 3 and 4 are by themselves."""
    points = [[40, 0, 5], [42, 0, 5], [41, 0.5, 5], [60, 0, 5], [50, 20, 5]]
    scene = scene_of(points, [[1, 1, 0, 1, 0], [0, 0, 1, 0, 1]])
    energy = np.array([2.0, 1.0, 1.0, 1.0, 1.0])
    places = (np.array([points[1], [70, 1, 1]]), np.array([points[4], [70, 1, 1]]))
    listed = tuple(
        Ambiguity("scatterer", row, where, np.array([0.8, 0.2]))
        for row, where in zip((1, 4), places, strict=True)
    )
    joined, kept = join_bodies(scene, listed, energy, CELL_M)
    assert_allclose(joined.scatterer_positions_m[0], [40.75, 0.125, 5])
    assert_allclose(joined.scatterer_positions_m[1:], np.array(points[3:]))
    assert_allclose(joined.visibility_probability, [[1, 1, 0], [1, 0, 1]])
    (only,) = kept
    assert only.index == 2 and only.alternatives is listed[1].alternatives
    weight = np.array([0.5, 0.25, 0.25])
    away = np.array(points[:3]) - joined.scatterer_positions_m[0]
    found = np.einsum("s,si,sj->ij", weight, away, away)
    n_points = 1 / np.sum(weight**2)
    extent = (n_points * found + np.trace(found) * np.eye(3)) / (n_points + 3)
    assert_allclose(joined.scatterer_extent_m2[0], extent)
    assert_allclose(joined.scatterer_covariance_m2[0], extent + np.sum(weight**2) * 0.01 * np.eye(3))
    assert np.all(joined.scatterer_extent_m2[1:] == 0)
    for point, probability in zip(joined.scatterer_positions_m, joined.scatterer_probability, strict=True):
        same = np.all(joined.candidates.scatterer_positions_m == point, axis=1)
        assert probability in joined.candidates.scatterer_probability[same]


def test_single_points_among_bodies_get_the_typical_extent():
    points = [[40, 0, 5], [41, 0, 5], [60, 0, 5], [61, 0, 5], [50, 20, 5]]
    joined, _ = join_bodies(scene_of(points, np.ones((1, 5))), (), np.ones(5), CELL_M)
    sizes = np.trace(joined.scatterer_extent_m2, axis1=1, axis2=2) / 3
    assert len(sizes) == 3 and np.all(sizes > 0)
    assert sizes[2] == pytest.approx(np.median(sizes[:2]))


def block_of_bodies(seed: int, extent_m: float, n_rays: int = 12):
    """A block whose scatterers are bodies of rays with random gains; the simulation, block and channel."""
    simulation = UPLINK.simulate(seed)
    observation, truth = simulation.observation, simulation.truth
    rng = np.random.default_rng(seed + 100)
    shape = (len(truth.scatterer_positions_m), n_rays, 3)
    rays = truth.scatterer_positions_m[:, None] + extent_m * rng.standard_normal(shape)
    rays = np.clip(rays, *observation.region_m)

    def response(user, targets, lengths):
        towards, _ = unit_vectors(observation.bs_position_m, targets)
        array = observation.array.steering_from_cosines(*observation.array.direction_cosines(towards))
        delays = lengths / SPEED_OF_LIGHT_M_S + truth.time_offsets_s[user]
        return delay_response(delays, observation.subcarrier_frequencies_hz), array

    channel = np.zeros_like(truth.channel)
    for k, user in enumerate(truth.user_positions_m):
        direct = np.linalg.norm(user - observation.bs_position_m)
        b, a = response(k, user[None], np.array([direct]))
        channel[k] += truth.line_of_sight_gain[k] * truth.line_of_sight[k] * b.T @ a
        for q in np.flatnonzero(truth.visibility[k]):
            gains = rng.standard_normal((n_rays, 2)) @ [1, 1j]
            gains *= abs(truth.scatterer_gain[k, q]) / np.linalg.norm(gains)
            to_bs = np.linalg.norm(rays[q] - observation.bs_position_m, axis=1)
            b, a = response(k, rays[q], to_bs + np.linalg.norm(rays[q] - user, axis=1))
            channel[k] += np.einsum("r,rn,rm->nm", gains, b, a)
    noise = rng.standard_normal((*observation.received.shape, 2)) @ [1, 1j]
    received = np.einsum("knm,knt->nmt", channel, truth.symbols) + noise * np.sqrt(truth.noise_variance / 2)
    return simulation, replace(observation, received=received), channel


@pytest.mark.parametrize("extent_m", [0.1, 0.5, 1.0])
def test_bodies_are_reported_once_and_covered(extent_m):
    """Bodies of twelve rays once gave 9 to 38 false points a block, and ellipsoids that held nothing.

    In one block of a dozen rounding decides whether a diffuse part takes up small bodies, in one of ten with
    bodies of a metre it takes up most of them.
    """
    hits = false = covered = 0
    misses = []
    for seed in (1, 2, 3, 4, 5):
        simulation, observation, _ = block_of_bodies(seed, extent_m)
        result = isac.EMTurboBiSVBI().estimate(observation)
        true = simulation.truth.scatterer_positions_m
        found = isac.metrics.localisation(result.scatterer_positions_m, true, max_distance_m=2 + 2 * extent_m)
        misses.append(found.misses)
        assert any("scatterers are bodies" in text for text in result.warnings)
        hits, false = hits + found.hits, false + found.false_alarms
        for i, j in zip(found.estimate_index, found.truth_index, strict=True):
            error = result.scatterer_positions_m[i] - true[j]
            spread = result.scatterer_covariance_m2[i] + result.scatterer_extent_m2[i]
            covered += bool(error @ np.linalg.solve(spread, error) < 7.815)
    assert sum(sorted(misses)[:-1]) <= 2 and false <= 8 and covered >= 0.7 * hits


def test_points_have_no_extent():
    result = isac.EMTurboBiSVBI().estimate(UPLINK.simulate(0).observation)
    assert result.scatterer_extent_m2.shape == (8, 3, 3) and not result.scatterer_extent_m2.any()


def test_a_body_moves_as_its_points_do_weighted_by_energy():
    velocities = np.array([[3.0, 0, 0], [0, 3.0, 0], [5.0, 5.0, 5.0]])
    scene = replace(
        scene_of([[40, 0, 5], [41, 0, 5], [60, 0, 5]], [[1, 1, 1], [0, 0, 0]]),
        scatterer_velocities_m_s=velocities,
        scatterer_velocity_covariance_m2_s2=np.arange(1.0, 4.0)[:, None, None] * np.eye(3),
        moving_probability=np.array([0.2, 0.9, 0.4]),
    )
    joined, _ = join_bodies(scene, (), np.array([2.0, 1.0, 7.0]), CELL_M)
    assert_allclose(joined.scatterer_velocities_m_s, [[2.0, 1.0, 0.0], [5.0, 5.0, 5.0]])
    spread = np.trace(joined.scatterer_velocity_covariance_m2_s2, axis1=1, axis2=2)
    assert_allclose(spread, [3 * 4 / 3, 9.0])
    assert_allclose(joined.moving_probability, [0.9, 0.4])
