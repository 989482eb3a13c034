"""Positions, channel and data over the spread of the users' clock offsets."""

from __future__ import annotations

from pathlib import Path

from isac_toolbox.figures.run import FigureRun
from isac_toolbox.figures.sweeps import THREE, metric_panels, uplink

ESTIMATORS = ("bisvbi", "pilot-only", "nomp", "ls", "genie")


def draw(run: FigureRun) -> list[Path]:
    """Draw errors over the spread of the clocks, which the prior knows."""
    scenario, described = uplink(run, snr_db=-10.0)
    values = run.choose((1e-10, 1e-9, 3e-9, 1e-8, 3e-8, 1e-7), (1e-9, 3e-8))
    result = run.sweep(scenario, {"time_offset_std_s": values}, ESTIMATORS, run.trials())
    return metric_panels(run, result, f"{described}, -10 dB", THREE, ESTIMATORS, log_x=True)
