"""Curves of a sweep: a figure of merit over a varied field, reliability and coverage."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from isac_toolbox._validation import as_array, check_has, check_shape
from isac_toolbox.plotting.style import BOUND_STYLE, OKABE_ITO, curve_style, figure_of, readable_log

if TYPE_CHECKING:
    from isac_toolbox.sweeps import SweepResult, SweepSummary

__all__ = ["METRICS", "coverage", "reliability", "sweep_curves"]

_ZERO_EVENTS = 3.0  # no event in n trials: its rate is below 3 / n at 95 %


@dataclass(frozen=True)
class _Metric:
    """How a pooled figure is drawn; ``bound`` and ``count`` name attributes of the summary."""

    label: str
    value: Callable[[SweepSummary], float]
    is_log: bool = False
    bound: str | None = None
    count: str | None = None


def _found(entry: SweepSummary) -> float:
    total = entry.hits + entry.misses
    return 100 * entry.hits / total if total else float("nan")


def _false_per_trial(entry: SweepSummary) -> float:
    return entry.false_alarms / entry.trials if entry.trials else float("nan")


METRICS = {
    "rmse_m": _Metric("localisation RMSE (m)", lambda e: e.rmse_m, True, bound="rmse_bound_m"),
    "nmse_db": _Metric("channel NMSE (dB)", lambda e: e.nmse_db, bound="bound_nmse_db"),
    "symbol_error_rate": _Metric("symbol error rate", lambda e: e.symbol_error_rate, True, count="symbols"),
    "bit_error_rate": _Metric("uncoded bit error rate", lambda e: e.bit_error_rate, True, count="symbols"),
    "found_percent": _Metric("scatterers found (%)", _found),
    "false_alarms": _Metric("false scatterers per block", _false_per_trial),
    "user_rmse_m": _Metric("user position RMSE (m)", lambda e: e.user_rmse_m, True, bound="user_bound_m"),
    "seconds": _Metric("time per block (s)", lambda e: e.seconds, True),
}

_AXES = {
    "snr_db": ("SNR (dB)", 1.0),
    "n_users": ("number of users", 1.0),
    "n_pilot_symbols": ("pilot OFDM symbols", 1.0),
    "time_offset_std_s": ("time-offset spread (ns)", 1e9),
    "user_position_std_m": ("user-position error per coordinate (m)", 1.0),
}
_COUNTS = ("n_users", "n_pilot_symbols")


def sweep_curves(
    result: SweepResult,
    metric: str,
    *,
    x: str | None = None,
    labels: Mapping[str, str] | None = None,
    ax: Axes | None = None,
) -> tuple[Figure, Axes]:
    """Draw a figure of merit over a varied field, a curve per estimator, with its bound where there is one.

    Parameters
    ----------
    result : SweepResult
    metric : str
        A name of ``METRICS``: ``"rmse_m"``, ``"nmse_db"``, ``"symbol_error_rate"``, ``"bit_error_rate"``,
        ``"found_percent"``, ``"false_alarms"``, ``"user_rmse_m"`` or ``"seconds"``.
    x : str, optional
        The varied field on the horizontal axis; the first one if not given.
    labels : mapping of str to str, optional
        Names of estimators in the legend, and which estimators are drawn; all of them, by their names in
        the sweep, if not given.
    ax : Axes, optional
        Where to draw; a new figure if not given.

    Returns
    -------
    fig : Figure
    ax : Axes

    Raises
    ------
    TypeError
        If it is no result of a sweep, or ``labels`` is no mapping.
    ValueError
        For a metric or field that does not exist; the known ones are listed.

    Notes
    -----
    The bound is that over the points which the first estimator found. An estimator with less than half of
    the trials saw other blocks: its points are not joined, and a dash marks the bound of each. A rate
    without a single error is drawn as an arrow downwards from its upper limit at 95 %. Estimators without
    the figure are left out.
    """
    check_has("result", result, "a SweepResult", ("fields", "summary"))
    if labels is not None:
        check_has("labels", labels, "a mapping of estimators to names", ("items", "keys"))
    if metric not in METRICS:
        raise ValueError(f"metric must be one of {', '.join(METRICS)}, got {metric!r}")
    if not result.fields or (x is not None and x not in result.fields):
        raise ValueError(f"x must be a varied field ({', '.join(result.fields) or 'none'}), got {x!r}")
    field = x or result.fields[0]
    fig, ax = figure_of(ax, (6.4, 4.4))
    x_label, scale = _AXES.get(field, (field, 1.0))
    drawn, groups = METRICS[metric], _by_estimator(result.summary())
    names = {name: name for name in groups} if labels is None else labels
    most = max((entry.trials for name in names for entry in groups.get(name, [])), default=0)
    for number, (name, label) in enumerate(names.items()):
        entries = groups.get(name, [])
        at = np.array([scale * entry.point[field] for entry in entries], float)
        few = bool(entries) and max(entry.trials for entry in entries) < most / 2
        style = curve_style(name, number) | ({"ls": "none"} if few else {})
        _draw_curve(ax, at, entries, drawn, label, style)
        if drawn.bound is not None and (number == 0 or few):
            bound = np.array([getattr(entry, drawn.bound) for entry in entries], float)
            exists = np.isfinite(bound) & (bound > 0 if drawn.is_log else True)
            dash = {"ls": "none", "marker": "_", "ms": 12} if few else {}
            title = f"bound of {label}" if few else "hybrid Cramér-Rao bound"
            ax.plot(at[exists], bound[exists], label=title, gid="bound", **{**BOUND_STYLE, **dash})
    if drawn.is_log and np.isfinite(ax.dataLim.minposy):
        ax.set_yscale("log")
        readable_log(ax.yaxis)
    if field in _COUNTS:
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.set(xlabel=x_label, ylabel=drawn.label)
    ax.grid(alpha=0.3, which="both" if drawn.is_log else "major", lw=0.5)
    return fig, ax


def _by_estimator(summary: Sequence[SweepSummary]) -> dict[str, list[SweepSummary]]:
    groups: dict[str, list[SweepSummary]] = {}
    for entry in summary:
        groups.setdefault(entry.estimator, []).append(entry)
    return groups


def _draw_curve(
    ax: Axes,
    at: NDArray[np.float64],
    entries: Sequence[SweepSummary],
    metric: _Metric,
    label: str,
    style: Mapping[str, Any],
) -> None:
    """Draw values that exist, and upper limits where no error was seen."""
    values = np.array([metric.value(entry) for entry in entries], float)
    drawn = np.isfinite(values) & ((values > 0) | (not metric.is_log))
    if not drawn.any():
        return
    ax.plot(at[drawn], values[drawn], label=label, gid="curve", **style)
    if metric.count is not None:
        counts = np.array([getattr(entry, metric.count) for entry in entries], float)
        none = (values == 0) & (counts > 0)
        if none.any():
            limits = _ZERO_EVENTS / counts[none]
            ax.errorbar(
                at[none], limits, yerr=0.5 * limits, uplims=True, ls="none", color=style["color"], lw=1
            )


def reliability(bins: Mapping[str, NDArray[np.float64]], *, ax: Axes | None = None) -> tuple[Figure, Axes]:
    """Draw the share of events that came true over their stated probability, with 95 % intervals.

    Parameters
    ----------
    bins : mapping of str to array_like, shape (bins, 3)
        By case: number of events, sum of their probabilities, number that came true; pooled
        ``Metrics.point_bins`` of a sweep's rows.
    ax : Axes, optional

    Returns
    -------
    fig : Figure
    ax : Axes
    """
    check_has("bins", bins, "a mapping of cases to bins", ("items", "keys"))
    pooled_bins = {name: as_array(f"bins[{name!r}]", pooled, float) for name, pooled in bins.items()}
    for name, pooled in pooled_bins.items():
        check_shape(f"bins[{name!r}]", pooled, (None, 3), "(bins, 3)")
    fig, ax = _calibration_axes(ax)
    for number, (name, pooled) in enumerate(pooled_bins.items()):
        count, probability, true = pooled.T
        some = count > 0
        stated, share = probability[some] / count[some], true[some] / count[some]
        low, high = wilson_interval(true[some], count[some])
        error = np.maximum([share - low, high - share], 0)
        colour, marker, _ = _CASES[number % len(_CASES)]
        ax.errorbar(
            stated,
            share,
            yerr=error,
            label=name,
            color=colour,
            marker=marker,
            ls="none",
            capsize=2,
            ms=5,
            lw=1,
        )
    ax.set(xlabel="stated probability of a scatterer", ylabel="share that are scatterers")
    return fig, ax


_CASES = (
    (OKABE_ITO["blue"], "o", "-"),
    (OKABE_ITO["vermilion"], "s", "--"),
    (OKABE_ITO["green"], "^", "-."),
    (OKABE_ITO["purple"], "v", ":"),
)


def coverage(levels: Mapping[str, NDArray[np.float64]], *, ax: Axes | None = None) -> tuple[Figure, Axes]:
    """Draw the share of true positions inside the credible ellipsoids over their level.

    Parameters
    ----------
    levels : mapping of str to array_like, shape (bins,)
        By case: number of errors whose smallest credible ellipsoid has a level in each of equal bins of
        [0, 1]; pooled ``Metrics.scatterer_level_bins`` of a sweep's rows.
    ax : Axes, optional

    Returns
    -------
    fig : Figure
    ax : Axes
    """
    check_has("levels", levels, "a mapping of cases to counts", ("items", "keys"))
    pooled = {name: as_array(f"levels[{name!r}]", counts, float) for name, counts in levels.items()}
    for name, counts in pooled.items():
        check_shape(f"levels[{name!r}]", counts, (None,), "(bins,)")
    fig, ax = _calibration_axes(ax)
    for number, (name, counts) in enumerate(pooled.items()):
        level = np.arange(len(counts) + 1) / len(counts)
        share = np.concatenate([[0.0], np.cumsum(counts)]) / max(counts.sum(), 1.0)
        colour, marker, line = _CASES[number % len(_CASES)]
        ax.plot(level, share, color=colour, marker=marker, ls=line, ms=4, lw=1, mfc="none", label=name)
    ax.set(xlabel="level of the credible ellipsoid", ylabel="share inside")
    return fig, ax


def _calibration_axes(ax: Axes | None) -> tuple[Figure, Axes]:
    """Return a unit square with the diagonal of a calibrated estimator."""
    fig, ax = figure_of(ax, (4.8, 4.6))
    ax.plot([0, 1], [0, 1], label="calibrated", **BOUND_STYLE)
    ax.set(xlim=(-0.03, 1.03), ylim=(-0.03, 1.03), aspect="equal")
    ax.grid(alpha=0.3, lw=0.5)
    return fig, ax


def wilson_interval(
    events: NDArray[np.float64], trials: NDArray[np.float64], z: float = 1.96
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return Wilson's interval of a share, by default at 95 %."""
    share = events / trials
    centre = (share + z**2 / (2 * trials)) / (1 + z**2 / trials)
    half = z / (1 + z**2 / trials) * np.sqrt(share * (1 - share) / trials + z**2 / (4 * trials**2))
    return centre - half, centre + half
