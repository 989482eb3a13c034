"""Are stated probabilities and ellipsoids right? Drawn scenes and ray-traced cities."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.pyplot import subplots

import isac_toolbox as isac
from isac_toolbox.figures.run import FigureRun
from isac_toolbox.figures.sweeps import legend_above, uplink

CITIES = {"traced_munich": "Munich", "traced_street_canyon": "street canyon"}
TITLES = {"point": "candidates", "scatterer_level": "scatterers", "user_level": "users"}


def draw(run: FigureRun) -> list[Path]:
    """Draw the reliability of probabilities and the coverage of scatterers' and users' ellipsoids."""
    cases = {"urban_uplink": uplink(run)[0]}
    cases |= {name: isac.Scenario.load(name) for name in run.choose(tuple(CITIES), ("traced_munich",))}
    figure, axes = subplots(1, 3, figsize=(12.6, 4.9), layout="constrained")
    counts: dict[str, dict[str, np.ndarray]] = {kind: {} for kind in TITLES}
    rows: list[dict[str, Any]] = []
    trials = run.trials(full=50, quick=2)
    for name, scenario in cases.items():
        snrs_db = run.choose((-10.0, 0.0, 10.0, 20.0) if name == "urban_uplink" else (5.0, 20.0), (10.0,))
        result = run.sweep(scenario, {"snr_db": snrs_db}, ["bisvbi"], trials, f"calibration_{name}")
        for kind, pooled in counts.items():
            pooled[CITIES.get(name, name)] = pool(result, f"{kind}_bins")
            rows += table(name, result.seed, kind, pooled[CITIES.get(name, name)])
    isac.plotting.reliability(counts["point"], ax=axes[0])
    isac.plotting.coverage(counts["scatterer_level"], ax=axes[1])
    isac.plotting.coverage(counts["user_level"], ax=axes[2])
    for ax, (kind, pooled) in zip(axes, counts.items()):
        numbers = (int(np.sum(bins[:, 0] if bins.ndim == 2 else bins)) for bins in pooled.values())
        ax.set_title(f"{TITLES[kind]} ({', '.join(map(str, numbers))})", fontsize=10)
    legend_above(figure)
    caption = (
        f"urban_uplink {run.choose('at -10, 0, 10, 20 dB', 'at 10 dB')}, cities "
        f"{run.choose('at 5, 20 dB', 'at 10 dB')}; {trials} trials a point, seed 0; "
        "in brackets: numbers of each case; bars: 95 % intervals"
    )
    return run.save(figure, rows, caption)


def pool(result: isac.SweepResult, name: str) -> np.ndarray:
    """Add up bins over all trials."""
    return np.sum([getattr(row.metrics, name) for row in result.rows if row.metrics is not None], axis=0)


def table(scenario: str, seed: int, kind: str, pooled: np.ndarray) -> list[dict[str, Any]]:
    """Return a line per bin."""
    rows = []
    for index, values in enumerate(pooled):
        row = {"scenario": scenario, "seed": seed, "kind": kind}
        row |= {"bin_low": index / len(pooled), "bin_high": (index + 1) / len(pooled)}
        names = ("count", "sum_of_probabilities", "true") if kind == "point" else ("count",)
        rows.append(row | dict(zip(names, np.atleast_1d(values).tolist())))
    return rows
