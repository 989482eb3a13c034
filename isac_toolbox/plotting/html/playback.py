"""The iterations of an estimate as frames, with buttons, a slider and the curve of the noise variance."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from isac_toolbox.plotting.html.traces import Trace, moving_traces
from isac_toolbox.plotting.html.view import State, Surroundings, numbered
from isac_toolbox.plotting.style import OKABE_ITO

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from isac_toolbox.estimators import EstimationResult, SceneRecorder

__all__ = ["CONFIG", "caption", "controls", "frames", "noise_curve", "player", "what_changes"]

_MILLISECONDS = 600
_BUTTONS = [["toImage"], ["orbitRotation", "tableRotation", "pan3d", "zoom3d"], ["resetCameraDefault3d"]]
#: Of plotly, for all pages.
CONFIG = {"displaylogo": False, "scrollZoom": True, "modeBarButtons": _BUTTONS}
_BLUE, _VERMILION = OKABE_ITO["blue"], OKABE_ITO["vermilion"]


def frames(
    states: Sequence[State],
    around: Surroundings,
    box: NDArray[np.float64],
    recording: SceneRecorder,
    result: EstimationResult,
    first_index: int,
) -> list[dict[str, Any]]:
    """Return one frame per recorded iteration; the last shows the result itself.

    ``first_index`` is the place of the first moving trace; the marker on the curve follows the last.
    """
    moving = [
        [
            *moving_traces(state, around, box, result if shot is recording[-1] else None),
            _marker_on_curve(shot.iteration, shot.noise_variance),
        ]
        for state, shot in zip(states, recording)
    ]
    place = list(range(first_index, first_index + len(moving[0])))
    names = [str(shot.iteration) for shot in recording]
    return [{"name": n, "data": d, "traces": place} for n, d in zip(names, what_changes(moving))]


def what_changes(moving: list[list[Trace]]) -> list[list[Trace]]:
    """Return frames without the entries that are the same in every one, or that the reader switches."""
    kept = [
        [
            key
            for key in versions[-1]
            if key != "visible" and any(v[key] != versions[-1][key] for v in versions)
        ]
        for versions in zip(*moving)
    ]
    return [[{key: trace[key] for key in keys} for trace, keys in zip(data, kept)] for data in moving]


def noise_curve(recording: SceneRecorder, true_noise_variance: float | None) -> list[Trace]:
    """Return the shown iteration's marker, the noise variance per iteration, and the true one if known."""
    iteration = [snapshot.iteration for snapshot in recording]
    noise = [snapshot.noise_variance for snapshot in recording]
    small: Trace = {"type": "scatter", "xaxis": "x", "yaxis": "y", "showlegend": False}
    curve = {**small, "x": iteration, "y": noise, "mode": "lines", "line": {"color": _BLUE, "width": 2}}
    traces = [_marker_on_curve(iteration[-1], noise[-1]), {**curve, "name": "estimated"}]
    if true_noise_variance is not None:
        line = {"color": "black", "width": 1, "dash": "dash"}
        ends, level = [iteration[0], iteration[-1]], [true_noise_variance] * 2
        traces.append({**small, "x": ends, "y": level, "mode": "lines", "line": line, "name": "true"})
    return traces


def _marker_on_curve(iteration: int, noise_variance: float) -> Trace:
    return {
        "type": "scatter",
        "xaxis": "x",
        "yaxis": "y",
        "x": [iteration],
        "y": [noise_variance],
        "mode": "markers",
        "marker": {"size": 9, "color": _VERMILION},
        "name": "shown iteration",
        "showlegend": False,
    }


def player(names: list[str], unit: str) -> dict[str, Any]:
    """Return the layout of a slider over frames and of its buttons."""
    now = {"mode": "immediate", "frame": {"duration": 0, "redraw": True}, "transition": {"duration": 0}}
    playing = {**now, "frame": {"duration": _MILLISECONDS, "redraw": True}}
    steps = [{"label": name, "method": "animate", "args": [[name], now]} for name in names]
    slider = {
        "active": len(steps) - 1,
        "steps": steps,
        "x": 0.12,
        "len": 0.6,
        "y": 0.0,
        "yanchor": "top",
        "pad": {"t": 8, "b": 8},
        "currentvalue": {"prefix": f"{unit} ", "font": {"size": 13}},
    }
    buttons = {
        "type": "buttons",
        "direction": "left",
        "showactive": False,
        "x": 0.0,
        "xanchor": "left",
        "y": 0.0,
        "yanchor": "top",
        "pad": {"t": 30},
        "buttons": [
            {"label": "▶ play", "method": "animate", "args": [names, playing]},
            {"label": "❚❚", "method": "animate", "args": [[None], now]},
        ],
    }
    return {
        "margin": {"l": 10, "r": 10, "t": 8, "b": 92, "autoexpand": False},
        "sliders": [slider],
        "updatemenus": [buttons],
    }


def controls(recording: SceneRecorder) -> dict[str, Any]:
    """Return the layout of the slider, of the buttons and of the curve's axes."""
    axis = {"showline": True, "linecolor": "#888888", "gridcolor": "#E5E5E5", "zeroline": False}
    font = {"tickfont": {"size": 10}, "fixedrange": True, **axis}
    return {
        **player([str(snapshot.iteration) for snapshot in recording], "iteration"),
        "xaxis": {
            **font,
            "domain": [0.82, 0.99],
            "title": {"text": "iteration", "standoff": 4, "font": {"size": 11}},
        },
        "yaxis": {
            **font,
            "domain": [0.05, 0.25],
            "exponentformat": "power",
            "nticks": 4,
            "title": {"text": "noise variance", "font": {"size": 11}},
        },
    }


def caption(state: State, iteration: int, noise_variance: float, objective: float, last: bool) -> str:
    """Return one line about an iteration."""
    parts = [
        f"iteration {iteration}" + (" (result)" if last else ""),
        numbered(len(state.points_m), "scatterer"),
        numbered(len(state.unlocated), "unlocated path"),
        f"noise variance {noise_variance:.4g}",
        f"objective {objective:.1f}",
    ]
    if state.match is not None and state.match.hits:
        found = f"{state.match.hits} found, {state.match.false_alarms} false"
        parts.append(f"{found}, RMSE {state.match.rmse_m:.3f} m")
    return " · ".join(parts)
