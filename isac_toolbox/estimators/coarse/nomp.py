"""Newtonised orthogonal matching pursuit over direction and delay, all users at once.

After Mamandipoor, Ramasamy and Madhow, IEEE TSP 2016: detect in the residual, refine, repeat. Here the
refinement is the joint Gauss-Newton step of a user's paths, or of all users' paths where pilots are not
orthogonal (docs/theory.md, section 7).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from isac_toolbox._threads import in_threads
from isac_toolbox.channel.atoms.kinematics import Kinematics
from isac_toolbox.estimators.coarse.lobes import fit_unlocated, on_best_lobes, without_companions
from isac_toolbox.estimators.doppler_search import DopplerSearch
from isac_toolbox.estimators.scene.coupled import calibrated
from isac_toolbox.estimators.scene.fit import Fit, completed
from isac_toolbox.estimators.scene.misfit import spectra_of
from isac_toolbox.estimators.scene.problem import Problem, with_noise_precision
from isac_toolbox.estimators.scene.refine import refine
from isac_toolbox.estimators.scene.silence import SilenceWatch
from isac_toolbox.estimators.search import PathSearch, Spectrum
from isac_toolbox.inference.turbo import Deadline

__all__ = ["newtonised_omp"]

RealArray = NDArray[np.float64]

# Cost cap: up to so many users one fit of all costs less than the overhead of a fit for each.
_FEW_USERS = 4
# Tuned: rounds in which missing samples are filled in at the end; each leaves about a tenth of the error.
_COMPLETIONS = 3
# Tuned: rounds in which elements and gains are fitted in turn; each leaves about a tenth of the error.
_CALIBRATIONS = 2


def newtonised_omp(
    problem: Problem,
    search: PathSearch,
    *,
    false_alarm_rate: float = 1e-2,
    max_paths_per_user: int = 40,
    max_rounds: int = 40,
    prune: bool = True,
    deadline: Deadline | None = None,
    watch: SilenceWatch | None = None,
) -> tuple[Problem, Fit]:
    """Find unlocated paths of every user in a block's statistics.

    Parameters
    ----------
    problem : Problem
        Its noise precision is replaced by the one found.
    search : PathSearch
    false_alarm_rate : float
        Per user and round.
    max_paths_per_user, max_rounds : int
    prune : bool
        Drop paths that the final fit no longer needs, which the published method does not.
    deadline : Deadline, optional
        Ends the search after any round.
    watch : SilenceWatch, optional
        Looks at the fit after every round; the search ends where it finds parts without signal.

    Returns
    -------
    problem : Problem
        With the noise precision of the residual.
    fit : Fit
        Unlocated paths only.
    """
    deadline = Deadline() if deadline is None else deadline
    problem = problem.searched_over((search.min_length_m, search.max_length_m))
    n_users = problem.statistics.symbol_gram.shape[1]
    groups = _groups(problem)
    size = problem.statistics.cross_correlation.size
    spectra = _spectra(groups, search, size)
    for _ in range(max_rounds):
        counts = np.concatenate([group.counts for group in groups])
        found, found_user, noise = search.detect_in(
            spectra,
            false_alarm_rate,
            room=np.maximum(max_paths_per_user - counts, 0),
            noise_level=1 / problem.noise_precision if problem.noise_known else None,
        )
        problem = with_noise_precision(problem, 1 / noise)
        if not len(found):
            break
        births = _Births(found, found_user, _shifts(search, spectra, found, found_user), false_alarm_rate)
        groups, spectra = births.added(groups, spectra, problem, search)
        if problem.elements is not None or problem.coupling is not None:
            problem, groups = _calibrated(problem, groups, n_users)
            search = search.coupled(problem.receiver.coupling)
            spectra = _spectra(groups, search, size)
        if watch is not None and watch(_joined(problem, groups, n_users)):
            return problem, _joined(problem, groups, n_users)
        if deadline.reached():
            break
    finished = in_threads(lambda group: group.finished(problem, deadline), groups, size)
    for _ in range(_CALIBRATIONS if problem.elements is not None or problem.coupling is not None else 0):
        problem, finished = _calibrated(problem, finished, n_users)
        finished = [group.finished(problem, deadline) for group in finished]
    if prune and not deadline.reached():
        finished = in_threads(lambda group: group.pruned(search, false_alarm_rate), finished, size)
    fit = _joined(problem, finished, n_users)
    for _ in range(_COMPLETIONS):
        fit = completed(fit)
    return fit.problem, fit


@dataclass(frozen=True, eq=False)
class _Group:
    """Users that are fitted together: one whose pilots no other shares, or all.

    Attributes
    ----------
    users : ndarray of int
    problem : Problem
        Of these users.
    fit : Fit
        Their unlocated paths; users are counted from the first of the group.
    """

    users: NDArray[np.int64]
    problem: Problem
    fit: Fit

    @property
    def counts(self) -> NDArray[np.int64]:
        """Paths of every user."""
        return np.bincount(self.fit.paths.user, minlength=self.users.size)

    def _at_noise(self, problem: Problem) -> Problem:
        return replace(self.problem, noise_precision=problem.noise_precision)

    def extended(
        self,
        problem: Problem,
        found: RealArray,
        found_user: NDArray[np.int64],
        doppler_hz: RealArray | None = None,
    ) -> _Group:
        """Return the group with the paths found, refined; they turn as their users do, or as is given."""
        at_noise = self._at_noise(problem)
        users = found_user - self.users[0]
        further_hz = at_noise.further_hz(self.fit.scene, users, doppler_hz)
        scene = self.fit.scene.extended(np.zeros((0, 3)), found, further_hz)
        user = np.concatenate([self.fit.paths.user, users])
        fit = completed(refine(fit_unlocated(at_noise, scene, user), n_steps=4, tol=0.1))
        return _Group(self.users, fit.problem, fit)

    def on_best_lobes(self, search: PathSearch, false_alarm_rate: float) -> _Group:
        """Return the group with paths on their best lobes, and none that only make up for others."""
        price = search.threshold(1.0, false_alarm_rate)
        return replace(self, fit=without_companions(on_best_lobes(self.fit, search), search, price))

    def spectra(self, search: PathSearch) -> list[Spectrum]:
        """Return the spectra of what the paths leave."""
        return spectra_of(self.fit, search)

    def finished(self, problem: Problem, deadline: Deadline) -> _Group:
        """Return the group refined to the end, as far as there is time."""
        at_noise = self._at_noise(problem)
        fit = fit_unlocated(at_noise, self.fit.scene, self.fit.paths.user)
        fit = completed(fit if deadline.reached() else refine(fit, n_steps=15))
        return _Group(self.users, fit.problem, fit)

    def pruned(self, search: PathSearch, false_alarm_rate: float) -> _Group:
        """Return the group without the paths that it does not need."""
        return replace(self, fit=_prune(self.fit, search, false_alarm_rate))


def _calibrated(problem: Problem, groups: list[_Group], n_users: int) -> tuple[Problem, list[_Group]]:
    """Problem and groups under the elements' responses that the present paths show, gains renewed."""
    for _ in range(_CALIBRATIONS):
        problem = calibrated(_joined(problem, groups, n_users))
        alone = len(groups) > 1
        parts = [problem.of_user(int(group.users[0])) if alone else problem for group in groups]
        groups = [
            replace(group, problem=part, fit=fit_unlocated(part, group.fit.scene, group.fit.paths.user))
            for group, part in zip(groups, parts, strict=True)
        ]
    return problem, groups


