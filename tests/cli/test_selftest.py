"""``isac selftest``: what it says of an installation that is sound, and of one that is not."""

from __future__ import annotations

from helpers.cli import run
from isac_toolbox.cli import selftest


def test_a_sound_installation(monkeypatch):
    monkeypatch.setattr(selftest, "_NMSE_DB", {0: -47.2866})
    said = run("selftest").stdout.splitlines()
    assert said[-1] == "all well" and "channel errors -47.29 dB" in said[1]
    assert [line[:15].strip() for line in said[:-1]] == [
        "scenarios",
        "estimates",
        "files",
        "sweep",
        "sparse recovery",
        "networks",
    ]


def test_an_installation_that_computes_something_else(monkeypatch):
    def broken(folder):
        raise ImportError("libgfortran is missing")

    for name in ("_scenarios", "_files", "_sweep", "_networks"):
        monkeypatch.setattr(selftest, name, lambda folder: "well")
    monkeypatch.setattr(selftest, "_sparse_recovery", broken)
    monkeypatch.setattr(selftest, "_NMSE_DB", {0: -47.4})
    outcome = run("selftest", code=1)
    assert "FAILED: RuntimeError: channel error -47.287 dB for seed 0, -47.4 dB is right" in outcome.stdout
    assert "FAILED: ImportError: libgfortran is missing" in outcome.stdout
    assert outcome.stderr == "error: the installation is not sound: estimates, sparse recovery failed\n"
