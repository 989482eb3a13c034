"""MUSIC beside that of pyroomacoustics (extra ``bench``), on the same snapshots."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.testing import assert_allclose

import isac_toolbox as isac
from isac_toolbox.estimators import music
from isac_toolbox.estimators.music import MusicModel

SCENARIO = isac.Scenario(
    array_shape=(5, 4), n_subcarriers=24, n_users=1, n_scatterers=2, n_pilot_symbols=1, n_data_symbols=0
)


@pytest.mark.parametrize("snr_db", [0.0, 25.0])
def test_the_spectrum_is_that_of_pyroomacoustics(snr_db, monkeypatch):
    """Its covariance, eigenvectors and noise subspace; ours of the small Gram of snapshots."""
    doa = pytest.importorskip("pyroomacoustics").doa
    taken = []

    def listening(snapshots):
        taken.append(snapshots)
        return subspace(snapshots)

    subspace = music._signal_subspace
    monkeypatch.setattr(music, "_signal_subspace", listening)
    model = MusicModel.from_observation(SCENARIO.replace(snr_db=snr_db).simulate(0).observation)
    (snapshots,), (basis,) = taken, model.subspaces
    rng = np.random.default_rng(0)
    lengths, directions = rng.uniform(20, 120, 50), rng.standard_normal((50, 3))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    atoms = (
        np.exp(-1j * np.multiply.outer(lengths, model.wavenumbers_per_m))[:, :, None]
        * np.stack([model.array.steering(direction) for direction in directions])[:, None]
    )
    atoms = atoms.reshape(50, -1)

    n_sensors = len(snapshots)
    peer = doa.MUSIC(
        np.zeros((2, n_sensors)), fs=16_000, nfft=4, num_src=basis.shape[2], azimuth=np.linspace(0, 6, 50)
    )
    peer.mode_vec = np.repeat(atoms.T[None], 3, axis=0)
    peer.locate_sources(np.repeat(snapshots[:, None], 3, axis=1), freq_bins=np.array([1]))
    share = model.projection(0, lengths, directions)
    assert_allclose(np.ravel(peer.grid.values), 1 / (n_sensors * (1 - share)), rtol=1e-6)
