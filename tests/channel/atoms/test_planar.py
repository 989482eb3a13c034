"""Moment algebra of planar atoms, with and without beam squint, against explicit responses."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose

from isac_toolbox.channel.array import UniformPlanarArray
from isac_toolbox.channel.atoms.planar import PlanarAtoms, squint_orders

seeds = st.integers(0, 2**32 - 1)
shapes = st.sampled_from([(3, 2), (1, 4), (2, 1), (4, 3)])


class Case:
    """Random planar paths of three users, and a random Hermitian coupling."""

    def __init__(self, seed: int, shape: tuple[int, int], squint: float, n_paths: int = 6):
        rng = np.random.default_rng(seed)
        self.rng = rng
        self.array = UniformPlanarArray(shape, (rng.uniform(0.3, 0.7), rng.uniform(0.3, 0.7)))
        self.wavenumbers = np.sort(rng.uniform(-1, 1, 5))
        self.length = rng.uniform(5, 50, n_paths)
        self.user = rng.integers(0, 3, n_paths)
        self.cosines = rng.uniform(-0.7, 0.7, (2, n_paths))
        self.squint = squint
        root = rng.standard_normal((5, 3, 4)) + 1j * rng.standard_normal((5, 3, 4))
        self.symbol_gram = root @ root.conj().transpose(0, 2, 1)
        shape_z = (3, 5, self.array.n_elements)
        self.correlation = rng.standard_normal(shape_z) + 1j * rng.standard_normal(shape_z)
        self.gains = rng.standard_normal(n_paths) + 1j * rng.standard_normal(n_paths)

    @property
    def atoms(self) -> PlanarAtoms:
        delay = np.exp(-1j * self.wavenumbers[:, None] * self.length)
        return PlanarAtoms(self.user, delay, self.wavenumbers, self.cosines, self.array, self.squint)

    def responses(self) -> np.ndarray:
        """Exact path and derivative responses, shape (4, L, N, M)."""
        slope_h, slope_v = self.array.phase_slopes
        slope_h, slope_v = np.repeat(slope_h, slope_v.size), np.tile(slope_v, slope_h.size)
        stretch = 1 + self.squint * self.wavenumbers
        u_h, u_v = self.cosines[:, :, None, None]
        phase = (u_h * slope_h + u_v * slope_v) * stretch[:, None]
        path = np.exp(1j * phase - 1j * (self.length[:, None] * self.wavenumbers)[:, :, None])
        in_length = -1j * self.wavenumbers[:, None] * path
        in_h, in_v = (1j * s * stretch[:, None] * path for s in (slope_h, slope_v))
        return np.stack([path, in_length, in_h, in_v])

    def expected_gram(self) -> np.ndarray:
        response = self.responses()
        symbol_gram = self.symbol_gram[:, self.user[:, None], self.user]
        return np.einsum("sinm,nij,tjnm->stij", response.conj(), symbol_gram, response)


@pytest.mark.parametrize("squint", [0.0, 0.02])
@given(seeds, shapes)
@settings(max_examples=25, deadline=None)
def test_gram_correlation_and_channel(squint, seed, shape):
    case = Case(seed, shape, squint)
    atoms, response = case.atoms, case.responses()
    # the series is cut where its largest left-out term is below 1e-4 of an atom
    tolerance = 1e-10 if squint == 0 else 2e-4
    expected = case.expected_gram()
    size = np.abs(expected).max(axis=(2, 3), keepdims=True)
    error = np.abs(atoms.full_gram(case.symbol_gram) - expected)
    assert np.all(error < tolerance * size + 1e-12 * size.max())
    assert_allclose(
        atoms.gram(case.symbol_gram), atoms.full_gram(case.symbol_gram)[0, 0], atol=1e-9 * size.max()
    )

    expected = np.einsum("sinm,inm->si", response.conj(), case.correlation[case.user])
    found = atoms.correlate(case.correlation, derivatives=True)
    scale = np.linalg.norm(response, axis=(2, 3)) * np.linalg.norm(case.correlation[case.user], axis=(1, 2))
    assert np.all(np.abs(found - expected) < tolerance * scale + 1e-12 * scale.max())
    assert_allclose(atoms.correlate(case.correlation), found[0], atol=1e-12 * scale.max())

    expected = np.zeros_like(case.correlation)
    np.add.at(expected, case.user, case.gains[:, None, None] * response[0])
    size = np.sum(np.abs(case.gains))
    assert_allclose(atoms.synthesise(case.gains, 3), expected, atol=tolerance * size)

    rows = case.rng.standard_normal((5, 2, case.array.n_elements)) + 0j
    expected = np.einsum("num,lnm->nul", rows, response[0])
    assert_allclose(atoms.respond(rows), expected, atol=tolerance * np.abs(rows).sum(axis=2).max())


@given(seeds)
@settings(max_examples=10, deadline=None)
def test_squint_is_as_good_as_the_series_is_long(seed):
    """Halving the squint divides the error of the Gram by at least the order of the series."""
    errors = []
    for squint in (0.04, 0.02):
        case = Case(seed, (4, 3), squint)
        atoms = case.atoms
        object.__setattr__(atoms, "n_orders", 3)  # fixed, where the default grows with the squint
        errors.append(np.abs(atoms.gram(case.symbol_gram) - case.expected_gram()[0, 0]).max())
    assert errors[1] < errors[0] / 6


def test_orders_grow_with_band_and_array():
    small, large = UniformPlanarArray((8, 8)), UniformPlanarArray((32, 32))
    assert squint_orders(small, np.zeros(4)) == 1
    narrow, wide = np.array([-1e-4, 1e-4]), np.array([-0.02, 0.02])
    assert squint_orders(small, narrow) < squint_orders(small, wide) < squint_orders(large, wide)


def test_taking_paths_takes_their_gram():
    case = Case(3, (3, 2), 0.02)
    index = np.array([4, 0, 2])
    whole = case.atoms.full_gram(case.symbol_gram)
    taken = case.atoms.take(index).full_gram(case.symbol_gram)
    assert_allclose(taken, whole[:, :, index[:, None], index], rtol=1e-12, atol=1e-9)
