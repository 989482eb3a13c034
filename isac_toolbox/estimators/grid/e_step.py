"""E-steps of the joint estimator: on the working set alone, or on a whole grid of locations as well.

docs/theory.md, section 5 and "Baselines on a grid".
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from isac_toolbox._choices import INVERSES
from isac_toolbox.channel.atoms.dense import PathAtoms, make_atoms
from isac_toolbox.channel.atoms.scene import PathJacobian, PathParameters
from isac_toolbox.estimators.grid.inverse_free import MajorisedMean, separable_gram
from isac_toolbox.estimators.grid.points import LocationGrid, point_parameters
from isac_toolbox.estimators.scene.fit import evaluate
from isac_toolbox.estimators.scene.problem import Problem
from isac_toolbox.estimators.scene.working_set import ScenePriorGraph, WorkingSet, _classes, _spike_precision
from isac_toolbox.inference.hierarchy import ThreeLayerPrior
from isac_toolbox.inference.messages import GaussianMessage
from isac_toolbox.inference.posterior import working_set_posterior
from isac_toolbox.inference.state import PriorState

__all__ = ["INVERSES", "EStep", "GridEStep", "make_e_step", "subspace_e_step"]

RealArray = NDArray[np.float64]
ComplexArray = NDArray[np.complex128]
IntArray = NDArray[np.int64]


# Cost cap: steps of the majorised mean in a sweep.
_INNER_STEPS = 25
# Cost cap: pairs of user and grid point in a full inverse; about 1 GiB a matrix.
_MAX_FULL_PAIRS = 8192
# Mathematics: more likely than not.
_ACTIVE = 0.5
# Prior: that a pair of user and grid point is active, before the first sweep.
_UNLIKELY = 1e-3


class EStep(Protocol):
    """Sweeps of message, support graph, precision and Gaussian posterior."""

    def __call__(self, working: WorkingSet, n_sweeps: int) -> WorkingSet:
        """The working set with renewed beliefs."""
        ...


class Posterior(Protocol):
    """What a sweep needs of a posterior of the gains."""

    @property
    def mean(self) -> ComplexArray:
        """Posterior means, shape (L,)."""
        ...

    @property
    def variance(self) -> RealArray:
        """Posterior variances, shape (L,)."""
        ...

    def message(self) -> GaussianMessage:
        """Return the extrinsic message of every gain."""
        ...


#: Posterior from prior precisions and start means, each (L,).
Engine = Callable[[RealArray, ComplexArray], Posterior]


def subspace_e_step(working: WorkingSet, n_sweeps: int) -> WorkingSet:
    """Do the E-step on the working set alone (docs/theory.md, section 5)."""
    return working.e_step(n_sweeps)


def make_e_step(inverse: str, region_m: RealArray, grid_points: int, n_users: int) -> EStep:
    """Return the E-step of one of :data:`INVERSES`; a grid of about ``grid_points`` points fills the region.

    Raises
    ------
    ValueError
        If a full inverse over all users and grid points would not fit in memory.
    """
    if inverse == "subspace":
        return subspace_e_step
    if inverse == "full" and grid_points * n_users > _MAX_FULL_PAIRS:
        raise ValueError(
            f"grid_points must be at most {_MAX_FULL_PAIRS // n_users} for {n_users} users with "
            f"inverse='full' (one dense inverse over all), got {grid_points}"
        )
    engine = full_inverse if inverse == "full" else inverse_free
    return GridEStep(LocationGrid.of_size(region_m, grid_points).points(), engine)


def full_inverse(problem: Problem, atoms: PathAtoms, energy: RealArray) -> Engine:
    """Return the exact posterior: one inverse of the size of the full set for every sweep."""
    del energy
    gram = atoms.gram(problem.statistics.symbol_gram)
    correlation = atoms.correlate(problem.statistics.cross_correlation)

    def infer(precision: RealArray, start: ComplexArray) -> Posterior:
        del start
        return working_set_posterior(gram, correlation, problem.noise_precision, precision)

    return infer


def inverse_free(problem: Problem, atoms: PathAtoms, energy: RealArray) -> Engine:
    """Return majorised means and factorised variances; the Gram is only ever applied."""
    mean = MajorisedMean(
        separable_gram(
            atoms,
            problem.statistics.symbol_gram,
            problem.receiver.squint_m > 0,
            problem.receiver.element_mask,
        ),
        atoms.correlate(problem.statistics.cross_correlation),
        energy,
        problem.noise_precision,
    )

    def infer(precision: RealArray, start: ComplexArray) -> Posterior:
        return mean(precision, start, _INNER_STEPS)

    return infer


class GridEStep:
    """E-step on the working set and, behind it, a fixed grid of locations for every user.

    The grid's paths share prior, slabs and support graph with the working set, at present users and
    clocks. A grid point that is more likely than not joins the working set, which makes it a point that
    moves; the grid itself stays complete. Of likely points within a resolution cell of one another the
    likeliest joins, since one scatterer between grid points looks like several.

    Parameters
    ----------
    points_m : ndarray, shape (G, 3)
    engine : callable
        ``(problem, atoms, energy) -> Engine``: :func:`full_inverse` or :func:`inverse_free`.

    Attributes
    ----------
    state : PriorState, optional
        Of the ``G K`` pairs of grid point and user, point by point; every one starts at the spike.
    mean : ndarray of complex, shape (G K,), optional
        Their gains.
    """

    def __init__(
        self, points_m: RealArray, engine: Callable[[Problem, PathAtoms, RealArray], Engine]
    ) -> None:
        self.points_m, self.engine = points_m, engine
        self.state: PriorState | None = None
        self.mean: ComplexArray | None = None

    def __call__(self, working: WorkingSet, n_sweeps: int) -> WorkingSet:
        """Sweeps on the full set; the working set with its beliefs renewed and likely grid points joined."""
        joint = self._joined(working)
        for _ in range(n_sweeps):
            joint = joint.sweep()
        return self._divided(working, joint)

    def _joined(self, working: WorkingSet) -> _FullSet:
        """Working set and grid as one, in the order of ``Paths.build``."""
        problem, graph = working.problem, working.graph.with_points(working.n_points + len(self.points_m))
        size = working.n_users * len(self.points_m)
        if self.state is None or self.mean is None:
            self.state, self.mean = (
                self._at_spike(working.problem, working.prior, size),
                np.zeros(size, complex),
            )
        paths = graph.paths(working.unlocated_user)
        place = _positions(working, size)
        order = np.argsort(place, kind="stable")
        background = point_parameters(self.points_m, working.fit.scene, problem.receiver)
        parameters = _taken(_appended(working.fit.parameters, background), order)
        atoms = make_atoms(parameters, paths, problem.receiver)
        engine = self.engine(problem, atoms, problem.user_energies[paths.user])
        return _FullSet(
            working=working,
            prior=working.prior,
            graph=graph,
            classes=_classes(paths, working.n_users),
            engine=engine,
            place=place,
            state=working.state.append(self.state).take(order),
            mean=np.concatenate([working.fit.posterior.mean, self.mean])[order],
        )

    def _at_spike(self, problem: Problem, prior: ThreeLayerPrior, size: int) -> PriorState:
        n_users = len(problem.user_energies)
        users = np.tile(np.arange(n_users), size // n_users)
        spike = _spike_precision(problem, prior.slab_precision)
        return PriorState.initial(size, spike[users], _UNLIKELY)

    def _divided(self, working: WorkingSet, joint: _FullSet) -> WorkingSet:
        """Beliefs of working set and grid apart again; likely grid points join the working set."""
        n_own, n_users, n_lines = len(working.fit.paths), working.n_users, working.graph.n_lines
        in_set, rest = joint.place[:n_own], joint.place[n_own:]
        self.state, self.mean = joint.state.take(rest), joint.mean[rest]
        likely, chosen = self._likely_points(working, joint)
        pairs_of = np.arange(rest.size).reshape(-1, n_users)
        end = n_lines + n_users * working.n_points
        index = np.concatenate([in_set[:end], rest[pairs_of[chosen].ravel()], in_set[end:]])
        self._rejoin_spike(working.problem, joint.prior, pairs_of[likely].ravel())

        scene = working.fit.scene
        scene = replace(scene, points_m=np.vstack([scene.points_m, self.points_m[chosen]]))
        graph = joint.graph.with_points(working.n_points + chosen.size)
        state = joint.state.take(index)
        fit = evaluate(working.problem, scene, graph.paths(working.unlocated_user), state.precision)
        return WorkingSet(fit, joint.prior, state, graph)

    def _likely_points(self, working: WorkingSet, joint: _FullSet) -> tuple[IntArray, IntArray]:
        """Grid points more likely than not, and those of them that join, the likeliest of each cell."""
        if not len(self.points_m):
            return np.zeros(0, np.int64), np.zeros(0, np.int64)
        ratio = joint.state.log_likelihood_ratio
        first = working.graph.n_lines
        pairs = ratio[first : first + working.n_users * joint.graph.n_points]
        log_odds = joint.graph.points.gate_log_odds(pairs)[working.n_points :]
        likely = np.flatnonzero(log_odds > np.log(_ACTIVE / (1 - _ACTIVE)))
        likely = likely[np.argsort(-log_odds[likely], kind="stable")]
        chosen: list[int] = []
        for point in likely:
            apart = np.linalg.norm(self.points_m[chosen] - self.points_m[point], axis=1)
            if np.all(apart > working.problem.length_cell_m):
                chosen.append(int(point))
        return likely, np.array(chosen, dtype=np.int64)

    def _rejoin_spike(self, problem: Problem, prior: ThreeLayerPrior, pairs: IntArray) -> None:
        """Put pairs back to the spike: what they explained is the working set's from now on."""
        assert self.state is not None and self.mean is not None
        fresh = self._at_spike(problem, prior, self.mean.size)
        is_new = np.zeros(self.mean.size, bool)
        is_new[pairs] = True
        self.state = PriorState(
            *(
                np.where(is_new, getattr(fresh, name), getattr(self.state, name))
                for name in PriorState.__dataclass_fields__
            )
        )
        self.mean = np.where(is_new, 0, self.mean)


