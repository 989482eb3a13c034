"""Files with a wrong bit or an end too soon: refused by name or whole, never half of one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import isac_toolbox as isac
from helpers.faults import fingerprint, flipped, how_many, refused_or_whole, tally, truncated
from helpers.sweeps import TINY, metrics_of
from isac_toolbox.interop import deepmimo

BLOCK = isac.Scenario(array_shape=(2, 2), n_subcarriers=4, n_users=2, n_scatterers=2, n_data_symbols=2)


def observation(folder):
    path = BLOCK.simulate(0).observation.save(folder / "block.npz")
    return path, lambda: isac.UplinkObservation.load(path)


def result(folder):
    path = isac.LeastSquares().estimate(BLOCK.simulate(0).observation).save(folder / "result.npz")
    return path, lambda: isac.EstimationResult.load(path)


def environment(folder):
    path = folder / "traced.npz"
    rays = {
        "bs_position_m": np.zeros(3),
        "ue_position_m": np.array([[50.0, 5.0, 1.5]]),
        "path_ue": np.zeros(2, int),
        "path_depth": np.array([0, 1]),
        "path_gain": np.array([1.0, 0.3j]),
        "path_delay_s": np.array([1.675e-7, 1.8e-7]),
        "path_first_bounce_m": np.array([[np.nan] * 3, [30.0, 10.0, 3.0]]),
    }
    np.savez_compressed(path, **rays)
    return path, lambda: isac.load_traced(path)


def store(folder):
    path = folder / "sweep.db"
    scenario = isac.Scenario.load("urban_uplink").replace(**TINY)
    isac.sweep(scenario, {"snr_db": [0, 10]}, ["ls"], trials=3, store=path)

    def load():
        loaded = isac.load_sweep(path)
        return [*sorted(metrics_of(loaded)), repr(loaded.scenario), loaded.seed, loaded.version]

    return path, load


def single_array(folder):
    path = folder / "power_t001_tx000_r002.npy"
    np.save(path, np.arange(12.0).reshape(3, 4))
    return path, lambda: np.shape(deepmimo._read(folder, "power", (1, 0, 2)))  # npy has no checksum


MADE = {make.__name__: make for make in (observation, result, environment, store, single_array)}


@pytest.mark.parametrize("kind", MADE)
def test_damaged_files_are_refused_or_whole(kind, tmp_path):
    path, load = MADE[kind](tmp_path)
    content, whole = path.read_bytes(), fingerprint(load())
    for changed in flipped(content, how_many(25, 800)):
        refused_or_whole(f"{kind}, a bit flipped", path, changed, load, whole)
    for changed in truncated(content, how_many(8, 200)):
        refused_or_whole(f"{kind}, cut short", path, changed, load, whole)


def test_damaged_scenarios_are_refused_or_valid(tmp_path):
    """A text has no checksum: what comes of it is a valid scenario, or an error with its name."""
    path = tmp_path / "own.toml"
    content = isac.Scenario.load("urban_uplink").dump(path).read_bytes()
    for changed in [*flipped(content, how_many(40, 1500)), *truncated(content, how_many(8, 200))]:
        path.write_bytes(changed)
        try:
            isac.Scenario.load(path)
            tally("scenario, a bit flipped or cut short", "another valid one")
        except ValueError as error:
            assert path.name in str(error)
            tally("scenario, a bit flipped or cut short", "refused by name")


def test_a_damaged_store_is_not_resumed(tmp_path):
    path, _ = store(tmp_path)
    content = path.read_bytes()
    scenario = isac.Scenario.load("urban_uplink").replace(**TINY)
    at = content.index(b'"n_users": 2') + len(b'"n_users": ')
    path.write_bytes(content[:at] + b"3" + content[at + 1 :])
    for attempt in (lambda: isac.load_sweep(path), lambda: isac.sweep(scenario, None, ["ls"], store=path)):
        with pytest.raises(ValueError, match=r"sweep\.db is damaged: the checksum of settings \w+ is wrong"):
            attempt()
    path.write_bytes(content)
    assert len(isac.load_sweep(path).rows) == 6


def test_a_store_without_checksums_is_read(tmp_path):
    """As earlier versions made them."""
    import sqlite3

    path, load = store(tmp_path)
    before = load()
    connection = sqlite3.connect(path)
    connection.execute("DROP TABLE checks")
    connection.close()
    assert load() == before
    scenario = isac.Scenario.load("urban_uplink").replace(**TINY)
    isac.sweep(scenario, {"snr_db": [0, 10]}, ["ls"], trials=4, store=path)
    assert len(isac.load_sweep(path).rows) == 8


@pytest.mark.parametrize("load", [isac.UplinkObservation.load, isac.EstimationResult.load, isac.load_traced])
def test_nothing_waits_for_a_pipe(load, tmp_path):
    import os

    if not hasattr(os, "mkfifo"):
        pytest.skip("no pipes here")
    os.mkfifo(tmp_path / "pipe.npz")
    with pytest.raises((ValueError, FileNotFoundError), match=r"pipe\.npz"):
        load(tmp_path / "pipe.npz")


def test_a_name_is_before_what_is_wrong_inside(tmp_path):
    path, load = result(tmp_path)
    with np.load(path) as archive:
        arrays = dict(archive)
    for name, value in {"ambiguities": np.zeros(3), "history": np.zeros((1, 2)), "n_iter": "x"}.items():
        np.savez(path, **{**arrays, name: np.asarray(value)})
        with pytest.raises(ValueError, match=r"result\.npz"):
            load()


def written_whole(path: Path) -> list[str]:
    return [p.name for p in path.parent.iterdir()]


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    path, _ = observation(tmp_path)
    before = path.read_bytes()

    def full_disk(file, **arrays):
        file.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez_compressed", full_disk)
    with pytest.raises(OSError, match="No space"):
        BLOCK.simulate(1).observation.save(path)
    assert path.read_bytes() == before and written_whole(path) == ["block.npz"]


def test_a_link_to_a_file_stays_a_link(tmp_path):
    path, load = observation(tmp_path)
    link = tmp_path / "link.npz"
    link.symlink_to(path)
    BLOCK.simulate(1).observation.save(link)
    assert link.is_symlink() and np.array_equal(load().received, BLOCK.simulate(1).observation.received)
