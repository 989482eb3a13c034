"""A small receiver and unlocated paths of two users."""

from __future__ import annotations

import numpy as np

import isac_toolbox as isac
from helpers.scenes import BS_M, dense_atoms
from isac_toolbox.channel.atoms.receiver import Receiver
from isac_toolbox.channel.atoms.scene import Paths, Scene

N_SUB = 24
SPACING_HZ = 4e6


def receiver(shape=(6, 4), spacing=(0.5, 0.6), n_sub=N_SUB) -> Receiver:
    frequencies = (np.arange(n_sub) - (n_sub - 1) / 2) * SPACING_HZ
    return Receiver(isac.UniformPlanarArray(shape, spacing, 0.2, -0.1), BS_M, frequencies)


def atoms_of(receiver: Receiver, user, parameters) -> np.ndarray:
    """Free-path atoms (L, 2, N, M) of two users."""
    user = np.asarray(user)
    scene = Scene(np.zeros((0, 3)), np.full((2, 3), 50.0), np.zeros(2), np.asarray(parameters, float))
    paths = Paths.build(np.zeros(2, bool), np.zeros((2, 0), bool), user)
    return dense_atoms(receiver, scene, paths)
