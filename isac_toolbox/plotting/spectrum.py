"""A pseudo-spectrum over a slice of space."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from numpy.typing import ArrayLike, NDArray

from isac_toolbox._validation import as_array, check_finite, check_shape
from isac_toolbox.plotting.style import OKABE_ITO, figure_of

__all__ = ["spectrum_slice"]

RealArray = NDArray[np.float64]


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
    """Draw a pseudo-spectrum over a horizontal grid of locations, on a logarithmic colour scale.

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
    fig, ax = figure_of(ax, (6.4, 5.2))
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


def _plane_points(name: str, points: ArrayLike) -> RealArray:
    """Return points of shape (S, 2) or (S, 3)."""
    flat = as_array(name, points, float)
    if flat.size and (flat.ndim != 2 or flat.shape[1] not in (2, 3)):
        raise ValueError(f"{name} points must have shape (S, 2) or (S, 3), got {flat.shape}")
    check_finite(name, flat)
    return flat
