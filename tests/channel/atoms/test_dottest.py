"""Correlation is the adjoint of synthesis for atoms of every kind, and the check notices when it is not."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pytest

from helpers.scenes import random_case
from isac_toolbox.channel.atoms.dense import (
    DenseAtoms,
    Measurements,
    PathAtoms,
    Statistics,
    dottest,
    make_atoms,
)
from isac_toolbox.channel.atoms.planar import PlanarAtoms
from isac_toolbox.channel.atoms.receiver import Receiver
from isac_toolbox.channel.atoms.scene import PathParameters, Paths, path_parameters
from isac_toolbox.channel.atoms.tables import BlockTables

STEPS_HZ = (np.arange(12) - 5.5) * 4e6


def made(kind: str, seed: int = 0) -> tuple[PathAtoms, PathParameters, Paths, Receiver]:
    """Atoms of lines of sight, points and unlocated paths of two users."""
    case = random_case(seed, "spherical" if kind == "spherical" else "planar")
    receiver = case.problem.receiver
    if kind == "tabled":
        receiver = replace(receiver, frequencies_hz=STEPS_HZ)
    if kind == "squinted":
        receiver = replace(receiver, frequencies_hz=STEPS_HZ, carrier_hz=1e9, beam_squint=True)
    parameters = path_parameters(case.scene, case.paths, receiver)
    return make_atoms(parameters, case.paths, receiver), parameters, case.paths, receiver


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("kind", ["tabled", "table-less", "squinted", "spherical"])
def test_correlate_is_the_adjoint_of_synthesise(kind, seed):
    atoms, _, _, receiver = made(kind, seed)
    assert isinstance(atoms, DenseAtoms if kind == "spherical" else PlanarAtoms)
    silent = np.zeros((12, 2, 2), complex)
    tables = BlockTables.of(silent, np.zeros((2, 12, 6), complex), receiver)
    assert (tables is not None) == (kind == "tabled")
    for n_users in (2, 3):  # the third has no path
        assert dottest(atoms, n_users, seed) is True
    assert dottest(atoms.take(np.array([3, 0])), 2, seed)
    assert dottest(atoms.take(np.array([], np.int64)), 2, seed)


@dataclass(frozen=True)
class Tabled:
    """Atoms whose correlations come from the tables of the block that they are correlated with."""

    atoms: PathAtoms
    parameters: PathParameters
    paths: Paths
    receiver: Receiver

    def __getattr__(self, name: str):
        return getattr(self.atoms, name)

    def correlate(self, correlation: np.ndarray, derivatives: bool = False) -> np.ndarray:
        n_users, n_sub, _ = correlation.shape
        symbol_gram = np.broadcast_to(np.eye(n_users, dtype=complex), (n_sub, n_users, n_users))
        data = Measurements(Statistics(np.array(symbol_gram), correlation, 1.0, 1), self.receiver)
        values = data.tables.correlations(self.parameters, self.paths)
        return values if derivatives else values[0]


@pytest.mark.parametrize("seed", range(3))
def test_tables_are_the_adjoint_of_synthesise(seed):
    assert dottest(Tabled(*made("tabled", seed)), 2, seed)


@dataclass(frozen=True)
class Broken:
    """Atoms with something wrong in their correlation."""

    atoms: PathAtoms
    fault: str

    def __getattr__(self, name: str):
        return getattr(self.atoms, name)

    def correlate(self, correlation: np.ndarray, derivatives: bool = False) -> np.ndarray:
        if self.fault == "conjugate":
            return self.atoms.correlate(correlation.conj(), derivatives).conj()
        if self.fault == "users":
            return self.atoms.correlate(correlation[::-1], derivatives)
        if self.fault == "antennas":
            return self.atoms.correlate(correlation[..., ::-1], derivatives)
        return (1 + 1e-6) * self.atoms.correlate(correlation, derivatives)


@pytest.mark.parametrize("fault", ["conjugate", "users", "antennas", "scale"])
@pytest.mark.parametrize("kind", ["table-less", "squinted", "spherical"])
def test_a_correlation_of_another_model_fails(kind, fault):
    broken = Broken(made(kind)[0], fault)
    assert dottest(broken, 2, raiseerror=False) is False
    with pytest.raises(AssertionError, match=r"not adjoint: <synthesise\(x\), Z> = .*<x, correlate\(Z\)> = "):
        dottest(broken, 2)


def test_the_tolerance_is_relative():
    broken = Broken(made("spherical")[0], "scale")
    assert dottest(broken, 2, rtol=1e-5)
    assert not dottest(broken, 2, rtol=1e-9, raiseerror=False)
