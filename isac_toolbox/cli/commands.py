"""The command line ``isac``: simulate, estimate, bound, sweep, figure, info, nn.

Heavy modules are imported inside the commands, so that ``isac --help`` answers at once.
"""

from __future__ import annotations

import errno
import os
import shlex
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from io import StringIO, TextIOWrapper
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from isac_toolbox._interrupts import raise_interrupt
from isac_toolbox._version import __version__
from isac_toolbox.cli.errors import BAD_INPUT, FAILED, INTERRUPTED, Problem, bad_input
from isac_toolbox.cli.estimate import estimate
from isac_toolbox.cli.figure import figure
from isac_toolbox.cli.inputs import (
    JsonOption,
    ScenarioArgument,
    SeedOption,
    SetOption,
    SnrOption,
    draw,
    load_scenario,
)
from isac_toolbox.cli.nn_compress import compress
from isac_toolbox.cli.nn_ssvi import ssvi
from isac_toolbox.cli.outputs import check_writable, compiling_notice, make_console, npz_path, print_json, say
from isac_toolbox.cli.selftest import selftest
from isac_toolbox.cli.sweep import sweep

__all__ = ["app", "main", "nn_app"]


class _Commands(TyperGroup):
    """Commands whose errors are one ``error: ...`` line on stderr, never a traceback."""

    def main(self, *args: Any, **extra: Any) -> Any:
        """Run a command and end with the exit code that tells how it went."""
        standalone = extra.pop("standalone_mode", True)
        extra["standalone_mode"] = False
        if not standalone:
            return super().main(*args, **extra)
        try:
            with _plain_warnings():
                code = _interruptible(super().main, *args, **extra)
            if sys.stdout is not None:  # as it is where the shell has closed it
                sys.stdout.flush()
        except (KeyboardInterrupt, typer.Abort):
            code = INTERRUPTED
        except Problem as problem:
            say(f"error: {problem}")
            code = problem.code
        except OSError as error:
            code = _say_lost(error)
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


def _interruptible(command: Callable[..., Any], *args: Any, **extra: Any) -> Any:
    """Run a command; a Ctrl-C that a kernel has made another error of is one again."""
    try:
        return command(*args, **extra)
    except SystemError as error:
        raise_interrupt(error)
        raise


@contextmanager
def _plain_warnings() -> Iterator[None]:
    """Show warnings of values as a line, without the place in the code."""
    with warnings.catch_warnings():
        before = warnings.showwarning

        def show(message: Any, category: type[Warning], *place: Any, **rest: Any) -> None:
            if issubclass(category, UserWarning):
                say(f"warning: {message}")
            else:
                before(message, category, *place, **rest)

        warnings.showwarning = show
        yield


def _say_lost(error: OSError) -> int:
    """Say which output could not be written, in general standard output, whose reader may be gone."""
    if error.filename is None:
        sys.stdout = StringIO()  # what is left in the old one would fail again at the end
    if error.errno != errno.EPIPE:
        with suppress(OSError):
            say(f"error: {error.filename or 'standard output'}: {error.strerror or error}")
    return FAILED


app = typer.Typer(
    cls=_Commands,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Integrated sensing and communication: one received block in, the whole scene out.",
)
nn_app = typer.Typer(
    help="Neural networks with the same engine (needs isac_toolbox[nn]).", no_args_is_help=True
)


def main() -> None:
    """Run ``isac``."""
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
    """Simulate one uplink block and write what the receiver gets, without the truth, as an npz file."""
    from isac_toolbox.cli.report import describe_block
    from isac_toolbox.cli.tables import block_sizes

    described = load_scenario(scenario, snr_db, changes)
    target = npz_path("--output", output or Path(f"{Path(scenario).stem}_seed{seed or 0}"))
    check_writable("--output", target)
    observation = draw(described, seed or 0).observation
    with bad_input("--output"):
        written = observation.save(target)
    block = describe_block(scenario, seed or 0, observation, described.snr_db)
    typer.echo(f"wrote {written}: {block_sizes(block)}, SNR {described.snr_db:g} dB")
    typer.echo(f"to estimate from it: isac estimate {shlex.quote(str(written))}")


app.command()(estimate)


@app.command()
def bound(
    scenario: ScenarioArgument,
    seed: SeedOption = None,
    snr_db: SnrOption = None,
    changes: SetOption = None,
    pilots_only: Annotated[
        bool, typer.Option("--pilots-only", help="Bound of a receiver that knows the pilots only.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Compute the hybrid Cramér-Rao bound of positions, clocks and channel."""
    from isac_toolbox.bounds import hybrid_crb
    from isac_toolbox.cli.report import bound_report, describe_block
    from isac_toolbox.cli.tables import print_bound

    described = load_scenario(scenario, snr_db, changes)
    simulation = draw(described, seed or 0)
    block = describe_block(scenario, seed or 0, simulation.observation, described.snr_db)
    with compiling_notice(as_json), bad_input():
        bounds = hybrid_crb(simulation, known_data=not pilots_only)
    summary = bound_report(block, simulation, bounds, known_data=not pilots_only)
    if as_json:
        print_json(summary)
    else:
        print_bound(make_console(), summary)


app.command()(sweep)
app.command()(figure)
app.command()(selftest)
app.add_typer(nn_app, name="nn", help="Neural networks with the same engine; needs the extra 'nn'.")
nn_app.command()(compress)
nn_app.command()(ssvi)


@nn_app.callback()
def _nn_root() -> None:
    """Neural networks with the same engine."""


@app.command()
def info() -> None:
    """Show versions, threads and the ready scenarios."""
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


def _command_path(error: Exception) -> str:
    context = getattr(error, "ctx", None)
    words = [] if context is None else context.command_path.split()[1:]
    return " ".join(["isac", *words])
