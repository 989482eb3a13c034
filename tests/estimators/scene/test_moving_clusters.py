"""Clusters around the paths of blocks that move."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from numpy.testing import assert_allclose

import isac_toolbox as isac
from helpers.moving import moving_case
from helpers.scenes import complex_normal
from isac_toolbox.estimators.bisvbi_loop import BiSVBILoop
from isac_toolbox.estimators.scene.clusters import ClusterShape
from isac_toolbox.estimators.scene.derotation import channel_at, evolution_of
from isac_toolbox.estimators.scene.fit import Bundles
from isac_toolbox.estimators.scene.moving_clusters import MovingClusters

pytestmark = pytest.mark.filterwarnings("ignore::isac_toolbox.ImplausibleValueWarning")


def test_the_channel_over_time_is_that_of_paths_over_the_array_and_their_slopes():
    case = moving_case(0, "planar")
    fit, derotation, rng = case.fit(), case.derotation, np.random.default_rng(2)
    n_users, n_elements = derotation.doppler_hz.size, fit.atoms.steering.shape[2]
    vectors = complex_normal(rng, (2, len(fit.paths), n_elements))
    bundles = Bundles(vectors[0], 30 * vectors[1], np.full(n_users, 0.1), 0.2)
    moving = replace(fit, bundles=bundles)
    evolution = evolution_of(moving, derotation, 2.0)
    for t, time in enumerate(derotation.times_s):
        turn = np.exp(2j * np.pi * fit.atoms.doppler_hz * time)
        turn *= np.exp(1j * derotation.phases_rad[fit.paths.user, t])
        expected = np.zeros((n_users, len(fit.atoms.delay), n_elements), complex)
        for i, k in enumerate(fit.paths.user):
            over_array = vectors[0, i] + 2j * np.pi * time * 30 * vectors[1, i]
            expected[k] += np.outer(turn[i] * fit.atoms.delay[:, i], over_array)
        knowledge = channel_at(moving, derotation.take(np.array([t])))
        assert_allclose(knowledge.mean, expected, atol=1e-10)
        assert_allclose(evolution.at([t])[..., 0], 2 * expected, atol=1e-8)
        assert_allclose(knowledge.white_variance, 0.1)


@pytest.fixture(scope="module")
def bundles_of_rays():
    """A block whose scatterers are bundles of rays that turn at rates of their own, few of them resolved."""
    scenario = isac.Scenario.load("umi_like").replace(
        numerology="30kHz",
        subcarrier_spacing_hz=60e3,
        n_users=2,
        n_subcarriers=96,
        array_shape=(4, 4),
        n_pilot_symbols=4,
        n_data_symbols=10,
        snr_db=10.0,
        n_clusters=10,
        cluster_azimuth_spread_rad=0.5,
        user_speed_m_s=30.0,
        user_velocity_std_m_s=20.0,
    )
    return scenario.simulate(seed=3)


def nmse_db(simulation, result) -> float:
    symbols = range(simulation.observation.pilots.shape[2])
    return isac.metrics.channel_nmse_db(result.channel_at(symbols), simulation.truth.channel_at(symbols))


def test_clusters_are_kept_where_they_make_the_channel_better(bundles_of_rays, monkeypatch):
    """What Mallows's C_p says agrees with the truth, with rays around the paths of a block and without."""
    points = isac.Scenario.load("moving_uplink").replace(snr_db=10.0).simulate(seed=3)
    monkeypatch.setattr("isac_toolbox.estimators.scene.moving_clusters._CLUSTERED", -1.0)
    for simulation, kept in ((bundles_of_rays, True), (points, False)):
        found, tried = [], []
        for worth in (2.0, -np.inf):
            monkeypatch.setattr("isac_toolbox.estimators.scene.clusters._WORTH", worth)
            found.append(isac.EMTurboBiSVBI().estimate(simulation.observation))
            tried.append(nmse_db(simulation, found[-1]))
        alone = nmse_db(simulation, isac.EMTurboBiSVBI(diffuse=False).estimate(simulation.observation))
        assert bool(np.any(found[0].diffuse_power)) == kept
        assert np.any(found[1].diffuse_power)
        assert (tried[1] < alone) == kept
        assert tried[0] == pytest.approx(min(tried[1], alone), abs=0.3)


def test_a_block_too_large_for_clusters_says_so(bundles_of_rays, monkeypatch):
    monkeypatch.setattr("isac_toolbox.estimators.scene.moving_clusters._MOST_ENTRIES", 1000)
    result = isac.EMTurboBiSVBI().estimate(bundles_of_rays.observation)
    assert any("fewer OFDM symbols or subcarriers" in text for text in result.warnings)
    assert not result.diffuse_power.any()


def test_a_block_at_rest_by_clusters_agrees_with_its_channel_at_the_reference_time(bundles_of_rays):
    loop = BiSVBILoop(isac.EMTurboBiSVBI(), bundles_of_rays.observation)
    loop.run()
    fit, _, _ = loop.working.active_fit()
    found = MovingClusters.shown(fit, loop._statistics, ClusterShape.of(loop.obs.array))
    assert found is not None
    still, n_users = found.at_rest, loop.working.n_users
    whole = still.mean + fit.atoms.synthesise(fit.posterior.mean, n_users)
    expected = np.zeros_like(whole)
    for i, k in enumerate(fit.paths.user):
        expected[k] += np.outer(fit.atoms.delay[:, i], found.bundles.over_array[i])
    assert_allclose(whole, expected, atol=1e-10)
    assert np.all(still.variance > 0) and np.all(still.cluster_power > 0)
    frames = loop._statistics.frames
    energies = np.real(np.einsum("qnkk->kn", frames.symbol_gram))
    assert_allclose(still.symbol_energies, energies, rtol=1e-12)
