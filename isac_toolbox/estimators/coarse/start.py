"""Coarse stages: from pilots to a starting scene (docs/theory.md, section 7)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from isac_toolbox._choices import COARSE_STAGES
from isac_toolbox.channel.atoms.scene import Scene
from isac_toolbox.channel.observation import UplinkObservation
from isac_toolbox.estimators.coarse.music import music_scene
from isac_toolbox.estimators.coarse.nomp import newtonised_omp
from isac_toolbox.estimators.music import MusicModel
from isac_toolbox.estimators.scene.locate import fuse_points, place_points
from isac_toolbox.estimators.scene.problem import Problem, with_noise_precision
from isac_toolbox.estimators.scene.refine import refine
from isac_toolbox.estimators.scene.silence import SilenceWatch
from isac_toolbox.estimators.scene.structure import remove_rejected
from isac_toolbox.estimators.scene.working_set import WorkingSet
from isac_toolbox.estimators.search import PathSearch

__all__ = ["COARSE_STAGES", "coarse_working_set", "music_working_set"]


# Tuned: sweeps in which the candidates of MUSIC settle.
_SWEEPS_AFTER_MUSIC = 5


@dataclass(frozen=True, eq=False)
class _Start:
    problem: Problem
    scene: Scene
    unlocated_user: NDArray[np.int64]
    gain_power: float


def coarse_working_set(
    stage: str,
    obs: UplinkObservation,
    problem: Problem,
    search: PathSearch,
    rule: str,
    unlocated_paths: bool,
    false_alarm_rate: float,
    watch: SilenceWatch | None = None,
) -> WorkingSet:
    """Return the first working set of the fine stage, from one of :data:`COARSE_STAGES`.

    Where ``watch`` finds parts without signal on the way, the set is of no use.
    """
    if stage == "music":
        return _settled(music_working_set(obs, problem, search, rule))
    start = _nomp_start(problem, search, false_alarm_rate, watch)
    if not unlocated_paths:
        scene = start.scene
        located = Scene(scene.points_m, scene.users_m, scene.offsets_m, np.zeros((0, 3)))
        start = _Start(start.problem, located, np.zeros(0, np.int64), start.gain_power)
    return _working_set(start, rule)


def _settled(working: WorkingSet) -> WorkingSet:
    """Subspace-constrained VBI with a dynamic grid: sweeps between which the candidates move."""
    for _ in range(_SWEEPS_AFTER_MUSIC):
        working = working.with_fit(refine(working.fit, n_steps=2, tol=1.0))
        working, _ = remove_rejected(working.completed().e_step(1).learn_noise())
    return working


def music_working_set(obs: UplinkObservation, problem: Problem, search: PathSearch, rule: str) -> WorkingSet:
    """Return every MUSIC peak as a candidate point of every user."""
    statistics = problem.statistics
    scene = music_scene(MusicModel.from_observation(obs), problem.region_m)
    noise = search.user_noise_level(statistics.cross_correlation, problem.user_energies)
    power = statistics.energy / statistics.n_observations
    started = with_noise_precision(problem, 1 / max(noise, 1e-9 * power))
    n_paths = max(len(scene.points_m), 1)
    return _working_set(_Start(started, scene, np.zeros(0, np.int64), power / n_paths), rule)


def _nomp_start(
    problem: Problem, search: PathSearch, false_alarm_rate: float, watch: SilenceWatch | None
) -> _Start:
    """Paths of every user by Newtonised OMP, located and fused over the users."""
    problem, fit = newtonised_omp(problem, search, false_alarm_rate=false_alarm_rate, watch=watch)
    power = float(np.mean(np.abs(fit.posterior.mean) ** 2)) if len(fit.paths) else 1.0
    placed, _, seen = place_points(fit)
    scene, _ = fuse_points(placed, seen)
    return _Start(problem, scene, placed.paths.user[placed.paths.is_unlocated], power)


def _working_set(start: _Start, rule: str) -> WorkingSet:
    receiver = start.problem.receiver
    n_cells = receiver.frequencies_hz.size * receiver.array.n_elements
    return WorkingSet.start(start.problem, start.scene, start.unlocated_user, rule, start.gain_power, n_cells)
