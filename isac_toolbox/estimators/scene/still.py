"""A fit on its way through a refinement, where the scene is still and sums over tones are tabulated.

It is what :class:`Fit` is, on plain arrays: a refinement looks at dozens of them and keeps one, and a block
needs many refinements (docs/theory.md, section 6).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from isac_toolbox.channel.atoms.scene import PathParameters, StillPrior, trace_still
from isac_toolbox.channel.atoms.tables import BlockTables
from isac_toolbox.estimators.scene.fit import Fit, reduced_hessian
from isac_toolbox.estimators.scene.problem import Problem
from isac_toolbox.inference.posterior import GaussianPosterior, unchecked_posterior

__all__ = ["StillFit", "moved_paths", "moved_points"]

RealArray = NDArray[np.float64]
ComplexArray = NDArray[np.complex128]


class StillFit:
    """A scene as a vector, with the gains that suit it best.

    Attributes
    ----------
    start : Fit
        Where the refinement began: problem, paths and precisions are its own.
    prior : StillPrior
    vector : ndarray, shape (P,)
    parameters : PathParameters
    gram : ndarray of complex, shape (L, L)
    correlations : ndarray of complex, shape (4, L)
        Inner products of path, length and cosine atoms with ``Z``.
    posterior : GaussianPosterior
        Of the gains.
    objective : float
    """

    __slots__ = (
        "correlations",
        "gram",
        "objective",
        "parameters",
        "posterior",
        "prior",
        "start",
        "tables",
        "vector",
    )

    def __init__(
        self,
        start: Fit,
        tables: BlockTables,
        prior: StillPrior,
        vector: RealArray,
        parameters: PathParameters,
        gram: ComplexArray,
        correlations: ComplexArray,
        posterior: GaussianPosterior,
    ) -> None:
        self.start, self.tables, self.prior = start, tables, prior
        self.vector, self.parameters = vector, parameters
        self.gram, self.correlations, self.posterior = gram, correlations, posterior
        away = vector - prior.mean
        explained = np.vdot(correlations[0], posterior.mean).real
        self.objective = 0.5 * float(prior.precision * away @ away) - start.problem.noise_precision * float(
            explained
        )

    @classmethod
    def of(cls, fit: Fit) -> StillFit | None:
        """Return a fit as one of these, None where its scene moves or has no tables."""
        scene, problem = fit.scene, fit.problem
        tables = problem.data.tables
        plain = scene.motion is None and scene.pointing is None and problem.prior.turn is None
        if tables is None or fit.slopes is None or not plain:
            return None
        prior = problem.prior.at_rest(len(scene.points_m), len(scene.unlocated_m))
        correlations = np.concatenate([fit.correlation[None], fit.slopes])
        at = fit.parameters, fit.gram, correlations, fit.posterior
        return cls(fit, tables, prior, scene.vector(), *at)

    @property
    def problem(self) -> Problem:
        """What the scene is fitted to."""
        return self.start.problem

    @property
    def points_m(self) -> RealArray:
        """Places of the points, shape (S, 3)."""
        return self.vector[: self.start.scene.points_m.size].reshape(-1, 3)

    def fit(self) -> Fit:
        """Return it with all that others ask of a fit."""
        start = self.start
        if self.parameters is start.parameters:
            return start
        scene = start.scene.with_vector(self.vector)
        correlation, slopes = self.correlations[0], self.correlations[1:]
        fit = Fit(
            start.problem, scene, start.paths, self.parameters, self.gram, correlation, slopes, self.posterior
        )
        vars(fit)["objective"] = self.objective
        return fit

    @property
    def normal_equations(self) -> tuple[RealArray, RealArray]:
        """Half Hessian (P, P) with the gains eliminated, and half gradient (P,), of the objective."""
        gamma, gains, prior = self.start.problem.noise_precision, self.posterior.mean, self.prior
        gain_scene, scene_scene, fitted = self.tables.normal_blocks(self.parameters, self.start.paths, gains)
        hessian = reduced_hessian(gain_scene, scene_scene, self.posterior, gamma)
        hessian.ravel()[:: len(hessian) + 1] += prior.precision / 2
        slope = np.real(gains.conj() * (self.correlations[1:] - fitted))
        gradient = prior.precision * (self.vector - prior.mean)
        gradient *= 0.5
        gradient -= gamma * self.parameters.derivatives.pull(slope)
        return hessian, gradient

    def moved(self, step: RealArray, cap_m: float, caps: RealArray) -> StillFit:
        """Return the fit after a step (P,) of points by at most ``cap_m``, of paths by ``caps`` (3,)."""
        start = self.start
        vector = self.vector + step
        points, _, _, unlocated = start.scene.blocks()
        region_m = start.problem.region_m
        if points.stop:
            vector[points] = moved_points(
                self.vector[points].reshape(-1, 3), step[points].reshape(-1, 3), cap_m, region_m
            ).ravel()
        if unlocated.stop > unlocated.start:
            vector[unlocated] = moved_paths(
                self.vector[unlocated].reshape(-1, 3), step[unlocated].reshape(-1, 3), caps
            ).ravel()
        return self._at(vector)

    def _at(self, vector: RealArray) -> StillFit:
        """The fit of another vector."""
        start, tables = self.start, self.tables
        problem, paths = start.problem, start.paths
        scene = start.scene.with_vector(vector)
        parameters = trace_still(scene, paths, problem.receiver)
        gram, correlations = tables.gram(parameters, paths), tables.correlations(parameters, paths)
        precision = start.posterior.prior_precision
        posterior = unchecked_posterior(gram, correlations[0], problem.noise_precision, precision)
        return StillFit(start, tables, self.prior, vector, parameters, gram, correlations, posterior)


def moved_points(points_m: RealArray, moves_m: RealArray, cap_m: float, region_m: RealArray) -> RealArray:
    """Return points (S, 3) after moves of at most ``cap_m`` each, inside the region (2, 3)."""
    if not len(points_m):
        return points_m
    length = np.sqrt(np.einsum("sx,sx->s", moves_m, moves_m))
    share = np.minimum(1.0, cap_m / np.maximum(length, 1e-300))
    moved = points_m + share[:, None] * moves_m
    return np.asarray(np.minimum(np.maximum(moved, region_m[0]), region_m[1]))


def moved_paths(unlocated_m: RealArray, moves: RealArray, caps: RealArray) -> RealArray:
    """Return unlocated paths (F, 3) after moves of at most ``caps`` (3,), their parameters scaled alike."""
    if not len(unlocated_m):
        return unlocated_m
    excess = np.maximum(1.0, np.max(np.abs(moves) / caps, axis=1))
    return np.asarray(unlocated_m + moves / excess[:, None])
