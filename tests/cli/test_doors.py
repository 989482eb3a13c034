"""Nothing that is read is lost, and paths without a name are refused in one line."""

from __future__ import annotations

import pytest

from helpers.cli import fails, run

SMALL = ["--set", "n_subcarriers=16", "--set", "array_shape=[4, 4]", "--set", "n_scatterers=2"]


@pytest.fixture
def block(tmp_path):
    path = tmp_path / "b.npz"
    run("simulate", "urban_uplink", *SMALL, "-o", path)
    return path


@pytest.mark.parametrize("name", ["b.npz", "b", "./b.npz"])
def test_a_result_does_not_replace_its_observation(block, name, monkeypatch):
    monkeypatch.chdir(block.parent)
    before = block.read_bytes()
    message = fails("estimate", block, "--estimator", "ls", "--save", name)
    assert "--save" in message and "is already the observation" in message
    assert block.read_bytes() == before


def test_two_outputs_have_two_names(block, tmp_path):
    both = tmp_path / "a.npz"
    message = fails("estimate", block, "--save", both, "--plot", both)
    assert "--plot" in message  # an npz file is no picture
    (tmp_path / "a.png").touch()
    (tmp_path / "b.png").symlink_to(tmp_path / "a.png")
    (tmp_path / "a.html").symlink_to(tmp_path / "a.png")
    pytest.importorskip("plotly", reason='needs the extra "html"')
    again = fails("estimate", block, "--plot", tmp_path / "b.png", "--html", tmp_path / "a.html")
    assert "--html" in again and "is already --plot" in again


def test_a_table_does_not_replace_its_store(tmp_path):
    store = tmp_path / "h.db"
    words = ["sweep", "urban_uplink", *SMALL, "--estimators", "ls", "--trials", "1", "--store", store]
    run(*words)
    before = store.read_bytes()
    message = fails(*words, "--csv", store)
    assert "--csv" in message and "is already the store" in message
    assert store.read_bytes() == before


@pytest.mark.parametrize("name", ["", "."])
def test_paths_without_a_name_are_refused(block, name):
    assert "has no file name" in fails("simulate", "urban_uplink", *SMALL, "-o", name)
    assert "has no file name" in fails("estimate", block, "--save", name)
