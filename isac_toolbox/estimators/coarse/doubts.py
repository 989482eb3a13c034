"""Priors that the samples refuse: noise, clocks and places of users.

A stated prior is kept as long as the samples allow it. Where they contradict it by many standard deviations,
it is widened for this block, and the result says so (docs/theory.md, section 7).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from isac_toolbox.channel.array import SPEED_OF_LIGHT_M_S
from isac_toolbox.channel.atoms.scene import Paths, Scene, ScenePrior
from isac_toolbox.estimators.scene.alternatives import Lattice
from isac_toolbox.estimators.scene.clocks import users_without_clock
from isac_toolbox.estimators.scene.evidence import log_evidence
from isac_toolbox.estimators.scene.fit import Fit, evaluate, scene_covariance
from isac_toolbox.estimators.scene.locate import NominalSight, SightMisfit, fuse_points
from isac_toolbox.estimators.scene.place import place_points, release_points
from isac_toolbox.estimators.scene.problem import Problem
from isac_toolbox.estimators.scene.refine import refine

__all__ = ["Placed", "place_despite_priors", "without_refused_noise"]

RealArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

# Guard: ratio of the noise in the samples to that stated beyond which the statement is refused.
_NOISE_RATIO = 2.0
# Guard: standard deviations of the noise estimate that it must differ by as well, in small blocks.
_NOISE_STDS = 8.0
# Prior: odds against a prior that misses by far, in nats; one in a thousand.
_REFUSAL = 7.0
# Guard: squared Mahalanobis distance of a direction from its prior; 16 of two unknowns loses 1 in 3,000.
_DIRECTION_GATE = 16.0
# Tuned: power relative to a user's strongest path above which an earlier path counts.
_WEAK_PATH = 1e-2


def without_refused_noise(problem: Problem, level: float) -> tuple[Problem, list[str]]:
    """Return the problem with the stated noise, or with that of the samples where they refuse it.

    Parameters
    ----------
    problem : Problem
        With the noise as it was stated.
    level : float
        Noise variance that the coarse stage found in the samples.

    Returns
    -------
    problem : Problem
    warnings : list of str
    """
    if not problem.noise_known:
        return problem, []
    n_cells = problem.receiver.frequencies_hz.size * problem.receiver.array.n_elements
    allowed = max(_NOISE_RATIO, 1 + _NOISE_STDS / np.sqrt(n_cells))
    ratio = level * problem.noise_precision
    if 1 / allowed < ratio < allowed:
        return problem, []
    learned = replace(problem, noise_precision=1 / level, noise_known=False)
    difference_db = 10 * np.log10(ratio)
    return learned, [
        f"noise_variance: the samples hold noise {abs(difference_db):.0f} dB "
        f"{'above' if difference_db > 0 else 'below'} the stated variance, which was not used but estimated; "
        "leave noise_variance out where it is not known"
    ]


@dataclass(frozen=True, eq=False)
class Placed:
    """Paths of all users placed and fused.

    Attributes
    ----------
    scene : Scene
    line_of_sight : ndarray of bool, shape (K,)
    seen : ndarray of bool, shape (K, S)
    unlocated_user : ndarray of int, shape (F,)
    problem : Problem
        With the prior under which they were placed.
    """

    scene: Scene
    line_of_sight: NDArray[np.bool_]
    seen: NDArray[np.bool_]
    unlocated_user: IntArray
    problem: Problem

    @classmethod
    def of(cls, fit: Fit) -> Placed:
        """Place and fuse the unlocated paths of a fit under the prior of its problem."""
        placed, sight, seen = place_points(fit)
        scene, seen = fuse_points(placed, seen)
        unlocated_user = placed.paths.user[placed.paths.is_unlocated]
        scene, seen, unlocated_user = release_points(fit.problem, scene, seen, unlocated_user)
        return cls(scene, sight, seen, unlocated_user, fit.problem)

    def evidence(self, precision: float) -> float:
        """Return the log evidence of the scene under its prior, that of the users' priors included."""
        paths = Paths.build(self.line_of_sight, self.seen, self.unlocated_user)
        fit = evaluate(self.problem, self.scene, paths, np.full(len(paths), precision))
        prior = self.problem.prior
        stds = np.concatenate([prior.user_stds_m.ravel(), prior.offset_stds_m])
        return log_evidence(refine(fit, n_steps=6, tol=0.1)) - float(np.sum(np.log(stds[stds > 0])))


def place_despite_priors(fit: Fit) -> tuple[Placed, list[str]]:
    """Place the unlocated paths of a fit, under wider priors of clocks and places where they are refused.

    A user whose line of sight is not found may have none; or its clock or its place is not what was stated.
    Then the path that its line of sight would be is taken for it, if the evidence of the whole scene gains
    more than the odds against so wrong a prior.

    Returns
    -------
    placed : Placed
    warnings : list of str
    """
    placed, warnings = Placed.of(fit), list[str]()
    if not (len(fit.paths) and fit.problem.prior.has_places):
        return placed, warnings
    typical = float(np.median(1 / np.maximum(np.abs(fit.posterior.mean) ** 2, 1e-12)))
    before = None
    for doubt in _doubts(fit, placed):
        if np.all(placed.line_of_sight[doubt.users]):
            continue
        before = placed.evidence(typical) if before is None else before
        wider = replace(placed.problem, prior=doubt.widen(placed.problem.prior))
        trial = Placed.of(replace(fit, problem=wider))
        after = trial.evidence(typical)
        if after > before + _REFUSAL * doubt.users.size:
            placed, before = trial, after
            warnings.append(doubt.warning)
    return placed, warnings


