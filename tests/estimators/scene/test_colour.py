"""Whether what no channel explains is white over the array."""

from __future__ import annotations

import pytest

import isac_toolbox as isac
from helpers.scenes import SMALL


@pytest.mark.parametrize("interferers", [0, 1])
def test_colour_is_shown_by_an_interferer_and_by_nothing_else(interferers):
    """Asked of the loop with which the block was estimated, as after every fit test that fails."""
    from isac_toolbox.estimators.bisvbi_loop import BiSVBILoop
    from isac_toolbox.estimators.scene.colour import shows_colour

    scenario = SMALL.replace(n_interferers=interferers, interferer_power_db=3.0, n_pilot_symbols=3)
    for seed in range(3):
        loop = BiSVBILoop(isac.EMTurboBiSVBI(), scenario.simulate(seed).observation)
        loop.run_bounded(None, 1)
        moments = loop.detect().moments
        assert shows_colour(loop.obs, loop.working.fit, loop.block, moments) == bool(interferers)


def test_rays_between_the_paths_are_no_colour():
    """Users on a comb whose channels of hundreds of rays no few paths explain; the noise is white."""
    scenario = isac.Scenario.load("umi_like").replace(
        snr_db=10.0, n_subcarriers=312, subcarrier_spacing_hz=30e3, array_shape=(4, 4)
    )
    scenario = scenario.replace(n_users=4, pilot_pattern="comb", n_pilot_symbols=4, n_data_symbols=10)
    for seed in (1, 2, 4):
        simulation = scenario.simulate(seed)
        result = isac.EMTurboBiSVBI().estimate(simulation.observation)
        assert result.noise_covariance is None
        assert not any("noise is not white" in text for text in result.warnings)
        assert isac.metrics.channel_nmse_db(result.channel, simulation.truth.channel) < -36
