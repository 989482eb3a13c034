"""Figures of merit: channel error, localisation, symbol and bit errors, calibration."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import linear_sum_assignment

from isac_toolbox._validation import (
    as_array,
    as_indices,
    check_finite,
    check_has,
    check_integer,
    check_positive,
    check_shape,
    without_mask,
)
from isac_toolbox.channel.modulation import bit_labels

if TYPE_CHECKING:
    from isac_toolbox.estimators.result import EstimationResult
    from isac_toolbox.scenario import Simulation

__all__ = [
    "Localisation",
    "auroc",
    "bit_error_rate",
    "channel_nmse_db",
    "expected_calibration_error",
    "localisation",
    "symbol_error_rate",
]


def channel_nmse_db(estimate: ArrayLike, truth: ArrayLike) -> float:
    """Return the normalised mean squared error ``sum |h_hat - h|^2 / sum |h|^2`` over all users, in dB.

    Parameters
    ----------
    estimate, truth : array_like of complex, shape (K, N, M) or (K, N, M, T)
        At the reference time, or over symbols as ``channel_at`` of results and truths gives them.

    Returns
    -------
    float
        Minus infinity for a perfect estimate.

    Raises
    ------
    ValueError
        If the shapes differ, the truth is zero, or values are not finite.

    Examples
    --------
    >>> import numpy as np
    >>> from isac_toolbox import metrics
    >>> h = np.ones((1, 2, 2), complex)
    >>> round(metrics.channel_nmse_db(0.9 * h, h), 3)
    -20.0
    """
    h_hat, h = as_array("estimate", estimate, complex), as_array("truth", truth, complex)
    if h_hat.shape != h.shape:
        raise ValueError(f"estimate must have the shape of truth {h.shape}, got {h_hat.shape}")
    check_finite("estimate", h_hat)
    check_finite("truth", h)
    energy = float(np.sum(np.abs(h) ** 2))
    if energy == 0:
        raise ValueError("truth must not be all zero")
    error = float(np.sum(np.abs(h_hat - h) ** 2))
    return float(10 * np.log10(error / energy)) if error > 0 else -np.inf


@dataclass(frozen=True, eq=False)
class Localisation:
    """Estimated points matched to true ones.

    Attributes
    ----------
    hits, misses, false_alarms : int
        True points found, true points not found, estimated points without a true one.
    rmse_m : float
        Over the hits; NaN if there is none.
    distances_m : ndarray, shape (hits,)
    estimate_index, truth_index : ndarray of int, shape (hits,)
    ospa_m : float
        Optimal sub-pattern assignment distance of order 2 with cut-off ``max_distance_m``.
    """

    hits: int
    misses: int
    false_alarms: int
    rmse_m: float
    distances_m: NDArray[np.float64]
    estimate_index: NDArray[np.int64]
    truth_index: NDArray[np.int64]
    ospa_m: float


def localisation(estimate_m: ArrayLike, truth_m: ArrayLike, max_distance_m: float = 2.0) -> Localisation:
    """Match estimated to true points, one to one, within ``max_distance_m``.

    The assignment has the most matches, and among those the smallest sum of squared distances.

    Parameters
    ----------
    estimate_m, truth_m : array_like, shape (S_hat, 3) and (S, 3)
    max_distance_m : float

    Returns
    -------
    Localisation

    Raises
    ------
    ValueError
        For wrong shapes, values that are not finite, or a distance that is not positive.

    Examples
    --------
    >>> from isac_toolbox import metrics
    >>> truth = [[30, 0, 5], [60, 10, 2], [50, -20, 8]]
    >>> found = metrics.localisation([[30.3, 0, 5.4], [60, 10, 9]], truth)
    >>> found.hits, found.misses, found.false_alarms, round(found.rmse_m, 3)
    (1, 2, 1, 0.5)
    """
    check_positive("max_distance_m", max_distance_m)
    estimate, truth = as_array("estimate_m", estimate_m, float), as_array("truth_m", truth_m, float)
    for name, points in (("estimate_m", estimate), ("truth_m", truth)):
        if points.size and (points.ndim != 2 or points.shape[1] != 3):
            raise ValueError(f"{name} must have shape (points, 3), got {points.shape}")
        check_finite(name, points)
    estimate, truth = estimate.reshape(-1, 3), truth.reshape(-1, 3)
    distance = np.linalg.norm(estimate[:, None] - truth[None], axis=2)
    allowed = distance <= max_distance_m
    forbidden = 1e6 * max_distance_m**2
    row, column = linear_sum_assignment(np.where(allowed, distance**2, forbidden))
    matched = allowed[row, column]
    row, column = row[matched], column[matched]
    errors = distance[row, column]
    larger = max(len(estimate), len(truth))
    squared = np.sum(errors**2) + max_distance_m**2 * (larger - errors.size)
    return Localisation(
        hits=errors.size,
        misses=len(truth) - errors.size,
        false_alarms=len(estimate) - errors.size,
        rmse_m=float(np.sqrt(np.mean(errors**2))) if errors.size else float("nan"),
        distances_m=errors,
        estimate_index=row,
        truth_index=column,
        ospa_m=float(np.sqrt(squared / larger)) if larger else 0.0,
    )


def symbol_error_rate(result: EstimationResult, simulation: Simulation) -> float:
    """Return the share of wrong data symbols; NaN if the block carries none.

    Parameters
    ----------
    result : EstimationResult
    simulation : Simulation
        The simulation that made the observation.

    Returns
    -------
    float

    Raises
    ------
    TypeError, ValueError
        If result and simulation are something else, or of different blocks.
    """
    decided, sent = data_decisions(result, simulation)
    return float(np.mean(decided != sent)) if sent.size else float("nan")


def bit_error_rate(result: EstimationResult, simulation: Simulation) -> float:
    """Return the share of wrong bits of the data symbols; NaN if the block carries none.

    Parameters
    ----------
    result : EstimationResult
    simulation : Simulation
        The simulation that made the observation.

    Returns
    -------
    float

    Raises
    ------
    TypeError, ValueError
        If result and simulation are something else, or of different blocks.
    """
    decided, sent = data_decisions(result, simulation)
    bits = bit_labels(simulation.observation.constellation.size)
    return float(np.mean(bits[decided] != bits[sent])) if sent.size else float("nan")


def data_decisions(
    result: EstimationResult, simulation: Simulation
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return decided and sent constellation indices at the data positions.

    Raises
    ------
    TypeError
        If the arguments are no result and no simulation.
    ValueError
        If the decisions have another shape than the block, or are no indices of its constellation.
    """
    check_has("result", result, "an EstimationResult", ("symbol_decision",))
    check_has("simulation", simulation, "a Simulation", ("observation", "truth"))
    sent = simulation.truth.symbol_indices
    decided = as_indices("result.symbol_decision", result.symbol_decision)
    check_shape("result.symbol_decision", decided, sent.shape, "(K, N, T)")
    data = sent >= 0
    size = simulation.observation.constellation.size
    if np.any((decided[data] < 0) | (decided[data] >= size)):
        raise ValueError(
            f"result.symbol_decision must index the constellation (0..{size - 1}) at data, got "
            f"{decided[data].min()} to {decided[data].max()}"
        )
    return decided[data], sent[data]


