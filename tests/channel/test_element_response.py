"""Responses of a calibration: what they hold, files, and what they make of an observation."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

import isac_toolbox as isac
from helpers.scenes import SMALL

M = 24
MEAN = np.exp(0.1j * np.arange(M)) * np.linspace(0.9, 1.1, M)


def response(**changes) -> isac.ElementResponse:
    covariance = np.diag(np.linspace(1e-4, 9e-4, 2 * M)) + 1e-5
    return replace(
        isac.ElementResponse(MEAN, covariance, n_blocks=3, left_out=("block 2: misfit",)), **changes
    )


def test_deviations_are_those_of_the_covariance():
    known = response()
    assert known.gain_std[0] == pytest.approx(np.sqrt(1.1e-4))
    assert known.phase_std_rad[-1] == pytest.approx(np.sqrt(9.1e-4))
    np.testing.assert_allclose(known.std, np.abs(MEAN) * np.hypot(known.gain_std, known.phase_std_rad))


def test_files_hold_all_of_it(tmp_path):
    known = response(working=np.arange(M) != 4)
    again = isac.ElementResponse.load(known.save(tmp_path / "array"))
    for name in ("mean", "covariance", "working"):
        assert np.array_equal(getattr(again, name), getattr(known, name))
    assert (again.n_blocks, again.left_out) == (3, ("block 2: misfit",))
    with pytest.raises(ValueError, match="misses the key"):
        np.savez(tmp_path / "other.npz", mean=MEAN)
        isac.ElementResponse.load(tmp_path / "other.npz")


def test_an_observation_takes_it_as_prior_or_as_known():
    obs = replace(SMALL.simulate(0).observation, element_gain_std=0.3, array_rotation_std_rad=0.01)
    known = response(working=np.arange(M) != 4)
    prior = known.applied(obs)
    assert np.array_equal(prior.hardware.element_covariance, known.covariance)
    assert np.array_equal(prior.hardware.response, MEAN) and prior.array_rotation_std_rad == 0.01
    assert np.flatnonzero(~prior.element_mask).tolist() == [4]
    assert not known.applied(obs, known=True).hardware.has_element_errors


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"mean": np.zeros(M)}, ValueError, "mean must not be zero"),
        ({"covariance": np.eye(3)}, ValueError, r"covariance must have shape \(2 M, 2 M\)"),
        ({"working": np.ones(M)}, TypeError, "working must be boolean"),
        ({"n_blocks": -1}, ValueError, "n_blocks"),
    ],
)
def test_bad_values_are_named(changes, error, message):
    with pytest.raises(error, match=message):
        response(**changes)


def test_other_arrays_and_things_are_refused():
    obs = SMALL.replace(array_shape=(2, 2)).simulate(0).observation
    with pytest.raises(ValueError, match="observation must have the 24 elements of these responses, got 4"):
        response().applied(obs)
    with pytest.raises(TypeError, match="observation must be an UplinkObservation, got str"):
        response().applied("block")
