"""What the commands read: scenarios with their changes, saved observations, options that several share."""

from __future__ import annotations

import tomllib
from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated, Any

import typer

from isac_toolbox._files import parse_toml
from isac_toolbox.cli.errors import Problem, bad_input

if TYPE_CHECKING:
    from isac_toolbox.channel import UplinkObservation
    from isac_toolbox.scenario import Scenario, Simulation

__all__ = [
    "JsonOption",
    "ScenarioArgument",
    "SeedOption",
    "SetOption",
    "SnrOption",
    "draw",
    "is_npz",
    "load_observation",
    "load_scenario",
    "one_of",
    "reject_for_file",
]

ScenarioArgument = Annotated[
    str,
    typer.Argument(
        metavar="SCENARIO", help="Name of a ready scenario ('isac info' lists them) or a TOML file."
    ),
]
SeedOption = Annotated[
    int | None, typer.Option(min=0, help="Seed of the draw; 0 if not given.", show_default=False)
]
SnrOption = Annotated[float | None, typer.Option("--snr-db", help="SNR in dB instead of the scenario's.")]
SetOption = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="FIELD=VALUE", help="Change a field of the scenario (TOML value); repeatable."
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="One JSON object on stdout, nothing else.")]


def one_of(names: Iterable[str], text: str) -> Any:
    """Return an option that takes one of some names and lists them in its help."""
    known = tuple(names)

    def check(value: str | None) -> str | None:
        if value is not None and value not in known:
            raise typer.BadParameter(f"must be one of {', '.join(known)}, got {value!r}")
        return value

    return typer.Option(metavar="NAME", help=f"{text}: {', '.join(known)}.", callback=check)


def is_npz(name: str) -> bool:
    """Return whether a name is that of an npz file, in small or capital letters."""
    return name.lower().endswith(".npz")


def load_scenario(name: str, snr_db: float | None, changes: list[str] | None) -> Scenario:
    """Return the scenario with ``--set`` and ``--snr-db`` applied."""
    from isac_toolbox.scenario import Scenario

    if is_npz(name):
        raise Problem(f"{name} is an observation, not a scenario; use 'isac estimate {name}'")
    values = _parse_changes(changes or [])
    if snr_db is not None:
        if "snr_db" in values:
            raise Problem("--snr-db and --set snr_db=... are the same field; give one of them")
        values["snr_db"] = snr_db
    with bad_input():
        loaded = Scenario.load(name)
    with bad_input("--set" if changes else "--snr-db"):
        return loaded.replace(**values) if values else loaded


def _parse_changes(changes: list[str]) -> dict[str, Any]:
    """Return the changed fields, each given once."""
    values: dict[str, Any] = {}
    for text in changes:
        field, value = _parse_change(text)
        if field in values:
            raise Problem(f"--set {field} is given twice, as {values[field]!r} and {value!r}; give it once")
        values[field] = value
    return values


def _parse_change(text: str) -> tuple[str, Any]:
    """Split ``field=value``; the value is TOML, or else a string."""
    field, separator, value = text.partition("=")
    field, value = field.strip(), value.strip()
    if not separator or not field or not value:
        raise Problem(f"--set takes FIELD=VALUE, got {text!r}; for example --set n_users=4")
    try:
        parsed = parse_toml(f"value = {value}")
    except tomllib.TOMLDecodeError:
        return field, value
    return field, parsed["value"] if len(parsed) == 1 else value


def draw(scenario: Scenario, seed: int) -> Simulation:
    """Simulate one uplink block."""
    with bad_input():
        return scenario.simulate(seed)


def load_observation(path: str) -> UplinkObservation:
    """Read a saved observation."""
    from isac_toolbox.channel import UplinkObservation

    with bad_input():
        return UplinkObservation.load(path)


def reject_for_file(**options: Any) -> None:
    """Refuse options of a simulation, which a saved observation is not."""
    given = [f"--{name.replace('_', '-')}" for name, value in options.items() if value is not None]
    if given:
        raise Problem(f"{', '.join(given)} would change a simulation, but a file is estimated as it is")
