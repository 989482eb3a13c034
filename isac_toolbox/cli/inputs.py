"""What the commands share: reading input, refusing it in words, running with a progress bar, writing."""

from __future__ import annotations

import json
import os
import time
import tomllib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer
from rich.console import Console

if TYPE_CHECKING:
    from isac_toolbox.bounds import HybridBound
    from isac_toolbox.channel import UplinkObservation
    from isac_toolbox.cli.report import Run
    from isac_toolbox.estimators import EstimationResult, SceneRecorder
    from isac_toolbox.scenario import Scenario, Simulation

__all__ = [
    "BAD_INPUT",
    "FAILED",
    "INTERRUPTED",
    "Problem",
    "bad_input",
    "bound_of",
    "check_page",
    "check_plot",
    "check_writable",
    "draw",
    "load_observation",
    "load_scenario",
    "make_console",
    "npz_path",
    "print_json",
    "reject_for_file",
    "run_estimator",
    "say",
    "write_outputs",
]

BAD_INPUT, FAILED, INTERRUPTED = 2, 1, 130
_PLOT_SUFFIXES = (".png", ".pdf", ".svg")
_MIN_WIDTH = 80


class Problem(Exception):
    """Ends the command with a message on stderr and an exit code."""

    def __init__(self, message: str, code: int = BAD_INPUT) -> None:
        super().__init__(message)
        self.code = code


def load_scenario(name: str, snr_db: float | None, changes: list[str] | None) -> Scenario:
    """The scenario with ``--set`` and ``--snr-db`` applied."""
    from isac_toolbox.scenario import Scenario

    if name.endswith(".npz"):
        raise Problem(f"{name} is an observation, not a scenario; 'isac estimate {name}' takes it")
    values = dict(map(_parse_change, changes or []))
    if snr_db is not None:
        if "snr_db" in values:
            raise Problem("--snr-db and --set snr_db=... are the same field; give one of them")
        values["snr_db"] = snr_db
    with bad_input():
        loaded = Scenario.load(name)
    with bad_input("--set" if changes else "--snr-db"):
        return loaded.replace(**values) if values else loaded


def _parse_change(text: str) -> tuple[str, Any]:
    """``field=value`` with a TOML value; what is no TOML value is a string."""
    field, separator, value = text.partition("=")
    field, value = field.strip(), value.strip()
    if not separator or not field or not value:
        raise Problem(f"--set takes FIELD=VALUE, got {text!r}; for example --set n_users=4")
    try:
        parsed = tomllib.loads(f"value = {value}")
    except tomllib.TOMLDecodeError:
        return field, value
    return field, parsed["value"] if len(parsed) == 1 else value


def draw(scenario: Scenario, seed: int) -> Simulation:
    """One uplink block."""
    with bad_input():
        return scenario.simulate(seed)


def load_observation(path: str) -> UplinkObservation:
    """A saved observation."""
    from isac_toolbox.channel import UplinkObservation

    with bad_input():
        return UplinkObservation.load(path)


def reject_for_file(**options: Any) -> None:
    """A saved observation cannot be drawn anew."""
    given = [f"--{name.replace('_', '-')}" for name, value in options.items() if value is not None]
    if given:
        raise Problem(f"{', '.join(given)} would change a simulation; a file is estimated as it is")


@contextmanager
def bad_input(option: str = "") -> Iterator[None]:
    """Errors of input become a message; ``option`` names where the input came from."""
    prefix = f"{option}: " if option else ""
    try:
        yield
    except UnicodeDecodeError as error:
        raise Problem(f"{prefix}not a text file ({error.reason})") from None
    except MemoryError as error:
        raise Problem(f"{prefix}not enough memory for these sizes; {error}") from None
    except OSError as error:
        text = f"{error.filename}: {error.strerror}" if error.filename and error.strerror else str(error)
        raise Problem(f"{prefix}{text}") from None
    except (ValueError, TypeError) as error:
        raise Problem(f"{prefix}{str(error).removeprefix('scenario: ')}") from None


def npz_path(path: Path) -> Path:
    """The path that an npz file gets: ``.npz`` is added if missing."""
    return path if path.suffix == ".npz" else path.with_name(f"{path.name}.npz")


def check_writable(option: str, path: Path) -> None:
    """Refuse a file that cannot be written, before any work."""
    folder = path.parent
    if not folder.is_dir():
        raise Problem(f"{option}: there is no folder {folder}; make it first or choose another")
    if path.is_dir():
        raise Problem(f"{option}: {path} is a folder; give a file name")
    if not os.access(path if path.exists() else folder, os.W_OK):
        raise Problem(f"{option}: no permission to write {path}; choose another place")


