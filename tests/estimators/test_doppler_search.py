"""The search for paths over Doppler shifts as well."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.testing import assert_allclose

from helpers.moving import SMALL_MOVING
from isac_toolbox.channel.atoms.frames import Frames
from isac_toolbox.estimators.doppler_search import DopplerSearch, ShiftedSpectrum
from isac_toolbox.estimators.search import PathSearch

OBS = SMALL_MOVING.replace(n_users=2).simulate(0).observation
SEARCH = PathSearch.for_observation(OBS)
TIMES_S = np.linspace(-4e-4, 4e-4, 9)
MEAN_HZ = np.array([300.0, -150.0])
N_SUB, N_ELEMENTS = len(OBS.subcarrier_frequencies_hz), OBS.array.n_elements


def over(stds_hz=(600.0, 600.0), steps: int = 4) -> DopplerSearch:
    return DopplerSearch.over(SEARCH, np.array(stds_hz), TIMES_S, steps)


def path_atom(search: PathSearch, bins: tuple[int, int, int]) -> np.ndarray:
    """Response (N, M) of a path in the middle of a bin."""
    g, h, v = bins
    u_h, u_v = search.cosine_grids
    delay = search.responses(np.array([g]))[:, 0]
    steering = search.receiver.array.steering_from_cosines(u_h[[h]], u_v[[v]])[0]
    return np.multiply.outer(delay, steering)


def frames_of(residual: np.ndarray) -> Frames:
    """Frames of correlations (K, N, Q, M)."""
    gram = np.ones((TIMES_S.size, N_SUB, 2, 2), complex)
    return Frames(TIMES_S, gram, residual, MEAN_HZ)


def in_one(residual: np.ndarray):
    return [(slice(0, TIMES_S.size), residual)]


def noise(seed: int = 0) -> np.ndarray:
    shape = (2, N_SUB, TIMES_S.size, N_ELEMENTS)
    rng = np.random.default_rng(seed)
    return (rng.standard_normal(shape) + 1j * rng.standard_normal(shape)) / np.sqrt(2)


def test_trials_reach_four_deviations_and_resolve_the_span():
    search = over((100.0, 600.0))
    assert search.shifts_hz[0] == -2400.0 and search.shifts_hz[-1] == 2400.0
    assert np.diff(search.shifts_hz).max() <= 1 / (4 * np.ptp(TIMES_S)) + 1e-9
    assert 0.0 in search.shifts_hz
    assert over((0.0, 0.0)).shifts_hz.tolist() == [0.0]
    assert DopplerSearch.over(SEARCH, np.array([1e9]), TIMES_S).shifts_hz.size <= 513


def test_a_spectrum_is_the_highest_of_those_of_residuals_turned_back():
    """Brute force: one user after another, one shift after another, in double precision."""
    search, residual = over(), noise()
    energies = np.array([3.0, 5.0])
    found = search.spectra_over_time(in_one(residual), frames_of(residual), energies)
    for k, spectrum in enumerate(found):
        each, tops = [], []
        for shift in search.shifts_hz:
            turned = residual[k] * np.exp(-2j * np.pi * (shift - MEAN_HZ[k]) * TIMES_S)[:, None]
            power = search.spectrum(turned.sum(axis=1), energies[k])
            tops.append(power.max())  # before the prior
            each.append(power - 0.5 * spectrum.noise_level * (shift / 600.0) ** 2)
        assert_allclose(spectrum.power, np.max(each, axis=0), atol=1e-4 * np.max(each))
        best = np.take_along_axis(np.array(each), spectrum.shift[None].astype(int), 0)[0]
        assert_allclose(best, np.max(each, axis=0), atol=1e-4 * np.max(each))
        assert_allclose(spectrum.tops[:, 0], tops, atol=1e-4 * max(tops))


@pytest.mark.parametrize("step", [1, 4, 20])
def test_residuals_in_parts_are_those_in_one(step):
    search, residual, energies = over(), noise(1), np.ones(2)
    frames = frames_of(residual)
    parts = [(slice(i, i + step), residual[:, :, i : i + step]) for i in range(0, TIMES_S.size, step)]
    found = search.spectra_over_time(parts, frames, energies)
    for one, other in zip(found, search.spectra_over_time(in_one(residual), frames, energies), strict=True):
        assert_allclose(one.power, other.power, atol=1e-4 * other.power.max())
        assert_allclose(one.noise_level, other.noise_level, rtol=1e-4)


def test_paths_are_found_with_their_shifts():
    search = over()
    bins = [(4, 2, 1), (9, 1, 3)]
    index = [search.shifts_hz.size // 2 + 3, search.shifts_hz.size // 2 - 2]
    residual = 1e-3 * noise(2)
    for k, (where, i) in enumerate(zip(bins, index, strict=True)):
        turn = np.exp(2j * np.pi * (search.shifts_hz[i] - MEAN_HZ[k]) * TIMES_S)
        residual[k] += path_atom(search, where)[:, None] * turn[:, None]
    energy = float(N_SUB * N_ELEMENTS * TIMES_S.size)
    spectra = search.spectra_over_time(in_one(residual), frames_of(residual), np.full(2, energy))
    found, user, _ = search.detect_in(spectra, 0.01, np.ones(2, int))
    assert user.tolist() == [0, 1]
    u_h, u_v = search.cosine_grids
    expected = [[search.lengths_m[g], u_h[h], u_v[v]] for g, h, v in bins]
    assert_allclose(found, expected, atol=1e-9)
    assert_allclose(search.shifts_at(spectra, found, user), search.shifts_hz[index])
    assert_allclose(search.power_at(spectra, found, user), energy, rtol=0.01)


def test_a_spectrum_without_shifts_has_none():
    search = over()
    still = SEARCH.spectra(noise().sum(axis=2), np.ones(2))
    assert not isinstance(still[0], ShiftedSpectrum)
    paths = np.column_stack([SEARCH.lengths_m[[3, 4]], np.zeros((2, 2))])
    assert search.shifts_at(still, paths, np.array([0, 1])).tolist() == [search.shifts_hz[0]] * 2


def test_more_shifts_need_more_power():
    few, many = over((100.0, 100.0)), over((5000.0, 5000.0))
    assert SEARCH.threshold(1.0, 0.01) <= few.threshold(1.0, 0.01) < many.threshold(1.0, 0.01)
    cells = many.shifts_hz.size / 2
    assert many.threshold(2.0, 0.01) - SEARCH.threshold(2.0, 0.01) == pytest.approx(2 * np.log(cells))
