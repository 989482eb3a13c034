"""Channel in, scene out: observations of channels that were estimated elsewhere."""

from __future__ import annotations

import numpy as np
import pytest

import isac_toolbox as isac

PLACES = ("bs_position_m", "user_positions_m", "user_position_std_m", "time_offset_std_s", "region_m")


def sounded(sim, channel, **changes):
    obs = sim.observation
    known = {name: getattr(obs, name) for name in PLACES}
    return isac.observation_from_channel(
        channel,
        sim.truth.noise_variance,
        array=obs.array,
        subcarrier_frequencies_hz=obs.subcarrier_frequencies_hz,
        **known | changes,
    )


def test_the_scene_is_found_from_channel_estimates():
    sim = isac.Scenario.load("urban_uplink").simulate(0)
    rng = np.random.default_rng(0)
    noise = rng.standard_normal((2, *sim.truth.channel.shape)) * np.sqrt(sim.truth.noise_variance / 2)
    obs = sounded(sim, sim.truth.channel + noise[0] + 1j * noise[1])
    result = isac.EMTurboBiSVBI().estimate(obs)
    found = isac.metrics.localisation(result.scatterer_positions_m, sim.truth.scatterer_positions_m)
    assert found.misses == found.false_alarms == 0
    assert isac.metrics.channel_nmse_db(result.channel, sim.truth.channel) < -34


def test_masked_entries_are_not_used():
    sim = isac.Scenario.load("urban_uplink").simulate(0)
    channel = np.ma.masked_array(sim.truth.channel.copy(), mask=np.zeros(sim.truth.channel.shape, bool))
    channel[1, 5] = 1e9
    channel[1, 5] = np.ma.masked
    result = isac.LeastSquares().estimate(sounded(sim, channel))
    assert isac.metrics.channel_nmse_db(result.channel, sim.truth.channel) < -20


@pytest.mark.parametrize(
    ("channel", "changes", "message"),
    [
        (np.ones((64, 64)), {}, r"channel must have shape \(K, N, M\)"),
        (np.ones((3, 64, 64)), {"pilots": np.ones(3)}, "pilots must not be given"),
        (np.ones((3, 63, 64)), {}, "subcarrier_frequencies_hz"),
        (np.full((3, 64, 64), np.nan), {}, "must be finite"),
    ],
)
def test_bad_input_is_named(channel, changes, message):
    sim = isac.Scenario.load("urban_uplink").simulate(0)
    with pytest.raises((TypeError, ValueError), match=message):
        sounded(sim, channel, **changes)
