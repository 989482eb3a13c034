"""Folders of DeepMIMO 4, made here of a street whose rays are known."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.testing import assert_allclose

import isac_toolbox as isac
from helpers.foreign import street_folder
from helpers.rays import CARRIER_HZ, STATION_M, USERS_M, rays
from isac_toolbox.channel.geometry import delay_response
from isac_toolbox.channel.model import multi_user_channel
from isac_toolbox.interop import deepmimo

ARRAY = isac.UniformPlanarArray((3, 2))
FREQUENCIES_HZ = (np.arange(16) - 7.5) * 1e6


def true_channel(users):
    """Channel (K, N, M): stored amplitudes and phases, delays on centred subcarriers, directions."""
    channel = np.zeros((len(users), FREQUENCIES_HZ.size, ARRAY.n_elements), complex)
    for row, k in enumerate(users):
        for ray in rays(USERS_M[k]):
            towards = (ray.points_m[0] if len(ray.points_m) else USERS_M[k]) - STATION_M
            over_band = delay_response(ray.length_m / 299_792_458.0, FREQUENCIES_HZ)
            response = ARRAY.steering(towards / np.linalg.norm(towards))
            channel[row] += ray.gain * over_band[:, None] * response
    return channel


@pytest.mark.parametrize("ending", ["npz", "mat", "npy"])
def test_a_folder_has_the_channel_of_its_rays(tmp_path, ending):
    folder = street_folder(tmp_path, ending)
    environment = deepmimo.load(folder, users=[1, 0])
    assert deepmimo.carrier_hz(folder) == CARRIER_HZ
    assert_allclose(environment.user_positions_m, USERS_M[[1, 0]])
    assert environment.scatterer_positions_m.shape == (6, 3) and len(environment.extra_user) == 2
    channel = multi_user_channel(environment, ARRAY, FREQUENCIES_HZ, np.zeros(2))
    assert isac.metrics.channel_nmse_db(channel, true_channel([1, 0])) < -100


def test_points_of_users_are_merged(tmp_path):
    """Two users whose files name the same place of a bounce share a scatterer."""
    street_folder(tmp_path)
    path = tmp_path / "inter_pos_t001_tx000_r002.npz"
    points = np.load(path)["inter_pos"]
    points[1, 1, 0] = points[0, 1, 0] + 1e-4
    np.savez(path, inter_pos=points)
    assert len(deepmimo.load(tmp_path, users=[0, 1]).scatterer_positions_m) == 5


def test_users_without_a_path_stay(tmp_path):
    environment = deepmimo.load(street_folder(tmp_path))
    assert environment.path_counts.tolist() == [5, 5, 0]


def test_every_kind_of_a_single_interaction_is_a_point(tmp_path):
    for kind in (1, 2, 3, 4):
        environment = deepmimo.load(street_folder(tmp_path, inter_of_first=kind), users=[0])
        assert len(environment.scatterer_positions_m) == 3
    environment = deepmimo.load(street_folder(tmp_path, inter_of_first=21), users=[0])
    assert len(environment.scatterer_positions_m) == 2 and len(environment.extra_user) == 2


def test_of_several_sets_one_has_to_be_chosen(tmp_path):
    folder = street_folder(tmp_path, sets=((1, 0, 2), (1, 1, 2), (3, 0, 2)))
    with pytest.raises(ValueError, match=r"choose one of \(1, 0, 2\), \(1, 1, 2\), \(3, 0, 2\)"):
        deepmimo.load(folder)
    assert deepmimo.load(folder, transmitter_set=1, transmitter=1).n_users == 3


@pytest.mark.parametrize(
    ("spoil", "given", "error", "message"),
    [
        (lambda f: (f / "params.json").unlink(), {}, FileNotFoundError, "no params.json of DeepMIMO"),
        (
            lambda f: (f / "delay_t001_tx000_r002.npz").unlink(),
            {},
            FileNotFoundError,
            "no delay_t001_tx000_r002",
        ),
        (lambda f: None, {"users": [3]}, ValueError, r"users must index the receivers, 0\.\.2, got \[3\]"),
        (lambda f: None, {"receiver_set": 5}, ValueError, r"choose one of \(1, 0, 2\)"),
        (
            lambda f: np.savez(f / "phase_t001_tx000_r002.npz", other=1),
            {},
            ValueError,
            "phase_t001_tx000_r002.npz must hold 'phase'",
        ),
        (
            lambda f: np.savez(f / "phase_t001_tx000_r002.npz", phase=np.zeros((3, 4))),
            {},
            ValueError,
            "phase of .* must have the shape of power",
        ),
    ],
)
def test_bad_folders_are_named(tmp_path, spoil, given, error, message):
    spoil(street_folder(tmp_path))
    with pytest.raises(error, match=message):
        deepmimo.load(tmp_path, **given)
