"""Joint Levenberg-Marquardt refinement of positions, clocks and gains, and its gradient counterpart.

All on Gram matrices and correlations (docs/theory.md, section 6).
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from scipy.linalg.lapack import dpotrf, dpotrs

from isac_toolbox.channel.atoms.scene import Scene
from isac_toolbox.estimators.scene.fit import Fit, evaluate

__all__ = ["gradient_steps", "refine"]

RealArray = NDArray[np.float64]

# Cost cap: damping rises tenfold a try, six orders of magnitude in all.
_MAX_DAMPING_TRIES = 6
# Tuned: largest step in resolution cells, inside the main lobe, beyond which the model is not quadratic.
_STEP_CAP_CELLS = 0.7
# Cost cap: share of the tolerance below which a promised fall of the objective is not worth a step.
_WORTHWHILE = 0.01

# Cost cap: so much more than the last step a later one is hoped to bring, of a fit that has a goal.
_HOPE = 10.0


def refine(fit: Fit, n_steps: int, tol: float = 1e-6, goal: float = np.inf) -> Fit:
    """Take Levenberg-Marquardt steps on all unknowns together; the objective never rises.

    Parameters
    ----------
    fit : Fit
        Start.
    n_steps : int
        Largest number of accepted steps.
    tol : float
        Stop when a step lowers the objective by less than this (in nats).
    goal : float
        Stop when the steps left, each worth ten times the last, would not reach this objective.
    """
    damping, unknown = 1e-6, ~fit.problem.prior.known(fit.scene)
    if not unknown.any():
        return fit
    for steps_left in reversed(range(n_steps)):
        hessian, gradient = fit.normal_equations
        if not unknown.all():
            hessian, gradient = hessian[np.ix_(unknown, unknown)], gradient[unknown]
        trial, damping = _damped_step(fit, hessian, gradient, unknown, damping, _WORTHWHILE * tol)
        if trial is None:
            break
        gain, fit = fit.objective - trial.objective, trial
        if gain < tol or fit.objective - _HOPE * steps_left * gain > goal:
            break
    return fit


def _damped_step(
    fit: Fit,
    hessian: RealArray,
    gradient: RealArray,
    unknown: NDArray[np.bool_],
    damping: float,
    least: float,
) -> tuple[Fit | None, float]:
    """First step of rising damping that lowers the objective, and the next damping.

    None where no step does, or where its quadratic model promises a fall of less than ``least``.
    """
    scale = 1 / np.sqrt(np.maximum(np.diag(hessian), 1e-12))
    scaled, scaled_gradient = hessian * scale[:, None] * scale, scale * gradient
    diagonal = np.diag(scaled).copy()
    for _ in range(_MAX_DAMPING_TRIES):
        scaled.flat[:: len(scaled) + 1] = diagonal + damping
        factor, failed = dpotrf(scaled, lower=True, clean=False)
        if failed:
            damping *= 10
            continue
        solution = dpotrs(factor, scaled_gradient, lower=True)[0]
        if scaled_gradient @ solution < least:
            break
        step = np.zeros(unknown.size)
        step[unknown] = -scale * solution
        trial = evaluate(fit.problem, _moved(fit, step), fit.paths, fit.posterior.prior_precision)
        if trial.objective < fit.objective:
            return trial, max(damping / 10, 1e-9)
        damping = damping * 10
    return None, damping


def _moved(fit: Fit, step: RealArray) -> Scene:
    """The scene after a step, capped to a fraction of the resolution cell; points stay in the region."""
    problem, scene = fit.problem, fit.scene
    cap = _STEP_CAP_CELLS * problem.length_cell_m
    points, users, offsets, paths = (step[block] for block in scene.blocks())
    moved = Scene(
        _moved_points(scene.points_m, points.reshape(-1, 3), cap, problem.region_m),
        scene.users_m + users.reshape(-1, 3),
        scene.offsets_m + offsets,
        _moved_paths(scene.unlocated_m, paths.reshape(-1, 3), _STEP_CAP_CELLS * problem.path_cells),
    )
    motion = scene.motion
    if scene.pointing is not None:
        moved = replace(moved, pointing=scene.pointing + step[scene.pointing_block])
    if motion is None:
        return moved
    return replace(moved, motion=motion.with_vector(motion.vector() + step[-motion.size :]))


def _moved_points(points_m: RealArray, moves_m: RealArray, cap_m: float, region_m: RealArray) -> RealArray:
    """Points (S, 3) after moves of at most ``cap_m`` each, inside the region (2, 3)."""
    if not len(points_m):
        return points_m
    length = np.sqrt(np.einsum("sx,sx->s", moves_m, moves_m))
    share = np.minimum(1.0, cap_m / np.maximum(length, 1e-300))
    moved = points_m + share[:, None] * moves_m
    return np.asarray(np.minimum(np.maximum(moved, region_m[0]), region_m[1]))


def _moved_paths(unlocated_m: RealArray, moves: RealArray, caps: RealArray) -> RealArray:
    """Unlocated paths (F, 3) after moves of at most ``caps`` (3,), all three parameters scaled alike."""
    if not len(unlocated_m):
        return unlocated_m
    excess = np.maximum(1.0, np.max(np.abs(moves) / caps, axis=1))
    return np.asarray(unlocated_m + moves / excess[:, None])


def gradient_steps(fit: Fit, n_steps: int) -> Fit:
    """Take block-wise gradient steps: points, users, offsets and unlocated paths in turn.

    Each block moves along its own gradient by its Cauchy step, halved until the objective falls; the blocks
    are not coupled, the gains are renewed at every trial. Kept for comparison (docs/theory.md, section 6).
    """
    known = fit.problem.prior.known(fit.scene)
    for _ in range(n_steps):
        motion = fit.scene.motion
        blocks = [*fit.scene.blocks()]
        if motion is not None:
            blocks += motion.blocks(fit.scene.n_parameters - motion.size)
        for block in blocks:
            fit = _gradient_block_step(fit, block, known)
    return fit


def _gradient_block_step(fit: Fit, block: slice, known: NDArray[np.bool_]) -> Fit:
    hessian, gradient = fit.normal_equations
    direction = np.zeros_like(gradient)
    direction[block] = -np.where(known[block], 0.0, gradient[block])
    curvature = float(direction @ hessian @ direction)
    squared = float(direction @ direction)
    if squared == 0 or curvature <= 0:
        return fit
    length = squared / curvature
    for _ in range(_MAX_DAMPING_TRIES):
        scene = _moved(fit, length * direction)
        trial = evaluate(fit.problem, scene, fit.paths, fit.posterior.prior_precision)
        if trial.objective < fit.objective:
            return trial
        length /= 2
    return fit
