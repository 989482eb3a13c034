"""Imports of the package run down the stated order and never in a circle; tests follow the rooms."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from helpers import ROOT, TESTS
from helpers.import_graph import ENTRANCE, ORDER, PACKAGE, arrows, circles, entry_of, import_graph, rank

GRAPH = import_graph()


def test_no_imports_run_in_a_circle():
    found = ["\n  ".join(map(str, circle)) for circle in circles(GRAPH)]
    assert not found, "circles:\n  " + "\n\n  ".join(found)


def test_imports_run_down_the_order():
    down = [arrow for arrow in arrows(GRAPH) if arrow.target != ENTRANCE]
    up = [arrow for arrow in down if rank(arrow.target) > rank(arrow.source)]
    assert not up, "\n".join(f"{arrow}, and {entry_of(arrow.target)} is above" for arrow in up)


def test_nobody_imports_the_entrance():
    found = [str(arrow) for arrow in arrows(GRAPH) if arrow.target == ENTRANCE]
    assert not found, "\n".join(found)


def test_every_file_has_its_place_and_every_place_a_file():
    entries = {entry_of(file) for file in GRAPH if file != ENTRANCE}
    stated = [entry for row in ORDER for entry in row]
    assert sorted(stated) == sorted(entries)


@pytest.mark.parametrize(
    "statement",
    [
        "from toy.room import high",
        "import toy.room.high",
        "from toy.room.high import name",
        "from .high import name",
        "from . import high",
        "from ..room import high",
        "def f():\n    from toy.room import high",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from toy.room.high import Name",
        "from importlib import import_module\nimport_module('toy.room.high')",
    ],
)
def test_every_way_to_import_is_seen(tmp_path, statement):
    room = tmp_path / "toy" / "room"
    room.mkdir(parents=True)
    (room / "__init__.py").write_text("")
    (room / "high.py").write_text("import numpy\nfrom toy.room import low\n")
    (room / "low.py").write_text(statement)
    graph = import_graph(tmp_path / "toy")
    assert graph["room/high.py"] == {"room/low.py": 2}
    (circle,) = circles(graph)
    line = len(statement.splitlines())
    assert set(map(str, circle)) == {
        "isac_toolbox/room/high.py:2 imports isac_toolbox/room/low.py",
        f"isac_toolbox/room/low.py:{line} imports isac_toolbox/room/high.py",
    }


def test_longer_circles_are_found_once():
    graph = {"a": {"b": 1}, "b": {"c": 2, "a0": 1}, "c": {"a": 3}, "a0": {}}
    (circle,) = circles(graph)
    assert sorted(circle) == [("a", 1, "b"), ("b", 2, "c"), ("c", 3, "a")]


def test_the_manual_states_the_same_order():
    page = (ROOT / "docs" / "house.md").read_text(encoding="utf-8")
    floors: list[list[str]] = [[] for _ in ORDER]
    for floor, places in re.findall(r"^\| (\d+) \| ([^|]+) \|", page, re.MULTILINE):
        floors[int(floor) - 1] += re.findall(r"`([^`]+)`", places)
    assert [sorted(places) for places in floors] == [sorted(row) for row in ORDER]


# --- tests -------------------------------------------------------------------------------------------


#: Tests that no room answers for alone: faults of any file and process, and what is released.
ACROSS = (Path("faults"), Path("release"))


def test_folders_of_tests_are_rooms():
    for path in TESTS.rglob("test_*.py"):
        folder = path.parent.relative_to(TESTS)
        if folder in ACROSS:
            continue
        rooms = (PACKAGE / folder, ROOT / folder)  # scripts beside the package have tests as well
        assert any(room.is_dir() for room in rooms), f"{path}: there is no room {folder}"


def test_no_test_imports_a_test():
    for path in TESTS.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom):
                names = [node.module or ""]
            for name in names:
                last = name.split(".")[-1]
                assert not last.startswith(("test_", "conftest")), f"{path} imports {name}"
