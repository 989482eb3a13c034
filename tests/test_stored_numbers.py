"""Numbers and pictures of README and manual are those that the repository has stored."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from helpers import ROOT
from helpers.markdown import tables

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
STORED = {path.name: path for path in (ROOT / "benchmarks").rglob("*.txt")}
ACCURACY = ROOT / "benchmarks" / "accuracy"
# a fraction such as 1/21, and a mean with its deviation, are compared with the runs in test_readme.py
NUMBER = re.compile(r"(?<![\w./±])(?<!± )-?\d+(?:\.\d+)?(?![\w/.]| ±)")
#: Their rows sum up several tables; the tests below look at them one by one.
SUMMED = {"Further tables"}


def numbers(text: str) -> list[str]:
    return NUMBER.findall(text.replace(",", " ").replace("−", "-"))


def is_stored(written: str, known: list[float]) -> bool:
    """A written number is a stored one with as many digits or fewer."""
    half = 0.51 * 10 ** -len(written.partition(".")[2])
    return any(abs(float(written) - value) <= half for value in known)


def sections() -> list:
    """Sections with tables that name stored outputs of benchmarks."""
    found = []
    for page in PAGES:
        for section in re.split(r"^## ", page.read_text(encoding="utf-8"), flags=re.MULTILINE)[1:]:
            title = section.splitlines()[0]
            names = sorted({name for name in re.findall(r"\w+\.txt", section) if name in STORED})
            if names and tables(section) and title not in SUMMED:
                found.append(pytest.param(section, names, id=f"{page.stem}: {title}"))
    return found


@pytest.mark.parametrize(("section", "names"), sections())
def test_numbers_of_tables_are_in_the_outputs_that_their_section_names(section, names):
    texts = [STORED[name].read_text(encoding="utf-8") for name in names]
    known = [float(number) for text in texts for number in re.findall(r"-?\d+(?:\.\d+)?", text)]
    known += [-value for value in known]
    cells = [cell for table in tables(section) for row in table[2:] for cell in row]
    missing = [n for cell in cells for n in numbers(cell) if not is_stored(n, known)]
    assert not missing, f"not in {', '.join(names)}: {missing}"


def test_there_are_such_sections():
    assert len(sections()) >= 8


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_outputs_that_a_page_names_are_stored(page):
    named = set(re.findall(r"`(?:[\w/]*/)?(\w+\.txt)`", page.read_text(encoding="utf-8")))
    assert named <= set(STORED) | {"constraints.txt"}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_pictures_have_their_numbers_and_their_scripts(page):
    for picture in re.findall(
        r"\]\((?:\.\./)?figures/renders/(\w+)\.png\)", page.read_text(encoding="utf-8")
    ):
        assert (ROOT / "figures" / "renders" / f"{picture}.csv").is_file(), picture
        assert (ROOT / "figures" / f"{picture}.py").is_file(), picture


# row by row


def rows_of(path: Path) -> list[tuple[str, dict[str, str]]]:
    """Rows of tables drawn with box characters, with the line above their table."""
    found, heads, title, last = [], [], "", ""
    for line in path.read_text(encoding="utf-8").splitlines():
        cells = [cell.strip() for cell in re.split("[┃│]", line)[1:-1]]
        if line.startswith("┏"):
            title = last.strip()
        elif line.startswith("┃"):
            heads = cells
        elif line.startswith("│"):
            found.append((title, dict(zip(heads, cells))))
        last = line
    return found


def results_table(head: str) -> list[list[str]]:
    text = (ROOT / "docs" / "results.md").read_text(encoding="utf-8")
    return next(t for t in tables(text) if head in t[0])[2:]


def test_the_table_over_snr_repeats_the_stored_regimes():
    stored = {(t.partition(",")[0], row["SNR dB"]): row for t, row in rows_of(ACCURACY / "regimes.txt")}
    written = results_table("linear receiver that knows the channel")
    assert len(written) == 5
    for snr, scenario, found, false, nmse, errors, genie in written:
        row = stored[scenario.strip("`"), snr.removesuffix(" dB")]
        assert found == row["found / true"] and false == row["false"].split()[0]
        assert errors == row["symbol errors"].split()[0] and genie == row["genie's"].split()[0]
        own, bound, soft = re.fullmatch(r"(\S+) \(([^;)]+)(?:; (.+))?\)", nmse).groups()
        assert f"{own} ({bound})" == row["NMSE dB (bound)"] and (soft or "") == row["soft bound dB"]


def further(name: str) -> str:
    """What the page of results says of a stored file."""
    return dict(results_table("file"))[f"`{name}`"]


def test_calibration_is_the_stored_one():
    row = next(row for _, row in rows_of(ACCURACY / "calibration.txt") if row.get("case") == "all")
    kinds = [row[f"{kind} in 95 %"] for kind in ("scatterers", "users", "clocks")]
    said = further("calibration.txt")
    assert said.startswith(f"in {row['runs']} blocks, {kinds[0]} of the scatterers, {kinds[1]} of the users")
    assert f"{kinds[2]} of the clocks" in said and said.endswith(f"off by {float(row['support ECE']):.3f}")


def test_networks_made_smaller_in_one_call_are_the_stored_ones():
    text = (ROOT / "docs" / "results-networks.md").read_text(encoding="utf-8")
    written = [
        row[1:] for table in tables(text) for row in table[2:] if "digits" in row[0] or "BERT" in row[0]
    ]
    lines = STORED["your_own_model.txt"].read_text(encoding="utf-8").splitlines()
    stored = [cells[1:7] for line in lines if len(cells := line.split()) == 8 and cells[3].startswith("1/")]
    assert len(stored) == 3 and written == stored


def test_networks_of_many_kinds_keep_what_the_page_says():
    said = (ROOT / "docs" / "results-networks.md").read_text(encoding="utf-8")
    stored = STORED["any_network.txt"].read_text(encoding="utf-8")
    means = re.search(r"of (\d+) networks and states: kept (\d+); three times fewer weights: (\d+)", stored)
    runs = re.search(r"of (\d+) runs: kept (\d+); three times fewer weights: (\d+)", stored)
    n, kept, few = means.groups()
    assert f"{kept} of {n} lose at most a point, and {few} have at least three times fewer weights" in said
    n, kept, few = runs.groups()
    assert f"Of the {n} runs {kept} lose at most a point and {few} have so few weights" in said


def test_misfits_are_the_stored_ones():
    effects, fits, learned = [], [], []
    for title, row in rows_of(ACCURACY / "misfit.txt"):
        (effects if "with effects" in title else fits).append((row["case"], int(row["misfit"])))
        if any(name in row["case"] for name in ("interferer", "clipped")):
            learned.append(int(row["said"].split()[0]))
    named = ("frequency offsets", "oscillator", "element gains", "element phases")
    seen = [count for case, count in effects if any(name in case for name in named)]
    of_the_model = [n for case, n in fits if not case.startswith(("diffuse_uplink", "extended_scatterers"))]
    assert set(seen) == set(learned) == {20} and sum(of_the_model) == 0
    said = further("misfit.txt")
    assert (
        f"in all {sum(seen)} blocks" in said
        and f"in all {sum(learned)};" in said
        and f"no false alarm in {20 * len(of_the_model)} blocks" in said
    )


def test_moving_blocks_are_the_stored_ones():
    said = (ROOT / "docs" / "moving.md").read_text(encoding="utf-8")
    cells, most = re.search(
        r"(\d+) cells of SNR.*: medians within (\S+) dB of the bound, no false", said
    ).groups()
    lines = (ACCURACY / "moving.txt").read_text(encoding="utf-8").splitlines()
    pattern = r"\d+ dB, \d+ km/h, \d+ Hz\s+(\S+)\s+\S+\s+\S+\s+(\S+).*"
    stored = [found.groups() for line in lines if (found := re.fullmatch(pattern, line))]
    assert len(stored) == int(cells) and {false for _, false in stored} == {"0.0"}
    assert max(abs(float(median)) for median, _ in stored) <= float(most) + 0.05


def test_tracks_are_the_stored_ones():
    text = (ACCURACY / "tracking.txt").read_text(encoding="utf-8")
    stored = {}
    for line in text.splitlines():
        if found := re.match(r"\s+(\d+)-(\d+)\s", line):
            values = [float(v) for v in re.findall(r"\d+\.\d+", line)]
            stored[int(found[1])] = values
    written = tables((ROOT / "docs" / "tracking.md").read_text(encoding="utf-8"))[-1][2:]
    assert len(written) == 3
    for blocks, *cells in written:
        track, _, bound, user, user_bound, speed, speed_bound = stored[int(blocks.split()[0])][:7]
        for cell, value in zip(cells, (track, bound, user, user_bound, speed, speed_bound), strict=True):
            assert is_stored(cell, [value]), (blocks, cell, value)
