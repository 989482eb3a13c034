"""How a block turns: start values, the channel at other times, and over all symbols."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from numpy.testing import assert_allclose

from helpers.moving import motion_of, moving_case
from isac_toolbox.channel.atoms.kinematics import KinematicPrior
from isac_toolbox.estimators.scene.derotation import (
    channel_at,
    evolution_of,
    mean_doppler_hz,
    no_derotation,
)

pytestmark = pytest.mark.filterwarnings("ignore::isac_toolbox.ImplausibleValueWarning")


@pytest.fixture(params=["planar", "spherical"])
def case(request):
    return moving_case(0, request.param)


def test_the_channel_of_a_symbol_is_the_sum_of_its_paths(case):
    fit, derotation = case.fit(), case.derotation
    turn = np.exp(1j * derotation.phases_rad)[:, None, None]
    expected = np.tensordot(fit.posterior.mean, case.channels(), 1) * turn
    for t in range(5):
        knowledge = channel_at(fit, derotation.take(np.array([t])))
        assert_allclose(knowledge.mean, expected[..., t], atol=1e-6)
        # its error lives on the paths as they are turned in that symbol
        atoms = case.channels()[..., t].reshape(len(case.paths), -1)
        atoms = atoms * np.repeat(
            np.exp(1j * derotation.phases_rad[:, t]), case.channels()[0, 0, ..., 0].size
        )
        covariance = atoms.T @ fit.posterior.covariance @ atoms.conj()
        still = np.array(
            [knowledge.atoms.synthesise(unit, 2) for unit in np.eye(len(case.paths), dtype=complex)]
        )
        still = still.reshape(len(case.paths), -1)
        assert_allclose(still.T @ knowledge.covariance @ still.conj(), covariance, atol=1e-6)


@pytest.mark.parametrize("n_symbols", [5, 40])
def test_the_evolution_is_the_channel_of_every_symbol(n_symbols):
    """Interpolated between fewer times where there are many."""
    times = np.linspace(-2e-3, 2e-3, n_symbols)
    case = moving_case(1, motion=motion_of(times_s=times))
    fit, derotation = case.fit(), case.derotation
    evolution = evolution_of(fit, derotation, 2.0)
    assert evolution.n_symbols == n_symbols
    assert (len(evolution.parts) < n_symbols) == (n_symbols > 30)
    turn = np.exp(1j * derotation.phases_rad)[:, None, None]
    expected = 2.0 * np.tensordot(fit.posterior.mean, case.channels(), 1) * turn
    assert_allclose(evolution.at(range(n_symbols)), expected, atol=1e-5 * np.abs(expected).max())


def test_the_mean_shift_is_that_of_the_power(case):
    fit = case.fit()
    power, shifts = np.abs(fit.posterior.mean) ** 2, fit.parameters.doppler_hz
    for k in range(2):
        own = case.paths.user == k
        assert mean_doppler_hz(fit)[k] == pytest.approx(np.average(shifts[own], weights=power[own]))


def test_a_user_without_a_path_keeps_its_shift(case):
    fit = case.fit()
    alone = np.flatnonzero(case.paths.user == 0)
    paths = replace(
        case.paths,
        user=case.paths.user[alone],
        target=case.paths.target[alone],
        unlocated=case.paths.unlocated[alone],
    )
    some = fit.restricted(case.scene, paths, alone, case.precision[alone])
    assert mean_doppler_hz(some)[1] == case.derotation.doppler_hz[1]


def test_nothing_is_known_at_first():
    motion = motion_of(times_s=(np.arange(14) - 6.5) * 36e-6)
    derotation = no_derotation(motion)
    assert derotation.keeps_symbols and not derotation.doppler_hz.any() and not derotation.phases_rad.any()
    assert_allclose(derotation.factors, 1)
    long = no_derotation(replace(motion, times_s=(np.arange(3000) - 1499.5) * 36e-6))
    largest = 2 * KinematicPrior.of(motion).largest_doppler_hz
    assert not long.keeps_symbols and long.nodes_s.size < 3000
    assert long.nodes_s.size > 2 * largest * 1500 * 36e-6 * np.pi  # two a radian at the ends
