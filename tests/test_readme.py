"""The README: short, true to the code and to what is stored; the words of README and manual."""

from __future__ import annotations

import json
import re
import statistics

import pytest
import typer

from helpers import ROOT
from helpers.markdown import broken_links, check_blocks, shell_lines, tables
from isac_toolbox.cli import commands as cli

README = ROOT / "README.md"
CONTRIBUTING = ROOT / "CONTRIBUTING.md"
PAGES = [README, CONTRIBUTING, *sorted((ROOT / "docs").glob("*.md"))]
PROSE = [pytest.param(page, id=page.stem) for page in PAGES if page.exists()]
MAIN_CASE = ROOT / "benchmarks" / "accuracy" / "main_case.txt"

#: What a reader would have to translate, and what he finds instead.
BANNED = {
    r"\bforeign\b": "out-of-distribution",
    r"\bknown all over\b": "known in every cell",
    r"\bleads? nowhere\b": "does not resolve",
    r"\bnobody has told\b": "unknown",
    r"\bheat\b": "temperature",
    r"\bfree paths?\b": "unlocated path",
}


# --- length, commands, code --------------------------------------------------------------------------


def test_the_readme_has_at_most_120_lines():
    assert len(README.read_text(encoding="utf-8").splitlines()) <= 120


def make_targets() -> set[str]:
    """Commands that the Makefile declares."""
    text = (ROOT / "Makefile").read_text(encoding="utf-8")
    return set(re.search(r"^\.PHONY: (.*)$", text, re.MULTILINE)[1].split())


def test_the_readme_shows_two_commands():
    lines = shell_lines(README.read_text(encoding="utf-8"), "make")
    assert [line.split()[1] for line in lines] == ["demo", "test"]


@pytest.mark.parametrize("page", PROSE)
def test_commands_of_make_exist(page):
    text = page.read_text(encoding="utf-8")
    named = set(re.findall(r"`make ([\w-]+)", text)) | {line.split()[1] for line in shell_lines(text, "make")}
    assert named <= make_targets()


@pytest.mark.parametrize("page", PROSE)
def test_commands_of_isac_exist_with_their_options(page):
    text = page.read_text(encoding="utf-8")
    named = re.findall(r"`(isac [a-z][^`]*)`", text)
    for line in [*shell_lines(text, "isac"), *named]:
        command = typer.main.get_command(cli.app)
        words = line.split()[1:]
        while hasattr(command, "commands") and words and words[0].isalpha():
            assert words[0] in command.commands, line
            command = command.commands[words.pop(0)]
        options = {name for parameter in command.params for name in parameter.opts}
        for word in words:
            if re.match(r"--?[a-z]", word):
                assert word in options | {"--help"}, line


def test_the_ten_lines_print_what_the_readme_says(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    check_blocks(README)


# --- figures -----------------------------------------------------------------------------------------


def stored_figures() -> dict[tuple[int, str], dict[str, str]]:
    """Rows of the stored main case by SNR and estimator."""
    rows, heads, snr_db = {}, [], 0
    for line in MAIN_CASE.read_text(encoding="utf-8").splitlines():
        cells = [cell.strip() for cell in re.split("[┃│]", line)[1:-1]]
        if found := re.match(r"urban_uplink, (\d+) dB", line):
            snr_db = int(found[1])
        elif line.startswith("┃"):
            heads = cells
        elif line.startswith("│"):
            rows[snr_db, cells[0]] = dict(zip(heads, cells))
    return rows


def value_and_bound(cell: str) -> tuple[str, str]:
    """The parts of ``0.166 (0.163)``."""
    value, _, bound = cell.partition(" (")
    return value, bound.rstrip(")")


def assert_rounded(written: str, stored: str) -> None:
    """A figure of the README is the stored one with as many digits or fewer."""
    if written == stored:
        return
    digits = len(written.partition(".")[2])
    assert abs(float(written) - float(stored)) <= 0.51 * 10**-digits, (written, stored)


def test_the_table_of_the_readme_repeats_the_stored_main_case():
    stored = stored_figures()
    head, _, *rows = next(t for t in tables(README.read_text(encoding="utf-8")) if t[0][0] == "estimator")
    assert len(rows) == 4 and len(head) == 9
    for name, *cells in rows:
        name = name.strip("*")
        for i, snr_db in enumerate((0, 10, 20)):
            row = stored[snr_db, "EM-Turbo-BiSVBI" if name == "bound" else name]
            part = 1 if name == "bound" else 0
            assert_rounded(cells[i], value_and_bound(row["NMSE dB (bound)"])[part])
            assert_rounded(cells[3 + i], value_and_bound(row["RMSE m (bound)"])[part])
            if name != "bound":
                assert f"{cells[6].split(', ')[i]} / 152" == row["found / true"]
                assert cells[7].split(", ")[i] == row["false"]


def test_the_table_of_the_results_repeats_the_stored_main_case():
    stored = stored_figures()
    text = (ROOT / "docs" / "results.md").read_text(encoding="utf-8")
    head, _, *rows = next(t for t in tables(text) if t[0][:2] == ["SNR", "estimator"])
    assert len(rows) == 15
    for snr, name, *cells in rows:
        name = name.strip("*").replace("`", "").replace('"', "'")
        row = stored[int(snr.removesuffix(" dB")), name]
        for title, cell in zip(head[2:], cells):
            for written, kept in zip(value_and_bound(cell), value_and_bound(row[title])):
                assert_rounded(written, kept)


def stored_losses() -> set[str]:
    """Accuracy points lost by compression and, against dense inference seed by seed, by SSVI."""
    folder = ROOT / "benchmarks" / "nn"
    rows = (folder / "compression.txt").read_text(encoding="utf-8").splitlines()
    losses = {line.split("│")[5].strip() for line in rows if line.startswith("│")}
    runs = [json.loads(line) for line in (folder / "ssvi.jsonl").read_text(encoding="utf-8").splitlines()]
    accuracy: dict[tuple, dict[int, float]] = {}
    for run in runs:
        if not run["settings"]:
            key = (run["network"], run["epochs"], run["method"], run["density"])
            accuracy.setdefault(key, {})[run["seed"]] = 100 * run["test"]["accuracy"]
    for (network, epochs, method, _), sparse in accuracy.items():
        dense = accuracy.get((network, epochs, "dense-vi", 1.0), {})
        if method == "ssvi" and len(sparse) > 1:
            points = [dense[seed] - value for seed, value in sparse.items()]
            losses.add(f"{statistics.mean(points):.2f} ± {statistics.stdev(points):.2f}")
    return losses


@pytest.mark.parametrize("page", [README, ROOT / "docs" / "results-networks.md"], ids=lambda page: page.stem)
def test_accuracy_lost_by_networks_is_that_of_the_stored_runs(page):
    wanted = ("points", "density")
    written = {
        cell
        for head, _, *rows in tables(page.read_text(encoding="utf-8"))
        for row in rows
        for title, cell in zip(head, row)
        if any(word in title for word in wanted) and "±" in cell
    }
    assert len(written) >= 5 and written <= stored_losses()


# --- links and words ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "page", [page for page in (README, CONTRIBUTING) if page.exists()], ids=lambda page: page.stem
)
def test_links_lead_to_files_and_headings(page):
    assert broken_links(page) == []


@pytest.mark.parametrize("page", PROSE)
def test_no_word_needs_translating(page):
    text = page.read_text(encoding="utf-8")
    found = {
        match[0].lower(): better
        for pattern, better in BANNED.items()
        for match in re.finditer(pattern, text, re.IGNORECASE)
    }
    assert not found
