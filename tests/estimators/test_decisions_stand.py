"""Symbols that are certain are not decided again under a channel that hardly changes."""

from __future__ import annotations

import numpy as np
import pytest

import isac_toolbox as isac
from isac_toolbox.estimators.bisvbi_loop import BiSVBILoop

URBAN = isac.Scenario.load("urban_uplink")


def run(snr_db, monkeypatch, always=False):
    """The loop after a run, in how many iterations it decided on symbols, and in how many it might have."""
    decided, allowed = [], []
    remember, use = BiSVBILoop._remember_decisions, BiSVBILoop._use_data

    def count(loop, moments):
        decided.append(loop.n_iter)
        remember(loop, moments)
        if always:
            loop._decided = None

    def ask(loop):
        allowed.append(loop.n_iter)
        use(loop)

    monkeypatch.setattr(BiSVBILoop, "_remember_decisions", count)
    monkeypatch.setattr(BiSVBILoop, "_use_data", ask)
    loop = BiSVBILoop(isac.EMTurboBiSVBI(), URBAN.replace(snr_db=snr_db).simulate(0).observation)
    loop.run()
    return loop, decided, allowed


@pytest.mark.parametrize(("snr_db", "again"), [(20.0, False), (-10.0, True)])
def test_only_certain_symbols_stand(snr_db, again, monkeypatch):
    _, decided, allowed = run(snr_db, monkeypatch)
    assert len(allowed) > 2
    assert decided == (allowed if again else allowed[:1])


@pytest.mark.parametrize("snr_db", [20.0, 0.0, -10.0])
def test_the_channel_is_that_of_deciding_every_time(snr_db, monkeypatch):
    with monkeypatch.context() as patch:
        seldom, few, _ = run(snr_db, patch)
    with monkeypatch.context() as patch:
        always, many, _ = run(snr_db, patch, always=True)
    assert len(few) <= len(many)
    error = np.linalg.norm(seldom.channel() - always.channel()) / np.linalg.norm(always.channel())
    assert error < 1e-4


def test_a_channel_that_changed_decides_again(monkeypatch):
    loop, _, _ = run(20.0, monkeypatch)
    assert loop._decisions_stand
    kept = loop._decided
    for user in range(3):
        for change, stands in ((0.02, True), (0.05, False)):
            loop._decided = kept.copy()
            loop._decided[user] *= 1 + change
            assert loop._decisions_stand == stands
