"""The planar array against the plain definition of its response."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose

from isac_toolbox.channel.array import SPEED_OF_LIGHT_M_S, ArbitraryArray, UniformPlanarArray

CARRIER_HZ = 3.5e9
STEP = 1e-3


@st.composite
def arrays(draw: st.DrawFn) -> UniformPlanarArray:
    shape = draw(st.sampled_from([(1, 1), (1, 2), (2, 1), (3, 2), (2, 4), (5, 3)]))
    spacing = draw(st.tuples(st.floats(0.2, 1.2), st.floats(0.2, 1.2)))
    azimuth, elevation = draw(st.floats(-np.pi, np.pi)), draw(st.floats(-1.5, 1.5))
    return UniformPlanarArray(shape, spacing, azimuth, elevation)


def directions(seed: int, count: int = 4) -> np.ndarray:
    vectors = np.random.default_rng(seed).standard_normal((count, 3))
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def difference_quotient(function, step: float):
    """Fourth-order central difference of ``function(shift)`` at zero."""
    return (8 * (function(step) - function(-step)) - (function(2 * step) - function(-2 * step))) / (12 * step)


@given(arrays(), st.integers(0, 2**32 - 1))
@settings(max_examples=40, deadline=None)
def test_steering_is_the_plain_definition(array, seed):
    """Element ``i_h * M_v + i_v``, centred indices, phase ``+2 pi (d_h m_h u_h + d_v m_v u_v)``."""
    n_h, n_v = array.shape
    d_h, d_v = array.spacings
    ca, sa = np.cos(array.azimuth_rad), np.sin(array.azimuth_rad)
    ce, se = np.cos(array.elevation_rad), np.sin(array.elevation_rad)
    turn = np.array([[ca, -sa, 0], [sa, ca, 0], [0, 0, 1]])
    tilt = np.array([[ce, 0, -se], [0, 1, 0], [se, 0, ce]])  # lifts +x towards +z
    horizontal, vertical = turn @ tilt @ [0, 1, 0], turn @ tilt @ [0, 0, 1]
    for u in directions(seed):
        expected = np.empty(n_h * n_v, complex)
        for i_h in range(n_h):
            for i_v in range(n_v):
                m_h, m_v = i_h - (n_h - 1) / 2, i_v - (n_v - 1) / 2
                phase = 2 * np.pi * (d_h * m_h * (horizontal @ u) + d_v * m_v * (vertical @ u))
                expected[i_h * n_v + i_v] = np.exp(1j * phase)
        assert_allclose(array.steering(u), expected, atol=1e-12)


@given(arrays())
@settings(max_examples=40, deadline=None)
def test_axes_are_right_handed_and_orthonormal(array):
    boresight, horizontal, vertical = array.axes
    assert_allclose(array.axes @ array.axes.T, np.eye(3), atol=1e-14)
    assert_allclose(np.cross(boresight, horizontal), vertical, atol=1e-14)


def test_orientation_conventions():
    level = UniformPlanarArray((2, 2))
    assert_allclose(level.axes, np.eye(3), atol=0)
    left = UniformPlanarArray((2, 2), azimuth_rad=np.pi / 2)  # counter-clockwise seen from above
    assert_allclose(left.axes[0], [0, 1, 0], atol=1e-15)
    assert_allclose(left.axes[1], [-1, 0, 0], atol=1e-15)
    up = UniformPlanarArray((2, 2), elevation_rad=np.pi / 6)
    assert_allclose(up.axes[0], [np.sqrt(3) / 2, 0, 0.5], atol=1e-15)
    assert_allclose(up.axes[1], [0, 1, 0], atol=1e-15)
    both = UniformPlanarArray((2, 2), azimuth_rad=0.4, elevation_rad=0.3)
    assert np.arctan2(both.axes[0][1], both.axes[0][0]) == pytest.approx(0.4)
    assert np.arcsin(both.axes[0][2]) == pytest.approx(0.3)


def test_spacing_pair_goes_horizontal_then_vertical():
    array = UniformPlanarArray((2, 2), (0.5, 0.25))
    response = array.steering([0.0, 1.0, 0.0])  # along the horizontal axis
    assert_allclose(response, np.exp(1j * np.pi * np.array([-0.5, -0.5, 0.5, 0.5])), atol=1e-15)
    response = array.steering([0.0, 0.0, 1.0])  # along the vertical axis
    assert_allclose(response, np.exp(0.5j * np.pi * np.array([-0.5, 0.5, -0.5, 0.5])), atol=1e-15)


def test_broadcasting_keeps_leading_axes():
    array = UniformPlanarArray((3, 2), azimuth_rad=0.2)
    u = directions(0, 6).reshape(2, 3, 3)
    response = array.steering(u)
    assert response.shape == (2, 3, 6)
    assert_allclose(response[1, 2], array.steering(u[1, 2]), atol=0)


@given(arrays(), st.floats(-0.9, 0.9), st.floats(-0.9, 0.9))
@settings(max_examples=40, deadline=None)
def test_derivatives_in_direction_cosines(array, u_h, u_v):
    in_h, in_v = array.steering_derivatives(array.steering_from_cosines(u_h, u_v))
    assert_allclose(
        in_h, difference_quotient(lambda s: array.steering_from_cosines(u_h + s, u_v), STEP), atol=1e-7
    )
    assert_allclose(
        in_v, difference_quotient(lambda s: array.steering_from_cosines(u_h, u_v + s), STEP), atol=1e-7
    )


@given(arrays(), st.integers(0, 2**32 - 1), st.floats(1.0, 200.0))
@settings(max_examples=40, deadline=None)
def test_spherical_steering_is_the_plain_definition(array, seed, distance_m):
    wavelength = SPEED_OF_LIGHT_M_S / CARRIER_HZ
    n_h, n_v = array.shape
    _, horizontal, vertical = array.axes
    for point in distance_m * directions(seed):
        expected = []
        for i_h in range(n_h):
            for i_v in range(n_v):
                element = wavelength * (
                    array.spacings[0] * (i_h - (n_h - 1) / 2) * horizontal
                    + array.spacings[1] * (i_v - (n_v - 1) / 2) * vertical
                )
                excess = np.linalg.norm(point - element) - np.linalg.norm(point)
                expected.append(np.exp(-2j * np.pi / wavelength * excess))
        assert_allclose(array.spherical_steering(point, CARRIER_HZ), expected, atol=1e-9)


@given(arrays(), st.integers(0, 2**32 - 1), st.floats(1.0, 50.0))
@settings(max_examples=40, deadline=None)
def test_spherical_jacobian(array, seed, distance_m):
    for point in distance_m * directions(seed, 2):
        jacobian = array.spherical_jacobian(point, CARRIER_HZ)
        for axis in range(3):
            shift = np.eye(3)[axis]
            numeric = difference_quotient(
                lambda s, p=point, e=shift: array.spherical_steering(p + s * e, CARRIER_HZ), STEP
            )
            assert_allclose(jacobian[:, axis], numeric, atol=2e-8)


@given(arrays(), st.integers(0, 2**32 - 1))
@settings(max_examples=40, deadline=None)
def test_spherical_response_becomes_planar_far_away(array, seed):
    """The difference is the Fresnel phase: it falls as 1/distance, from a bound to nothing."""
    u = directions(seed)
    aperture = np.max(np.linalg.norm(array.element_offsets_m(CARRIER_HZ), axis=1))
    for distance_m in (1e3, 1e4, 1e5):
        gap = np.abs(array.spherical_steering(distance_m * u, CARRIER_HZ) - array.steering(u))
        fresnel = np.pi * CARRIER_HZ / SPEED_OF_LIGHT_M_S * aperture**2 / distance_m
        assert np.max(gap) <= 1.01 * fresnel + 1e-8


def test_spherical_response_differs_from_planar_nearby():
    array = UniformPlanarArray((8, 8))
    u = np.array([0.8, 0.6, 0.0])
    assert np.max(np.abs(array.spherical_steering(2 * u, CARRIER_HZ) - array.steering(u))) > 0.1


@pytest.mark.parametrize(
    ("shape", "sees"),
    [((4, 2), (True, True)), ((4, 1), (True, False)), ((1, 4), (False, True)), ((1, 1), (False, False))],
)
def test_a_cosine_that_is_not_seen_changes_nothing(shape, sees):
    array = UniformPlanarArray(shape)
    assert array.sees_cosines == sees
    here, elsewhere = array.steering_from_cosines(0.2, 0.1), array.steering_from_cosines(0.2, -0.3)
    assert np.allclose(here, elsewhere) == (not sees[1])
    elsewhere = array.steering_from_cosines(-0.4, 0.1)
    assert np.allclose(here, elsewhere) == (not sees[0])


def as_arbitrary(array: UniformPlanarArray) -> ArbitraryArray:
    """The same elements by their positions in the array's own axes."""
    offsets = array.element_offsets_m(SPEED_OF_LIGHT_M_S) @ array.axes.T
    return ArbitraryArray(offsets, array.azimuth_rad, array.elevation_rad)


