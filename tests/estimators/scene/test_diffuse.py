"""The diffuse part: a Wiener filter over delay under a learned profile, where the samples show one."""

from __future__ import annotations

from dataclasses import fields, replace
from types import SimpleNamespace

import numpy as np
import pytest

import isac_toolbox as isac
from helpers.scenes import SMALL, complex_normal
from isac_toolbox.channel.array import SPEED_OF_LIGHT_M_S
from isac_toolbox.channel.atoms.scene import Paths, Scene
from isac_toolbox.estimators.bisvbi import BiSVBILoop
from isac_toolbox.estimators.scene.diffuse import Diffuse
from isac_toolbox.estimators.scene.fit import evaluate, scene_covariance
from isac_toolbox.estimators.scene.misfit import Residual
from isac_toolbox.estimators.scene.problem import Problem
from isac_toolbox.estimators.search import _DIFFUSE_STDS, PathSearch, beside
from isac_toolbox.estimators.symbols.block import ReceivedBlock

URBAN = isac.Scenario.load("urban_uplink").replace(snr_db=20.0)
DECAY_S = 60e-9


def with_tail(simulation, tail_db, seed):
    """The block with an exponential tail behind every line of sight, and the tail (K, N, M)."""
    observation, truth = simulation.observation, simulation.truth
    n_users, n_tones, n_antennas = truth.channel.shape
    distance = np.linalg.norm(truth.user_positions_m - observation.bs_position_m, axis=1)
    onset_s = distance / SPEED_OF_LIGHT_M_S + truth.time_offsets_s
    apart = 2 * np.pi * np.subtract.outer(*[observation.subcarrier_frequencies_hz] * 2)
    power = np.mean(np.abs(truth.channel) ** 2, axis=(1, 2)) * 10 ** (tail_db / 10)
    covariance = np.exp(-1j * apart * onset_s[:, None, None]) / (1 + 1j * apart * DECAY_S)
    values, vectors = np.linalg.eigh(covariance * power[:, None, None])
    white = complex_normal(np.random.default_rng(seed), (n_users, n_tones, n_antennas))
    tail = (vectors * np.sqrt(np.maximum(values, 0))[:, None, :]) @ white
    received = observation.received + np.einsum("knm,knt->nmt", tail, truth.symbols)
    whole = replace(truth, channel=truth.channel + tail)
    return replace(simulation, observation=replace(observation, received=received), truth=whole), tail


def without_paths(problem: Problem):
    """The fit of no path at all."""
    n_users = len(problem.prior.users_m)
    scene = Scene(np.zeros((0, 3)), problem.prior.users_m, np.zeros(n_users), np.zeros((0, 3)))
    nobody = Paths.build(np.zeros(n_users, bool), np.zeros((n_users, 0), bool), np.zeros(0, np.int64))
    return evaluate(problem, scene, nobody, np.zeros(0))


@pytest.mark.parametrize("pattern", ["orthogonal", "comb", "random"])
def test_the_filter_is_the_lmmse_estimate_under_the_profile(pattern):
    """Against the brute-force estimate of all users' channels from all pilots, also where these interfere."""
    scenario = SMALL.replace(n_subcarriers=16, array_shape=(2, 2), pilot_pattern=pattern, n_pilot_symbols=3)
    observation = scenario.simulate(0).observation
    search = PathSearch.for_observation(observation)
    n_users, n_tones, _ = observation.pilots.shape
    block = ReceivedBlock.of(observation)
    problem = Problem.on_pilots(observation, block)
    rng, noise = np.random.default_rng(1), 0.1
    profile = rng.exponential(size=(n_users, search.lengths_m.size)) / search.lengths_m.size
    response = search.responses(np.arange(search.lengths_m.size))
    known = np.all(observation.known, axis=0)
    prior = np.zeros((n_users * n_tones, n_users * n_tones), complex)
    for k in range(n_users):
        own = slice(k * n_tones, (k + 1) * n_tones)
        prior[own, own] = (response * profile[k]) @ response.conj().T
    rows, samples = [], []
    for n, t in zip(*np.nonzero(known), strict=True):
        row = np.zeros((n_users, n_tones), complex)
        row[:, n] = observation.pilots[:, n, t]
        rows.append(row.ravel())
        samples.append(block.received[n, :, t])
    pilots, received = np.array(rows), np.array(samples)
    gain = (
        prior @ pilots.conj().T @ np.linalg.inv(pilots @ prior @ pilots.conj().T + noise * np.eye(len(rows)))
    )
    wanted = (gain @ received).reshape(n_users, n_tones, -1)
    errors = np.real(np.diag(prior - gain @ pilots @ prior)).reshape(n_users, n_tones)

    nothing = np.zeros_like(problem.statistics.cross_correlation)
    zeros = np.zeros((n_users, n_tones))
    diffuse = Diffuse(search.lengths_m, profile, nothing, zeros, noise, profile, 0.0)
    fit = without_paths(problem)
    for _ in range(60 if pattern == "random" else 1):
        diffuse = diffuse.filtered(fit, problem.statistics, search)
    np.testing.assert_allclose(diffuse.mean, wanted, rtol=0, atol=1e-6 * np.abs(wanted).max())
    if pattern != "random":
        np.testing.assert_allclose(diffuse.variance, errors, rtol=1e-6)


