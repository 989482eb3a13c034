"""A scene with the gains that suit it best, its normal equations and its covariance.

All on Gram matrices and correlations (docs/theory.md, sections 5 and 6).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from isac_toolbox.channel.atoms.dense import PathAtoms, fisher_blocks, make_atoms
from isac_toolbox.channel.atoms.receiver import Receiver
from isac_toolbox.channel.atoms.scene import PathParameters, Paths, Scene, path_parameters
from isac_toolbox.estimators.scene.problem import Problem
from isac_toolbox.inference.posterior import GaussianPosterior, unchecked_posterior

__all__ = [
    "Fit",
    "evaluate",
    "normal_equations",
    "residual_correlation",
    "restricted",
    "reweighted",
    "scene_blocks",
    "scene_covariance",
]

RealArray = NDArray[np.float64]
ComplexArray = NDArray[np.complex128]
_FLATTEST = 1e-9


@dataclass(frozen=True, eq=False)
class Fit:
    """A scene with the gains that suit it best under the prior precisions.

    Attributes
    ----------
    scene, paths
        Where it was evaluated.
    parameters : PathParameters
    receiver : Receiver
    gram : ndarray of complex, shape (L, L)
    correlation : ndarray of complex, shape (L,)
    slopes : ndarray of complex, shape (1 + D, L), optional
        Inner products of the derivative atoms with ``Z``, where they came along.
    posterior : GaussianPosterior
        Of the gains.
    objective : float
        Negative log posterior at its best gains, without constants.
    """

    scene: Scene
    paths: Paths
    parameters: PathParameters
    receiver: Receiver
    gram: ComplexArray
    correlation: ComplexArray
    slopes: ComplexArray | None
    posterior: GaussianPosterior
    objective: float
    _normal: list[tuple[Problem, RealArray, RealArray]] = field(default_factory=list, init=False, repr=False)

    @cached_property
    def atoms(self) -> PathAtoms:
        """Atoms of the paths."""
        return make_atoms(self.parameters, self.paths, self.receiver)


def evaluate(problem: Problem, scene: Scene, paths: Paths, precision: RealArray) -> Fit:
    """Posterior of the gains and the objective at a scene (docs/theory.md, sections 5 and 6).

    ``J = -gamma^2 zeta^H Sigma zeta + 1/2 (theta - theta_0)^T Lambda (theta - theta_0)``.
    """
    parameters = path_parameters(scene, paths, problem.receiver)
    tables = problem.statistics.tables(problem.receiver)
    if tables is None:
        atoms = make_atoms(parameters, paths, problem.receiver)
        gram = atoms.gram(problem.statistics.coupling)
        correlation, slopes = atoms.correlate(problem.statistics.correlation), None
    else:
        gram = tables.gram(parameters, paths)
        correlations = tables.correlations(parameters, paths)
        correlation, slopes = correlations[0], correlations[1:]
    return _fit(problem, scene, paths, parameters, gram, correlation, slopes, precision)


def _fit(
    problem: Problem,
    scene: Scene,
    paths: Paths,
    parameters: PathParameters,
    gram: ComplexArray,
    correlation: ComplexArray,
    slopes: ComplexArray | None,
    precision: RealArray,
) -> Fit:
    """A fit from its inner products."""
    posterior = unchecked_posterior(gram, correlation, problem.noise_precision, precision)
    explained = problem.noise_precision * float(np.real(np.vdot(correlation, posterior.mean)))
    objective = problem.prior.penalty(scene) - explained
    receiver = problem.receiver
    return Fit(scene, paths, parameters, receiver, gram, correlation, slopes, posterior, objective)


def reweighted(problem: Problem, fit: Fit, precision: RealArray) -> Fit:
    """The same scene and data under other prior precisions or another noise precision."""
    inner = fit.gram, fit.correlation, fit.slopes
    return _fit(problem, fit.scene, fit.paths, fit.parameters, *inner, precision)


def restricted(
    problem: Problem, fit: Fit, scene: Scene, paths: Paths, index: NDArray[np.int64], precision: RealArray
) -> Fit:
    """Some of a fit's paths (in the order of ``index``) on the scene of what they use, on the same data."""
    parameters = path_parameters(scene, paths, problem.receiver)
    slopes = None if fit.slopes is None else fit.slopes[:, index]
    gram = fit.gram[index[:, None], index]
    return _fit(problem, scene, paths, parameters, gram, fit.correlation[index], slopes, precision)


