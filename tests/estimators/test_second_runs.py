"""Runs with another model are taken only where they end well."""

from __future__ import annotations

import numpy as np
import pytest

import isac_toolbox as isac
from helpers.scenes import SMALL
from isac_toolbox.estimators.bisvbi_loop import BiSVBILoop
from isac_toolbox.inference.turbo import FAILED

OBSERVATION = SMALL.simulate(0).observation


def other_runs(monkeypatch, raises=None, status=None):
    """Let a first run ask for a second one, and that one fail."""
    runs, run_bounded = [], BiSVBILoop.run_bounded

    def run(loop, *arguments):
        runs.append(loop)
        if len(runs) > 1 and raises is not None:
            raise raises
        result = run_bounded(loop, *arguments)
        if len(runs) > 1 and status is not None:
            loop.status = status
        return result

    monkeypatch.setattr(BiSVBILoop, "run_bounded", run)
    return runs


@pytest.mark.parametrize("asks", ["shows_squint", "shows_colour"])
@pytest.mark.parametrize("failure", [{"raises": np.linalg.LinAlgError("singular")}, {"status": FAILED}])
def test_a_second_run_that_fails_is_not_taken(asks, failure, monkeypatch):
    plain = isac.EMTurboBiSVBI().estimate(OBSERVATION)
    observation = SMALL.replace(carrier_hz=3.5e9).simulate(0).observation
    monkeypatch.setattr(BiSVBILoop, asks, lambda *_: True)
    runs = other_runs(monkeypatch, **failure)
    found = isac.EMTurboBiSVBI().estimate(observation)
    assert len(runs) == 2
    assert np.array_equal(found.channel, plain.channel) and found.warnings == plain.warnings


def test_out_of_time_the_data_are_not_judged_again(monkeypatch):
    """Data that contradict the pilots ask for a second run; without time it is said that there was none."""
    monkeypatch.setattr(BiSVBILoop, "contradicts_pilots", lambda *_: True)
    runs = other_runs(monkeypatch)
    found = isac.EMTurboBiSVBI(max_seconds=1e-6).estimate(OBSERVATION)
    assert len(runs) == 1 and found.status == "time limit"


def test_memory_of_blocks_that_move_grows_with_their_shifts():
    """As many frames are held as the largest Doppler shift asks for."""
    moving = SMALL.replace(symbol_period_s=1e-3, n_data_symbols=30, frequency_offset_std_hz=1.0)
    peaks = [
        isac.EMTurboBiSVBI().memory_usage(moving.replace(user_velocity_std_m_s=std).simulate(0).observation)
        for std in (0.01, 3.0)
    ]
    assert peaks[0] < peaks[1]
