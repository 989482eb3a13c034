"""What a sweep returns: rows, columns, pooled figures, exports."""

from __future__ import annotations

import csv
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from isac_toolbox.scenario import Scenario
from isac_toolbox.sweeps._rows import METRIC_NAMES, Bins, Metrics, SweepRow, to_db

__all__ = ["SweepResult", "SweepSummary"]

_DERIVED = ("nmse_db", "bound_nmse_db")


@dataclass(frozen=True)
class SweepSummary:
    """Figures of one estimator at one point, pooled over its trials.

    Attributes
    ----------
    point : mapping
    estimator : str
    trials, failed : int
        Trials that went well, and those that did not; all other figures are of the former.
    nmse_db, bound_nmse_db : float
        Means of the linear errors, in dB.
    nmse_std_error_db : float
        By how much one standard error of that mean raises it.
    hits, misses, false_alarms, observable, observable_hits : int
        Summed.
    rmse_m, rmse_bound_m : float
        Over all hits, and of the bound over the same points.
    symbol_error_rate, bit_error_rate : float
        Over all data symbols.
    symbol_errors, symbols : int
    user_rmse_m, user_bound_m, clock_rmse_s, clock_bound_s : float
    point_calibration_error, bit_calibration_error : float
        Expected calibration errors of the probabilities of candidates and bits.
    converged : float
        Share of the trials.
    seconds : float
        Median, without first uses in a process where there are others.
    """

    point: Mapping[str, Any]
    estimator: str
    trials: int
    failed: int
    nmse_db: float
    bound_nmse_db: float
    nmse_std_error_db: float
    hits: int
    misses: int
    false_alarms: int
    observable: int
    observable_hits: int
    rmse_m: float
    rmse_bound_m: float
    symbol_error_rate: float
    bit_error_rate: float
    symbol_errors: int
    symbols: int
    user_rmse_m: float
    user_bound_m: float
    clock_rmse_s: float
    clock_bound_s: float
    point_calibration_error: float
    bit_calibration_error: float
    converged: float
    seconds: float


@dataclass(frozen=True, eq=False, repr=False)
class SweepResult:
    """Rows of a sweep, in the order of points, trials and estimators.

    Attributes
    ----------
    scenario : Scenario
        Before anything was varied.
    fields : tuple of str
        The varied fields.
    seed : int
    version : str
        Of the package that ran it.
    rows : tuple of SweepRow
    """

    scenario: Scenario
    fields: tuple[str, ...]
    seed: int
    version: str
    rows: tuple[SweepRow, ...]

    def __repr__(self) -> str:
        names = ", ".join(dict.fromkeys(row.estimator for row in self.rows))
        points = len({json.dumps(row.point) for row in self.rows})
        counts = f"{points} points, {len(self.rows)} rows, {len(self.failures)} failed"
        return f"SweepResult({counts}, estimators: {names})"

    @property
    def failures(self) -> tuple[SweepRow, ...]:
        """Rows of failed trials; their ``error`` holds the traceback."""
        return tuple(row for row in self.rows if row.failed)

    @cached_property
    def columns(self) -> dict[str, NDArray[Any]]:
        """One array of shape (rows,) per varied field, figure and fact; NaN where a trial failed.

        A varied field that holds lists becomes an array of tuples; the bins of probabilities are left out.
        """
        names = ("trial", "estimator", "status", "seconds", "cold", "error")
        table = {name: _array([_hashable(row.point[name]) for row in self.rows]) for name in self.fields}
        table |= {name: _array([getattr(row, name) for row in self.rows]) for name in names[:-1]}
        for name in (*_DERIVED, *METRIC_NAMES):
            if not name.endswith("_bins"):
                table[name] = _array([_figure(row, name) for row in self.rows])
        table["error"] = _array([row.error for row in self.rows])
        return table

    def summary(self) -> list[SweepSummary]:
        """Return figures pooled over the trials, per point and estimator, in the order of the rows."""
        groups: dict[tuple[str, str], list[SweepRow]] = {}
        for row in self.rows:
            groups.setdefault((json.dumps(row.point), row.estimator), []).append(row)
        return [_pool(rows) for rows in groups.values()]

    def to_csv(self, path: str | Path) -> Path:
        """Write every row as a line and return the path.

        Raises
        ------
        OSError
            If the file cannot be written.
        """
        target = Path(path)
        with target.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(self.columns)
            values = [array.tolist() for array in self.columns.values()]
            writer.writerows(
                [json.dumps(v) if isinstance(v, tuple) else v for v in line] for line in zip(*values)
            )
        return target

    def to_pandas(self) -> Any:
        """Return the columns as a :class:`pandas.DataFrame`.

        Raises
        ------
        ImportError
            If pandas is not installed.
        """
        try:
            pandas = import_module("pandas")
        except ImportError:
            raise ImportError("to_pandas needs pandas: pip install pandas (to_csv works without)") from None
        return pandas.DataFrame(self.columns)


