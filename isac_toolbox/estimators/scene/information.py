"""What the samples of a block say of its scene, priors left out (docs/theory.md, section 11.2)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from isac_toolbox.channel.array import SPEED_OF_LIGHT_M_S
from isac_toolbox.channel.motion import Motion
from isac_toolbox.estimators.result import SceneInformation
from isac_toolbox.estimators.scene.fit import Fit, scene_covariance
from isac_toolbox.estimators.scene.scene_estimate import SceneEstimate
from isac_toolbox.estimators.symbols.phases import PhasePrior

__all__ = ["blurred", "information_of", "marginal"]

RealArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

# Guard: eigenvalue of a scaled matrix below which a direction counts as one that nothing is said of.
_FLATTEST = 1e-9


def information_of(
    fit: Fit, scene: SceneEstimate, shown: IntArray, motion: Motion | None
) -> SceneInformation | None:
    """Return what the samples say of the scatterers, users, clocks and motion of a result.

    Paths without a place and points that are not shown are integrated out under their priors. What a result
    adds to the errors of a scatterer or a clock, for a body's extent or an ambiguity, blurs what is said of
    it; so do oscillators that walk the frequency offsets.

    Parameters
    ----------
    fit : Fit
        Of the paths that exist.
    scene : SceneEstimate
        What is reported of it.
    shown : ndarray of int
        Points of the fit that are scatterers, or belong to one.
    motion : Motion, optional
        Priors of a block that moves.

    Returns
    -------
    SceneInformation or None
        None where nothing can be located.
    """
    if not fit.problem.prior.has_places:
        return None
    rows = _nearest(fit.scene.points_m[shown], scene.scatterer_positions_m)
    told = shown[rows]
    kept, hidden = _columns(fit, told)
    matrix, vector = _likelihood(fit, kept, hidden)
    matrix, vector = marginal(matrix, vector, kept, hidden)
    n_points, n_users = len(told), len(fit.scene.users_m)
    covariance = scene_covariance(fit)
    for q, column in enumerate(np.arange(3 * n_points).reshape(-1, 3)):
        own = kept[column]
        beside = scene.scatterer_covariance_m2[q] - covariance[np.ix_(own, own)]
        matrix, vector = blurred(matrix, vector, column, beside)
    clocks = 3 * n_points + 3 * n_users + np.arange(n_users)
    stated = (SPEED_OF_LIGHT_M_S * scene.time_offset_std_s) ** 2
    matrix, vector = blurred(matrix, vector, clocks, np.diag(stated - np.diag(covariance)[kept[clocks]]))
    walks = None if motion is None else PhasePrior.of(motion)
    if walks is not None:
        matrix, vector = blurred(matrix, vector, clocks + n_users, np.diag(walks.slope_stds_hz**2))
    return SceneInformation(matrix, vector, n_points, n_users)


def _nearest(points_m: RealArray, scatterers_m: RealArray) -> IntArray:
    """Row of the point that stands for each scatterer: itself, or the one nearest to a body's centre."""
    apart = np.linalg.norm(scatterers_m[:, None] - points_m, axis=2)
    return np.argmin(apart, axis=1) if len(points_m) else np.zeros(0, np.int64)


def _columns(fit: Fit, told: IntArray) -> tuple[IntArray, IntArray]:
    """Entries of the scene's vector in the order of the information, and unknown ones beside them."""
    scene = fit.scene
    points, users, offsets, _ = scene.blocks()
    xyz = (3 * told[:, None] + np.arange(3)).ravel()
    parts = [points.start + xyz, np.arange(users.start, users.stop), np.arange(offsets.start, offsets.stop)]
    if scene.motion is not None:
        carriers, speeds, moving, _ = scene.motion.blocks(scene.n_parameters - scene.motion.size)
        parts += [np.arange(carriers.start, carriers.stop), np.arange(speeds.start, speeds.stop)]
        parts += [moving.start + xyz]
    kept = np.concatenate(parts).astype(np.int64)
    unknown = np.flatnonzero(~fit.problem.prior.known(scene))
    return kept, np.setdiff1d(unknown, kept)


def _likelihood(fit: Fit, kept: IntArray, hidden: IntArray) -> tuple[RealArray, RealArray]:
    """Matrix (P, P) and vector (P,) of the log likelihood, with the priors of the hidden entries."""
    half, slope = fit.normal_equations
    prior = fit.problem.prior
    precision, deviation = prior.precision(fit.scene), prior.deviation(fit.scene)
    precision[hidden] = 0.0
    matrix = 2 * half - np.diag(precision)
    free = np.union1d(kept, hidden)
    vector = matrix[:, free] @ fit.scene.vector()[free] - (2 * slope - precision * deviation)
    return matrix, vector


def marginal(
    matrix: RealArray, vector: RealArray, kept: IntArray, hidden: IntArray
) -> tuple[RealArray, RealArray]:
    """Return the information on some entries, others integrated out.

    Entries in neither list are known; what the vector says of the others must hold where they are.
    """
    inner, across = matrix[np.ix_(hidden, hidden)], matrix[np.ix_(kept, hidden)]
    scale = 1 / np.sqrt(np.maximum(np.diag(inner), 1e-300))
    values, vectors = np.linalg.eigh(inner * scale[:, None] * scale)
    through = across * scale @ vectors / np.sqrt(np.maximum(values, _FLATTEST))
    pulled = (vectors.T @ (scale * vector[hidden])) / np.sqrt(np.maximum(values, _FLATTEST))
    return matrix[np.ix_(kept, kept)] - through @ through.T, vector[kept] - through @ pulled


def blurred(
    matrix: RealArray, vector: RealArray, index: IntArray, covariance: RealArray
) -> tuple[RealArray, RealArray]:
    """Return the information when it speaks of some entries with a further independent error.

    Parameters
    ----------
    matrix, vector : ndarray, shape (P, P) and (P,)
    index : ndarray of int, shape (B,)
    covariance : ndarray, shape (B, B)
        Of the error, of mean zero; only its positive part counts.

    Returns
    -------
    matrix, vector : ndarray, shape (P, P) and (P,)
    """
    values, vectors = np.linalg.eigh(covariance)
    used = values > 1e-12 * max(float(np.abs(values).max(initial=0.0)), 1e-300)
    if not used.any():
        return matrix, vector
    root = vectors[:, used] * np.sqrt(values[used])
    across = matrix[:, index] @ root
    inner = np.eye(root.shape[1]) + root.T @ across[index]
    through = np.linalg.solve(inner, across.T).T
    return matrix - through @ across.T, vector - through @ (root.T @ vector[index])