def test_noise_alone_shows_no_diffuse_part():
    """The rise over a thousand draws, of an exponential law at its end, stays far below the threshold."""
    search = PathSearch.for_observation(SMALL.simulate(0).observation)
    rng, shape = np.random.default_rng(0), (32, 24)
    energies = np.array([2.0 * 32 * 24])
    rises = [
        search._highest_rise(search.spectra(complex_normal(rng, (1, *shape)), energies)[0])
        for _ in range(1000)
    ]
    fall = (np.quantile(rises, 0.999) - np.quantile(rises, 0.9)) / np.log(100)
    assert np.quantile(rises, 0.999) + fall * np.log(100) < _DIFFUSE_STDS  # at a false-alarm rate of 1e-5


@pytest.mark.parametrize("seed", [0, 1])
def test_a_block_of_paths_alone_is_estimated_as_without(seed):
    observation = URBAN.simulate(seed).observation
    allowed, barred = (isac.EMTurboBiSVBI(diffuse=d).estimate(observation) for d in (True, False))
    for field in fields(allowed):
        value, other = getattr(allowed, field.name), getattr(barred, field.name)
        if isinstance(value, np.ndarray):
            assert value.tobytes() == other.tobytes(), field.name
    assert allowed.diffuse_power.tolist() == [0.0] * 3
    assert allowed.diffuse_profile.shape == (3, 0) and allowed.diffuse_delays_s.shape == (0,)


@pytest.fixture(scope="module", params=[(-30.0, 3), (-15.0, 3), (-5.0, 0)])
def tailed(request):
    tail_db, seed = request.param
    simulation, tail = with_tail(URBAN.simulate(seed), tail_db, seed)
    loop = BiSVBILoop(isac.EMTurboBiSVBI(), simulation.observation)
    return simulation, tail, loop, loop.run_bounded()


def test_a_tail_is_filtered(tailed):
    """Six decibels below least squares at least, and as far off as the result says."""
    simulation, tail, _, result = tailed
    plain = isac.LeastSquares().estimate(simulation.observation)
    error_db, plain_db = (
        isac.metrics.channel_nmse_db(r.channel, simulation.truth.channel) for r in (result, plain)
    )
    assert error_db < plain_db - 6
    stated = np.sum(result.channel_variance) / np.sum(np.abs(simulation.truth.channel) ** 2)
    assert error_db == pytest.approx(10 * np.log10(stated), abs=0.7)
    assert result.diffuse_power == pytest.approx(np.mean(np.abs(tail) ** 2, axis=(1, 2)), rel=0.15)
    assert result.noise_variance == pytest.approx(simulation.truth.noise_variance, rel=0.05)
    assert sum("from many directions" in said for said in result.warnings) == 1


def test_a_tail_makes_no_scatterers_and_ellipsoids_hold_the_true_ones(tailed):
    simulation, _, _, result = tailed
    found = isac.metrics.localisation(result.scatterer_positions_m, simulation.truth.scatterer_positions_m)
    assert found.false_alarms == 0 and found.misses <= 1 and len(result.unlocated_paths.user) <= 3
    error = (
        result.scatterer_positions_m[found.estimate_index]
        - simulation.truth.scatterer_positions_m[found.truth_index]
    )
    inverse = np.linalg.inv(result.scatterer_covariance_m2[found.estimate_index])
    inside = np.einsum("si,sij,sj->s", error, inverse, error) < 7.815
    assert inside.sum() >= found.hits - 1


