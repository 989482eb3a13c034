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
from isac_toolbox.estimators.scene.problem import Problem
from isac_toolbox.estimators.scene.still import StillFit, moved_paths, moved_points

__all__ = ["gradient_steps", "held_by_border", "refine"]

RealArray = NDArray[np.float64]

# Cost cap: damping rises tenfold a try, six orders of magnitude in all.
_MAX_DAMPING_TRIES = 6
# Tuned: largest step in resolution cells, inside the main lobe, beyond which the model is not quadratic.
_STEP_CAP_CELLS = 0.7
# Tuned: share of the promised fall below which a step has gone too far along its direction.
_FAIR = 0.5
# Tuned: promise (in nats, a step of three deviations) up to which the objective is a parabola along a step.
_NEAR = 4.5
# Cost cap: shortest share of a step that its parabola may ask for; where it asks for less, damping helps.
_SHORTEST = 0.1
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
    damping, unknown = 1e-6, _unknown(fit)
    if unknown is not None and not unknown.any():
        return fit
    current: Fit | StillFit = StillFit.of(fit) or fit
    for steps_left in reversed(range(n_steps)):
        trial, damping = _damped_step(current, unknown, damping, _WORTHWHILE * tol)
        if trial is None:
            break
        gain, current = current.objective - trial.objective, trial
        if gain < tol or current.objective - _HOPE * steps_left * gain > goal:
            break
    return current if isinstance(current, Fit) else current.fit()


def _unknown(fit: Fit) -> NDArray[np.bool_] | None:
    """Entries of the scene's vector that are unknown, None where all are."""
    unknown = ~fit.problem.prior.known(fit.scene)
    return None if unknown.all() else unknown


def _damped_step(
    fit: Fit | StillFit, unknown: NDArray[np.bool_] | None, damping: float, least: float
) -> tuple[Fit | StillFit | None, float]:
    """First step of rising damping that lowers the objective, and the next damping.

    None where no step does, or where its quadratic model promises a fall of less than ``least``. Near
    the optimum a step that keeps less than half of its promise is shortened.
    """
    hessian, gradient = fit.normal_equations
    free = _free(fit, gradient, unknown)
    if free is not None:
        hessian, gradient = hessian[np.ix_(free, free)], gradient[free]
    scale = 1 / np.sqrt(np.maximum(hessian.diagonal(), 1e-12))
    scaled = hessian * scale
    scaled *= scale[:, None]
    scaled_gradient = scale * gradient
    on_diagonal = scaled.ravel()[:: len(scaled) + 1]
    diagonal = on_diagonal.copy()
    for _ in range(_MAX_DAMPING_TRIES):
        on_diagonal[:] = diagonal + damping
        factor, failed = dpotrf(scaled, lower=True, clean=False)
        if failed:
            damping *= 10
            continue
        solution = dpotrs(factor, scaled_gradient, lower=True)[0]
        promised = float(scaled_gradient @ solution)
        if promised < least:
            break
        step = -scale * solution
        if free is not None:
            whole = np.zeros(free.size)
            whole[free] = step
            step = whole
        trial = _after(fit, step)
        if promised < _NEAR and fit.objective - trial.objective < _FAIR * promised:
            trial = _shortened(fit, step, trial, promised)
        if trial.objective < fit.objective:
            return trial, max(damping / 10, 1e-9)
        damping = damping * 10
    return None, damping


def _free(
    fit: Fit | StillFit, gradient: RealArray, unknown: NDArray[np.bool_] | None
) -> NDArray[np.bool_] | None:
    """The unknown entries but those that the border of the region holds, None where these are all."""
    points = fit.points_m if isinstance(fit, StillFit) else fit.scene.points_m
    held = held_by_border(fit.problem, points, gradient)
    if not held.any():
        return unknown
    free = np.ones(gradient.size, bool) if unknown is None else unknown.copy()
    free[: points.size] &= ~held.ravel()
    return free


def held_by_border(problem: Problem, points_m: RealArray, gradient: RealArray) -> NDArray[np.bool_]:
    """Return which coordinates of points, on the border of the region, fit better outside it, (S, 3)."""
    low, high = problem.region_m
    rise = gradient[: points_m.size].reshape(points_m.shape)
    return np.asarray(((points_m <= low) & (rise > 0)) | ((points_m >= high) & (rise < 0)))


def _shortened(
    fit: Fit | StillFit, step: RealArray, trial: Fit | StillFit, promised: float
) -> Fit | StillFit:
    """The better one of the fit after a step, and that at the lowest point of the parabola along it.

    Where the residual's own curvature counts, the Gauss-Newton matrix is too flat, and whole steps swing
    around the minimum: the slope ``-2 promised`` and the objective after the step tell how far it lies.
    """
    share = promised / (2 * promised - (fit.objective - trial.objective))
    if not share > _SHORTEST:
        return trial
    shorter = _after(fit, share * step)
    return shorter if shorter.objective < trial.objective else trial


def _after(fit: Fit | StillFit, step: RealArray) -> Fit | StillFit:
    """The fit of the scene after a step (P,), capped to a fraction of the resolution cell."""
    if isinstance(fit, StillFit):
        problem = fit.problem
        return fit.moved(step, _STEP_CAP_CELLS * problem.length_cell_m, _STEP_CAP_CELLS * problem.path_cells)
    return evaluate(fit.problem, _moved(fit, step), fit.paths, fit.posterior.prior_precision)


def _moved(fit: Fit, step: RealArray) -> Scene:
    """The scene after a step, capped to a fraction of the resolution cell; points stay in the region."""
    problem, scene = fit.problem, fit.scene
    cap = _STEP_CAP_CELLS * problem.length_cell_m
    points, users, offsets, paths = (step[block] for block in scene.blocks())
    moved = Scene(
        moved_points(scene.points_m, points.reshape(-1, 3), cap, problem.region_m),
        scene.users_m + users.reshape(-1, 3),
        scene.offsets_m + offsets,
        moved_paths(scene.unlocated_m, paths.reshape(-1, 3), _STEP_CAP_CELLS * problem.path_cells),
    )
    motion = scene.motion
    if scene.pointing is not None:
        moved = replace(moved, pointing=scene.pointing + step[scene.pointing_block])
    if motion is None:
        return moved
    return replace(moved, motion=motion.with_vector(motion.vector() + step[-motion.size :]))


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
