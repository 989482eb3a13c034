"""Fields of a scenario are validated, one by one and together."""

from __future__ import annotations

import numpy as np
import pytest

import isac_toolbox as isac
from helpers.simulated import SMALL


def test_replace_changes_a_copy_and_validates():
    changed = SMALL.replace(snr_db=-3.0, n_users=1)
    assert (changed.snr_db, changed.n_users) == (-3.0, 1)
    assert (SMALL.snr_db, SMALL.n_users) == (10.0, 2)
    with pytest.raises(ValueError, match="n_users"):
        SMALL.replace(n_users=0)
    with pytest.raises(ValueError, match="snr_db"):
        SMALL.snr_db = 3.0


def test_pilot_symbols_default_to_the_number_of_users():
    assert isac.Scenario(n_users=5).pilot_symbols == 5
    assert isac.Scenario(n_users=5, n_pilot_symbols=7).pilot_symbols == 7
    observation = SMALL.replace(n_pilot_symbols=None).simulate(0).observation
    assert observation.pilot_mask.sum(axis=1).tolist() == [2] * 8


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("n_users", True),
        ("snr_db", True),
        ("snr_db", np.True_),
        ("array_shape", [True, 8]),
        ("array_shape", np.array([True, True])),
        ("region_m", [[0, 0, False], [1, 1, 1]]),
        ("n_pilot_symbols", True),
        ("azimuth_rad", False),
        ("traced", True),
    ],
)
def test_true_and_false_are_no_numbers(field, value):
    with pytest.raises(ValueError, match=f"{field}: must not be true or false, got"):
        SMALL.replace(**{field: value})