@dataclass(frozen=True, eq=False)
class _FullSet:
    """Working set and grid for the sweeps of one E-step.

    ``place`` holds the position of the working set's paths and then of the grid's in the full set; ``state``
    and ``mean`` are in the order of the full set.
    """

    working: WorkingSet
    prior: ThreeLayerPrior
    graph: ScenePriorGraph
    classes: IntArray
    engine: Engine
    place: IntArray
    state: PriorState
    mean: ComplexArray

    def sweep(self) -> _FullSet:
        """Sweep the full set once: Gaussian posterior, message, support graph and precision."""
        prior = self.prior.with_spike_precision(
            _spike_precision(self.working.problem, self.prior.slab_precision)
        )
        posterior = self.engine(self.state.precision, self.mean)
        prior, state, graph = prior.sweep(
            self.state, posterior.message(), posterior.mean, posterior.variance, self.classes, self.graph
        )
        return replace(self, prior=prior, state=state, graph=graph, mean=posterior.mean)


def _positions(working: WorkingSet, n_background: int) -> IntArray:
    """Position of the working set's paths, then of the grid's, when both are in the order of a scene."""
    n_located = working.graph.n_lines + working.n_users * working.n_points
    place = np.arange(len(working.fit.paths))
    place = np.where(place < n_located, place, place + n_background)
    return np.concatenate([place, n_located + np.arange(n_background)])


def _appended(first: PathParameters, background: PathParameters) -> PathParameters:
    """Parameters of two sets of paths, without derivatives."""
    steering = None
    if first.steering is not None and background.steering is not None:
        steering = np.concatenate([first.steering[:1], background.steering], axis=1)
    length = np.concatenate([first.length_m, background.length_m])
    cosines = np.concatenate([first.cosines, background.cosines], axis=1)
    return PathParameters(length, cosines, steering, PathJacobian.none(length.size))


def _taken(parameters: PathParameters, order: IntArray) -> PathParameters:
    """Parameters in another order."""
    steering = None if parameters.steering is None else parameters.steering[:, order]
    return replace(
        parameters,
        length_m=parameters.length_m[order],
        cosines=parameters.cosines[:, order],
        steering=steering,
    )
