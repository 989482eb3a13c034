"""A scene in space and from above."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patheffects import withStroke
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from isac_toolbox._validation import check_has
from isac_toolbox.metrics import localisation
from isac_toolbox.plotting.html.view import check_places
from isac_toolbox.plotting.style import OKABE_ITO

if TYPE_CHECKING:
    from isac_toolbox.channel import UnlocatedPaths, UplinkObservation
    from isac_toolbox.estimators import EstimationResult
    from isac_toolbox.scenario import Truth

__all__ = ["scene_3d"]

RealArray = NDArray[np.float64]

_GREY = "#8A8A8A"
_MATCH_DISTANCE_M = 2.0
_MAX_NUMBERED = 24
_RAY_SHARE = 0.4


def scene_3d(
    result: EstimationResult, truth: Truth | None = None, *, observation: UplinkObservation | None = None
) -> tuple[Figure, NDArray[Any]]:
    """Draw the estimated scene in space and from above, beside the true one where it is known.

    Parameters
    ----------
    result : EstimationResult
        Filled markers; a scatterer is the larger and the more opaque, the more probable it is. Numbers in
        the view from above count the result's scatterers from 1.
    truth : Truth, optional
        Hollow markers; a line joins an estimate to the true point within 2 m that it is matched to.
    observation : UplinkObservation, optional
        Gives the base station, the region and the nominal user positions, and the directions that
        unlocated paths arrive from: rays from the base station, of no particular length.

    Returns
    -------
    fig : Figure
    ax : ndarray of Axes, shape (2,)
        The view in space (3-D axes) and the view from above, in metres, both with equal scales.

    Raises
    ------
    TypeError
        If an argument is something else.
    ValueError
        If the block came without places, so that there is nothing to draw.

    Notes
    -----
    Thin lines drop from every point to the lowest height of the region.
    """
    _check_types(result, truth, observation)
    check_places(result, observation)
    region, station = _surroundings(truth, observation)
    fig = plt.figure(figsize=(11.5, 5.2), layout="constrained")
    panels = fig.add_gridspec(1, 2, width_ratios=(1.35, 1.0), wspace=0.12)
    space, above = fig.add_subplot(panels[0], projection="3d"), fig.add_subplot(panels[1])
    axes = np.array([space, above], dtype=object)

    groups = _point_groups(result, truth, observation, station)
    everything = np.vstack([points for points, _ in groups])
    corners = everything if region is None else np.vstack([everything, region])
    low, high = corners.min(axis=0), corners.max(axis=0)
    ground = float(low[2])
    if region is not None:
        _draw_region(space, above, region)
    for points, style in groups:
        drop = style.pop("drop", True)
        _scatter(space, points, style, columns=3)
        _scatter(above, points, style, columns=2)
        if drop:
            for x, y, z in points:
                space.plot([x, x], [y, y], [ground, z], color=_GREY, lw=0.5, alpha=0.7, zorder=1)
    if truth is not None:
        _draw_errors(space, above, result.scatterer_positions_m, truth.scatterer_positions_m)
        _draw_pairs(space, above, result.user_positions_m, truth.user_positions_m)
    _number(above, result)
    _finish_space(space, low, high, ground)
    _finish_above(above, low, high)
    handles = [_handle(style) for _, style in groups]
    if observation is not None:
        reach = _RAY_SHARE * float(np.max((high - low)[:2]))
        handles += _draw_rays(space, above, result, truth, observation, reach)
    if region is not None:
        handles.append(Line2D([], [], color=_GREY, ls="--", lw=1, label="region of the scatterers"))
    fig.legend(handles=handles, loc="outside upper center", ncols=5, frameon=False)
    return fig, axes


def _check_types(result: Any, truth: Any, observation: Any) -> None:
    read = ("scatterer_positions_m", "scatterer_probability", "user_positions_m", "unlocated_paths")
    check_has("result", result, "an EstimationResult", read)
    if truth is not None:
        read = ("scatterer_positions_m", "user_positions_m", "unlocated_paths", "environment")
        check_has("truth", truth, "the Truth of a Simulation", read)
    if observation is not None:
        read = ("bs_position_m", "region_m", "user_positions_m", "array")
        check_has("observation", observation, "an UplinkObservation", read)


def _surroundings(
    truth: Truth | None, observation: UplinkObservation | None
) -> tuple[RealArray | None, RealArray | None]:
    """Return region (2, 3) and base station (3,), from whichever of the two knows them."""
    source: Any = observation
    if source is None and truth is not None:
        source = truth.environment
    return (None, None) if source is None else (source.region_m, source.bs_position_m)


def _point_groups(
    result: EstimationResult,
    truth: Truth | None,
    observation: UplinkObservation | None,
    station: RealArray | None,
) -> list[tuple[RealArray, dict[str, Any]]]:
    """Return points and marker styles, in the order of the legend."""
    probability = np.clip(result.scatterer_probability, 0.0, 1.0)
    vermilion, blue = OKABE_ITO["vermilion"], OKABE_ITO["blue"]
    opacity = [to_rgba(vermilion, 0.25 + 0.75 * float(p)) for p in probability]
    groups: list[tuple[RealArray, dict[str, Any]]] = []

    def add(points: RealArray | None, **style: Any) -> None:
        if points is not None and len(points):
            groups.append((points, style))

    add(
        None if station is None else station[None],
        label="base station",
        marker="^",
        s=110,
        color=OKABE_ITO["black"],
    )
    if observation is not None:
        add(
            observation.user_positions_m,
            label="user, nominal",
            marker="x",
            s=40,
            color=_GREY,
            drop=False,
        )
    if truth is not None:
        hollow = {"facecolors": "none", "linewidths": 1.3}
        add(
            truth.user_positions_m,
            label="user, true",
            marker="D",
            s=85,
            edgecolors=blue,
            drop=False,
            **hollow,
        )
        add(
            truth.scatterer_positions_m,
            label="scatterer, true",
            marker="o",
            s=105,
            edgecolors="black",
            **hollow,
        )
    add(result.user_positions_m, label="user, estimated", marker="D", s=26, color=blue)
    add(
        result.scatterer_positions_m,
        label="scatterer, estimated",
        marker="o",
        s=12 + 30 * probability,
        color=opacity,
    )
    return groups


def _scatter(ax: Any, points: RealArray, style: dict[str, Any], columns: int) -> None:
    depth = {"depthshade": False} if columns == 3 else {"zorder": 3}
    ax.scatter(*points[:, :columns].T, **style, **depth)


def _handle(style: dict[str, Any]) -> Line2D:
    """Return the legend entry of a scatter style, at full opacity."""
    hollow = style.get("facecolors") == "none"
    colour = style["edgecolors"] if hollow else style["color"]
    if isinstance(colour, list):
        colour = colour[0][:3]
    size = float(np.sqrt(np.max(style["s"])))
    return Line2D(
        [],
        [],
        ls="none",
        marker=style["marker"],
        ms=size,
        color=colour,
        mfc="none" if hollow else colour,
        label=style["label"],
    )


def _draw_errors(space: Any, above: Axes, estimate_m: RealArray, truth_m: RealArray) -> None:
    """Draw lines from estimated to matched true scatterers."""
    match = localisation(estimate_m, truth_m, _MATCH_DISTANCE_M)
    _draw_pairs(space, above, estimate_m[match.estimate_index], truth_m[match.truth_index])


def _draw_pairs(space: Any, above: Axes, first_m: RealArray, second_m: RealArray) -> None:
    for a, b in zip(first_m, second_m):
        space.plot(*np.stack([a, b]).T, color=OKABE_ITO["purple"], lw=1.4, zorder=4, gid="error")
        above.plot(*np.stack([a, b])[:, :2].T, color=OKABE_ITO["purple"], lw=1.4, zorder=4, gid="error")


def _draw_region(space: Any, above: Axes, region: RealArray) -> None:
    """Draw the twelve edges of the box, and its outline from above."""
    style: dict[str, Any] = {"color": _GREY, "ls": "--", "lw": 0.8, "alpha": 0.8}
    corners = np.array([[region[i][0], region[j][1], region[k][2]] for i, j, k in np.ndindex(2, 2, 2)])
    for a, first in enumerate(corners):
        for second in corners[a + 1 :]:
            if np.count_nonzero(first != second) == 1:
                space.plot(*np.stack([first, second]).T, **style)
    x, y = region[[0, 1, 1, 0, 0], 0], region[[0, 0, 1, 1, 0], 1]
    above.plot(x, y, **style)


def _draw_rays(
    space: Any,
    above: Axes,
    result: EstimationResult,
    truth: Truth | None,
    observation: UplinkObservation,
    reach_m: float,
) -> list[Line2D]:
    """Draw where unlocated paths arrive from, true ones broad below estimated ones; return legend entries."""
    groups: list[tuple[UnlocatedPaths, dict[str, Any]]] = []
    if truth is not None:
        broad = {
            "color": OKABE_ITO["sky blue"],
            "lw": 3.5,
            "alpha": 0.5,
            "label": "unlocated path, true",
        }
        groups.append((truth.unlocated_paths, broad))
    thin = {"color": OKABE_ITO["green"], "lw": 1.1, "ls": "--", "label": "unlocated path, estimated"}
    groups.append((result.unlocated_paths, thin))
    start, handles = np.asarray(observation.bs_position_m), []
    for paths, style in groups:
        if len(paths):
            handles.append(Line2D([], [], **style))
        for cosines in paths.direction_cosines:
            ahead = np.sqrt(max(0.0, 1 - float(np.sum(cosines**2))))
            direction = np.array([ahead, *cosines]) @ observation.array.axes
            ends = np.stack([start, start + reach_m * direction])
            space.plot(*ends.T, zorder=2, gid="ray", **style)
            above.plot(*ends[:, :2].T, zorder=2, gid="ray", **style)
    return handles


def _number(above: Axes, result: EstimationResult) -> None:
    """Write numbers beside the estimated scatterers, on the side with the fewest other points."""
    points = result.scatterer_positions_m[:, :2]
    if len(points) > _MAX_NUMBERED:
        return
    everything = np.vstack([points, result.user_positions_m[:, :2]])
    for number, point in enumerate(points):
        others = np.delete(everything, number, axis=0)
        direction = _emptiest_direction(point, others)
        above.annotate(
            str(number + 1),
            point,
            xytext=tuple(12 * direction),
            textcoords="offset points",
            ha="center",
            va="center",
            fontsize=8,
            path_effects=[withStroke(linewidth=2.5, foreground="white")],
            zorder=5,
        )


def _emptiest_direction(point: RealArray, others: RealArray) -> RealArray:
    """Return the least crowded of sixteen compass directions, a unit vector (2,); near points count most."""
    angle = np.pi / 4 + 2 * np.pi * np.arange(16) / 16
    compass = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    away = others - point
    distance = np.maximum(np.linalg.norm(away, axis=1), 1e-9)
    crowding = ((1 + compass @ (away / distance[:, None]).T) ** 4 / distance**2).sum(axis=1)
    return compass[int(np.argmin(crowding))]


def _finish_space(space: Any, low: RealArray, high: RealArray, ground: float) -> None:
    extent = np.maximum(high - low, 1e-3)
    margin = 0.03 * extent.max()
    space.set(xlim=(low[0] - margin, high[0] + margin), ylim=(low[1] - margin, high[1] + margin))
    space.set_zlim(ground, high[2] + margin)
    space.set_aspect("equal")
    sizes = np.array([np.ptp(space.get_xlim()), np.ptp(space.get_ylim()), np.ptp(space.get_zlim())])
    space.set_box_aspect(sizes, zoom=1.1)
    space.zaxis.set_major_locator(MaxNLocator(4 if sizes[2] > 0.2 * sizes.max() else 2))
    space.set(xlabel="x (m)", ylabel="y (m)", zlabel="z (m)")
    space.xaxis.labelpad, space.yaxis.labelpad, space.zaxis.labelpad = 8, 4, 1
    space.view_init(elev=24, azim=-62)


def _finish_above(above: Axes, low: RealArray, high: RealArray) -> None:
    margin = 0.06 * max(float(np.max((high - low)[:2])), 1e-3)
    above.set(xlim=(low[0] - margin, high[0] + margin), ylim=(low[1] - margin, high[1] + margin))
    above.set(xlabel="x (m)", ylabel="y (m)", aspect="equal", title="from above")
    above.grid(alpha=0.25)