def check_plot(path: Path | None) -> None:
    """Refuse a picture that matplotlib cannot write there."""
    if path is None:
        return
    if path.suffix.lower() not in _PLOT_SUFFIXES:
        raise Problem(f"--plot: {path} must end in one of {', '.join(_PLOT_SUFFIXES)}")
    check_writable("--plot", path)


def check_page(path: Path | None) -> None:
    """Refuse a page that cannot be made or written there."""
    if path is None:
        return
    from isac_toolbox.plotting.html import MISSING_PLOTLY, SUFFIXES, has_plotly

    if path.suffix.lower() not in SUFFIXES:
        raise Problem(f"--html: {path} must end in one of {', '.join(SUFFIXES)}")
    check_writable("--html", path)
    if not has_plotly():
        raise Problem(f"--html: {MISSING_PLOTLY}")


def write_outputs(run: Run, save: Path | None, plot: Path | None, page: Path | None, quiet: bool) -> None:
    """Result file, picture and interactive page."""
    for path, option, write in (
        (save, "--save", _save),
        (plot, "--plot", _draw_plot),
        (page, "--html", _write_page),
    ):
        if path is None:
            continue
        with bad_input(option):
            write(run, path)
        if not quiet:
            typer.echo(f"wrote {path}")


def _save(run: Run, path: Path) -> None:
    run.result.save(path)


def _draw_plot(run: Run, path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib.pyplot import close

    from isac_toolbox.plotting import scene_3d

    figure, _ = scene_3d(run.result, run.truth, observation=run.observation)
    figure.savefig(path, dpi=150)
    close(figure)


def _write_page(run: Run, path: Path) -> None:
    from isac_toolbox.plotting import scene_html

    title = run.source
    if run.simulation is not None:
        title = f"{run.source}, seed {run.seed}, SNR {run.snr_db:g} dB"
    scene_html(
        run.result,
        run.truth,
        observation=run.observation,
        recording=run.recording,
        path=path,
        title=title,
    )


def print_json(value: dict[str, Any]) -> None:
    """One strict JSON object on stdout."""
    typer.echo(json.dumps(value, indent=2, allow_nan=False))


def make_console() -> Console:
    """Rich on stdout; 80 columns where there is no terminal."""
    console = Console()
    return console if console.is_terminal else Console(width=max(console.width, _MIN_WIDTH))


def say(message: str) -> None:
    """One line on stderr."""
    typer.echo(message, err=True)


def run_estimator(
    method: Any, observation: UplinkObservation, quiet: bool, recording: SceneRecorder | None = None
) -> tuple[EstimationResult, float]:
    """Run it with a progress bar on stderr, recording if asked; the result and the seconds it took."""
    from numpy.linalg import LinAlgError

    start = time.perf_counter()
    try:
        with _progress(quiet) as show:
            result = method.estimate(observation, callback=_both(show, recording))
    except (LinAlgError, FloatingPointError, MemoryError) as error:
        raise Problem(f"the estimation failed: {error}", FAILED) from None
    except ValueError as error:
        raise Problem(str(error)) from None
    return result, time.perf_counter() - start


def _both(
    first: Callable[[Any], None] | None, second: Callable[[Any], None] | None
) -> Callable[[Any], None] | None:
    """One callback out of two of which either may be missing."""
    if first is None or second is None:
        return second if first is None else first

    def call(loop: Any) -> None:
        first(loop)
        second(loop)

    return call


@contextmanager
def _progress(quiet: bool) -> Iterator[Callable[[Any], None] | None]:
    """A callback that moves a progress bar; None where nobody would see it."""
    console = Console(stderr=True)
    if quiet or not console.is_terminal:
        yield None
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("iteration"), MofNCompleteColumn(), BarColumn(24), TextColumn("{task.description}"))
    with Progress(*columns, TimeElapsedColumn(), console=console, transient=True) as progress:
        task = progress.add_task("coarse stage", total=None)

        def show(loop: Any) -> None:
            state = f"noise {loop.noise_variance:.3g}, {loop.n_active} paths"
            progress.update(task, completed=loop.n_iter, total=loop.max_iter, description=state)

        yield show


def bound_of(simulation: Simulation | None) -> HybridBound | None:
    """The bound of a simulation; None without one or where it cannot be computed."""
    if simulation is None:
        return None
    import numpy as np

    from isac_toolbox.bounds import hybrid_crb

    try:
        return hybrid_crb(simulation)
    except np.linalg.LinAlgError:
        return None