def expected_calibration_error(probability: ArrayLike, outcome: ArrayLike, n_bins: int = 10) -> float:
    """Return the mean distance of stated probabilities from the share of events, over equal bins.

    Parameters
    ----------
    probability : array_like, shape (n,)
        Stated probabilities in [0, 1].
    outcome : array_like of bool, shape (n,)
        Whether the event happened.
    n_bins : int

    Returns
    -------
    float
        ``sum over bins of share of the bin |mean probability - share of events|``.

    Raises
    ------
    ValueError
        For different lengths, nothing at all, or probabilities outside [0, 1].

    Examples
    --------
    >>> from isac_toolbox import metrics
    >>> stated, happened = [0.9, 0.9, 0.9, 0.9, 0.1], [True, True, True, False, False]
    >>> round(metrics.expected_calibration_error(stated, happened), 3)
    0.14
    """
    p, event = _scores_and_events("probability", probability, outcome)
    if np.any((p < 0) | (p > 1)):
        raise ValueError(f"probability must lie in [0, 1], got {p.min()} to {p.max()}")
    index = np.minimum((p * check_integer("n_bins", n_bins, 1)).astype(int), n_bins - 1)
    gap = np.bincount(index, p - event, minlength=n_bins)
    return float(np.sum(np.abs(gap)) / p.size)


def auroc(score: ArrayLike, outcome: ArrayLike) -> float:
    """Return the area under the ROC curve: the probability that an event scores above a non-event.

    Parameters
    ----------
    score : array_like, shape (n,)
    outcome : array_like of bool, shape (n,)

    Returns
    -------
    float
        1 where every event scores above every non-event, 0.5 by chance.

    Raises
    ------
    ValueError
        For different lengths, or where there is no event or no non-event.

    Examples
    --------
    >>> from isac_toolbox import metrics
    >>> metrics.auroc([0.1, 0.4, 0.35, 0.8], [False, False, True, True])
    0.75
    """
    s, event = _scores_and_events("score", score, outcome)
    n_events = int(np.count_nonzero(event))
    if n_events in (0, s.size):
        raise ValueError(f"outcome must hold both events and non-events, got {n_events} of {s.size}")
    from scipy.stats import rankdata  # the whole of scipy.stats takes a while to load

    ranks = rankdata(s)
    above = ranks[event].sum() - n_events * (n_events + 1) / 2
    return float(above / (n_events * (s.size - n_events)))


def _scores_and_events(
    name: str, score: ArrayLike, outcome: ArrayLike
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    scores, events = as_array(name, score, float), np.asarray(without_mask("outcome", outcome))
    check_shape(name, scores, (None,), "(n,)")
    check_finite(name, scores)
    if not scores.size:
        raise ValueError(f"{name} must not be empty")
    if events.shape != scores.shape:
        raise ValueError(f"outcome must have the shape of {name} {scores.shape}, got {events.shape}")
    if events.dtype.kind not in "buif" or not np.all((events == 0) | (events == 1)):
        raise ValueError(f"outcome must hold True and False (or 1 and 0) alone, got {outcome!r}")
    return scores, events.astype(bool)
