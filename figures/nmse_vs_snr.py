"""Channel error over SNR."""

from __future__ import annotations

from pathlib import Path

from isac_toolbox.figures.run import FigureRun
from isac_toolbox.figures.sweeps import metric_panels, snr_sweep


def draw(run: FigureRun) -> list[Path]:
    """Draw the mean normalised error of the channel."""
    result, described = snr_sweep(run)
    estimators = ("bisvbi", "music-scvbi", "nomp", "full-vbi", "ls")
    return metric_panels(run, result, described, ("nmse_db",), estimators)