def residual_correlation(problem: Problem, fit: Fit) -> ComplexArray:
    """``E_k = Z_k - sum_j R[k, j] H_j``: what the paths leave of the correlations, shape (K, N, M)."""
    statistics = problem.statistics
    channel = fit.atoms.synthesise(fit.posterior.mean, statistics.coupling.shape[1])
    explained = np.matmul(statistics.coupling, channel.transpose(1, 0, 2)).transpose(1, 0, 2)
    return statistics.correlation - explained


def normal_equations(problem: Problem, fit: Fit) -> tuple[RealArray, RealArray]:
    """Half Hessian (P, P) with the gains eliminated, and half gradient (P,), of the objective.

    Kept with the fit: tests of several changes of structure start from the same one.
    """
    for known, hessian, gradient in fit._normal:
        if known is problem:
            return hessian, gradient
    hessian, gradient = _normal_equations(problem, fit)
    fit._normal[:] = [(problem, hessian, gradient)]
    return hessian, gradient


def _normal_equations(problem: Problem, fit: Fit) -> tuple[RealArray, RealArray]:
    gamma, gains = problem.noise_precision, fit.posterior.mean
    gain_scene, scene_scene, fitted = scene_blocks(problem, fit)
    whitened = np.ascontiguousarray(fit.posterior.whiten(gain_scene).T).view(np.float64)
    hessian = gamma * scene_scene - gamma**2 * (whitened @ whitened.T)
    precision = problem.prior.precision(fit.scene)
    hessian.flat[:: len(hessian) + 1] += precision / 2
    slopes = fit.slopes
    if slopes is None:
        slopes = fit.atoms.correlate(problem.statistics.correlation, derivatives=True)[1:]
    slope = np.real(gains.conj() * (slopes - fitted))
    gradient = -gamma * fit.parameters.derivatives.pull(slope)
    return hessian, gradient + precision * problem.prior.deviation(fit.scene) / 2


def scene_blocks(problem: Problem, fit: Fit) -> tuple[ComplexArray, RealArray, ComplexArray]:
    """``B`` (L, P), ``S`` (P, P) and the slopes ``G^(d,0) x`` (1 + D, L) of the fitted channel."""
    gains = fit.posterior.mean
    tables = problem.statistics.tables(problem.receiver)
    if tables is not None:
        return tables.normal_blocks(fit.parameters, fit.paths, gains)
    gram = fit.atoms.full_gram(problem.statistics.coupling)
    _, gain_scene, scene_scene = fisher_blocks(gram, gains, fit.parameters.jacobian)
    return gain_scene, scene_scene, gram[1:, 0] @ gains


def scene_covariance(problem: Problem, fit: Fit) -> RealArray:
    """Covariance of the scene's vector from the inverse Gauss-Newton matrix, shape (P, P).

    Directions in which the scaled matrix is flatter than ``_FLATTEST`` are taken to be that flat.
    """
    hessian, _ = normal_equations(problem, fit)
    free = ~problem.prior.known(fit.scene)
    covariance = np.zeros_like(hessian)
    inner = 2 * hessian[np.ix_(free, free)]
    scale = 1 / np.sqrt(np.maximum(np.diag(inner), 1e-12))
    values, vectors = np.linalg.eigh(inner * scale[:, None] * scale)
    inverse = (vectors / np.maximum(values, _FLATTEST)) @ vectors.T
    covariance[np.ix_(free, free)] = inverse * scale[:, None] * scale
    return covariance
