"""Subspaces, projection and location spectrum of MUSIC."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.testing import assert_allclose

import isac_toolbox as isac
from helpers.scenes import SMALL, on_subcarriers, with_arguments
from isac_toolbox.channel.array import SPEED_OF_LIGHT_M_S
from isac_toolbox.channel.geometry import unit_vectors
from isac_toolbox.estimators import music
from isac_toolbox.estimators.coarse.music import music_points, music_scene
from isac_toolbox.estimators.music import MusicModel, music_spectrum

URBAN = isac.Scenario(n_pilot_symbols=4, n_data_symbols=0, snr_db=30.0)


def few_paths(seed: int = 0, snr_db: float = 90.0, **changes) -> isac.Simulation:
    scenario = URBAN.replace(
        n_users=2, n_scatterers=3, min_separation_m=12.0, min_excess_path_m=8.0, snr_db=snr_db, **changes
    )
    return scenario.simulate(seed)


def true_paths(simulation: isac.Simulation, user: int) -> tuple[np.ndarray, np.ndarray]:
    """Observed lengths (P,) and directions (P, 3) of a user's line of sight and bounces."""
    observation, truth = simulation.observation, simulation.truth
    seen = truth.scatterer_positions_m[truth.visibility[user]]
    targets = np.vstack([truth.user_positions_m[user], seen])
    direction, to_bs = unit_vectors(observation.bs_position_m, targets)
    to_user = np.linalg.norm(targets - truth.user_positions_m[user], axis=1)
    return to_bs + to_user + SPEED_OF_LIGHT_M_S * truth.time_offsets_s[user], direction


@pytest.mark.parametrize("seed", range(4))
def test_order_of_the_subspaces_is_the_number_of_paths(seed):
    simulation = few_paths(seed)
    model = MusicModel.from_observation(simulation.observation)
    truth = simulation.truth
    n_paths = 1 + truth.visibility.sum(axis=1)
    assert [basis.shape[2] for basis in model.subspaces] == n_paths.tolist()
    for basis in model.subspaces:
        flat = basis.reshape(-1, basis.shape[2])
        assert_allclose(flat.conj().T @ flat, np.eye(basis.shape[2]), atol=1e-8)


@pytest.mark.parametrize("seed", range(4))
def test_atoms_of_the_true_paths_lie_inside(seed):
    simulation = few_paths(seed)
    model = MusicModel.from_observation(simulation.observation)
    for k in range(2):
        assert np.all(model.projection(k, *true_paths(simulation, k)) > 0.9999)


def test_projection_is_a_share_and_independent_of_the_blocks(monkeypatch):
    simulation = few_paths(0, snr_db=10.0)
    model = MusicModel.from_observation(simulation.observation)
    rng = np.random.default_rng(0)
    directions = rng.standard_normal((1100, 3))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    lengths = rng.uniform(30, 150, 1100)
    share = model.projection(0, lengths, directions)
    assert np.all((share >= 0) & (share <= 1))
    for size in (1, 7, 2000):
        monkeypatch.setattr(music, "_BLOCK_POINTS", size)
        assert_allclose(model.projection(0, lengths, directions), share, rtol=1e-12, atol=1e-15)
    assert model.projection(0, np.zeros(0), np.zeros((0, 3))).shape == (0,)


def test_projection_by_brute_force():
    simulation = few_paths(1, snr_db=10.0)
    model = MusicModel.from_observation(simulation.observation)
    lengths, directions = true_paths(simulation, 1)
    share = model.projection(1, lengths, directions)
    basis = model.subspaces[1]
    for length, direction, value in zip(lengths, directions, share, strict=True):
        atom = np.outer(np.exp(-1j * model.wavenumbers_per_m * length), model.array.steering(direction))
        inside = np.tensordot(basis.conj(), atom, axes=([0, 1], [0, 1]))
        assert value == pytest.approx(np.sum(np.abs(inside) ** 2) / atom.size, rel=1e-9)


