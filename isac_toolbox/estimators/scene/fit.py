"""A scene with the gains that suit it best, its normal equations and its covariance.

All on Gram matrices and correlations (docs/theory.md, sections 5 and 6).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from scipy.linalg.lapack import dpotrf, dpotri

from isac_toolbox.channel.atoms.dense import PathAtoms, fisher_blocks, make_atoms, through
from isac_toolbox.channel.atoms.frames import MovingAtoms
from isac_toolbox.channel.atoms.scene import PathJacobian, PathParameters, Paths, Scene, path_parameters
from isac_toolbox.estimators.scene.problem import Problem
from isac_toolbox.estimators.symbols.elements import ElementErrors
from isac_toolbox.inference.posterior import GaussianPosterior, unchecked_posterior

__all__ = [
    "Bundles",
    "Fit",
    "channel_parts",
    "completed",
    "diagonal_blocks",
    "element_errors_left",
    "evaluate",
    "learned_elements",
    "reduced_hessian",
    "residual_correlation",
    "residual_over_time",
    "scene_blocks",
    "scene_covariance",
]

RealArray = NDArray[np.float64]
ComplexArray = NDArray[np.complex128]

# Guard: smallest eigenvalue of the scaled Gauss-Newton matrix, near the rounding of its entries.
_FLATTEST = 1e-9


@dataclass(frozen=True, eq=False)
class Bundles:
    """What the paths of a block that moves are with the rays around them: the channel over time.

    Attributes
    ----------
    over_array, slopes_hz : ndarray of complex, shape (L, M)
        ``a + 2 j pi t s`` in the place of a path's gain times its response.
    entry_variance : ndarray, shape (K,)
        Of a channel entry.
    noise_variance : float
        Of a scaled sample.
    """

    over_array: ComplexArray
    slopes_hz: ComplexArray
    entry_variance: RealArray
    noise_variance: float


@dataclass(frozen=True, eq=False)
class Fit:
    """A scene with the gains that suit it best under the prior precisions.

    Attributes
    ----------
    problem : Problem
        What it fits.
    scene, paths
        Where it was evaluated.
    parameters : PathParameters
    gram : ndarray of complex, shape (L, L)
    correlation : ndarray of complex, shape (L,)
    slopes : ndarray of complex, shape (1 + D, L), optional
        Inner products of the derivative atoms with ``Z``, where they came along.
    posterior : GaussianPosterior
        Of the gains.
    excess : ndarray, shape (L,), optional
        Variance of what every path sees as noise, relative to the noise of the problem; one if not given.
    slopes_hz : ndarray of complex, shape (L,), optional
        By which gains change over a block, ``x (1 + 2 j pi t s)``, where they do.
    n_slopes : float
        Complex parameters of these that the samples determine.
    bundles : Bundles, optional
        Of a block that moves, where rays surround its paths.
    loss : ndarray, shape (P, P), optional
        Information on the scene that is lost as what elements hear of each other is not known.
    """

    problem: Problem
    scene: Scene
    paths: Paths
    parameters: PathParameters
    gram: ComplexArray
    correlation: ComplexArray
    slopes: ComplexArray | None
    posterior: GaussianPosterior
    excess: RealArray | None = None
    slopes_hz: ComplexArray | None = None
    n_slopes: float = 0.0
    bundles: Bundles | None = None
    loss: RealArray | None = None

    @cached_property
    def atoms(self) -> PathAtoms:
        """Atoms of the paths."""
        return make_atoms(self.parameters, self.paths, self.problem.receiver)

    @property
    def n_fitted(self) -> float:
        """Complex parameters: gains, and half of the scene's real ones."""
        return len(self.paths) + self.scene.n_parameters / 2

    @cached_property
    def objective(self) -> float:
        """Negative log posterior at the best gains, without constants (docs/theory.md, section 6).

        ``J = -gamma^2 zeta^H Sigma zeta + 1/2 (theta - theta_0)^T Lambda (theta - theta_0)``.
        """
        explained = self.problem.noise_precision * float(
            np.real(np.vdot(self.correlation, self.posterior.mean))
        )
        return self.problem.prior.penalty(self.scene) - explained

    @cached_property
    def normal_equations(self) -> tuple[RealArray, RealArray]:
        """Half Hessian (P, P) with the gains eliminated, and half gradient (P,), of the objective."""
        gamma, gains, prior = self.problem.noise_precision, self.posterior.mean, self.problem.prior
        gain_scene, scene_scene, fitted = scene_blocks(self)
        hessian = reduced_hessian(gain_scene, scene_scene, self.posterior, gamma)
        precision = prior.precision(self.scene)
        hessian.flat[:: len(hessian) + 1] += precision / 2
        slopes = self.slopes
        if slopes is None:
            slopes = self.problem.statistics.correlate(self.atoms, derivatives=True)[1:]
        slope = np.real(gains.conj() * (slopes - fitted))
        gradient = -gamma * self.parameters.derivatives.pull(slope)
        gradient = gradient + precision * prior.deviation(self.scene) / 2
        prior.add_coupling(hessian, gradient, self.scene)
        return hessian, gradient

    def under(self, problem: Problem, precision: RealArray) -> Fit:
        """Return the same scene on the same data at another noise level or under other precisions (L,)."""
        posterior = unchecked_posterior(self.gram, self.correlation, problem.noise_precision, precision)
        return replace(self, problem=problem, posterior=posterior)

    def restricted(self, scene: Scene, paths: Paths, index: NDArray[np.int64], precision: RealArray) -> Fit:
        """Return some of the paths, in the order of ``index``, on the scene of what they use."""
        gram, correlation = self.gram[index[:, None], index], self.correlation[index]
        return Fit(
            self.problem,
            scene,
            paths,
            path_parameters(scene, paths, self.problem.receiver),
            gram,
            correlation,
            None if self.slopes is None else self.slopes[:, index],
            unchecked_posterior(gram, correlation, self.problem.noise_precision, precision),
        )


