"""What the interactive pages share: their checks, the axes of the scene, and the page itself."""

from __future__ import annotations

import html
import json
import os
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = [
    "MISSING_PLOTLY",
    "SUFFIXES",
    "check_path",
    "check_plotly",
    "figure_layout",
    "filled_page",
    "has_plotly",
]

SUFFIXES = (".html", ".htm")
MISSING_PLOTLY = 'plotly is not installed; get it with: pip install "isac_toolbox[html]"'
_WIDTH = 1.65


def has_plotly() -> bool:
    """Return whether plotly can be imported."""
    return find_spec("plotly") is not None


def check_plotly(function: str) -> None:
    """Refuse to make a page without plotly, in the name of a function."""
    if not has_plotly():
        raise ImportError(f"{function}: {MISSING_PLOTLY}")


def check_path(path: str | os.PathLike[str]) -> Path:
    """Return where a page is to be written, in an existing folder."""
    try:
        target = Path(path)
    except TypeError:
        raise TypeError(f"path must be a path, got {type(path).__name__}") from None
    if target.suffix.lower() not in SUFFIXES:
        raise ValueError(f"path must end in one of {', '.join(SUFFIXES)}, got {target}")
    if not target.parent.is_dir():
        raise FileNotFoundError(f"path: there is no folder {target.parent}")
    return target


def figure_layout(box: NDArray[np.float64]) -> dict[str, Any]:
    """Return axes in metres with equal scales, fixed while frames play."""
    extent = np.ptp(box, axis=0)
    ratio = _WIDTH * extent / extent.max()
    plain = {"backgroundcolor": "#FAFAFA", "showbackground": True, "gridcolor": "#DDDDDD", "zeroline": False}
    axes = {
        f"{axis}axis": {
            **plain,
            "range": [round(float(v), 3) for v in box[:, i]],
            "title": {"text": f"{axis} (m)"},
            "showspikes": False,
            "nticks": 8 if extent[i] > 0.3 * extent.max() else 4,
        }
        for i, axis in enumerate("xyz")
    }
    scene = {
        **axes,
        "domain": {"x": [0.0, 0.79], "y": [0.0, 1.0]},
        "aspectmode": "manual",
        "aspectratio": {axis: round(float(r), 4) for axis, r in zip("xyz", ratio)},
        "camera": {"eye": {"x": -1.15, "y": -1.35, "z": 0.95}, "center": {"x": 0, "y": 0, "z": -0.18}},
        "dragmode": "turntable",
    }
    return {
        "scene": scene,
        "margin": {"l": 10, "r": 10, "t": 8, "b": 8, "autoexpand": False},
        "legend": {"x": 0.8, "y": 0.95, "xanchor": "left", "groupclick": "togglegroup", "tracegroupgap": 2},
        "hoverlabel": {"align": "left", "bgcolor": "white", "font": {"color": "#1c1c1c", "size": 13}},
        "uirevision": "kept",
        "paper_bgcolor": "white",
    }


def filled_page(
    title: str, subtitle: str, numbers: str, figure: dict[str, Any], captions: dict[str, str]
) -> str:
    """Return the page of a figure, with a caption for every frame and figures for the header."""
    from plotly.offline import get_plotlyjs

    data = {"figure": figure, "captions": captions, "caption": next(reversed(captions.values()), "")}
    template = Template(files("isac_toolbox.plotting.html").joinpath("page.html").read_text(encoding="utf-8"))
    return template.substitute(
        title=html.escape(title),
        subtitle=html.escape(subtitle),
        numbers=numbers,
        plotly_js=get_plotlyjs(),
        data=json.dumps(data, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c"),
    )
