"""Sizes that files state are checked before memory is taken; names are text, not markup, and lead nowhere."""

from __future__ import annotations

import gzip
import io
import json
import re
import tomllib
import zipfile

import numpy as np
import pytest
from numpy.lib import format as npy

import isac_toolbox as isac
from helpers.cli import fails
from isac_toolbox import _files, _npz


def header(shape, descr="<f8", version=(1, 0)) -> bytes:
    """The start of an array of that shape, without its numbers."""
    file = io.BytesIO()
    npy.write_array_header_1_0(file, {"shape": shape, "fortran_order": False, "descr": descr})
    return file.getvalue()[:6] + bytes(version) + file.getvalue()[8:]


def archive(path, content: bytes):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("a.npy", content)
    return path


def no_array(*arguments, **options):
    pytest.fail("an array was made before its size was checked")


@pytest.mark.parametrize("shape", [(10**12,), (2**62, 8), (3,), (-1, 2), ()])
def test_a_header_that_says_more_than_there_is_takes_no_memory(shape, tmp_path, monkeypatch):
    path = archive(tmp_path / "x.npz", header(shape) + bytes(16))
    (tmp_path / "x.npy").write_bytes(header(shape) + bytes(16))
    monkeypatch.setattr(npy, "read_array", no_array)
    for source in (path, tmp_path / "x.npy"):
        with pytest.raises(ValueError, match=rf"{source.name}.*its header says .* it has 16"):
            _npz.read_array(source, "a")
    with pytest.raises(ValueError, match=r"x\.npz: a cannot be read: its header says"):
        _npz.read(path, "thing", ["a"])


def test_headers_of_unknown_versions_and_strange_texts_are_refused(tmp_path):
    strange = header((2,)).replace(b"'descr': '<f8'", b"'descr': '<f8")
    for content in (header((2,), version=(9, 9)), strange, b"", b"\x93NUMPY", header((2,))[:40]):
        with pytest.raises(ValueError, match=r"x\.npz: a cannot be read"):
            _npz.read(archive(tmp_path / "x.npz", content), "thing", ["a"])


def test_arrays_larger_than_the_machine_are_refused(tmp_path, monkeypatch):
    path = _npz.write(tmp_path / "x", "thing", {"a": np.zeros(10**6)})
    monkeypatch.setattr(_files, "machine_bytes", lambda: 10.0**6)
    monkeypatch.setattr(npy, "read_array", no_array)
    with pytest.raises(MemoryError, match=r"x\.npz says that it holds .* GiB; this machine has"):
        _npz.read(path, "thing", ["a"])
    assert path.stat().st_size < 10**5


def test_a_packed_size_that_cannot_be_is_refused(tmp_path, monkeypatch):
    path = archive(tmp_path / "x.npz", header((2,)) + bytes(16))
    infos = zipfile.ZipFile.infolist

    def overstated(self):
        found = infos(self)
        found[0].file_size = 10**9
        return found

    monkeypatch.setattr(zipfile.ZipFile, "infolist", overstated)
    with pytest.raises(ValueError, match=r"x\.npz is damaged: 1000000000 bytes do not come out of"):
        _npz.read(path, "thing", ["a"])


def test_idx_files_are_read_no_further_than_their_header_says(tmp_path, monkeypatch):
    data = pytest.importorskip("isac_toolbox.nn.data")
    path = tmp_path / "x.gz"
    path.write_bytes(gzip.compress(b"\0\0\x08\x01" + (3).to_bytes(4, "big") + bytes(10**6)))
    with pytest.raises(ValueError, match=r"x\.gz must have 11 bytes for shape \(3,\), got more"):
        data.read_idx(path)
    path.write_bytes(gzip.compress(b"\0\0\x08\x04" + (2**31).to_bytes(4, "big") * 4))
    with pytest.raises(MemoryError, match=r"x\.gz says that it holds"):
        data.read_idx(path)


# texts


def test_long_and_deep_scenarios_are_refused(tmp_path):
    path = tmp_path / "own.toml"
    path.write_text("#" * 1_000_001)
    with pytest.raises(ValueError, match=r"own\.toml has 1000001 bytes, at most 1000000 are read"):
        isac.Scenario.load(path)
    deep = f"n_users = {'[' * 1000}{']' * 1000}"
    for text in (deep, "a" + ".a" * 100 + " = 1", f"n_users = {'[' * 20}{']' * 20}"):
        path.write_text(text)
        with pytest.raises(ValueError, match=r"own\.toml is not valid TOML: .* more than 16 deep"):
            isac.Scenario.load(path)
    assert "n_users" in fails("simulate", "urban_uplink", "--set", deep)
    message = fails("sweep", "urban_uplink", "--vary", deep.replace(" ", ""), "--trials", 1)
    assert "deep" in message


def test_depth_counts_tables_and_lists():
    assert _files.parse_toml("a = 1") == {"a": 1}
    inside = "[" * 15 + "]" * 15
    assert _files.parse_toml(f"a = {inside}")
    with pytest.raises(tomllib.TOMLDecodeError, match="more than 16 deep"):
        _files.parse_toml(f"a = [{inside}]")


# names


@pytest.mark.parametrize("name", ["../munich", "data/../munich", "/munich", "..", "", "."])
def test_names_of_shipped_files_lead_to_no_other_folder(name):
    with pytest.raises((FileNotFoundError, ValueError), match="no such"):
        isac.load_traced(name)
    with pytest.raises(ValueError, match="unknown scenario"):
        isac.Scenario.load(name)


def test_members_of_an_archive_are_not_unpacked(tmp_path):
    with zipfile.ZipFile(tmp_path / "x.npz", "w") as file:
        file.writestr("../outside.npy", header((2,)) + bytes(16))
    assert list(_npz.read(tmp_path / "x.npz", "thing", [])) == ["../outside"]
    assert [p.name for p in tmp_path.iterdir()] == ["x.npz"]
    assert not (tmp_path.parent / "outside.npy").exists()


def test_names_on_the_page_are_text(tmp_path):
    pytest.importorskip("plotly")
    scenario = isac.Scenario(array_shape=(2, 2), n_subcarriers=4, n_users=1, n_scatterers=1)
    sim = scenario.simulate(0)
    name = "</script><!--<script>alert(1)</script><img src=x onerror=alert(1)>${title}"
    result = isac.LeastSquares().estimate(sim.observation)
    result = type(result)(**{**vars(result), "estimator": name, "status": name})
    page = isac.plotting.scene_html(result, sim.truth, observation=sim.observation, title=f"{name}!")
    head = page[: page.index("<script>\nwindow")]
    assert head.count("&lt;/script&gt;&lt;!--&lt;script&gt;") == 4  # title, heading, estimator, status
    assert "<img" not in head and "<!--" not in head
    data = re.search(r'id="page-data">(.*?)</script>', page, re.DOTALL)[1]
    assert "<" not in data and json.loads(data)