def reduced_hessian(
    gain_scene: ComplexArray, scene_scene: RealArray, posterior: GaussianPosterior, gamma: float
) -> RealArray:
    """Return half the Hessian of the data without the gains, ``gamma S - gamma^2 Re(B^H Sigma B)``."""
    whitened = np.ascontiguousarray(posterior.whiten(gain_scene).T).view(np.float64)
    hessian = whitened @ whitened.T
    hessian *= -(gamma**2)
    hessian += gamma * scene_scene
    return hessian


def evaluate(problem: Problem, scene: Scene, paths: Paths, precision: RealArray) -> Fit:
    """Return the fit of a scene: inner products and posterior of the gains (docs/theory.md, section 5)."""
    parameters = path_parameters(scene, paths, problem.receiver)
    tables = problem.data.tables if scene.motion is None else None
    if tables is None:
        atoms = make_atoms(parameters, paths, problem.receiver)
        gram = problem.statistics.gram(atoms)
        correlation, slopes = problem.statistics.correlate(atoms), None
    else:
        gram = tables.gram(parameters, paths)
        correlations = tables.correlations(parameters, paths)
        correlation, slopes = correlations[0], correlations[1:]
    posterior = unchecked_posterior(gram, correlation, problem.noise_precision, precision)
    return Fit(problem, scene, paths, parameters, gram, correlation, slopes, posterior)


def completed(fit: Fit) -> Fit:
    """Return the fit with missing samples as its own channel predicts them; the same where none is missing.

    Repeated, it ends where the samples that are there are fitted alone (docs/theory.md, section 2.5).
    """
    statistics = fit.problem.statistics
    if statistics.missing is None:
        return fit
    channel = fit.atoms.synthesise(fit.posterior.mean, statistics.symbol_gram.shape[1])
    return evaluate(fit.problem.completed(channel), fit.scene, fit.paths, fit.posterior.prior_precision)


