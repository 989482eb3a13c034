"""One interactive page of a scene, complete in itself; plotly is imported when a page is made."""

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

from isac_toolbox.plotting.html import playback
from isac_toolbox.plotting.html.traces import fixed_traces, moving_traces
from isac_toolbox.plotting.html.view import (
    MATCH_DISTANCE_M,
    State,
    Surroundings,
    bounding_box,
    check_places,
    numbered,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from isac_toolbox.channel import UplinkObservation
    from isac_toolbox.estimators import EstimationResult, SceneRecorder
    from isac_toolbox.scenario import Truth

__all__ = ["MISSING_PLOTLY", "SUFFIXES", "has_plotly", "scene_html"]

SUFFIXES = (".html", ".htm")
MISSING_PLOTLY = 'plotly is not installed; get it with: pip install "isac_toolbox[html]"'
_WIDTH = 1.65
_BUTTONS = [["toImage"], ["orbitRotation", "tableRotation", "pan3d", "zoom3d"], ["resetCameraDefault3d"]]


def scene_html(
    result: EstimationResult,
    truth: Truth | None = None,
    *,
    observation: UplinkObservation | None = None,
    recording: SceneRecorder | None = None,
    path: str | os.PathLike[str] | None = None,
    title: str | None = None,
) -> str:
    """Return the estimated scene as one interactive page that needs no network.

    The scene can be turned; the mouse shows a scatterer's probability, its uncertainty and the users that
    see it; the legend switches users with their paths, true points, rejected candidates and the 95 % error
    ellipsoids; a slider plays the iterations.

    Parameters
    ----------
    result : EstimationResult
    truth : Truth, optional
        Adds the true points, judges every estimate (found within 2 m, or false) and gives the errors.
    observation : UplinkObservation, optional
        Gives the base station with its boresight, the region and the nominal users. Without it unlocated
        paths are counted, not drawn, as their directions are those of the array.
    recording : SceneRecorder, optional
        What the callback recorded of the run that gave ``result``; without it nothing can be played.
    path : path, optional
        Where to write the page, an ``.html`` or ``.htm`` file in an existing folder.
    title : str, optional
        Heading; the name of the estimator if not given.

    Returns
    -------
    str
        The page.

    Raises
    ------
    TypeError
        If an argument has the wrong type.
    ValueError
        If the parts do not belong together, positions are not finite, ``path`` has another suffix, or the
        block came without places, so that there is nothing to draw.
    FileNotFoundError
        If the folder of ``path`` does not exist.
    ImportError
        If plotly is missing: ``pip install "isac_toolbox[html]"``.
    OSError
        If the page cannot be written.
    """
    _check_types(result, truth, observation, recording, title)
    target = None if path is None else _check_path(path)
    _check_same_run(result, truth, observation, recording)
    if not has_plotly():
        raise ImportError(f"scene_html: {MISSING_PLOTLY}")
    page = _page(result, truth, observation, recording, result.estimator if title is None else title)
    if target is not None:
        target.write_text(page, encoding="utf-8")
    return page


def has_plotly() -> bool:
    """Return whether plotly can be imported."""
    return find_spec("plotly") is not None


# checks


def _check_types(result: Any, truth: Any, observation: Any, recording: Any, title: Any) -> None:
    from isac_toolbox.channel import UplinkObservation
    from isac_toolbox.estimators import EstimationResult, SceneRecorder
    from isac_toolbox.scenario import Truth

    if not isinstance(result, EstimationResult):
        raise TypeError(f"result must be an EstimationResult, got {type(result).__name__}")
    optional = (
        ("truth", truth, Truth),
        ("observation", observation, UplinkObservation),
        ("recording", recording, SceneRecorder),
        ("title", title, str),
    )
    for name, value, kind in optional:
        if value is not None and not isinstance(value, kind):
            raise TypeError(f"{name} must be of type {kind.__name__}, got {type(value).__name__}")


def _check_path(path: str | os.PathLike[str]) -> Path:
    try:
        target = Path(path)
    except TypeError:
        raise TypeError(f"path must be a path, got {type(path).__name__}") from None
    if target.suffix.lower() not in SUFFIXES:
        raise ValueError(f"path must end in one of {', '.join(SUFFIXES)}, got {target}")
    if not target.parent.is_dir():
        raise FileNotFoundError(f"path: there is no folder {target.parent}")
    return target


def _check_same_run(
    result: EstimationResult,
    truth: Truth | None,
    observation: UplinkObservation | None,
    recording: SceneRecorder | None,
) -> None:
    check_places(result, observation)
    n_users = len(result.user_positions_m)
    for name, other in (("truth", truth), ("observation", observation)):
        if other is None:
            continue
        given = 0 if other.user_positions_m is None else len(other.user_positions_m)
        if given != n_users:
            raise ValueError(f"{name} must have the {n_users} users of result, got {given}")
    for name in ("scatterer_positions_m", "user_positions_m", "scatterer_covariance_m2"):
        if not np.all(np.isfinite(getattr(result, name))):
            raise ValueError(f"result.{name} must be finite to be drawn (status {result.status!r})")
    if recording is not None and len(recording):
        recorded = [snapshot.objective for snapshot in recording]
        if recorded != result.history.objective.tolist()[: len(recorded)]:
            raise ValueError("recording must be of the run that gave result; their objectives differ")


# the page


def _page(
    result: EstimationResult,
    truth: Truth | None,
    observation: UplinkObservation | None,
    recording: SceneRecorder | None,
    title: str,
) -> str:
    from plotly.offline import get_plotlyjs

    around, final = Surroundings.of(truth, observation), State.of_result(result, truth)
    shots = [] if recording is None else recording.snapshots[:-1]
    states = [*(State.of_snapshot(shot, truth) for shot in shots), final]
    box = bounding_box(around, states)
    fixed = fixed_traces(around, box)
    figure: dict[str, Any] = {
        "data": [*fixed, *moving_traces(final, around, box, result)],
        "layout": _layout(box),
        "config": {"displaylogo": False, "scrollZoom": True, "modeBarButtons": _BUTTONS},
    }
    captions: dict[str, str] = {}
    if recording is not None and len(recording):
        figure["data"] += playback.noise_curve(recording, None if truth is None else truth.noise_variance)
        figure["layout"] |= playback.controls(recording)
        figure["frames"] = playback.frames(states, around, box, recording, result, len(fixed))
        captions = {
            str(shot.iteration): playback.caption(
                state, shot.iteration, shot.noise_variance, shot.objective, shot is recording[-1]
            )
            for state, shot in zip(states, recording)
        }
    data = {"figure": figure, "captions": captions, "caption": next(reversed(captions.values()), "")}
    template = Template(files(__name__).joinpath("page.html").read_text(encoding="utf-8"))
    return template.substitute(
        title=html.escape(title),
        subtitle=html.escape(_subtitle(result, title)),
        numbers=_numbers(result, truth, final, drawn=around.array_axes is not None),
        plotly_js=get_plotlyjs(),
        data=json.dumps(data, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c"),
    )


def _layout(box: NDArray[np.float64]) -> dict[str, Any]:
    """Return axes in metres with equal scales, fixed while the iterations play."""
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


def _subtitle(result: EstimationResult, title: str) -> str:
    name = "" if title == result.estimator else f"{result.estimator}, "
    return f"{name}{result.status} after {numbered(result.n_iter, 'iteration')}"


def _numbers(result: EstimationResult, truth: Truth | None, final: State, drawn: bool) -> str:
    """Return the figures of the header as a description list."""
    entries: list[tuple[str, str]] = []
    if truth is None or final.match is None:
        entries.append(("scatterers", str(len(result.scatterer_positions_m))))
    else:
        match = final.match
        entries.append(("scatterers found", f"{match.hits} of {match.hits + match.misses}"))
        entries.append(("false", str(match.false_alarms)))
        if match.hits:
            entries.append((f"position RMSE (within {MATCH_DISTANCE_M:g} m)", f"{match.rmse_m:.3f} m"))
        entries.append(("channel NMSE", _nmse(result, truth)))
    entries.append(("users", str(len(result.user_positions_m))))
    unlocated = len(result.unlocated_paths)
    entries.append(
        ("unlocated paths", str(unlocated) if drawn or not unlocated else f"{unlocated}, not drawn")
    )
    true_noise = "" if truth is None else f" (true {truth.noise_variance:.4g})"
    entries.append(("noise variance", f"{result.noise_variance:.4g}{true_noise}"))
    return "".join(f"<div><dt>{html.escape(k)}</dt><dd>{html.escape(v)}</dd></div>" for k, v in entries)


def _nmse(result: EstimationResult, truth: Truth) -> str:
    from isac_toolbox.metrics import channel_nmse_db

    nmse_db = channel_nmse_db(result.channel, truth.channel)
    return f"{nmse_db:.1f} dB" if np.isfinite(nmse_db) else "exact"
