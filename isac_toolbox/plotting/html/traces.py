"""Plotly traces of the scene, as plain dictionaries; coordinates in metres, rounded to millimetres.

Estimates are filled and true points hollow; users are diamonds, scatterers circles where estimate and truth
match and squares where they do not. The symbol ``x`` is avoided: plotly draws it with a rare font.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from isac_toolbox.channel.array import SPEED_OF_LIGHT_M_S
from isac_toolbox.channel.geometry import bistatic_point_m
from isac_toolbox.plotting.html import hover
from isac_toolbox.plotting.html.view import State, Surroundings
from isac_toolbox.plotting.style import OKABE_ITO

if TYPE_CHECKING:
    from isac_toolbox.estimators import EstimationResult

__all__ = ["Trace", "ellipsoid_mesh", "fixed_traces", "lines", "markers", "moving_traces", "user_style"]

RealArray = NDArray[np.float64]
Trace = dict[str, Any]

_GREY = "#777777"
_USER_COLOURS = [OKABE_ITO[name] for name in ("blue", "orange", "purple", "sky blue")]
_USER_DASHES = ("solid", "dash", "dashdot", "longdash")
_FOUND, _FALSE, _TRUE = OKABE_ITO["green"], OKABE_ITO["vermilion"], OKABE_ITO["black"]
_CHI_95 = 2.795483  # square root of the 95 % quantile of chi-squared with three degrees of freedom
_ENLARGED = 10
_MAX_NUMBERED = 40
_SPHERE = (5, 10)


def fixed_traces(around: Surroundings, box: RealArray) -> list[Trace]:
    """Return region, base station with its boresight, nominal and true users, as far as they are known."""
    traces: list[Trace] = []
    if around.region_m is not None:
        traces.append(_region(around.region_m))
    if around.station_m is not None:
        traces.append(_station(around.station_m, around.array_axes))
        if around.array_axes is not None:
            extent = float(np.ptp(box, axis=0).max())
            traces.append(_boresight(around.station_m, around.array_axes, extent))
    if around.nominal_users_m is not None:
        style = {"symbol": "diamond-open", "size": 5, "color": _GREY}
        text = [f"user {k + 1}, nominal position" for k in range(len(around.nominal_users_m))]
        traces.append(markers("user, nominal", around.nominal_users_m, text, style))
    if around.truth is not None:
        users = around.truth.user_positions_m
        style = {"symbol": "diamond-open", "size": 8, "color": _TRUE}
        text = [f"<b>user {k + 1}, true</b><br>{hover.position(p)}" for k, p in enumerate(users)]
        traces.append(markers("user, true", users, text, style))
    return traces


def moving_traces(
    state: State, around: Surroundings, box: RealArray, result: EstimationResult | None = None
) -> list[Trace]:
    """Return what changes from iteration to iteration; always the same traces in the same order.

    Paths, position and unlocated paths of every user, in one legend group per user; estimated scatterers;
    true ones and the lines to them; error ellipsoids; rejected candidates. ``result`` adds uncertainties.
    """
    traces = [trace for k in range(len(state.users_m)) for trace in _user(state, k, around, box, result)]
    return [*traces, *_scatterers(state), *_against_truth(state, around), *_ellipsoids(state, box)]


# building blocks


def _xyz(points_m: RealArray | list[list[float | None]]) -> dict[str, list[float | None]]:
    """Return coordinates rounded to millimetres; rows of None break a line."""
    rows = [[None if v is None else round(float(v), 3) for v in row] for row in points_m]
    return {axis: [row[i] for row in rows] for i, axis in enumerate("xyz")}


def markers(name: str, points_m: RealArray, texts: list[str], style: dict[str, Any], **more: Any) -> Trace:
    """Return points with a text each."""
    return {
        "type": "scatter3d",
        "mode": "markers",
        "name": name,
        **_xyz(points_m),
        "hovertext": texts,
        "hoverinfo": "text",
        "marker": style,
        **more,
    }


def lines(name: str, polylines: list[RealArray], style: dict[str, Any], **more: Any) -> Trace:
    """Return lines as one trace."""
    rows: list[list[float | None]] = []
    for line in polylines:
        rows += [*line.tolist(), [None, None, None]]
    return {
        "type": "scatter3d",
        "mode": "lines",
        "name": name,
        **_xyz(rows),
        "hoverinfo": "skip",
        "line": style,
        **more,
    }


# surroundings


def _region(region_m: RealArray) -> Trace:
    """Return the twelve edges of the box."""
    corners = np.array([[region_m[i][0], region_m[j][1], region_m[k][2]] for i, j, k in np.ndindex(2, 2, 2)])
    pairs = [(a, b) for a in range(8) for b in range(a + 1, 8) if bin(a ^ b).count("1") == 1]
    edges = [corners[[a, b]] for a, b in pairs]
    return lines("region searched", edges, {"color": "#AAAAAA", "width": 1.5})


def _station(station_m: RealArray, array_axes: RealArray | None) -> Trace:
    text = f"<b>base station</b><br>{hover.position(station_m)}"
    if array_axes is not None:
        text += f"<br>boresight {hover.angles(array_axes[0])}"
    style = {"symbol": "square", "size": 7, "color": _TRUE}
    return markers("base station", station_m[None], [text], style, legendgroup="station")


def _boresight(station_m: RealArray, array_axes: RealArray, extent_m: float) -> Trace:
    """Return an arrow along the array's boresight, its barbs along the rows and columns of the array."""
    boresight, horizontal, vertical = array_axes
    tip = station_m + 0.12 * extent_m * boresight
    sideways = [horizontal, -horizontal, vertical, -vertical]
    barbs = [np.stack([tip, tip + extent_m * (0.01 * side - 0.03 * boresight)]) for side in sideways]
    style = {"color": _TRUE, "width": 5}
    shaft = np.stack([station_m, tip])
    return lines("boresight", [shaft, *barbs], style, legendgroup="station", showlegend=False)