@given(arrays().filter(lambda array: array.n_elements > 1), st.integers(0, 2**32 - 1))
@settings(max_examples=40, deadline=None)
def test_an_arbitrary_array_of_planar_elements_is_the_planar_array(array, seed):
    other = as_arbitrary(array)
    assert other.n_elements == array.n_elements and other.sees_cosines == array.sees_cosines
    towards = directions(seed)
    assert_allclose(other.steering(towards), array.steering(towards), atol=1e-12)
    u_h, u_v = array.direction_cosines(towards)
    for first, second in zip(
        other.response_with_derivatives(u_h, u_v), array.response_with_derivatives(u_h, u_v), strict=True
    ):
        assert_allclose(first, second, atol=1e-11)
    assert_allclose(other.element_offsets_m(CARRIER_HZ), array.element_offsets_m(CARRIER_HZ), atol=1e-12)
    points = 5.0 * towards
    assert_allclose(
        other.spherical_jacobian(points, CARRIER_HZ), array.spherical_jacobian(points, CARRIER_HZ), atol=1e-9
    )


def test_elements_anywhere_respond_to_their_positions_in_the_order_given():
    rng = np.random.default_rng(0)
    positions = rng.uniform(-1, 1, (7, 3))
    array = ArbitraryArray(positions, azimuth_rad=0.4, elevation_rad=-0.3)
    towards = directions(1)
    world = (positions - positions.mean(axis=0)) @ array.axes
    assert_allclose(array.steering(towards), np.exp(2j * np.pi * towards @ world.T), atol=1e-12)
    metres = positions * SPEED_OF_LIGHT_M_S / CARRIER_HZ
    assert_allclose(
        ArbitraryArray.from_metres(metres, CARRIER_HZ, 0.4, -0.3).steering(towards), array.steering(towards)
    )
    ahead = towards * np.where(towards @ array.axes[0] < 0, -1, 1)[:, None]
    u_h, u_v = array.direction_cosines(ahead)
    assert_allclose(array.steering_from_cosines(u_h, u_v), array.steering(ahead), atol=1e-12)
    _, in_h, in_v = array.response_with_derivatives(u_h, u_v)
    by_h = difference_quotient(lambda step: array.steering_from_cosines(u_h + step, u_v), 1e-4)
    by_v = difference_quotient(lambda step: array.steering_from_cosines(u_h, u_v + step), 1e-4)
    assert_allclose(in_h, by_h, rtol=1e-5, atol=1e-6)
    assert_allclose(in_v, by_v, rtol=1e-5, atol=1e-6)


