"""Coupling that depends on how far elements are from each other."""

from __future__ import annotations

import numpy as np

import isac_toolbox as isac
from isac_toolbox.channel.coupling import CouplingKinds


def test_sums_over_pairs_of_a_kind():
    """By a loop over all pairs, and also of no values at all."""
    kinds = CouplingKinds.of(isac.UniformPlanarArray((3, 2)))
    values = np.random.default_rng(0).standard_normal((6, 6, 4))
    place = np.stack(np.divmod(np.arange(6), 2), axis=1)
    apart = np.abs(place[:, None] - place)
    expected = [values[np.all(apart == offset, axis=2)].sum(axis=0) for offset in kinds.offsets]
    np.testing.assert_allclose(kinds.sums(values), expected, atol=1e-12)
    assert kinds.sums(values[:, :, :0]).shape == (len(kinds.offsets), 0)