def residual_correlation(fit: Fit) -> ComplexArray:
    """Return ``E_k = Z_k - sum_j R[k, j] H_j``: what the paths leave of the correlations, (K, N, M)."""
    statistics = fit.problem.statistics
    residual = statistics.cross_correlation - statistics.explained(fit.atoms, fit.posterior.mean)
    if fit.problem.receiver.element_mask is not None:
        residual[..., ~fit.problem.receiver.element_mask] = 0
    return residual


def residual_over_time(fit: Fit) -> Iterator[tuple[slice, ComplexArray]]:
    """What the paths leave of the correlations, (K, N, Q', M) of some of the frames' Q times after others."""
    frames, atoms = fit.problem.statistics.frames, fit.atoms
    assert frames is not None
    heard = fit.problem.receiver.element_mask
    for part, some in frames.parts():
        residual = some.cross_correlation
        if isinstance(atoms, MovingAtoms):
            residual = residual - atoms.explained_over_time(some, fit.posterior.mean)
        yield part, residual if heard is None else np.where(heard, residual, 0)


def channel_parts(fit: Fit) -> list[tuple[ComplexArray, ComplexArray, ComplexArray]]:
    """Return turns of the paths (L,), ``Z`` (K, N, M) and ``R`` (N, K, K) of all frames, or of one block."""
    statistics, frames = fit.problem.statistics, fit.problem.statistics.frames
    if frames is None or not isinstance(fit.atoms, MovingAtoms):
        still = np.ones(len(fit.paths), complex)
        return [(still, statistics.cross_correlation, statistics.symbol_gram)]
    turns = frames.turns(fit.atoms.doppler_hz, fit.atoms.user)
    return [
        (turn, frames.cross_correlation[:, :, q], gram)
        for q, (turn, gram) in enumerate(zip(turns, frames.symbol_gram, strict=True))
    ]


def element_errors_left(fit: Fit) -> tuple[ComplexArray, RealArray]:
    """Return products of the fitted signal with what it leaves, and its energy, on every element, (M,)."""
    gains, n_users = fit.posterior.mean, fit.problem.statistics.symbol_gram.shape[1]
    n_elements = fit.problem.receiver.array.n_elements
    left, energy = np.zeros(n_elements, complex), np.zeros(n_elements)
    whitening = fit.problem.receiver.whitening
    for turn, correlation, gram in channel_parts(fit):
        channel = fit.atoms.synthesise(gains * turn, n_users)
        explained = through(gram, channel)
        if whitening is not None:
            # a step of Jacobi's: the gradient under the noise's covariance, the Hessian's diagonal
            channel = whitening.undo(channel)
            left = left + np.sum(channel.conj() * whitening.apply(correlation - explained), axis=(0, 1))
            power = np.sum(np.real(channel.conj() * through(gram, channel)), axis=(0, 1))
            energy = energy + np.real(np.diag(whitening.matrix @ whitening.matrix)) * power
            continue
        left = left + np.sum(channel.conj() * (correlation - explained), axis=(0, 1))
        energy = energy + np.sum(np.real(channel.conj() * explained), axis=(0, 1))
    heard = fit.problem.receiver.element_mask
    energy = energy if heard is None else np.where(heard, energy, 0.0)
    return left * (energy > 0), energy


def learned_elements(fit: Fit) -> ElementErrors:
    """Return the responses of the elements after a step, the channel as it is (docs/theory.md, 6.9)."""
    assert fit.problem.elements is not None
    return fit.problem.elements.refined(*element_errors_left(fit), fit.problem.noise_precision)


