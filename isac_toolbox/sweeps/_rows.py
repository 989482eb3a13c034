"""Rows of a sweep: what is measured in one trial of one estimator."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

__all__ = ["FAILED", "METRIC_NAMES", "N_BINS", "N_LEVELS", "OK", "Bins", "Levels", "Metrics", "SweepRow"]

OK, FAILED = "ok", "failed"

#: Bins of probability, and of levels of credible ellipsoids.
N_BINS, N_LEVELS = 10, 20

Bins = tuple[tuple[int, float, int], ...]
"""Per bin of probability: number of events, sum of their probabilities, number that came true."""

Levels = tuple[int, ...]
"""Number of errors whose smallest credible ellipsoid has a level in each of twenty equal bins of [0, 1]."""


@dataclass(frozen=True)
class Metrics:
    """Figures of one estimate beside its bound.

    Sums and counts rather than means, so that they pool over trials without loss. NaN where a figure does
    not exist.

    Attributes
    ----------
    nmse, bound_nmse : float
        Channel error and its bound, linear.
    hits, misses, false_alarms : int
        Scatterers found, not found, and points reported that are none (within 2 m).
    squared_error_m2, squared_bound_m2 : float
        Sums over the hits.
    ospa_m : float
    observable, observable_hits : int
        True scatterers whose position bound is below 0.7 m, and those of them that were found.
    symbol_errors, symbols, bit_errors, bits : int
        Data positions only.
    user_rmse_m, user_bound_m, clock_rmse_s, clock_bound_s : float
        Root mean squares over the users.
    n_iter : int
    converged : bool
    outcome : str
        The result's status.
    point_bins, bit_bins : Bins
        Ten equal bins of the probability that a candidate is a scatterer, and that a bit is one.
    scatterer_level_bins, user_level_bins : Levels
        Level of the smallest credible ellipsoid that holds the true position; evenly spread if the stated
        covariances are right. Points without a covariance are left out.
    """

    nmse: float
    bound_nmse: float
    hits: int
    misses: int
    false_alarms: int
    squared_error_m2: float
    squared_bound_m2: float
    ospa_m: float
    observable: int
    observable_hits: int
    symbol_errors: int
    symbols: int
    bit_errors: int
    bits: int
    user_rmse_m: float
    user_bound_m: float
    clock_rmse_s: float
    clock_bound_s: float
    n_iter: int
    converged: bool
    outcome: str
    point_bins: Bins
    bit_bins: Bins
    scatterer_level_bins: Levels
    user_level_bins: Levels

    @property
    def nmse_db(self) -> float:
        """Channel error in dB."""
        return to_db(self.nmse)

    @property
    def bound_nmse_db(self) -> float:
        """Channel bound in dB."""
        return to_db(self.bound_nmse)


METRIC_NAMES = tuple(f.name for f in fields(Metrics))


@dataclass(frozen=True)
class SweepRow:
    """One estimator in one trial of one point.

    Attributes
    ----------
    point : mapping
        Values of the varied fields.
    trial : int
    estimator : str
        Name in the sweep.
    status : {"ok", "failed"}
    error : str
        Traceback of a failure.
    seconds : float
        Of the estimate alone, on one thread, without compiling kernels or reading them from the cache.
    cold : bool
        First use of the estimator in its process, which is slower even so.
    metrics : Metrics or None
        None if failed.
    """

    point: Mapping[str, Any]
    trial: int
    estimator: str
    status: str
    error: str
    seconds: float
    cold: bool
    metrics: Metrics | None

    @property
    def failed(self) -> bool:
        """Whether the trial failed."""
        return self.metrics is None


def to_db(value: float) -> float:
    """Return a power ratio in dB; minus infinity for zero."""
    return float(10 * np.log10(value)) if value > 0 else (-np.inf if value == 0 else np.nan)
