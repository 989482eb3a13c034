"""Data that contradict the pilots are refused, it is said, and their LLRs promise no more than they keep."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

import isac_toolbox as isac

UPLINK = isac.Scenario.load("urban_uplink").replace(snr_db=20)
SYMBOL_S = 36e-6


def with_frequency_offsets(simulation, offset_hz: float):
    """The block of users whose carriers are off by up to twice as much."""
    rng = np.random.default_rng(1)
    offsets = rng.standard_normal(len(simulation.truth.symbols)) * offset_hz
    times = SYMBOL_S * np.arange(simulation.observation.n_symbols)
    symbols = simulation.truth.symbols * np.exp(2j * np.pi * np.multiply.outer(offsets, times))[:, None]
    received = np.einsum("knm,knt->nmt", simulation.truth.channel, symbols)
    noise = rng.standard_normal((*received.shape, 2)) @ [1, 1j]
    received = received + noise * np.sqrt(simulation.truth.noise_variance / 2)
    return replace(simulation.observation, received=received)


def bits_kept(result, simulation) -> float:
    """Mutual information of a bit that a decoder gets from the LLRs, in bits; below zero they mislead."""
    sent = simulation.truth.symbol_indices
    data = sent >= 0
    bits = (sent[data][:, None] >> np.array([1, 0])) & 1
    llr = np.clip((1 - 2 * bits) * result.llr[data], -700, 700)
    return float(1 - np.mean(np.logaddexp(0, -llr)) / np.log(2))


@pytest.mark.parametrize(("offset_hz", "least"), [(30, 0.99), (300, 0.9), (1000, -1.5)])
def test_frequency_offsets_are_said_and_do_not_mislead_a_decoder(offset_hz, least):
    """At 1 kHz half the decisions are wrong, and the LLRs once took 26 bits from every bit."""
    simulation = UPLINK.simulate(0)
    result = isac.EMTurboBiSVBI().estimate(with_frequency_offsets(simulation, offset_hz))
    assert any("contradict the pilots" in text for text in result.warnings)
    assert bits_kept(result, simulation) > least
    assert np.all(result.llr[:, :, :3] == 0)  # pilots


def test_a_block_without_offsets_keeps_its_bits():
    simulation = UPLINK.simulate(0)
    result = isac.EMTurboBiSVBI().estimate(with_frequency_offsets(simulation, 0.0))
    assert result.warnings == () and bits_kept(result, simulation) > 0.999


def test_beam_squint_that_was_not_asked_for_is_found():
    simulation = UPLINK.replace(beam_squint=True).simulate(0)
    result = isac.EMTurboBiSVBI().estimate(replace(simulation.observation, beam_squint=False))
    assert any("beam squint" in text for text in result.warnings)
    found = isac.metrics.localisation(result.scatterer_positions_m, simulation.truth.scatterer_positions_m)
    assert (found.misses, found.false_alarms) == (0, 0)
    bound_db = isac.bounds.hybrid_crb(simulation).channel_nmse_db
    assert isac.metrics.channel_nmse_db(result.channel, simulation.truth.channel) < bound_db + 1


def test_beam_squint_is_not_found_where_there_is_none():
    observation = isac.Scenario.load("traced_munich").simulate(0).observation
    result = isac.EMTurboBiSVBI().estimate(observation)
    assert len(result.unlocated_paths) and not any("squint" in text for text in result.warnings)


def test_without_data_nothing_is_decided_differently():
    from isac_toolbox.estimators.refusals import decided_alike

    observation = UPLINK.replace(n_data_symbols=0).simulate(0).observation
    result = isac.LeastSquares().estimate(observation)
    assert not np.any(result.symbol_decision >= 0) and decided_alike(result, result)
