"""Arrays of several panels: places of elements, responses, derivatives, files, errors by name."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from numpy.testing import assert_allclose

import isac_toolbox as isac
from isac_toolbox.channel.array import SPEED_OF_LIGHT_M_S
from isac_toolbox.estimators.scene.caveats import unseen_cosines

CARRIER_HZ = 3.5e9
WAVELENGTH_M = SPEED_OF_LIGHT_M_S / CARRIER_HZ
PANELS = [
    isac.UniformPlanarArray((2, 3), azimuth_rad=0.5, elevation_rad=-0.1),
    isac.UniformPlanarArray((2, 2), (0.5, 0.8), azimuth_rad=-0.3),
]
PLACES_M = np.array([[0.0, 0.4, 0.1], [0.1, -0.5, 0.0]])
MAST = isac.PanelArray(PANELS, PLACES_M, CARRIER_HZ)
DIRECTION = np.array([0.8, 0.36, 0.48])


def test_elements_are_where_their_panels_have_them():
    expected = np.vstack([p.element_offsets_m(CARRIER_HZ) + x for p, x in zip(PANELS, PLACES_M, strict=True)])
    expected -= expected.mean(axis=0)
    assert_allclose(MAST.element_offsets_m(CARRIER_HZ), expected, atol=1e-15)
    phases = 2 * np.pi * expected @ DIRECTION / WAVELENGTH_M
    assert_allclose(MAST.steering(DIRECTION), np.exp(1j * phases), atol=1e-12)
    assert MAST.panel_of_element.tolist() == [0] * 6 + [1] * 4
    assert MAST.n_elements == 10 and "2 panels with 10 elements" in MAST.description


def test_each_panel_responds_as_alone_but_for_one_phase():
    response = MAST.steering(DIRECTION)
    for index, panel in enumerate(PANELS):
        turns = response[MAST.panel_of_element == index] / panel.steering(DIRECTION)
        assert_allclose(turns, np.full(panel.n_elements, turns[0]), atol=1e-12)


def test_derivatives_are_those_of_the_response():
    u_h, u_v, step = np.array([0.2, -0.4]), np.array([0.1, 0.3]), 1e-6
    _, in_h, in_v = MAST.response_with_derivatives(u_h, u_v)
    for derivative, change in ((in_h, (step, 0.0)), (in_v, (0.0, step))):
        ahead = MAST.steering_from_cosines(u_h + change[0], u_v + change[1])
        behind = MAST.steering_from_cosines(u_h - change[0], u_v - change[1])
        assert_allclose(derivative, (ahead - behind) / (2 * step), atol=1e-6)


def test_one_panel_is_the_planar_array():
    alone = isac.PanelArray(PANELS[:1], [[3.0, -1.0, 2.0]], CARRIER_HZ)
    assert_allclose(alone.axes, PANELS[0].axes, atol=1e-15)
    assert_allclose(alone.steering(DIRECTION), PANELS[0].steering(DIRECTION), atol=1e-12)
    point = np.array([20.0, 3.0, -4.0])
    assert_allclose(
        alone.spherical_steering(point, CARRIER_HZ), PANELS[0].spherical_steering(point, CARRIER_HZ)
    )


def test_the_common_front_is_the_mean_boresight():
    mean = (PANELS[0].axes[0] + PANELS[1].axes[0]) / 2
    assert_allclose(MAST.axes[0], mean / np.linalg.norm(mean))
    assert isac.PanelArray(PANELS, PLACES_M, CARRIER_HZ, 0.1, 0.2).azimuth_rad == 0.1


def test_observations_keep_their_panels(tmp_path):
    obs = isac.Scenario(array_shape=(5, 2), n_subcarriers=4, n_scatterers=2).simulate(0).observation
    obs = replace(obs, array=MAST, element_phase_std_rad=0.1)
    again = isac.UplinkObservation.load(obs.save(tmp_path / "block")).array
    assert isinstance(again, isac.PanelArray) and again.panels == tuple(PANELS)
    assert np.array_equal(again.positions_wavelengths, MAST.positions_wavelengths)
    with pytest.raises(ValueError, match=r"carrier_hz must be that of the panels, 35.*, got 2"):
        replace(obs, carrier_hz=2e9)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"panels": PANELS[0]}, TypeError, "panels must be a sequence of UniformPlanarArray, got Uniform"),
        ({"panels": [PANELS[0], "south"]}, TypeError, "panels must be UniformPlanarArray each, got str"),
        ({"panels": [], "places_m": np.zeros((0, 3))}, ValueError, "at least one panel, got none"),
        ({"places_m": PLACES_M[:1]}, ValueError, r"places_m must have shape \(P, 3\) = \(2, 3\)"),
        ({"places_m": [[0, 0, np.nan], [0, 1, 0]]}, ValueError, "places_m must be finite"),
        ({"panels": [PANELS[1]] * 2, "places_m": np.zeros((2, 3))}, ValueError, "keep panels apart, got 4"),
        ({"carrier_hz": 0.0}, ValueError, "carrier_hz"),
        (
            {"panels": [isac.UniformPlanarArray(azimuth_rad=a) for a in (0, np.pi)]},
            ValueError,
            "no common front: give azimuth_rad",
        ),
    ],
)
def test_bad_panels_are_named(change, error, message):
    with pytest.raises(error, match=message):
        isac.PanelArray(**{"panels": PANELS, "places_m": PLACES_M, "carrier_hz": CARRIER_HZ, **change})


@pytest.mark.parametrize(("size", "is_said"), [(4, True), (8, False)])
def test_small_panels_far_apart_whose_directions_look_alike_are_said(size, is_said):
    faces = [isac.UniformPlanarArray((size, 4), azimuth_rad=angle) for angle in (0.2, -0.2)]
    mast = isac.PanelArray(faces, [[0.0, 0.6, 0.0], [0.0, -0.6, 0.0]], CARRIER_HZ)
    said = unseen_cosines(mast)
    assert any("look the same" in text for text in said) == is_said
