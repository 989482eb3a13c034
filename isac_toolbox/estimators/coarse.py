"""Coarse stages: from pilots to a starting scene (docs/theory.md, section 7)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from isac_toolbox.channel.scene import Scene
from isac_toolbox.estimators.coarse_nomp import newtonised_omp
from isac_toolbox.estimators.gauss_newton import Problem
from isac_toolbox.estimators.locate import fuse_points, place_points
from isac_toolbox.estimators.search import PathSearch

__all__ = ["COARSE_STAGES", "CoarseScene", "coarse_scene"]

COARSE_STAGES = ("nomp", "music")


@dataclass(frozen=True, eq=False)
class CoarseScene:
    """Start of the fine stage.

    Attributes
    ----------
    problem : Problem
        With a first noise precision.
    scene : Scene
    free_user : ndarray of int, shape (F,)
        Users of the scene's free paths.
    gain_power : float
        Mean squared gain of a path, the first slab.
    """

    problem: Problem
    scene: Scene
    free_user: NDArray[np.int64]
    gain_power: float


def coarse_scene(stage: str, problem: Problem, search: PathSearch, unlocated_paths: bool) -> CoarseScene:
    """Run a coarse stage by name."""
    start = nomp_scene(problem, search)
    if unlocated_paths:
        return start
    scene = start.scene
    kept = Scene(scene.points_m, scene.users_m, scene.offsets_m, np.zeros((0, 3)))
    return CoarseScene(start.problem, kept, np.zeros(0, np.int64), start.gain_power)


def nomp_scene(problem: Problem, search: PathSearch) -> CoarseScene:
    """Paths of every user by Newtonised OMP, located and fused over the users."""
    problem, fit = newtonised_omp(problem, search)
    power = float(np.mean(np.abs(fit.posterior.mean) ** 2)) if len(fit.paths) else 1.0
    placed, _, seen = place_points(problem, fit)
    scene, _ = fuse_points(problem, placed, seen)
    return CoarseScene(problem, scene, placed.paths.user[placed.paths.is_free], power)
