"""Clusters around paths: a Wiener filter over directions and delays, where paths crowd."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

import isac_toolbox as isac
from helpers.scenes import SMALL
from isac_toolbox.channel.atoms.scene import Paths, Scene
from isac_toolbox.estimators.bisvbi_loop import BiSVBILoop
from isac_toolbox.estimators.scene.clusters import _SPREAD_CELLS, Clusters, ClusterShape, crowding
from isac_toolbox.estimators.scene.fit import evaluate
from isac_toolbox.estimators.scene.problem import Problem
from isac_toolbox.estimators.search import PathSearch
from isac_toolbox.estimators.symbols.block import ReceivedBlock

CDL = isac.Scenario.load("urban_uplink").replace(
    n_users=2,
    n_subcarriers=64,
    subcarrier_spacing_hz=60e3,
    n_pilot_symbols=2,
    n_data_symbols=6,
    time_offset_std_s=1e-6,
    cdl="CDL-A",
)


def fit_of(problem, user, parameters):
    """The fit of unlocated paths (F, 3) of users (F,)."""
    n_users = len(problem.prior.users_m)
    scene = Scene(np.zeros((0, 3)), problem.prior.users_m, np.zeros(n_users), parameters)
    paths = Paths.build(np.zeros(n_users, bool), np.zeros((n_users, 0), bool), np.asarray(user))
    return evaluate(problem, scene, paths, np.ones(len(user)))


def small(pattern="orthogonal", mask=None):
    """A small block, its problem on the pilots, and the fit of five paths of its users."""
    scenario = SMALL.replace(n_subcarriers=16, array_shape=(3, 2), pilot_pattern=pattern, n_pilot_symbols=3)
    observation = scenario.simulate(0).observation
    if mask is not None:
        observation = replace(observation, element_mask=mask)
    block = ReceivedBlock.of(observation)
    problem = Problem.on_pilots(observation, block)
    rng, n_users = np.random.default_rng(3), observation.n_users
    user = np.arange(5) % n_users
    lengths = PathSearch.for_observation(observation).lengths_m
    parameters = np.column_stack([rng.choice(lengths, 5), rng.uniform(-0.6, 0.6, (5, 2))])
    return observation, block, problem, fit_of(problem, np.sort(user), parameters)


def powers(clusters, rng):
    """The same clusters under random powers."""
    size = clusters.user.size
    path, cluster = rng.exponential(size=size), 0.3 * rng.exponential(size=size)
    return replace(clusters, path_power=path, cluster_power=cluster, noise_variance=0.1)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("pattern", ["orthogonal", "comb"])
def test_the_filter_is_the_lmmse_estimate_under_the_powers(pattern, masked):
    """Against the brute-force estimate of every user's channel from its pilots, on all elements."""
    mask = np.array([True, True, False, True, True, True]) if masked else None
    observation, block, problem, fit = small(pattern, mask)
    heard = np.ones(6, bool) if mask is None else mask
    shape = ClusterShape.of(observation.array)
    begun = Clusters.start(fit, problem.statistics, shape, 0.1)
    clusters = powers(begun, np.random.default_rng(1))
    found = clusters.filtered(fit, problem.statistics, PathSearch.for_observation(observation))
    channel = fit.atoms.synthesise(fit.posterior.mean, observation.n_users) + found.mean
    spread = shape.factors.T @ shape.factors
    known = np.all(observation.known, axis=0)
    for k in range(observation.n_users):
        prior = np.zeros((16 * 6, 16 * 6), complex)
        for i in np.flatnonzero(clusters.user == k):
            over_array = clusters.path_power[i] + clusters.cluster_power[i] * spread
            over_array = over_array * np.outer(clusters.steering[i], clusters.steering[i].conj())
            delay = clusters.delay[:, i]
            prior += np.kron(np.outer(delay, delay.conj()), over_array)
        rows, samples = [], []
        for n, t in zip(*np.nonzero(known & (observation.pilots[k] != 0)), strict=True):
            for m in np.flatnonzero(heard):
                row = np.zeros((16, 6), complex)
                row[n, m] = observation.pilots[k, n, t]
                rows.append(row.ravel())
                own = [p for p in range(observation.n_users) if p != k]
                samples.append(block.received[n, m, t])
                assert pattern != "comb" or not np.any(observation.pilots[own, n, t])
        pilots = np.array(rows)
        if pattern == "orthogonal":  # the others are orthogonal over time: matched first
            pilots, samples = _matched(observation, block, k, heard)
        covariance = pilots @ prior @ pilots.conj().T + 0.1 * np.eye(len(pilots))
        gain = prior @ pilots.conj().T @ np.linalg.inv(covariance)
        np.testing.assert_allclose(
            channel[k].ravel(), gain @ np.array(samples), rtol=0, atol=1e-8 * np.abs(channel).max()
        )
        error = np.real(np.diag(prior - gain @ pilots @ prior)).reshape(16, 6)[:, heard].mean(axis=1)
        np.testing.assert_allclose(found.variance[k], error, rtol=1e-8)


