"""Sums over an even raster at a short stretch of lengths."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose

from helpers.scenes import complex_normal
from isac_toolbox.channel.atoms.zoom import kernel_transform, zoom_pays, zoomed


def direct(columns, first, step, count, origin):
    turns = first + step * np.arange(count)
    return np.exp(2j * np.pi * np.multiply.outer(turns, np.arange(len(columns)) - origin)) @ columns


@given(
    n_places=st.integers(1, 900),
    first=st.floats(-3, 3),
    density=st.integers(2, 40),
    count=st.integers(1, 30),
    origin=st.floats(-500, 500),
)
def test_it_is_the_sum_wherever_it_lies(n_places, first, density, count, origin):
    """Of any stretch, of places that are no multiple of what is gathered, fewer than that included."""
    step = 1 / (2 * density * count)
    columns = complex_normal(np.random.default_rng(n_places), (n_places, 3))
    expected = direct(columns, first, step, count, origin)
    assert_allclose(
        zoomed(columns, first, step, count, origin), expected, atol=1e-11 * np.sum(np.abs(columns))
    )


def test_single_precision_stays_single():
    columns = complex_normal(np.random.default_rng(0), (3000, 5)).astype(np.complex64)
    found = zoomed(columns, 0.1, 1 / 6000, 100, 0.0)
    assert found.dtype == np.complex64
    expected = direct(columns.astype(complex), 0.1, 1 / 6000, 100, 0.0)
    assert_allclose(found, expected, atol=2e-6 * np.abs(expected).max())


def test_it_pays_for_short_stretches():
    assert zoom_pays(1 / 6552, 215) and not zoom_pays(1 / 1024, 240) and not zoom_pays(1 / 128, 128)


@pytest.mark.parametrize("angle", [0.0, 3.0, 20.0])
def test_the_kernels_transform_is_its_integral(angle):
    z = np.linspace(-1, 1, 200_001)
    value = np.exp(32.2 * (np.sqrt(1 - z**2) - 1)) * np.cos(angle * z)
    assert_allclose(kernel_transform(np.array([angle])), np.sum(value) * (z[1] - z[0]), rtol=1e-6)
