"""Pages of tables from what the benchmarks and figures have stored; nothing in them is typed by hand."""

from __future__ import annotations

import ast
import csv
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

REPOSITORY_TEXT = "Made from stored results when this manual was built; the scripts are in the repository."
_NIGHTLY = (
    "What the last runs of `make nightly`, `make fuzz`, `make mutation`, `make coverage` and `make reprint` "
    "tried and found."
)
_MOST_ROWS = 60
_MOST_LABELS = 2
# heads of columns that hold results; what stands before the first of them names the case
_FIGURE = r"found|recall|false|NMSE|blocks|gap|RMSE|BER|SER|errors|(median|worst) s$"


@dataclass
class Table:
    """A table printed by a benchmark: title, heads, rows of cells."""

    title: str
    heads: list[str]
    rows: list[list[str]]


def write_pages(root: Path, target: Path) -> list[Path]:
    """Write every page for which ``root`` holds results; return their paths."""
    pages = {
        "accuracy": accuracy_page(root / "benchmarks" / "accuracy"),
        "speed": speed_page(root / "benchmarks"),
        "networks": networks_page(root / "benchmarks" / "nn"),
        "figures": figures_page(root / "figures" / "renders"),
        "nightly": nightly_page(root / "benchmarks" / "nightly"),
    }
    target.mkdir(parents=True, exist_ok=True)
    written = []
    for name, lines in pages.items():
        path = target / f"{name}.md"
        if lines:
            text = "\n".join(lines) + "\n"
            if not path.exists() or path.read_text(encoding="utf-8") != text:
                path.write_text(text, encoding="utf-8")
            written.append(path)
        else:
            path.unlink(missing_ok=True)
    return written


# Pages -----------------------------------------------------------------------------------------------------


def accuracy_page(folder: Path) -> list[str]:
    """Every stored accuracy benchmark with what its script says about it."""
    sections = [line for path in sorted(folder.glob("*.txt")) for line in stored_section(path)]
    return ["# Accuracy", "", REPOSITORY_TEXT, "", *sections] if sections else []


def speed_page(benchmarks: Path) -> list[str]:
    """Stored speed benchmarks, seconds of the accuracy benchmarks, and where the notes say it stands."""
    lines = [line for path in sorted((benchmarks / "speed").glob("*.txt")) for line in stored_section(path)]
    notes = benchmarks / "NOTES.md"
    if notes.exists():
        lines += ["## Where the performance notes stand", "", *section_of(notes, "Where it stands")]
    seconds = [line for path in sorted((benchmarks / "accuracy").glob("*.txt")) for line in seconds_of(path)]
    if seconds:
        lines += ["## Seconds per block", ""]
        lines += [
            "Measured beside the accuracy, one thread per estimate, other processes running.",
            "",
            *seconds,
        ]
    return ["# Speed", "", REPOSITORY_TEXT, "", *lines] if lines else []


def networks_page(folder: Path) -> list[str]:
    """Stored tables of network compression and of SSVI."""
    lines = [line for path in sorted(folder.glob("*.txt")) for line in stored_section(path)]
    return ["# Networks", "", REPOSITORY_TEXT, "", *lines] if lines else []


def nightly_page(folder: Path) -> list[str]:
    """What ``make nightly``, ``make fuzz`` and ``make mutation`` tried last, and what came of it."""
    lines = [line for path in sorted(folder.glob("*.txt")) for line in stored_section(path)]
    return ["# Nightly", "", _NIGHTLY, "", *lines] if lines else []


def figures_page(folder: Path) -> list[str]:
    """Rendered figures with their numbers."""
    lines = []
    for path in sorted(folder.glob("*.csv")):
        with path.open(newline="", encoding="utf-8") as file:
            rows = list(csv.reader(file))
        lines += [f"## {path.stem.replace('_', ' ')}", ""]
        picture = path.with_suffix(".png")
        if picture.exists():
            lines += [f"![{path.stem}](../../figures/renders/{picture.name})", ""]
        if 1 < len(rows) <= _MOST_ROWS:
            lines += markdown(rows[0], rows[1:])
        else:
            lines += [f"The {max(len(rows) - 1, 0)} rows are in `figures/renders/{path.name}`.", ""]
    return ["# Figures", "", REPOSITORY_TEXT, "", *lines] if lines else []