def scene_blocks(fit: Fit) -> tuple[ComplexArray, RealArray, ComplexArray]:
    """Return ``B`` (L, P), ``S`` (P, P) and the slopes ``G^(d,0) x`` (1 + D, L) of the fitted channel."""
    gains = fit.posterior.mean
    still = isinstance(fit.parameters.derivatives, PathJacobian)
    if still and (tables := fit.problem.data.tables) is not None:
        return tables.normal_blocks(fit.parameters, fit.paths, gains)
    gram = fit.problem.statistics.full_gram(fit.atoms)
    _, gain_scene, scene_scene = fisher_blocks(gram, gains, fit.parameters.jacobian)
    return gain_scene, scene_scene, gram[1:, 0] @ gains


def scene_covariance(fit: Fit) -> RealArray:
    """Return the covariance of the scene's vector from the inverse Gauss-Newton matrix, (P, P).

    Directions in which the scaled matrix is flatter than ``_FLATTEST`` are taken to be that flat. It is made
    once a fit.
    """
    made: RealArray | None = vars(fit).get("_scene_covariance")
    if made is None:
        made = vars(fit)["_scene_covariance"] = _scene_covariance(fit)
    return made


def _scene_covariance(fit: Fit) -> RealArray:
    hessian, _ = fit.normal_equations
    unknown = ~fit.problem.prior.known(fit.scene)
    covariance = np.zeros_like(hessian)
    if fit.loss is not None:
        hessian = hessian - fit.loss / 2
    inner = 2 * hessian[np.ix_(unknown, unknown)]
    scale = 1 / np.sqrt(np.maximum(np.diag(inner), 1e-12))
    inverse = _inverse(inner * scale[:, None] * scale)
    covariance[np.ix_(unknown, unknown)] = inverse * scale[:, None] * scale
    if fit.excess is not None:
        covariance = covariance @ _score_covariance(fit, fit.excess) @ covariance
    return covariance


def _inverse(scaled: RealArray) -> RealArray:
    """Inverse of a symmetric matrix of unit diagonal, its eigenvalues not below ``_FLATTEST``.

    By Cholesky factors where that bounds them: the trace of the inverse is not below its largest eigenvalue.
    """
    factor, failed = dpotrf(scaled, lower=True, clean=True)
    if not failed:
        lower, _ = dpotri(factor, lower=True)
        if np.trace(lower) * _FLATTEST < 1:
            return np.asarray(np.tril(lower) + np.tril(lower, -1).T)
    values, vectors = np.linalg.eigh(scaled)
    return np.asarray((vectors / np.maximum(values, _FLATTEST)) @ vectors.T)


def _score_covariance(fit: Fit, excess: RealArray) -> RealArray:
    """Covariance of the gradient of the objective where paths see unequal noise, (P, P).

    Of the gradient with the gains eliminated, the prior's part included; with equal noise it is the Hessian,
    and the covariance of the scene its inverse (docs/theory.md, section 6.4).
    """
    gamma, posterior = fit.problem.noise_precision, fit.posterior
    gain_scene, _, _ = scene_blocks(fit)
    root = np.sqrt(excess)
    louder = replace(fit, posterior=replace(posterior, mean=posterior.mean * root))
    cross, score, _ = scene_blocks(louder)
    cross = root[:, None] * cross
    through = posterior.covariance @ gain_scene
    gram = root[:, None] * fit.gram * root
    both = np.real(through.conj().T @ cross)
    inner = gamma * score - gamma**2 * (both + both.T)
    inner += gamma**3 * np.real(through.conj().T @ gram @ through)
    inner = 2 * inner + np.diag(fit.problem.prior.precision(fit.scene))
    scale = np.sqrt(np.maximum(np.diag(inner), 1e-300))
    values, vectors = np.linalg.eigh(inner / np.multiply.outer(scale, scale))
    semidefinite = (vectors * np.maximum(values, 0)) @ vectors.T  # but for rounding
    return np.asarray(semidefinite * np.multiply.outer(scale, scale))


def diagonal_blocks(covariance: RealArray) -> RealArray:
    """Return the 3 x 3 blocks on the diagonal, shape (S, 3, 3)."""
    n = len(covariance) // 3
    index = np.arange(n)
    return covariance.reshape(n, 3, n, 3)[index, :, index]
