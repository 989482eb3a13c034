"""Arrays of elements at any positions, in every estimator."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

import isac_toolbox as isac
from helpers.cli import run, strict_json
from helpers.scenes import assert_no_nan, complex_normal
from isac_toolbox.channel.array import SPEED_OF_LIGHT_M_S

PLACES = ("bs_position_m", "user_positions_m", "user_position_std_m", "time_offset_std_s", "region_m")
RNG = np.random.default_rng(0)
ANGLES = 2 * np.pi * np.arange(24) / 24
RING = 1.2 * np.column_stack([np.cos(ANGLES), np.sin(ANGLES)])
PANELS = isac.PanelArray(
    [isac.UniformPlanarArray((4, 4), azimuth_rad=azimuth) for azimuth in (0.3, -0.3)],
    [[0.0, 0.15, 0.0], [0.0, -0.15, 0.0]],
    carrier_hz=3.5e9,
)
ARRAYS = {
    "panels": PANELS.positions_wavelengths,
    "ring": RING,
    "random": RNG.uniform(-1.0, 1.0, (16, 2)),
    "sparse": RNG.uniform(-5.0, 5.0, (16, 2)),
    "two rings": np.vstack([np.column_stack([np.full(24, depth), RING]) for depth in (0.0, 0.5)]),
}


def by_positions(array: isac.UniformPlanarArray) -> isac.ArbitraryArray:
    offsets = array.element_offsets_m(SPEED_OF_LIGHT_M_S) @ array.axes.T
    return isac.ArbitraryArray(offsets, array.azimuth_rad, array.elevation_rad)


def heard_by(simulation, positions, snr_db=10.0) -> tuple[isac.UplinkObservation, np.ndarray]:
    """The scene of a simulation heard by another array in the same place, and its channel."""
    obs, truth = simulation.observation, simulation.truth
    array = isac.ArbitraryArray(positions, obs.array.azimuth_rad, obs.array.elevation_rad)
    channel = np.zeros((obs.n_users, obs.n_subcarriers, array.n_elements), complex)

    def add(k, gain, point):
        ray = point - obs.bs_position_m
        length = np.linalg.norm(ray) + np.linalg.norm(point - truth.user_positions_m[k])
        delay = length / SPEED_OF_LIGHT_M_S + truth.time_offsets_s[k]
        turn = np.exp(-2j * np.pi * obs.subcarrier_frequencies_hz * delay)
        channel[k] += gain * np.outer(turn, array.steering(ray / np.linalg.norm(ray)))

    for k in range(obs.n_users):
        if truth.line_of_sight[k]:
            add(k, truth.line_of_sight_gain[k], truth.user_positions_m[k])
        for s in np.flatnonzero(truth.visibility[k]):
            add(k, truth.scatterer_gain[k, s], truth.scatterer_positions_m[s])
    clean = np.einsum("knm,knt->nmt", channel, truth.symbols)
    noise = complex_normal(np.random.default_rng(1), clean.shape)
    noise *= np.sqrt(np.mean(np.abs(clean) ** 2) / 10 ** (snr_db / 10))
    return replace(obs, received=clean + noise, array=array), channel


@pytest.mark.parametrize("shape", [(8, 8), (16, 1), (1, 16)])
@pytest.mark.parametrize("located", [True, False])
@pytest.mark.parametrize("estimator", [isac.EMTurboBiSVBI(), isac.NOMP()], ids=["bisvbi", "nomp"])
def test_the_planar_array_by_its_positions_gives_the_same(shape, located, estimator):
    observation = isac.Scenario.load("urban_uplink").replace(array_shape=shape).simulate(1).observation
    if not located:
        observation = replace(observation, **dict.fromkeys(PLACES))
    planar = estimator.estimate(observation)
    other = estimator.estimate(replace(observation, array=by_positions(observation.array)))
    assert np.max(np.abs(planar.channel - other.channel)) < 1e-6
    assert np.array_equal(planar.symbol_decision, other.symbol_decision)
    assert planar.scatterer_positions_m.shape == other.scatterer_positions_m.shape
    assert len(planar.warnings) == len(other.warnings)


@pytest.mark.parametrize("name", ARRAYS)
def test_a_scene_is_found_by_any_array(name):
    simulation = isac.Scenario.load("urban_uplink").simulate(2)
    observation, channel = heard_by(simulation, ARRAYS[name])
    result = isac.EMTurboBiSVBI().estimate(observation)
    assert_no_nan(result)
    match = isac.metrics.localisation(result.scatterer_positions_m, simulation.truth.scatterer_positions_m)
    assert (match.misses, match.false_alarms) == (0, 0)
    plain = isac.metrics.channel_nmse_db(isac.LeastSquares().estimate(observation).channel, channel)
    nomp = isac.metrics.channel_nmse_db(isac.NOMP().estimate(observation).channel, channel)
    assert isac.metrics.channel_nmse_db(result.channel, channel) < min(plain - 20, nomp - 3)


@pytest.mark.parametrize("name", ["ring", "two rings"])
@pytest.mark.parametrize("inverse", ["full", "mm"])
def test_grids_and_dead_elements(name, inverse):
    simulation = isac.Scenario.load("urban_uplink").replace(n_users=2).simulate(2)
    observation, channel = heard_by(simulation, ARRAYS[name])
    working = np.ones(observation.array.n_elements, bool)
    working[3] = False
    result = isac.EMTurboBiSVBI(inverse=inverse, grid_points=64).estimate(
        replace(observation, element_mask=working)
    )
    assert isac.metrics.channel_nmse_db(result.channel, channel) < -30


def test_curved_wavefronts():
    changes = {"wavefront": "spherical", "carrier_hz": 3.5e9}
    observation = isac.Scenario.load("urban_uplink").replace(**changes).simulate(1).observation
    planar = isac.EMTurboBiSVBI().estimate(observation)
    other = isac.EMTurboBiSVBI().estimate(replace(observation, array=by_positions(observation.array)))
    assert np.max(np.abs(planar.channel - other.channel)) < 1e-6


def test_the_bound_is_that_of_the_planar_array():
    simulation = isac.Scenario.load("urban_uplink").simulate(0)
    array = by_positions(simulation.observation.array)
    other = replace(simulation, observation=replace(simulation.observation, array=array))
    first, second = isac.bounds.hybrid_crb(simulation), isac.bounds.hybrid_crb(other)
    np.testing.assert_allclose(first.position_rmse_m, second.position_rmse_m, rtol=1e-6)
    assert first.channel_nmse_db == pytest.approx(second.channel_nmse_db, abs=1e-6)


def test_files_and_the_command_line(tmp_path):
    observation, _ = heard_by(isac.Scenario.load("urban_uplink").simulate(2), RING)
    path = observation.save(tmp_path / "ring.npz")
    again = isac.UplinkObservation.load(path).array
    assert isinstance(again, isac.ArbitraryArray)
    np.testing.assert_allclose(again.axes, observation.array.axes)
    np.testing.assert_allclose(again.positions_wavelengths, observation.array.positions_wavelengths)
    assert "24 antennas" in run("estimate", path).stdout
    report = strict_json(run("estimate", path, "--json").stdout)
    assert report["array_shape"] is None and report["n_antennas"] == 24


def test_what_it_cannot_do_is_said():
    observation, _ = heard_by(isac.Scenario.load("urban_uplink").simulate(2), RING)
    with pytest.raises(ValueError, match=r"^array must be a UniformPlanarArray for MUSIC"):
        isac.MusicSCVBI().estimate(observation)
    with pytest.raises(ValueError, match=r"^beam_squint=True is modelled for a UniformPlanarArray"):
        replace(observation, beam_squint=True, carrier_hz=3.5e9)
    wide = replace(observation, array=isac.ArbitraryArray(100 * RING))
    with pytest.raises(ValueError, match=r"^array: .* so wide"):
        isac.NOMP().estimate(wide)
    grating = isac.ArbitraryArray(1.1 * np.argwhere(np.ones((6, 4))))
    alike = isac.NOMP().estimate(replace(observation, array=grating))
    assert any("look the same" in text for text in alike.warnings)
