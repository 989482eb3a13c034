"""Matched filter, false alarms and Newtonised OMP."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from numpy.testing import assert_allclose
from small_scenes import BS_M, REGION_M, SMALL, complex_normal, dense_atoms

import isac_toolbox as isac
from isac_toolbox.channel.array import SPEED_OF_LIGHT_M_S
from isac_toolbox.channel.atoms.dense import Measurements
from isac_toolbox.channel.atoms.receiver import Receiver
from isac_toolbox.channel.atoms.scene import Paths, Scene, ScenePrior
from isac_toolbox.estimators.coarse import nomp as coarse_nomp
from isac_toolbox.estimators.coarse.nomp import newtonised_omp
from isac_toolbox.estimators.scene.problem import Problem
from isac_toolbox.estimators.search import PathSearch
from isac_toolbox.estimators.symbols.statistics import SymbolMoments, data_statistics

N_SUB = 24
SPACING_HZ = 4e6


def receiver(shape=(6, 4), spacing=(0.5, 0.6), n_sub=N_SUB) -> Receiver:
    frequencies = (np.arange(n_sub) - (n_sub - 1) / 2) * SPACING_HZ
    return Receiver(isac.UniformPlanarArray(shape, spacing, 0.2, -0.1), BS_M, frequencies)


def path_search(**kwargs) -> PathSearch:
    return PathSearch(receiver(**kwargs), 40.0, 100.0)


def atoms_of(receiver: Receiver, user, parameters) -> np.ndarray:
    """Free-path atoms (L, 2, N, M) of two users."""
    user = np.asarray(user)
    scene = Scene(np.zeros((0, 3)), np.full((2, 3), 50.0), np.zeros(2), np.asarray(parameters, float))
    paths = Paths.build(np.zeros(2, bool), np.zeros((2, 0), bool), user)
    return dense_atoms(receiver, scene, paths)


def two_user_problem(receiver: Receiver, channel: np.ndarray, noise_variance: float, rng) -> Problem:
    """Problem on two orthogonal pilot symbols over a channel (2, N, M)."""
    pilots = np.broadcast_to(np.array([[1, 1], [1, -1]], complex)[:, None, :], (2, channel.shape[1], 2))
    received = np.einsum("knm,knt->nmt", channel, pilots)
    received = received + np.sqrt(noise_variance) * complex_normal(rng, received.shape)
    statistics = data_statistics(received, SymbolMoments(pilots, np.zeros(pilots.shape)))
    prior = ScenePrior(np.array([[50.0, 0.0, 1.5], [60.0, 10.0, 1.5]]), np.full((2, 3), 0.3), np.full(2, 1.5))
    return Problem(Measurements(statistics, receiver), prior, REGION_M, noise_precision=1.0)


# --- matched filter ----------------------------------------------------------------------------------


def test_spectrum_is_the_matched_filter_on_the_grid():
    search = path_search()
    rng = np.random.default_rng(0)
    residual = complex_normal(rng, (N_SUB, 24))
    spectrum = search.spectrum(residual, energy=7.0)
    u_h, u_v = search.cosine_grids
    assert spectrum.shape == (search.lengths_m.size, u_h.size, u_v.size)
    for i in rng.integers(0, search.lengths_m.size, 6):
        for h in range(u_h.size):
            for v in range(u_v.size):
                atom = atoms_of(search.receiver, [0], [[search.lengths_m[i], u_h[h], u_v[v]]])[0, 0]
                power = np.abs(np.vdot(atom, residual)) ** 2 / 7.0
                if u_h[h] ** 2 + u_v[v] ** 2 <= 1:
                    assert spectrum[i, h, v] == pytest.approx(power, rel=1e-9)
                else:  # invisible directions count only as a margin
                    assert spectrum[i, h, v] == 0 or spectrum[i, h, v] == pytest.approx(power, rel=1e-9)


def test_grid_covers_the_window_twice_oversampled():
    search = path_search()
    cell = SPEED_OF_LIGHT_M_S / (N_SUB * SPACING_HZ)
    lengths = search.lengths_m
    assert lengths[0] == 40.0 and lengths[-1] == pytest.approx(100.0, abs=cell / 2)
    assert_allclose(np.diff(lengths), cell / 2)
    wide = PathSearch(search.receiver, 0.0, 1e6)
    assert np.ptp(wide.lengths_m) < SPEED_OF_LIGHT_M_S / SPACING_HZ


def test_window_holds_every_single_bounce_and_line_of_sight():
    for seed in range(5):
        simulation = SMALL.simulate(seed)
        search = PathSearch.for_observation(simulation.observation)
        truth = simulation.truth
        bs = simulation.observation.bs_position_m
        offsets = SPEED_OF_LIGHT_M_S * truth.time_offsets_s
        direct = np.linalg.norm(truth.user_positions_m - bs, axis=1) + offsets
        to_bs = np.linalg.norm(truth.scatterer_positions_m - bs, axis=1)
        to_user = np.linalg.norm(truth.user_positions_m[:, None] - truth.scatterer_positions_m, axis=2)
        lengths = np.concatenate([direct, (to_user + to_bs + offsets[:, None]).ravel()])
        assert np.all(lengths > search.min_length_m) and np.all(lengths < search.max_length_m)


@pytest.mark.parametrize("seed", range(5))
def test_a_single_path_is_found_within_half_a_cell(seed):
    search = path_search()
    rng = np.random.default_rng(seed)
    true = np.array([rng.uniform(45, 95), rng.uniform(-0.8, 0.8), rng.uniform(-0.5, 0.5)])
    residual = np.zeros((2, N_SUB, 24), complex)
    residual[1] = 3j * atoms_of(search.receiver, [0], [true])[0, 0]
    residual += 0.3 * complex_normal(rng, residual.shape)
    energies = np.full(2, float(N_SUB * 24))
    found, user, level = search.detect(residual, energies, 1e-3, np.full(2, 5))
    assert user.tolist() == [1]
    array = search.receiver.array
    cells = [SPEED_OF_LIGHT_M_S / (N_SUB * SPACING_HZ), *1 / (np.array(array.shape) * array.spacings)]
    assert np.all(np.abs(found[0] - true) <= 0.5 * np.array(cells))
    assert level == pytest.approx(0.09, rel=1.0)


def test_room_limits_and_orders_what_is_found():
    search = path_search()
    parameters = [[50.0, 0.5, 0.2], [70.0, -0.5, -0.3], [90.0, 0.0, 0.1]]
    gains = np.array([1.0, 1.5, 1.2])
    residual = np.zeros((2, N_SUB, 24), complex)
    residual[0] = np.tensordot(gains, atoms_of(search.receiver, [0] * 3, parameters)[:, 0], 1)
    residual += 1e-3 * complex_normal(np.random.default_rng(0), residual.shape)
    energies = np.full(2, float(N_SUB * 24))
    found, user, _ = search.detect(residual, energies, 1e-3, np.array([2, 5]), noise_level=1e-2)
    assert user.tolist() == [0, 0]
    assert_allclose(found[:, 0], [70.0, 90.0], atol=1.6)
    nothing, user, _ = search.detect(residual, energies, 1e-3, np.array([0, 0]))
    assert nothing.shape == (0, 3) and user.size == 0


def test_false_alarms_on_pure_noise():
    """Nominal rate 10 %: at most about that, and not absurdly rarer."""
    search = path_search()
    rng = np.random.default_rng(0)
    trials, rate = 300, 0.1
    energy = float(N_SUB * 24)
    alarms = 0
    for _ in range(trials):
        # pilots of unit symbol energy: the correlation Z of pure noise has the noise's own variance
        spectrum = search.spectrum(np.sqrt(0.5) * complex_normal(rng, (N_SUB, 24)), energy)
        level = search.noise_level(spectrum)
        assert level == pytest.approx(0.5, rel=0.5)
        alarms += len(search.peaks(spectrum, search.threshold(level, rate))) > 0
    assert 0.01 * trials < alarms < 2 * rate * trials


def test_the_noise_floor_raises_the_threshold():
    search = path_search()
    rng = np.random.default_rng(0)
    noise = complex_normal(rng, (1, N_SUB, 24))
    energies = np.array([float(N_SUB * 24)])
    many, _, level = search.detect(noise, energies, 0.5, np.array([100]), noise_level=0.1)
    assert len(many) and level == 0.1
    none, _, level = search.detect(noise, energies, 0.5, np.array([100]), noise_level=0.1, noise_floor=5.0)
    assert len(none) == 0 and level == 5.0


# --- Newtonised OMP ----------------------------------------------------------------------------------

TRUE_USER = np.array([0, 0, 0, 1, 1])
TRUE_PATHS = np.array(
    [[50.0, 0.6, 0.3], [63.0, -0.4, -0.35], [80.0, 0.05, 0.15], [55.0, -0.6, 0.3], [75.0, 0.3, -0.2]]
)


def nomp_run(seed: int, snr_db: float = 20.0):
    rng = np.random.default_rng(seed)
    own = receiver()
    gains = rng.uniform(0.7, 1.3, 5) * np.exp(2j * np.pi * rng.random(5))
    parameters = TRUE_PATHS + rng.uniform(-0.05, 0.05, TRUE_PATHS.shape) * [10, 1, 1]
    atoms = atoms_of(own, TRUE_USER, parameters)
    channel = np.tensordot(gains, atoms, 1)
    noise_variance = float(np.mean(np.abs(channel) ** 2)) / 10 ** (snr_db / 10)
    problem = two_user_problem(own, channel, noise_variance, rng)
    found, fit = newtonised_omp(problem, PathSearch(own, 40.0, 100.0))
    estimate = np.tensordot(fit.posterior.mean, dense_atoms(own, fit.scene, fit.paths), 1)
    nmse = np.sum(np.abs(estimate - channel) ** 2) / np.sum(np.abs(channel) ** 2)
    bound = 5 * 5 / 2 * noise_variance / 2 / np.sum(np.abs(channel) ** 2)  # 5 real parameters each, 2 pilots
    return fit, parameters, found, noise_variance, nmse / bound


def test_nomp_finds_the_true_paths_at_the_bound():
    ratios, exact = [], 0
    for seed in range(8):
        fit, parameters, problem, noise_variance, ratio = nomp_run(seed)
        ratios.append(ratio)
        exact += len(fit.paths) == 5
        for k in (0, 1):
            found = fit.scene.free_m[fit.paths.free[fit.paths.user == k]]
            for true in parameters[k == TRUE_USER]:
                error = np.abs(found - true) / [3.1, 0.33, 0.42]  # in resolution cells
                assert error.max(axis=1).min() < 0.05
        assert 1 / problem.noise_precision == pytest.approx(noise_variance, rel=0.3)
    assert exact >= 7  # a false path per hundred searches is allowed
    assert 0.6 < np.mean(ratios) < 1.5


def test_users_fitted_apart_have_the_paths_of_a_joint_fit(monkeypatch):
    together = nomp_run(0)[0]
    monkeypatch.setattr(coarse_nomp, "_FEW_USERS", 1)
    apart = nomp_run(0)[0]
    assert np.array_equal(apart.paths.user, np.sort(together.paths.user))
    for k in (0, 1):
        found, other = (f.scene.free_m[f.paths.free[f.paths.user == k]] for f in (apart, together))
        assert_allclose(found[np.argsort(found[:, 0])], other[np.argsort(other[:, 0])], atol=1e-4)


def test_nomp_keeps_a_known_noise_level():
    own = receiver()
    rng = np.random.default_rng(0)
    channel = np.tensordot(np.ones(5), atoms_of(own, TRUE_USER, TRUE_PATHS), 1)
    problem = replace(two_user_problem(own, channel, 0.01, rng), noise_precision=100.0, noise_known=True)
    found, fit = newtonised_omp(problem, PathSearch(own, 40.0, 100.0))
    assert found.noise_precision == 100.0 and len(fit.paths) == 5


def test_nomp_respects_its_limits():
    own = receiver()
    channel = np.tensordot(np.ones(5), atoms_of(own, TRUE_USER, TRUE_PATHS), 1)
    problem = two_user_problem(own, channel, 1e-3, np.random.default_rng(0))
    search = PathSearch(own, 40.0, 100.0)
    _, fit = newtonised_omp(problem, search, max_paths_per_user=1)
    assert np.bincount(fit.paths.user).tolist() == [1, 1]
    _, fit = newtonised_omp(problem, search, max_rounds=1)
    assert len(fit.paths) <= 5
