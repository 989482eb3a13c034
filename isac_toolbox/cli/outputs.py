"""What the commands write: lines and JSON on the terminal, files, and the checks before any work."""

from __future__ import annotations

import json
import os
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer
from rich.console import Console

from isac_toolbox.cli.errors import Problem, bad_input
from isac_toolbox.cli.inputs import is_npz

if TYPE_CHECKING:
    from isac_toolbox._compilation import Compilation
    from isac_toolbox.cli.report import Run

__all__ = [
    "check_page",
    "check_plot",
    "check_writable",
    "compiling_notice",
    "keep_inputs",
    "make_console",
    "npz_path",
    "print_json",
    "say",
    "write_outputs",
]

_PLOT_SUFFIXES = (".png", ".pdf", ".svg")
_MIN_WIDTH = 80
_COMPILING = "Compiling numerical kernels, once for this installation; this takes up to half a minute ..."


def make_console() -> Console:
    """Return a console on stdout, of at least 80 columns where there is no terminal."""
    console = Console()
    return console if console.is_terminal else Console(width=max(console.width, _MIN_WIDTH))


def say(message: str) -> None:
    """Print a line on stderr; what is typed or read from a file cannot break it or steer the terminal."""
    typer.echo("".join(map(_visible, message)), err=True)


def _visible(letter: str) -> str:
    """Return a letter, or its escape if it is a control character or half a letter."""
    return letter if unicodedata.category(letter) not in ("Cc", "Cs", "Zl", "Zp") else ascii(letter)[1:-1]


@contextmanager
def compiling_notice(quiet: bool = False) -> Iterator[Compilation]:
    """Say on stderr, once, that kernels are being compiled, if they are; yield the time that it takes."""
    from isac_toolbox._compilation import keep_quiet, watch_compilation

    keep_quiet()
    with watch_compilation(None if quiet else lambda: say(_COMPILING)) as compilation:
        yield compilation


def print_json(value: dict[str, Any]) -> None:
    """Print one strict JSON object on stdout."""
    typer.echo(json.dumps(value, indent=2, allow_nan=False))


def npz_path(option: str, path: Path) -> Path:
    """Return the path that an npz file gets: ``.npz`` is added if missing; refuse a path without a name."""
    if not path.name:
        raise Problem(f"{option}: {str(path)!r} has no file name; give one")
    return path if is_npz(path.name) else path.with_name(f"{path.name}.npz")


def keep_inputs(outputs: dict[str, Path | None], inputs: dict[str, Path | None]) -> None:
    """Refuse outputs that would replace a file that is read, or one another."""
    taken = {path.resolve(): name for name, path in inputs.items() if path is not None}
    for option, path in outputs.items():
        if path is None:
            continue
        other = taken.setdefault(path.resolve(), option)
        if other != option:
            raise Problem(f"{option}: {path} is already {other}, which it would replace; choose another name")


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
    """Write the picture and the interactive page, and say so, also of the result file, which is there."""
    if save is not None and not quiet:
        typer.echo(f"wrote {save}")
    for path, option, write in (
        (plot, "--plot", _draw_plot),
        (page, "--html", _write_page),
    ):
        if path is None:
            continue
        with bad_input(option):
            write(run, path)
        if not quiet:
            typer.echo(f"wrote {path}")


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
