"""``isac figure``: every figure renders, its numbers are those of its store, and interrupts keep rows."""

from __future__ import annotations

import ast
import csv
import os
import tomllib
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import numpy as np
import pytest
from matplotlib.figure import Figure

import isac_toolbox as isac
from helpers import ROOT
from helpers.cli import fails, run
from isac_toolbox.figures.registry import FIGURES
from isac_toolbox.figures.run import FigureRun, render
from isac_toolbox.sweeps import SweepInterrupted

SWEPT = {
    "rmse_vs_snr": ("snr", "snr_db"),
    "nmse_vs_snr": ("snr", "snr_db"),
    "ser_vs_snr": ("snr", "snr_db"),
    "vs_pilots": ("vs_pilots", "n_pilot_symbols"),
    "vs_users": ("vs_users", "n_users"),
    "vs_time_offset": ("vs_time_offset", "time_offset_std_s"),
    "vs_user_error": ("vs_user_error", "user_position_std_m"),
}
SLOW = ("vs_pilots", "vs_time_offset", "vs_user_error", "music_spectrum", "calibration")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("renders")


@pytest.fixture
def drawn(monkeypatch):
    """Figures as they are saved."""
    figures, savefig = [], Figure.savefig

    def keep(self, *arguments, **options):
        figures.append(self)
        return savefig(self, *arguments, **options)

    monkeypatch.setattr(Figure, "savefig", keep)
    return figures


def lines_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=pytest.mark.slow) if n in SLOW else n for n in FIGURES]
)
def test_figure_renders(name, folder, drawn):
    picture, table = render(FigureRun(name, folder, quick=True, n_trials=1))
    assert picture == folder / f"{name}_quick.png" and table == folder / f"{name}_quick.csv"
    pixels = matplotlib.image.imread(picture)
    assert pixels.shape[0] > 300 and np.ptp(pixels[..., :3]) > 0.9
    assert lines_of(table)
    (figure,) = drawn
    assert "seed" in figure.get_supxlabel()
    for ax in figure.axes:
        assert ax.get_ylabel() or ax.get_shared_y_axes().get_siblings(ax)
        assert ax.get_xlabel() or ax.get_label() == "<colorbar>"
    if name in SWEPT:
        check_sweep(name, folder, lines_of(table))


def check_sweep(name: str, folder: Path, lines: list[dict[str, str]]) -> None:
    """The table is the store, pooled; a name with one trial has one row per point and estimator."""
    store, field = SWEPT[name]
    summary = isac.load_sweep(folder / f"{store}_quick.db").summary()
    pooled = {(entry.point[field], entry.estimator): entry for entry in summary}
    for line in lines:
        entry = pooled[type(next(iter(pooled))[0])(line[field]), line["estimator"]]
        assert line["scenario"].startswith("urban_uplink") and line["seed"] == "0"
        for column in ("trials", "nmse_db", "bound_nmse_db", "rmse_m", "rmse_bound_m", "symbol_error_rate"):
            assert float(line[column]) == pytest.approx(getattr(entry, column), nan_ok=True)
    assert {line["estimator"] for line in lines} == {entry.estimator for entry in summary}


def test_units_and_bound_are_on_the_axes(folder, drawn):
    render(FigureRun("rmse_vs_snr", folder, quick=True, n_trials=1))
    error, found, false = drawn[0].axes
    assert [ax.get_xlabel() for ax in drawn[0].axes] == 3 * ["SNR (dB)"]
    assert error.get_ylabel() == "localisation RMSE (m)" and found.get_ylabel() == "scatterers found (%)"
    assert false.get_ylabel() == "false scatterers per block"
    assert [line.get_label() for line in error.lines if line.get_gid() == "bound"] == [
        "hybrid Cramér-Rao bound"
    ]
    (legend,) = drawn[0].legends
    box = legend.get_window_extent()
    assert not any(box.overlaps(ax.get_window_extent()) for ax in drawn[0].axes)


