"""A tracked scene as one interactive page that plays from block to block."""

from __future__ import annotations

import html
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from isac_toolbox.plotting.html import hover, playback
from isac_toolbox.plotting.html.page import check_path, check_plotly, figure_layout, filled_page
from isac_toolbox.plotting.html.traces import Trace, ellipsoid_mesh, fixed_traces, lines, markers, user_style
from isac_toolbox.plotting.html.view import State, Surroundings, bounding_box, numbered
from isac_toolbox.plotting.style import OKABE_ITO

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from isac_toolbox.channel import UplinkObservation
    from isac_toolbox.scenario import Truth
    from isac_toolbox.tracking import TrackedResult

__all__ = ["track_html"]

_GREEN, _GREY, _BLACK = OKABE_ITO["green"], "#777777", OKABE_ITO["black"]
_EDGE = {"color": "white", "width": 1}
#: Seconds that arrows of velocities look ahead.
_AHEAD_S = 0.5


def track_html(
    track: Sequence[TrackedResult],
    truths: Sequence[Truth] | None = None,
    *,
    observation: UplinkObservation | None = None,
    path: str | os.PathLike[str] | None = None,
    title: str | None = None,
) -> str:
    """Return a tracked scene as one interactive page that plays its blocks and needs no network.

    It shows users and tracks by their numbers, with the ways that they came, their velocities as arrows
    (half a second of motion) and the 95 % error ellipsoids; a slider goes from block to block.

    Parameters
    ----------
    track : sequence of TrackedResult
        What :meth:`isac_toolbox.tracking.Tracker.update` returned of successive blocks, or ``smooth``.
    truths : sequence of Truth, optional
        Of the same blocks; adds true users and scatterers, and the errors of the users.
    observation : UplinkObservation, optional
        Of any block; gives the base station with its boresight and the region.
    path : path, optional
        Where to write the page, an ``.html`` or ``.htm`` file in an existing folder.
    title : str, optional
        Heading; ``Track`` if not given.

    Returns
    -------
    str
        The page.

    Raises
    ------
    TypeError, ValueError
        If an argument has the wrong type, there is no block, or the parts do not belong together.
    FileNotFoundError
        If the folder of ``path`` does not exist.
    ImportError
        If plotly is missing: ``pip install "isac_toolbox[html]"``.
    OSError
        If the page cannot be written.
    """
    _check(track, truths, observation, title)
    target = None if path is None else check_path(path)
    check_plotly("track_html")
    heading = "Track" if title is None else title
    page = filled_page(
        heading,
        _subtitle(track),
        _numbers(track),
        _figure(track, truths, observation),
        {str(i + 1): _caption(track, truths, i) for i in range(len(track))},
    )
    if target is not None:
        target.write_text(page, encoding="utf-8")
    return page


def _check(track: Any, truths: Any, observation: Any, title: Any) -> None:
    from isac_toolbox.channel import UplinkObservation
    from isac_toolbox.scenario import Truth
    from isac_toolbox.tracking.result import TrackedResult

    for name, given, kind in (("track", track, TrackedResult), ("truths", truths, Truth)):
        if given is None and name == "truths":
            continue
        if isinstance(given, str) or not isinstance(given, Sequence):
            raise TypeError(f"{name} must be a sequence of {kind.__name__}, got {type(given).__name__}")
        for i, one in enumerate(given):
            if not isinstance(one, kind):
                raise TypeError(f"{name}[{i}] must be a {kind.__name__}, got {type(one).__name__}")
    if not track:
        raise ValueError("track must have at least one block, got none")
    counts = {len(block.user_positions_m) for block in track}
    if len(counts) > 1:
        raise ValueError(f"track must have the same users in all blocks, got {sorted(counts)} of them")
    if truths is not None and len(truths) != len(track):
        raise ValueError(f"truths must be of the {len(track)} blocks of track, got {len(truths)}")
    for name, value, optional in (("observation", observation, UplinkObservation), ("title", title, str)):
        if value is not None and not isinstance(value, optional):
            raise TypeError(f"{name} must be of type {optional.__name__}, got {type(value).__name__}")


def _figure(
    track: Sequence[TrackedResult], truths: Sequence[Truth] | None, observation: UplinkObservation | None
) -> dict[str, Any]:
    around = Surroundings.of(None, observation)
    states = [State.of_track(block) for block in track]
    places = [p for t in truths or () for p in (t.scatterer_positions_m, t.user_positions_m)]
    box = bounding_box(around, states, places)
    fixed = fixed_traces(around, box)
    moving = [_moving(track, truths, states, i) for i in range(len(track))]
    names = [str(i + 1) for i in range(len(track))]
    numbers = list(range(len(fixed), len(fixed) + len(moving[0])))
    changes = playback.what_changes(moving)
    return {
        "data": [*fixed, *moving[-1]],
        "layout": figure_layout(box) | playback.player(names, "block"),
        "config": playback.CONFIG,
        "frames": [{"name": n, "data": d, "traces": numbers} for n, d in zip(names, changes, strict=True)],
    }


