"""Names that settings take: one list each, checked by the library and offered by the command line."""

from __future__ import annotations

import subprocess
import sys

import pytest
from typer.testing import CliRunner

from isac_toolbox import _choices
from isac_toolbox._catalogue import CATALOGUE
from isac_toolbox.cli.commands import app


def words_of_help(*command: str) -> list[str]:
    """Words of a help page, as wide as it needs to be."""
    outcome = CliRunner().invoke(app, [*command, "--help"], env={"COLUMNS": "400"})
    assert outcome.exit_code == 0, outcome.output
    return outcome.stdout.replace(",", " ").replace(".", " ").split()


@pytest.mark.parametrize(
    ("command", "lists"),
    [
        (["estimate"], [CATALOGUE, _choices.COARSE_STAGES, _choices.M_STEPS, _choices.INVERSES]),
        (["estimate"], [_choices.RULES]),
        (["nn", "compress"], [_choices.SUPPORTS, _choices.RULES]),
        (["nn", "ssvi"], [_choices.REMOVALS, _choices.LAYER_DENSITIES]),
    ],
)
def test_help_offers_every_name(command, lists):
    words = words_of_help(*command)
    assert all(name in words for names in lists for name in names)


@pytest.mark.parametrize(
    ("words", "names"),
    [
        (["estimate", "urban_uplink", "--estimator"], CATALOGUE),
        (["estimate", "urban_uplink", "--coarse"], _choices.COARSE_STAGES),
        (["nn", "compress", "--support"], _choices.SUPPORTS),
        (["nn", "ssvi", "--removal"], _choices.REMOVALS),
    ],
)
def test_other_names_are_refused_with_the_known(words, names):
    outcome = CliRunner().invoke(app, [*words, "golden"])
    assert outcome.exit_code == 2
    assert f"must be one of {', '.join(names)}, got 'golden'" in outcome.stderr


def test_scores_of_removal_all_exist():
    pytest.importorskip("torch")
    from isac_toolbox.nn.ssvi.scores import SCORES

    assert {*SCORES, "structured"} == set(_choices.REMOVALS)


def test_names_load_nothing_heavy():
    code = (
        "import sys, isac_toolbox._choices, isac_toolbox._catalogue\n"
        "assert not {'numpy', 'scipy', 'numba', 'pydantic'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
