"""How large beam squint can be, from the array, the band and the carrier."""

from __future__ import annotations

import numpy as np
import pytest

import isac_toolbox as isac
from isac_toolbox.channel.atoms.receiver import Receiver
from isac_toolbox.estimators.scene.squint import _largest_squint_rad

ARRAY = isac.UniformPlanarArray((8, 4), (0.5, 0.7))
BANDS = {"around": np.linspace(-2e8, 2e8, 9), "below": np.linspace(-2e8, -1e8, 9)}


@pytest.mark.parametrize("band", BANDS)
def test_the_largest_squint_is_that_of_the_corner_at_the_edge_of_the_band(band):
    receiver = Receiver(ARRAY, np.zeros(3), BANDS[band], "planar", 3.5e9)
    middle = (np.array(ARRAY.shape) - 1) / 2
    corner = 2 * np.pi * (0.5 * middle[0] + 0.7 * middle[1])
    assert _largest_squint_rad(receiver) == pytest.approx(corner * 2e8 / 3.5e9)


def test_without_a_carrier_there_is_none():
    assert _largest_squint_rad(Receiver(ARRAY, np.zeros(3), BANDS["around"], "planar", None)) == 0.0
