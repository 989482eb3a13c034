"""Whatever is typed after ``isac nn``, whatever data it reads: success, or a line that says what is wrong."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from typer.main import get_command

from helpers import texts
from helpers.cli import ends_well
from helpers.examples import examples
from helpers.faults import memory_of_at_most, tally
from isac_toolbox._choices import LAYER_DENSITIES, REMOVALS, RULES, SUPPORTS
from isac_toolbox.cli import commands as cli

_MEMORY = 2**31
NETWORKS = """
from torch import nn

def classes():
    return nn.Linear(3, 2)

def wide():
    return nn.Linear(4, 2)

def broken():
    raise RuntimeError("no weights")
"""


@pytest.fixture(scope="module", autouse=True)
def folder(tmp_path_factory):
    """A current folder with networks and data of a few examples; what takes seconds is left out."""
    path = tmp_path_factory.mktemp("typed")
    (path / "typed_networks.py").write_text(NETWORKS)
    x = np.random.default_rng(0).standard_normal((12, 3))
    np.savez(path / "data.npz", x_train=x, y_train=(x[:, 0] > 0).astype(int))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(path)
        patch.setattr("isac_toolbox.cli.nn_compress._save_program", lambda *_: "not now")
        for module in ("nn_compress", "nn_ssvi"):
            patch.setattr(f"isac_toolbox.cli.{module}.draw_masks", lambda *_: None)
        yield path


TEXT = st.text(texts.LETTERS, max_size=8)
NUMBER = texts.numbers.map(repr)
#: By option: what could be meant, and what is not allowed.
VALUES: dict[str, tuple[st.SearchStrategy[str], st.SearchStrategy[str]]] = {
    "--model": (
        st.sampled_from(["typed_networks:classes", "digits-mlp"]),
        st.one_of(st.sampled_from(["typed_networks:broken", "typed_networks:wide", "nowhere:x", ":"]), TEXT),
    ),
    "--data": (st.just("data.npz"), st.one_of(st.sampled_from(["none.npz", "typed_networks.py"]), TEXT)),
    "--epochs": (st.just("12"), NUMBER),
    "--temperature": (st.floats(1e-3, 10).map(str), NUMBER),
    "--support-temperature": (st.floats(1e-3, 10).map(str), NUMBER),
    "--max-weights": (st.integers(1, 9).map(str), NUMBER),
    "--support": (st.sampled_from(SUPPORTS), TEXT),
    "--rule": (st.sampled_from(RULES), TEXT),
    "--density": (st.floats(0.01, 1).map(str), NUMBER),
    "--removal": (st.sampled_from(REMOVALS), TEXT),
    "--layer-density": (st.sampled_from(LAYER_DENSITIES), TEXT),
    "--update-interval": (st.just("1"), NUMBER),
    "--seed": (st.integers(0, 99).map(str), NUMBER),
    "--out": (st.just("out"), st.sampled_from(["data.npz", "data.npz/below"])),
    "--data-folder": (st.just("."), TEXT),
    "--checkpoint": (st.just("fit.pt"), st.sampled_from([".", "data.npz", "data.npz/below"])),
    "--threads": (st.just("1"), NUMBER),
}
FLAGS = ("--json", "--resume", "--no-dense")
STARTS = ["--data", "data.npz", "--model", "typed_networks:classes", "--epochs", "12"]


@st.composite
def lines(draw: st.DrawFn) -> list[str]:
    """A command with a small network and little data, and some of its options."""
    name = draw(st.sampled_from(["compress", "ssvi"]))
    command = get_command(cli.app).commands["nn"].commands[name]
    known = [
        option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)
    ]
    words = ["nn", name, *STARTS]
    for option in draw(
        st.lists(st.sampled_from([o for o in known if o != "--help"]), max_size=4, unique=True)
    ):
        if option in FLAGS or option == "--dense":
            words.append(option)
        else:
            meant, wrong = VALUES[option]
            words += [option, draw(wrong if draw(st.integers(0, 3)) == 3 else meant)]
    return words


def ended(row: str, words: list[str]) -> None:
    """Run a command with little memory, judge how it ended, and count it."""
    with memory_of_at_most(_MEMORY):
        code = ends_well(*words).exit_code
    tally(row, {0: "success", 1: "failure in a line", 2: "refused in a line"}[code])


@given(lines())
@example(["nn", "ssvi", *STARTS, "--checkpoint", "data.npz", "--resume"])
@examples(8)
def test_a_command_with_any_options(words):
    ended("isac nn with any options", words)


ARRAYS = st.one_of(
    st.builds(
        lambda shape, kind, seed: np.random.default_rng(seed).integers(-1, 9, shape).astype(kind),
        st.lists(st.integers(0, 5), max_size=3),
        st.sampled_from(["f8", "f4", "f2", "i8", "i1", "u1", "?", "c16", "U3"]),
        st.integers(0, 9),
    ),
    st.sampled_from([np.full((5, 3), np.nan), np.full((5, 3), 1e300), np.arange(5) * 2**40]),
)
NAMES = ["x_train", "y_train", "x_val", "y_val", "x_test", "y_test", "other"]


@given(st.dictionaries(st.sampled_from(NAMES), ARRAYS), st.sampled_from(["compress", "ssvi"]))
@examples(50)
def test_data_of_any_arrays(folder, arrays, command):
    x = np.random.default_rng(0).standard_normal((6, 3))
    np.savez(folder / "any.npz", **{"x_train": x, "y_train": np.arange(6) % 2, **arrays})
    words = ["nn", command, "--data", "any.npz", "--model", "typed_networks:classes", "--epochs", "12"]
    ended("isac nn with data of any arrays", words)
