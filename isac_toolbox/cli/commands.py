"""The command line ``isac``: simulate, estimate, bound, sweep, figure, info, nn.

Heavy modules are imported inside the commands, so that ``isac --help`` answers at once.
"""

from __future__ import annotations

import os
import shlex
import sys
from enum import StrEnum
from io import TextIOWrapper
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from isac_toolbox._version import __version__
from isac_toolbox.cli.figure import figure
from isac_toolbox.cli.inputs import (
    BAD_INPUT,
    FAILED,
    INTERRUPTED,
    Problem,
    bad_input,
    bound_of,
    check_page,
    check_plot,
    check_writable,
    draw,
    load_observation,
    load_scenario,
    make_console,
    npz_path,
    print_json,
    reject_for_file,
    run_estimator,
    say,
    write_outputs,
)
from isac_toolbox.cli.nn_compress import app as nn_app
from isac_toolbox.cli.sweep import sweep

if TYPE_CHECKING:
    from isac_toolbox._catalogue import Entry
    from isac_toolbox.scenario import Simulation

__all__ = ["app", "main"]


class _Commands(TyperGroup):
    """Commands whose errors are one ``error: ...`` line on stderr, never a traceback."""

    def main(self, *args: Any, **extra: Any) -> Any:
        """Run; every way to end has its exit code."""
        standalone = extra.pop("standalone_mode", True)
        extra["standalone_mode"] = False
        if not standalone:
            return super().main(*args, **extra)
        try:
            code = super().main(*args, **extra)
        except (KeyboardInterrupt, typer.Abort):
            code = INTERRUPTED
        except Problem as problem:
            say(f"error: {problem}")
            code = problem.code
        except Exception as error:
            usage = getattr(error, "format_message", None)
            if usage is None:
                raise
            # a group without a command has shown its help and has nothing to say
            code = BAD_INPUT if usage() else 0
            if usage():
                say(f"error: {usage().rstrip('.')} (see '{_command_path(error)} --help')")
        if code == INTERRUPTED:
            say("interrupted")
        sys.exit(code if isinstance(code, int) else 0)


app = typer.Typer(
    cls=_Commands,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Integrated sensing and communication: one received block in, the whole scene out.",
)


class EstimatorName(StrEnum):
    """Names of the catalogue, repeated here as reading it would load every estimator."""

    bisvbi = "bisvbi"
    music_scvbi = "music-scvbi"
    nomp = "nomp"
    omp = "omp"
    ls = "ls"
    genie = "genie"
    full_vbi = "full-vbi"
    mm_vbi = "mm-vbi"
    mean_field = "mean-field"
    structured = "structured"
    gradient = "gradient"
    pilot_only = "pilot-only"


class Coarse(StrEnum):
    """Coarse stages."""

    nomp = "nomp"
    music = "music"


class Rule(StrEnum):
    """Update rules of the sparse prior."""

    extrinsic = "extrinsic"
    structured = "structured"
    mean_field = "mean_field"


class MStep(StrEnum):
    """Refinements of the geometry."""

    gauss_newton = "gauss_newton"
    gradient = "gradient"


class Inverse(StrEnum):
    """E-steps: on the working set, or on a grid over the region."""

    subspace = "subspace"
    full = "full"
    mm = "mm"


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


