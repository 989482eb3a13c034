"""The examples of the docstrings run as they are printed."""

from __future__ import annotations

import doctest
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import pytest

import isac_toolbox

FOLDER = Path(isac_toolbox.__file__).parent
WITH_EXAMPLES = sorted(
    ".".join(path.relative_to(FOLDER.parent).with_suffix("").parts).removesuffix(".__init__")
    for path in FOLDER.rglob("*.py")
    if ">>> " in path.read_text(encoding="utf-8")
)


@pytest.mark.parametrize("name", WITH_EXAMPLES)
def test_examples_of(name):
    if name.startswith("isac_toolbox.nn") and find_spec("torch") is None:
        pytest.skip('needs the extra "nn"')
    failed, tried = doctest.testmod(import_module(name))
    assert tried > 0 and failed == 0


def test_the_main_entries_have_examples():
    entries = {"scenario", "bounds", "metrics", "sweeps", "channel.array", "estimators.bisvbi"}
    assert {f"isac_toolbox.{room}" for room in entries | {"inference.recovery"}} <= set(WITH_EXAMPLES)
