"""What an observation says of the receiver's hardware: shapes, errors by name, files, perfect receivers."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

import isac_toolbox as isac
from isac_toolbox.channel.hardware import HARDWARE_FIELDS

M = 4
COLOUR = np.array([[1.2, 0.3j, 0, 0], [-0.3j, 0.8, 0, 0], [0, 0, 1, 0.1], [0, 0, 0.1, 1]])
EVERYTHING = {
    "element_gain_std": 0.1,
    "element_phase_std_rad": [0.1, 0.2, 0.0, 0.1],
    "element_response": [1, 1j, 0.9, -1.1j],
    "array_rotation_std_rad": [0.01, 0.02, 0.0],
    "coupling_std": 0.05,
    "noise_covariance": COLOUR,
    "element_covariance": 0.01 * np.ones((2 * M, 2 * M)),
    "iq_image_std": [0.03, 0.0, 0.01, 0.03],
    "user_iq_image_std": 0.02,
}
PLANAR_FIELDS = [name for name in HARDWARE_FIELDS if name != "panel_phase_std_rad"]


@pytest.fixture(scope="module")
def perfect() -> isac.UplinkObservation:
    scenario = isac.Scenario(
        array_shape=(2, 2), n_subcarriers=4, n_users=2, n_scatterers=2, n_data_symbols=2, snr_db=20
    )
    return scenario.simulate(0).observation


def test_what_is_given_is_broadcast_to_all_elements(perfect):
    hardware = replace(perfect, **EVERYTHING).hardware
    assert hardware.gain_stds.tolist() == [0.1] * M
    assert hardware.phase_stds.tolist() == [0.1, 0.2, 0.0, 0.1]
    assert hardware.response.tolist() == [1, 1j, 0.9, -1.1j]
    assert hardware.rotation_stds.tolist() == [0.01, 0.02, 0.0]
    assert hardware.coupling_std == 0.05 and not hardware.estimates_noise
    assert np.array_equal(hardware.noise_covariance, COLOUR)
    assert hardware.has_element_errors and hardware.has_rotation
    assert replace(perfect, array_rotation_std_rad=0.1).hardware.rotation_stds.tolist() == [0.1] * 3


def test_the_colour_of_noise_may_be_left_to_the_estimator(perfect, tmp_path):
    obs = replace(perfect, noise_covariance="estimate")
    assert obs.hardware.estimates_noise and obs.hardware.noise_covariance is None
    again = isac.UplinkObservation.load(obs.save(tmp_path / "block"))
    assert again.noise_covariance == "estimate" and again.hardware.estimates_noise


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"element_gain_std": 0.0, "element_phase_std_rad": np.zeros(M), "coupling_std": 0},
        {"element_response": np.ones(M), "noise_covariance": np.eye(M), "array_rotation_std_rad": [0, 0, 0]},
    ],
)
def test_nothing_but_zeros_is_a_perfect_receiver(perfect, given):
    assert replace(perfect, **given).hardware is None


@pytest.mark.parametrize("name", PLANAR_FIELDS)
def test_one_field_alone_makes_it_imperfect(perfect, name):
    hardware = replace(perfect, **{name: EVERYTHING[name]}).hardware
    assert hardware is not None
    assert hardware.has_element_errors == (
        name in ("element_gain_std", "element_phase_std_rad", "element_covariance")
    )
    assert hardware.has_rotation == (name == "array_rotation_std_rad")
    assert hardware.has_images == (name in ("iq_image_std", "user_iq_image_std"))


def test_files_hold_what_is_given_and_nothing_else(perfect, tmp_path):
    for given in (EVERYTHING, {"element_gain_std": 0.1}, {}):
        path = replace(perfect, **given).save(tmp_path / "block")
        with np.load(path) as stored:
            assert {name for name in HARDWARE_FIELDS if name in stored} == set(given)
        again = isac.UplinkObservation.load(path)
        for name in PLANAR_FIELDS:
            value = getattr(again, name)
            assert value is None if name not in given else np.array_equal(value, given[name])


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        (
            "element_gain_std",
            [0.1, 0.1],
            r"must be scalar or \(M,\) with M = 4, got .* \(2,\)",
        ),
        ("element_gain_std", -0.1, "element_gain_std must be non-negative"),
        ("element_phase_std_rad", np.nan, "element_phase_std_rad must be finite"),
        ("array_rotation_std_rad", [0.1, 0.1], r"array_rotation_std_rad must be scalar or \(3,\), got"),
        ("coupling_std", [0.1, 0.1], "coupling_std must be scalar, got"),
        ("element_response", [1, 1, 1], r"element_response must have shape \(M,\) = \(4\)"),
        ("element_response", [1, 0, 1, 0], r"zeros at elements \[1, 3\]; dead elements are False"),
        ("noise_covariance", "white", "noise_covariance must be an .* or 'estimate', got 'white'"),
        ("noise_covariance", np.eye(3), r"noise_covariance must have shape \(M, M\)"),
        ("noise_covariance", 2 * np.eye(M), "must have the trace M = 4, got 8: .* noise_variance"),
        ("noise_covariance", np.diag([2.0, 2, 1, -1]), "must be positive definite, got .* -1"),
        (
            "noise_covariance",
            np.eye(M) + np.triu(np.ones((M, M)), 1),
            "must be Hermitian, .* differ by 1",
        ),
        ("element_covariance", np.eye(M), r"element_covariance must have shape \(2 M, 2 M\)"),
        ("element_covariance", np.triu(np.ones((2 * M, 2 * M))), "must be symmetric"),
        ("element_covariance", -np.eye(2 * M), "must be positive semi-definite, got an eigenvalue of -1"),
        ("panel_phase_std_rad", 0.1, "panel_phase_std_rad is of the panels .* UniformPlanarArray"),
        ("noise_covariance", np.full((M, M), np.inf), "noise_covariance must be finite"),
    ],
)
def test_bad_values_are_named(perfect, name, value, message):
    with pytest.raises(ValueError, match=message):
        replace(perfect, **{name: value})


@pytest.mark.parametrize("power", [1e-8, 1e-4, 1.0])
@pytest.mark.parametrize("wrong", ["mirror", "eigenvalue"])
def test_joint_covariances_may_be_off_by_rounding_whatever_their_size(perfect, power, wrong):
    off = np.zeros((2 * M, 2 * M))
    if wrong == "mirror":
        off[0, 1] = 1.0
    else:
        off[-1, -1] = -1.0
    covariance = power * np.diag(np.r_[np.ones(2 * M - 1), 0.0])
    taken = replace(perfect, element_covariance=covariance + 0.5e-6 * power * off)
    assert np.allclose(taken.hardware.element_covariance, covariance, atol=1e-6 * power)
    with pytest.raises(ValueError, match="element_covariance must be "):
        replace(perfect, element_covariance=covariance + 2e-6 * power * off)


@pytest.mark.parametrize("name", [name for name in PLANAR_FIELDS if name != "noise_covariance"])
def test_other_types_are_named(perfect, name):
    with pytest.raises(TypeError, match=f"^{name} must be"):
        replace(perfect, **{name: "estimate"})


def test_coupling_needs_a_grid(perfect):
    square = isac.ArbitraryArray([[0, 0], [0, 0.5], [0.5, 0], [0.5, 0.5]])
    with pytest.raises(ValueError, match=r"coupling_std is of neighbours in the grid .* ArbitraryArray"):
        replace(perfect, array=square, coupling_std=0.1)
    assert replace(perfect, array=square, coupling_std=0).hardware is None


def test_panels_have_a_phase_in_common(perfect, tmp_path):
    panel = isac.UniformPlanarArray((2, 1))
    mast = isac.PanelArray([panel, panel], [[0, -0.5, 0], [0, 0.5, 0]], carrier_hz=3.5e9)
    obs = replace(perfect, array=mast, panel_phase_std_rad=[0.0, 2.0], element_gain_std=0.1)
    covariance = obs.hardware.element_covariance
    assert np.allclose(covariance[:M, :M], 0.01 * np.eye(M))
    expected = np.zeros((M, M))
    expected[2:, 2:] = 4.0
    assert np.allclose(covariance[M:, M:], expected) and not covariance[:M, M:].any()
    again = isac.UplinkObservation.load(obs.save(tmp_path / "block"))
    assert again.panel_phase_std_rad.tolist() == [0.0, 2.0]
    with pytest.raises(ValueError, match=r"must be scalar or \(P,\) with P = 2, got shape \(3,\)"):
        replace(obs, panel_phase_std_rad=[1, 2, 3])