def test_interrupted_figure_goes_on(folder, monkeypatch):
    estimate, calls = isac.LeastSquares.estimate, []

    def interrupted(self, obs, *, callback=None):
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return estimate(self, obs)

    out = folder / "interrupted"
    words = ["figure", "vs_users", "--quick", "--trials", 1, "--out", out]
    monkeypatch.setattr(isac.LeastSquares, "estimate", interrupted)
    outcome = run(*words, code=130)
    assert f"vs_users stopped; 5 rows of its sweep are kept in {out}" in outcome.stderr
    assert not (out / "vs_users_quick.png").exists()
    before = isac.load_sweep(out / "vs_users_quick.db").rows
    outcome = run(*words)
    assert f"wrote {out / 'vs_users_quick.png'}" in outcome.stdout and len(calls) == 3
    assert set(map(repr, before)) < set(map(repr, isac.load_sweep(out / "vs_users_quick.db").rows))


def test_all_goes_through_every_figure(tmp_path, monkeypatch):
    asked = []

    def fake(run):
        asked.append(run)
        return [run.path(".png"), run.path(".csv")]

    monkeypatch.setattr("isac_toolbox.cli.figure.render", fake)
    run("figure", "all", "scene", "--quick", "--trials", 7, "--jobs", 2, "--out", tmp_path / "new" / "folder")
    assert [own.name for own in asked] == list(FIGURES)
    assert {(own.quick, own.n_trials, own.jobs) for own in asked} == {(True, 7, 2)}
    assert (tmp_path / "new" / "folder").is_dir()
    assert asked[0].path(".png").name == "scene_quick.png" and asked[0].trials() == 7
    asked.clear()
    run("figure", "munich", "scene", "munich", "--out", tmp_path)
    assert [own.name for own in asked] == ["munich", "scene"] and asked[0].path(".png").name == "munich.png"


def test_list_and_unknown_names(tmp_path):
    listed = run("figure", "--list").stdout
    assert all(name in listed for name in FIGURES)
    for words in (["nothing"], ["scene", "nothing"], []):
        message = fails("figure", *words, "--out", tmp_path / "unmade")
        assert "known are scene, music_spectrum" in message and message.rstrip().endswith("munich, all")
    assert not (tmp_path / "unmade").exists()
    with pytest.raises(ValueError, match="unknown figure 'nothing'; known are scene"):
        render(FigureRun("nothing", tmp_path))


def test_bad_options(tmp_path):
    taken = tmp_path / "file"
    taken.write_text("")
    assert "--out" in fails("figure", "scene", "--out", taken)
    assert "--out" in fails("figure", "scene", "--out", taken / "below")
    assert "--jobs: must be at least 1" in fails("figure", "scene", "--jobs", 0, "--out", tmp_path / "unmade")
    assert "--trials" in fails("figure", "scene", "--trials", 0)
    assert not (tmp_path / "unmade").exists()


def test_folder_that_cannot_be_written(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "access", lambda path, mode: not mode & os.W_OK)  # as for root all is writable
    assert "no permission to write" in fails("figure", "scene", "--out", tmp_path)


def test_store_of_another_sweep(tmp_path):
    other = isac.Scenario.load("urban_uplink").replace(n_users=2)
    isac.sweep(other, {"snr_db": [0]}, ["ls"], trials=1, store=tmp_path / "snr_quick.db")
    message = run("figure", "nmse_vs_snr", "--quick", "--out", tmp_path, code=2).stderr
    assert "error: nmse_vs_snr: " in message and "belongs to another sweep" in message


def test_every_script_is_registered_and_shipped():
    scripts = {path.stem for path in (ROOT / "figures").glob("*.py")}
    assert {name for name in scripts if not name.startswith("nn_")} == set(FIGURES)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    wheel = project["tool"]["hatch"]["build"]["targets"]["wheel"]
    assert "/figures/*.py" in wheel["include"] and wheel["exclude"] == ["/figures/nn_*.py"]
    assert wheel["sources"]["figures"] == "isac_toolbox/figures/scripts"
    for name in FIGURES:
        tree = ast.parse((ROOT / "figures" / f"{name}.py").read_text())
        assert ast.get_docstring(tree)
        assert "draw" in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}


def test_missing_script(tmp_path, monkeypatch):
    monkeypatch.setitem(FIGURES, "gone", "a figure without a script")
    with pytest.raises(FileNotFoundError, match="gone"):
        render(FigureRun("gone", tmp_path))


def test_interrupts_reach_the_caller(tmp_path, monkeypatch):
    def interrupted(self, obs, *, callback=None):
        raise KeyboardInterrupt

    monkeypatch.setattr(isac.EMTurboBiSVBI, "estimate", interrupted)
    with pytest.raises(SweepInterrupted):
        render(FigureRun("vs_users", tmp_path, quick=True, n_trials=1))
