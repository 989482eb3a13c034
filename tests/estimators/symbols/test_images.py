"""Images of opposite subcarriers: what is opposite, what is removed, and the step that learns them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from numpy.testing import assert_allclose

import isac_toolbox as isac
from helpers.scenes import SMALL, complex_normal
from isac_toolbox.channel.front_end import mirrored_subcarriers
from isac_toolbox.estimators.symbols.images import Images

N, M, T, K = 8, 3, 40, 2


def images(frequencies_hz: np.ndarray | None = None) -> Images:
    obs = SMALL.replace(array_shape=(M, 1)).simulate(0).observation
    obs = replace(obs, iq_image_std=[0.1, 0.1, 0.0], user_iq_image_std=[0.1, 0.0])
    frequencies = np.arange(N) - (N - 1) / 2 if frequencies_hz is None else frequencies_hz
    found = Images.of(obs.hardware, K, frequencies)
    assert found is not None
    return found


def test_opposite_subcarriers():
    assert mirrored_subcarriers(np.array([-3.0, -1.0, 1.0, 3.0])).tolist() == [3, 2, 1, 0]
    assert mirrored_subcarriers(np.array([1.0, 0.0, -1.0, 3.0])).tolist() == [2, 1, 0, -1]
    assert mirrored_subcarriers(np.array([1.0, 2.0, 3.0])).tolist() == [-1, -1, -1]


@pytest.mark.parametrize("frequencies", [None, np.array([-3.0, -2, -1, 1, 2, 3, 4, 5])])
def test_what_is_added_is_removed(frequencies):
    rng = np.random.default_rng(0)
    found = replace(images(frequencies), values=0.2 * complex_normal(rng, M))
    samples = complex_normal(rng, (N, M, T))
    assert_allclose(found.removed(found.added(samples)), samples, atol=1e-12)
    if frequencies is None:
        assert_allclose(found.added(samples), samples + found.values[:, None] * samples[::-1].conj())


def test_a_step_is_least_squares_with_the_prior():
    rng = np.random.default_rng(1)
    found, truth = images(), np.array([0.05 + 0.02j, -0.1j, 0.0])
    signal = complex_normal(rng, (N, M, T))
    left = truth[:, None] * signal[::-1].conj() + 0.01 * complex_normal(rng, (N, M, T))
    after = found.refined(signal, left, 1e-4)
    regressor = signal[::-1, 0].conj().ravel()
    expected = np.vdot(regressor, left[:, 0].ravel()) / (np.vdot(regressor, regressor) + 1e-4 / 0.01)
    assert_allclose(after.values[0], expected)
    assert_allclose(after.stds[0], 0.01 / np.sqrt(np.vdot(regressor, regressor).real + 1e-2), rtol=1e-6)
    assert after.values[2] == 0 and after.stds[2] == 0


def test_a_step_of_the_users():
    rng = np.random.default_rng(2)
    found, sent = images(), complex_normal(rng, (K, N, M, T))
    left = (0.03 - 0.04j) * sent[0] + 0.01 * complex_normal(rng, (N, M, T))
    after = found.refined_of_users(sent, left, 1e-4)
    assert abs(after.user_values[0] - (0.03 - 0.04j)) < 4 * after.user_stds[0]
    assert after.user_values[1] == 0 and after.user_stds[1] == 0


@pytest.mark.parametrize("moves", [False, True])
def test_images_are_found_and_cost_nothing(moves):
    scenario = SMALL.replace(snr_db=25.0)
    if moves:
        scenario = scenario.replace(symbol_period_s=1e-5, frequency_offset_std_hz=100.0, n_data_symbols=4)
    clean = scenario.simulate(3)
    sim = scenario.replace(iq_image_db=-25.0, user_iq_image_db=-25.0).simulate(3)
    obs = sim.observation
    assert obs.iq_image_std == pytest.approx(10**-1.25)
    result = isac.EMTurboBiSVBI().estimate(obs)
    ignorant = isac.EMTurboBiSVBI().estimate(replace(obs, iq_image_std=None, user_iq_image_std=None))
    nmse_db = isac.metrics.channel_nmse_db
    best = nmse_db(isac.EMTurboBiSVBI().estimate(clean.observation).channel, clean.truth.channel)
    assert nmse_db(result.channel, sim.truth.channel) < best + 0.3
    assert nmse_db(ignorant.channel, sim.truth.channel) > best + 5
    assert_allclose(np.abs(result.iq_images), 10**-1.25, atol=5 * result.iq_image_std.max())
    assert_allclose(np.abs(result.user_iq_images), 10**-1.25, atol=5 * result.user_iq_image_std.max())


def test_images_need_opposite_subcarriers():
    obs = SMALL.simulate(0).observation
    with pytest.raises(ValueError, match="iq_image_std needs subcarriers at opposite frequencies"):
        replace(
            obs,
            iq_image_std=0.1,
            subcarrier_frequencies_hz=obs.subcarrier_frequencies_hz - obs.subcarrier_frequencies_hz[0] + 1e6,
        )