@dataclass(frozen=True, eq=False)
class _Births:
    """Paths that a round found: parameters (P, 3), users (P,), and Doppler shifts where they are searched."""

    found: RealArray
    user: NDArray[np.int64]
    doppler_hz: RealArray | None
    false_alarm_rate: float

    def added(
        self, groups: list[_Group], spectra: list[Spectrum], problem: Problem, search: PathSearch
    ) -> tuple[list[_Group], list[Spectrum]]:
        """Return the groups with them, and the spectra of all users."""

        def extend(group: _Group) -> tuple[_Group, list[Spectrum]]:
            own = np.isin(self.user, group.users)
            if not own.any():
                return group, [spectra[k] for k in group.users]
            doppler_hz = None if self.doppler_hz is None else self.doppler_hz[own]
            extended = group.extended(problem, self.found[own], self.user[own], doppler_hz)
            if search.has_high_lobes:
                extended = extended.on_best_lobes(search, self.false_alarm_rate)
            return extended, extended.spectra(search)

        pairs = in_threads(extend, groups, problem.statistics.cross_correlation.size)
        return [group for group, _ in pairs], [spectrum for _, own in pairs for spectrum in own]


def _spectra(groups: list[_Group], search: PathSearch, size: int) -> list[Spectrum]:
    """Spectra of all users of groups, whose correlations have so many entries in all."""
    of_groups = in_threads(lambda group: group.spectra(search), groups, size)
    return [spectrum for spectra in of_groups for spectrum in spectra]


def _shifts(
    search: PathSearch, spectra: list[Spectrum], found: RealArray, user: NDArray[np.int64]
) -> RealArray | None:
    """Doppler shifts of paths found by a search over them, None of one at the users' means alone."""
    return search.shifts_at(spectra, found, user) if isinstance(search, DopplerSearch) else None


def _groups(problem: Problem) -> list[_Group]:
    """Each of many users alone where they decouple, all of them together otherwise; no path yet."""
    users = np.arange(problem.statistics.symbol_gram.shape[1])
    alone = users.size > _FEW_USERS and problem.statistics.users_decouple
    parts = [users[k : k + 1] for k in users] if alone else [users]
    problems = [problem.of_user(int(k)) for k in users] if alone else [problem]
    nobody = np.zeros(0, np.int64)
    groups = []
    for part, part_problem in zip(parts, problems, strict=True):
        scene = part_problem.empty_scene()
        groups.append(_Group(part, part_problem, fit_unlocated(part_problem, scene, nobody)))
    return groups


def _joined(problem: Problem, groups: list[_Group], n_users: int) -> Fit:
    """One fit of all users' paths."""
    if len(groups) == 1:
        return fit_unlocated(problem, groups[0].fit.scene, groups[0].fit.paths.user)
    scene = problem.empty_scene()
    scenes = [group.fit.scene for group in groups]
    unlocated_m = np.vstack([part.unlocated_m for part in scenes])
    motions = [part.motion for part in scenes if part.motion is not None]
    scene = replace(scene, unlocated_m=unlocated_m, motion=Kinematics.joined(motions) if motions else None)
    user = np.concatenate([group.users[group.fit.paths.user] for group in groups])
    return fit_unlocated(problem, scene, user)


def _prune(fit: Fit, search: PathSearch, false_alarm_rate: float) -> Fit:
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
        scene = fit.scene.take(unlocated=np.delete(np.arange(len(fit.paths)), least))
        fit = refine(fit_unlocated(fit.problem, scene, np.delete(fit.paths.user, least)), n_steps=4, tol=0.1)
    return fit
