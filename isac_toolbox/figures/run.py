"""Drawing a figure: what its script is given to work with, and what it saves.

A script ``figures/NAME.py`` has one function ``draw(run)``; ``run`` says how much is wanted and saves.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from isac_toolbox.figures.registry import FIGURES, script_path

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from isac_toolbox.scenario import Scenario
    from isac_toolbox.sweeps import SweepProgress, SweepResult

__all__ = ["FigureRun", "describe_sweep", "merge_sweeps", "render", "sweep_rows"]

_QUICK_TRIALS = 3
_DPI = 130

T = TypeVar("T")


@dataclass(frozen=True)
class FigureRun:
    """How much of a figure to run, and where to put it.

    Attributes
    ----------
    name : str
    folder : Path
        Existing folder for ``NAME.png``, ``NAME.csv`` and the stores of sweeps. Quick figures end in
        ``_quick``, so that they neither replace the full ones nor share their stores.
    quick : bool
    n_trials : int, optional
        Trials per point instead of the figure's default.
    jobs : int
    progress : bool or callable
        As of :func:`isac_toolbox.sweep`.
    """

    name: str
    folder: Path
    quick: bool = False
    n_trials: int | None = None
    jobs: int = 1
    progress: bool | Callable[[SweepProgress], object] = False

    @property
    def _suffix(self) -> str:
        return "_quick" if self.quick else ""

    def choose(self, full: T, quick: T) -> T:
        """Return one of two, by how much is wanted."""
        return quick if self.quick else full

    def trials(self, full: int = 50, quick: int = _QUICK_TRIALS) -> int:
        """Return the trials per point: as asked for, or the default of the figure."""
        return self.n_trials or self.choose(full, quick)

    def path(self, suffix: str) -> Path:
        """Return the path of one of the figure's files."""
        return self.folder / f"{self.name}{self._suffix}{suffix}"

    def store_path(self, store: str | None = None) -> Path:
        """Return the store of the figure's sweep, or of one that several figures share."""
        return self.folder / f"{store or self.name}{self._suffix}.db"

    def sweep(
        self,
        scenario: Scenario,
        vary: Mapping[str, Sequence[Any]] | None,
        estimators: Mapping[str, Any] | Sequence[str],
        trials: int,
        store: str | None = None,
    ) -> SweepResult:
        """Run what the store does not hold yet."""
        from isac_toolbox.sweeps import sweep

        return sweep(
            scenario,
            vary,
            estimators,
            trials=trials,
            jobs=self.jobs,
            store=self.store_path(store),
            progress=self.progress,
        )

    def save(self, figure: Figure, rows: Iterable[Mapping[str, Any]], caption: str) -> list[Path]:
        """Write the picture, with the caption below it, and the numbers that it shows."""
        table = list(rows)
        picture, numbers = self.path(".png"), self.path(".csv")
        figure.supxlabel(caption, fontsize=7.5, color="#444444")
        figure.savefig(picture, dpi=_DPI)
        with numbers.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(dict.fromkeys(key for row in table for key in row)))
            writer.writeheader()
            writer.writerows(table)
        return [picture, numbers]


def render(run: FigureRun) -> list[Path]:
    """Draw one figure and return the files it wrote.

    Raises
    ------
    ValueError
        For an unknown name; the known ones are listed.
    """
    if run.name not in FIGURES:
        raise ValueError(f"unknown figure {run.name!r}; known are {', '.join(FIGURES)}")
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib.pyplot import close

    try:
        paths: list[Path] = _script(run.name).draw(run)
    finally:
        close("all")
    return paths


def _script(name: str) -> Any:
    """Return the module of a figure."""
    path = script_path(name)
    specification = spec_from_file_location(f"isac_toolbox_figure_{name}", path)
    if specification is None or specification.loader is None:
        raise FileNotFoundError(f"the script of figure {name} is not in {path.parent}")
    module = module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


def merge_sweeps(*results: SweepResult) -> SweepResult:
    """Return results of one store as one, in the order given."""
    return replace(results[0], rows=tuple(row for result in results for row in result.rows))


def sweep_rows(result: SweepResult, scenario: str) -> list[dict[str, Any]]:
    """Return the pooled figures, a row per point and estimator."""
    rows = []
    for entry in result.summary():
        values = asdict(entry)
        point = {name: json.dumps(v) if isinstance(v, list) else v for name, v in values.pop("point").items()}
        rows.append({"scenario": scenario, "seed": result.seed, **point, **values})
    return rows


def describe_sweep(result: SweepResult, scenario: str, labels: Mapping[str, str] | None = None) -> str:
    """Describe scenario, trials per point and seed; estimators with fewer trials than the rest are named.

    ``labels`` names the estimators that are shown; all of them, by their names in the sweep, if not given.
    """
    trials: dict[str, int] = {}
    shown = [entry for entry in result.summary() if labels is None or entry.estimator in labels]
    for entry in shown:
        trials[entry.estimator] = max(trials.get(entry.estimator, 0), entry.trials + entry.failed)
    most = max(trials.values(), default=0)
    named = [f"{(labels or {}).get(name, name)}: {n}" for name, n in trials.items() if n < most]
    fewer = list(dict.fromkeys(named))
    exceptions = f" ({', '.join(fewer)})" if fewer else ""
    return f"{scenario}; {most} trials a point{exceptions}, seed {result.seed}"
