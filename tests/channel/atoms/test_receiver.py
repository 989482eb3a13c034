"""Rasters of subcarriers: holes, any order, and where there is none."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.testing import assert_array_equal

import isac_toolbox as isac
from isac_toolbox.channel.atoms.receiver import Raster, Receiver, tone_step_hz

PLACES = {
    "full": np.arange(12),
    "no dc": np.delete(np.arange(13), 6),
    "guards": np.r_[0:5, 9:14, 20:26],
    "no neighbours": np.array([0, 2, 5, 7, 10, 12]),
    "any order": np.array([5, 0, 9, 3, 4, 1]),
    "pairs": np.array([0, 6, 10, 15]),
}


@pytest.mark.parametrize("places", PLACES.values(), ids=PLACES)
@pytest.mark.parametrize("step_hz", [30e3, 1e6 / 3])
def test_a_raster_has_every_subcarrier_in_its_place(places, step_hz):
    raster = Raster.of(step_hz * (places - 4.5) + 1e7)
    assert raster is not None
    assert raster.step_hz == pytest.approx(step_hz, rel=1e-9)
    assert_array_equal(raster.place, places)
    assert raster.size == places.max() + 1 and raster.has_holes == (raster.size > places.size)
    values = np.arange(2 * places.size).reshape(2, -1) + 1.0
    spread = raster.spread(values)
    assert_array_equal(spread[:, places], values)
    assert spread.sum() == values.sum()


def test_a_comb_is_a_raster_of_its_own_step():
    raster = Raster.of(15e3 * np.arange(3, 100, 4))
    assert raster is not None and raster.step_hz == 60e3 and not raster.has_holes


@pytest.mark.parametrize(
    "places",
    [
        np.array([0.0]),
        np.r_[0:8, 8.3],
        np.cumsum(np.random.default_rng(0).uniform(1, 2, 20)),
        [0.0, 1.0, 90.0],
    ],
    ids=["one", "one beside", "irregular", "too sparse"],
)
def test_no_raster(places):
    assert Raster.of(30e3 * np.asarray(places)) is None


def test_the_step_of_used_tones_is_that_of_the_raster():
    frequencies = 30e3 * np.array([0, 2, 5, 7, 10, 12])
    assert tone_step_hz(frequencies, np.ones(6, bool)) == pytest.approx(30e3)
    assert tone_step_hz(frequencies, np.isin(np.arange(6), [0, 1, 4, 5])) == pytest.approx(60e3)


@pytest.mark.parametrize("n_sub", [3, 31, 64])
def test_delay_factors_are_exponentials(n_sub):
    frequencies = 1e5 + 240e3 * np.arange(n_sub)
    lengths = np.array([0.0, 12.5, -300.0, 4321.0])
    for used in (frequencies, np.delete(frequencies, 1)):
        receiver = Receiver(isac.UniformPlanarArray((2, 2)), np.zeros(3), used)
        expected = np.exp(-1j * np.multiply.outer(receiver.wavenumbers_per_m, lengths))
        np.testing.assert_allclose(receiver.delay_factors(lengths), expected, atol=1e-12)
        assert receiver.delay_factors(np.zeros(0)).shape == (used.size, 0)