# Parts of pages --------------------------------------------------------------------------------------------


def stored_section(path: Path) -> list[str]:
    """A section of a stored text: the script's description, then every table."""
    lines = [f"## {path.stem.replace('_', ' ')}", "", *description(path.with_suffix(".py"))]
    for part in read_stored(path.read_text(encoding="utf-8")):
        if isinstance(part, Table):
            lines += [f"**{escaped(part.title)}**", ""] if part.title else []
            lines += markdown(part.heads, part.rows)
        else:
            lines += [escaped(part), ""]
    return lines


def seconds_of(path: Path) -> list[str]:
    """The columns of seconds of a stored text, beside what names the case, where it has them."""
    lines = []
    for part in read_stored(path.read_text(encoding="utf-8")):
        if isinstance(part, Table) and "median s" in part.heads:
            figures = [i for i, head in enumerate(part.heads) if re.search(_FIGURE, head)]
            if figures[0] > _MOST_LABELS:
                continue  # a study of settings, whose seconds are on the page of accuracy
            chosen = [*range(figures[0]), *(i for i in figures if part.heads[i].endswith(" s"))]
            lines += [f"**{escaped(part.title)}**", ""]
            lines += markdown(
                [part.heads[i] for i in chosen], [[row[i] for i in chosen] for row in part.rows]
            )
    return lines


def description(script: Path) -> list[str]:
    """The docstring of a benchmark's script as Markdown."""
    if not script.exists():
        return []
    text = ast.get_docstring(ast.parse(script.read_text(encoding="utf-8"))) or ""
    text = re.sub(r":\w+:`", "`", text)
    text = re.sub(r"^(?:    )?(python [^\n]+)$", r"    \1", text, flags=re.MULTILINE)
    return [text, "", f"Script: `{'/'.join(script.parts[-3:])}`.", ""]


def section_of(path: Path, heading: str) -> list[str]:
    """The text below one heading of a Markdown file."""
    text = path.read_text(encoding="utf-8")
    found = re.search(rf"^## {re.escape(heading)}\n(.*?)(?=^## |\Z)", text, re.DOTALL | re.MULTILINE)
    return [found.group(1).strip(), ""] if found else []


# Reading and writing tables --------------------------------------------------------------------------------


def read_stored(text: str) -> list[Table | str]:
    """Tables drawn with box characters, and the lines of text between them."""
    parts: list[Table | str] = []
    between: list[str] = []
    for line in text.splitlines():
        if line.startswith("┏"):
            title = between.pop() if between else ""
            parts += between
            between = []
            parts.append(Table(title, [], []))
        elif line.startswith(("┃", "│")):
            add_line(parts[-1], [cell.strip() for cell in re.split("[┃│]", line)[1:-1]], line[0] == "┃")
        elif line.strip() and not line.startswith(("┡", "└", "├")):
            between.append(line.strip())
    return parts + between


def add_line(table: Any, cells: list[str], is_head: bool) -> None:
    """Append a printed line; a head may be wrapped over several."""
    if not is_head:
        table.rows.append(cells)
    elif table.heads:
        table.heads = [f"{a} {b}".strip() for a, b in zip(table.heads, cells)]
    else:
        table.heads = cells


def markdown(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """A Markdown table that may be wider than the page, and an empty line."""
    lines = [[escaped(head) for head in heads], ["---"] * len(heads)]
    lines += [[escaped(cell) for cell in row] for row in rows]
    table = [f"| {' | '.join(line)} |" for line in lines]
    return [":::{container} results", "", *table, "", ":::", ""]


def escaped(text: str) -> str:
    """Text whose special characters Markdown leaves alone."""
    return re.sub(r"([|*_`<>$\\])", r"\\\1", text)
