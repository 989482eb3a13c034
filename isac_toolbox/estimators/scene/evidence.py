"""Evidence of a scene, by which its structure is chosen (docs/theory.md, section 6.5)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from isac_toolbox.estimators.scene.fit import Fit

__all__ = ["log_evidence", "occam_factor"]

RealArray = NDArray[np.float64]


def log_evidence(fit: Fit) -> float:
    """Return the Laplace evidence of a scene: gains integrated out, positions by the Gauss-Newton matrix.

    ``-J + ln det Sigma + sum ln rho - 1/2 ln det((H + U) / 2 pi) - S ln(volume) - F ln(path volume)``; terms
    that are the same for every scene of these users and data are left out (docs/theory.md, section 6). ``U``
    holds the inverse variances of the uniform priors, so that no direction counts as wider than its prior.
    """
    return occam_factor(fit) - fit.objective


def occam_factor(fit: Fit) -> float:
    """Return the log evidence without the objective."""
    hessian, _ = fit.normal_equations
    extents = _uniform_extents(fit)
    unknown = ~fit.problem.prior.known(fit.scene)
    bounded = fit.problem.prior.precision(fit.scene) > 0  # these have their prior in the Hessian
    inner = 2 * hessian + np.diag(np.where(bounded, 0.0, 12 / extents**2))
    inner = inner[np.ix_(unknown, unknown)]
    diagonal = np.maximum(np.diag(inner), 1e-12)
    scaled = inner / np.sqrt(np.multiply.outer(diagonal, diagonal))
    _, log_det = np.linalg.slogdet(scaled + 1e-12 * np.eye(len(scaled)))
    curvature = log_det + float(np.sum(np.log(diagonal / (2 * np.pi))))
    posterior = fit.posterior
    gains = posterior.log_det + float(np.sum(np.log(posterior.prior_precision)))
    occam = float(np.sum(np.log(extents[unknown & np.isfinite(extents)])))
    return gains - 0.5 * curvature - occam


def _uniform_extents(fit: Fit) -> RealArray:
    """Width of the uniform prior of every entry of the scene's vector, infinite for users and offsets.

    Points: the region. Unlocated paths: twice the region's diagonal in length, or without a region one
    unambiguous interval, and the unit disc's equivalent square in direction cosines.
    """
    scene, region_m = fit.scene, fit.problem.region_m
    region = region_m[1] - region_m[0]
    extents = np.full(scene.n_parameters, np.inf)
    points, _, _, unlocated = scene.blocks()
    extents[points] = np.tile(region, len(scene.points_m))
    side = np.sqrt(np.pi)
    extents[unlocated] = np.tile([fit.problem.longest_length_m, side, side], len(scene.unlocated_m))
    return extents
