"""Pictures of a scene, of a pseudo-spectrum and of the iterations; every function returns ``(fig, ax)``.

Nothing here shows a window or writes a file: call ``fig.savefig``. The exception is ``scene_html``, an
interactive page. Colours are those of Okabe and Ito, which colour-blind readers can tell apart; marker
shapes carry the same meaning in greyscale.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm, to_rgba
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patheffects import withStroke
from matplotlib.ticker import MaxNLocator
from numpy.typing import ArrayLike, NDArray

from isac_toolbox._validation import as_array, check_finite, check_shape
from isac_toolbox.metrics import localisation

if TYPE_CHECKING:
    from isac_toolbox._scene_html import scene_html as scene_html
    from isac_toolbox.channel import UplinkObservation
    from isac_toolbox.estimators import EstimationResult
    from isac_toolbox.inference.turbo import History
    from isac_toolbox.scenario import Truth

__all__ = ["OKABE_ITO", "convergence", "scene_3d", "scene_html", "spectrum_slice"]

RealArray = NDArray[np.float64]

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
_GREY = "#8A8A8A"
_MATCH_DISTANCE_M = 2.0
_MAX_NUMBERED = 24


def __getattr__(name: str) -> Any:
    """``scene_html`` lives in a room of its own, entered only when asked for."""
    if name != "scene_html":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from isac_toolbox._scene_html import scene_html

    globals()[name] = scene_html
    return scene_html


def scene_3d(
    result: EstimationResult, truth: Truth | None = None, *, observation: UplinkObservation | None = None
) -> tuple[Figure, NDArray[Any]]:
    """The estimated scene in space and from above, beside the true one where it is known.

    Parameters
    ----------
    result : EstimationResult
        Filled markers; a scatterer is the larger and the more opaque, the more probable it is. Numbers in
        the view from above count the result's scatterers from 1.
    truth : Truth, optional
        Hollow markers; a line joins an estimate to the true point within 2 m that it is matched to.
    observation : UplinkObservation, optional
        Gives the base station, the region and the nominal user positions.

    Returns
    -------
    fig : Figure
    ax : ndarray of Axes, shape (2,)
        The view in space (3-D axes) and the view from above, in metres, both with equal scales.

    Notes
    -----
    Thin lines drop from every point to the lowest height of the region.
    """
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
    if region is not None:
        handles.append(Line2D([], [], color=_GREY, ls="--", lw=1, label="region of the scatterers"))
    fig.legend(handles=handles, loc="outside lower center", ncols=4, frameon=False)
    return fig, axes


def spectrum_slice(
    grid_x_m: ArrayLike,
    grid_y_m: ArrayLike,
    values: ArrayLike,
    *,
    truth_m: ArrayLike | None = None,
    candidates_m: ArrayLike | None = None,
    height_m: float | None = None,
    ax: Axes | None = None,
) -> tuple[Figure, Axes]:
    """Pseudo-spectrum over a horizontal grid of locations, on a logarithmic colour scale.

    Parameters
    ----------
    grid_x_m, grid_y_m : array_like, shape (X,) and (Y,)
        Increasing coordinates of the grid.
    values : array_like, shape (X, Y)
        Positive pseudo-spectrum.
    truth_m, candidates_m : array_like, shape (S, 2) or (S, 3), optional
        True scatterers (hollow circles) and candidate points (crosses).
    height_m : float, optional
        Height of the slice, for the title.
    ax : Axes, optional
        Where to draw; a new figure if not given.

    Returns
    -------
    fig : Figure
    ax : Axes

    Raises
    ------
    ValueError
        If shapes do not fit, the grid does not increase, or values are not finite and positive.
    """
    x, y = as_array("grid_x_m", grid_x_m, float), as_array("grid_y_m", grid_y_m, float)
    spectrum = as_array("values", values, float)
    for name, axis in (("grid_x_m", x), ("grid_y_m", y)):
        check_shape(name, axis, (None,), "(points,)")
        check_finite(name, axis)
        if axis.size < 2 or np.any(np.diff(axis) <= 0):
            raise ValueError(f"{name} must hold at least two increasing coordinates")
    check_shape("values", spectrum, (x.size, y.size), "(X, Y)")
    check_finite("values", spectrum)
    if np.any(spectrum <= 0):
        raise ValueError(f"values must be positive for a logarithmic scale, got {spectrum.min()}")
    fig, ax = _figure(ax, (6.4, 5.2))
    low, high = float(spectrum.min()), float(spectrum.max())
    norm = LogNorm(low, high if high > low else low * 10)
    mesh = ax.pcolormesh(x, y, spectrum.T, norm=norm, cmap="cividis", shading="nearest", rasterized=True)
    fig.colorbar(mesh, ax=ax, label="MUSIC pseudo-spectrum (log scale)")
    marks: list[tuple[str, ArrayLike | None, dict[str, Any]]] = [
        (
            "true scatterer",
            truth_m,
            {"marker": "o", "s": 110, "facecolors": "none", "edgecolors": "white", "linewidths": 1.8},
        ),
        ("candidate", candidates_m, {"marker": "x", "s": 45, "color": OKABE_ITO["vermilion"]}),
    ]
    drawn = False
    for label, points, style in marks:
        flat = None if points is None else _plane_points(label, points)
        if flat is not None and len(flat):
            ax.scatter(flat[:, 0], flat[:, 1], label=label, **style)
            drawn = True
    if drawn:
        legend = ax.legend(loc="upper left", bbox_to_anchor=(0.0, -0.13), ncols=2, borderaxespad=0.0)
        legend.get_frame().set(facecolor="#5A5F6E", edgecolor="none")
        for text in legend.get_texts():
            text.set_color("white")
    half = np.array([x[1] - x[0], y[1] - y[0]]) / 2
    ax.set(xlabel="x (m)", ylabel="y (m)", aspect="equal")
    ax.set(xlim=(x[0] - half[0], x[-1] + half[0]), ylim=(y[0] - half[1], y[-1] + half[1]))
    if height_m is not None:
        ax.set_title(f"slice at height {height_m:.1f} m")
    return fig, ax


def convergence(
    result_or_history: EstimationResult | History,
    *,
    bound_db: float | None = None,
    nmse_db: Sequence[float] | ArrayLike | None = None,
    ax: Axes | None = None,
) -> tuple[Figure, Axes]:
    """Objective or channel error, and the noise variance, per iteration.

    Parameters
    ----------
    result_or_history : EstimationResult or History
    bound_db : float, optional
        Hybrid bound of the channel in dB, a horizontal line; only together with ``nmse_db``.
    nmse_db : sequence of float, shape (iterations,), optional
        Channel error per iteration in dB, drawn instead of the objective.
    ax : Axes, optional
        Where to draw; a new figure if not given. The noise variance gets its own axis on the right.

    Returns
    -------
    fig : Figure
    ax : Axes
        The left axis.

    Raises
    ------
    ValueError
        If the history is empty, ``nmse_db`` has another length, or a bound comes without ``nmse_db``.
    """
    history: Any = getattr(result_or_history, "history", result_or_history)
    if not len(history):
        raise ValueError("history must hold at least one iteration, got none")
    if bound_db is not None and nmse_db is None:
        raise ValueError("bound_db needs nmse_db: a bound in dB says nothing about the objective")
    iteration = np.arange(1, len(history) + 1)
    fig, ax = _figure(ax, (6.4, 4.0))
    blue, orange = OKABE_ITO["blue"], OKABE_ITO["vermilion"]
    dots: dict[str, Any] = {"ms": 4, "markevery": max(1, len(history) // 25)}
    if nmse_db is None:
        lines = ax.plot(iteration, history.objective, "o-", color=blue, label="objective", **dots)
        ax.set_ylabel("objective")
    else:
        error = as_array("nmse_db", nmse_db, float)
        check_shape("nmse_db", error, (len(history),), "(iterations,)")
        lines = ax.plot(iteration, error, "o-", color=blue, label="channel NMSE", **dots)
        ax.set_ylabel("channel NMSE (dB)")
    if bound_db is not None:
        lines.append(ax.axhline(bound_db, color="black", ls="--", lw=1.2, label="hybrid Cramér-Rao bound"))
    right = ax.twinx()
    noise = history.noise_variance
    lines += right.plot(iteration, noise, "s:", color=orange, mfc="none", label="noise variance", **dots)
    if noise.min() > 0 and noise.max() > 3 * noise.min():
        right.set_yscale("log")
    else:
        right.ticklabel_format(useOffset=False)
    right.set_ylabel("noise variance (per sample)")
    ax.set_xlabel("iteration")
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.grid(alpha=0.3)
    ax.legend(handles=lines, loc="lower center", bbox_to_anchor=(0.5, 1.01), ncols=3, frameon=False)
    return fig, ax


def _figure(ax: Axes | None, size: tuple[float, float]) -> tuple[Figure, Axes]:
    """The figure of given axes, or new ones."""
    if ax is None:
        return plt.subplots(figsize=size, layout="constrained")
    figure = ax.get_figure(root=True)
    if figure is None:
        raise ValueError("ax must belong to a figure")
    return figure, ax


def _plane_points(name: str, points: ArrayLike) -> RealArray:
    """Points of shape (S, 2) or (S, 3)."""
    flat = as_array(name, points, float)
    if flat.size and (flat.ndim != 2 or flat.shape[1] not in (2, 3)):
        raise ValueError(f"{name} points must have shape (S, 2) or (S, 3), got {flat.shape}")
    check_finite(name, flat)
    return flat


def _surroundings(
    truth: Truth | None, observation: UplinkObservation | None
) -> tuple[RealArray | None, RealArray | None]:
    """Region (2, 3) and base station (3,), from whichever of the two knows them."""
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
    """Points and marker styles, in the order of the legend."""
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
    """Legend entry of a scatter style, at full opacity."""
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
    """Lines from estimated to matched true scatterers."""
    match = localisation(estimate_m, truth_m, _MATCH_DISTANCE_M)
    _draw_pairs(space, above, estimate_m[match.estimate_index], truth_m[match.truth_index])


def _draw_pairs(space: Any, above: Axes, first_m: RealArray, second_m: RealArray) -> None:
    for a, b in zip(first_m, second_m):
        space.plot(*np.stack([a, b]).T, color=OKABE_ITO["purple"], lw=1.4, zorder=4, gid="error")
        above.plot(*np.stack([a, b])[:, :2].T, color=OKABE_ITO["purple"], lw=1.4, zorder=4, gid="error")


def _draw_region(space: Any, above: Axes, region: RealArray) -> None:
    """The twelve edges of the box, and its outline from above."""
    style: dict[str, Any] = {"color": _GREY, "ls": "--", "lw": 0.8, "alpha": 0.8}
    corners = np.array([[region[i][0], region[j][1], region[k][2]] for i, j, k in np.ndindex(2, 2, 2)])
    for a, first in enumerate(corners):
        for second in corners[a + 1 :]:
            if np.count_nonzero(first != second) == 1:
                space.plot(*np.stack([first, second]).T, **style)
    x, y = region[[0, 1, 1, 0, 0], 0], region[[0, 0, 1, 1, 0], 1]
    above.plot(x, y, **style)


def _number(above: Axes, result: EstimationResult) -> None:
    """Numbers beside the estimated scatterers, on the side that is freest of other points."""
    points = result.scatterer_positions_m[:, :2]
    if len(points) > _MAX_NUMBERED:
        return
    everything = np.vstack([points, result.user_positions_m[:, :2]])
    for number, point in enumerate(points):
        others = np.delete(everything, number, axis=0)
        free = _emptiest_direction(point, others)
        above.annotate(
            str(number + 1),
            point,
            xytext=tuple(12 * free),
            textcoords="offset points",
            ha="center",
            va="center",
            fontsize=8,
            path_effects=[withStroke(linewidth=2.5, foreground="white")],
            zorder=5,
        )


def _emptiest_direction(point: RealArray, others: RealArray) -> RealArray:
    """The least crowded of sixteen compass directions, a unit vector (2,); near points count most."""
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
