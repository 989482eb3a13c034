"""Time and error over the number of grid points: working set alone, full inverse, inverse-free."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib.pyplot import subplots
from matplotlib.ticker import NullLocator

import isac_toolbox as isac
from isac_toolbox.figures.run import FigureRun, describe_sweep, merge_sweeps, sweep_rows
from isac_toolbox.figures.sweeps import FULL_TRIALS, legend_above, small_uplink
from isac_toolbox.plotting.style import BOUND_STYLE, curve_style, readable_log

VARIANTS = {"full": ("full-vbi", "full inverse"), "mm": ("mm-vbi", "inverse-free")}
SUBSPACE = "working set"


def draw(run: FigureRun) -> list[Path]:
    """Draw the median time per block and the channel error relative to the working set without a grid."""
    scenario, described = small_uplink()
    sizes = {
        "full": run.choose((32, 64, 128, 256, 512), (32, 64)),
        "mm": run.choose((32, 64, 128, 256, 512, 1024, 2048, 4096), (32, 64, 256)),
    }
    grids = {
        inverse: {f"{inverse} {n}": isac.EMTurboBiSVBI(inverse=inverse, grid_points=n) for n in points}
        for inverse, points in sizes.items()
    }
    trials, fast = run.trials(), {SUBSPACE: isac.EMTurboBiSVBI(), **grids["mm"]}
    result = merge_sweeps(
        run.sweep(scenario, None, fast, trials),
        run.sweep(scenario, None, grids["full"], min(trials, FULL_TRIALS)),
    )
    summary = {entry.estimator: entry for entry in result.summary()}
    figure, (left, right) = subplots(1, 2, figsize=(9.6, 4.7), layout="constrained")
    excess = excess_db(result)
    seconds = {name: entry.seconds for name, entry in summary.items()}
    for ax, values in ((left, seconds), (right, excess)):
        for inverse, points in sizes.items():
            style, label = VARIANTS[inverse]
            ax.plot(points, [values[f"{inverse} {n}"] for n in points], label=label, **curve_style(style))
        blue = curve_style("bisvbi")["color"]
        ax.axhline(values[SUBSPACE], label="working set (default), no grid", color=blue, lw=1.8)
        ax.set(xscale="log", xlabel="grid points")
        ax.grid(alpha=0.3, lw=0.5)
    working_set = summary[SUBSPACE]
    right.axhline(
        working_set.bound_nmse_db - working_set.nmse_db, label="hybrid Cramér-Rao bound", **BOUND_STYLE
    )
    left.set(yscale="log", ylabel="median time per block (s)")
    right.set(ylabel="NMSE over the working set's, same blocks (dB)", ylim=(-1, 1))
    readable_log(left.yaxis)
    for ax in (left, right):
        ax.set_xticks(sizes["mm"], list(map(str, sizes["mm"])))
        ax.xaxis.set_minor_locator(NullLocator())
    legend_above(figure, 4)
    labels = {name: name.replace("full", "full inverse").rstrip("0123456789 ") for name in summary}
    caption = f"{describe_sweep(result, described, labels)}, one thread"
    return run.save(figure, sweep_rows(result, described), caption)


def excess_db(result: isac.SweepResult) -> dict[str, float]:
    """Return the mean channel error over that of the working set on the same blocks, by estimator."""
    columns = result.columns
    names, trials, errors = (np.asarray(columns[key]) for key in ("estimator", "trial", "nmse"))
    reference = dict(zip(trials[names == SUBSPACE], errors[names == SUBSPACE]))
    shared = np.array([reference[trial] for trial in trials])
    return {
        name: float(10 * np.log10(errors[names == name].mean() / shared[names == name].mean()))
        for name in dict.fromkeys(names.tolist())
    }
