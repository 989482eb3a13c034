"""The command ``isac sweep``; heavy modules are imported when it runs."""

from __future__ import annotations

import re
import tomllib
from dataclasses import asdict
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from isac_toolbox._files import parse_toml
from isac_toolbox.cli.errors import FAILED, Problem, bad_input
from isac_toolbox.cli.inputs import JsonOption, ScenarioArgument, SetOption, load_scenario
from isac_toolbox.cli.outputs import (
    check_writable,
    compiling_notice,
    keep_inputs,
    make_console,
    print_json,
    say,
)

if TYPE_CHECKING:
    from isac_toolbox.scenario import Scenario
    from isac_toolbox.sweeps import SweepResult

__all__ = ["parse_estimators", "parse_vary", "sweep"]

_MAX_VALUES = 10_000
_NUMBER = r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?"
_RANGE = re.compile(rf"({_NUMBER}):({_NUMBER}):({_NUMBER})")
_EXAMPLE = "--vary snr_db=-10:5:30 or --vary n_users=2,4,8"


def sweep(
    scenario: ScenarioArgument,
    vary: Annotated[
        list[str] | None,
        typer.Option(
            metavar="FIELD=VALUES",
            help="Vary a field: a list (2,4,8) or a range (first:step:last, both ends included); repeatable.",
        ),
    ] = None,
    estimators: Annotated[
        str, typer.Option(metavar="NAME,NAME,...", help="Estimators, as for 'isac estimate --estimator'.")
    ] = "bisvbi",
    trials: Annotated[int, typer.Option(min=1, help="Trials per point.")] = 20,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the sweep.")] = 0,
    jobs: Annotated[int, typer.Option(help="Processes; -1 takes every processor.")] = 1,
    store: Annotated[
        Path | None,
        typer.Option(metavar="FILE.db", help="Keep finished rows in this file, and resume from those in it."),
    ] = None,
    dask: Annotated[
        str | None, typer.Option(metavar="ADDRESS", help="Dask scheduler, such as tcp://host:8786.")
    ] = None,
    csv: Annotated[
        Path | None, typer.Option(metavar="FILE.csv", help="Write every row as a line of a CSV file.")
    ] = None,
    min_errors: Annotated[
        int | None,
        typer.Option(min=1, help="Stop an estimator at a point once it has this many symbol errors."),
    ] = None,
    retry_failed: Annotated[
        bool, typer.Option("--retry-failed", help="Repeat trials that failed before.")
    ] = False,
    changes: SetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Run many trials at many points; after an interruption the same command resumes from its store."""
    names = parse_estimators(estimators)
    values = parse_vary(vary or [])
    described = load_scenario(scenario, None, changes)
    _reject_set_and_vary(changes, values)
    if csv is not None:
        check_writable("--csv", csv)
        keep_inputs({"--csv": csv}, {"the store": store})
    options = {
        "vary": values,
        "estimators": names,
        "trials": trials,
        "seed": seed,
        "jobs": jobs,
        "store": store,
        "dask": dask,
        "min_errors": min_errors,
        "retry_failed": retry_failed,
        "progress": not as_json,
    }
    result, interrupted = _run(described, options)
    _show(result, csv, as_json)
    if interrupted:
        _say_how_to_go_on(store, len(result.rows))
        raise KeyboardInterrupt
    _report_failures(result)


def parse_estimators(text: str) -> list[str]:
    """Return the names of a list with commas; unknown ones are refused."""
    from isac_toolbox._catalogue import find_entry

    names = [name.strip() for name in text.split(",") if name.strip()]
    if not names:
        raise Problem(f"--estimators takes NAME,NAME,..., got {text!r}; for example bisvbi,nomp,ls")
    with bad_input("--estimators"):
        for name in names:
            find_entry(name)
    return list(dict.fromkeys(names))


def parse_vary(options: list[str]) -> dict[str, list[Any]]:
    """Return the values of every varied field."""
    values: dict[str, list[Any]] = {}
    for text in options:
        field, separator, listed = (part.strip() for part in text.partition("="))
        if not separator or not field or not listed:
            raise Problem(f"--vary takes FIELD=VALUES, got {text!r}; for example {_EXAMPLE}")
        if field in values:
            raise Problem(f"--vary {field} is given twice; list all its values in one")
        values[field] = _parse_values(text, listed)
    return values


def _parse_values(text: str, listed: str) -> list[Any]:
    """Parse a TOML list without its brackets or, if it is none, ranges, TOML values and plain words."""
    if any(mark in listed for mark in "[\"'"):
        try:
            parsed = parse_toml(f"values = [{listed}]")
        except tomllib.TOMLDecodeError as error:
            raise Problem(f"--vary {text}: {error}; for example --vary array_shape=[4,4],[8,8]") from None
        return list(parsed["values"])
    items = [item.strip() for item in listed.split(",")]
    if not all(items):
        raise Problem(f"--vary {text}: a value between commas is missing; for example {_EXAMPLE}")
    return [value for item in items for value in _parse_item(text, item)]


def _parse_item(text: str, item: str) -> list[Any]:
    if ":" in item:
        match = _RANGE.fullmatch(item)
        if match is None:
            raise Problem(f"--vary {text}: {item!r} is not a range first:step:last; for example {_EXAMPLE}")
        return _range(text, *map(Decimal, match.groups()))
    try:
        return [parse_toml(f"value = {item}")["value"]]
    except tomllib.TOMLDecodeError:
        return [item]


def _range(text: str, first: Decimal, step: Decimal, last: Decimal) -> list[int | float]:
    """Return ``first, first + step, ...`` up to ``last``, in decimals, so that steps of 0.1 stay exact."""
    if not all(map(Decimal.is_finite, (first, step, last))) or step == 0 or (last - first) / step < 0:
        raise Problem(f"--vary {text}: steps of {step} do not lead from {first} to {last}")
    count = int((last - first) / step) + 1
    if count > _MAX_VALUES:
        raise Problem(f"--vary {text}: the range has {count} values, at most {_MAX_VALUES} are allowed")
    values = [first + i * step for i in range(count)]
    whole = all(value == value.to_integral_value() for value in (first, step))
    return [int(value) if whole else float(value) for value in values]


def _reject_set_and_vary(changes: list[str] | None, values: dict[str, list[Any]]) -> None:
    """Refuse a field that is both fixed and varied."""
    fixed = [text.partition("=")[0].strip() for text in changes or []]
    both = [name for name in fixed if name in values]
    if both:
        raise Problem(f"--set {both[0]} and --vary {both[0]} are the same field; give one of them")


def _run(scenario: Scenario, options: dict[str, Any]) -> tuple[SweepResult, bool]:
    """Return the rows, and whether Ctrl-C ended the sweep; errors become messages."""
    from isac_toolbox.sweeps import StoreError, SweepInterrupted, WorkerError
    from isac_toolbox.sweeps import sweep as run_sweep

    try:
        with bad_input(), compiling_notice(not options["progress"]):
            try:
                return run_sweep(scenario, **options), False
            except SweepInterrupted as interrupt:
                return interrupt.result, True
            except (StoreError, WorkerError) as error:
                raise Problem(str(error), FAILED) from None
    except Problem as problem:
        # vary and store are the API's names; on the command line they are options
        message = re.sub(r"^vary(?=[ :\[])", "--vary", str(problem))
        raise Problem(message, problem.code) from None


def _show(result: SweepResult, csv: Path | None, as_json: bool) -> None:
    """Print tables or JSON, and write the CSV file."""
    from isac_toolbox.cli.report import plain
    from isac_toolbox.cli.tables import print_sweep

    if csv is not None:
        with bad_input("--csv"):
            result.to_csv(csv)
    if as_json:
        failures = [
            {"point": row.point, "trial": row.trial, "estimator": row.estimator, "error": row.error}
            for row in result.failures
        ]
        points = [asdict(entry) for entry in result.summary()]
        print_json(plain({"seed": result.seed, "points": points, "failures": failures}))
    elif result.rows:
        print_sweep(make_console(), result)
        if csv is not None:
            typer.echo(f"wrote {csv}")


def _say_how_to_go_on(store: Path | None, n_rows: int) -> None:
    if store is None:
        say(f"stopped after {n_rows} rows; without --store the next run starts again from the beginning")
    else:
        say(f"stopped; {n_rows} rows are in {store}, the same command resumes from there")


def _report_failures(result: SweepResult) -> None:
    """Report failed trials on stderr; fail if no trial of some point went well."""
    failures = result.failures
    if not failures:
        return
    first = failures[0]
    kept = "the store and --json hold the tracebacks"
    text = (
        f"{len(failures)} of {len(result.rows)} trials failed, first {first.estimator} in trial {first.trial}"
    )
    message = f"{text}: {_last_line(first.error)} ({kept})"
    if any(entry.trials == 0 for entry in result.summary()):
        raise Problem(message, FAILED)
    say(f"warning: {message}")


def _last_line(error: str) -> str:
    """Return the last line of a traceback, which says what went wrong."""
    lines = error.strip().splitlines()
    return lines[-1] if lines else "unknown"
