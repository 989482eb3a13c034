"""Precision, threads and memory of the main estimator."""

from __future__ import annotations

import tracemalloc
from dataclasses import replace

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

import isac_toolbox as isac
from helpers.scenes import SMALL
from isac_toolbox import _threads


def peak_of(estimator, observation):
    """Bytes that an estimate holds at the most, kernels compiled."""
    estimator.estimate(observation)
    tracemalloc.start()
    estimator.estimate(observation)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return peak


@pytest.mark.parametrize("changes", [{}, {"n_subcarriers": 128, "subcarrier_spacing_hz": 1e6}])
@pytest.mark.parametrize("dtype", ["complex128", "complex64"])
def test_memory_usage_predicts_the_peak(changes, dtype):
    observation = SMALL.replace(array_shape=(8, 8), **changes).simulate(seed=0).observation
    estimator = isac.EMTurboBiSVBI(dtype=dtype)
    peak = peak_of(estimator, observation)
    assert 0.5 * peak < estimator.memory_usage(observation) < 2 * peak


def test_large_blocks_are_held_once():
    """Beside a scaled copy of the samples only what depends on users and paths, not on OFDM symbols."""
    changes = {"n_subcarriers": 512, "subcarrier_spacing_hz": 200e3, "n_data_symbols": 40}
    observation = SMALL.replace(array_shape=(8, 8), **changes).simulate(seed=0).observation
    estimator = isac.EMTurboBiSVBI()
    tracemalloc.start()
    estimator.estimate(observation)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 2 * observation.received.nbytes
    assert 0.5 * peak < estimator.memory_usage(observation) < 2 * peak


def test_samples_may_be_mapped_from_a_file(tmp_path):
    """They are read where they are, and not written to."""
    observation = SMALL.simulate(seed=0).observation
    path, shape = tmp_path / "samples", observation.received.shape
    np.asarray(observation.received).tofile(path)
    mapped = np.memmap(path, complex, "r", shape=shape)
    of_file = replace(observation, received=mapped)
    assert np.shares_memory(of_file.received, mapped)
    found, expected = (isac.EMTurboBiSVBI().estimate(obs) for obs in (of_file, observation))
    assert np.array_equal(found.channel, expected.channel)
    assert np.array_equal(mapped, observation.received)


def test_memory_usage_grows_with_the_full_grid():
    observation = SMALL.simulate(seed=0).observation
    sizes = [
        isac.EMTurboBiSVBI(inverse=inverse).memory_usage(observation)
        for inverse in ("subspace", "mm", "full")
    ]
    assert sizes == sorted(sizes) and sizes[2] > 100e6
    with pytest.raises(TypeError, match="UplinkObservation"):
        isac.EMTurboBiSVBI().memory_usage(None)


@pytest.mark.parametrize("snr_db", [0.0, 30.0])
def test_single_precision_changes_nothing_that_matters(snr_db):
    simulation = SMALL.replace(snr_db=snr_db).simulate(seed=1)
    double = isac.EMTurboBiSVBI().estimate(simulation.observation)
    single = isac.EMTurboBiSVBI(dtype="complex64").estimate(simulation.observation)
    errors = [isac.metrics.channel_nmse_db(r.channel, simulation.truth.channel) for r in (double, single)]
    assert errors[1] == pytest.approx(errors[0], abs=0.02)
    assert_allclose(single.scatterer_positions_m, double.scatterer_positions_m, atol=1e-3)
    assert single.channel.dtype == np.complex128


@pytest.mark.parametrize(
    ("changes", "n_elements"),
    [
        ({"n_users": 4, "n_subcarriers": 1200}, 4 * 1200 * 64),  # all users in one fit of the pilots
        ({"n_users": 6, "n_subcarriers": 800, "n_pilot_symbols": 6}, 6 * 800 * 64),  # each in its own
    ],
)
def test_threads_change_not_a_bit(changes, n_elements):
    assert n_elements > _threads._FEWEST_SHARED
    scenario = isac.Scenario.load("urban_uplink").replace(snr_db=10.0, **changes)
    observation = scenario.simulate(seed=2).observation
    one, two = (isac.EMTurboBiSVBI(n_threads=n).estimate(observation) for n in (None, 2))
    for name in ("channel", "scatterer_positions_m", "symbol_mean", "llr"):
        assert_array_equal(getattr(two, name), getattr(one, name))


@pytest.mark.parametrize(
    ("settings", "error", "match"),
    [
        ({"dtype": "float64"}, ValueError, "dtype"),
        ({"dtype": np.complex64}, ValueError, "dtype"),
        ({"n_threads": 0}, ValueError, "n_threads"),
        ({"n_threads": 1.5}, TypeError, "n_threads"),
    ],
)
def test_bad_resources(settings, error, match):
    with pytest.raises(error, match=match):
        isac.EMTurboBiSVBI(**settings)


def test_memory_of_crowds_is_predicted():
    """Probabilities of many users' symbols of 16-QAM outweigh the channels of few antennas."""
    changes = {"n_users": 6, "n_pilot_symbols": 6, "modulation": "16qam", "array_shape": (4, 4)}
    observation = (
        isac.Scenario.load("urban_uplink").replace(snr_db=6.0, **changes).simulate(seed=0).observation
    )
    estimator = isac.EMTurboBiSVBI()
    peak = peak_of(estimator, observation)
    assert 0.5 * peak < estimator.memory_usage(observation) < 2 * peak
