"""What phases of a block say of its oscillators."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
from numpy.testing import assert_allclose

from isac_toolbox.estimators.scene.motion_estimate import _shared


def test_a_user_without_phases_of_its_own_shows_those_of_the_station():
    phases = np.random.default_rng(0).standard_normal((2, 5))
    motion = SimpleNamespace(user_phase_noise_stds_rad=np.array([0.1, 0.0]), phase_noise_std_rad=0.2)
    station, own = _shared(phases, motion)
    assert_allclose(station, phases[1], atol=1e-9)
    assert_allclose(own, [phases[0] - phases[1], np.zeros(5)], atol=1e-9)