def _matched(observation, block, user, heard):
    """Rows and samples of a user whose pilots were matched, in noise as white as before."""
    pilots = np.where(np.all(observation.known, axis=0), observation.pilots[user], 0)
    norm = np.linalg.norm(pilots, axis=1)
    matched = np.einsum("nmt,nt->nm", block.received, pilots.conj()) / norm[:, None]
    rows = np.einsum("n,na,mb->nmab", norm, np.eye(16), np.eye(6))[:, heard]
    return rows.reshape(-1, 16 * 6), matched[:, heard].ravel()


@pytest.mark.parametrize("pattern", ["orthogonal", "random"])
def test_rounds_raise_the_evidence(pattern):
    """The variational bound never falls, also where users' pilots interfere."""
    observation, _, problem, fit = small(pattern)
    current = Clusters.start(fit, problem.statistics, ClusterShape.of(observation.array), 0.1)
    bounds = []
    for _ in range(12):
        current = current.renewed(fit, problem.statistics, PathSearch.for_observation(observation))
        bounds.append(current.log_evidence)
    assert np.all(np.diff(bounds) > -1e-9 * np.abs(bounds[0]))
    assert bounds[-1] > bounds[0] + 1e-3


def test_a_cluster_is_what_gaussian_directions_make():
    array = isac.UniformPlanarArray((3, 4))
    shape = ClusterShape.of(array)
    cosines = np.random.default_rng(0).standard_normal((2, 200_000)) * _SPREAD_CELLS
    steering = array.steering_from_cosines(*(cosines * array.cosine_cells[:, None]))
    drawn = np.real(steering.T @ steering.conj()) / steering.shape[0]
    np.testing.assert_allclose(shape.factors.T @ shape.factors, drawn, rtol=0, atol=0.02)


def test_any_array_has_the_clusters_of_its_elements():
    """The same positions, given one by one, have the covariance that a planar array has in factors."""
    planar = isac.UniformPlanarArray((4, 4))
    column, row = np.divmod(np.arange(16), 4)
    other = isac.ArbitraryArray(0.5 * np.column_stack([column, row]))
    first, second = (ClusterShape.of(array).factors for array in (planar, other))
    np.testing.assert_allclose(other.cosine_cells, planar.cosine_cells, rtol=0.05)
    np.testing.assert_allclose(first.T @ first, second.T @ second, rtol=0, atol=0.05)


