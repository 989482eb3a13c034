"""Newtonised orthogonal matching pursuit over direction and delay, all users at once.

After Mamandipoor, Ramasamy and Madhow, IEEE TSP 2016: detect in the residual, refine, repeat. Here the
refinement is the joint Gauss-Newton step of all paths (docs/theory.md, section 7).
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from isac_toolbox.channel.scene import Paths, Scene
from isac_toolbox.estimators.gauss_newton import (
    Fit,
    Problem,
    evaluate,
    refine,
    residual_correlation,
    with_noise_precision,
)
from isac_toolbox.estimators.search import PathSearch

__all__ = ["newtonised_omp"]

_WEAK_PRECISION = 1e-9


def newtonised_omp(
    problem: Problem,
    search: PathSearch,
    *,
    false_alarm_rate: float = 1e-2,
    max_paths_per_user: int = 40,
    max_rounds: int = 40,
) -> tuple[Problem, Fit]:
    """Free paths of every user from a block's statistics.

    Parameters
    ----------
    problem : Problem
        Its noise precision is replaced by the one found.
    search : PathSearch
    false_alarm_rate : float
        Per user and round.
    max_paths_per_user, max_rounds : int

    Returns
    -------
    problem : Problem
        With the noise precision of the residual.
    fit : Fit
        Free paths only.
    """
    n_users = problem.statistics.coupling.shape[1]
    scene = Scene(np.zeros((0, 3)), problem.prior.users_m, np.zeros(n_users), np.zeros((0, 3)))
    user = np.zeros(0, np.int64)
    fit = _fit_free(problem, scene, user)
    for _ in range(max_rounds):
        counts = np.bincount(fit.paths.user, minlength=n_users)
        found, found_user, noise = search.detect(
            residual_correlation(problem, fit),
            problem.user_energies,
            false_alarm_rate,
            room=np.maximum(max_paths_per_user - counts, 0),
            noise_level=1 / problem.noise_precision if problem.noise_known else None,
        )
        problem = with_noise_precision(problem, 1 / noise)
        if not len(found):
            break
        user = np.concatenate([user, found_user])
        scene = Scene(scene.points_m, scene.users_m, scene.offsets_m, np.vstack([fit.scene.free_m, found]))
        fit = _fit_free(problem, scene, user)
        fit = refine(problem, fit, n_steps=4, tol=0.1)
    return problem, _prune(problem, refine(problem, fit, n_steps=15), search, false_alarm_rate)


def _prune(problem: Problem, fit: Fit, search: PathSearch, false_alarm_rate: float) -> Fit:
    """Drop paths, the least significant first, that the final fit no longer needs; refine after each.

    A path found while its neighbours were badly placed can end beside them, and then none of them has a place
    of its own: its gain drowns in the variance that such neighbours share.
    """
    threshold = search.threshold(1.0, false_alarm_rate)
    while len(fit.paths):
        significance = np.abs(fit.posterior.mean) ** 2 / fit.posterior.variance
        least = int(np.argmin(significance))
        if significance[least] >= threshold:
            break
        scene = replace(fit.scene, free_m=np.delete(fit.scene.free_m, least, axis=0))
        fit = refine(problem, _fit_free(problem, scene, np.delete(fit.paths.user, least)), n_steps=4, tol=0.1)
    return fit


def _fit_free(problem: Problem, scene: Scene, user: NDArray[np.int64]) -> Fit:
    n_users = scene.users_m.shape[0]
    paths = Paths.build(np.zeros(n_users, bool), np.zeros((n_users, 0), bool), user)
    return evaluate(problem, scene, paths, np.full(len(paths), _WEAK_PRECISION))
