"""Matched filter, and false alarms."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from numpy.testing import assert_allclose

from helpers.paths import N_SUB, SPACING_HZ, atoms_of, receiver
from helpers.scenes import SMALL, complex_normal
from isac_toolbox.channel.array import SPEED_OF_LIGHT_M_S, UniformPlanarArray
from isac_toolbox.estimators.search import PathSearch


def path_search(**kwargs) -> PathSearch:
    return PathSearch(receiver(**kwargs), 40.0, 100.0)


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


@pytest.mark.parametrize("shape", [(6, 1), (1, 6), (1, 1), (6, 4)])
def test_directions_of_linear_arrays_are_those_of_the_seen_axis(shape):
    """One bin at zero for a cosine that is not seen; every bin within one of the seen axis is a direction."""
    known = replace(receiver(), array=UniformPlanarArray(shape))
    search = PathSearch(known, 40.0, 100.0)
    for n, grid in zip(shape, search.cosine_grids, strict=True):
        assert grid.size == (2 * n if n > 1 else 1)
        assert n > 1 or grid[0] == 0
    if 1 in shape:
        assert search._visible.all()  # spacing of half a wavelength
    rng = np.random.default_rng(0)
    residual = complex_normal(rng, (N_SUB, shape[0] * shape[1]))
    spectrum = search.spectrum(residual, energy=1.0)
    assert spectrum.shape == (search.lengths_m.size, *(g.size for g in search.cosine_grids))
    found = search.peaks(spectrum, 0.0)
    assert len(found)