def test_neighbours_are_told_apart_by_direction():
    """Half a cell in direction makes neighbours, half a cell in delay or a cell in direction does not."""
    observation = isac.Scenario.load("urban_uplink").simulate(0).observation
    problem = Problem.on_pilots(observation, ReceivedBlock.of(observation))
    length = PathSearch.for_observation(observation).lengths_m[10]
    cell_m, cell = problem.length_cell_m, observation.array.cosine_cells[0]

    def near(*offsets):
        parameters = np.array([[length + a * cell_m, b * cell, 0.0] for a, b in offsets])
        return crowding(fit_of(problem, np.zeros(len(offsets), np.int64), parameters))

    assert near((0, 0), (0, 0.5)) == (1.0, 0.0)
    assert near((0, 0), (0.5, 0.0)) == (0.0, 0.0) == near((0, 0), (0, 1.0))
    assert near((0, 0), (0, 0.3), (0, -0.3), (0.05, 0.15)) == (1.0, 1.0)


@pytest.mark.parametrize("seed", [1, 2])
def test_a_block_of_points_has_no_clusters(seed):
    observation = isac.Scenario.load("urban_uplink").simulate(seed).observation
    problem = Problem.on_pilots(observation, ReceivedBlock.of(observation))
    result = isac.EMTurboBiSVBI().estimate(observation)
    assert not result.diffuse_power.any()
    rng = np.random.default_rng(seed)
    lengths = PathSearch.for_observation(observation).lengths_m
    parameters = np.column_stack([rng.choice(lengths, 24), rng.uniform(-0.7, 0.7, (24, 2))])
    fit = fit_of(problem, np.sort(np.arange(24) % 3), parameters)
    shape = ClusterShape.of(observation.array)
    assert Clusters.shown(fit, problem.statistics, shape, 1.0) is None


def test_clusters_make_the_channel_of_a_clustered_delay_line_better():
    gains = []
    for seed in (0, 1):
        simulation = CDL.replace(snr_db=10.0).simulate(seed)
        with_clusters, without = (
            isac.EMTurboBiSVBI(diffuse=d).estimate(simulation.observation) for d in (True, False)
        )
        error_db, other_db = (
            isac.metrics.channel_nmse_db(r.channel, simulation.truth.channel)
            for r in (with_clusters, without)
        )
        gains.append(other_db - error_db)
    assert np.mean(gains) > 1.0 and min(gains) > -0.3


def test_points_that_crowd_are_no_clusters():
    """Four users of a city with echoes from places close together, half of which clusters would swallow."""
    users = [4, 5, 6, 7]
    scenario = isac.Scenario.load("traced_munich").replace(snr_db=20.0)
    simulation = scenario.simulate(seed=1, environment=isac.load_traced("munich"), users=users)
    result = isac.EMTurboBiSVBI().estimate(simulation.observation)
    assert not result.diffuse_power.any()
    found = isac.metrics.localisation(result.scatterer_positions_m, simulation.truth.scatterer_positions_m)
    assert found.hits >= 9 and found.false_alarms == 0


def test_what_is_refused_early_would_be_refused_after_all_rounds():
    """Evidence with and without clusters in channels of clusters, of points and of a city."""
    kept = refused = 0
    for name, seed in (("umi_like", 1), ("traced_street_canyon", 0), ("extended_scatterers", 3)):
        simulation = isac.Scenario.load(name).replace(snr_db=10.0).simulate(seed=seed)
        loop = BiSVBILoop(isac.EMTurboBiSVBI(diffuse=False, max_iter=4), simulation.observation)
        loop.run()
        fit, _, _ = loop.working.active_fit()
        statistics, noise = loop._statistics, loop.noise_variance / loop.block.scale**2
        shape = ClusterShape.of(loop.obs.array)
        bare = replace(shape, factors=shape.factors[:0])
        whole, alone = (Clusters.start(fit, statistics, each, noise) for each in (shape, bare))
        pays = whole.log_evidence > alone.log_evidence + len(fit.paths) and whole.pays(fit, statistics)
        found = Clusters._preferred(fit, statistics, shape, noise)
        assert (found is not None) == pays
        if found is not None:
            np.testing.assert_array_equal(found.mean, whole.mean)
        kept, refused = kept + pays, refused + (not pays)
    assert kept and refused