# users


def user_style(k: int) -> tuple[str, str]:
    """Return colour and dash of a user."""
    return _USER_COLOURS[k % len(_USER_COLOURS)], _USER_DASHES[k // len(_USER_COLOURS) % len(_USER_DASHES)]


def _user(
    state: State, k: int, around: Surroundings, box: RealArray, result: EstimationResult | None
) -> list[Trace]:
    """Return line of sight, bounces, unlocated paths and position of one user: one group of the legend."""
    colour, dash = user_style(k)
    name, group = f"user {k + 1} and its paths", {"legendgroup": f"user {k + 1}"}
    user, station = state.users_m[k], around.station_m
    seen = state.points_m[state.visibility[k] >= 0.5]
    start = [] if station is None else [station]
    bounces = [np.stack([*start, point, user]) for point in seen]
    sight = [np.stack([station, user])] if station is not None and state.line_of_sight[k] >= 0.5 else []
    text = [hover.user_text(state, k, result, around.truth)]
    style = {"symbol": "diamond", "size": 6, "color": colour, "line": {"color": "white", "width": 1}}
    return [
        markers(
            name, user[None], text, style, mode="markers+lines", line={"color": colour, "dash": dash}, **group
        ),
        lines("line of sight", sight, {"color": colour, "width": 7, "dash": dash}, showlegend=False, **group),
        lines("bounces", bounces, {"color": colour, "width": 2.5, "dash": dash}, showlegend=False, **group),
        _rays(state, k, around, box, colour, group),
    ]


def _rays(
    state: State, k: int, around: Surroundings, box: RealArray, colour: str, group: dict[str, str]
) -> Trace:
    """Return a user's unlocated paths, from the base station to the farthest place of a single bounce."""
    rays, text, sizes = [], [], []
    paths, axes, station = state.unlocated, around.array_axes, around.station_m
    if axes is not None and station is not None:
        for p in np.flatnonzero(paths.user == k):
            cosines = paths.direction_cosines[p]
            forward = np.sqrt(max(0.0, 1.0 - float(cosines @ cosines)))
            direction = np.array([forward, *cosines]) @ axes
            length = SPEED_OF_LIGHT_M_S * float(paths.delay_s[p])
            end = _ray_end(station, direction, length, state.users_m[k], box)
            rays.append(np.stack([station, end]))
            text += ["", hover.ray_text(paths, int(p), direction), ""]
            sizes += [0, 4, 0]
    style = {"color": colour, "width": 2, "dash": "dot"}
    marker = {"symbol": "cross", "size": sizes, "color": colour, "line": {"width": 0}}
    shown = {"mode": "lines+markers", "marker": marker, "hovertext": text}
    return {
        **lines("unlocated paths", rays, style, showlegend=False, opacity=0.7, **group),
        **shown,
        "hoverinfo": "text",
    }


def _ray_end(
    station_m: RealArray, direction: RealArray, length_m: float, user_m: RealArray, box: RealArray
) -> RealArray:
    """Return the point of a single bounce of that length, or where the ray leaves the box."""
    point, valid = bistatic_point_m(direction, length_m, user_m, station_m)
    reach = float(np.linalg.norm(point - station_m)) if valid else 0.5 * abs(length_m)
    ahead = np.where(direction > 0, box[1] - station_m, box[0] - station_m)
    with np.errstate(divide="ignore", invalid="ignore"):
        leaves = np.where(np.abs(direction) > 1e-12, ahead / direction, np.inf)
    end: RealArray = station_m + min(reach, float(leaves.min())) * direction
    return end


# scatterers


def _scatterers(state: State) -> list[Trace]:
    """Return estimated scatterers, found and false apart if the truth is known, and rejected candidates."""
    everything = np.arange(len(state.points_m))
    rejected_text = [
        f"<b>rejected candidate</b><br>{hover.position(point)}<br>probability {p:.3f}"
        for point, p in zip(state.rejected_m, state.rejected_probability)
    ]
    rejected = markers(
        "rejected candidate (p < 0.5)",
        state.rejected_m,
        rejected_text,
        {"symbol": "cross", "size": 3, "color": _GREY},
    )
    if state.match is None:
        return [_estimates("scatterer, estimated", state, everything, "circle", _FOUND), rejected]
    found = np.setdiff1d(everything, state.false_index)
    return [
        _estimates("scatterer, found", state, found, "circle", _FOUND),
        _estimates("scatterer, false", state, state.false_index, "square", _FALSE),
        rejected,
    ]


def _estimates(name: str, state: State, index: NDArray[np.int64], symbol: str, colour: str) -> Trace:
    """Return markers that grow with the probability, numbered from 1 as in the result."""
    probability = np.clip(state.probability[index], 0.0, 1.0)
    size = np.round(5 + 4 * (2 * probability - 1), 1)
    style = {"symbol": symbol, "size": size.tolist(), "color": colour, "line": {"color": "white", "width": 1}}
    labels = [str(s + 1) for s in index] if len(state.points_m) <= _MAX_NUMBERED else [""] * len(index)
    return markers(
        name,
        state.points_m[index],
        [hover.scatterer_text(state, int(s)) for s in index],
        style,
        mode="markers+text",
        text=labels,
        textposition="top right",
        textfont={"size": 12, "color": "#333333"},
    )


def _against_truth(state: State, around: Surroundings) -> list[Trace]:
    """Return true scatterers, found and missed, and lines from estimates to them."""
    truth, match = around.truth, state.match
    if truth is None or match is None:
        return []
    points = truth.scatterer_positions_m
    missed = np.setdiff1d(np.arange(len(points)), match.truth_index)
    circle = {"symbol": "circle-open", "size": 9, "color": _TRUE}
    square = {"symbol": "square-open", "size": 9, "color": _FALSE}
    traces = []
    for name, index, style in (("found", match.truth_index, circle), ("missed", missed, square)):
        text = [hover.true_scatterer_text(truth, int(q), state) for q in index]
        traces.append(markers(f"true scatterer, {name}", points[index], text, style))
    pairs = [np.stack(pair) for pair in zip(state.points_m[match.estimate_index], points[match.truth_index])]
    traces.append(lines("error", pairs, {"color": _TRUE, "width": 3}))
    return traces


# error ellipsoids


def _ellipsoids(state: State, box: RealArray) -> list[Trace]:
    """Return 95 % ellipsoids in true size and enlarged; those large enough to be seen are switched on."""
    true_size, enlarged = ellipsoid_mesh(state, 1), ellipsoid_mesh(state, _ENLARGED)
    if state.covariance_m2 is not None and len(state.points_m):
        largest = np.sqrt(np.linalg.eigvalsh(state.covariance_m2)[:, -1].clip(0.0))
        hidden = true_size if np.median(largest) < 0.004 * np.ptp(box, axis=0).max() else enlarged
        hidden["visible"] = "legendonly"
    return [true_size, enlarged]


def ellipsoid_mesh(state: State, factor: int, texts: list[str] | None = None) -> Trace:
    """Return all ellipsoids as one mesh; the page repeats a scatterer's text for its vertices."""
    sphere, faces = _unit_sphere()
    covariance = state.covariance_m2 if state.covariance_m2 is not None else np.zeros((0, 3, 3))
    value, axes = np.linalg.eigh(covariance)
    root = axes * np.sqrt(np.maximum(value, 0.0))[:, None, :]
    shells = state.points_m[: len(root), None] + factor * _CHI_95 * sphere @ root.transpose(0, 2, 1)
    corners = (faces + len(sphere) * np.arange(len(root))[:, None, None]).reshape(-1, 3)
    text = [hover.scatterer_text(state, s) for s in range(len(root))] if texts is None else texts
    is_false = np.isin(np.arange(len(root)), state.false_index).astype(int)
    scale = "true size" if factor == 1 else f"drawn {factor} times larger"
    return {
        "type": "mesh3d",
        "name": f"95 % ellipsoid, {scale}",
        **_xyz(shells.reshape(-1, 3)),
        **{key: corners[:, c].tolist() for c, key in enumerate("ijk")},
        "hovertext": {"repeat": len(sphere), "of": text},
        "hoverinfo": "text",
        "color": _FOUND,
        "intensity": np.repeat(is_false, len(sphere)).tolist(),
        "colorscale": [[0, _FOUND], [1, _FALSE]],
        "cmin": 0,
        "cmax": 1,
        "showscale": False,
        "opacity": 0.15,
        "flatshading": False,
        "showlegend": True,
    }


def _unit_sphere() -> tuple[RealArray, NDArray[np.int64]]:
    """Return vertices (V, 3) and triangles (F, 3) of a sphere of rings between two poles."""
    n_rings, n_around = _SPHERE
    polar = np.pi * np.arange(1, n_rings + 1) / (n_rings + 1)
    around = 2 * np.pi * np.arange(n_around) / n_around
    ring = np.stack(
        [
            np.outer(np.sin(polar), np.cos(around)),
            np.outer(np.sin(polar), np.sin(around)),
            np.outer(np.cos(polar), np.ones(n_around)),
        ],
        axis=-1,
    ).reshape(-1, 3)
    vertices = np.vstack([ring, [[0, 0, 1], [0, 0, -1]]])
    top, bottom = len(ring), len(ring) + 1
    faces = []
    for j in range(n_around):
        after = (j + 1) % n_around
        faces += [(top, j, after), (bottom, top - n_around + after, top - n_around + j)]
        for r in range(n_rings - 1):
            a, b = r * n_around + j, r * n_around + after
            faces += [(a, a + n_around, b), (b, a + n_around, b + n_around)]
    return vertices, np.array(faces)
