"""Phases of oscillators against those that were injected, and their stated deviations."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from helpers.moving import SMALL_MOVING, true_fit
from isac_toolbox.estimators.scene.derotation import no_derotation
from isac_toolbox.estimators.scene.phases import phases_of
from isac_toolbox.estimators.symbols.derotation import Derotation
from isac_toolbox.estimators.symbols.phases import PhasePrior
from isac_toolbox.estimators.symbols.statistics import SymbolMoments

WALKING = SMALL_MOVING.replace(
    user_speed_m_s=1.0,
    moving_share=0.0,
    scatterer_speed_m_s=0.0,
    phase_noise_std_rad=0.05,
    user_phase_noise_std_rad=0.08,
    snr_db=-5.0,
)
pytestmark = pytest.mark.filterwarnings("ignore::isac_toolbox.ImplausibleValueWarning")


def truth_beside_lines(simulation, basis: np.ndarray) -> np.ndarray:
    """Phases of users (K, T) less the line over time that gains and offsets take."""
    truth = simulation.truth
    phases = truth.symbol_phase_rad + truth.user_symbol_phase_rad
    return phases @ basis @ basis.T


def estimated(simulation, moments: SymbolMoments | None = None, used=None) -> tuple[Derotation, np.ndarray]:
    """Phases from channels that are right but for a phase that all symbols share, and a frequency."""
    obs, truth = simulation.observation, simulation.truth
    prior = PhasePrior.of(obs.motion)
    phases = truth.symbol_phase_rad + truth.user_symbol_phase_rad
    turned = replace(no_derotation(obs.motion), phases_rad=phases)
    fit, block = true_fit(simulation, turned)  # the right gains
    lines = phases - truth_beside_lines(simulation, prior.basis)
    block = replace(block, derotation=replace(turned, phases_rad=lines))
    certain = SymbolMoments(truth.symbols, np.zeros(truth.symbols.shape))
    used = np.ones(obs.received[:, 0].shape, bool) if used is None else used
    return phases_of(prior, fit, block, certain if moments is None else moments, used)


def test_phases_are_recovered_to_their_stated_deviation():
    errors = []
    for seed in range(12):
        simulation = WALKING.simulate(seed)
        derotation, std = estimated(simulation)
        basis = PhasePrior.of(simulation.observation.motion).basis
        error = derotation.phases_rad @ basis @ basis.T - truth_beside_lines(simulation, basis)
        assert np.abs(truth_beside_lines(simulation, basis)).max() > 2 * std.max()
        errors.append(error / std)
    assert 0.85 < np.sqrt(np.mean(np.square(errors))) < 1.15


def test_without_samples_phases_have_the_deviation_of_the_prior():
    simulation = WALKING.simulate(0)
    nothing = np.zeros(simulation.observation.received[:, 0].shape, bool)
    derotation, std = estimated(simulation, used=nothing)
    prior = PhasePrior.of(simulation.observation.motion)
    covariance = np.linalg.inv(prior.precision)[: prior.basis.shape[1], : prior.basis.shape[1]]
    expected = np.sqrt(np.diag(prior.basis @ covariance @ prior.basis.T))
    assert np.allclose(std, expected, rtol=1e-6)
    assert np.abs(derotation.phases_rad @ prior.basis).max() < 1e-9


def test_symbols_that_are_not_used_are_interpolated():
    simulation = WALKING.replace(snr_db=20.0).simulate(1)
    used = np.ones(simulation.observation.received[:, 0].shape, bool)
    used[:, 4] = False
    _, all_std = estimated(simulation)
    derotation, std = estimated(simulation, used=used)
    basis = PhasePrior.of(simulation.observation.motion).basis
    error = derotation.phases_rad @ basis @ basis.T - truth_beside_lines(simulation, basis)
    assert np.all(std[:, 4] > 2 * all_std[:, 4])
    assert np.all(np.abs(error[:, 4]) < 4 * std[:, 4])


def test_soft_symbols_turn_by_the_same_phases():
    """A symbol known to a variance of one half has half the power in its mean; the rest has no phase."""
    simulation = WALKING.simulate(2)
    truth = simulation.truth
    soft = SymbolMoments(truth.symbols * np.sqrt(0.5), np.full(truth.symbols.shape, 0.5))
    certain, std = estimated(simulation)
    derotation, _ = estimated(simulation, soft)
    assert np.abs((derotation.phases_rad - certain.phases_rad) / std).max() < 2
