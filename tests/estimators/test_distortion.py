"""Converters, clipping and amplifiers that the observation says nothing of, through EMTurboBiSVBI."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

import isac_toolbox as isac
from helpers.scenes import SMALL
from isac_toolbox.estimators.refusals import decided_alike, turns
from isac_toolbox.estimators.result import Misfit, MisfitAxis

URBAN = isac.Scenario.load("urban_uplink").replace(snr_db=20.0)


@pytest.mark.parametrize(
    ("distortion", "least_db"),
    [({"clipping_share": 0.01}, -52.0), ({"adc_bits": 3}, -44.0), ({"amplifier_backoff_db": 6.0}, -48.0)],
    ids=["clipping", "converter", "amplifier"],
)
def test_distortion_costs_what_its_power_costs(distortion, least_db):
    """Pilots repeat, so their distortion looked like a channel, and right data were once refused for it."""
    simulation = URBAN.replace(**distortion).simulate(1)
    obs, truth = simulation.observation, simulation.truth
    result = isac.EMTurboBiSVBI().estimate(obs)
    nmse_db, nomp_db = (
        isac.metrics.channel_nmse_db(r.channel, truth.channel) for r in (result, isac.NOMP().estimate(obs))
    )
    assert nmse_db < least_db and nmse_db < nomp_db - 4
    found = isac.metrics.localisation(result.scatterer_positions_m, truth.scatterer_positions_m)
    assert found.false_alarms == 0 and found.misses == 0
    assert not any("estimated from the pilots alone" in text for text in result.warnings)


def test_data_that_distorted_pilots_contradict_are_kept_and_that_is_said():
    result = isac.EMTurboBiSVBI().estimate(URBAN.replace(clipping_share=0.05).simulate(1).observation)
    said = [text for text in result.warnings if "not white" in text or "the data were kept" in text]
    assert said and not any("from the pilots alone" in text for text in result.warnings)


def test_decisions_are_compared_where_there_are_data():
    result = isac.EMTurboBiSVBI().estimate(SMALL.simulate(0).observation)
    assert decided_alike(result, result)
    few, many = result.symbol_decision.copy(), result.symbol_decision.copy()
    data = np.argwhere(few >= 0)
    few[tuple(data[0])] ^= 1
    many[0][many[0] >= 0] ^= 1
    assert decided_alike(result, replace(result, symbol_decision=few))
    assert not decided_alike(result, replace(result, symbol_decision=many))


def test_turning_is_told_from_loud_symbols_and_from_a_little_distortion():
    result = isac.EMTurboBiSVBI().estimate(SMALL.simulate(0).observation)

    def with_time(part: str, excess_db: float, chance: float) -> isac.EstimationResult:
        fine = MisfitAxis("echoes", 0.0, 1.0)
        return replace(result, misfit=Misfit(fine, fine, MisfitAxis(part, excess_db, chance), fine))

    assert turns(with_time("rotation", 20.0, 0.0))
    assert not turns(with_time("rotation", 6.0, 0.0))
    assert not turns(with_time("power", 20.0, 0.0))
    assert not turns(with_time("rotation", 20.0, 1.0))
    assert not turns(replace(result, misfit=None))
