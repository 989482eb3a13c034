"""What comes in and goes out: nothing that is read is lost, and what cannot be is said in one line."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest

import isac_toolbox as isac
from helpers import ROOT
from helpers.cli import fails, run, strict_json

SMALL = ["--set", "n_subcarriers=16", "--set", "array_shape=[4, 4]", "--set", "n_scatterers=2"]


@pytest.fixture
def block(tmp_path):
    path = tmp_path / "b.npz"
    run("simulate", "urban_uplink", *SMALL, "-o", path)
    return path


@pytest.mark.parametrize("name", ["b.npz", "b", "./b.npz"])
def test_a_result_does_not_replace_its_observation(block, name, monkeypatch):
    monkeypatch.chdir(block.parent)
    before = block.read_bytes()
    message = fails("estimate", block, "--estimator", "ls", "--save", name)
    assert "--save" in message and "is already the observation" in message
    assert block.read_bytes() == before


def test_two_outputs_have_two_names(block, tmp_path):
    both = tmp_path / "a.npz"
    message = fails("estimate", block, "--save", both, "--plot", both)
    assert "--plot" in message  # an npz file is no picture
    (tmp_path / "a.png").touch()
    (tmp_path / "b.png").symlink_to(tmp_path / "a.png")
    (tmp_path / "a.html").symlink_to(tmp_path / "a.png")
    pytest.importorskip("plotly", reason='needs the extra "html"')
    again = fails("estimate", block, "--plot", tmp_path / "b.png", "--html", tmp_path / "a.html")
    assert "--html" in again and "is already --plot" in again


def test_a_table_does_not_replace_its_store(tmp_path):
    store = tmp_path / "h.db"
    words = ["sweep", "urban_uplink", *SMALL, "--estimators", "ls", "--trials", "1", "--store", store]
    run(*words)
    before = store.read_bytes()
    message = fails(*words, "--csv", store)
    assert "--csv" in message and "is already the store" in message
    assert store.read_bytes() == before


@pytest.mark.parametrize("name", ["", "."])
def test_paths_without_a_name_are_refused(block, name):
    assert "has no file name" in fails("simulate", "urban_uplink", *SMALL, "-o", name)
    assert "has no file name" in fails("estimate", block, "--save", name)


@pytest.mark.parametrize("second", ["n_users=2", "n_users = 3", "n_users=many"])
@pytest.mark.parametrize("command", ["simulate", "estimate", "bound", "sweep"])
def test_a_field_is_set_once(command, second):
    message = fails(command, "urban_uplink", "--set", "n_users=2", "--set", second)
    assert "--set n_users is given twice" in message


@pytest.mark.parametrize("change", ["n_users=true", "snr_db=false", "array_shape=[true, 8]"])
def test_true_and_false_are_no_numbers(change):
    assert "must not be true or false" in fails("simulate", "urban_uplink", "--set", change)


def test_capital_letters_name_an_npz_file(block):
    capital = block.rename(block.with_name("B.NPZ"))
    run("estimate", capital, "--estimator", "ls", "--save", block.with_name("R.NPZ"))
    assert isac.EstimationResult.load(block.with_name("R.NPZ")).estimator == "LeastSquares"
    assert "is an observation, not a scenario" in fails("simulate", capital)
    assert "is already the observation" in fails("estimate", capital, "--save", capital)


def test_a_text_file_called_npz_is_not_called_pickled(tmp_path):
    (tmp_path / "notes.npz").write_text("hello")
    message = fails("estimate", tmp_path / "notes.npz")
    assert "is not an npz file" in message and "pickle" not in message


@pytest.mark.parametrize("scale", [1e155, 1e200, 1e300])
@pytest.mark.parametrize("estimator", ["ls", "nomp"])
def test_samples_beyond_squares_are_named(block, scale, estimator):
    data = dict(np.load(block))
    data["received"] *= scale / np.abs(data["received"]).max()
    np.savez(block, **data)
    assert "received must have a largest magnitude" in fails("estimate", block, "--estimator", estimator)


def test_unlikely_units_are_a_line_on_stderr(block):
    data = dict(np.load(block))
    data["subcarrier_frequencies_hz"] /= 1e3
    np.savez(block, **data)
    outcome = run("estimate", block, "--estimator", "ls", "--json")
    strict_json(outcome.stdout)
    assert "warning: subcarrier_frequencies_hz" in outcome.stderr and ".py" not in outcome.stderr


# standard output


def isac_process(*words, **streams):
    """Run ``isac`` as a shell does: standard output has its own buffer and end."""
    command = [sys.executable, "-c", "from isac_toolbox.cli import main; main()", *map(str, words)]
    path = {"PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": ""}
    return subprocess.Popen(command, env=os.environ | path, stderr=subprocess.PIPE, text=True, **streams)


WORDS = [
    ["info"],
    ["--help"],
    ["--version"],
    ["simulate", "urban_uplink", *SMALL, "-o", "out.npz"],
    ["bound", "urban_uplink", *SMALL, "--json"],
    ["sweep", "urban_uplink", *SMALL, "--estimators", "ls", "--trials", "1"],
]


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs a device that is always full")
@pytest.mark.parametrize("words", WORDS, ids=lambda words: words[0])
def test_a_full_standard_output_is_one_line(words, tmp_path):
    with open("/dev/full", "w") as full:
        process = isac_process(*words, stdout=full, cwd=tmp_path)
        _, errors = process.communicate(timeout=120)
    assert process.returncode == 1
    told = [line for line in errors.splitlines() if not line.startswith("Compiling")]
    assert told == ["error: standard output: No space left on device"]


@pytest.mark.parametrize("words", WORDS[:2], ids=lambda words: words[0])
def test_a_reader_that_has_gone_is_no_error_to_tell(words):
    reading, writing = os.pipe()
    os.close(reading)
    process = isac_process(*words, stdout=writing)
    os.close(writing)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 1 and errors == ""


@pytest.mark.parametrize("mode", [[], ["--json"]])
def test_a_reader_that_has_gone_loses_no_result(block, mode):
    """As ``isac estimate ... --save r.npz | head -1`` leaves it."""
    reading, writing = os.pipe()
    os.close(reading)
    saved = block.with_name("r.npz")
    process = isac_process("estimate", block, "--estimator", "ls", "--save", saved, *mode, stdout=writing)
    os.close(writing)
    process.communicate(timeout=120)
    assert process.returncode == 1
    assert isac.EstimationResult.load(saved).estimator == "LeastSquares"


def test_a_closed_standard_output_is_no_traceback():
    process = isac_process("--version", preexec_fn=lambda: os.close(1))
    _, errors = process.communicate(timeout=120)
    assert "Traceback" not in errors


def test_what_is_typed_does_not_break_or_steer_the_line(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    message = fails("estimate", "a\nerror: b\x1b[2J\u2028.npz")
    assert message == "error: no such file: a\\nerror: b\\x1b[2J\\u2028.npz\n"


def test_memory_that_is_short_is_said_also_by_an_error_without_words(block, monkeypatch):
    def empty(*_, **__):
        raise MemoryError

    monkeypatch.setattr(isac.LeastSquares, "estimate", empty)
    message = fails("estimate", block, "--estimator", "ls", code=1)
    assert message == "error: the estimation failed: not enough memory for these sizes\n"
