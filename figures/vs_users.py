"""Positions, channel and data over the number of users: what they gain by sharing scatterers."""

from __future__ import annotations

from pathlib import Path

from isac_toolbox.figures.run import FigureRun
from isac_toolbox.figures.sweeps import THREE, metric_panels, uplink

ESTIMATORS = ("bisvbi", "pilot-only", "nomp", "ls", "genie")


def draw(run: FigureRun) -> list[Path]:
    """Draw errors over users that each see 65 % of the same scatterers, with eight pilot symbols."""
    scenario, described = uplink(run, snr_db=-10.0, n_pilot_symbols=8)
    values = run.choose((1, 2, 3, 4, 6, 8), (1, 3))
    result = run.sweep(scenario, {"n_users": values}, ESTIMATORS, run.trials())
    return metric_panels(run, result, f"{described}, -10 dB, 8 pilot symbols", THREE, ESTIMATORS)
