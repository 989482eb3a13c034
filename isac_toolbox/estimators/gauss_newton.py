"""Joint Gauss-Newton refinement of positions, clocks and gains, and its gradient counterpart.

All on Gram matrices and correlations (docs/theory.md, section 6).
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from scipy.linalg.lapack import dpotrf, dpotrs

from isac_toolbox.channel._scene_kernels import capped_step
from isac_toolbox.channel.atoms import PathAtoms, Statistics, fisher_blocks, make_atoms
from isac_toolbox.channel.observation import UplinkObservation
from isac_toolbox.channel.scene import (
    PathParameters,
    Paths,
    Receiver,
    Scene,
    ScenePrior,
    path_parameters,
)
from isac_toolbox.estimators.statistics import pilot_statistics
from isac_toolbox.inference.subspace import GaussianPosterior, unchecked_posterior

__all__ = [
    "Fit",
    "Problem",
    "evaluate",
    "gradient_steps",
    "normal_equations",
    "refine",
    "residual_correlation",
    "restricted",
    "reweighted",
    "scene_blocks",
    "scene_covariance",
    "with_noise_precision",
]

RealArray = NDArray[np.float64]
ComplexArray = NDArray[np.complex128]

_MAX_DAMPING_TRIES = 6
_STEP_CAP_CELLS = 0.7
# Share of the tolerance below which a promised fall of the objective is not worth a step.
_WORTHWHILE = 0.01
_FLATTEST = 1e-9
# Of a block of unit mean power: 140 dB of SNR, beyond what double precision resolves here.
_LARGEST_PRECISION = 1e14


@dataclass(frozen=True, eq=False)
class Problem:
    """Data and prior of one refinement: everything but the scene.

    Attributes
    ----------
    receiver : Receiver
    statistics : Statistics
        Of the block scaled to unit mean power.
    prior : ScenePrior
    region_m : ndarray, shape (2, 3)
    noise_precision : float
        Inverse noise variance of a scaled sample.
    noise_known : bool
        Whether it was given rather than estimated.
    """

    receiver: Receiver
    statistics: Statistics
    prior: ScenePrior
    region_m: RealArray
    noise_precision: float
    noise_known: bool = False

    @classmethod
    def on_pilots(cls, obs: UplinkObservation, received: ComplexArray, scale: float) -> Problem:
        """The problem on the pilots of a scaled block, noise as given or not known yet."""
        known = obs.noise_variance is not None
        precision = scale**2 / obs.noise_variance if obs.noise_variance is not None else 1.0
        statistics = pilot_statistics(obs, received)
        return cls(Receiver.of(obs), statistics, ScenePrior.of(obs), obs.region_m, precision, known)

    @cached_property
    def length_cell_m(self) -> float:
        """Resolution in path length, ``c / bandwidth``."""
        wavenumbers = self.receiver.wavenumbers_per_m
        n = wavenumbers.size
        return float(2 * np.pi * (n - 1) / n / np.ptp(wavenumbers))

    @cached_property
    def user_energies(self) -> RealArray:
        """Squared norm ``M sum_n R_n[k, k]`` of a path atom of every user, shape (K,)."""
        return self.receiver.array.n_elements * self.statistics.user_energies

    def of_user(self, user: int) -> Problem:
        """The problem of one user, for users that decouple."""
        statistics = self.statistics.of_user(user, self.receiver)
        return replace(self, statistics=statistics, prior=self.prior.of_user(user))

    @cached_property
    def cosine_cells(self) -> RealArray:
        """Resolution in the direction cosines, ``1 / (M d)``, shape (2,)."""
        array = self.receiver.array
        return 1 / (np.asarray(array.shape) * np.asarray(array.spacings))

    @cached_property
    def free_cells(self) -> RealArray:
        """Resolution in length and direction cosines, shape (3,)."""
        return np.array([self.length_cell_m, *self.cosine_cells])


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


def refine(problem: Problem, fit: Fit, n_steps: int, tol: float = 1e-6) -> Fit:
    """Levenberg-Marquardt steps on all unknowns together; the objective never rises.

    Parameters
    ----------
    problem : Problem
    fit : Fit
        Start.
    n_steps : int
        Largest number of accepted steps.
    tol : float
        Stop when a step lowers the objective by less than this (in nats).
    """
    damping, free = 1e-6, ~problem.prior.known(fit.scene)
    if not free.any():
        return fit
    for _ in range(n_steps):
        hessian, gradient = normal_equations(problem, fit)
        if not free.all():
            hessian, gradient = hessian[np.ix_(free, free)], gradient[free]
        trial, damping = _damped_step(problem, fit, hessian, gradient, free, damping, _WORTHWHILE * tol)
        if trial is None:
            break
        gain, fit = fit.objective - trial.objective, trial
        if gain < tol:
            break
    return fit


def _damped_step(
    problem: Problem,
    fit: Fit,
    hessian: RealArray,
    gradient: RealArray,
    free: NDArray[np.bool_],
    damping: float,
    least: float,
) -> tuple[Fit | None, float]:
    """First step of rising damping that lowers the objective, and the next damping.

    None where no step does, or where its quadratic model promises a fall of less than ``least``.
    """
    scale = 1 / np.sqrt(np.maximum(np.diag(hessian), 1e-12))
    scaled, scaled_gradient = hessian * scale[:, None] * scale, scale * gradient
    diagonal = np.diag(scaled).copy()
    for _ in range(_MAX_DAMPING_TRIES):
        scaled.flat[:: len(scaled) + 1] = diagonal + damping
        factor, failed = dpotrf(scaled, lower=True, clean=False)
        if failed:
            damping *= 10
            continue
        solution = dpotrs(factor, scaled_gradient, lower=True)[0]
        if scaled_gradient @ solution < least:
            break
        step = np.zeros(free.size)
        step[free] = -scale * solution
        trial = evaluate(problem, _moved(problem, fit.scene, step), fit.paths, fit.posterior.prior_precision)
        if trial.objective < fit.objective:
            return trial, max(damping / 10, 1e-9)
        damping = damping * 10
    return None, damping


def _moved(problem: Problem, scene: Scene, step: RealArray) -> Scene:
    """The scene after a step, capped to a fraction of the resolution cell; points stay in the region."""
    cap = _STEP_CAP_CELLS * problem.length_cell_m
    parts = (scene.points_m, scene.users_m, scene.offsets_m, scene.free_m)
    return Scene(*capped_step(parts, step, cap, _STEP_CAP_CELLS * problem.free_cells, problem.region_m))


def gradient_steps(problem: Problem, fit: Fit, n_steps: int) -> Fit:
    """Block-wise gradient M-step: points, users, offsets and free paths one after another.

    Each block moves along its own gradient by its Cauchy step, halved until the objective falls; the blocks
    are not coupled, the gains are renewed at every trial. Kept for comparison (docs/theory.md, section 6).
    """
    known = problem.prior.known(fit.scene)
    for _ in range(n_steps):
        for block in fit.scene.blocks():
            fit = _gradient_block_step(problem, fit, block, known)
    return fit


def _gradient_block_step(problem: Problem, fit: Fit, block: slice, known: NDArray[np.bool_]) -> Fit:
    hessian, gradient = normal_equations(problem, fit)
    direction = np.zeros_like(gradient)
    direction[block] = -np.where(known[block], 0.0, gradient[block])
    curvature = float(direction @ hessian @ direction)
    squared = float(direction @ direction)
    if squared == 0 or curvature <= 0:
        return fit
    length = squared / curvature
    for _ in range(_MAX_DAMPING_TRIES):
        scene = _moved(problem, fit.scene, length * direction)
        trial = evaluate(problem, scene, fit.paths, fit.posterior.prior_precision)
        if trial.objective < fit.objective:
            return trial
        length /= 2
    return fit


def with_noise_precision(problem: Problem, noise_precision: float) -> Problem:
    """The same problem at another noise precision, unless the noise is known."""
    if problem.noise_known:
        return problem
    return replace(problem, noise_precision=min(noise_precision, _LARGEST_PRECISION))
