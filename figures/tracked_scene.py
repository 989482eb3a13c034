"""Users and scatterers followed over successive blocks, and the errors beside the bound."""

from __future__ import annotations

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes

import isac_toolbox as isac
from isac_toolbox.figures.run import FigureRun
from isac_toolbox.plotting.style import BOUND_STYLE, OKABE_ITO, readable_log
from isac_toolbox.tracking import TrackedResult

SCENARIO, SEED, INTERVAL_S = "moving_uplink", 0, 0.04
PROCESS = isac.ConstantVelocity((1.0, 1.0, 0.0), (1.0, 1.0, 0.0), 1e-10, 1.0)


def draw(run: FigureRun) -> list[Path]:
    """Draw the ways from above, true and tracked, and root mean square errors over time."""
    n_blocks = run.choose(50, 4)
    track = isac.Scenario.load(SCENARIO).simulate_track(n_blocks, INTERVAL_S, seed=SEED, process=PROCESS)
    tracker = isac.Tracker(process=PROCESS)
    results = [tracker.update(simulation.observation) for simulation in track]
    rows = [row(b, *pair) for b, pair in enumerate(zip(track, results, strict=True))]
    figure, (above, errors) = plt.subplots(1, 2, figsize=(11.5, 4.8), layout="constrained")
    draw_ways(above, track, results)
    draw_errors(errors, rows)
    last = rows[-1]
    caption = (
        f"{SCENARIO}, seed {SEED}, {n_blocks} blocks, one every {1e3 * INTERVAL_S:.0f} ms; accelerations of "
        f"1 m/s²; {last['hits']} of {last['true']} scatterers followed in the last block, "
        f"{last['false']} false"
    )
    return run.save(figure, rows, caption)


def row(block: int, simulation: isac.Simulation, tracked: TrackedResult) -> dict[str, object]:
    """Figures of one block."""
    truth, bound = simulation.truth, isac.bounds.hybrid_crb(simulation)
    found = isac.metrics.localisation(
        tracked.scatterer_positions_m[tracked.confirmed], truth.scatterer_positions_m
    )
    away = np.linalg.norm(tracked.user_positions_m - truth.user_positions_m, axis=1)
    return {
        "scenario": SCENARIO,
        "seed": SEED,
        "block": block + 1,
        "time_s": block * INTERVAL_S,
        "hits": found.hits,
        "true": len(truth.scatterer_positions_m),
        "false": found.false_alarms,
        "scatterer_rmse_m": found.rmse_m,
        "scatterer_bound_m": root_mean(bound.position_rmse_m[found.truth_index]),
        "user_rmse_m": root_mean(away),
        "user_bound_m": root_mean(bound.user_position_rmse_m),
    }


def root_mean(values: np.ndarray) -> float:
    """Root mean square."""
    return float(np.sqrt(np.mean(values**2))) if values.size else float("nan")


def draw_ways(ax: Axes, track: list[isac.Simulation], results: list[TrackedResult]) -> None:
    """True ways as lines, tracked places as dots, from above."""
    scatterers = np.array([simulation.truth.scatterer_positions_m for simulation in track])
    users = np.array([simulation.truth.user_positions_m for simulation in track])
    for ways, colour, name in ((scatterers, "black", "scatterers"), (users, "purple", "users")):
        for number in range(ways.shape[1]):
            label = f"{name}, true" if number == 0 else None
            ax.plot(*ways[:, number, :2].T, color=OKABE_ITO[colour], lw=1.0, label=label)
            ax.plot(*ways[-1, number, :2], color=OKABE_ITO[colour], marker="o", mfc="none", ms=9, ls="")
    tracked = np.vstack([r.scatterer_positions_m[r.confirmed] for r in results])
    ax.plot(*tracked[:, :2].T, ".", color=OKABE_ITO["blue"], ms=4, label="scatterers, tracked")
    followed = np.vstack([r.user_positions_m for r in results])
    ax.plot(*followed[:, :2].T, ".", color=OKABE_ITO["vermilion"], ms=4, label="users, tracked")
    last = results[-1]
    for number, place in zip(last.track_ids, last.scatterer_positions_m, strict=True):
        ax.annotate(str(number), place[:2], xytext=(6, 5), textcoords="offset points", fontsize=8)
    ax.set(xlabel="x (m)", ylabel="y (m)", aspect="equal")
    ax.legend(loc="best", fontsize=8, frameon=False)


def draw_errors(ax: Axes, rows: list[dict[str, object]]) -> None:
    """Errors over time, and the bounds of single blocks."""
    times = [r["time_s"] for r in rows]
    for name, colour, line in (("scatterer", "blue", "-"), ("user", "vermilion", "--")):
        errors, bounds = ([r[f"{name}_{kind}_m"] for r in rows] for kind in ("rmse", "bound"))
        ax.plot(times, errors, color=OKABE_ITO[colour], ls=line, lw=1.5, label=f"{name}s, tracked")
        style = {**BOUND_STYLE, "ls": line, "lw": 1.0}
        ax.plot(times, bounds, **style, label=f"{name}s, bound of a block")
    ax.set(xlabel="time (s)", ylabel="root mean square error (m)", yscale="log")
    readable_log(ax.yaxis)
    ax.grid(alpha=0.3)
    ax.legend(fontsize=8, frameon=False)
