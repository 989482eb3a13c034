"""Symbol and uncoded bit error rates over SNR, beside a receiver that knows the channel."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from isac_toolbox.figures.run import FigureRun
from isac_toolbox.figures.sweeps import metric_panels, snr_sweep


def draw(run: FigureRun) -> list[Path]:
    """Draw both rates."""
    result, described = snr_sweep(run)
    highest_db = run.choose(0.0, 10.0)  # beyond it the good receivers make no errors
    shown = replace(result, rows=tuple(row for row in result.rows if row.point["snr_db"] <= highest_db))
    estimators = ("bisvbi", "music-scvbi", "nomp", "ls", "genie")
    return metric_panels(run, shown, described, ("symbol_error_rate", "bit_error_rate"), estimators)