def _hashable(value: Any) -> Any:
    return tuple(map(_hashable, value)) if isinstance(value, list) else value


def _array(values: Sequence[Any]) -> NDArray[Any]:
    """Return numbers as numbers, words as words, tuples as objects."""
    if any(isinstance(value, tuple) or value is None for value in values):
        array = np.empty(len(values), dtype=object)
        array[:] = values
        return array
    return np.array(values)


def _figure(row: SweepRow, name: str) -> Any:
    if row.metrics is not None:
        return getattr(row.metrics, name)
    return "" if name == "outcome" else float("nan")


def _pool(rows: Sequence[SweepRow]) -> SweepSummary:
    """Pool the rows of one point and estimator."""
    good = [row.metrics for row in rows if row.metrics is not None]
    total: Counter[str] = Counter()  # missing keys are zero
    for metrics in good:
        total.update({name: getattr(metrics, name) for name in _SUMMED})
    nmse = np.array([m.nmse for m in good])
    warm = [row.seconds for row in rows if not row.failed and not row.cold]
    seconds = warm or [row.seconds for row in rows if not row.failed]
    wanted = {f.name for f in fields(SweepSummary)}
    counted: dict[str, Any] = {name: total[name] for name in _COUNTED if name in wanted}
    roots: dict[str, Any] = {
        name: float(np.sqrt(_mean(getattr(m, name) * getattr(m, name) for m in good)))  # ** may overflow
        for name in ("user_rmse_m", "user_bound_m", "clock_rmse_s", "clock_bound_s")
    }
    return SweepSummary(
        point=rows[0].point,
        estimator=rows[0].estimator,
        trials=len(good),
        failed=len(rows) - len(good),
        nmse_db=to_db(_mean(nmse)),
        bound_nmse_db=to_db(_mean(m.bound_nmse for m in good)),
        nmse_std_error_db=_std_error_db(nmse),
        rmse_m=_root_ratio(total["squared_error_m2"], total["hits"]),
        rmse_bound_m=_root_ratio(total["squared_bound_m2"], total["hits"]),
        symbol_error_rate=_ratio(total["symbol_errors"], total["symbols"]),
        bit_error_rate=_ratio(total["bit_errors"], total["bits"]),
        point_calibration_error=_calibration_error([m.point_bins for m in good]),
        bit_calibration_error=_calibration_error([m.bit_bins for m in good]),
        converged=_mean(m.converged for m in good),
        seconds=float(np.median(seconds)) if seconds else float("nan"),
        **counted,
        **roots,
    )


_COUNTED = tuple(f.name for f in fields(Metrics) if f.type == "int" and f.name != "n_iter")
_SUMMED = (*_COUNTED, "squared_error_m2", "squared_bound_m2")


def _mean(values: Iterable[float] | NDArray[np.float64]) -> float:
    array = np.fromiter(values, float)
    return float(array.mean()) if array.size else float("nan")


def _ratio(part: float, whole: float) -> float:
    return float(part / whole) if whole else float("nan")


def _root_ratio(part: float, whole: float) -> float:
    return float(np.sqrt(_ratio(part, whole)))


def _std_error_db(values: NDArray[np.float64]) -> float:
    """Return the standard error of a mean, on the scale of its decibels."""
    if values.size < 2 or not values.mean() > 0:
        return float("nan")
    return to_db(1 + float(values.std(ddof=1) / np.sqrt(values.size) / values.mean()))


def _calibration_error(bins: Sequence[Bins]) -> float:
    """Return the expected calibration error over bins added up; NaN without events."""
    if not bins:
        return float("nan")
    count, probability, happened = np.sum(np.asarray(bins, dtype=float), axis=0).T
    return _ratio(float(np.sum(np.abs(probability - happened))), float(count.sum()))
