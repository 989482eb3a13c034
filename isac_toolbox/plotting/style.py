"""What all pictures share: colours, a marker and a line for every estimator, where to draw."""

from __future__ import annotations

from typing import Any

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

__all__ = ["BOUND_STYLE", "OKABE_ITO", "curve_style", "figure_of", "readable_log"]

OKABE_ITO = {
    "black": "#000000",
    "orange": "#E69F00",
    "sky blue": "#56B4E9",
    "green": "#009E73",
    "yellow": "#F0E442",
    "blue": "#0072B2",
    "vermilion": "#D55E00",
    "purple": "#CC79A7",
}

BOUND_STYLE: dict[str, Any] = {"color": "black", "ls": "--", "lw": 1.3, "zorder": 2.5}

# Colour, marker or line alone tells the curves apart.
_LOOKS = {
    "bisvbi": ("blue", "o", "-"),
    "nomp": ("vermilion", "s", "--"),
    "music-scvbi": ("green", "^", "-."),
    "ls": ("purple", "v", ":"),
    "genie": ("black", "x", ":"),
    "pilot-only": ("sky blue", "D", (0, (5, 1))),
    "mean-field": ("vermilion", "P", (0, (3, 1, 1, 1))),
    "gradient": ("sky blue", "D", (0, (5, 1))),
    "full-vbi": ("orange", "*", (0, (1, 1))),
    "mm-vbi": ("purple", "v", (0, (1, 1))),
}
_OTHERS = (("orange", "P", "-"), ("sky blue", "D", "--"), ("purple", "h", "-."), ("green", "<", ":"))


def curve_style(name: str, number: int = 0) -> dict[str, Any]:
    """Return the line style of an estimator; one outside the catalogue gets that of its number."""
    colour, marker, line = _LOOKS.get(name, _OTHERS[number % len(_OTHERS)])
    size = 8 if marker == "*" else 5
    hollow = {} if name == "bisvbi" else {"mfc": "none"}
    return {"color": OKABE_ITO[colour], "marker": marker, "ls": line, "ms": size, "lw": 1.5, **hollow}


def figure_of(ax: Axes | None, size: tuple[float, float]) -> tuple[Figure, Axes]:
    """Return given axes with their figure, or new ones."""
    if ax is None:
        return plt.subplots(figsize=size, layout="constrained")
    if not isinstance(ax, Axes):
        raise TypeError(f"ax must be matplotlib Axes, got {type(ax).__name__}")
    figure = ax.get_figure(root=True)
    if figure is None:
        raise ValueError("ax must belong to a figure")
    return figure, ax


def readable_log(axis: Axis) -> None:
    """Write plain numbers at 1, 2 and 5 where a logarithmic axis spans few decades."""
    low, high = sorted(axis.get_view_interval())
    if low <= 0 or high / low > 300:
        return
    axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if high / low > 3 else tuple(range(1, 10))))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())
