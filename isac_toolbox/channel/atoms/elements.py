"""Derivatives of a channel in the responses of the array's elements (docs/theory.md, sections 6.9 and 8)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from isac_toolbox.channel.atoms.dense import PathAtoms, through
from isac_toolbox.channel.atoms.whitening import Whitening

__all__ = ["coupling_blocks", "element_blocks"]

RealArray = NDArray[np.float64]
ComplexArray = NDArray[np.complex128]


def element_blocks(
    atoms: PathAtoms,
    jacobian: RealArray,
    gains: ComplexArray,
    symbol_gram: ComplexArray,
    heard: NDArray[np.bool_] | None = None,
    whitening: Whitening | None = None,
) -> tuple[RealArray, RealArray]:
    """Return real inner products of a channel's derivatives in the elements with those in paths and scene.

    Parameters
    ----------
    atoms : PathAtoms
        Of L paths, as the elements hear them, without a whitening.
    jacobian : ndarray, shape (1 + D, L, P)
        Of lengths and spatial parameters in the scene's vector.
    gains : ndarray of complex, shape (L,)
    symbol_gram : ndarray of complex, shape (N, K, K)
    heard : ndarray of bool, shape (M,), optional
        Elements in use; all if not given.
    whitening : Whitening, optional
        Of the noise; white if not given.

    Returns
    -------
    cross : ndarray, shape (2 L + P, 2 M)
        Rows: real and imaginary parts of the gains, then the scene; columns: relative gains of the elements,
        then their phases.
    own : ndarray, shape (2 M, 2 M)
        Of the elements with each other; diagonal under white noise.
    """
    n_users = symbol_gram.shape[1]
    channel = atoms.synthesise(gains, n_users)
    explained = through(symbol_gram, channel)
    if heard is not None:
        explained = np.where(heard, explained, 0)
    conjugate, wavenumbers = atoms.delay.T.conj(), atoms.wavenumbers_per_m
    zeroth = np.empty((len(gains), channel.shape[2]), complex)
    first = np.empty_like(zeroth)
    for k in range(n_users):
        own = np.flatnonzero(atoms.user == k)
        zeroth[own] = conjugate[own] @ explained[k]
        first[own] = (conjugate[own] * wavenumbers) @ explained[k]
    steering = atoms.steering
    if whitening is not None:
        steering = whitening.apply(whitening.apply(steering))
    steering = steering.conj()
    in_path, in_length = steering[0] * zeroth, 1j * steering[0] * first
    slopes = np.concatenate([in_length[None], steering[1:] * zeroth])
    in_scene = np.einsum("l,slp,slm->pm", gains.conj(), jacobian, slopes, optimize=True)
    in_gain = np.concatenate([in_path.real, in_path.imag, in_scene.real])
    in_phase = np.concatenate([-in_path.imag, in_path.real, -in_scene.imag])
    cross = np.concatenate([in_gain, in_phase], axis=1)
    if whitening is None:
        energy = np.sum(np.real(channel.conj() * explained), axis=(0, 1))
        return cross, np.diag(np.tile(energy, 2))
    between = np.einsum("knm,knp->mp", channel.conj(), explained, optimize=True)
    if heard is not None:
        between = between * heard[:, None]
    between = between * (whitening.matrix @ whitening.matrix)
    return cross, np.block([[between.real, -between.imag], [between.imag, between.real]])


def coupling_blocks(
    atoms: PathAtoms,
    jacobian: RealArray,
    gains: ComplexArray,
    fields: ComplexArray,
    symbol_gram: ComplexArray,
) -> tuple[RealArray, RealArray, ComplexArray]:
    """Return real inner products of a channel's derivatives in complex coefficients with those of the rest.

    Parameters
    ----------
    atoms : PathAtoms
        Of L paths, as the samples have them.
    jacobian : ndarray, shape (1 + D, L, P)
    gains : ndarray of complex, shape (L,)
    fields : ndarray of complex, shape (R, K, N, M)
        Derivatives of the channel in the coefficients, as the samples have them, zero on unused elements.
    symbol_gram : ndarray of complex, shape (N, K, K)

    Returns
    -------
    cross : ndarray, shape (2 L + P, 2 R)
        Rows: real and imaginary parts of the gains, then the scene; columns: real, then imaginary parts.
    own : ndarray, shape (2 R, 2 R)
    explained : ndarray of complex, shape (R, K, N, M)
        Fields through the symbol Gram.
    """
    explained = np.stack([through(symbol_gram, field) for field in fields])
    products = np.stack([atoms.correlate(field, derivatives=True) for field in explained], axis=2)
    in_path = products[0]
    in_scene = np.einsum("l,slp,slr->pr", gains.conj(), jacobian, products[1:], optimize=True)
    in_real = np.concatenate([in_path.real, in_path.imag, in_scene.real])
    in_imaginary = np.concatenate([-in_path.imag, in_path.real, -in_scene.imag])
    flat = fields.reshape(len(fields), -1)
    gram = flat.conj() @ explained.reshape(len(fields), -1).T
    own = np.block([[gram.real, -gram.imag], [gram.imag, gram.real]])
    return np.concatenate([in_real, in_imaginary], axis=1), own, explained