def main() -> None:
    """Entry point of ``isac``."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="replace")  # never fail on a terminal that lacks a letter
    app()


@app.callback(invoke_without_command=True)
def _root(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version and stop.")] = False,
) -> None:
    if version:
        typer.echo(f"isac_toolbox {__version__}")
    elif context.invoked_subcommand is None:
        typer.echo(context.get_help())


@app.command()
def simulate(
    scenario: ScenarioArgument,
    seed: SeedOption = None,
    snr_db: SnrOption = None,
    changes: SetOption = None,
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", metavar="FILE.npz", help="Where to write the observation."),
    ] = None,
) -> None:
    """Simulate one uplink block and write what the receiver has (not the truth) as an npz file."""
    from isac_toolbox.cli import report as report
    from isac_toolbox.cli import tables as tables

    described = load_scenario(scenario, snr_db, changes)
    target = npz_path(output or Path(f"{Path(scenario).stem}_seed{seed or 0}"))
    check_writable("--output", target)
    observation = draw(described, seed or 0).observation
    with bad_input("--output"):
        written = observation.save(target)
    block = report.describe_block(scenario, seed or 0, observation, described.snr_db)
    typer.echo(f"wrote {written}: {tables.block_sizes(block)}, SNR {described.snr_db:g} dB")
    typer.echo(f"estimate from it: isac estimate {shlex.quote(str(written))}")


@app.command()
def estimate(
    source: Annotated[
        str, typer.Argument(metavar="SCENARIO|FILE.npz", help="Scenario to simulate, or a saved observation.")
    ],
    seed: SeedOption = None,
    snr_db: SnrOption = None,
    changes: SetOption = None,
    estimator: Annotated[EstimatorName, typer.Option(help="Method.")] = EstimatorName.bisvbi,
    coarse: Annotated[Coarse | None, typer.Option(help="Coarse stage.")] = None,
    rule: Annotated[Rule | None, typer.Option(help="Update rule of the sparse prior.")] = None,
    m_step: Annotated[MStep | None, typer.Option(help="Refinement of positions and clocks.")] = None,
    inverse: Annotated[Inverse | None, typer.Option(help="E-step: working set or whole grid.")] = None,
    max_iter: Annotated[int | None, typer.Option(min=1, help="Largest number of iterations.")] = None,
    as_json: JsonOption = False,
    save: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write the result as an npz file.")
    ] = None,
    plot: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Draw the scene (png, pdf or svg).")
    ] = None,
    page: Annotated[
        Path | None,
        typer.Option(
            "--html", metavar="FILE", help="Write an interactive page of the scene; needs the extra 'html'."
        ),
    ] = None,
) -> None:
    """Estimate scatterers, users, clocks, channel and data; against the truth if a scenario is given."""
    from isac_toolbox.cli import report as report
    from isac_toolbox.cli import tables as tables
    from isac_toolbox.estimators import SceneRecorder

    check_plot(plot)
    check_page(page)
    if save is not None:
        save = npz_path(save)
        check_writable("--save", save)
    given = {"coarse": coarse, "rule": rule, "m_step": m_step, "inverse": inverse, "max_iter": max_iter}
    entry = _entry(estimator)
    _check_settings(estimator, entry, given)
    settings = {key: str(v) if isinstance(v, StrEnum) else v for key, v in given.items() if v is not None}
    snr: float | None = None
    simulation: Simulation | None = None
    if source.endswith(".npz"):
        reject_for_file(seed=seed, snr_db=snr_db, set=changes)
        if entry.needs_truth:
            raise Problem(
                f"--estimator {estimator} needs the truth, which a file does not hold; give a scenario"
            )
        observation = load_observation(source)
    else:
        described = load_scenario(source, snr_db, changes)
        simulation, snr = draw(described, seed or 0), described.snr_db
        observation = simulation.observation
    with bad_input(f"--estimator {estimator}"):
        method = entry.make(None if simulation is None else simulation.truth, **settings)
    recording = None if page is None else SceneRecorder()
    result, seconds = run_estimator(method, observation, quiet=as_json, recording=recording)
    run = report.Run(
        source=source,
        seed=None if simulation is None else seed or 0,
        observation=observation,
        result=result,
        seconds=seconds,
        simulation=simulation,
        bound=bound_of(simulation),
        snr_db=snr,
        recording=recording,
    )
    summary = report.estimation_report(run)
    summary["estimator"]["settings"] = {**entry.settings, **settings}
    if as_json:
        print_json(summary)
    else:
        tables.print_estimation(make_console(), summary)
    write_outputs(run, save, plot, page, quiet=as_json)
    if result.status == "numerical failure":
        raise Problem(
            f"the estimation failed ({result.status} after {result.n_iter} iterations); "
            "the figures above are of its last state",
            FAILED,
        )


@app.command()
def bound(
    scenario: ScenarioArgument,
    seed: SeedOption = None,
    snr_db: SnrOption = None,
    changes: SetOption = None,
    pilots_only: Annotated[
        bool, typer.Option("--pilots-only", help="The receiver knows the pilots only.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Hybrid Cramér-Rao bound of positions, clocks and channel."""
    from isac_toolbox.bounds import hybrid_crb
    from isac_toolbox.cli import report as report
    from isac_toolbox.cli import tables as tables

    described = load_scenario(scenario, snr_db, changes)
    simulation = draw(described, seed or 0)
    block = report.describe_block(scenario, seed or 0, simulation.observation, described.snr_db)
    bounds = hybrid_crb(simulation, known_data=not pilots_only)
    summary = report.bound_report(block, simulation, bounds, known_data=not pilots_only)
    if as_json:
        print_json(summary)
    else:
        tables.print_bound(make_console(), summary)


app.command()(sweep)
app.command()(figure)
app.add_typer(nn_app, name="nn", help="Neural networks with the same engine; needs the extra 'nn'.")


@app.command()
def info() -> None:
    """Versions, threads and the ready scenarios."""
    import platform
    from importlib.metadata import version

    import numba
    import scipy.linalg  # noqa: F401  (loads its BLAS)
    from threadpoolctl import threadpool_info

    from isac_toolbox.scenario import Scenario, scenario_names

    typer.echo(f"isac_toolbox  {__version__}")
    typer.echo(f"python        {platform.python_version()} on {platform.system()} {platform.machine()}")
    for package in ("numpy", "scipy", "numba"):
        typer.echo(f"{package:13} {version(package)}")
    pools = [pool for pool in threadpool_info() if pool["user_api"] == "blas"]
    blas = dict.fromkeys(f"{p['internal_api']} {p['version']} ({p['num_threads']} threads)" for p in pools)
    typer.echo(f"{'BLAS':13} {', '.join(blas) or 'unknown'}")
    typer.echo(f"{'threads':13} {os.cpu_count()} processors, {numba.get_num_threads()} for numba")
    typer.echo("\nscenarios")
    names = scenario_names()
    width = max(map(len, names), default=0)
    for name in names:
        typer.echo(f"  {name:{width}}  {Scenario.load(name).description}")


def _entry(name: EstimatorName) -> Entry:
    from isac_toolbox._catalogue import find_entry

    return find_entry(str(name))


def _check_settings(name: EstimatorName, entry: Entry, given: dict[str, Any]) -> None:
    """Refuse options that the estimator does not have, or that its name decides."""
    known = entry.free_settings
    strange = [key for key, value in given.items() if value is not None and key not in known]
    if strange:
        fitting = [_option(key) for key in given if key in known]
        has = f"it takes {', '.join(fitting)}" if fitting else "it takes none of these options"
        raise Problem(f"{', '.join(map(_option, strange))} does not fit --estimator {name}; {has}")


def _option(key: str) -> str:
    return f"--{key.replace('_', '-')}"


def _command_path(error: Exception) -> str:
    context = getattr(error, "ctx", None)
    words = [] if context is None else context.command_path.split()[1:]
    return " ".join(["isac", *words])
