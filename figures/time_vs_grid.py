"""Time and error over the number of grid points: working set alone, full inverse, inverse-free."""

from __future__ import annotations

from pathlib import Path

from matplotlib.pyplot import subplots
from matplotlib.ticker import NullLocator

import isac_toolbox as isac
from isac_toolbox._figure_sweeps import FULL_TRIALS, legend_above, small_uplink
from isac_toolbox._figures import FigureRun, describe_sweep, merge_sweeps, sweep_rows
from isac_toolbox._plot_style import BOUND_STYLE, curve_style, readable_log

VARIANTS = {"full": ("full-vbi", "full inverse"), "mm": ("mm-vbi", "inverse-free")}
SUBSPACE = "working set"


def draw(run: FigureRun) -> list[Path]:
    """Median time per block and mean channel error, beside those of the working set, which has no grid."""
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
    for ax, figure_of_merit in ((left, "seconds"), (right, "nmse_db")):
        for inverse, points in sizes.items():
            style, label = VARIANTS[inverse]
            values = [getattr(summary[f"{inverse} {n}"], figure_of_merit) for n in points]
            ax.plot(points, values, label=label, **curve_style(style))
        own = getattr(summary[SUBSPACE], figure_of_merit)
        blue = curve_style("bisvbi")["color"]
        ax.axhline(own, label="working set (default), no grid", color=blue, lw=1.8)
        ax.set(xscale="log", xlabel="grid points")
        ax.grid(alpha=0.3, lw=0.5)
    right.axhline(summary[SUBSPACE].bound_nmse_db, label="hybrid Cramér-Rao bound", **BOUND_STYLE)
    left.set(yscale="log", ylabel="median time per block (s)")
    right.set(ylabel="channel NMSE (dB)", ylim=(own - 2, own + 2))
    readable_log(left.yaxis)
    for ax in (left, right):
        ax.set_xticks(sizes["mm"], list(map(str, sizes["mm"])))
        ax.xaxis.set_minor_locator(NullLocator())
    legend_above(figure, 4)
    caption = f"{describe_sweep(result, described)}, one thread"
    return run.save(figure, sweep_rows(result, described), caption)
