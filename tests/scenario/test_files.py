"""Scenarios are read and written, and traced files are found beside them."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_array_equal

import isac_toolbox as isac
from helpers import ROOT
from helpers.simulated import SMALL


def test_ready_scenarios_load_and_survive_a_round_trip(tmp_path):
    names = isac.scenario_names()
    assert {"urban_uplink", "low_snr", "traced_munich", "traced_street_canyon"} <= set(names)
    for name in names:
        scenario = isac.Scenario.load(name)
        assert scenario.description
        path = scenario.dump(tmp_path / f"{name}.toml")
        assert isac.Scenario.load(path) == isac.Scenario.load(str(path)) == scenario


@given(
    st.text(st.characters(exclude_categories=["Cs"])),
    st.floats(-100, 100),
    st.floats(1e-12, 1e-3),
    st.one_of(st.none(), st.floats(-np.pi, np.pi)),
    st.booleans(),
)
@settings(max_examples=100, deadline=None)
def test_any_scenario_survives_a_round_trip(tmp_path_factory, text, snr_db, std, azimuth, control):
    scenario = SMALL.replace(
        description=text, snr_db=snr_db, time_offset_std_s=std, azimuth_rad=azimuth, power_control=control
    )
    path = scenario.dump(tmp_path_factory.mktemp("scenarios") / "case.toml")
    assert isac.Scenario.load(path) == scenario


@pytest.mark.parametrize("name", ["own.toml", "OWN.TOML"])
def test_a_byte_order_mark_is_no_content(tmp_path, name):
    (tmp_path / name).write_bytes(b"\xef\xbb\xbfn_users = 2\n")
    assert isac.Scenario.load(tmp_path / name).n_users == 2


@pytest.fixture
def own_traced(tmp_path):
    """A folder with a scenario and, in it, a traced file that the scenario names relative to itself."""
    folder = tmp_path / "scene"
    folder.mkdir()
    (folder / "own.npz").write_bytes((ROOT / "isac_toolbox/data/traced/street_canyon.npz").read_bytes())
    (folder / "own.toml").write_text("traced = 'own.npz'\nn_users = 1\n")
    return folder


@pytest.mark.parametrize("where", [".", "scene", "/"])
def test_a_relative_traced_file_is_beside_its_scenario(own_traced, monkeypatch, where):
    monkeypatch.chdir(own_traced.parent / where)
    relative = Path(os.path.relpath(own_traced / "own.toml"))
    for path in (own_traced / "own.toml", relative):
        scenario = isac.Scenario.load(path)
        assert scenario.simulate(0).truth.environment.name == "own"
        copy = isac.Scenario.load(scenario.dump(own_traced / "copy.toml"))
        assert copy.simulate(0).truth.environment.name == "own"


def test_the_file_beside_the_scenario_comes_before_the_current_folder(own_traced, monkeypatch):
    monkeypatch.chdir(own_traced.parent)
    other = own_traced.parent / "own.npz"
    other.write_bytes((ROOT / "isac_toolbox/data/traced/munich.npz").read_bytes())
    beside = isac.Scenario.load(own_traced / "own.toml").simulate(0).observation.bs_position_m
    assert_array_equal(beside, isac.load_traced("street_canyon").bs_position_m)
    (own_traced / "own.npz").unlink()
    here = isac.Scenario.load(own_traced / "own.toml").simulate(0).observation.bs_position_m
    assert_array_equal(here, isac.load_traced("munich").bs_position_m)


def test_a_missing_traced_file_is_said_where_it_was_sought(own_traced, monkeypatch):
    monkeypatch.chdir(own_traced.parent)
    (own_traced / "own.npz").unlink()
    with pytest.raises(ValueError, match="traced") as caught:
        isac.Scenario.load(own_traced / "own.toml")
    for place in (own_traced / "own.npz", own_traced.parent / "own.npz", "munich.npz"):
        assert str(place) in str(caught.value)
