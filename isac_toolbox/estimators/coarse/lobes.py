"""Paths on lobes of their delay response: far bands of tones have many almost as high as the main one.

A path that others have pushed onto a wrong lobe stays there in any local refinement, and what it leaves is
taken for more paths beside it (docs/theory.md, section 7.2).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from isac_toolbox.channel.atoms.scene import Paths, Scene
from isac_toolbox.estimators.scene.fit import Fit, evaluate, residual_correlation
from isac_toolbox.estimators.scene.problem import Problem
from isac_toolbox.estimators.scene.refine import refine
from isac_toolbox.estimators.search import PathSearch

__all__ = ["fit_unlocated", "on_best_lobes", "without_companions"]

RealArray = NDArray[np.float64]
ComplexArray = NDArray[np.complex128]
IntArray = NDArray[np.int64]

# Guard: prior precision of a path of a unit-power block that leaves its gain free.
_WEAK_PRECISION = 1e-9
# Cost cap: lobes are tried so many resolution cells before and behind a path.
_LOBE_CELLS = 4
# Cost cap: so many paths change lobes in a round.
_MAX_HOPS = 4


def on_best_lobes(fit: Fit, search: PathSearch) -> Fit:
    """Return a fit of unlocated paths with some on other lobes, if that fits better."""
    for _ in range(_MAX_HOPS):
        scene = _on_another_lobe(fit, search)
        if scene is None:
            break
        trial = refine(fit_unlocated(fit.problem, scene, fit.paths.user), n_steps=4, tol=0.1)
        if trial.objective >= fit.objective:
            break
        fit = trial
    return fit


def _shifts_m(fit: Fit, search: PathSearch) -> RealArray:
    """Lengths to add to a path at which it may have another lobe, none first, shape (C,)."""
    step, reach = search.length_step_m, _LOBE_CELLS * fit.problem.length_cell_m
    steps = np.arange(step, reach, step)
    return np.concatenate([[0.0], steps, -steps])


def _on_another_lobe(fit: Fit, search: PathSearch) -> Scene | None:
    """The scene with the path that gains most on a lobe nearby, the others as they are; None if none does.

    The matched-filter power of a path with its own part put back, ``|phi_c^H E + phi_c^H phi_i x_i|^2``, over
    lengths ``c`` around its own.
    """
    problem, unlocated_m = fit.problem, fit.scene.unlocated_m
    shifts = _shifts_m(fit, search)
    residual = residual_correlation(fit)
    most, chosen = 0.0, None
    for path, user in enumerate(fit.paths.user):
        candidates = np.tile(unlocated_m[path], (shifts.size, 1))
        candidates[:, 0] += shifts
        scene = replace(fit.scene.take(unlocated=np.full(shifts.size, path)), unlocated_m=candidates)
        rivals = fit_unlocated(problem, scene, np.full(shifts.size, user))
        matched = rivals.atoms.correlate(residual) + rivals.gram[:, 0] * fit.posterior.mean[path]
        power = np.abs(matched) ** 2 / problem.user_energies[user]
        best = int(np.argmax(power))
        gain = problem.noise_precision * float(power[best] - power[0])
        if abs(shifts[best]) > problem.length_cell_m / 2 and gain > most:
            most, chosen = gain, (path, candidates[best])
    if chosen is None:
        return None
    moved = unlocated_m.copy()
    moved[chosen[0]] = chosen[1]
    return replace(fit.scene, unlocated_m=moved)


def without_companions(fit: Fit, search: PathSearch, price: float) -> Fit:
    """Return a fit without the paths that only make up for another one on a wrong lobe.

    Each path, the strongest first, takes the place of those of its user and direction nearby, of all of them
    or of one, at the length that explains most of what they explain together; kept where the objective rises
    by less than their price.

    Parameters
    ----------
    fit : Fit
        Of unlocated paths.
    search : PathSearch
    price : float
        Fall of the objective in nats that a path must be worth.
    """
    while True:
        merged = next(_mergers(fit, search, price), None)
        if merged is None:
            return fit
        fit = merged


def _mergers(fit: Fit, search: PathSearch, price: float) -> Iterator[Fit]:
    """Fits with one path in the place of some, that cost less than their price."""
    left = residual_correlation(fit)
    for path in np.argsort(-np.abs(fit.posterior.mean), kind="stable"):
        family = _companions(fit, int(path))
        pairs = [np.array([path, other]) for other in family if other != path]
        for group in pairs if len(pairs) < 2 else [family, *pairs]:
            trial = _merged(fit, int(path), group, left, search)
            if trial.objective < fit.objective + price * (group.size - 1):
                yield trial


def _companions(fit: Fit, path: int) -> IntArray:
    """Paths of the same user and direction within reach of other lobes, the path itself among them."""
    apart = np.abs(fit.scene.unlocated_m - fit.scene.unlocated_m[path])
    near = apart[:, 0] <= _LOBE_CELLS * fit.problem.length_cell_m
    near &= np.all(apart[:, 1:] < fit.problem.cosine_cells, axis=1)
    return np.flatnonzero(near & (fit.paths.user == fit.paths.user[path]))


def _merged(fit: Fit, path: int, group: IntArray, left: ComplexArray, search: PathSearch) -> Fit:
    """The fit with a path in the place of a group, refined; ``left`` (K, N, M) is what the fit leaves."""
    parameters = fit.scene.unlocated_m.copy()
    candidates = np.tile(parameters[path], (_shifts_m(fit, search).size, 1))
    candidates[:, 0] += _shifts_m(fit, search)
    user = fit.paths.user[path]
    rivals = np.vstack([candidates, parameters[group]])
    n = len(candidates)
    scene = fit.scene.take(unlocated=np.append(np.full(n, path), group))
    both = fit_unlocated(fit.problem, replace(scene, unlocated_m=rivals), np.full(len(rivals), user))
    matched = both.atoms.correlate(left)[:n] + both.gram[:n, n:] @ fit.posterior.mean[group]
    parameters[path] = candidates[int(np.argmax(np.abs(matched)))]
    gone = group[group != path]
    scene = replace(fit.scene, unlocated_m=parameters)
    scene = scene.take(unlocated=np.delete(np.arange(len(parameters)), gone))
    return refine(fit_unlocated(fit.problem, scene, np.delete(fit.paths.user, gone)), n_steps=6, tol=0.1)


def fit_unlocated(problem: Problem, scene: Scene, user: NDArray[np.int64]) -> Fit:
    """Return the fit of unlocated paths whose gains are free."""
    n_users = scene.users_m.shape[0]
    paths = Paths.build(np.zeros(n_users, bool), np.zeros((n_users, 0), bool), user)
    return evaluate(problem, scene, paths, np.full(len(paths), _WEAK_PRECISION))
