"""The manual: its code runs as printed, its pages hang together, its tables come from what is stored."""

from __future__ import annotations

import importlib
import importlib.util
import re
import sys

import matplotlib
import pytest

import isac_toolbox as isac
from helpers import ROOT
from helpers.markdown import MADE_BY_THE_BUILD, blocks, broken_links, check_blocks

matplotlib.use("Agg")
from matplotlib import pyplot

DOCS = ROOT / "docs"
PAGES = sorted(DOCS.glob("*.md"))
_PLAIN = ["quickstart", "simulate", "estimate", "moving", "tracking", "compare", "link-level", "interop"]
WITH_CODE = [*_PLAIN, "sionna", "networks"]

needs_sionna = pytest.mark.skipif(
    not (importlib.util.find_spec("torch") and importlib.util.find_spec("sionna")),
    reason='needs the extra "sionna"',
)
needs_torch = pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason='needs the extra "nn"')


EXTRAS_OF = {"networks": needs_torch, "sionna": needs_sionna}


def load(path):
    """A script of the repository as a module."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module  # dataclasses look there
    spec.loader.exec_module(module)
    return module


# --- code --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("page", [pytest.param(page, marks=EXTRAS_OF.get(page, ())) for page in WITH_CODE])
def test_code_of_a_page_runs_from_top_to_bottom(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    check_blocks(DOCS / f"{page}.md")
    pyplot.close("all")


def test_the_link_level_page_decodes_its_block(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    names = {}
    for code, _ in blocks((DOCS / "link-level.md").read_text(encoding="utf-8")):
        exec(code, names)
    assert isac.metrics.channel_nmse_db(names["res"].channel, names["channel"]) < -25
    assert isac.metrics.localisation(names["res"].scatterer_positions_m, names["scatterers_m"]).misses == 0
    assert "bit errors 0 of" in capsys.readouterr().out


@needs_sionna
def test_the_page_of_sionna_decodes_its_blocks():
    names = check_blocks(DOCS / "sionna.md")
    assert not names["wrong"].any()
    assert ((names["llr"] > 0) == (names["bits"] > 0)).all()


def test_the_readme_and_the_quick_start_show_the_same_ten_lines():
    readme = blocks((ROOT / "README.md").read_text(encoding="utf-8"))[0]
    assert readme == blocks((DOCS / "quickstart.md").read_text(encoding="utf-8"))[0]


def test_the_plug_in_estimator_runs_in_a_sweep_beside_the_others(tmp_path):
    example = load(ROOT / "examples" / "plug_in_estimator.py")
    result = example.compare(trials=2, store=tmp_path / "own.db")
    assert not result.failures
    error = {(e.estimator, e.point["snr_db"]): e.nmse_db for e in result.summary()}
    for snr_db in (-10.0, 0.0, 10.0):
        assert error["bisvbi", snr_db] < error["own", snr_db] < error["ls", snr_db] - 2
    assert len(isac.load_sweep(tmp_path / "own.db").rows) == len(result.rows) == 3 * 3 * 2


def test_the_plug_in_estimator_is_as_short_as_the_manual_says():
    text = (ROOT / "examples" / "plug_in_estimator.py").read_text(encoding="utf-8")
    source = text[text.index("@dataclass") : text.index("# %%\n# Every estimator")]
    assert len(source.strip().splitlines()) <= 30


# --- pages -------------------------------------------------------------------------------------------


def toctree(text):
    """Entries of all toctrees of a page."""
    found = re.findall(r"```\{toctree\}\n(.*?)```", text, re.DOTALL)
    lines = [line.strip() for part in found for line in part.splitlines()]
    return [line for line in lines if line and not line.startswith(":")]


def test_every_page_is_in_the_table_of_contents_and_exists():
    entries = [entry for page in PAGES for entry in toctree(page.read_text(encoding="utf-8"))]
    written = [entry for entry in entries if not entry.startswith(MADE_BY_THE_BUILD)]
    assert sorted(written) == sorted({page.stem for page in PAGES} - {"index"})
    assert {"tables/*", "auto_examples/index"} <= set(entries)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_links_of_a_page_lead_somewhere(page):
    assert broken_links(page) == []


def test_names_of_the_api_page_exist_and_are_all_public_ones():
    text = (DOCS / "api.md").read_text(encoding="utf-8")
    short, rooms = text.split("## Rooms")
    named = set()
    for path in re.findall(r"^   ~isac_toolbox\.(\S+)$", short, re.MULTILINE):
        room, name = path.rsplit(".", 1)
        module = importlib.import_module(f"isac_toolbox.{room}")
        assert name in module.__all__, path
        assert getattr(isac, name) is getattr(module, name)
        named.add(name)
    public = {
        name for name in isac.__all__ if name[:2] != "__" and not hasattr(getattr(isac, name), "__path__")
    }
    modules = {name for name in public if type(getattr(isac, name)).__name__ == "module"}
    assert named == public - modules
    listed = set(re.findall(r"^   isac_toolbox\.(\S+)$", rooms, re.MULTILINE))
    assert {name for name in isac.__all__ if type(getattr(isac, name)).__name__ == "module"} <= listed


@needs_torch
@needs_sionna
def test_rooms_of_the_api_page_can_be_imported():
    text = (DOCS / "api.md").read_text(encoding="utf-8").split("## Rooms")[1]
    for room in re.findall(r"^   (isac_toolbox\.\S+)$", text, re.MULTILINE):
        assert importlib.import_module(room).__all__


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_roles_of_a_page_name_public_objects(page):
    for name in re.findall(r"\{(?:class|func|mod)\}`~?([\w.]+)`", page.read_text(encoding="utf-8")):
        if name.startswith("isac_toolbox.nn") and importlib.util.find_spec("torch") is None:
            continue
        room, _, last = name.rpartition(".")
        assert last in importlib.import_module(room).__all__, name


# --- tables ------------------------------------------------------------------------------------------


def test_tables_repeat_what_is_stored(tmp_path):
    tables = load(DOCS / "_tables.py")
    pages = {path.stem: path.read_text(encoding="utf-8") for path in tables.write_pages(ROOT, tmp_path)}
    assert {"accuracy", "speed", "networks", "nightly"} <= set(pages)
    stored = {
        "accuracy": ["accuracy/main_case"],
        "networks": ["nn/compression", "nn/ssvi"],
        "nightly": ["nightly/nightly"],
    }
    for page, names in stored.items():
        for name in names:
            text = (ROOT / "benchmarks" / f"{name}.txt").read_text(encoding="utf-8")
            rows = [line for line in text.splitlines() if line.startswith("│")]
            assert rows
            for line in rows:
                cells = [tables.escaped(cell.strip()) for cell in line.split("│")[1:-1]]
                assert f"| {' | '.join(cells)} |" in pages[page]
    assert "main case" in pages["accuracy"] and "median s" in pages["speed"]


def test_pages_without_results_are_left_out(tmp_path):
    tables = load(DOCS / "_tables.py")
    assert tables.write_pages(tmp_path / "nothing", tmp_path / "pages") == []


def test_tables_of_figures(tmp_path):
    tables = load(DOCS / "_tables.py")
    renders = tmp_path / "figures" / "renders"
    renders.mkdir(parents=True)
    (renders / "curve.csv").write_text("snr_db,nmse_db\n0,-37.5\n10,-47.5\n", encoding="utf-8")
    (path,) = tables.write_pages(tmp_path, tmp_path / "out")
    assert path.stem == "figures" and "| 10 | -47.5 |" in path.read_text(encoding="utf-8")
