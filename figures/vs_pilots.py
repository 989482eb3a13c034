"""Positions, channel and data over the number of pilot symbols; fewer pilots than users included."""

from __future__ import annotations

from pathlib import Path

from isac_toolbox.figures.run import FigureRun
from isac_toolbox.figures.sweeps import THREE, metric_panels, uplink

ESTIMATORS = ("bisvbi", "pilot-only", "nomp", "ls", "genie")


def draw(run: FigureRun) -> list[Path]:
    """Draw errors over random pilots, of which any number fits three users."""
    scenario, described = uplink(run, snr_db=-10.0, pilot_pattern="random")
    values = run.choose((1, 2, 3, 4, 6, 8), (2, 4))
    result = run.sweep(scenario, {"n_pilot_symbols": values}, ESTIMATORS, run.trials())
    return metric_panels(run, result, f"{described}, -10 dB, random pilots", THREE, ESTIMATORS)
