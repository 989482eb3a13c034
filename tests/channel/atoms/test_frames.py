"""Atoms that turn against explicit samples over all symbols, and interpolation over time."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.testing import assert_allclose

import isac_toolbox as isac
from helpers.scenes import complex_normal
from isac_toolbox.channel.atoms.dense import DenseAtoms, Statistics
from isac_toolbox.channel.atoms.frames import Frames, MovingAtoms, chebyshev_times, interpolation
from isac_toolbox.channel.atoms.planar import PlanarAtoms

N_USERS, N_SUB, N_SYMBOLS, N_PATHS = 3, 6, 5, 7
TIMES_S = np.array([-0.8e-3, -0.3e-3, 0.0, 0.5e-3, 0.9e-3])
MEAN_HZ = np.array([30.0, -120.0, 0.0])
KINDS = ("planar", "squinted", "dense")


class Block:
    """Random paths of three users and a block in which all send together, turned back by a mean shift."""

    def __init__(self, kind: str, seed: int = 0):
        rng = np.random.default_rng(seed)
        self.kind = kind
        self.user = np.sort(rng.integers(0, N_USERS, N_PATHS))
        self.wavenumbers = np.sort(rng.uniform(-1, 1, N_SUB))
        self.length = rng.uniform(0, 30, N_PATHS)
        self.cosines = rng.uniform(-0.5, 0.5, (2, N_PATHS))
        self.doppler = rng.uniform(-400, 400, N_PATHS)
        self.array = isac.UniformPlanarArray((3, 2), (0.5, 0.6))
        self.squint = 0.02 if kind == "squinted" else 0.0
        self.symbols = complex_normal(rng, (N_USERS, N_SUB, N_SYMBOLS))
        self.received = complex_normal(rng, (N_SUB, self.array.n_elements, N_SYMBOLS))
        back = self.symbols * np.exp(2j * np.pi * np.outer(MEAN_HZ, TIMES_S))[:, None]
        self.frames = Frames(
            TIMES_S,
            np.einsum("knt,jnt->tnkj", back.conj(), back),
            np.einsum("nmt,knt->kntm", self.received, back.conj()),
            MEAN_HZ,
        )

    def planar(self, length, cosines) -> PlanarAtoms:
        delay = np.exp(-1j * self.wavenumbers[:, None] * length)
        return PlanarAtoms(self.user, delay, self.wavenumbers, cosines, self.array, self.squint)

    @property
    def atoms(self) -> MovingAtoms:
        still = self.planar(self.length, self.cosines)
        if self.kind == "dense":
            still = DenseAtoms(self.user, still.delay, self.wavenumbers, still.steering)
        return MovingAtoms(still, self.doppler)

    def response(self, length, cosines, doppler) -> np.ndarray:
        """Every path's samples (L, N, M, T), from the definition of the response."""
        slope_h, slope_v = self.array.phase_slopes
        slopes = cosines[0][:, None, None] * slope_h[:, None] + cosines[1][:, None, None] * slope_v
        angle = slopes.reshape(N_PATHS, 1, -1) * (1 + self.squint * self.wavenumbers[:, None])
        space = np.exp(1j * angle - 1j * np.multiply.outer(length, self.wavenumbers)[..., None])
        turn = np.exp(2j * np.pi * np.multiply.outer(doppler, TIMES_S))
        return np.einsum("lnm,lnt,lt->lnmt", space, self.symbols[self.user], turn)

    @property
    def types(self) -> np.ndarray:
        """Samples of all types: paths, and differences in length, cosines and shift, (5, L, N, M, T)."""
        found = [self.response(self.length, self.cosines, self.doppler)]
        steps = ((1e-5, "length"), (1e-5, 0), (1e-5, 1), (1e-2, "doppler"))
        for step, what in steps:
            both = []
            for side in (step, -step):
                cosines = self.cosines.copy()
                if what in (0, 1):
                    cosines[what] += side
                length = self.length + side * (what == "length")
                both.append(self.response(length, cosines, self.doppler + side * (what == "doppler")))
            found.append((both[0] - both[1]) / (2 * step))
        return np.array(found)


@pytest.fixture(params=[(k, s) for k in KINDS for s in range(2)], ids=lambda p: f"{p[0]}-{p[1]}")
def block(request) -> Block:
    return Block(*request.param)


def close(found, expected):
    """Every row within a millionth of its largest number; types have units of their own."""
    assert np.all(np.abs(found - expected) <= 1e-6 * np.abs(expected).max(axis=-1, keepdims=True))


