"""The iterations of an estimate."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import ArrayLike

from isac_toolbox._validation import as_array, check_has, check_shape
from isac_toolbox.plotting.style import OKABE_ITO, figure_of

if TYPE_CHECKING:
    from isac_toolbox.estimators import EstimationResult
    from isac_toolbox.inference.turbo import History

__all__ = ["convergence"]


def convergence(
    result_or_history: EstimationResult | History,
    *,
    bound_db: float | None = None,
    nmse_db: Sequence[float] | ArrayLike | None = None,
    ax: Axes | None = None,
) -> tuple[Figure, Axes]:
    """Draw the objective or the channel error, and the noise variance, per iteration.

    Parameters
    ----------
    result_or_history : EstimationResult or History
    bound_db : float, optional
        Hybrid bound of the channel in dB, a horizontal line; only together with ``nmse_db``.
    nmse_db : sequence of float, shape (iterations,), optional
        Channel error per iteration in dB, drawn instead of the objective.
    ax : Axes, optional
        Where to draw; a new figure if not given. The noise variance is on a second axis on the right.

    Returns
    -------
    fig : Figure
    ax : Axes
        The left axis.

    Raises
    ------
    TypeError
        If it is neither a result nor a history.
    ValueError
        If the history is empty, ``nmse_db`` has another length, or a bound comes without ``nmse_db``.
    """
    history: Any = getattr(result_or_history, "history", result_or_history)
    wanted = "an EstimationResult or a History"
    check_has("result_or_history", history, wanted, ("__len__", "objective", "noise_variance"))
    if not len(history):
        raise ValueError("history must hold at least one iteration, got none")
    if bound_db is not None and nmse_db is None:
        raise ValueError("bound_db needs nmse_db: a bound in dB says nothing about the objective")
    iteration = np.arange(1, len(history) + 1)
    fig, ax = figure_of(ax, (6.4, 4.0))
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
