"""Times of OFDM symbols against 3GPP TS 38.211."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.testing import assert_allclose

from isac_toolbox.channel.numerology import NUMEROLOGIES, SYMBOLS_PER_SLOT, check_raster, slot_times_s


@pytest.mark.parametrize("numerology", list(NUMEROLOGIES))
def test_symbols_are_where_their_prefixes_put_them(numerology):
    """Added up symbol by symbol, in the standard's own units."""
    mu = round(np.log2(NUMEROLOGIES[numerology] / 15e3))
    unit_s, kappa = 1 / (480e3 * 4096), 64
    start, expected = 0.0, []
    for symbol in range(SYMBOLS_PER_SLOT * 2**mu):
        prefix = 144 * kappa / 2**mu + (16 * kappa if symbol % (7 * 2**mu) == 0 else 0)
        useful = 2048 * kappa / 2**mu
        expected.append((start + prefix + useful / 2) * unit_s)
        start += prefix + useful
    assert start * unit_s == pytest.approx(1e-3, rel=1e-12)  # a subframe
    assert_allclose(slot_times_s(numerology, np.arange(len(expected))), expected, rtol=1e-12)
    later = slot_times_s(numerology, np.arange(len(expected)) + len(expected))
    assert_allclose(later, np.array(expected) + 1e-3, rtol=1e-12)


def test_bad_symbols_and_spacings_are_named():
    with pytest.raises(ValueError, match="numerology must be one of"):
        slot_times_s("45kHz", [0])
    with pytest.raises(ValueError, match="symbols must be non-negative"):
        slot_times_s("30kHz", [-1])
    with pytest.raises(TypeError, match="symbols must hold integers"):
        slot_times_s("30kHz", [0.5])
    assert check_raster("30kHz", 1.5e6) == 50
    for spacing_hz in (1.51e6, 15e3):
        with pytest.raises(ValueError, match="subcarrier_spacing_hz must be a multiple of the 30000 Hz"):
            check_raster("30kHz", spacing_hz)