def test_sidelobes_of_known_arrays():
    even = np.column_stack([np.arange(16) / 2, np.zeros(16)])
    assert ArbitraryArray(even).highest_sidelobe == pytest.approx(10**-1.31, rel=0.05)  # -13.1 dB
    assert ArbitraryArray(2.2 * even).highest_sidelobe > 0.9  # grating lobes
    assert ArbitraryArray([[0, 0], [0.5, 0]]).highest_sidelobe == 0


@pytest.mark.parametrize(
    ("positions", "error", "reason"),
    [
        (np.zeros((4, 2)), ValueError, "two distinct elements"),
        (np.ones((1, 3)), ValueError, "two distinct elements"),
        (np.zeros((0, 3)), ValueError, "two distinct elements"),
        (np.zeros(4), ValueError, "shape"),
        (np.zeros((4, 4)), ValueError, "shape"),
        ([[0, 0], [np.nan, 1]], ValueError, "finite"),
        ([["a", "b"], ["c", "d"]], TypeError, ""),
        ([[0, 0], [1, 1], [2, 2]], ValueError, "on a line"),
        ([[0, 0, 0], [1, 0, 0]], ValueError, "on a line"),
        ([[0, 0, 0], [1, 0, 0], [0, 1, 0], [1, 1, 0]], ValueError, "in a plane"),
    ],
)
def test_positions_that_are_no_array_are_refused(positions, error, reason):
    with pytest.raises(error, match=rf"^positions_wavelengths.*{reason}"):
        ArbitraryArray(positions)