def test_grams_are_inner_products_of_all_samples(block):
    types = block.types
    expected = np.einsum("slnmt,rknmt->srlk", types.conj(), types, optimize=True)
    full = block.atoms.full_gram_over_time(block.frames)
    assert full.shape == (5, 5, N_PATHS, N_PATHS) and block.atoms.n_types == 5
    for s, r in np.ndindex(5, 5):
        size = np.sqrt(np.abs(expected[s, s]).max() * np.abs(expected[r, r]).max())
        assert_allclose(full[s, r], expected[s, r], atol=1e-6 * size, err_msg=f"{s}, {r}")
    assert_allclose(block.atoms.gram_over_time(block.frames), full[0, 0], atol=1e-10)


def test_correlations_are_inner_products_with_the_samples(block):
    expected = np.einsum("slnmt,nmt->sl", block.types.conj(), block.received)
    found = block.atoms.correlate_over_time(block.frames, derivatives=True)
    close(found, expected)
    assert_allclose(block.atoms.correlate_over_time(block.frames), found[0], atol=1e-10)


def test_what_paths_explain_of_the_correlation(block):
    gains = complex_normal(np.random.default_rng(1), N_PATHS)
    fitted = np.tensordot(gains, block.types[0], 1)
    back = block.symbols * np.exp(2j * np.pi * np.outer(MEAN_HZ, TIMES_S))[:, None]
    expected = np.einsum("nmt,knt->knm", fitted, back.conj())
    assert_allclose(block.atoms.explained(block.frames, gains), expected, atol=1e-8)


def test_statistics_ask_moving_atoms_for_their_inner_products(block):
    atoms, frames = block.atoms, block.frames
    total = Statistics(frames.symbol_gram.sum(axis=0), frames.cross_correlation.sum(axis=2), 1.0, 1)
    moving, gains = Statistics(**{**vars(total), "frames": frames}), np.ones(N_PATHS)
    assert np.array_equal(moving.gram(atoms), atoms.gram_over_time(frames))
    assert np.array_equal(moving.full_gram(atoms), atoms.full_gram_over_time(frames))
    assert np.array_equal(moving.correlate(atoms, True), atoms.correlate_over_time(frames, True))
    assert np.array_equal(moving.explained(atoms, gains), atoms.explained(frames, gains))
    # atoms at the reference time see the sums, and so do moving ones of a block without frames
    for data, kind in ((moving, atoms.still), (total, atoms)):
        assert np.array_equal(data.gram(kind), atoms.still.gram(total.symbol_gram))
        assert np.array_equal(data.full_gram(kind), atoms.still.full_gram(total.symbol_gram))
        assert np.array_equal(data.correlate(kind), atoms.still.correlate(total.cross_correlation))


def test_paths_that_turn_as_their_users_are_those_at_rest(block):
    atoms = MovingAtoms(block.atoms.still, MEAN_HZ[block.user])
    symbol_gram = block.frames.symbol_gram.sum(axis=0)
    correlation = block.frames.cross_correlation.sum(axis=2)
    full = atoms.full_gram_over_time(block.frames)
    expected = atoms.still.full_gram(symbol_gram)
    assert_allclose(full[:4, :4], expected, atol=1e-9 * np.abs(expected).max())
    assert_allclose(atoms.correlate_over_time(block.frames), atoms.still.correlate(correlation), atol=1e-9)
    assert_allclose(atoms.gram_over_time(block.frames), atoms.still.gram(symbol_gram), atol=1e-9)


def test_some_paths_have_some_of_the_gram(block):
    index = np.array([4, 0, 4])
    taken, full = block.atoms.take(index), block.atoms.full_gram_over_time(block.frames)
    assert_allclose(taken.full_gram_over_time(block.frames), full[:, :, index[:, None], index], atol=1e-9)
    nobody = block.atoms.take(np.array([], np.int64))
    assert nobody.full_gram_over_time(block.frames).shape == (5, 5, 0, 0)
    assert nobody.correlate_over_time(block.frames, True).shape == (5, 0)


def test_what_has_no_time_is_that_of_the_reference(block):
    atoms, still = block.atoms, block.atoms.still
    gains = complex_normal(np.random.default_rng(2), N_PATHS)
    rows = complex_normal(np.random.default_rng(3), (N_SUB, 2, 6))
    assert np.array_equal(atoms.synthesise(gains, N_USERS), still.synthesise(gains, N_USERS))
    assert np.array_equal(atoms.respond(rows), still.respond(rows))
    assert np.array_equal(atoms.match(gains, np.array([0, 2])), still.match(gains, np.array([0, 2])))
    assert np.array_equal(atoms.steering, still.steering) and np.array_equal(atoms.delay, still.delay)


# --- parts of blocks ---------------------------------------------------------------------------------


