"""``isac nn compress`` on the digits."""

import json

import pytest
import torch
from typer.testing import CliRunner

from isac_toolbox.cli.commands import nn_app as app
from isac_toolbox.cli.errors import Problem
from isac_toolbox.nn import load_compressed
from isac_toolbox.nn.models import mlp


def test_compress_writes_table_picture_and_network(tmp_path):
    done = CliRunner().invoke(app, ["compress", "--epochs", "12", "--out", str(tmp_path / "out")])
    assert done.exit_code == 0, done.output
    for word in ("test accuracy", "run_length", "neurons kept", "mean run", "MACs", "masks.png"):
        assert word in done.output
    assert (tmp_path / "out" / "masks.png").stat().st_size > 1000
    model = load_compressed(tmp_path / "out" / "run_length.safetensors", mlp(64, (64, 32), 10))
    assert bool((model.fc1.weight == 0.0).any())
    program = torch.export.load(tmp_path / "out" / "small_module.pt2").module()
    x = torch.rand(5, 64)
    torch.testing.assert_close(program(x), model(x), atol=1e-5, rtol=1e-4)


def test_json_is_one_object(tmp_path):
    call = ["compress", "--epochs", "12", "--support", "independent", "--json", "--out", str(tmp_path)]
    summary = json.loads(CliRunner().invoke(app, [*call, "--max-weights", "2500"]).stdout)
    assert summary["support"] == "independent" and 0.0 < summary["density"] <= 2500 / 6464
    assert summary["compressed_test_accuracy"] > 0.7


def test_a_warmer_support_prunes_more(tmp_path):
    call = ["compress", "--epochs", "12", "--json", "--out", str(tmp_path), "--support-temperature"]
    kept = [
        json.loads(CliRunner().invoke(app, [*call, value]).stdout)["density"] for value in ("0.15", "1.5")
    ]
    assert kept[1] < 0.8 * kept[0]


def test_bad_input_is_told_in_words(tmp_path):
    threads = torch.get_num_threads()
    calls = {
        "too small for lenet-5": ["--model", "lenet-5", "--data", "digits"],
        "apt install dataset-fashion-mnist": ["--data", "fashion-mnist", "--data-folder", str(tmp_path)],
    }
    for message, options in calls.items():
        done = CliRunner().invoke(app, ["compress", "--out", str(tmp_path), *options])
        assert isinstance(done.exception, Problem) and message in str(done.exception)
    file = tmp_path / "file"
    file.write_text("")
    with pytest.raises(Problem, match="--out"):
        CliRunner().invoke(app, ["compress", "--out", str(file)], catch_exceptions=False)
    assert torch.get_num_threads() == threads
