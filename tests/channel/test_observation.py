"""An observation is what was given, whatever its memory looks like."""

from __future__ import annotations

from dataclasses import fields, replace

import numpy as np
import pytest

import isac_toolbox as isac

ARRAYS = (
    "received",
    "pilots",
    "pilot_mask",
    "subcarrier_frequencies_hz",
    "bs_position_m",
    "user_positions_m",
    "user_position_std_m",
    "time_offset_std_s",
    "constellation",
    "region_m",
)


def big_endian(value: np.ndarray) -> np.ndarray:
    return value.astype(value.dtype.newbyteorder(">"))


def strided(value: np.ndarray) -> np.ndarray:
    wide = np.full(tuple(3 * n for n in value.shape), 7, value.dtype)
    part = wide[tuple(slice(1, None, 3) for _ in value.shape)]
    part[...] = value
    return part


def reversed_view(value: np.ndarray) -> np.ndarray:
    turned = tuple(slice(None, None, -1) for _ in value.shape)
    return np.ascontiguousarray(value[turned])[turned]


def read_only(value: np.ndarray) -> np.ndarray:
    frozen = value.copy()
    frozen.setflags(write=False)
    return frozen


def unaligned(value: np.ndarray) -> np.ndarray:
    raw = np.zeros(value.nbytes + 1, np.uint8)
    moved = raw[1:].view(value.dtype).reshape(value.shape)
    moved[...] = value
    return moved


LAYOUTS = (big_endian, np.asfortranarray, strided, reversed_view, read_only, unaligned, np.ndarray.tolist)


@pytest.fixture(scope="module")
def block() -> isac.UplinkObservation:
    scenario = isac.Scenario(array_shape=(3, 2), n_subcarriers=8, n_users=2, n_scatterers=2, snr_db=20)
    obs = scenario.simulate(0).observation
    return replace(obs, user_position_std_m=[[0.3, 0.2, 0.1]] * 2, time_offset_std_s=[5e-9, 4e-9])


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: layout.__name__)
def test_the_layout_of_arrays_changes_no_bit(block, layout):
    other = replace(block, **{name: layout(np.array(getattr(block, name))) for name in ARRAYS})
    for name in ARRAYS:
        found, expected = getattr(other, name), getattr(block, name)
        assert (found.dtype, found.shape) == (expected.dtype, expected.shape), name
        assert found.tobytes() == expected.tobytes(), name
    for estimator in (isac.LeastSquares(), isac.NOMP(), isac.EMTurboBiSVBI(max_iter=3)):
        found, expected = estimator.estimate(other), estimator.estimate(block)
        for field in fields(found):
            value = getattr(expected, field.name)
            if isinstance(value, np.ndarray):
                assert getattr(found, field.name).tobytes() == value.tobytes(), field.name


def test_single_precision_is_taken_as_what_it_holds(block):
    single = replace(block, received=block.received.astype(np.complex64))
    assert np.array_equal(single.received, block.received.astype(np.complex64).astype(complex))
    assert single.received.dtype == np.complex128


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("subcarrier_frequencies_hz", np.arange(8) * 1e-9, r"must be 0\.001 Hz apart or more, got 1e-09"),
        (
            "subcarrier_frequencies_hz",
            np.arange(8) * 1e17,
            "must not be beyond 1e.16, got a magnitude of 7e.17",
        ),
        ("bs_position_m", [0.0, 0.0, 1e200], "must not be beyond 1e.12"),
        ("user_positions_m", np.full((2, 3), 1e13), "must not be beyond 1e.12"),
        ("user_position_std_m", 1e13, "must not be beyond 1e.12"),
        ("region_m", [[0.0, 0.0, 0.0], [1e20, 1.0, 1.0]], "must not be beyond 1e.12"),
        ("time_offset_std_s", 2e3, "must not be beyond 1000"),
        ("time_offset_std_s", 1e-60, "must be zero or at least 1e-50, got 1e-60"),
        ("user_position_std_m", [0.1, 0.0, 1e-99], "must be zero or at least 1e-50"),
        ("element_gain_std", 1e-200, "must be zero or at least 1e-50"),
        ("coupling_std", 1e-200, "must be zero or at least 1e-50"),
    ],
)
def test_numbers_whose_squares_are_none_are_refused(block, name, value, message):
    with pytest.raises(ValueError, match=f"^{name} {message}"):
        replace(block, **{name: value})
