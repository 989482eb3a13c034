"""A reader finds the code: "Modules" leads from every section of the theory to files and names in them."""

from __future__ import annotations

import ast
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

from helpers import ROOT
from helpers.import_graph import PACKAGE

DOCS = ROOT / "docs"
PAGES = sorted(DOCS.glob("theory*.md"))
TEXTS = [*sorted(DOCS.glob("*.md")), *ROOT.glob("*.md"), ROOT / "benchmarks" / "NOTES.md"]
# where a path in a text may start
STARTS = (ROOT, PACKAGE, DOCS, ROOT / "benchmarks")


@dataclass
class Section:
    """A section of a page: its text, subsections included, and which of them have equations."""

    page: str
    title: str
    text: str

    def __str__(self) -> str:
        return f"{self.page} {self.title}"

    @property
    def modules(self) -> dict[str, str]:
        """Files of the line "Modules", each with what stands in parentheses behind it."""
        line = re.search(r"^Modules: (.*?)\.$", self.text, re.DOTALL | re.MULTILINE)
        return dict(re.findall(r"`([\w/]+\.py)`(?:\s+\(([^)]*)\))?", line[1])) if line else {}

    @property
    def subsections_with_equations(self) -> list[str]:
        parts = re.split(r"^### ([\d.]+)", self.text, flags=re.MULTILINE)
        return [number for number, text in zip(parts[1::2], parts[2::2]) if "```math" in text]


def sections():
    for page in PAGES:
        parts = re.split(r"^## (.*)$", page.read_text(encoding="utf-8"), flags=re.MULTILINE)
        for title, text in zip(parts[1::2], parts[2::2]):
            yield Section(page.stem, title, text)


WITH_EQUATIONS = [section for section in sections() if "```math" in section.text]
WITH_MODULES = [section for section in sections() if section.modules]


@cache
def names_in(path: Path) -> set[str]:
    """Functions, classes, ``Class.method`` and constants of a file."""
    names = set()
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            names |= {target.id for target in targets if isinstance(target, ast.Name)}
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.add(node.name)
        if isinstance(node, ast.ClassDef):
            names |= {f"{node.name}.{part.name}" for part in node.body if isinstance(part, ast.FunctionDef)}
    return names


@pytest.mark.parametrize("section", WITH_EQUATIONS, ids=str)
def test_every_equation_has_its_modules(section):
    assert section.modules, 'no line "Modules: ..." in a section with equations'
    stated = " ".join(section.modules.values())
    if re.search(r"\d\.\d", stated):  # the line tells subsections apart
        for number in section.subsections_with_equations:
            assert re.search(rf"\b{re.escape(number)}\b", stated), f"no module for {number}"


@pytest.mark.parametrize("section", WITH_MODULES, ids=str)
def test_modules_exist_and_hold_what_is_named(section):
    for file, named in section.modules.items():
        assert (PACKAGE / file).is_file(), f"isac_toolbox/{file} does not exist"
        names = re.findall(r"`([^`]+)`", named)
        assert names, f"what in {file}?"
        missing = set(names) - names_in(PACKAGE / file)
        assert not missing, f"isac_toolbox/{file} has no {missing}"


@pytest.mark.parametrize("path", TEXTS, ids=lambda path: path.name)
def test_files_named_in_a_text_exist(path):
    known = {file.name for room in (PACKAGE, ROOT / "benchmarks") for file in room.rglob("*.py")}
    for name in set(re.findall(r"`(?:python )?([\w/]+\.py)`", path.read_text(encoding="utf-8"))):
        found = "NAME" in name or any((start / name).is_file() for start in STARTS)
        assert found or ("/" not in name and name in known), name


def test_names_that_contributing_places_in_a_file_are_there():
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    placed = re.findall(r"`([\w.]+)`\s+(?:in|of)\s+`([\w/]+\.py)`", text)
    assert len(placed) > 5
    for name, file in placed:
        assert name in names_in(ROOT / file), f"{file} has no {name}"
