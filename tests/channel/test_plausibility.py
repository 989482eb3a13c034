"""Units that physics makes unlikely: said where they are wrong, silent where links are only unusual."""

from __future__ import annotations

import warnings
from dataclasses import replace

import numpy as np
import pytest

import isac_toolbox as isac


@pytest.fixture(scope="module")
def block() -> isac.UplinkObservation:
    return isac.Scenario.load("urban_uplink").simulate(0).observation


def scaled(obs: isac.UplinkObservation, metres: float, **changes) -> isac.UplinkObservation:
    places = {name: getattr(obs, name) * metres for name in ("bs_position_m", "user_positions_m", "region_m")}
    return replace(obs, **(places | changes))


@pytest.mark.parametrize("carrier_hz", [None, 700e6, 3.5e9, 28e9])
@pytest.mark.parametrize(
    ("spacing_hz", "unit"), [(15e3, 1e3), (30e3, 1e3), (120e3, 1e3), (1.5e6, 1e3), (30e3, 1e6), (1.5e6, 1e6)]
)
def test_frequencies_in_kilohertz_or_megahertz_are_said(block, carrier_hz, spacing_hz, unit):
    frequencies_hz = block.subcarrier_frequencies_hz / 1.5e6 * spacing_hz / unit
    with pytest.warns(isac.ImplausibleValueWarning, match="frequencies are in Hz|they are in Hz"):
        replace(block, subcarrier_frequencies_hz=frequencies_hz, carrier_hz=carrier_hz)


@pytest.mark.parametrize("carrier_hz", [None, 3.5e9])
@pytest.mark.parametrize("first", [0, -32, 1, 1_000])
def test_indices_in_place_of_frequencies_are_said(block, carrier_hz, first):
    with pytest.warns(isac.ImplausibleValueWarning, match="not in kHz or counted"):
        replace(block, subcarrier_frequencies_hz=first + np.arange(64), carrier_hz=carrier_hz)


@pytest.mark.parametrize("carrier_hz", [None, 3.5e9, 28e9])
@pytest.mark.parametrize("metres", [1e-3, 1e3, 1e6])
def test_scenes_in_kilometres_millimetres_and_micrometres_are_said(block, carrier_hz, metres):
    with pytest.warns(isac.ImplausibleValueWarning, match="positions in metres"):
        scaled(block, metres, carrier_hz=carrier_hz)


def test_a_wide_band_does_not_hide_a_scene_in_kilometres(block):
    frequencies_hz = 20 * block.subcarrier_frequencies_hz  # 1.9 GHz tell 16 cm apart
    with pytest.warns(isac.ImplausibleValueWarning, match="closer than its array is wide"):
        scaled(block, 1e-3, subcarrier_frequencies_hz=frequencies_hz, carrier_hz=3.5e9)


@pytest.mark.parametrize("carrier_hz", [3.5, 3.5e3, 28.0])
def test_carriers_below_their_own_band_are_impossible(block, carrier_hz):
    with pytest.raises(ValueError, match=r"carrier_hz must exceed .* are both in Hz\?"):
        replace(block, carrier_hz=carrier_hz)


def test_frequencies_with_the_carrier_are_said(block):
    with pytest.warns(isac.ImplausibleValueWarning, match="baseband frequencies, without the carrier"):
        replace(block, subcarrier_frequencies_hz=3.5e9 + block.subcarrier_frequencies_hz)


@pytest.mark.parametrize(
    ("metres", "spacing_hz", "count", "carrier_hz"),
    [
        (1.0, 1.5e6, 64, 3.5e9),
        (10.0, 370.0, 64 * 40, 700e6),  # broadcast over cells, 0.37 kHz
        (1e3, 41.67, 64 * 3, 10e6),  # digital short wave
        (300.0, 500.0, 64 * 10, 3.5e9),
        (0.1, 1e6, 64 * 32, 300e9),  # sub-terahertz in a room
        (0.1, 100e3, 64 * 64, 1e12),
        (10.0, 15e3, 64, 3.5e9),
        (1.0, 30e3, 3276, 3.5e9),
        (0.3, 312.5e3, 64, 5.2e9),
    ],
)
def test_unusual_links_give_no_warning(block, metres, spacing_hz, count, carrier_hz):
    n_sub = min(count, 64)
    every = count // n_sub  # a comb over the whole band
    frequencies_hz = (np.arange(n_sub) - n_sub / 2) * every * spacing_hz
    frequencies_hz[1::2] = frequencies_hz[::2] + spacing_hz  # of pairs of neighbours
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for carrier in (carrier_hz, None):
            scaled(block, metres, subcarrier_frequencies_hz=frequencies_hz, carrier_hz=carrier)


def test_a_satellite_gives_no_warning(block):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        replace(block, bs_position_m=[0, 0, 600e3], subcarrier_frequencies_hz=15e3 * np.arange(-32, 32))


def test_ready_scenarios_give_no_warning():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for name in isac.scenario_names():
            isac.Scenario.load(name).simulate(0)


def test_the_warning_points_at_who_built_the_block(block):
    with pytest.warns(isac.ImplausibleValueWarning) as caught:
        isac.UplinkObservation(
            **{
                name: getattr(block, name)
                for name in block.__dataclass_fields__
                if name != "subcarrier_frequencies_hz"
            },
            subcarrier_frequencies_hz=np.arange(64.0),
        )
    assert {warning.filename for warning in caught} == {__file__}