def test_a_path_has_to_exceed_noise_and_tail(tailed):
    """Divided by its floor, what the tail leaves in the spectra is noise of the samples' level."""
    _, _, loop, _ = tailed
    raw = Residual.of(loop.working, loop.search)
    rises = loop.diffuse.floor / loop.diffuse.noise_variance
    levels = [
        np.median(beside(s.power, rise)[:, loop.search._visible], axis=1) / np.log(2)
        for s, rise in zip(raw.spectra, rises, strict=True)
    ]
    assert np.mean(levels) == pytest.approx(loop.diffuse.noise_variance, rel=0.1)
    assert raw.beside(loop.diffuse).n_peaks(1e-3) <= 1
    strongest = np.array([0])
    fit = loop.working.fit
    seen = loop.diffuse.noise_at(fit)[0] * fit.problem.noise_precision
    assert raw.beside(loop.diffuse).excess(fit, strongest) >= max(seen, 1.0) * (1 - 1e-9)


def test_the_flag_bars_a_diffuse_part(tailed):
    simulation, *_ = tailed
    result = isac.EMTurboBiSVBI(diffuse=False).estimate(simulation.observation)
    assert not result.diffuse_power.any() and not result.diffuse_profile.size


def test_a_diffuse_part_comes_back_from_a_file(tailed, tmp_path):
    result = tailed[3]
    back = isac.EstimationResult.load(result.save(tmp_path / "result.npz"))
    for name in ("diffuse_power", "diffuse_profile", "diffuse_delays_s"):
        assert getattr(back, name).tobytes() == getattr(result, name).tobytes()


def test_only_users_with_a_tail_get_a_diffuse_part():
    """The others have at most what is a hundredth of the noise."""
    simulation, tail = with_tail(URBAN.simulate(0), -15.0, 0)
    truth = simulation.truth
    others = np.concatenate([np.zeros_like(tail[:1]), tail[1:]])
    received = simulation.observation.received - np.einsum("knm,knt->nmt", others, truth.symbols)
    result = isac.EMTurboBiSVBI().estimate(replace(simulation.observation, received=received))
    assert result.diffuse_power[0] == pytest.approx(np.mean(np.abs(tail[0]) ** 2), rel=0.15)
    assert np.all(result.diffuse_power[1:] < 1e-2 * truth.noise_variance)
    assert isac.metrics.channel_nmse_db(result.channel, truth.channel - others) < -36


def test_with_equal_noise_the_covariance_is_the_inverse_of_the_hessian():
    loop = BiSVBILoop(isac.EMTurboBiSVBI(), SMALL.simulate(0).observation)
    loop.run()
    fit = loop.working.active_fit()[0]
    plain = scene_covariance(fit)
    equal = scene_covariance(replace(fit, excess=np.ones(len(fit.paths))))
    np.testing.assert_allclose(equal, plain, atol=1e-3 * np.diag(plain).max())
    louder = scene_covariance(replace(fit, excess=np.full(len(fit.paths), 4.0)))
    assert np.all(np.diag(louder) >= np.diag(plain) * (1 - 1e-6))
    assert np.all(np.diag(louder) <= 4 * np.diag(plain) * (1 + 1e-3))


@pytest.mark.parametrize("lengths_m", [[50.0], [50.0, 52.0], [50.0, 52.0, 54.0, 56.0]])
def test_a_path_sees_the_noise_of_the_nearest_bin_of_its_user(lengths_m):
    rng = np.random.default_rng(0)
    lengths_m, user = np.array(lengths_m), rng.integers(0, 2, 40)
    floor = rng.uniform(1, 2, (2, lengths_m.size))
    diffuse = Diffuse(lengths_m, floor, np.zeros((2, 1, 1)), np.zeros((2, 1)), 1.0, floor, 0.0)
    of_paths = rng.uniform(40, 70, 40)
    fit = SimpleNamespace(parameters=SimpleNamespace(length_m=of_paths), paths=SimpleNamespace(user=user))
    nearest = np.abs(lengths_m - of_paths[:, None]).argmin(axis=1)
    assert np.array_equal(diffuse.noise_at(fit), floor[user, nearest])
    active = of_paths > 60
    expected = floor[user, nearest][active].mean()
    assert diffuse.paths_noise(fit, active) == pytest.approx(expected)
