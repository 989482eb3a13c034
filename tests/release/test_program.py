"""The types of the toolbox reach its users: a right program passes ``mypy --strict``, wrong ones do not."""

from __future__ import annotations

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

import isac_toolbox as isac
from helpers import ROOT, TESTS

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(find_spec("mypy") is None, reason="needs mypy"),
]
PROGRAM = TESTS / "release" / "program.py"
WRONG = {
    "isac.Scenario.load(3)": "arg-type",
    "isac.LeastSquares().estimate(isac.Scenario.load('x'))": "arg-type",
    "isac.EMTurboBiSVBI(max_iter='3')": "arg-type",
    "isac.load_sweep('x').nothing": "attr-defined",
    "isac.nothing": "attr-defined",
    "x: str = isac.metrics.channel_nmse_db([1.0], [1.0])": "assignment",
}


def checked(program: Path) -> str:
    """What mypy says of a program, with no settings but ``--strict``."""
    command = [sys.executable, "-m", "mypy", "--strict", "--config-file=", "--cache-dir=.mypy_cache/strict"]
    return subprocess.run([*command, program], cwd=ROOT, capture_output=True, text=True, timeout=300).stdout


def test_a_small_program_is_strictly_typed():
    assert checked(PROGRAM) == "Success: no issues found in 1 source file\n"


def test_mistakes_of_a_program_are_seen(tmp_path):
    program = tmp_path / "wrong.py"
    program.write_text("import isac_toolbox as isac\n" + "\n".join(WRONG) + "\n")
    said = checked(program)
    for line, kind in enumerate(WRONG.values(), start=2):
        assert any(f"wrong.py:{line}: error" in text and f"[{kind}]" in text for text in said.splitlines()), (
            said
        )


def test_the_package_says_that_it_has_types():
    assert (Path(isac.__file__).parent / "py.typed").is_file()
