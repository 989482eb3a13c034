"""Simultaneous OMP on a location grid: exact on the grid, orthogonal residuals, bounded memory."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.testing import assert_allclose

import isac_toolbox as isac
from helpers.scenes import BS_M, REGION_M, SMALL, assert_no_nan, complex_normal, dense_atoms, random_case
from isac_toolbox.channel.array import SPEED_OF_LIGHT_M_S
from isac_toolbox.channel.atoms.receiver import Receiver
from isac_toolbox.channel.atoms.scene import Paths, Scene
from isac_toolbox.estimators.baselines.omp import lines_of_sight, strongest_point
from isac_toolbox.estimators.grid import points as grid_points
from isac_toolbox.estimators.grid.points import GridAtoms, LocationGrid
from isac_toolbox.estimators.scene.fit import residual_correlation
from isac_toolbox.estimators.scene.problem import Problem
from isac_toolbox.estimators.search import PathSearch
from isac_toolbox.estimators.symbols.block import ReceivedBlock
from isac_toolbox.metrics import channel_nmse_db

USERS_M = np.array([[50.0, -10.0, 1.5], [62.0, 16.0, 1.5]])
SEEN = np.array([[True, True, False], [True, False, True]])
NO_USER = np.zeros(0, np.int64)


def block_with_points(
    points_m: np.ndarray, offset_std_s: float = 0.0, offsets_m=(0.0, 0.0), noise_std: float = 1e-3
) -> tuple[isac.UplinkObservation, np.ndarray]:
    """Pilots of two users over given points, lines of sight included, and the channel (K, N, M)."""
    rng = np.random.default_rng(5)
    array, n_sub = isac.UniformPlanarArray((8, 8)), 32
    receiver = Receiver(array, BS_M, (np.arange(n_sub) - 15.5) * 3e6)
    scene = Scene(points_m, USERS_M, np.asarray(offsets_m), np.zeros((0, 3)))
    paths = Paths.build(np.ones(2, bool), SEEN[:, : len(points_m)], NO_USER)
    gains = np.exp(2j * np.pi * rng.random(len(paths))) * np.where(paths.is_line_of_sight, 1.0, 0.6)
    channel = np.tensordot(gains, dense_atoms(receiver, scene, paths), 1)
    pilots = np.zeros((2, n_sub, 2), complex)
    pilots[0, :, 0] = pilots[1, :, 1] = 1
    noise = noise_std * complex_normal(rng, (n_sub, 64, 2))
    observation = isac.UplinkObservation(
        received=np.einsum("knm,knt->nmt", channel, pilots) + noise,
        pilots=pilots,
        pilot_mask=np.ones((n_sub, 2), bool),
        array=array,
        subcarrier_frequencies_hz=receiver.frequencies_hz,
        bs_position_m=BS_M,
        user_positions_m=USERS_M,
        user_position_std_m=0.0,
        time_offset_std_s=offset_std_s,
        constellation=isac.qam_constellation("qpsk"),
        region_m=REGION_M,
    )
    return observation, channel


# --- grid --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("high", "n_points", "counts"),
    [
        ((80.0, 30.0, 15.0), 1024, (16, 16, 4)),
        ((80.0, 30.0, 0.001), 900, (30, 30, 1)),
        ((80.0, -29.999, 0.001), 12, (12, 1, 1)),
        ((80.0, 30.0, 15.0), 1, (1, 1, 1)),
    ],
)
def test_grid_of_a_size(high, n_points, counts):
    region = np.array([REGION_M[0], high])
    grid = LocationGrid.of_size(region, n_points)
    assert grid.counts == counts and len(grid) == np.prod(counts)
    points = grid.points()
    assert np.all(points > region[0]) and np.all(points < region[1])
    assert_allclose(points.mean(axis=0), region.mean(axis=0))


def test_grid_of_a_step_and_its_blocks():
    grid = LocationGrid.of_step(REGION_M, 4.0)
    assert grid.counts == (15, 15, 4) and np.all(grid.step_m <= 4.0)
    points = grid.points()
    assert_allclose(points[0], REGION_M[0] + grid.step_m / 2)
    assert np.array_equal(np.concatenate(list(grid.blocks(size=77))), points)
    assert len(np.unique(points, axis=0)) == len(grid)


@pytest.mark.parametrize("wavefront", ["planar", "spherical"])
@pytest.mark.parametrize("kept_bytes", [0, 2**28])
def test_streamed_choice_equals_a_direct_dictionary(wavefront, kept_bytes, monkeypatch):
    monkeypatch.setattr(grid_points, "_KEPT_BYTES", kept_bytes)
    case = random_case(1, wavefront)
    problem, grid = case.problem, LocationGrid.of_step(REGION_M, 6.0)
    monkeypatch.setattr(LocationGrid, "blocks", lambda self: iter(np.array_split(self.points(), 7)))
    residual = problem.statistics.cross_correlation
    scene = Scene(grid.points(), case.scene.users_m, case.scene.offsets_m, np.zeros((0, 3)))
    paths = Paths.build(np.zeros(2, bool), np.ones((2, len(grid)), bool), NO_USER)
    atoms = dense_atoms(problem.receiver, scene, paths)
    power = np.abs(np.einsum("gknm,knm->g", atoms.conj(), residual)) ** 2
    power = power.reshape(-1, 2) / problem.user_energies
    streamed = GridAtoms(grid, case.scene, problem.receiver)
    for threshold in (0.0, 0.9 * power.max(), 2 * power.max()):
        total = np.where((power > threshold).any(axis=1), power.sum(axis=1), 0)
        best = int(np.argmax(total))
        for _ in range(2):  # the second pass may use kept blocks
            point, above = strongest_point(streamed, residual, problem.user_energies, threshold)
            if total[best] > 0:
                assert_allclose(point, scene.points_m[best])
            assert np.array_equal(above, power[best] > threshold if total[best] > 0 else [False, False])


# --- pursuit -----------------------------------------------------------------------------------------


def test_scatterers_on_the_grid_are_found_exactly():
    grid = LocationGrid.of_step(REGION_M, 4.0)
    points = grid.points()[[88, 530, 741]]
    observation, channel = block_with_points(points)
    result = isac.OMP(grid_step_m=4.0).estimate(observation)
    order = np.argsort(result.scatterer_positions_m[:, 0])
    assert_allclose(result.scatterer_positions_m[order], points[np.argsort(points[:, 0])], atol=1e-9)
    seen = result.visibility_probability[:, order] == 1
    assert np.all(seen >= SEEN[:, np.argsort(points[:, 0])])  # a sidelobe may join a user, with no gain
    assert channel_nmse_db(result.channel, channel) < -60
    assert np.all(result.candidates.scatterer_probability == 1)
    assert result.noise_variance == pytest.approx(1e-6, rel=0.2)
    assert len(result.unlocated_paths) == 0


def test_the_residual_is_orthogonal_to_all_chosen_atoms():
    simulation = SMALL.simulate(0)
    observation = simulation.observation
    problem = Problem.on_pilots(observation, ReceivedBlock.of(observation, 1.0))
    grid = LocationGrid.of_step(problem.region_m, 5.0)
    problem, fit = isac.OMP(max_points=6)._pursue(problem, PathSearch.for_observation(observation), grid)
    assert len(fit.scene.points_m) == 6
    residual = residual_correlation(fit)
    before = np.abs(fit.correlation).max()
    assert np.abs(fit.atoms.correlate(residual)).max() < 1e-9 * before
    assert len(np.unique(fit.scene.points_m, axis=0)) == 6


@pytest.mark.parametrize("offset_std_s", [0.0, 5e-9])
def test_the_line_of_sight_gives_the_clock(offset_std_s):
    offsets = np.array([2.3, -1.1]) if offset_std_s else np.zeros(2)
    observation, _ = block_with_points(np.zeros((0, 3)), offset_std_s, offsets)
    problem = Problem.on_pilots(observation, ReceivedBlock.of(observation, 1.0))
    found, sight = lines_of_sight(problem, threshold=1e-3)
    assert sight.all()
    assert_allclose(found, offsets, atol=0.02)
    assert not lines_of_sight(problem, threshold=1e9)[1].any()
    result = isac.OMP(grid_step_m=6.0).estimate(observation)
    assert_allclose(result.time_offsets_s, offsets / SPEED_OF_LIGHT_M_S, atol=1e-10)
    assert np.all(result.line_of_sight_probability == 1)


@pytest.mark.parametrize("wavefront", ["planar", "spherical"])
def test_better_than_least_squares_on_any_block(wavefront):
    changes = {"wavefront": wavefront, "carrier_hz": 300e6}
    for seed in range(2):
        simulation = SMALL.replace(snr_db=5.0, **changes).simulate(seed)
        result = isac.OMP(grid_step_m=3.0, max_points=20).estimate(simulation.observation)
        plain = isac.LeastSquares().estimate(simulation.observation)
        truth = simulation.truth.channel
        assert channel_nmse_db(result.channel, truth) < channel_nmse_db(plain.channel, truth) - 3
        assert_no_nan(result)
        assert len(result.scatterer_positions_m) <= 20
        assert np.array_equal(result.user_positions_m, simulation.observation.user_positions_m)
        steps = np.diag(LocationGrid.of_step(REGION_M, 3.0).step_m ** 2 / 12)
        least = np.linalg.eigvalsh(result.scatterer_covariance_m2 - steps)
        assert least.min() > -1e-6  # the width of a cell is part of the reported uncertainty


def test_fewer_points_where_fewer_are_allowed_and_none_in_noise():
    simulation = SMALL.simulate(1)
    few = isac.OMP(grid_step_m=4.0, max_points=2).estimate(simulation.observation)
    assert len(few.scatterer_positions_m) == 2
    rng = np.random.default_rng(0)
    observation, _ = block_with_points(np.zeros((0, 3)), 0.0, noise_std=1.0)
    object.__setattr__(observation, "received", complex_normal(rng, observation.received.shape))
    nothing = isac.OMP(grid_step_m=4.0).estimate(observation)
    assert len(nothing.scatterer_positions_m) <= 1
    assert_no_nan(nothing)


def test_the_default_grid_has_half_a_resolution_cell():
    observation = SMALL.simulate(0).observation
    problem = Problem.on_pilots(observation, ReceivedBlock.of(observation, 1.0))
    grid = isac.OMP()._grid(problem)
    assert grid.step_m.max() <= 0.5 * problem.length_cell_m + 1e-9
    assert grid.step_m.max() > 0.4 * problem.length_cell_m


def test_echoes_without_a_line_of_sight():
    simulation = isac.Scenario.load("monostatic_echo").simulate(0)
    result = isac.OMP(grid_step_m=4.0, max_points=20).estimate(simulation.observation)
    assert_no_nan(result)
    assert not result.line_of_sight_probability.any() and not result.time_offsets_s.any()
    assert len(result.scatterer_positions_m) > 0