@dataclass(frozen=True, eq=False)
class _Doubt:
    """Users (U,) whose prior may be wrong, how wrong, and what to say.

    Attributes
    ----------
    users : ndarray of int, shape (U,)
    places_m : ndarray, shape (U, 3)
        Where they would be.
    place_factor : ndarray, shape (U,)
        By which the deviations of the places grow.
    offset_std_m : ndarray, shape (U,)
        Deviations of the clocks.
    warning : str
    """

    users: IntArray
    places_m: RealArray
    place_factor: RealArray
    offset_std_m: RealArray
    warning: str

    def widen(self, prior: ScenePrior) -> ScenePrior:
        users_m = prior.users_m.copy()
        places, offsets = prior.user_stds_m.copy(), prior.offset_stds_m.copy()
        users_m[self.users] = self.places_m
        places[self.users] *= self.place_factor[:, None]
        offsets[self.users] = np.maximum(offsets[self.users], self.offset_std_m)
        return replace(prior, users_m=users_m, user_stds_m=places, offset_stds_m=offsets)


def _doubts(fit: Fit, placed: Placed) -> Iterator[_Doubt]:
    """Doubts worth a trial: of clocks first, then of places, of all users together and of each alone."""
    prior, lattice = fit.problem.prior, Lattice.of(fit.problem)
    if not prior.has_line_of_sight or placed.line_of_sight.all():
        return
    covariance = scene_covariance(fit)
    lost = users_without_clock(fit.problem, placed.line_of_sight, np.zeros(len(prior.users_m), np.int64))
    late: dict[int, SightMisfit] = {}
    away: dict[int, SightMisfit] = {}
    for k in np.flatnonzero(~placed.line_of_sight).tolist():
        path = _first_and_strong(fit, k)
        if path < 0:
            continue
        misfit = NominalSight.of(fit.problem, k).misfit(fit, path, covariance, lattice)
        if misfit.direction_squared < _DIRECTION_GATE and prior.offset_stds_m[k] > 0:
            late[k] = misfit
        elif np.any(prior.user_stds_m[k] > 0) and misfit.place_m is not None and not lost[k]:
            away[k] = misfit
    for group in _together_and_alone(late):
        yield _clock_doubt(prior, group)
    for group in _together_and_alone(away):
        yield _place_doubt(group)


def _first_and_strong(fit: Fit, user: int) -> int:
    """The strongest path of a user, if none of its other paths of weight comes before it; -1 otherwise."""
    paths = np.flatnonzero(fit.paths.user == user)
    if not paths.size:
        return -1
    power = np.abs(fit.posterior.mean[paths]) ** 2
    length = fit.scene.unlocated_m[fit.paths.unlocated[paths], 0]
    strongest = int(np.argmax(power))
    earlier = length < length[strongest] - fit.problem.length_cell_m
    return -1 if np.any(earlier & (power > _WEAK_PATH * power[strongest])) else int(paths[strongest])


def _together_and_alone(misfits: dict[int, SightMisfit]) -> Iterator[dict[int, SightMisfit]]:
    """All of them, then each alone where there are several."""
    if misfits:
        yield misfits
    if len(misfits) > 1:
        for k, misfit in misfits.items():
            yield {k: misfit}


def _clock_doubt(prior: ScenePrior, misfits: dict[int, SightMisfit]) -> _Doubt:
    late_m = np.array([m.late_m for m in misfits.values()])
    late_ns = ", ".join(f"{x / SPEED_OF_LIGHT_M_S * 1e9:.0f}" for x in late_m)
    return _Doubt(
        np.array(list(misfits)),
        prior.users_m[list(misfits)],
        np.ones(len(misfits)),
        np.abs(late_m),
        f"time_offset_std_s: the line of sight of user(s) {list(misfits)} comes {late_ns} ns later than its "
        "place says (negative: earlier), far beyond the stated deviation, which was widened for this block; "
        "state how far clocks may be off",
    )


def _place_doubt(misfits: dict[int, SightMisfit]) -> _Doubt:
    deviations = np.sqrt(np.array([misfit.squared for misfit in misfits.values()]))
    in_words = ", ".join(f"{x:.0f}" for x in deviations)
    return _Doubt(
        np.array(list(misfits)),
        np.array([m.place_m for m in misfits.values()]),
        deviations / np.sqrt(3),
        np.zeros(len(misfits)),
        f"user_position_std_m: the line of sight of user(s) {list(misfits)} is {in_words} standard "
        "deviations from where the stated place says, whose deviation was widened for this block; check "
        "places, array orientation and clocks",
    )