def part(block: Block, symbols) -> Frames:
    frames = block.frames
    return Frames(
        frames.times_s[symbols],
        frames.symbol_gram[symbols],
        frames.cross_correlation[:, :, symbols],
        MEAN_HZ,
    )


@pytest.mark.parametrize("first", [[0, 3], [0, 1, 2, 3, 4], []])
def test_parts_of_a_block_add_up(block, first):
    second = np.setdiff1d(np.arange(N_SYMBOLS), first)
    both = part(block, np.array(first, int)) + part(block, second)
    atoms = block.atoms
    full = atoms.full_gram_over_time(block.frames)
    assert_allclose(atoms.full_gram_over_time(both), full, atol=1e-12 * np.abs(full).max())
    found, expected = (atoms.correlate_over_time(f, True) for f in (both, block.frames))
    assert_allclose(found, expected, atol=1e-12 * np.abs(expected).max())


def test_parts_at_the_same_times_are_summed():
    block = Block("planar")
    twice = block.frames + block.frames
    assert twice.times_s.size == N_SYMBOLS
    assert_allclose(twice.symbol_gram, 2 * block.frames.symbol_gram)
    assert_allclose(twice.cross_correlation, 2 * block.frames.cross_correlation)


def test_frames_of_one_user_are_those_of_its_paths():
    block = Block("planar")
    index = np.flatnonzero(block.user == 1)
    alone = block.atoms.take(index)
    expected = alone.full_gram_over_time(block.frames)
    still = PlanarAtoms(
        np.zeros(index.size, np.int64),
        alone.delay,
        block.wavenumbers,
        block.cosines[:, index],
        block.array,
    )
    found = MovingAtoms(still, block.doppler[index]).full_gram_over_time(block.frames.of_user(1))
    assert_allclose(found, expected, atol=1e-9)


def test_single_precision_keeps_the_correlation_to_single_precision():
    block = Block("planar")
    single = block.frames.stored_as("complex64")
    assert single.cross_correlation.dtype == np.complex64 and single.symbol_gram.dtype == np.complex128
    found, expected = (block.atoms.correlate_over_time(f) for f in (single, block.frames))
    assert_allclose(found, expected, atol=1e-5 * np.abs(expected).max())


# --- interpolation -----------------------------------------------------------------------------------


@pytest.mark.parametrize("largest_hz", [0.0, 50.0, 300.0, 1000.0])
def test_what_turns_no_faster_is_interpolated_to_1e_7(largest_hz):
    times = (np.arange(600) - 299.5) * 40e-6
    nodes = chebyshev_times(times, largest_hz)
    assert nodes.size < times.size and np.all(np.diff(nodes) > 0)
    assert nodes[0] > times[0] and nodes[-1] < times[-1]
    weights, half = interpolation(nodes, times), times.max()
    for share in (-1.0, -0.3, 0.0, 0.7, 1.0):
        for power in range(3):  # the derivatives in the shift
            at_nodes, at_times = (
                (t / half) ** power * np.exp(2j * np.pi * share * largest_hz * t) for t in (nodes, times)
            )
            assert np.abs(at_nodes @ weights - at_times).max() < 1e-7


def test_a_block_of_few_symbols_keeps_them():
    assert chebyshev_times(TIMES_S, 10.0) is TIMES_S
    assert np.array_equal(interpolation(TIMES_S, TIMES_S), np.eye(N_SYMBOLS))
    assert chebyshev_times(np.zeros(1), 10.0).size == 1


def test_interpolated_statistics_give_the_grams_of_the_symbols():
    """Sums over symbols against weights at nodes are those of functions interpolated to the symbols."""
    rng, block = np.random.default_rng(0), Block("planar")
    times = (np.arange(200) - 99.5) * 2e-5
    nodes = chebyshev_times(times, 2 * 400.0)
    weights = interpolation(nodes, times)
    symbols = complex_normal(rng, (N_USERS, N_SUB, times.size))
    received = complex_normal(rng, (N_SUB, block.array.n_elements, times.size))
    gram = np.einsum("knt,jnt->tnkj", symbols.conj(), symbols)
    cross = np.einsum("nmt,knt->kntm", received, symbols.conj())
    still = np.zeros(N_USERS)
    exact = Frames(times, gram, cross, still)
    few = Frames(nodes, np.tensordot(weights, gram, 1), np.einsum("qt,kntm->knqm", weights, cross), still)
    expected, found = (block.atoms.full_gram_over_time(f) for f in (exact, few))
    close(found, expected)
    expected, found = (block.atoms.correlate_over_time(f, True) for f in (exact, few))
    close(found, expected)
