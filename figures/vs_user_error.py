"""Positions, channel and data over the error of the nominal user positions."""

from __future__ import annotations

from pathlib import Path

from isac_toolbox.figures.run import FigureRun
from isac_toolbox.figures.sweeps import THREE, metric_panels, uplink

ESTIMATORS = ("bisvbi", "pilot-only", "nomp", "ls", "genie")


def draw(run: FigureRun) -> list[Path]:
    """Draw errors over the spread of the users' position errors, which the prior knows."""
    scenario, described = uplink(run, snr_db=-10.0)
    values = run.choose((0.03, 0.1, 0.3, 1.0, 3.0), (0.1, 1.0))
    result = run.sweep(scenario, {"user_position_std_m": values}, ESTIMATORS, run.trials())
    return metric_panels(run, result, f"{described}, -10 dB", THREE, ESTIMATORS, log_x=True)
