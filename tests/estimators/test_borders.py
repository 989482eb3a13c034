"""Scatterers outside the region are not pulled onto its border."""

from __future__ import annotations

from dataclasses import fields, replace

import numpy as np
import pytest

import isac_toolbox as isac


@pytest.mark.parametrize("seed", [0, 2, 5])
@pytest.mark.parametrize(("spacing_hz", "cut_m"), [(0.5e6, 6.0), (0.25e6, 10.0)])
def test_scatterers_within_a_resolution_cell_of_the_region_stay_outside(seed, spacing_hz, cut_m):
    """Cells of 9 and 19 m; scatterers less than a cell outside were once 13 to 34 false points."""
    scenario = isac.Scenario.load("urban_uplink").replace(snr_db=20, subcarrier_spacing_hz=spacing_hz)
    simulation = scenario.simulate(seed)
    whole = simulation.observation
    low, high = whole.region_m + np.array([[0.0, cut_m, 0.0], [0.0, -cut_m, 0.0]])
    given = {f.name: getattr(whole, f.name) for f in fields(whole)}
    observation = isac.UplinkObservation(**{**given, "region_m": (low, high)})
    result = isac.EMTurboBiSVBI().estimate(observation)
    points = simulation.truth.scatterer_positions_m
    inside = np.all((points >= low) & (points <= high), axis=1)
    assert not inside.all()
    found = isac.metrics.localisation(result.scatterer_positions_m, points[inside])
    assert found.false_alarms <= 1 and found.misses <= 1
    bound_db = isac.bounds.hybrid_crb(simulation).channel_nmse_db
    assert isac.metrics.channel_nmse_db(result.channel, simulation.truth.channel) < bound_db + 3


@pytest.mark.parametrize(
    ("name", "changes"), [("moving_uplink", {}), ("urban_uplink", {"wavefront": "spherical"})]
)
def test_points_clearly_outside_are_let_go_of_in_motion_and_near_by_too(name, changes):
    """Half of the scatterers lie outside; such blocks once ran to the limit of iterations."""
    simulation = isac.Scenario.load(name).replace(snr_db=15.0, **changes).simulate(3)
    low, high = simulation.observation.region_m
    cut = 0.15 * (high - low) * [1, 1, 0]
    observation = replace(simulation.observation, region_m=(low + cut, high - cut))
    result = isac.EMTurboBiSVBI().estimate(observation)
    points = simulation.truth.scatterer_positions_m
    inside = np.all((points >= low + cut) & (points <= high - cut), axis=1)
    assert result.converged and len(result.unlocated_paths) >= np.count_nonzero(~inside) - 1
    found = isac.metrics.localisation(result.scatterer_positions_m, points[inside])
    assert found.misses == 0 and found.false_alarms <= 1
    assert isac.metrics.channel_nmse_db(result.channel, simulation.truth.channel) < -49
