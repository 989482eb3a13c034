"""Files of scenarios: where they are, how they are read and written, and how a bad one is told."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import ValidationError

from isac_toolbox._files import parse_toml, read_small
from isac_toolbox.channel.environment import load_traced

__all__ = ["ScenarioFile", "find_traced", "read_scenario", "readable", "scenario_names", "toml_text"]


class ScenarioFile(NamedTuple):
    """What a file of a scenario holds, how messages call it, and the folder that it is in."""

    values: dict[str, Any]
    source: str
    folder: Path


def scenario_names() -> list[str]:
    """Return the names of the ready scenarios."""
    return sorted(
        p.name.removesuffix(".toml") for p in _scenario_folder().iterdir() if p.name.endswith(".toml")
    )


def _scenario_folder() -> Any:
    """The shipped folder, or the one of a source checkout."""
    shipped = files("isac_toolbox") / "scenarios"
    return shipped if shipped.is_dir() else Path(__file__).parents[2] / "scenarios"


def read_scenario(name_or_path: str | Path) -> ScenarioFile:
    """Return what the file of a ready scenario or a TOML file holds, not yet validated.

    Raises
    ------
    ValueError
        For an unknown name or a file that is missing, too large or no TOML.
    """
    if not isinstance(name_or_path, (str, Path)):
        raise TypeError(f"name_or_path must be a name or a path, got {name_or_path!r}")
    path = Path(name_or_path)
    if path.suffix.lower() == ".toml" or path.is_file():
        if not path.is_file():
            raise ValueError(f"no such scenario file: {path}")
        content, source, folder = read_small(path), str(path), path.parent
    else:
        known = scenario_names()
        if str(name_or_path) not in known:
            raise ValueError(f"unknown scenario {str(name_or_path)!r}; known are {', '.join(known)}")
        content = (_scenario_folder() / f"{name_or_path}.toml").read_bytes()
        source, folder = f"scenario {name_or_path}", Path()
    try:
        values = parse_toml(content.decode("utf-8-sig"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{source} is not valid TOML: {error}") from None
    return ScenarioFile(values, source, folder)


def find_traced(traced: str, folder: Path, source: str) -> str:
    """Return where a scenario file's traced environment is: a path, or the name of a shipped one.

    Raises
    ------
    ValueError
        If it is neither beside the scenario nor where :func:`load_traced` looks.
    """
    beside = folder / traced
    if beside.is_file():
        return str(beside)
    try:
        load_traced(traced)
    except FileNotFoundError as error:
        raise ValueError(f"{source}: traced: {error}, and beside the scenario as {beside}") from None
    return traced


def readable(error: ValidationError, known: list[str]) -> str:
    """Return what is wrong with a scenario, for each problem the key, what came, what is allowed."""
    lines = []
    for problem in error.errors():
        first, *inside = problem["loc"] or ("",)
        key = ".".join([str(first), *(str(part) for part in inside if isinstance(part, int))])
        if problem["type"] == "extra_forbidden":
            lines.append(f"unknown key {key!r}; known are {', '.join(known)}")
        elif key:
            lines.append(f"{key}: {problem['msg'].removeprefix('Value error, ')}, got {problem['input']!r}")
        else:
            lines.append(problem["msg"].removeprefix("Value error, "))
    return "; ".join(lines)


def toml_text(values: Mapping[str, Any]) -> str:
    """Return values as TOML, a line each; None is left out."""
    lines = [f"{name} = {_toml_value(value)}" for name, value in values.items() if value is not None]
    return "\n".join(lines) + "\n"


def _toml_value(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        # JSON escapes what a TOML string must escape, but for DEL
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    if isinstance(value, (tuple, list)):
        return "[" + ", ".join(_toml_value(v) for v in value) + "]"
    return repr(value)
