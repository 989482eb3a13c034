"""Public docstrings have the sections that numpydoc expects, and name what is there."""

from __future__ import annotations

import inspect
import re
from dataclasses import fields, is_dataclass
from functools import cache
from importlib import import_module
from importlib.util import find_spec

import pytest

import isac_toolbox as isac
from helpers import ROOT

docscrape = pytest.importorskip("numpydoc.docscrape", reason='needs numpydoc, of the extra "dev"')

ROOMS = ["scenario", "channel", "estimators", "sweeps", "metrics", "bounds", "plotting", "inference"]
HAS_NETWORKS = find_spec("torch") is not None and find_spec("safetensors") is not None
if HAS_NETWORKS:
    ROOMS += ["nn", "nn.models", "nn.baselines"]
# methods with up to this many arguments may say what they are in their summary
FEW = 2


@cache
def public_objects():
    """Every public class and function by its full name."""
    found = {}
    for room in ROOMS:
        module = import_module(f"isac_toolbox.{room}")
        for name in module.__all__:
            value = getattr(module, name)
            if inspect.isclass(value) or inspect.isfunction(value):
                found[f"{room}.{name}"] = value
    return found


CLASSES = {name: value for name, value in public_objects().items() if inspect.isclass(value)}
FUNCTIONS = {name: value for name, value in public_objects().items() if inspect.isfunction(value)}
#: Classes with those of the same room that they are built upon.
BUILT = [
    (name, part)
    for name, kind in CLASSES.items()
    for part in kind.__mro__
    if part.__module__.startswith(f"isac_toolbox.{name.split('.')[0]}")
]
METHODS = {
    f"{name}.{attribute}": getattr(kind, attribute)
    for name, kind in BUILT
    for attribute, value in vars(kind).items()
    if not attribute.startswith("_")
    and (inspect.isfunction(value) or isinstance(value, classmethod))
    and attribute not in getattr(kind, "__dataclass_fields__", ())  # the default of a field is no method
}
PROPERTIES = {
    f"{name}.{attribute}": value
    for name, kind in BUILT
    for attribute, value in vars(kind).items()
    if not attribute.startswith("_") and isinstance(value, property)
}


def over(objects):
    cases = [pytest.param(value, id=name) for name, value in objects.items()]
    if not HAS_NETWORKS:
        cases.append(pytest.param(None, id="nn", marks=pytest.mark.skip(reason='needs the extra "nn"')))
    return pytest.mark.parametrize("value", cases)


STARS = {inspect.Parameter.VAR_POSITIONAL: "*", inspect.Parameter.VAR_KEYWORD: "**"}


def arguments(value):
    parameters = inspect.signature(value).parameters.values()
    return [STARS.get(p.kind, "") + p.name for p in parameters if p.name != "self"]


def stated(doc, *sections):
    """Names of the entries of some sections; one line may hold several."""
    lines = [entry.name or entry.type for section in sections for entry in doc[section]]
    return [name.strip().replace("\\", "") for line in lines for name in line.split(",")]


@over({**CLASSES, **FUNCTIONS, **METHODS, **PROPERTIES})
def test_the_summary_is_a_line_of_its_own(value):
    text = inspect.getdoc(value)
    assert text, "no docstring"
    summary = text.splitlines()[0]
    assert summary[0].isupper() or summary[0] in "`*"
    assert summary.rstrip().endswith((".", ":"))


@over(FUNCTIONS)
def test_functions_document_arguments_and_returns(value):
    doc = docscrape.FunctionDoc(value)
    assert sorted(stated(doc, "Parameters", "Other Parameters")) == sorted(arguments(value))
    if arguments(value):
        assert doc["Returns"] or doc["Yields"]


@over(METHODS)
def test_methods_document_the_arguments_they_have(value):
    doc = docscrape.FunctionDoc(value)
    if doc["Parameters"] or len(arguments(value)) > FEW:
        assert sorted(stated(doc, "Parameters")) == sorted(arguments(value))


@over(CLASSES)
def test_classes_document_their_fields(value):
    doc = docscrape.NumpyDocString(inspect.getdoc(value))
    names = stated(doc, "Parameters", "Attributes")
    assert len(set(names)) == len(names)
    if is_dataclass(value):
        own = [f.name for f in fields(value) if not any(hasattr(base, f.name) for base in value.__mro__[1:])]
        inherited = {f.name for base in value.__mro__[1:] if is_dataclass(base) for f in fields(base)}
        assert set(own) - inherited <= set(names) | named_in_summary(value)
        assert set(names) - inherited <= {f.name for f in fields(value)}
    elif "__init__" in vars(value) and doc["Parameters"]:
        assert set(arguments(value)) == set(stated(doc, "Parameters"))


def named_in_summary(value):
    """Words of the summary: small classes say there what they hold."""
    return set(re.findall(r"\w+", inspect.getdoc(value).splitlines()[0]))


def test_every_field_of_a_scenario_is_explained_in_the_standard_one():
    text = (ROOT / "scenarios" / "urban_uplink.toml").read_text(encoding="utf-8")
    explained = set(re.findall(r"^(?:# )?(\w+)(?: =|  )", text, flags=re.MULTILINE))
    assert set(isac.Scenario.model_fields) - explained <= {"traced"}
