"""The tables that the command line prints, of its reports and of sweeps; each stays within 80 columns."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from isac_toolbox.cli.report import MATCH_DISTANCE_M, Report

if TYPE_CHECKING:
    from isac_toolbox.sweeps import SweepResult, SweepSummary

__all__ = ["block_sizes", "print_bound", "print_estimation", "print_sweep"]

_WORDS = ("", "seen by", "estimate", "bound or truth", "estimator", "over", "residual")


def print_estimation(console: Console, report: Report) -> None:
    """Print header, scatterers and users, or paths where there are no places, and summary."""
    known = "channel_nmse_db" in report["summary"]
    how = report["estimator"]
    _print_header(console, report)
    iterations = _count(how["n_iter"], "iteration")
    _line(console, f"{how['name']}: {how['status'] or 'done'}, {iterations}, {how['seconds']:.2f} s")
    if report["misfit"] is not None and report["misfit"]["text"] is not None:
        console.print(Text(report["misfit"]["text"], style="bold yellow"))
    if report["paths"] is None:
        _print_scatterers(console, report, known)
        _print_user_positions(console, report["users"], known)
        _print_clocks(console, report["users"], known)
    else:
        _print_paths(console, report["paths"])
    _print_motion(console, report["motion"], known)
    _print_summary(console, report, known)
    _print_misfit(console, report["misfit"])
    if known:
        _note(console, "bound: hybrid Cramér-Rao bound of the root mean square error, all symbols known")
        _note(console, "std: stated standard deviation; nominal: error of the given position")
    _print_lines(console, "Ambiguous (weights in brackets)", [a["text"] for a in report["ambiguities"]])
    _print_lines(console, "Warnings", report["warnings"])


def _print_lines(console: Console, title: str, lines: list[str]) -> None:
    """Print a heading and lines of text below it; nothing if there are none."""
    if lines:
        console.print(Text(f"\n{title}", style="bold yellow"))
    for line in lines:
        console.print(Padding(Text(line), (0, 0, 0, 2)))


def print_bound(console: Console, report: Report) -> None:
    """Print the tables of ``isac bound``."""
    _print_header(console, report)
    known = "only the pilots" if report["known"] == "pilots only" else report["known"]
    _line(console, f"hybrid Cramér-Rao bound of root mean square errors, {known} known")
    marks = _Marks.of(console)
    table = _table("#", *"xyz", "seen by", "bound\nm")
    for number, entry in enumerate(report["scatterers"], start=1):
        row = [str(number), *_point(entry["position_m"]), marks.row(entry["visible"], None)]
        table.add_row(*row, _number(entry["bound_m"], 3))
    _show(console, "Scatterers", table)
    _note(console, marks.legend(known=False))
    clock = ("prior\nns", "bound\nns")
    table = _table("#", *"xyz", "prior\nm", "bound\nm", *clock, "line of\nsight")
    for number, entry in enumerate(report["users"], start=1):
        table.add_row(
            str(number),
            *_point(entry["position_m"]),
            _number(entry["position_prior_m"], 3),
            _number(entry["position_bound_m"], 3),
            _number(entry["time_offset_prior_s"], 3, 1e9),
            _number(entry["time_offset_bound_s"], 3, 1e9),
            "yes" if entry["line_of_sight"] else "no",
        )
    _show(console, "Users: position (m) and clock (ns)", table)
    summary = report["summary"]
    table = _table("", "bound")
    table.add_row("channel NMSE", _unit(summary["channel_bound_db"], 2, "dB"))
    table.add_row("scatterer position, RMS of all", _unit(summary["position_bound_m"], 3, "m"))
    _show(console, "Summary", table)
    if summary["n_unlocated_paths"]:
        paths = _count(summary["n_unlocated_paths"], "path")
        _note(console, f"{paths} with more than one bounce: unlocated, direction and delay unknown")
    if summary["unlisted_share"]:
        share = f"{100 * summary['unlisted_share']:.2g} % of the power"
        _note(console, f"{share} is in rays or a diffuse tail, which the bound takes as known")


def print_sweep(console: Console, result: SweepResult) -> None:
    """Print the pooled figures of a sweep: channel and data, then scatterers."""
    head = (*result.fields, "estimator")
    channel = _table(*head, "trials", "NMSE\ndB", "bound\ndB", "SER", "BER", "seconds")
    scene = _table(*head, "found", "missed", "false", "RMSE\nm", "bound\nm")
    for entry in result.summary():
        point = [_value(entry.point[name]) for name in result.fields]
        trials = f"{entry.trials}" + (f" + {entry.failed} failed" if entry.failed else "")
        channel.add_row(*point, entry.estimator, trials, *_channel_figures(entry))
        counts = (str(entry.hits), str(entry.misses), str(entry.false_alarms))
        errors = (_short(entry.rmse_m, 3), _short(entry.rmse_bound_m, 3))
        scene.add_row(*point, entry.estimator, *counts, *errors)
    _show(console, "Channel and data", channel)
    _show(console, "Scatterers", scene)
    _note(console, "bound: hybrid Cramér-Rao bound, all symbols known; seconds: median, one thread")


def block_sizes(report: Report) -> str:
    """Return the sizes of the block in words."""
    antennas = str(report["n_antennas"])
    if report["array_shape"] is not None:
        antennas = "{} x {}".format(*report["array_shape"])
    points = report["constellation_points"]
    return (
        f"{_count(report['n_users'], 'user')}, {antennas} antennas, "
        f"{report['n_subcarriers']} subcarriers, {report['n_pilot_symbols']} pilot + "
        f"{report['n_data_symbols']} data symbols, {'QPSK' if points == 4 else f'{points}-point'}"
    )


def _print_header(console: Console, report: Report) -> None:
    """Print source and sizes."""
    seed = "" if report["seed"] is None else f", seed {report['seed']}"
    snr = "" if report["snr_db"] is None else f", SNR {report['snr_db']:g} dB"
    source = f"[bold]{escape(report['source'])}[/bold]{seed}"
    console.print(f"{source}: {block_sizes(report)}{snr}", highlight=False)


def _print_scatterers(console: Console, report: Report, known: bool) -> None:
    """Print the located scatterers, then the missed ones."""
    found, missed = report["scatterers"], report["missed_scatterers"]
    if not found and not missed:
        _line(console, "\nno scatterers located")
        return
    marks = _Marks.of(console)
    table = _table("#", *"xyz", "prob.", "seen by", "std\nm", *(["error\nm", "bound\nm"] if known else []))
    for number, entry in enumerate(found, start=1):
        seen = [p is not None and p >= 0.5 for p in entry["visibility_probability"]]
        row = [str(number), *_point(entry["position_m"]), _number(entry["probability"], 2)]
        row += [marks.row(seen, entry.get("visible")), _number(entry["position_std_m"], 3)]
        false_alarm = known and entry.get("truth_index") is None
        if known:
            row.append("false" if false_alarm else _number(entry["error_m"], 3))
            row.append(_number(entry.get("bound_m"), 3))
        table.add_row(*row, style="yellow" if false_alarm else None)
    for entry in missed:
        row = ["-", *_point(entry["position_m"]), "-"]
        row.append(marks.row([False] * len(entry["visible"]), entry["visible"]))
        table.add_row(*row, "-", "missed", _number(entry["bound_m"], 3), style="red")
    _show(console, "Scatterers", table)
    _note(console, marks.legend(known))
    bodies = [f"{n} ({e['extent_m']:.2f} m)" for n, e in enumerate(found, start=1) if e["extent_m"]]
    if bodies:
        _note(console, f"with an extent (root mean square): {', '.join(bodies)}")


def _print_paths(console: Console, paths: list[Report]) -> None:
    """Print delays and directions of paths that have no place."""
    if not paths:
        _line(console, "\nno paths found")
        return
    table = _table("user", "delay\nns", "cosine\nhorizontal", "cosine\nvertical", "power\ndB", "prob.")
    for entry in paths:
        table.add_row(
            str(entry["user"] + 1),
            _number(entry["delay_s"], 2, 1e9),
            *(_number(cosine, 4) for cosine in entry["direction_cosines"]),
            _number(entry["power_db"], 1),
            _number(entry["probability"], 2),
        )
    _show(console, "Paths", table)
    _note(console, "delays: relative to the receiver's time base; power: of the path on one antenna")


def _print_user_positions(console: Console, users: list[Report], known: bool) -> None:
    """Print the positions of the users beside the nominal ones."""
    table = _table(
        "#", *"xyz", "std\nm", *(["error\nm", "nominal\nm", "bound\nm"] if known else ["moved\nm"])
    )
    names = ("position_error_m", "nominal_error_m", "position_bound_m") if known else ("shift_m",)
    for number, entry in enumerate(users, start=1):
        values = [entry["position_std_m"], *(entry[name] for name in names)]
        table.add_row(str(number), *_point(entry["position_m"]), *(_number(v, 3) for v in values))
    _show(console, "User positions", table)
    if not known:
        _note(console, "moved: from the nominal position")


def _print_clocks(console: Console, users: list[Report], known: bool) -> None:
    """Print clock offsets, lines of sight and data of the users."""
    extra = ["error\nns", "bound\nns", "symbol\nerror rate"] if known else []
    table = _table("#", "offset\nns", "std\nns", "line of\nsight", *extra)
    for number, entry in enumerate(users, start=1):
        probability, rate = entry["line_of_sight_probability"], entry.get("symbol_error_rate")
        sight = _number(probability, 2)
        if known and probability is not None and (probability >= 0.5) != entry["line_of_sight"]:
            sight += " wrong"
        row = [str(number), _number(entry["time_offset_s"], 3, 1e9)]
        row += [_number(entry["time_offset_std_s"], 3, 1e9), sight]
        if known:
            row.append(_number(entry["time_offset_error_s"], 3, 1e9))
            row.append(_number(entry["time_offset_bound_s"], 3, 1e9))
            row.append("-" if rate is None else f"{rate:.2g}")
        table.add_row(*row)
    _show(console, "Clocks and data", table)


def _print_summary(console: Console, report: Report, known: bool) -> None:
    """Print the figures of the whole block, with bounds or true values where they are known."""
    summary = report["summary"]
    rows = _rows_with_truth(report) if known else [("scatterers", str(summary["n_scatterers"]), "")]
    rows.append(("channel NMSE, expected", _unit(summary["expected_channel_nmse_db"], 2, "dB"), ""))
    if not known:
        rows.append(("SNR", _unit(summary["snr_db"], 1, "dB"), ""))
    rows += [
        (
            "noise variance",
            _short(summary["noise_variance"]),
            f"true {_short(summary.get('true_noise_variance'))}",
        ),
        (
            "unlocated paths",
            str(summary["n_unlocated_paths"]),
            f"true {summary.get('true_n_unlocated_paths')}",
        ),
        (
            "unlocated energy",
            _percent(summary["unlocated_energy_share"]),
            f"{_percent(summary.get('true_unlocated_energy_share'))} of the true channel",
        ),
    ]
    if report["elements"] is not None:
        gains, phases = report["elements"]["gain_db"], report["elements"]["phase_rad"]
        spread = f"{_rms(gains):.2g} dB, {math.degrees(_rms(phases)):.2g} degrees rms"
        rows.append(("elements differ by", spread, ""))
    if summary["diffuse_energy_share"]:
        rows.append(("diffuse energy", _percent(summary["diffuse_energy_share"]), ""))
    table = _table("", "estimate", *(["bound or truth"] if known else []))
    for row in rows:
        table.add_row(*(row if known else row[:2]))
    _show(console, "Summary", table)


def _print_motion(console: Console, motion: Report | None, known: bool) -> None:
    """Print frequency offsets and velocities of users, and the scatterers that more likely move than rest."""
    if motion is None:
        return
    offsets, speeds = ["offset\nHz", "std\nHz"], ["x\nm/s", "y\nm/s", "z\nm/s", "std\nm/s"]
    table = _table(
        "#", *offsets, *(["error\nHz"] if known else []), *speeds, *(["error\nm/s"] if known else [])
    )
    for number, entry in enumerate(motion["users"], start=1):
        row = [str(number), *(_number(entry[f"frequency_offset{part}_hz"], 1) for part in ("", "_std"))]
        row += [_number(entry.get("frequency_offset_error_hz"), 1)] if known else []
        row += [*_point(entry.get("velocity_m_s", [None] * 3)), _number(entry.get("velocity_std_m_s"), 2)]
        table.add_row(*row, *([_number(entry.get("velocity_error_m_s"), 2)] if known else []))
    _show(console, "Carriers and motion of users", table)
    table = _table("#", "moves\nprob.", *speeds)
    for number, entry in enumerate(motion["scatterers"], start=1):
        if entry["moving_probability"] >= 0.5:
            row = [str(number), _number(entry["moving_probability"], 2), *_point(entry["velocity_m_s"])]
            table.add_row(*row, _number(entry["velocity_std_m_s"], 2))
    if table.row_count:
        _show(console, "Scatterers that move", table)


def _print_misfit(console: Console, misfit: Report | None) -> None:
    """Print how far the residual is from noise."""
    if misfit is None:
        return
    table = _table("over", "residual", "excess\ndB", "p")
    for name, axis in misfit["axes"].items():
        row = [name, axis["part"], _number(axis["excess_db"], 1), _short(axis["p_value"], 2)]
        table.add_row(*row, style="yellow" if axis["fails"] else None)
    _show(console, "What is left, against noise", table)


def _rows_with_truth(report: Report) -> list[tuple[str, str, str]]:
    """Return the rows that need the truth."""
    summary, bits = report["summary"], report["constellation_points"].bit_length() - 1
    n_data = summary["n_data"]
    rows = [
        (
            "channel NMSE",
            "exact" if summary["channel_exact"] else _unit(summary["channel_nmse_db"], 2, "dB"),
            f"bound {_unit(summary['channel_bound_db'], 2, 'dB')}",
        )
    ]
    if summary["hits"] is not None:
        found = f"{summary['hits']} found, {summary['misses']} missed, {summary['false_alarms']} false"
        total = summary["hits"] + summary["misses"]
        rows.append(("scatterers", found, f"of {total}, within {MATCH_DISTANCE_M:g} m"))
        bound = f"bound {_unit(summary['position_bound_m'], 3, 'm')}"
        rows.append(("RMSE of those found", _unit(summary["position_rmse_m"], 3, "m"), bound))
    rows.append(("symbol error rate", _rate(summary["symbol_error_rate"], n_data), ""))
    rows.append(("bit error rate", _rate(summary["bit_error_rate"], n_data * bits), ""))
    return rows


def _channel_figures(entry: SweepSummary) -> list[str]:
    """Return the errors of channel and data, the channel's bound, and the time."""
    rates = [
        _short(rate if entry.symbols else None, 2) for rate in (entry.symbol_error_rate, entry.bit_error_rate)
    ]
    return [_decibels(entry.nmse_db), _decibels(entry.bound_nmse_db), *rates, _short(entry.seconds, 3)]


