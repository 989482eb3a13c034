"""Two far bands: paths find their lobes, and none is left that only makes up for another."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

import isac_toolbox as isac
from isac_toolbox.channel.atoms.scene import Scene
from isac_toolbox.estimators.coarse.lobes import fit_unlocated, without_companions
from isac_toolbox.estimators.coarse.nomp import newtonised_omp
from isac_toolbox.estimators.scene.fit import Fit
from isac_toolbox.estimators.scene.problem import Problem
from isac_toolbox.estimators.scene.refine import refine
from isac_toolbox.estimators.search import PathSearch
from isac_toolbox.estimators.symbols.block import ReceivedBlock
from isac_toolbox.scenario import Simulation

KEPT = np.r_[0:32, 160:192]
PRICE = 15.0


def two_bands(seed: int) -> Simulation:
    """Two bands of 48 MHz whose centres are 240 MHz apart, three users, 20 dB."""
    simulation = isac.Scenario.load("urban_uplink").replace(n_subcarriers=192, snr_db=20).simulate(seed)
    observation, truth = simulation.observation, simulation.truth
    observation = replace(
        observation,
        received=observation.received[KEPT],
        pilots=observation.pilots[:, KEPT],
        pilot_mask=observation.pilot_mask[..., KEPT, :],
        subcarrier_frequencies_hz=observation.subcarrier_frequencies_hz[KEPT],
    )
    truth = replace(
        truth,
        channel=truth.channel[:, KEPT],
        symbols=truth.symbols[:, KEPT],
        symbol_indices=truth.symbol_indices[:, KEPT],
    )
    return Simulation(observation, truth)


def problem_and_search(seed: int) -> tuple[Problem, PathSearch]:
    observation = two_bands(seed).observation
    problem = Problem.on_pilots(observation, ReceivedBlock.of(observation))
    return problem, PathSearch.for_observation(observation)


@pytest.mark.parametrize("seed", [2, 3, 15, 21, 22])
def test_as_many_paths_as_there_are(seed):
    """Some of these blocks once ended with a dozen paths too many, and false points at 0.97."""
    problem, search = problem_and_search(seed)
    truth = two_bands(seed).truth
    _, fit = newtonised_omp(problem, search)
    assert abs(len(fit.paths) - int(truth.visibility.sum() + truth.line_of_sight.sum())) <= 1


def fit_of(problem: Problem, parameters, user) -> Fit:
    scene = Scene(np.zeros((0, 3)), problem.prior.users_m, np.zeros(3), np.asarray(parameters, float))
    return refine(fit_unlocated(problem, scene, np.asarray(user)), n_steps=8)


def test_a_twin_goes_and_a_second_path_stays():
    """A path of a noise-free block on the wrong lobe with a twin becomes one; two true paths stay two."""
    problem, search = problem_and_search(0)
    problem = replace(problem, noise_precision=1e4)
    true = fit_of(problem, [[90.0, 0.2, 0.1], [93.0, 0.2, 0.1]], [0, 0])
    for present, expected in ((1, 1), (2, 2)):
        gains = np.zeros(2, complex)
        gains[:present] = (3.0, 1.0 + 2.0j)[:present]
        channel = true.atoms.synthesise(gains, 3)
        gram = problem.statistics.symbol_gram
        correlation = np.matmul(gram, channel.transpose(1, 0, 2)).transpose(1, 0, 2)
        statistics = replace(problem.statistics, cross_correlation=correlation)
        at = true.scene.unlocated_m
        clean = problem.with_statistics(statistics)
        start = at.copy() if present == 2 else at[0] + np.array([[1.3, 0, 0], [-1.2, 0, 0]])
        left = without_companions(fit_of(clean, start, [0, 0]), search, PRICE)
        assert len(left.paths) == expected
        if present == 1:
            np.testing.assert_allclose(left.scene.unlocated_m[0], at[0], atol=1e-3)


@pytest.mark.parametrize("seed", [2, 3, 15])
def test_two_bands_reach_the_bound(seed):
    simulation = two_bands(seed)
    result = isac.EMTurboBiSVBI().estimate(simulation.observation)
    found = isac.metrics.localisation(result.scatterer_positions_m, simulation.truth.scatterer_positions_m)
    assert (found.misses, found.false_alarms) == (0, 0)
    nmse_db = isac.metrics.channel_nmse_db(result.channel, simulation.truth.channel)
    assert nmse_db < isac.bounds.hybrid_crb(simulation).channel_nmse_db + 3
    assert any("far blocks" in text for text in result.warnings)


def test_noise_in_far_bands_is_no_diffuse_part():
    """Lengths a lobe apart have the same noise, so a window of them is fewer draws than a full band's."""
    problem, search = problem_and_search(0)
    rng = np.random.default_rng(0)
    shape = problem.statistics.cross_correlation.shape
    for _ in range(60):
        noise = rng.standard_normal((*shape, 2)) @ [1, 1j]
        assert not search.shows_diffuse(search.spectra(noise, problem.user_energies))
