"""What a sweep has to run: points, seeds, estimators, and the description that a store keeps of them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from isac_toolbox._catalogue import from_catalogue
from isac_toolbox._validation import check_integer
from isac_toolbox._version import __version__
from isac_toolbox.channel.environment import load_traced
from isac_toolbox.scenario import Scenario

__all__ = ["Plan", "Task", "describe_estimator", "make_plan", "point_key", "trial_seed"]

Point = dict[str, Any]


@dataclass(frozen=True)
class Task:
    """One trial of one point for the estimators that still miss it; they share the simulation."""

    key: str
    scenario: Scenario
    seed: int
    trial: int
    estimators: Mapping[str, Any]
    version: str = __version__


@dataclass(frozen=True)
class Plan:
    """A whole sweep.

    Attributes
    ----------
    scenario : Scenario
    fields : tuple of str
        Names of the varied fields.
    points : mapping of str to Scenario
        By their key (:func:`point_key`), in the order of the sweep.
    estimators : mapping of str to object
    trials, seed : int
    """

    scenario: Scenario
    fields: tuple[str, ...]
    points: Mapping[str, Scenario]
    estimators: Mapping[str, Any]
    trials: int
    seed: int

    def description(self) -> dict[str, Any]:
        """Return what must not change between runs that share a store."""
        fixed = self.scenario.model_dump(mode="json", exclude={"description", *self.fields})
        return {
            "package_version": __version__,
            "seed": self.seed,
            "vary": list(self.fields),
            "scenario": fixed | _traced_content(fixed.get("traced")),
        }

    def task(self, key: str, trial: int, names: Sequence[str]) -> Task:
        """Return one task of the plan."""
        chosen = {name: self.estimators[name] for name in names}
        return Task(key, self.points[key], self.seed, trial, chosen)


def make_plan(
    scenario: Scenario,
    vary: Mapping[str, Sequence[Any]] | None,
    estimators: Mapping[str, Any] | Sequence[str],
    trials: int,
    seed: int,
) -> Plan:
    """Check everything that can be checked before any work.

    Raises
    ------
    TypeError, ValueError
        Naming the argument, its value and what is allowed.
    """
    if not isinstance(scenario, Scenario):
        raise TypeError(f"scenario must be a Scenario, got {type(scenario).__name__}")
    values = _check_vary({} if vary is None else vary)
    points = dict(_points(scenario, values))
    if len(points) < np.prod([len(v) for v in values.values()], dtype=int):
        raise ValueError(f"vary names a value twice: {values}")
    for traced in dict.fromkeys(point.traced for point in points.values()):
        _check_traced(traced)
    return Plan(
        scenario=scenario,
        fields=tuple(values),
        points=points,
        estimators=_check_estimators(estimators),
        trials=check_integer("trials", trials, 1),
        seed=check_integer("seed", seed, 0),
    )


def point_key(point: Point) -> str:
    """Return canonical JSON of a point's values; a point is the same whatever other points are swept."""
    return json.dumps(point, sort_keys=True, separators=(",", ":"))


def trial_seed(seed: int, key: str, trial: int) -> np.random.SeedSequence:
    """Return a trial's seed: a hash of the point's values and the trial's number below the sweep's seed."""
    digest = hashlib.sha256(key.encode()).digest()
    return np.random.SeedSequence(seed, spawn_key=(int.from_bytes(digest[:8], "big"), trial))


def describe_estimator(estimator: Any) -> dict[str, Any]:
    """Return class and settings, ready for JSON and the same in every process."""
    if isinstance(estimator, partial):
        inner = describe_estimator(estimator.func)
        given = {f"argument {i}": value for i, value in enumerate(estimator.args)} | estimator.keywords
        return {**inner, "settings": {name: _plain(value) for name, value in given.items()}}
    kind = estimator if hasattr(estimator, "__qualname__") else type(estimator)
    if kind is estimator:
        settings: dict[str, Any] = {}
    elif is_dataclass(estimator):
        settings = {f.name: getattr(estimator, f.name) for f in fields(estimator)}
    else:
        settings = dict(getattr(estimator, "__dict__", {}))
    return {
        "class": f"{kind.__module__}.{kind.__qualname__}",
        "settings": {name: _plain(value) for name, value in settings.items()},
    }