@dataclass(frozen=True)
class _Marks:
    """Symbols for who sees a scatterer; plain letters where the terminal has no others."""

    hit: str
    missed: str
    false: str
    unseen: str

    @classmethod
    def of(cls, console: Console) -> _Marks:
        return cls(*("●○×·" if "utf" in console.encoding.lower() else "xo!."))

    def row(self, seen: Iterable[bool], truth: Iterable[bool] | None) -> str:
        """Return one symbol per user."""
        if truth is None:
            return "".join(self.hit if s else self.unseen for s in seen)
        symbols = {(True, True): self.hit, (False, True): self.missed, (True, False): self.false}
        return "".join(symbols.get((bool(s), bool(t)), self.unseen) for s, t in zip(seen, truth))

    def legend(self, known: bool) -> str:
        """Return what the symbols mean."""
        text = f"seen by user 1, 2, ...: {self.hit} seen  {self.unseen} not seen"
        return text + (f"  {self.missed} missed  {self.false} false" if known else "")


def _table(*columns: str) -> Table:
    """Return a light table: numbers aligned to the right, words to the left."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for name in columns:
        left = name in _WORDS
        header = f"{name}\nm" if name in ("x", "y", "z") else name
        wraps = name == "trials" or (left and name != "estimator")
        table.add_column(header, justify="left" if left else "right", header_style="dim", no_wrap=not wraps)
    return table


def _show(console: Console, title: str, table: Table) -> None:
    console.print(Text(f"\n{title}", style="bold"))
    console.print(table)


def _note(console: Console, text: str) -> None:
    console.print(Text(text, style="dim"))


def _line(console: Console, text: str) -> None:
    console.print(Text(text))


def _number(value: float | None, digits: int, scale: float = 1.0) -> str:
    if value is None:
        return "-"
    scaled = value * scale
    return f"{scaled:.{digits}f}" if abs(scaled) < 1e4 else f"{scaled:.1e}"


def _rms(values: list[float]) -> float:
    return math.sqrt(sum(value**2 for value in values) / max(len(values), 1))


def _short(value: float | None, digits: int = 4) -> str:
    return "-" if value is None or math.isnan(value) else f"{value:.{digits}g}"


def _decibels(value: float) -> str:
    if math.isnan(value):
        return "-"
    return "exact" if value == -math.inf else f"{value:.2f}"


def _value(value: Any) -> str:
    """Return the text of a varied field's value."""
    if isinstance(value, float):
        return f"{value:g}"
    return value if isinstance(value, str) else json.dumps(value)


def _unit(value: float | None, digits: int, unit: str) -> str:
    return "-" if value is None else f"{_number(value, digits)} {unit}"


def _rate(value: float | None, total: int) -> str:
    """Return a rate with its count, so that a zero says out of how many."""
    return "-" if value is None else f"{value:.2g} ({round(value * total)} of {total})"


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share if share > 1e-9 else 0:.3g} %"


def _point(position: list[float | None]) -> list[str]:
    return [_number(coordinate, 2) for coordinate in position]


def _count(n: int, what: str) -> str:
    return f"{n} {what}{'' if n == 1 else 's'}"
