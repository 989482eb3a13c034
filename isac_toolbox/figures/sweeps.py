"""Sweeps that several figures share: one over SNR, and three figures of merit over one field."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Any

from isac_toolbox.figures.run import FigureRun, describe_sweep, merge_sweeps, sweep_rows

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from isac_toolbox.scenario import Scenario
    from isac_toolbox.sweeps import SweepResult

__all__ = [
    "FULL_TRIALS",
    "LABELS",
    "THREE",
    "legend_above",
    "metric_panels",
    "small_uplink",
    "snr_sweep",
    "uplink",
]

LABELS = {
    "bisvbi": "EM-Turbo-BiSVBI",
    "pilot-only": "EM-Turbo-BiSVBI, pilots only",
    "music-scvbi": "MUSIC-SCVBI",
    "nomp": "NOMP with fusion",
    "full-vbi": "full inverse on a grid",
    "ls": "least squares",
    "genie": "channel known, linear receiver",
}
THREE = ("rmse_m", "nmse_db", "symbol_error_rate")
_SNRS_DB = (-20.0, -17.5, -15.0, -12.5, -10.0, -7.5, -5.0, -2.5, 0.0, 5.0, 10.0, 15.0, 20.0, 25.0, 30.0)
_SMALL = {"array_shape": (4, 4), "n_subcarriers": 32, "subcarrier_spacing_hz": 3e6, "n_scatterers": 4}
#: Blocks of the full inverse, which takes seconds each.
FULL_TRIALS = 5
_RATES = {"symbol_error_rate", "bit_error_rate"}


def uplink(run: FigureRun, **changes: Any) -> tuple[Scenario, str]:
    """Return the standard uplink, smaller in a quick run, and its description."""
    return small_uplink(**changes) if run.quick else _uplink(changes)


def small_uplink(**changes: Any) -> tuple[Scenario, str]:
    """Return the standard uplink with a quarter of the antennas, half of the subcarriers and scatterers."""
    return _uplink({**_SMALL, **changes})


def _uplink(changes: Mapping[str, Any]) -> tuple[Scenario, str]:
    from isac_toolbox.scenario import Scenario

    scenario = Scenario.load("urban_uplink").replace(**changes)
    small = "array_shape" in changes
    size = f" with {changes['array_shape'][0]} x {changes['array_shape'][1]} antennas" if small else ""
    return scenario, f"urban_uplink{size}"


def snr_sweep(run: FigureRun) -> tuple[SweepResult, str]:
    """Sweep all estimators over SNR, with one store for the figures of positions, channel and data.

    Returns the result and its description. The full inverse, on a grid of 256 points, takes seconds per block
    and runs on few blocks at two points.
    """
    from isac_toolbox.estimators import EMTurboBiSVBI

    scenario, described = uplink(run)
    points, trials = run.choose(_SNRS_DB, (-10.0, 10.0)), run.trials()
    full = {"full-vbi": EMTurboBiSVBI(inverse="full", grid_points=run.choose(256, 64))}
    parts: list[tuple[Any, Sequence[float], int]] = [
        (["bisvbi", "music-scvbi", "nomp", "ls", "genie"], points, trials),
        (full, run.choose((0.0, 20.0), (10.0,)), min(trials, run.choose(FULL_TRIALS, 1))),
    ]
    results = [run.sweep(scenario, {"snr_db": at}, those, n, store="snr") for those, at, n in parts]
    return merge_sweeps(*results), described


def metric_panels(
    run: FigureRun,
    result: SweepResult,
    described: str,
    metrics: Sequence[str],
    estimators: Sequence[str],
    *,
    log_x: bool = False,
) -> list[Path]:
    """Draw figures of merit side by side under one legend, and save them with the pooled numbers."""
    from matplotlib.pyplot import subplots

    from isac_toolbox.plotting import sweep_curves
    from isac_toolbox.plotting.style import readable_log

    width = 6.4 if len(metrics) == 1 else 4.3 * len(metrics)
    figure, axes = subplots(1, len(metrics), figsize=(width, 4.7), layout="constrained", squeeze=False)
    labels = {name: LABELS[name] for name in estimators}
    for ax, metric in zip(axes[0], metrics):
        sweep_curves(result, metric, labels=labels, ax=ax)
        if log_x and isfinite(ax.dataLim.minposx):
            ax.set_xscale("log")
            readable_log(ax.xaxis)
    legend_above(figure)
    shown = [entry for entry in result.summary() if entry.estimator in labels]
    has_limits = any(entry.symbols and not entry.symbol_errors for entry in shown)
    limits = "; arrows: no error, upper limit at 95 %" if has_limits and _RATES.intersection(metrics) else ""
    caption = f"{describe_sweep(result, described, labels)}{limits}"
    rows = [
        {key: value for key, value in row.items() if key != "seconds"}  # of a machine that may be busy
        for row in sweep_rows(result, described)
    ]
    return run.save(figure, rows, caption)


def legend_above(figure: Figure, n_columns: int = 4) -> None:
    """Draw one legend of all panels, above them, so that it covers no data."""
    entries: dict[str, Any] = {}
    for ax in figure.axes:
        for handle, label in zip(*ax.get_legend_handles_labels()):
            entries.setdefault(label, handle)
    columns = min(n_columns, len(entries), max(2, int(figure.get_figwidth() / 2.1)))
    figure.legend(
        entries.values(), entries.keys(), loc="outside upper center", ncols=columns, frameon=False, fontsize=9
    )
