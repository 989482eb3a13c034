"""The command ``ssvi`` on the digits."""

import json

import pytest
import typer
from typer.testing import CliRunner

from isac_toolbox.cli.errors import Problem
from isac_toolbox.cli.nn_ssvi import ssvi
from isac_toolbox.nn import load_compressed
from isac_toolbox.nn.models import mlp


@pytest.fixture(scope="module")
def app():
    made = typer.Typer()
    made.command()(ssvi)
    return made


def test_table_picture_and_network(app, tmp_path):
    done = CliRunner().invoke(app, ["--epochs", "3", "--out", str(tmp_path / "out")])
    assert done.exit_code == 0, done.output
    for word in ("accuracy", "dense VI", "active weights", "training FLOPs", "masks.png", "mean run"):
        assert word in done.output
    assert (tmp_path / "out" / "masks.png").stat().st_size > 1000
    model = load_compressed(tmp_path / "out" / "mean_network.safetensors", mlp(64, (64, 32), 10))
    kept = sum(int((layer.weight != 0.0).sum()) for layer in (model.fc1, model.fc2, model.fc3))
    assert 0.95 * 646 <= kept <= 646


def test_json_is_one_object(app, tmp_path):
    call = ["--epochs", "2", "--removal", "structured", "--no-dense", "--json", "--out", str(tmp_path)]
    summary = json.loads(CliRunner().invoke(app, call).stdout)
    assert summary["removal"] == "structured" and "dense_vi" not in summary
    assert summary["ssvi"]["active_weights"] == round(0.1 * 6464)


def test_bad_input_is_told_in_words(app, tmp_path):
    calls = {
        "density must lie in": ["--density", "0"],
        "too small for lenet-5": ["--model", "lenet-5", "--data", "digits"],
    }
    for message, options in calls.items():
        done = CliRunner().invoke(app, ["--out", str(tmp_path), *options])
        assert isinstance(done.exception, Problem) and message in str(done.exception)
