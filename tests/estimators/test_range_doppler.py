"""Range-Doppler map: brute force, peaks where paths are, bad input."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from numpy.testing import assert_allclose

import isac_toolbox as isac
from isac_toolbox.channel.array import SPEED_OF_LIGHT_M_S

ECHOES = isac.Scenario.load("monostatic_moving").replace(
    array_shape=(2, 2), n_subcarriers=12, n_scatterers=1, snr_db=10.0, scatterer_speed_m_s=(20.0, 30.0)
)
MOVING = ECHOES.replace(moving_share=1.0, numerology=None, symbol_period_s=20e-6, n_data_symbols=31)


def test_power_by_brute_force():
    obs = MOVING.simulate(0).observation
    found = isac.range_doppler_map(obs)
    wavenumbers = 2 * np.pi * obs.subcarrier_frequencies_hz / SPEED_OF_LIGHT_M_S
    times = obs.symbol_times_s - obs.symbol_times_s[0]
    over_lengths = np.exp(1j * np.outer(found.lengths_m, wavenumbers))
    over_shifts = np.exp(-2j * np.pi * np.outer(found.doppler_hz, times))
    matched = np.einsum("nmt,nt->mnt", obs.received, obs.pilots[0].conj())
    power = np.sum(np.abs(over_lengths @ matched @ over_shifts.T) ** 2, axis=0)
    assert_allclose(found.power, power / np.sum(np.abs(obs.pilots) ** 2), rtol=1e-8)


def test_the_highest_power_is_at_the_scatterer():
    simulation = MOVING.simulate(3)
    truth, found = simulation.truth, isac.range_doppler_map(simulation.observation)
    g, f = np.unravel_index(np.argmax(found.power), found.power.shape)
    away = truth.scatterer_positions_m[0] - simulation.observation.bs_position_m
    distance = np.linalg.norm(away)
    shift = (
        -2 * MOVING.carrier_hz / SPEED_OF_LIGHT_M_S * (away @ truth.scatterer_velocities_m_s[0]) / distance
    )
    length_step, shift_step = np.diff(found.lengths_m)[0], np.diff(found.doppler_hz)[0]
    period = length_step * found.lengths_m.size
    assert abs((found.lengths_m[g] - 2 * distance + period / 2) % period - period / 2) <= length_step
    assert abs(found.doppler_hz[f] - shift) <= shift_step


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"symbol_times_s": None, "scatterer_velocity_std_m_s": None}, "symbol_times_s must be given"),
        ({"subcarrier_frequencies_hz": np.arange(12.0) ** 2 * 1e5}, "subcarrier_frequencies_hz must be even"),
    ],
)
def test_blocks_without_a_map_are_refused(change, named):
    obs = replace(MOVING.simulate(0).observation, **change)
    with pytest.raises(ValueError, match=named):
        isac.range_doppler_map(obs)


def test_users_and_observations_are_checked():
    with pytest.raises(TypeError, match="obs must be an UplinkObservation"):
        isac.range_doppler_map("block")
    with pytest.raises(ValueError, match="user must be below"):
        isac.range_doppler_map(MOVING.simulate(0).observation, user=1)
