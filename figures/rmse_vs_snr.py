"""Localisation error over SNR; the error is that of the scatterers found, so their share stands beside it."""

from __future__ import annotations

from pathlib import Path

from isac_toolbox.figures.run import FigureRun
from isac_toolbox.figures.sweeps import metric_panels, snr_sweep


def draw(run: FigureRun) -> list[Path]:
    """Draw the error of the scatterers found, the share found, and the false ones."""
    result, described = snr_sweep(run)
    estimators = ("bisvbi", "music-scvbi", "nomp", "full-vbi")
    return metric_panels(run, result, described, ("rmse_m", "found_percent", "false_alarms"), estimators)
