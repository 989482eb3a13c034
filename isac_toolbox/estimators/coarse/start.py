"""Coarse stages: from pilots to a starting scene (docs/theory.md, section 7)."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from isac_toolbox._choices import COARSE_STAGES
from isac_toolbox.channel.atoms.scene import Scene
from isac_toolbox.channel.observation import UplinkObservation
from isac_toolbox.estimators.coarse.doubts import place_despite_priors, without_refused_noise
from isac_toolbox.estimators.coarse.music import music_scene
from isac_toolbox.estimators.coarse.nomp import newtonised_omp
from isac_toolbox.estimators.music import MusicModel
from isac_toolbox.estimators.scene.colour import asks_for_colour
from isac_toolbox.estimators.scene.problem import Problem, with_noise_precision
from isac_toolbox.estimators.scene.refine import refine
from isac_toolbox.estimators.scene.silence import SilenceWatch
from isac_toolbox.estimators.scene.structure import remove_rejected
from isac_toolbox.estimators.scene.working_set import WorkingSet
from isac_toolbox.estimators.search import PathSearch
from isac_toolbox.inference.turbo import Deadline

__all__ = ["COARSE_STAGES", "NO_PEAKS", "Coarse", "coarse_working_set", "music_working_set"]

NO_PEAKS = "the location spectrum of a linear array has ridges where MUSIC needs peaks"

# Tuned: sweeps in which the candidates of MUSIC settle.
_SWEEPS_AFTER_MUSIC = 5


@dataclass(frozen=True, eq=False)
class _Start:
    problem: Problem
    scene: Scene
    unlocated_user: NDArray[np.int64]
    gain_power: float


@dataclass(frozen=True, eq=False)
class Coarse:
    """What a coarse stage found.

    Attributes
    ----------
    working : WorkingSet
        First working set of the fine stage.
    noise_level : float
        Noise variance of a scaled sample, from where the pilots' spectra hold no path.
    warnings : list of str
    """

    working: WorkingSet
    noise_level: float
    warnings: list[str]


def coarse_working_set(
    stage: str,
    obs: UplinkObservation,
    problem: Problem,
    search: PathSearch,
    rule: str,
    unlocated_paths: bool,
    false_alarm_rate: float,
    deadline: Deadline | None = None,
    watch: SilenceWatch | None = None,
) -> Coarse:
    """Return what one of :data:`COARSE_STAGES` finds on the pilots.

    NOMP takes the place of MUSIC for an array that does not see both direction cosines, in a block that
    moves, where noise is not white, and where elements hear each other. Where ``watch`` finds parts without
    signal on the way, the set is of no use.
    """
    plain = problem.statistics.frames is None and not asks_for_colour(obs) and problem.coupling is None
    if stage == "music" and all(obs.array.sees_cosines) and plain:
        working = music_working_set(obs, problem, search, rule)
        return Coarse(_settled(working), 1 / working.problem.noise_precision, [])
    start, noise, warnings = _nomp_start(problem, search, false_alarm_rate, deadline, watch)
    if not unlocated_paths:
        scene = start.scene
        located = scene.take(unlocated=slice(0, 0))
        start = _Start(start.problem, located, np.zeros(0, np.int64), start.gain_power)
    return Coarse(_working_set(start, rule), noise, warnings)


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
    problem: Problem,
    search: PathSearch,
    false_alarm_rate: float,
    deadline: Deadline | None,
    watch: SilenceWatch | None,
) -> tuple[_Start, float, list[str]]:
    """Paths of every user by Newtonised OMP, located and fused over the users; the noise; and warnings."""
    found, fit = newtonised_omp(
        replace(problem, noise_known=False),
        search,
        false_alarm_rate=false_alarm_rate,
        deadline=deadline,
        watch=watch,
    )
    noise = 1 / found.noise_precision
    stated = replace(found, noise_precision=problem.noise_precision, noise_known=problem.noise_known)
    accepted, warnings = without_refused_noise(stated, noise)
    if accepted.noise_known:
        fit = fit.under(accepted, fit.posterior.prior_precision)
    power = float(np.mean(np.abs(fit.posterior.mean) ** 2)) if len(fit.paths) else 1.0
    placed, refused = place_despite_priors(fit)
    start = _Start(placed.problem, placed.scene, placed.unlocated_user, power)
    return start, noise, warnings + refused


def _working_set(start: _Start, rule: str) -> WorkingSet:
    receiver = start.problem.receiver
    n_cells = receiver.frequencies_hz.size * receiver.array.n_elements
    return WorkingSet.start(start.problem, start.scene, start.unlocated_user, rule, start.gain_power, n_cells)
