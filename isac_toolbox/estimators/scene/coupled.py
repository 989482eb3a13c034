"""A Gauss-Newton step of the elements' coupling (docs/theory.md, section 6.12)."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from isac_toolbox.channel.atoms.dense import make_atoms, through
from isac_toolbox.estimators.scene.element_information import paths_and_scene
from isac_toolbox.estimators.scene.fit import Fit, channel_parts, learned_elements
from isac_toolbox.estimators.scene.problem import Problem
from isac_toolbox.estimators.symbols.coupling import Coupling

__all__ = ["calibrated", "learned_coupling"]

RealArray = NDArray[np.float64]
ComplexArray = NDArray[np.complex128]

# Guard: added to the diagonal of a matrix scaled to one, near the rounding of its entries.
_RIDGE = 1e-9


def calibrated(fit: Fit, follows: bool = False) -> Problem:
    """Return a fit's problem under the elements' responses and the coupling that its channel shows.

    ``follows`` says that a step of the scene comes next, so that directions follow the coupling.
    """
    problem = fit.problem
    if problem.elements is not None:
        problem = problem.calibrated(learned_elements(fit))
    if problem.coupling is not None:
        problem = problem.coupled(learned_coupling(fit, follows))
    return problem


def learned_coupling(fit: Fit, follows: bool = True) -> Coupling:
    """Return the coupling after a step, gains following it, and directions where a step of them comes next.

    Without that step directions that were to follow would be left behind, and steps taken again and again
    run away.
    """
    coupling, gamma = fit.problem.coupling, fit.problem.noise_precision
    assert coupling is not None
    sent, across, products = _moments(fit, coupling)
    in_path = products[0]
    jacobian = fit.parameters.jacobian[: len(products) - 1]
    gains = fit.posterior.mean
    in_scene = np.einsum("l,slp,slr->pr", gains.conj(), jacobian, products[1:], optimize=True)
    in_real = np.concatenate([in_path.real, in_path.imag, in_scene.real])
    in_imaginary = np.concatenate([-in_path.imag, in_path.real, -in_scene.imag])
    inner, hidden = paths_and_scene(fit, keeps_pointing=True)
    if not follows:
        n_gains = 2 * len(fit.paths)
        inner, hidden[n_gains:] = inner[:n_gains, :n_gains], False
    crossing = 2 * gamma * np.concatenate([in_real, in_imaginary], axis=1)[hidden]
    gram = _gram(fit, coupling, sent)
    own = 2 * gamma * np.block([[gram.real, -gram.imag], [gram.imag, gram.real]])
    following = crossing.T @ _solved(inner, crossing)
    slope = 2 * gamma * coupling.kinds.sums(across)
    return coupling.refined(own - following, np.concatenate([slope.real, slope.imag]), own)


def _moments(fit: Fit, coupling: Coupling) -> tuple[ComplexArray, ComplexArray, ComplexArray]:
    """What a step of the coupling needs of the samples.

    Second moments (M, M) of the channel without coupling, its products (M, M) with what is left of the
    samples, and inner products (2 + D, L, R) of atoms of all types with what coefficients of one add.
    """
    receiver, gains = fit.problem.receiver, fit.posterior.mean
    ideal = make_atoms(fit.parameters, fit.paths, replace(receiver, whitening=None, coupling=None))
    n_users, n_elements = fit.problem.statistics.symbol_gram.shape[1], receiver.array.n_elements
    sent = np.zeros((n_elements, n_elements), complex)
    across = np.zeros((n_elements, n_elements), complex)
    zeroth = np.zeros((len(gains), n_elements), complex)
    first = np.zeros_like(zeroth)
    heard = np.ones(n_elements, bool) if receiver.element_mask is None else receiver.element_mask
    for turn, correlation, gram in channel_parts(fit):
        channel = ideal.synthesise(gains * turn, n_users)
        explained = through(gram, channel)
        flat = channel.reshape(-1, n_elements).conj()
        sent += flat.T @ explained.reshape(-1, n_elements)
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
    return sent, across, products


def _solved(matrix: RealArray, columns: RealArray) -> RealArray:
    """Solution of a positive definite system, scaled to unit diagonal."""
    scale = 1 / np.sqrt(np.maximum(np.diag(matrix), 1e-300))
    scaled = matrix * scale[:, None] * scale + _RIDGE * np.eye(len(matrix))
    return np.asarray(scale[:, None] * np.linalg.solve(scaled, scale[:, None] * columns))


def _gram(fit: Fit, coupling: Coupling, sent: ComplexArray) -> ComplexArray:
    """Inner products (R, R) of what coefficients of one add to the samples, of ``sent`` (M, M)."""
    receiver, columns = fit.problem.receiver, coupling.kinds.applied(np.ascontiguousarray(sent.T))
    if receiver.element_mask is not None:
        columns = columns * receiver.element_mask[:, None]
    if receiver.whitening is not None:
        square = receiver.whitening.matrix @ receiver.whitening.matrix
        columns = np.matmul(square, columns)
        if receiver.element_mask is not None:
            columns = columns * receiver.element_mask[:, None]
    gram = coupling.kinds.sums_of(columns)
    return (gram + gram.conj().T) / 2