def _plain(value: Any) -> Any:
    """Return a JSON value; anything else is described without its address in memory."""
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    text = repr(value)
    return type(value).__qualname__ if " at 0x" in text else text


def _check_vary(vary: Mapping[str, Sequence[Any]]) -> dict[str, list[Any]]:
    """Check that every field is known and every list has values."""
    if not isinstance(vary, Mapping):
        raise TypeError(f"vary must map fields to lists of values, got {vary!r}")
    known = [name for name in Scenario.model_fields if name != "description"]
    for name, values in vary.items():
        if name not in known:
            raise ValueError(f"vary: unknown field {name!r}; known are {', '.join(known)}")
        if isinstance(values, (str, bytes)) or not isinstance(values, (Sequence, np.ndarray, range)):
            raise TypeError(f"vary[{name!r}] must be a list of values, got {values!r}")
        if len(values) == 0:
            raise ValueError(f"vary[{name!r}] must have at least one value, got none")
    return {name: [_number(value) for value in values] for name, values in vary.items()}


def _number(value: Any) -> Any:
    """Return NumPy numbers as Python's, which is what a scenario takes."""
    return value.tolist() if isinstance(value, (np.generic, np.ndarray)) else value


def _points(scenario: Scenario, values: Mapping[str, list[Any]]) -> Iterator[tuple[str, Scenario]]:
    """Yield every combination of values as a validated scenario with its key."""
    for combination in product(*values.values()):
        changes = dict(zip(values, combination))
        try:
            point = scenario.replace(**changes)
        except (TypeError, ValueError) as error:
            where = ", ".join(f"{name} = {value}" for name, value in changes.items())
            text = str(error).removeprefix("scenario: ")
            raise ValueError(f"vary {where}: {text}{_pilot_hint(scenario, values)}") from None
        dumped = point.model_dump(mode="json")
        yield point_key({name: _signless(dumped[name]) for name in values}), point


def _signless(value: Any) -> Any:
    """Return a value with minus zero as zero."""
    return value + 0.0 if isinstance(value, float) else value


def _pilot_hint(scenario: Scenario, values: Mapping[str, list[Any]]) -> str:
    """Say how to give every point enough pilots, if that is what is missing."""
    users = values.get("n_users", [])
    counts = [n for n in users if isinstance(n, int)]
    explicit = scenario.n_pilot_symbols
    if explicit is None or "n_pilot_symbols" in values or not counts or max(counts) <= explicit:
        return ""
    if scenario.pilot_pattern != "orthogonal" or "pilot_pattern" in values:
        return ""
    return (
        f". The scenario sets n_pilot_symbols = {explicit} for every point: add --set "
        f"n_pilot_symbols={max(counts)} (in Python scenario.replace(n_pilot_symbols={max(counts)}))"
    )


def _check_traced(traced: str | None) -> None:
    """Refuse an environment that cannot be read."""
    if traced is not None:
        try:
            load_traced(traced)
        except OSError as error:
            raise ValueError(f"traced: {error}") from None


def _traced_content(traced: str | None) -> dict[str, str]:
    """Return a hash of the environment's file, as its name does not tell what is in it."""
    if traced is None or not Path(traced).is_file():
        return {}
    return {"traced_sha256": hashlib.sha256(Path(traced).read_bytes()).hexdigest()}


def _check_estimators(estimators: Mapping[str, Any] | Sequence[str]) -> dict[str, Any]:
    """Return names and estimators; a string is a name of the catalogue."""
    if isinstance(estimators, str):
        raise TypeError(f"estimators must be a mapping or a list of names, got {estimators!r}")
    named: dict[str, Any] = (
        dict(estimators) if isinstance(estimators, Mapping) else {name: name for name in estimators}
    )
    if not named:
        raise ValueError("estimators must name at least one estimator, got none")
    for name, estimator in list(named.items()):
        if not isinstance(name, str) or not name:
            raise TypeError(f"names of estimators must be strings, got {name!r}")
        if isinstance(estimator, str):
            named[name] = from_catalogue(estimator)
        elif not (callable(estimator) or callable(getattr(estimator, "estimate", None))):
            raise TypeError(
                f"estimators[{name!r}] must have a method estimate(obs), be a function of the truth that "
                f"makes such an object, or be a name of the catalogue, got {estimator!r}"
            )
    return named
