"""The tables that ``isac sweep`` prints; each stays within 80 columns for a few varied fields."""

from __future__ import annotations

import json
import math
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from isac_toolbox.sweeps._result import SweepResult, SweepSummary

__all__ = ["last_line", "print_sweep"]


def print_sweep(console: Console, result: SweepResult) -> None:
    """Pooled figures: channel and data, then scatterers."""
    summary = result.summary()
    head = (*result.fields, "estimator")
    channel = _table(*head, "trials", "NMSE\ndB", "bound\ndB", "SER", "BER", "seconds")
    scene = _table(*head, "found", "missed", "false", "RMSE\nm", "bound\nm")
    for entry in summary:
        values = [_value(entry.point[name]) for name in result.fields]
        trials = f"{entry.trials}" + (f" + {entry.failed} failed" if entry.failed else "")
        channel.add_row(*values, entry.estimator, trials, *_channel_figures(entry))
        counts = (str(entry.hits), str(entry.misses), str(entry.false_alarms))
        scene.add_row(*values, entry.estimator, *counts, *map(_short, (entry.rmse_m, entry.rmse_bound_m)))
    for title, table in (("Channel and data", channel), ("Scatterers", scene)):
        console.print(Text(f"\n{title}", style="bold"))
        console.print(table)
    note = "bound: hybrid Cramér-Rao bound, all symbols known; seconds: median, one thread"
    console.print(Text(note, style="dim"))


def _channel_figures(entry: SweepSummary) -> list[str]:
    rates = [_rate(entry.symbol_error_rate, entry.symbols), _rate(entry.bit_error_rate, entry.symbols)]
    return [_decibels(entry.nmse_db), _decibels(entry.bound_nmse_db), *rates, _short(entry.seconds)]


def last_line(error: str) -> str:
    """The last line of a traceback: what went wrong."""
    lines = error.strip().splitlines()
    return lines[-1] if lines else "unknown"


def _table(*columns: str) -> Table:
    """Numbers to the right, words to the left."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for name in columns:
        words = name == "estimator"
        table.add_column(name, justify="left" if words else "right", header_style="dim", no_wrap=words)
    return table


def _value(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:g}"
    return value if isinstance(value, str) else json.dumps(value)


def _decibels(value: float) -> str:
    if math.isnan(value):
        return "-"
    return "exact" if value == -math.inf else f"{value:.2f}"


def _short(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.3g}"


def _rate(value: float, total: int) -> str:
    return "-" if not total or math.isnan(value) else f"{value:.2g}"
