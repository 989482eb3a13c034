"""What a release says of itself is the same everywhere."""

from __future__ import annotations

import re
import tomllib

import pytest

import isac_toolbox as isac
from helpers import ROOT

CITATION = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def test_version_and_licence_are_those_of_the_package():
    newest = re.search(
        r"^## (\S+) \((.+)\)$", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE
    )
    assert re.search(r"^version: (.+)$", CITATION, re.MULTILINE)[1] == isac.__version__ == newest[1]
    released = re.search(r"^date-released: (\d{4}-\d\d-\d\d)$", CITATION, re.MULTILINE)[1]
    assert newest[2] in ("unreleased", released)
    assert re.search(r"^license: (.+)$", CITATION, re.MULTILINE)[1] == PROJECT["license"]


def test_the_papers_of_the_manual_are_cited():
    manual = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "docs").glob("*.md"))
    papers = set(re.findall(r"arXiv:(\d+\.\d+)", CITATION))
    assert len(papers) == 3 and all(f"arxiv.org/abs/{paper}" in manual for paper in papers)


def test_the_oldest_python_is_the_first_that_is_named():
    named = [re.search(r"3\.(\d+)$", entry) for entry in PROJECT["classifiers"]]
    minors = [int(match[1]) for match in named if match]
    assert PROJECT["requires-python"] == f">=3.{min(minors)}" and minors == sorted(minors)


@pytest.mark.parametrize("part", ["Makefile", "CITATION.cff", "CHANGELOG.md", "LICENSE", "README.md"])
def test_the_sdist_holds_what_the_tests_read(part):
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert (
        part in project["tool"]["hatch"]["build"]["targets"]["sdist"]["include"] and (ROOT / part).is_file()
    )
