"""Velocities and offsets of a scene from the Doppler shifts of its paths (docs/theory.md, section 7.8)."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from isac_toolbox.channel.atoms.kinematics import Kinematics
from isac_toolbox.channel.atoms.scene import Paths, Scene, path_parameters
from isac_toolbox.estimators.scene.fit import Fit
from isac_toolbox.estimators.scene.problem import Problem

__all__ = ["doppler_information", "kinematics_of", "with_first_movers"]

RealArray = NDArray[np.float64]

# Prior: log odds against a point that moves.
_MOVES_NATS = float(np.log(9.0))
# Tuned: rounds in which paths over scatterers that may move lose weight.
_ROUNDS = 5


def doppler_information(fit: Fit) -> RealArray:
    """Return the inverse variance of every path's Doppler shift, its gain unknown, the rest known, (L,)."""
    frames = fit.problem.statistics.frames
    assert frames is not None
    user = fit.paths.user
    energy = np.real(np.einsum("qnkk->qk", frames.symbol_gram)) * fit.problem.receiver.n_elements
    total = np.maximum(energy.sum(axis=0), 1e-300)
    mean = frames.times_s @ energy / total
    spread = np.sum((frames.times_s[:, None] - mean) ** 2 * energy, axis=0)
    strength = np.abs(fit.posterior.mean) ** 2
    return np.asarray(8 * np.pi**2 * fit.problem.noise_precision * strength * spread[user])


def kinematics_of(
    problem: Problem, scene: Scene, paths: Paths, doppler_hz: RealArray, information: RealArray
) -> Kinematics:
    """Return the motion of users and offsets that suits the Doppler shifts of located paths best.

    Points stand still; those that do not contradict the others and lose weight by Student's law where
    scatterers may move. Unlocated paths keep their shifts.

    Parameters
    ----------
    problem : Problem
    scene : Scene
        With a motion of its size.
    paths : Paths
    doppler_hz, information : ndarray, shape (L,)
        Of the paths: shifts and their inverse variances.
    """
    prior, motion = problem.prior.motion, scene.motion
    assert prior is not None and motion is not None
    placed = ~paths.is_unlocated
    stds = prior.stds(motion)
    unknown = np.flatnonzero(stds > 0)
    unknown = unknown[unknown < motion.offsets_hz.size + motion.user_velocities_m_s.size]
    motion = motion.with_vector(prior.means(motion))
    parameters = path_parameters(replace(scene, motion=motion), paths, problem.receiver)
    assert parameters.doppler_hz is not None
    columns = scene.n_parameters - motion.size + unknown
    slopes = parameters.jacobian[-1][np.ix_(placed, columns)]
    beside = (doppler_hz - parameters.doppler_hz)[placed]
    moved_hz = 2 * prior.hz_per_m_s * prior.scatterer_velocity_std_m_s
    weight = information[placed].copy()
    step = np.zeros(unknown.size)
    for _ in range(_ROUNDS if moved_hz > 0 else 1):
        weighted = slopes * weight[:, None]
        step = np.linalg.solve(slopes.T @ weighted + np.diag(stds[unknown] ** -2.0), weighted.T @ beside)
        left = (beside - slopes @ step) ** 2 * information[placed]
        weight = information[placed] * 2 / (1 + left)
    vector = motion.vector()
    vector[unknown] += step
    motion = motion.with_vector(vector)
    own = paths.is_unlocated
    further = motion.further_hz.copy()
    further[paths.unlocated[own]] = doppler_hz[own] - motion.offsets_hz[paths.user[own]]
    motion = replace(motion, further_hz=further)
    return with_first_movers(problem, replace(scene, motion=motion), paths, doppler_hz, information)


def with_first_movers(
    problem: Problem, scene: Scene, paths: Paths, doppler_hz: RealArray, information: RealArray
) -> Kinematics:
    """Return the motion of a scene with the resting points moving that Doppler shifts show to move.

    By the evidence of the shifts of a point's paths with a velocity of Gaussian prior against none, users and
    offsets as they are; the parameters are those of :func:`kinematics_of`.
    """
    prior, motion = problem.prior.motion, scene.motion
    assert prior is not None and motion is not None
    std = prior.scatterer_velocity_std_m_s
    if not std > 0:
        return motion
    parameters = path_parameters(scene, paths, problem.receiver)
    assert parameters.doppler_hz is not None
    first = motion.blocks(scene.n_parameters - motion.size)[2].start
    moving, velocities = motion.moving.copy(), motion.point_velocities_m_s.copy()
    for q in np.unique(paths.target[paths.is_point]):
        own = np.flatnonzero(paths.target == q)
        slopes = parameters.jacobian[-1][own, first + 3 * q : first + 3 * q + 3] * std
        beside = (doppler_hz - parameters.doppler_hz)[own] * np.sqrt(information[own])
        scaled = slopes * np.sqrt(information[own])[:, None]
        precision = np.eye(3) + scaled.T @ scaled
        pull = scaled.T @ beside
        found = np.linalg.solve(precision, pull)
        log_odds = 0.5 * (pull @ found - np.linalg.slogdet(precision)[1])
        if not moving[q] and log_odds > _MOVES_NATS:
            moving[q], velocities[q] = True, std * found
    return replace(motion, moving=moving, point_velocities_m_s=velocities)
