"""Which scatterers move: a spike at rest and a slab of velocities (docs/theory.md, section 6.8)."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

from isac_toolbox.estimators.scene.fit import Fit, evaluate
from isac_toolbox.estimators.scene.refine import refine

__all__ = ["Movers", "movers_of", "with_movers"]

RealArray = NDArray[np.float64]

# Prior: a scatterer moves, and counts of those that the share is learned with.
_SHARE, _COUNTS = 0.1, 10.0


@dataclass(frozen=True, eq=False)
class Movers:
    """Which points move, and how those do that move.

    Attributes
    ----------
    probability : ndarray, shape (S,)
    velocities_m_s : ndarray, shape (S, 3)
    covariances_m2_s2 : ndarray, shape (S, 3, 3)
    """

    probability: RealArray
    velocities_m_s: RealArray
    covariances_m2_s2: RealArray

    def marginal(self) -> tuple[RealArray, RealArray]:
        """Return velocities (S, 3), zero of those at rest, and covariances (S, 3, 3)."""
        moves = self.probability > 0.5
        outer = self.velocities_m_s[:, :, None] * self.velocities_m_s[:, None, :]
        doubt = self.probability[:, None, None] * (self.covariances_m2_s2 + outer)
        return (
            np.where(moves[:, None], self.velocities_m_s, 0.0),
            np.where(moves[:, None, None], self.covariances_m2_s2, doubt),
        )


def movers_of(fit: Fit) -> Movers:
    """Return the probability that each point moves, and its velocity if it does.

    By the density of its velocity at rest, posterior over prior (Savage and Dickey), the other points as they
    are, moving or not. The share of movers is learned.
    """
    motion, prior = fit.scene.motion, fit.problem.prior.motion
    n_points = len(fit.scene.points_m)
    if motion is None or prior is None or not prior.scatterer_velocity_std_m_s > 0 or not n_points:
        return Movers(np.zeros(n_points), np.zeros((n_points, 3)), np.zeros((n_points, 3, 3)))
    log_odds, velocity, covariance = _evidence(fit, prior.scatterer_velocity_std_m_s)
    share = _SHARE
    for _ in range(20):
        probability = expit(log_odds + np.log(share / (1 - share)))
        share = (_SHARE * _COUNTS + float(probability.sum())) / (_COUNTS + n_points)
    return Movers(probability, velocity, covariance)


def _evidence(fit: Fit, std_m_s: float) -> tuple[RealArray, RealArray, RealArray]:
    """Log Bayes factors of moving against rest (S,), velocities (S, 3) and covariances (S, 3, 3)."""
    motion = fit.scene.motion
    assert motion is not None
    hessian, gradient = fit.normal_equations
    information, slope = 2 * hessian, 2 * gradient
    first = motion.blocks(fit.scene.n_parameters - motion.size)[2].start
    unknown = ~fit.problem.prior.known(fit.scene)
    points = np.arange(len(motion.moving))
    log_odds, velocity = np.zeros(points.size), np.zeros((points.size, 3))
    covariances = np.zeros((points.size, 3, 3))
    for q in points:
        own = first + 3 * q + np.arange(3)
        rest = np.setdiff1d(np.flatnonzero(unknown), own)
        block = information[np.ix_(own, own)].copy()
        pull = slope[own].copy()
        if not motion.moving[q]:
            block += np.eye(3) / std_m_s**2
        across = information[np.ix_(own, rest)]
        inner = information[np.ix_(rest, rest)]
        scale = 1 / np.sqrt(np.maximum(np.diag(inner), 1e-300))
        scaled = inner * scale[:, None] * scale + 1e-12 * np.eye(rest.size)
        through = np.linalg.solve(scaled, (across * scale).T).T * scale
        block -= through @ across.T
        pull -= through @ slope[rest]
        covariance = np.linalg.inv(block + 1e-12 * np.trace(block) * np.eye(3))
        covariances[q] = covariance
        velocity[q] = motion.point_velocities_m_s[q] - covariance @ pull
        at_rest = velocity[q] @ np.linalg.solve(covariance, velocity[q])
        _, log_det = np.linalg.slogdet(covariance / std_m_s**2)
        log_odds[q] = 0.5 * (log_det + at_rest)
    return log_odds, velocity, covariances


def with_movers(fit: Fit) -> Fit:
    """Return the fit with the points free that more likely move than not, refined.

    One mover makes users and offsets wrong as long as it counts as resting, and others look like movers for
    it: the likeliest begins to move, and all that more likely rest do so, until no point changes.
    """
    for _ in range(2 * len(fit.scene.points_m)):
        motion = fit.scene.motion
        if motion is None:
            break
        movers = movers_of(fit)
        moving = motion.moving & (movers.probability > 0.5)
        start = np.where(motion.moving, 0.0, movers.probability)
        if start.max(initial=0.0) > 0.5:
            moving[np.argmax(start)] = True
        if np.array_equal(moving, motion.moving):
            break
        begins = moving & ~motion.moving
        velocities = np.where(begins[:, None], movers.velocities_m_s, motion.point_velocities_m_s)
        changed = replace(
            motion, moving=moving, point_velocities_m_s=np.where(moving[:, None], velocities, 0.0)
        )
        scene = replace(fit.scene, motion=changed)
        trial = evaluate(fit.problem, scene, fit.paths, fit.posterior.prior_precision)
        fit = refine(trial, n_steps=6, tol=1e-2)
    return fit
