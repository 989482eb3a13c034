"""Imports inside ``isac_toolbox.nn`` run one way: at the top of a file, in a function, for types alone."""

import ast
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import isac_toolbox.nn as room

FOLDER = Path(room.__file__).parent
#: What may import what: a room imports its files and those of a lower rank.
RANKS = {"export": 1, "evaluation": 2, "baselines": 2, "turbo_vbi": 2, "ssvi": 3}


def name_of(path):
    return ".".join(("isac_toolbox", "nn", *path.relative_to(FOLDER).with_suffix("").parts))


FILES = {name_of(path): path for path in sorted(FOLDER.rglob("*.py")) if path.name != "__init__.py"}


def imported(path):
    """Every module that a file names in an import."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}: relative import"
            members = [f"{node.module}.{alias.name}" for alias in node.names]
            yield from (member if member in FILES else node.module for member in members)


def rank(name):
    return RANKS.get(name.removeprefix("isac_toolbox.nn.").split(".")[0], 0)


def test_no_circle_of_any_kind():
    try:
        TopologicalSorter({name: set(imported(path)) for name, path in FILES.items()}).prepare()
    except CycleError as error:
        pytest.fail(f"circle {error.args[1]}")


@pytest.mark.parametrize("name", FILES)
def test_a_file_imports_its_room_and_lower_ones(name):
    for other in imported(FILES[name]):
        assert other not in ("isac_toolbox", "isac_toolbox.nn"), f"{name} imports the entrance {other}"
        if other.startswith("isac_toolbox.nn."):
            same_room = other.split(".")[2] == name.split(".")[2]
            assert same_room or rank(other) < rank(name) or rank(other) == rank(name) == 0, other
