"""Which reported scatterer belongs to which track, and which tracks exist (docs/theory.md, section 11.3)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment
from scipy.special import chdtri

__all__ = ["associated", "existence_if_found", "existence_if_missed", "log_density"]

RealArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

# Guard: probability of a report of a track that is so far from it that it counts as another's.
_OUTSIDE = 1e-4
# Guard: variance, in squares of metres and metres a second, of what is known on both sides.
_KNOWN = 1e-12


def associated(
    tracks: RealArray, track_covariances: RealArray, reports: RealArray, report_covariances: RealArray
) -> IntArray:
    """Return the report of every track, -1 for none: as many as possible, of the least total distance.

    Parameters
    ----------
    tracks, track_covariances : ndarray, shape (B, D) and (B, D, D)
        Predicted.
    reports, report_covariances : ndarray, shape (S, D) and (S, D, D)

    Returns
    -------
    ndarray of int, shape (B,)
    """
    found = np.full(len(tracks), -1)
    if not (len(tracks) and len(reports)):
        return found
    beside = reports[None] - tracks[:, None]
    spread = track_covariances[:, None] + report_covariances[None] + _KNOWN * np.eye(tracks.shape[1])
    distance = np.einsum("bsi,bsi->bs", beside, np.linalg.solve(spread, beside[..., None])[..., 0])
    gate = float(chdtri(tracks.shape[1], _OUTSIDE))
    cost = distance + np.linalg.slogdet(spread)[1]
    inside = distance < gate
    allowed = np.where(inside, cost, 1e6 + np.abs(cost).max())
    for track, report in zip(*linear_sum_assignment(allowed), strict=True):
        if inside[track, report]:
            found[track] = report
    return found


def log_density(beside: RealArray, covariance: RealArray) -> float:
    """Return the log density of a Gaussian of mean zero at a point (D,)."""
    _, log_det = np.linalg.slogdet(2 * np.pi * covariance)
    return -0.5 * float(log_det + beside @ np.linalg.solve(covariance, beside))


def existence_if_found(existence: float, detection: float, log_likelihood: float, clutter: float) -> float:
    """Return the probability that a track exists of which a report was found.

    Parameters
    ----------
    existence, detection : float
        Probabilities that it exists, and is reported if so.
    log_likelihood : float
        Log density of the report, if it is the track's, per cubic metre.
    clutter : float
        Expected number of false reports per cubic metre.
    """
    if existence >= 1:
        return 1.0
    log_odds = np.log(max(existence * detection, 1e-300) / (1 - existence)) + log_likelihood - np.log(clutter)
    return float(1 / (1 + np.exp(-np.clip(log_odds, -700.0, 700.0))))


def existence_if_missed(existence: float, detection: float) -> float:
    """Return the probability that a track exists of which no report was found."""
    return existence * (1 - detection) / (1 - existence * detection)
