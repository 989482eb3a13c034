"""The command ``isac figure``; heavy modules are imported when it runs."""

from __future__ import annotations

import os
from pathlib import Path
from time import perf_counter
from typing import Annotated

import typer

from isac_toolbox.cli.errors import FAILED, Problem, bad_input
from isac_toolbox.cli.outputs import compiling_notice, make_console, say
from isac_toolbox.figures.registry import FIGURES
from isac_toolbox.figures.run import FigureRun, render

__all__ = ["figure"]

_ALL = "all"


def figure(
    names: Annotated[
        list[str] | None,
        typer.Argument(metavar="NAME...", help="Figures to draw, or 'all'; --list shows the names."),
    ] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="Few trials and small blocks, for a quick look.")
    ] = False,
    trials: Annotated[
        int | None, typer.Option(min=1, help="Trials per point instead of the figure's default.")
    ] = None,
    jobs: Annotated[int, typer.Option(help="Processes for sweeps; -1 takes every processor.")] = 1,
    out: Annotated[
        Path, typer.Option(metavar="DIR", help="Folder of pictures, tables and stores; made if missing.")
    ] = Path("figures/renders"),
    show_list: Annotated[bool, typer.Option("--list", help="List the figures and stop.")] = False,
) -> None:
    """Draw figures as NAME.png, their numbers as NAME.csv; an interrupted figure resumes where it stopped."""
    if show_list:
        _list()
        return
    chosen = _chosen(names or [])
    if jobs == 0 or jobs < -1:
        raise Problem(f"--jobs: must be at least 1, or -1 for every processor, got {jobs}")
    _make_folder(out)
    for name in chosen:
        say(f"{name}: {FIGURES[name]}")
        start = perf_counter()
        paths = _render(FigureRun(name, out, quick, trials, jobs, progress=True))
        typer.echo(f"wrote {' and '.join(map(str, paths))} in {perf_counter() - start:.0f} s")


def _list() -> None:
    from rich.table import Table

    table = Table(box=None, pad_edge=False, show_header=False, padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True)
    for name, summary in FIGURES.items():
        table.add_row(name, summary)
    make_console().print(table)


def _chosen(names: list[str]) -> list[str]:
    """Return the names asked for, in their order; all of them for ``all``."""
    known = f"known are {', '.join(FIGURES)}, {_ALL}"
    if not names:
        raise Problem(f"give the name of a figure; {known}")
    for name in names:
        if name != _ALL and name not in FIGURES:
            raise Problem(f"unknown figure {name!r}; {known}")
    return list(FIGURES) if _ALL in names else list(dict.fromkeys(names))


def _make_folder(out: Path) -> None:
    """Refuse a folder that cannot be written, before any work."""
    with bad_input("--out"):
        out.mkdir(parents=True, exist_ok=True)
    if not os.access(out, os.W_OK | os.X_OK):
        raise Problem(f"--out: no permission to write into {out}; choose another folder")


def _render(run: FigureRun) -> list[Path]:
    """Draw one figure; finished rows of its sweep are kept whatever happens."""
    from isac_toolbox.sweeps import StoreError, SweepInterrupted, WorkerError

    with bad_input(run.name), compiling_notice():
        try:
            return render(run)
        except SweepInterrupted as interrupt:
            rows = f"{len(interrupt.result.rows)} rows of its sweep are kept in {run.folder}"
            say(f"{run.name} stopped; {rows}, the same command resumes from there")
            raise
        except (StoreError, WorkerError) as error:
            raise Problem(f"{run.name}: {error}", FAILED) from None