def test_location_spectrum_peaks_at_the_scatterers():
    simulation = few_paths(0, snr_db=20.0, user_position_std_m=0.0)
    truth = simulation.truth
    points = truth.scatterer_positions_m
    at_truth = music_spectrum(simulation.observation, points)
    assert at_truth.shape == (len(points),)
    rng = np.random.default_rng(0)
    elsewhere = rng.uniform(*simulation.observation.region_m, (500, 3))
    distance = np.linalg.norm(elsewhere[:, None] - points, axis=2).min(axis=1)
    assert at_truth.min() > np.quantile(music_spectrum(simulation.observation, elsewhere[distance > 5]), 0.99)


def test_shape_of_the_spectrum_follows_the_points():
    observation = few_paths(0, 10.0).observation
    grid = np.random.default_rng(0).uniform(*observation.region_m, (2, 3, 4, 3))
    values = music_spectrum(observation, grid)
    assert values.shape == (2, 3, 4) and np.all(np.isfinite(values))
    assert_allclose(values[1, 2, 3], music_spectrum(observation, grid[1, 2, 3]))
    assert music_spectrum(observation, np.zeros((0, 3))).shape == (0,)
    broad = music_spectrum(observation, grid, floor=0.5)
    assert np.all(broad <= values + 1e-12)


@pytest.mark.parametrize("snr_db", [10.0, 20.0])
def test_peaks_are_near_the_scatterers(snr_db):
    found = total = 0
    for seed in range(2):
        simulation = URBAN.replace(snr_db=snr_db).simulate(seed)
        observation = simulation.observation
        points = music_points(MusicModel.from_observation(observation), observation.region_m)
        assert np.all(points >= observation.region_m[0]) and np.all(points <= observation.region_m[1])
        score = isac.metrics.localisation(points, simulation.truth.scatterer_positions_m, 2.0)
        found, total = found + score.hits, total + score.hits + score.misses
    assert found >= 0.8 * total


def test_decimation_leaves_the_peaks(monkeypatch):
    """A narrow subcarrier spacing is thinned out; the peaks stay where they are."""
    simulation = few_paths(0, 25.0, n_subcarriers=128, subcarrier_spacing_hz=0.75e6)
    observation = simulation.observation
    thinned = MusicModel.from_observation(observation)
    monkeypatch.setattr(music, "_decimation", lambda *_: 1)
    full = MusicModel.from_observation(observation)
    assert thinned.wavenumbers_per_m.size < full.wavenumbers_per_m.size
    truth = simulation.truth.scatterer_positions_m
    for model in (thinned, full):
        score = isac.metrics.localisation(music_points(model, observation.region_m), truth, 2.0)
        assert score.misses == 0


def test_clocks_come_from_the_line_of_sight():
    for seed in range(3):
        simulation = few_paths(seed, 30.0)
        scene = music_scene(
            MusicModel.from_observation(simulation.observation), simulation.observation.region_m
        )
        offsets = SPEED_OF_LIGHT_M_S * simulation.truth.time_offsets_s
        assert np.abs(scene.offsets_m - offsets).max() < 1.5  # the users' own error included
        assert np.array_equal(scene.users_m, simulation.observation.user_positions_m)
    known = few_paths(0, 30.0, time_offset_std_s=0.0)
    assert not MusicModel.from_observation(known.observation).offsets_m.any()


def test_noise_alone_and_tiny_blocks_have_a_spectrum():
    rng = np.random.default_rng(0)
    observation = SMALL.simulate(0).observation
    noise = rng.standard_normal(observation.received.shape) + 0j
    values = music_spectrum(with_arguments(observation, received=noise), [[50.0, 0.0, 5.0]])
    assert np.all(np.isfinite(values))
    tiny = isac.Scenario(
        array_shape=(2, 1), n_subcarriers=2, n_users=1, n_pilot_symbols=1, n_data_symbols=0, n_scatterers=1
    )
    assert np.all(np.isfinite(music_spectrum(tiny.simulate(0).observation, [[50.0, 0.0, 5.0]])))


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"points_m": [1.0, 2.0]}, ValueError, r"points_m must have shape \(\.\.\., 3\)"),
        ({"points_m": 1.0}, ValueError, "points_m"),
        ({"points_m": [[np.nan, 0.0, 0.0]]}, ValueError, "points_m must be finite"),
        ({"points_m": ["a", "b", "c"]}, TypeError, "points_m"),
        ({"points_m": [[1j, 0, 0]]}, TypeError, "points_m"),
        ({"floor": 0.0}, ValueError, "floor must be a positive"),
        ({"floor": -1.0}, ValueError, "floor must be a positive"),
        ({"floor": np.nan}, ValueError, "floor must be a positive"),
    ],
)
def test_bad_arguments_of_the_spectrum(arguments, error, message):
    observation = SMALL.simulate(0).observation
    with pytest.raises(error, match=message):
        music_spectrum(observation, **{"points_m": [[50.0, 0.0, 5.0]], **arguments})


