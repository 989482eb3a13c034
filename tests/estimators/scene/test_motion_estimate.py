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


def test_the_station_has_its_share_of_what_users_agree_on():
    """Of phases ``c + o_k`` the mean of c: ``s_c^2 / (s_c^2 + s_o^2 / K)`` of their average."""
    phases = np.random.default_rng(1).standard_normal((3, 5))
    motion = SimpleNamespace(user_phase_noise_stds_rad=np.full(3, 0.3), phase_noise_std_rad=0.2)
    station, own = _shared(phases, motion)
    assert_allclose(station, 0.04 / (0.04 + 0.09 / 3) * phases.mean(axis=0))
    assert_allclose(own, phases - station)
