"""Every number of the estimators and the engine says what it is and, where it was tuned, that it was."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

import isac_toolbox as isac

PACKAGE = Path(isac.__file__).parent
FILES = sorted(p for room in ("estimators", "inference") for p in (PACKAGE / room).rglob("*.py"))
KINDS = re.compile(r"^#:? ?(Mathematics|Guard|Cost cap|Prior|Tuned)\b")


def holds_a_number(value: ast.expr) -> bool:
    """Return whether an expression is made of numbers alone, at least one of them neither 0 nor 1."""
    nodes = list(ast.walk(value))
    strings = any(isinstance(n, ast.Constant) and isinstance(n.value, str) for n in nodes)
    return not strings and any(isinstance(n, ast.Constant) and n.value not in (0, 1, None) for n in nodes)


def numbers(path: Path) -> list[tuple[str, int]]:
    """Return names and lines of the constants of a module that are numbers."""
    found = []
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and holds_a_number(node.value):
            names = [n.id for target in node.targets for n in ast.walk(target) if isinstance(n, ast.Name)]
            if all(name.isupper() for name in names):
                found.append((names[0], node.lineno))
    return found


@pytest.mark.parametrize("path", [p for p in FILES if numbers(p)], ids=lambda p: "/".join(p.parts[-2:]))
def test_a_number_says_what_kind_it_is(path):
    lines = path.read_text(encoding="utf-8").splitlines()
    for name, line in numbers(path):
        start = line - 1
        while start and lines[start - 1].startswith("#"):
            start -= 1
        assert KINDS.match(lines[start]), f"{path.name}:{line}: {name} does not say what kind of number it is"
