"""Users far from their priors and paths from elsewhere: the chi-square against its law, and warnings."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import chi2, kstest

import isac_toolbox as isac
from helpers.scenes import random_case
from isac_toolbox.estimators.scene.contradictions import contradictions, prior_chi_square
from isac_toolbox.estimators.scene.fit import evaluate

UPLINK = isac.Scenario.load("urban_uplink").replace(snr_db=20)


def test_the_chi_square_follows_its_law():
    """Users and clocks drawn from their priors, then estimated with Gaussian errors."""
    case = random_case(1)
    problem, scene = case.problem, case.scene
    fit = evaluate(problem, scene, case.paths, np.ones(len(case.paths)))
    prior = problem.prior
    std = np.append(prior.user_stds_m[0], prior.offset_stds_m[0])
    rng = np.random.default_rng(0)
    values = []
    _, users, offsets, _ = scene.blocks()
    columns = np.append(users.start + np.arange(3), offsets.start)
    for _ in range(400):
        noise = std * np.array([0.1, 0.5, 2.0, 1.0])
        after = 1 / (1 / std**2 + 1 / noise**2)
        truth = std * rng.standard_normal(4)
        mean = after / noise**2 * (truth + noise * rng.standard_normal(4))
        users_m, offsets_m = scene.users_m.copy(), scene.offsets_m.copy()
        users_m[0], offsets_m[0] = prior.users_m[0] + mean[:3], mean[3]
        covariance = np.zeros((scene.n_parameters, scene.n_parameters))
        covariance[columns, columns] = after
        moved = replace(fit, scene=replace(scene, users_m=users_m, offsets_m=offsets_m))
        squared, freedom = prior_chi_square(moved, covariance)
        values.append(chi2.sf(squared[0], freedom[0]))
        assert freedom[0] == 4
    assert kstest(values, "uniform").pvalue > 1e-3


def test_directions_that_the_data_do_not_tell_do_not_count():
    case = random_case(1)
    fit = evaluate(case.problem, case.scene, case.paths, np.ones(len(case.paths)))
    covariance = np.zeros((case.scene.n_parameters,) * 2)
    _, users, offsets, _ = case.scene.blocks()
    prior = case.problem.prior
    covariance[users, users] = np.diag(prior.user_stds_m.ravel() ** 2)
    covariance[offsets, offsets] = np.diag(prior.offset_stds_m**2)
    squared, freedom = prior_chi_square(fit, covariance)
    assert np.all(squared == 0) and np.all(freedom == 0)


@pytest.mark.parametrize("name", ["urban_uplink", "low_snr", "rich_scattering"])
def test_scenes_as_believed_say_nothing(name):
    for seed in range(3):
        result = isac.EMTurboBiSVBI().estimate(isac.Scenario.load(name).simulate(seed).observation)
        assert not any("stated" in text or "region_m" in text for text in result.warnings)


def test_a_region_elsewhere_is_said():
    observation = UPLINK.simulate(0).observation
    region_m = observation.region_m + np.array([150.0, 0.0, 0.0])
    result = isac.EMTurboBiSVBI().estimate(replace(observation, region_m=region_m))
    assert any(text.startswith("region_m") for text in result.warnings)


@pytest.mark.parametrize("unheard", [[1], [0, 1, 2]])
def test_users_that_are_not_heard_are_named(unheard):
    """Noise alone once gave "converged" and no word; so did a user whose pilots were others."""
    simulation = UPLINK.simulate(0)
    rng = np.random.default_rng(0)
    received = rng.standard_normal((*simulation.observation.received.shape, 2)) @ [1, 1j]
    received *= np.sqrt(simulation.truth.noise_variance / 2)
    for k in set(range(3)) - set(unheard):
        received += np.einsum("nm,nt->nmt", simulation.truth.channel[k], simulation.truth.symbols[k])
    result = isac.EMTurboBiSVBI().estimate(replace(simulation.observation, received=received))
    assert any(f"no path of user(s) {unheard}" in text for text in result.warnings)


def test_contradictions_of_a_fit_are_texts():
    case = random_case(0)
    fit = evaluate(case.problem, case.scene, case.paths, np.ones(len(case.paths)))
    far = replace(fit, scene=replace(case.scene, users_m=case.scene.users_m + 50.0))
    covariance = 1e-6 * np.eye(case.scene.n_parameters)
    (text,) = [t for t in contradictions(far, covariance) if "user_positions_m" in t]
    assert "standard deviations" in text


@pytest.mark.parametrize("n_symbols", [4, 16])
def test_noise_alone_is_said_of_every_user(n_symbols):
    obs = UPLINK.replace(array_shape=(6, 6), n_subcarriers=24).simulate(0).observation
    parts = np.random.default_rng(0).standard_normal((2, *obs.received.shape))
    noise = replace(
        obs,
        received=(parts[0] + 1j * parts[1])[:, :, :n_symbols],
        pilots=obs.pilots[:, :, :n_symbols],
        pilot_mask=obs.pilot_mask[..., :n_symbols],
    )
    said = isac.EMTurboBiSVBI().estimate(noise).warnings
    assert any("no path of user(s) [0, 1, 2] stands out from the noise" in text for text in said)
