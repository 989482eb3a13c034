"""The example of the lattice runs, and says what it shows."""

from __future__ import annotations

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "burst_recovery.py"


def test_the_burst_example_runs(capsys):
    """On three seeds instead of twenty: a table, and three labelled pictures of one block."""
    source = EXAMPLE.read_text(encoding="utf-8")
    assert "SEEDS = 16, 15.0, range(20)" in source
    names: dict = {}
    exec(compile(source.replace("range(20)", "range(3)"), EXAMPLE.name, "exec"), names)
    printed = capsys.readouterr().out
    plt.close(names["fig"])
    errors = names["errors"][names["patches"], 60]
    assert errors.shape == (3, 3)
    assert np.median(errors[2]) < np.median(errors[0]) - 5
    rows = [line for line in printed.splitlines() if "observations" in line]
    assert len(rows) == 3 and f"{np.median(errors[2]):.1f}" in rows[0]
    titles = [ax.get_title() for ax in names["axes"]]
    assert titles[0] == "truth" and titles[1].startswith("independent") and titles[2].startswith("lattice")
    assert all(ax.get_xlabel() for ax in names["axes"]) and names["axes"][0].get_ylabel()
