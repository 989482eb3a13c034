"""Tables over the path length against sums over subcarriers."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from numpy.testing import assert_allclose

import isac_toolbox as isac
from isac_toolbox.channel.atoms import tables as tables_module
from isac_toolbox.channel.atoms.dense import fisher_blocks, make_atoms
from isac_toolbox.channel.atoms.receiver import Receiver
from isac_toolbox.channel.atoms.scene import PathParameters, Paths, Scene, path_parameters
from isac_toolbox.channel.atoms.tables import BlockTables


class Case:
    """Random paths of three users and a random block; lengths reach beyond one unambiguous interval."""

    def __init__(
        self,
        seed: int,
        n_sub: int,
        shape: tuple[int, int],
        together: bool = True,
        holes: tuple[int, ...] = (),
        shuffled: bool = False,
    ) -> None:
        rng = np.random.default_rng(seed)
        frequencies = np.delete(3e6 * np.arange(n_sub) - rng.uniform(0, 5e7), holes)
        n_sub = frequencies.size
        if shuffled:
            frequencies = np.random.default_rng(1).permutation(frequencies)
        array = isac.UniformPlanarArray(shape, (0.5, 0.7), 0.2, -0.1)
        self.receiver = Receiver(array, np.array([0.0, 0.0, 20.0]), frequencies)
        scene = Scene(
            rng.uniform([20, -30, 0], [80, 30, 15], (5, 3)),
            rng.uniform([20, -30, 1], [80, 30, 2], (3, 3)),
            rng.normal(0, 2, 3),
            np.column_stack([rng.uniform(0, 400, 3), rng.uniform(-0.6, 0.6, (3, 2))]),
        )
        self.paths = Paths.build(np.array([True, False, True]), rng.random((3, 5)) < 0.7, np.array([0, 2, 2]))
        self.parameters: PathParameters = path_parameters(scene, self.paths, self.receiver)
        self.atoms = make_atoms(self.parameters, self.paths, self.receiver)
        symbols = normal(rng, 3, n_sub, 4)
        self.symbol_gram = np.einsum("knt,jnt->nkj", symbols.conj(), symbols)
        if not together:
            self.symbol_gram = self.symbol_gram * np.eye(3)
        self.correlation = normal(rng, 3, n_sub, array.n_elements)
        self.gains = normal(rng, len(self.paths))
        tables = BlockTables.of(self.symbol_gram, self.correlation, self.receiver)
        assert tables is not None
        self.tables = tables


def normal(rng: np.random.Generator, *shape: int) -> np.ndarray:
    return rng.standard_normal(shape) + 1j * rng.standard_normal(shape)


SIZES = [(24, (6, 4)), (31, (3, 5)), (64, (8, 8)), (17, (1, 2))]


@pytest.mark.parametrize(("n_sub", "shape"), SIZES)
@pytest.mark.parametrize("together", [True, False])
def test_gram(n_sub, shape, together):
    case = Case(0, n_sub, shape, together)
    expected = case.atoms.gram(case.symbol_gram)
    found = case.tables.gram(case.parameters, case.paths)
    assert_allclose(found, expected, atol=1e-11 * np.abs(expected).max())
    assert np.array_equal(found, found.conj().T)


@pytest.mark.parametrize(("n_sub", "shape"), SIZES)
def test_correlations(n_sub, shape):
    case = Case(1, n_sub, shape)
    expected = case.atoms.correlate(case.correlation, derivatives=True)
    found = case.tables.correlations(case.parameters, case.paths)
    scale = np.abs(expected).max(axis=1, keepdims=True)
    assert np.all(np.abs(found - expected) <= 1e-9 * np.maximum(scale, 1.0))


@pytest.mark.parametrize(("n_sub", "shape"), SIZES)
def test_normal_blocks(n_sub, shape):
    case = Case(2, n_sub, shape)
    gram = case.atoms.full_gram(case.symbol_gram)
    _, gain_scene, scene_scene = fisher_blocks(gram, case.gains, case.parameters.jacobian)
    found = case.tables.normal_blocks(case.parameters, case.paths, case.gains)
    for own, expected in zip(found, (gain_scene, scene_scene, gram[1:, 0] @ case.gains), strict=True):
        assert_allclose(own, expected, atol=1e-9 * np.abs(expected).max())


HOLES = [
    ((12,), False),
    ((0, 3, 12, 13, 14, 23), False),
    ((), True),
    ((1, 2, 11, 12, 13), True),
    (tuple(range(5, 20)), False),  # the middle in a hole
]


@pytest.mark.parametrize(("holes", "shuffled"), HOLES)
def test_rasters_with_holes_and_in_any_order(holes, shuffled):
    case = Case(8, 24, (6, 4), holes=holes, shuffled=shuffled)
    assert case.tables.raster.size == 24 - 2 * (0 in holes)
    gram = case.atoms.full_gram(case.symbol_gram)
    found = case.tables.gram(case.parameters, case.paths)
    assert_allclose(found, gram[0, 0], atol=1e-11 * np.abs(gram[0, 0]).max())
    expected = case.atoms.correlate(case.correlation, derivatives=True)
    matched = case.tables.correlations(case.parameters, case.paths)
    scale = np.abs(expected).max(axis=1, keepdims=True)
    assert np.all(np.abs(matched - expected) <= 1e-9 * np.maximum(scale, 1.0))
    _, *blocks = fisher_blocks(gram, case.gains, case.parameters.jacobian)
    normal_blocks = case.tables.normal_blocks(case.parameters, case.paths, case.gains)
    for own, wanted in zip(normal_blocks, (*blocks, gram[1:, 0] @ case.gains), strict=True):
        assert_allclose(own, wanted, atol=1e-9 * np.abs(wanted).max())


def test_one_users_tables_are_those_of_its_own_block():
    case = Case(3, 24, (6, 4), together=False)
    for k in range(3):
        own = case.paths.user == k
        alone = Paths(np.zeros(own.sum(), np.int64), case.paths.target[own], case.paths.unlocated[own])
        part = PathParameters(
            case.parameters.length_m[own],
            np.ascontiguousarray(case.parameters.cosines[:, own]),
            None,
            case.parameters.derivatives,
        )
        tables = case.tables.of_user(k)
        gram = case.tables.gram(case.parameters, case.paths)[np.ix_(own, own)]
        assert_allclose(tables.gram(part, alone), gram, atol=1e-9)
        whole = case.tables.correlations(case.parameters, case.paths)[:, own]
        assert_allclose(tables.correlations(part, alone), whole, atol=1e-9 * np.abs(whole).max())


def test_single_precision_is_good_to_140_db():
    case = Case(4, 64, (8, 8))
    single = BlockTables.of(case.symbol_gram, case.correlation.astype(np.complex64), case.receiver)
    assert single is not None
    exact = case.tables.correlations(case.parameters, case.paths)
    error = single.correlations(case.parameters, case.paths) - exact
    assert np.max(np.abs(error[0])) < 1e-7 * np.abs(exact[0]).max()


def test_no_tables_without_a_raster_or_planar_waves():
    case = Case(5, 24, (6, 4))
    receiver = case.receiver
    uneven = receiver.frequencies_hz.copy()
    uneven[3] += 1e5
    for other in (
        Receiver(receiver.array, receiver.bs_position_m, uneven),
        Receiver(receiver.array, receiver.bs_position_m, receiver.frequencies_hz, "spherical", 3.5e9),
        Receiver(receiver.array, receiver.bs_position_m, receiver.frequencies_hz, "planar", 3.5e9, True),
    ):
        assert BlockTables.of(case.symbol_gram, case.correlation, other) is None


@pytest.mark.parametrize(("n_sub", "shape"), SIZES)
def test_elements_left_out_are_taken_out_of_every_inner_product(n_sub, shape):
    """Gram and normal equations against sums over the elements in use; the kernels subtract the others."""
    case = Case(7, n_sub, shape)
    rng = np.random.default_rng(1)
    n_elements = shape[0] * shape[1]
    in_use = np.ones(n_elements, bool)
    in_use[rng.permutation(n_elements)[: max(n_elements // 4, 1)]] = False
    receiver = replace(case.receiver, element_mask=in_use)
    tables = BlockTables.of(case.symbol_gram, case.correlation * in_use, receiver)
    assert tables is not None

    unit = np.eye(len(case.paths))
    atoms = np.stack([case.atoms.synthesise(x, 3) for x in unit]) * in_use  # (L, K, N, M)
    expected = np.einsum("iknm,nkj,ljnm->il", atoms.conj(), case.symbol_gram, atoms, optimize=True)
    size = 1e-11 * np.abs(expected).max()
    assert_allclose(tables.gram(case.parameters, case.paths), expected, atol=size)
    left_out = make_atoms(case.parameters, case.paths, receiver)
    assert_allclose(left_out.gram(case.symbol_gram), expected, atol=size)
    matched = np.einsum("iknm,knm->i", atoms.conj(), case.correlation)
    assert_allclose(tables.correlations(case.parameters, case.paths)[0], matched, atol=size)

    full = left_out.full_gram(case.symbol_gram)
    _, gain_scene, scene_scene = fisher_blocks(full, case.gains, case.parameters.jacobian)
    found = tables.normal_blocks(case.parameters, case.paths, case.gains)
    for value, wanted in zip(found, (gain_scene, scene_scene, full[1:, 0] @ case.gains), strict=True):
        assert_allclose(value, wanted, atol=1e-10 * np.abs(wanted).max())
    whole = left_out.synthesise(case.gains, 3)
    assert_allclose(whole, case.atoms.synthesise(case.gains, 3), atol=1e-12 * np.abs(whole).max())


def test_tables_of_a_window_are_those_of_a_whole_period(monkeypatch):
    monkeypatch.setattr(tables_module, "LARGE_GRID", 0)
    case = Case(9, 64, (8, 8))
    low, high = case.parameters.length_m.min(), case.parameters.length_m.max()
    period = 2 * np.pi / np.diff(case.receiver.wavenumbers_per_m).mean()
    case.parameters.length_m[:] = low + (case.parameters.length_m - low) / (high - low) * 0.2 * period
    whole = case.tables

    def part(window):
        made = BlockTables.of(case.symbol_gram, case.correlation, case.receiver, window)
        assert made is not None
        return made

    for window in ((low, low + 0.2 * period), (low + 0.4 * period, low + 0.5 * period)):  # one misses paths
        tables = part(window)
        for name in ("gram", "correlations"):
            own, expected = (getattr(t, name)(case.parameters, case.paths) for t in (tables, whole))
            assert_allclose(own, expected, atol=1e-11 * np.abs(expected).max())
        for own, expected in zip(
            tables.normal_blocks(case.parameters, case.paths, case.gains),
            whole.normal_blocks(case.parameters, case.paths, case.gains),
            strict=True,
        ):
            assert_allclose(own, expected, atol=1e-11 * np.abs(expected).max())
    held = part((low, low + 0.2 * period))
    held.correlations(case.parameters, case.paths)
    assert held._correlation_grid(held._window)[0].shape[1] < 0.7 * held._size
