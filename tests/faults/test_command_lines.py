"""Whatever is typed: a command succeeds, or ends with one line that says what is wrong, never a traceback."""

from __future__ import annotations

import warnings

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from typer.main import get_command

import isac_toolbox as isac
from helpers import texts
from helpers.cli import ends_well
from helpers.examples import examples
from helpers.faults import memory_of_at_most, tally
from isac_toolbox._catalogue import CATALOGUE
from isac_toolbox._choices import COARSE_STAGES, INVERSES, M_STEPS, RULES
from isac_toolbox.cli import commands as cli
from isac_toolbox.cli.figure import FIGURES

#: What a command may take beyond what this process has: far less than sizes that are typed by mistake.
_MEMORY = 2**31


def ended(row: str, *words: str) -> None:
    """Run a command with little memory, judge how it ended, and count it."""
    with memory_of_at_most(_MEMORY):
        code = ends_well(*words).exit_code
    tally(row, {0: "success", 1: "failure in a line", 2: "refused in a line"}[code])


@pytest.fixture(scope="module", autouse=True)
def folder(tmp_path_factory):
    """A current folder with a scenario, a block and a result of it, and a file of another kind."""
    path = tmp_path_factory.mktemp("typed")
    (path / "own.toml").write_text(texts.toml_file(texts.SIZES))
    observation = isac.Scenario.load(path / "own.toml").simulate(0).observation
    observation.save(path / "block.npz")
    isac.LeastSquares().estimate(observation).save(path / "result.npz")
    (path / "text.toml").write_text("no scenario")
    isac.EMTurboBiSVBI(max_iter=1).estimate(observation)  # compiles
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(path)
        patch.setattr("isac_toolbox.cli.figure.render", lambda run: [run.folder / f"{run.name}.png"])
        for drawing in ("_draw_plot", "_write_page"):  # they take seconds, and read nothing that is typed
            patch.setattr(
                f"isac_toolbox.cli.outputs.{drawing}", lambda run, target: target.write_text("drawn")
            )
        yield path


TEXT = st.text(texts.LETTERS, max_size=8)
NUMBER = texts.numbers.map(repr)
CHANGE = st.builds(lambda name, value: f"{name}={texts.toml_of(value)}", texts.names, texts.values)
FITTING = st.sampled_from(sorted(texts.FIELDS)).flatmap(
    lambda name: texts.FIELDS[name].map(lambda value: f"{name}={texts.toml_of(value)}")
)
OUTPUTS = ["out", "out.npz", "out.png", "out.html", "out.db", "out.csv", "none/out.npz", ".", "own.toml"]
#: By option: what could be meant, and what is not allowed.
VALUES: dict[str, tuple[st.SearchStrategy[str], st.SearchStrategy[str]]] = {
    "--set": (FITTING, CHANGE),
    "--vary": (FITTING, st.one_of(CHANGE, st.builds("snr_db={}:{}:{}".format, NUMBER, NUMBER, NUMBER))),
    "--seed": (st.integers(0, 99).map(str), st.integers(-1, 2**70).map(str)),
    "--snr-db": (st.floats(-30, 50).map(str), NUMBER),
    "--estimator": (st.sampled_from(sorted(CATALOGUE)), TEXT),
    "--estimators": (st.lists(st.sampled_from(["ls", "genie"]), min_size=1).map(",".join), TEXT),
    "--coarse": (st.sampled_from(COARSE_STAGES), TEXT),
    "--rule": (st.sampled_from(RULES), TEXT),
    "--m-step": (st.sampled_from(M_STEPS), TEXT),
    "--inverse": (st.sampled_from(INVERSES), TEXT),
    "--trials": (st.just("2"), NUMBER),
    "--max-iter": (st.sampled_from(["1", "3"]), NUMBER),
    "--max-seconds": (st.just("2"), NUMBER),
    "--min-errors": (st.just("1"), NUMBER),
    "--jobs": (st.just("1"), st.sampled_from(["0", "-7", "one"])),
    "--dask": (st.just("nowhere"), TEXT),
    "--output": (st.sampled_from(["out.npz", "out"]), st.sampled_from(OUTPUTS)),
    "--save": (st.sampled_from(["out.npz", "out"]), st.sampled_from(OUTPUTS)),
    "--plot": (st.sampled_from(["out.svg", "out.png"]), st.sampled_from(OUTPUTS)),
    "--html": (st.just("out.html"), st.sampled_from(OUTPUTS)),
    "--store": (st.just("out.db"), st.sampled_from(OUTPUTS)),
    "--csv": (st.just("out.csv"), st.sampled_from(OUTPUTS)),
    "--out": (st.just("renders"), st.sampled_from(OUTPUTS)),
}
FLAGS = ("--json", "--pilots-only", "--retry-failed", "--quick", "--list", "--help")
#: By command: what it reads, and what keeps it short.
STARTS = {
    "simulate": [],
    "bound": [],
    "estimate": ["--max-seconds", "1"],
    "sweep": ["--trials", "1", "--estimators", "ls"],
    "figure": [],
}
SOURCES = st.sampled_from(["own.toml"] * 9 + ["block.npz", "result.npz", "text.toml", ".", "none.toml"])
NAMED = st.lists(st.sampled_from([*FIGURES, "none"]), max_size=2)


@st.composite
def lines(draw: st.DrawFn) -> list[str]:
    """A command, what it reads, and some of its options, most of them as they could be meant."""
    name = draw(st.sampled_from(sorted(STARTS)))
    words = [name, *(draw(NAMED) if name == "figure" else [draw(SOURCES)]), *STARTS[name]]
    known = [option.opts[-1] for option in get_command(cli.app).commands[name].params if option.opts]
    known = [option for option in known if option.startswith("--")]
    for option in draw(st.lists(st.sampled_from(known), max_size=4, unique=True)):
        if option in FLAGS:
            words += [option] * (option != "--help")
        else:
            meant, wrong = VALUES[option]
            words += [option, draw(wrong if draw(st.integers(0, 5)) == 5 else meant)]
    return words


WORDS = st.lists(st.one_of(TEXT, st.sampled_from([*STARTS, "nn", "info", "--help", "--json", "-o"])))


@given(lines())
@example(["estimate", "own.toml\n", "--json"])
@example(["estimate", "x" * 300 + ".toml"])
@example(["simulate", "own.toml", "--set", "n_subcarriers=99999999999999999999999"])
@examples(50)
def test_a_command_with_any_options(words):
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        ended("command with any options", *words)


@given(WORDS)
@examples(50)
def test_any_words(words):
    ended("command line of any words", *(word for word in words if word != "selftest"))
