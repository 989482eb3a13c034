"""Amplitudes of a block: any that floats can square, others by name."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

import isac_toolbox as isac
from isac_toolbox.estimators.symbols.block import ReceivedBlock

ESTIMATORS = [isac.LeastSquares(), isac.NOMP(), isac.OMP(), isac.EMTurboBiSVBI(max_iter=3)]


@pytest.fixture(scope="module")
def obs() -> isac.UplinkObservation:
    scenario = isac.Scenario(
        array_shape=(4, 4), n_subcarriers=16, n_users=2, n_scatterers=2, n_data_symbols=4, snr_db=20
    )
    return scenario.simulate(0).observation


@pytest.mark.parametrize("estimator", ESTIMATORS, ids=lambda e: type(e).__name__)
@pytest.mark.parametrize("scale", [1e-160, 1e-100, 1e100, 1e153])
def test_results_follow_the_amplitude_of_the_samples(obs, estimator, scale):
    plain = estimator.estimate(obs)
    scaled = estimator.estimate(replace(obs, received=obs.received * scale))
    assert scaled.status == plain.status
    size = np.abs(plain.channel).max()
    assert_allclose(scaled.channel / scale, plain.channel, rtol=1e-6, atol=1e-6 * size)
    assert_array_equal(scaled.symbol_decision, plain.symbol_decision)
    digits = 1e-2 if scale < 1e-150 else 1e-6  # below, noise variances are numbers of few digits
    assert_allclose(scaled.llr, plain.llr, rtol=digits, atol=digits)
    assert np.all(np.isfinite(scaled.channel_variance))
    assert_allclose(scaled.scatterer_positions_m, plain.scatterer_positions_m, atol=1e-4)


@pytest.mark.parametrize("estimator", ESTIMATORS, ids=lambda e: type(e).__name__)
@pytest.mark.parametrize(
    ("name", "scale"),
    [
        ("received", 1e155),
        ("received", 1e300),
        ("received", 1e-162),
        ("pilots", 1e-8),
        ("pilots", 1e-160),
        ("pilots", 1e14),
        ("pilots", 1e160),
    ],
)
def test_amplitudes_whose_squares_are_lost_are_refused(obs, estimator, name, scale):
    with pytest.raises(ValueError, match=f"^{name} must have a largest magnitude between .* scale it"):
        estimator.estimate(replace(obs, **{name: getattr(obs, name) * scale}))


def test_every_user_needs_pilots_that_count(obs):
    pilots = obs.pilots.copy()
    pilots[1] *= 1e-9
    with pytest.raises(ValueError, match=r"^pilots must have a largest magnitude"):
        ReceivedBlock.of(replace(obs, pilots=pilots))
