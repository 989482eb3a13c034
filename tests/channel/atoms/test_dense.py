"""The separable algebra of path atoms against a design matrix of size N*M*T."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose

from isac_toolbox.channel.atoms.dense import DenseAtoms, fisher_blocks

seeds = st.integers(0, 2**32 - 1)
sizes = st.tuples(
    st.integers(1, 3), st.integers(2, 5), st.integers(1, 4), st.integers(2, 6), st.integers(1, 7)
)


def normal(rng: np.random.Generator, *shape: int) -> np.ndarray:
    return rng.standard_normal(shape) + 1j * rng.standard_normal(shape)


class Case:
    """Random atoms with two spatial parameters, and soft symbols that are not orthogonal.

    The second moment of soft symbols (mean and variance) is that of certain symbols in a longer block:
    each variance becomes a slot of its own in which only its user sends.
    """

    def __init__(self, seed: int, sizes: tuple[int, int, int, int, int]):
        k, n, t, m, paths = sizes
        rng = np.random.default_rng(seed)
        wavenumbers = rng.normal(0, 0.7, n)
        delay = np.exp(-1j * wavenumbers[:, None] * rng.uniform(5, 50, paths))
        self.n_users = k
        self.atoms = DenseAtoms(rng.integers(0, k, paths), delay, wavenumbers, normal(rng, 3, paths, m))
        mean, variance = normal(rng, k, n, t), rng.random((k, n, t))
        self.symbol_gram = np.zeros((n, k, k), complex)
        for i, a, b in np.ndindex(n, k, k):
            self.symbol_gram[i, a, b] = np.sum(mean[a, i].conj() * mean[b, i])
            if a == b:
                self.symbol_gram[i, a, b] += np.sum(variance[a, i])
        self.symbols = np.zeros((k, n, t + k * t), complex)
        self.symbols[:, :, :t] = mean
        for a in range(k):
            self.symbols[a, :, t + a * t : t + (a + 1) * t] = np.sqrt(variance[a])
        self.received = normal(rng, n, m, self.symbols.shape[2])
        self.correlation = np.einsum("nmt,knt->knm", self.received, self.symbols.conj())
        self.gains = normal(rng, paths)
        self.jacobian = rng.standard_normal((3, paths, 4))

    def response(self, kind: int, path: int) -> np.ndarray:
        """One atom over subcarriers and antennas: type 0 the path, 1 d/dL, 2.. spatial."""
        b, a = self.atoms.delay[:, path], self.atoms.steering[:, path]
        if kind == 1:
            return np.outer(-1j * self.atoms.wavenumbers_per_m * b, a[0])
        return np.outer(b, a[max(kind - 1, 0)])

    def column(self, kind: int, path: int) -> np.ndarray:
        """One atom as received in the block, shape (N * M * T,)."""
        sent = self.symbols[self.atoms.user[path]]
        return np.einsum("nm,nt->nmt", self.response(kind, path), sent).ravel()

    def design(self) -> np.ndarray:
        """Every atom type's design matrix, shape (4, N * M * T, L)."""
        paths = range(self.gains.size)
        return np.array([np.column_stack([self.column(kind, i) for i in paths]) for kind in range(4)])


@given(seeds, sizes)
@settings(max_examples=40, deadline=None)
def test_gram_matrices(seed, sizes):
    case = Case(seed, sizes)
    design = case.design()
    expected = np.einsum("sri,trj->stij", design.conj(), design)
    assert case.atoms.n_types == 4
    assert_allclose(case.atoms.gram(case.symbol_gram), expected[0, 0], rtol=1e-9, atol=1e-9)
    assert_allclose(case.atoms.full_gram(case.symbol_gram), expected, rtol=1e-9, atol=1e-9)


@given(seeds, sizes)
@settings(max_examples=40, deadline=None)
def test_correlations(seed, sizes):
    case = Case(seed, sizes)
    expected = np.einsum("sri,r->si", case.design().conj(), case.received.ravel())
    found = case.atoms.correlate(case.correlation, derivatives=True)
    assert_allclose(found, expected, rtol=1e-9, atol=1e-9)
    assert_allclose(case.atoms.correlate(case.correlation), expected[0], rtol=1e-9, atol=1e-9)


@given(seeds, sizes)
@settings(max_examples=20, deadline=None)
def test_projection_keeps_subcarriers(seed, sizes):
    case = Case(seed, sizes)
    found = case.atoms.project(case.correlation, case.atoms.steering)
    for s, i, n in np.ndindex(found.shape):
        expected = np.vdot(case.atoms.steering[s, i], case.correlation[case.atoms.user[i], n])
        assert_allclose(found[s, i, n], expected, rtol=1e-9, atol=1e-9)


@given(seeds, sizes)
@settings(max_examples=20, deadline=None)
def test_synthesised_channel_is_the_sum_of_paths(seed, sizes):
    case = Case(seed, sizes)
    expected = np.zeros((case.n_users, sizes[1], sizes[3]), complex)
    for i, user in enumerate(case.atoms.user):
        expected[user] += case.gains[i] * case.response(0, i)
    assert_allclose(case.atoms.synthesise(case.gains, case.n_users), expected, rtol=1e-9, atol=1e-9)


@given(seeds, sizes)
@settings(max_examples=40, deadline=None)
def test_fisher_blocks(seed, sizes):
    """Inner products of ``d y / d x_i`` and ``d y / d theta_p = sum_i x_i sum_d J_dip phi_i^d``."""
    case = Case(seed, sizes)
    design = case.design()
    in_scene = np.einsum("dip,dri,i->rp", case.jacobian, design[1:], case.gains)
    gg, gs, ss = fisher_blocks(case.atoms.full_gram(case.symbol_gram), case.gains, case.jacobian)
    size = np.abs(ss).max()
    assert_allclose(gg, design[0].conj().T @ design[0], rtol=1e-9, atol=1e-9)
    assert_allclose(gs, design[0].conj().T @ in_scene, rtol=1e-9, atol=1e-9 * size)
    assert_allclose(ss, np.real(in_scene.conj().T @ in_scene), rtol=1e-9, atol=1e-9 * size)
    assert np.isrealobj(ss)


@given(seeds, sizes)
@settings(max_examples=20, deadline=None)
def test_taking_paths_takes_their_gram(seed, sizes):
    case = Case(seed, sizes)
    index = np.random.default_rng(seed).integers(0, case.gains.size, 3)
    taken = case.atoms.take(index)
    whole = case.atoms.full_gram(case.symbol_gram)
    assert_allclose(
        taken.full_gram(case.symbol_gram), whole[:, :, index[:, None], index], rtol=1e-9, atol=1e-9
    )
    assert taken.user.tolist() == case.atoms.user[index].tolist()
