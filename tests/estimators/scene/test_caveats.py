"""What an observation says of its receiver and an estimator does not take is named, and nothing else."""

from __future__ import annotations

from dataclasses import replace

import pytest

from helpers.scenes import SMALL
from isac_toolbox.estimators.scene.caveats import not_modelled

OBSERVATION = SMALL.simulate(0).observation


@pytest.mark.parametrize(
    ("changes", "taken", "named"),
    [
        ({}, {}, ""),
        ({"element_gain_std": 0.1}, {}, ""),
        ({"coupling_std": 0.1}, {}, "coupling_std: "),
        ({"coupling_std": 0.1}, {"takes_coupling": True}, ""),
        ({"noise_covariance": "estimate"}, {}, "noise_covariance: "),
        ({"noise_covariance": "estimate"}, {"takes_colour": True}, ""),
        ({"coupling_std": 0.1, "noise_covariance": "estimate"}, {}, "coupling_std, noise_covariance: "),
    ],
)
def test_what_is_not_taken_into_account_is_named(changes, taken, named):
    said = not_modelled(replace(OBSERVATION, **changes), **taken)
    assert len(said) == bool(named) and all(text.startswith(f"{named}not taken") for text in said)
