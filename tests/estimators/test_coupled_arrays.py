"""Elements that hear each other, and panels with phases of their own, through EMTurboBiSVBI and the bound."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from numpy.testing import assert_allclose

import isac_toolbox as isac
from helpers.scenes import SMALL, assert_no_nan, complex_normal
from isac_toolbox.channel.array import SPEED_OF_LIGHT_M_S
from isac_toolbox.channel.coupling import CouplingKinds
from isac_toolbox.channel.imperfections import coupling_matrix
from isac_toolbox.channel.model import multi_user_channel

ARRAY = isac.UniformPlanarArray((3, 2))
URBAN = isac.Scenario.load("urban_uplink").replace(snr_db=20.0)


def test_kinds_hold_what_a_simulation_draws():
    kinds = CouplingKinds.of(ARRAY)
    assert kinds.offsets[0].tolist() in ([0, 1], [1, 0]) and len(kinds.offsets) == 5
    drawn = coupling_matrix(ARRAY, 0.2, 2.0)
    means = kinds.sums(drawn) / kinds.sums(np.ones((6, 6)))
    assert_allclose(kinds.matrix(means), drawn, atol=1e-12)
    assert_allclose(np.abs(means), 0.2 * kinds.relative_stds)


def test_sums_and_products_of_kinds():
    rng = np.random.default_rng(0)
    kinds, values = CouplingKinds.of(ARRAY), complex_normal(rng, (6, 6))
    units = np.stack([kinds.matrix(unit) - np.eye(6) for unit in np.eye(5)])
    assert_allclose(kinds.sums(values), np.einsum("rij,ij->r", units, values))
    assert_allclose(kinds.applied(values), units @ values)
    assert_allclose(kinds.sums_of(np.stack([values, 2 * values]))[:, 1], 2 * kinds.sums(values))


def test_coupling_costs_what_the_bound_says():
    off = {"element_gain_std": 0.03, "element_phase_std_rad": 0.05}
    simulation = URBAN.replace(coupling=0.1, **off).simulate(1)
    result = isac.EMTurboBiSVBI().estimate(simulation.observation)
    bound = isac.bounds.hybrid_crb(simulation)
    assert isac.metrics.channel_nmse_db(result.channel, simulation.truth.channel) < bound.channel_nmse_db + 1
    away = np.abs(result.coupling_matrix - simulation.truth.coupling_matrix)
    assert away.max() < 6 * result.coupling_matrix_std.max()
    assert result.misfit.failing == () and result.warnings == ()
    assert_no_nan(result)


def test_the_bound_of_coupling_is_between_none_and_all():
    """A prior of nothing is the bound of a coupling that is known; a wider one costs more."""
    simulation = SMALL.replace(coupling=0.1).simulate(0)
    bounds = [
        isac.bounds.hybrid_crb(
            replace(simulation, observation=replace(simulation.observation, coupling_std=std))
        ).channel_nmse
        for std in (None, 1e-9, 0.02, 0.3)
    ]
    assert_allclose(bounds[1], bounds[0], rtol=1e-6)
    assert bounds[1] < bounds[2] < bounds[3]


def test_results_keep_their_coupling(tmp_path):
    result = isac.EMTurboBiSVBI().estimate(SMALL.replace(coupling=0.05).simulate(0).observation)
    loaded = isac.EstimationResult.load(result.save(tmp_path / "result.npz"))
    assert_allclose(loaded.coupling_matrix, result.coupling_matrix)
    assert_allclose(loaded.coupling_matrix_std, result.coupling_matrix_std)


def test_a_calibration_refuses_coupling():
    obs = replace(SMALL.simulate(0).observation, element_gain_std=0.1, coupling_std=0.1)
    with pytest.raises(ValueError, match=r"observations\[0\] must be without coupling_std"):
        isac.calibrate([obs])


def test_phases_of_panels_are_found():
    sim, carrier_hz = SMALL.replace(array_shape=(8, 3), snr_db=20.0).simulate(1), SMALL.carrier_hz
    panel, wavelength = isac.UniformPlanarArray((4, 3)), SPEED_OF_LIGHT_M_S / SMALL.carrier_hz
    mast = isac.PanelArray([panel, panel], np.array([[0, -1.5, 0], [0, 1.5, 0]]) * wavelength, carrier_hz)
    frequencies, truth = sim.observation.subcarrier_frequencies_hz, sim.truth
    channel = multi_user_channel(truth.environment, mast, frequencies, truth.time_offsets_s)
    power = [np.mean(np.abs(h) ** 2, axis=(1, 2)) for h in (truth.channel, channel)]
    channel *= np.sqrt(power[0] / power[1])[:, None, None]
    channel = channel * np.exp(2.3j * mast.panel_of_element)
    noise = np.sqrt(truth.noise_variance) * complex_normal(np.random.default_rng(0), (32, 24, 8))
    received = np.einsum("knm,knt->nmt", channel, truth.symbols) + noise
    obs = replace(sim.observation, received=received, array=mast)
    told = isac.EMTurboBiSVBI().estimate(replace(obs, panel_phase_std_rad=1.81))
    known = isac.EMTurboBiSVBI().estimate(replace(obs, element_response=np.exp(2.3j * mast.panel_of_element)))
    nmse_db = [isac.metrics.channel_nmse_db(r.channel, channel) for r in (told, known)]
    assert nmse_db[0] < nmse_db[1] + 1.5
    turned = np.angle(told.element_response[12] / told.element_response[0])
    assert turned == pytest.approx(2.3, abs=0.15)