#: 1024 subcarriers over 96 MHz, of which blocks take 64.
FINE = URBAN.replace(n_subcarriers=1024, subcarrier_spacing_hz=93.75e3, n_pilot_symbols=3, snr_db=15.0)
EVEN = np.arange(0, 1024, 16)
UNEVEN = {
    "no dc": np.delete(EVEN, 32),
    "guards and resource blocks": np.delete(EVEN, [0, 1, 20, 21, 22, 32, 45, 46, 63]),
    "any order": np.random.default_rng(0).permutation(np.delete(EVEN, [5, 32])),
    "irregular": EVEN + np.random.default_rng(1).integers(0, 16, 64),
}


def found_and_nmse(simulation: isac.Simulation, index: np.ndarray) -> tuple[int, float]:
    """Scatterers within 2 m of a peak, and the channel's error after MUSIC-SCVBI, in dB."""
    observation = on_subcarriers(simulation.observation, index)
    points = music_points(MusicModel.from_observation(observation), observation.region_m)
    result = isac.MusicSCVBI().estimate(observation)
    hits = isac.metrics.localisation(points, simulation.truth.scatterer_positions_m, 2.0).hits
    return hits, isac.metrics.channel_nmse_db(result.channel, simulation.truth.channel[:, index])


@pytest.mark.parametrize("index", UNEVEN.values(), ids=UNEVEN)
def test_uneven_subcarriers_are_nearly_as_good_as_even_ones(index):
    blocks = [FINE.simulate(seed) for seed in range(3)]
    even, uneven = (np.array([found_and_nmse(s, i) for s in blocks]) for i in (EVEN, index))
    assert uneven[:, 0].sum() >= even[:, 0].sum() - 1
    assert np.mean(uneven[:, 1]) <= np.mean(even[:, 1]) + 4.0  # a point more or less is decibels
    for simulation in blocks:
        observation = on_subcarriers(simulation.observation, index)
        joint, by_paths = (
            isac.EMTurboBiSVBI(coarse=stage).estimate(observation) for stage in ("music", "nomp")
        )
        error, reference = (
            isac.metrics.channel_nmse_db(r.channel, simulation.truth.channel[:, index])
            for r in (joint, by_paths)
        )
        assert error <= reference + 0.5


def test_order_of_the_subcarriers_changes_no_spectrum():
    simulation = few_paths(0, 30.0)
    observation = simulation.observation
    points = simulation.truth.scatterer_positions_m
    plain = music_spectrum(observation, points)
    order = np.random.default_rng(0).permutation(observation.n_subcarriers)
    for index in (np.arange(observation.n_subcarriers)[::-1], order):
        assert_allclose(music_spectrum(on_subcarriers(observation, index), points), plain, rtol=1e-9)


def test_a_comb_is_as_good_as_all_subcarriers():
    """Its other subcarriers are holes: two users, one pilot symbol."""
    changes = {"n_users": 2, "n_pilot_symbols": 1, "n_subcarriers": 128, "subcarrier_spacing_hz": 0.75e6}
    missed = 0
    for seed in range(3):
        simulation = URBAN.replace(pilot_pattern="comb", snr_db=15.0, **changes).simulate(seed)
        points = music_points(
            MusicModel.from_observation(simulation.observation), simulation.observation.region_m
        )
        missed += isac.metrics.localisation(points, simulation.truth.scatterer_positions_m, 2.0).misses
    assert missed <= 2
