"""Elements' responses and coupling after a Gauss-Newton step (docs/theory.md, sections 6.9 and 6.12)."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import block_diag

from isac_toolbox.channel.atoms.dense import make_atoms, through
from isac_toolbox.channel.atoms.receiver import Receiver
from isac_toolbox.estimators.scene.element_information import element_products, paths_and_scene
from isac_toolbox.estimators.scene.fit import Fit, channel_parts, element_errors_left, learned_elements
from isac_toolbox.estimators.scene.problem import Problem
from isac_toolbox.estimators.symbols.coupling import Coupling
from isac_toolbox.estimators.symbols.joint_elements import posterior_of

__all__ = ["calibrated", "with_loss"]

RealArray = NDArray[np.float64]
ComplexArray = NDArray[np.complex128]

# Guard: added to the diagonal of a matrix scaled to one, near the rounding of its entries.
_RIDGE = 1e-9


def calibrated(fit: Fit, follows: bool = False) -> Problem:
    """Return a fit's problem under the elements' responses and the coupling that its channel shows.

    Responses that are independent beforehand, without coupling, are learned with the channel as it is.
    Others take a step together, gains of the paths following it, and places and directions too where
    ``follows`` says that a step of the scene comes next: without that step they would be left behind, and
    steps taken again and again run away.
    """
    problem = fit.problem
    elements = problem.elements
    if problem.coupling is None and (elements is None or elements.joint is None):
        return problem if elements is None else problem.calibrated(learned_elements(fit))
    step = _Step.of(fit, follows)
    values, covariance = step.posterior()
    n_own = 0 if elements is None else 2 * elements.nominal.size
    if elements is not None:
        deviations = step.deviations_alone(n_own)
        problem = problem.calibrated(elements.at(values[:n_own], deviations))
    if problem.coupling is not None:
        told = step.n_told(n_own)
        after = problem.coupling.at(values[n_own:], covariance[n_own:, n_own:], told)
        problem = problem.coupled(after)
    return problem


def with_loss(fit: Fit) -> Fit:
    """Return a fit that knows how much less it says of its scene, as coupling is not known."""
    coupling, n_gains = fit.problem.coupling, 2 * len(fit.paths)
    if coupling is None:
        return fit
    sums, gamma = _moments(fit, coupling), 2 * fit.problem.noise_precision
    inner, hidden = paths_and_scene(fit, keeps_pointing=True)
    across = gamma * sums.crossing(fit)[hidden]
    following = _solved(inner[:n_gains, :n_gains], np.hstack([inner[:n_gains, n_gains:], across[:n_gains]]))
    n_scene = len(inner) - n_gains
    own = gamma * sums.own - across[:n_gains].T @ following[:, n_scene:]
    rest = across[n_gains:] - inner[n_gains:, :n_gains] @ following[:, n_scene:]
    own = own + np.diag(np.tile(2 / coupling.prior_stds**2, 2))
    loss = np.zeros((fit.scene.n_parameters, fit.scene.n_parameters))
    unknown = np.flatnonzero(hidden[n_gains:])
    loss[np.ix_(unknown, unknown)] = rest @ np.linalg.solve((own + own.T) / 2, rest.T)
    return replace(fit, loss=(loss + loss.T) / 2)


@dataclass(frozen=True, eq=False)
class _Step:
    """A Gauss-Newton step of elements' gains and phases and of what they hear of each other.

    Attributes
    ----------
    prior : ndarray, shape (Q, Q)
        Covariance, of mean zero.
    values, slope : ndarray, shape (Q,)
        Where it starts, and the slope of the log likelihood there.
    own, information : ndarray, shape (Q, Q)
        Of the samples with the paths as they are, and with paths that follow.
    """

    prior: RealArray
    values: RealArray
    slope: RealArray
    own: RealArray
    information: RealArray

    @classmethod
    def of(cls, fit: Fit, follows: bool) -> _Step:
        """Return the step from a fit."""
        elements, coupling = fit.problem.elements, fit.problem.coupling
        priors, values, slopes, crossing = [], [], [], []
        own = np.zeros((0, 0))
        if elements is not None:
            priors.append(elements.covariance)
            values.append(np.concatenate([elements.log_response.real, elements.log_response.imag]))
            left, _ = element_errors_left(fit)
            slopes.append(np.concatenate([left.real, left.imag]))
            cross, own = element_products(fit)
            crossing.append(cross)
        if coupling is not None:
            priors.append(np.diag(np.tile(coupling.prior_stds**2 / 2, 2)))
            values.append(np.concatenate([coupling.coefficients.real, coupling.coefficients.imag]))
            sums = _moments(fit, coupling)
            slopes.append(np.concatenate([sums.slope.real, sums.slope.imag]))
            crossing.append(sums.crossing(fit))
            between = sums.with_elements if elements is not None else np.zeros((0, 2 * len(sums.gram)))
            own = np.block([[own, between], [between.T, sums.own]])
        inner, hidden = paths_and_scene(fit, keeps_pointing=elements is None)
        if not follows:
            n_gains = 2 * len(fit.paths)
            inner, hidden[n_gains:] = inner[:n_gains, :n_gains], False
        gamma = 2 * fit.problem.noise_precision
        across = gamma * np.concatenate(crossing, axis=1)[hidden]
        own = gamma * own
        following = across.T @ _solved(inner, across)
        return cls(
            block_diag(*priors),
            np.concatenate(values),
            gamma * np.concatenate(slopes),
            own,
            own - (following + following.T) / 2,
        )

    def posterior(self) -> tuple[RealArray, RealArray]:
        """Mean (Q,) and covariance (Q, Q) after the step."""
        vector = self.information @ self.values + self.slope
        return posterior_of(self.prior, self.information, vector)

    def deviations_alone(self, count: int) -> RealArray:
        """Deviations (count,) of the first values with all else as it is."""
        prior, own = self.prior[:count, :count], self.own[:count, :count]
        _, covariance = posterior_of(prior, own, np.zeros(count))
        return np.sqrt(np.maximum(np.diag(covariance), 0.0))

    def n_told(self, first: int) -> float:
        """Complex parameters from the first on that the samples tell rather than the prior."""
        prior, own = self.prior[first:, first:], self.own[first:, first:]
        _, covariance = posterior_of(prior, own, np.zeros(len(own)))
        return float(np.sum(covariance * own)) / 2


@dataclass(frozen=True, eq=False)
class _Sums:
    """What a step of the coupling needs of the samples, per unit noise precision.

    Attributes
    ----------
    slope : ndarray of complex, shape (R,)
    products : ndarray of complex, shape (2 + D, L, R)
        Inner products of atoms of all types with what coefficients of one add.
    gram : ndarray of complex, shape (R, R)
        The same of these with each other.
    of_elements : ndarray of complex, shape (M, R)
        The same of the channel on one element with these.
    """

    slope: ComplexArray
    products: ComplexArray
    gram: ComplexArray
    of_elements: ComplexArray

    @property
    def own(self) -> RealArray:
        """Real inner products of real, then imaginary parts of the coefficients, (2 R, 2 R)."""
        return np.block([[self.gram.real, -self.gram.imag], [self.gram.imag, self.gram.real]])

    @property
    def with_elements(self) -> RealArray:
        """Real inner products of gains and phases of the elements with the coefficients, (2 M, 2 R)."""
        real, imaginary = self.of_elements.real, self.of_elements.imag
        return np.block([[real, -imaginary], [imaginary, real]])

    def crossing(self, fit: Fit) -> RealArray:
        """Real inner products of gains and scene with the coefficients, shape (2 L + P, 2 R)."""
        gains, in_path = fit.posterior.mean, self.products[0]
        jacobian = fit.parameters.jacobian[: len(self.products) - 1]
        in_scene = np.einsum("l,slp,slr->pr", gains.conj(), jacobian, self.products[1:], optimize=True)
        in_real = np.concatenate([in_path.real, in_path.imag, in_scene.real])
        in_imaginary = np.concatenate([-in_path.imag, in_path.real, -in_scene.imag])
        return np.concatenate([in_real, in_imaginary], axis=1)


def _moments(fit: Fit, coupling: Coupling) -> _Sums:
    """What a step of the coupling needs of the samples."""
    receiver, gains = fit.problem.receiver, fit.posterior.mean
    ideal = make_atoms(fit.parameters, fit.paths, replace(receiver, whitening=None, coupling=None))
    n_users, n_elements = fit.problem.statistics.symbol_gram.shape[1], receiver.array.n_elements
    sent = np.zeros((n_elements, n_elements), complex)
    across, heard_sent = np.zeros_like(sent), np.zeros_like(sent)
    zeroth = np.zeros((len(gains), n_elements), complex)
    first = np.zeros_like(zeroth)
    heard = np.ones(n_elements, bool) if receiver.element_mask is None else receiver.element_mask
    for turn, correlation, gram in channel_parts(fit):
        channel = ideal.synthesise(gains * turn, n_users)
        explained = through(gram, channel)
        flat = channel.reshape(-1, n_elements).conj()
        sent += flat.T @ explained.reshape(-1, n_elements)
        heard_sent += (flat @ coupling.matrix.T.conj()).T @ explained.reshape(-1, n_elements)
        left = correlation - through(gram, fit.atoms.synthesise(gains * turn, n_users))
        across += np.where(heard, receiver.whitened(left), 0).reshape(-1, n_elements).T @ flat
        for k in range(n_users):
            own = np.flatnonzero(fit.paths.user == k)
            along = ideal.delay[:, own].T.conj() * np.conj(turn[own])[:, None]
            zeroth[own] += along @ explained[k]
            first[own] += (1j * along * ideal.wavenumbers_per_m) @ explained[k]
    responses = receiver.whitened(np.where(heard, fit.atoms.steering, 0)).conj()
    sides = [(responses[0], zeroth), (responses[0], first), *((side, zeroth) for side in responses[1:])]
    products = np.stack([coupling.kinds.sums(side.T[:, None, :] * moments.T).T for side, moments in sides])
    square = _metric(receiver)
    columns = np.matmul(square, coupling.kinds.applied(np.ascontiguousarray(sent.T)))
    gram = coupling.kinds.sums_of(columns)
    alone = coupling.kinds.applied(np.ascontiguousarray(heard_sent.T))
    of_elements = np.einsum("ab,rba->ar", square, alone, optimize=True)
    return _Sums(coupling.kinds.sums(across), products, (gram + gram.conj().T) / 2, of_elements)


def _metric(receiver: Receiver) -> ComplexArray:
    """Inverse covariance of the noise over the elements in use, shape (M, M)."""
    n_elements = receiver.array.n_elements
    heard = np.ones(n_elements) if receiver.element_mask is None else receiver.element_mask.astype(float)
    if receiver.whitening is None:
        return np.diag(heard).astype(complex)
    square = receiver.whitening.matrix @ receiver.whitening.matrix
    return np.asarray(square * np.multiply.outer(heard, heard))


def _solved(matrix: RealArray, columns: RealArray) -> RealArray:
    """Solution of a positive definite system, scaled to unit diagonal."""
    scale = 1 / np.sqrt(np.maximum(np.diag(matrix), 1e-300))
    scaled = matrix * scale[:, None] * scale + _RIDGE * np.eye(len(matrix))
    return np.asarray(scale[:, None] * np.linalg.solve(scaled, scale[:, None] * columns))