def _moving(
    track: Sequence[TrackedResult], truths: Sequence[Truth] | None, states: list[State], i: int
) -> list[Trace]:
    """What changes from block to block; always the same traces in the same order."""
    block, traces = track[i], []
    for k in range(len(block.user_positions_m)):
        way = np.stack([before.user_positions_m[k] for before in track[: i + 1]])
        traces += _user(block, k, way)
    text = [_track_text(block, b) for b in range(len(block.track_ids))]
    size = np.round(5 + 4 * (2 * np.clip(block.existence_probability, 0.0, 1.0) - 1), 1)
    traces.append(
        markers(
            "track",
            block.scatterer_positions_m,
            text,
            {"symbol": "circle", "size": size.tolist(), "color": _GREEN, "line": _EDGE},
            mode="markers+text",
            text=[str(number) for number in block.track_ids],
            textposition="top right",
            textfont={"size": 12, "color": "#333333"},
        )
    )
    arrows = [
        np.stack([p, p + _AHEAD_S * v])
        for p, v in zip(block.scatterer_positions_m, block.scatterer_velocities_m_s, strict=True)
    ]
    traces.append(lines("velocity of tracks", arrows, {"color": _GREEN, "width": 5}))
    dotted = {"color": _GREEN, "width": 2, "dash": "dot"}
    traces.append(lines("ways of tracks", _ways(track[: i + 1]), dotted))
    for factor in (1, 10):
        mesh = ellipsoid_mesh(states[i], factor, text)
        traces.append(mesh | ({"visible": "legendonly"} if factor == 1 else {}))
    if truths is not None:
        for name, points, symbol in (
            ("user, true", truths[i].user_positions_m, "diamond-open"),
            ("scatterer, true", truths[i].scatterer_positions_m, "circle-open"),
        ):
            said = [f"<b>{name}</b><br>{hover.position(p)}" for p in points]
            traces.append(markers(name, points, said, {"symbol": symbol, "size": 8, "color": _BLACK}))
    return traces


def _user(block: TrackedResult, k: int, way: NDArray[np.float64]) -> list[Trace]:
    colour, dash = user_style(k)
    place, velocity = block.user_positions_m[k], block.user_velocities_m_s[k]
    std = np.sqrt(np.trace(block.user_position_covariance_m2[k]))
    said = (
        f"<b>user {k + 1}</b><br>{hover.position(place)} ± {std:.3f} m"
        f"<br>{np.linalg.norm(velocity):.2f} m/s, clock {1e9 * block.time_offsets_s[k]:.2f} ns"
    )
    group = {"legendgroup": f"user {k + 1}"}
    style = {"symbol": "diamond", "size": 6, "color": colour, "line": _EDGE}
    ahead = np.stack([place, place + _AHEAD_S * velocity])
    return [
        markers(f"user {k + 1}", place[None], [said], style, **group),
        lines("way", [way], {"color": colour, "width": 3, "dash": dash}, showlegend=False, **group),
        lines("velocity", [ahead], {"color": colour, "width": 6}, showlegend=False, **group),
    ]


def _ways(track: Sequence[TrackedResult]) -> list[NDArray[np.float64]]:
    """Places that the tracks of the last block came through."""
    ways = []
    for number in track[-1].track_ids:
        own = [block.scatterer_positions_m[block.track_ids == number] for block in track]
        ways.append(np.concatenate(own))
    return ways


def _track_text(block: TrackedResult, b: int) -> str:
    std = np.sqrt(np.trace(block.scatterer_covariance_m2[b]))
    reported = "reported" if block.report[b] >= 0 else "not reported"
    return (
        f"<b>track {block.track_ids[b]}</b><br>{hover.position(block.scatterer_positions_m[b])} ± {std:.3f} m"
        f"<br>{np.linalg.norm(block.scatterer_velocities_m_s[b]):.2f} m/s"
        f"<br>exists with probability {block.existence_probability[b]:.3f}, {reported}"
    )


def _caption(track: Sequence[TrackedResult], truths: Sequence[Truth] | None, i: int) -> str:
    block = track[i]
    parts = [
        f"block {i + 1} of {len(track)}, {1e3 * (block.time_s - track[0].time_s):.1f} ms",
        f"{numbered(len(block.track_ids), 'track')}, {int(np.sum(block.confirmed))} confirmed",
    ]
    if truths is not None:
        away = np.linalg.norm(block.user_positions_m - truths[i].user_positions_m, axis=1)
        parts.append(f"users off by {np.sqrt(np.mean(away**2)):.3f} m")
    return " · ".join(parts)


def _subtitle(track: Sequence[TrackedResult]) -> str:
    return f"{track[-1].estimate.estimator}, {numbered(len(track), 'block')}"


def _numbers(track: Sequence[TrackedResult]) -> str:
    last = track[-1]
    entries = [
        ("users", str(len(last.user_positions_m))),
        ("tracks at the end", f"{len(last.track_ids)}, {int(np.sum(last.confirmed))} confirmed"),
        ("time", f"{1e3 * (last.time_s - track[0].time_s):.1f} ms"),
    ]
    return "".join(f"<div><dt>{html.escape(k)}</dt><dd>{html.escape(v)}</dd></div>" for k, v in entries)
