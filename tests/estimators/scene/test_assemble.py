"""One builder of results, and a short way from an observation to one."""

from __future__ import annotations

import ast
import re
from dataclasses import fields, is_dataclass
from importlib import import_module
from pathlib import Path

import pytest

import isac_toolbox as isac
from isac_toolbox.estimators import scene
from isac_toolbox.estimators.scene.assemble import Outcome
from isac_toolbox.estimators.scene.channel_estimate import ChannelEstimate
from isac_toolbox.estimators.scene.scene_estimate import SceneEstimate

PACKAGE = Path(isac.__file__).parent
HOMES = {
    "ReceivedBlock": "isac_toolbox.estimators.symbols.block",
    "Measurements": "isac_toolbox.channel.atoms.dense",
    "Problem": "isac_toolbox.estimators.scene.problem",
    "Fit": "isac_toolbox.estimators.scene.fit",
    "WorkingSet": "isac_toolbox.estimators.scene.working_set",
    "SceneEstimate": "isac_toolbox.estimators.scene.scene_estimate",
}


def test_results_are_made_in_one_place():
    makers = []
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "EstimationResult":
                makers.append(path.relative_to(PACKAGE).as_posix())
    assert makers == ["estimators/scene/assemble.py"]


def test_the_builder_has_every_field_once():
    given = [f.name for part in (SceneEstimate, ChannelEstimate) for f in fields(part)]
    wanted = {f.name for f in fields(isac.EstimationResult)}
    assert len(given) == len(set(given))
    assert {f.name for f in fields(SceneEstimate)} <= wanted
    assert {f.name for f in fields(Outcome)} <= wanted


@pytest.mark.parametrize("name", HOMES)
def test_the_way_is_short_and_frozen(name):
    """At most seven objects lie between observation and result, as the room's page says; all are frozen."""
    stations = re.findall(r"^      (\w+) ", scene.__doc__, re.MULTILINE)
    assert stations == list(HOMES)
    assert len(stations) <= 7
    station = getattr(import_module(HOMES[name]), name)
    assert is_dataclass(station) and station.__dataclass_params__.frozen
