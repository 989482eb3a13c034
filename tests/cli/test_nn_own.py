"""Networks and data of one's own, checkpoints and threads of ``isac nn``."""

import json

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from isac_toolbox.cli.commands import nn_app as app
from isac_toolbox.cli.errors import Problem
from isac_toolbox.nn import load_compressed

NETWORKS = """
import torch
from torch import nn

class Heads(nn.Module):
    def __init__(self, n_outputs):
        super().__init__()
        self.a, self.b, self.out = nn.Linear(6, 24), nn.Linear(24, 24), nn.Linear(24, n_outputs)

    def forward(self, x):
        x = torch.relu(self.a(x))
        return self.out(x + torch.relu(self.b(x)))

def classes():
    return Heads(3)

def values():
    return Heads(2)

def unfinished():
    raise RuntimeError("no weights yet")

def number():
    return 3

def narrow():
    return nn.Linear(5, 3)

def plain():
    return nn.Flatten()

def two():
    return Two()

class Two(Heads):
    def __init__(self):
        super().__init__(3)

    def forward(self, x):
        return super().forward(x), x

WIDTH = 5
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder with a module of networks and files of data, as the current one."""
    (tmp_path / "own_networks.py").write_text(NETWORKS)
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    x = rng.normal(size=(400, 6))
    y = (x[:, :3] + 0.2 * x[:, 3:]).argmax(1)
    np.savez("classes.npz", x_train=x, y_train=y)
    parts = {"x_val": x[:50], "y_val": y[:50], "x_test": x[50:90], "y_test": y[50:90]}
    np.savez("whole.npz", x_train=x[90:], y_train=y[90:], **parts)
    np.savez("values.npz", x_train=x, y_train=np.stack([x[:, 0] + x[:, 1], np.abs(x[:, 2])], 1))
    return tmp_path


def run(*call):
    return CliRunner().invoke(app, [*map(str, call), "--out", "out", "--threads", "1"])


def summary_of(*call):
    done = run(*call, "--json")
    assert done.exit_code == 0, (done.output, done.exception)
    return json.loads(done.stdout)


def test_own_network_on_own_classes(folder):
    call = ["compress", "--model", "own_networks:classes", "--data", "whole.npz", "--epochs", "12"]
    done = run(*call)
    assert done.exit_code == 0, (done.output, done.exception)
    for word in ("own_networks:classes on whole.npz", "test accuracy", "run_length", "small_module.pt2"):
        assert word in done.output
    import own_networks

    model = load_compressed("out/run_length.safetensors", own_networks.classes())
    program = torch.export.load("out/small_module.pt2").module()
    x = torch.randn(7, 6)
    torch.testing.assert_close(program(x), model(x), atol=1e-5, rtol=1e-4)


def test_without_a_temperature_own_data_are_guarded(folder):
    call = ["compress", "--data", "classes.npz", "--model", "own_networks:classes", "--epochs", "16"]
    summary = summary_of(*call)
    assert summary["max_loss_drop"] == 0.01 and summary["measured_on"] == "40 held-back training examples"
    summary = summary_of(*call, "--temperature", "0.3")
    assert summary["max_loss_drop"] is None and summary["temperature"] == 0.3


def test_values_are_a_regression(folder):
    summary = summary_of("compress", "--model", "own_networks:values", "--data", "values.npz", "--epochs", 20)
    assert "dense_test_accuracy" not in summary
    assert summary["compressed_test_loss"] < 2.0 and summary["n_parameters_dense"] == 168 + 600 + 50


def test_a_trained_network_is_not_trained_again(folder):
    (folder / "own_trained.py").write_text(
        "import torch\n"
        "from own_networks import classes\n"
        "from isac_toolbox.nn import TensorLoader, training\n"
        "import numpy as np\n"
        "def build():\n"
        "    arrays = np.load('classes.npz')\n"
        "    x = torch.from_numpy(arrays['x_train']).float()\n"
        "    loader = TensorLoader(x, torch.from_numpy(arrays['y_train']), batch_size=32)\n"
        "    return training.train(classes(), loader, epochs=10, learning_rate=1e-2)\n"
    )
    call = ["compress", "--model", "own_trained:build", "--data", "classes.npz", "--epochs", "12"]
    done = run(*call)
    assert done.exit_code == 0 and ": 0 dense, 12 compressing, 0 fine-tuning epochs" in done.output


def test_toolbox_networks_take_the_form_of_own_data(folder):
    rng = np.random.default_rng(1)
    images, labels = rng.normal(size=(60, 2, 16, 16)), np.arange(60) % 4
    np.savez("images.npz", x_train=images, y_train=labels)
    summary = summary_of("compress", "--model", "lenet-5", "--data", "images.npz", "--epochs", "12")
    assert summary["n_parameters_dense"] == 1020 + 25050 + 25500 + 2004
    done = run("compress", "--model", "lenet-5", "--data", "classes.npz")
    assert "lenet-5 needs square images" in str(done.exception)


@pytest.mark.parametrize("command", ["compress", "ssvi"])
def test_a_resumed_run_equals_a_whole_one(folder, command, monkeypatch):
    from isac_toolbox.nn import SSVI, TurboVBICompressor

    call = [command, "--model", "own_networks:classes", "--data", "whole.npz", "--epochs", "12"]
    call += ["--temperature", "0.01"] if command == "compress" else ["--density", "0.3"]
    whole = summary_of(*call)
    kind = TurboVBICompressor if command == "compress" else SSVI
    original = kind.fit

    def cut(self, *args, **kwargs):
        original(self, *args, **kwargs, callback=lambda record: record.epoch >= 2)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(kind, "fit", cut)
        run(*call, "--checkpoint", "kept/fit.pt")
    assert (folder / "kept" / "fit.pt").exists()
    resumed = summary_of(*call, "--checkpoint", "kept/fit.pt", "--resume")
    timings = ("dense_seconds", "exported_seconds", "seconds")
    for summary in (whole, resumed):
        for part in (summary, summary.get("ssvi", {}), summary.get("dense_vi", {})):
            for name in timings:
                part.pop(name, None)
    assert resumed == whole
    other = run(*call, "--seed", "3", "--checkpoint", "kept/fit.pt", "--resume")
    assert isinstance(other.exception, Problem) and "seed" in str(other.exception)


def test_ssvi_on_own_data(folder):
    summary = summary_of("ssvi", "--data", "classes.npz", "--epochs", "3", "--no-dense")
    assert summary["data"] == "classes.npz" and summary["ssvi"]["test"]["accuracy"] > 0.3
    done = run("ssvi", "--data", "values.npz")
    assert isinstance(done.exception, Problem) and "ssvi measures classifications" in str(done.exception)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("lenet", "must be lenet-300-100, lenet-5, digits-mlp, or module:function of your own, got 'lenet'"),
        (":classes", "module:function, got ':classes'"),
        ("no_such_module:f", "cannot import no_such_module: ModuleNotFoundError"),
        ("own_networks:missing", "must have a function missing, it has nothing of that name"),
        ("own_networks:WIDTH", "must have a function WIDTH, it has a int"),
        ("own_networks:unfinished", "raised RuntimeError: no weights yet"),
        ("own_networks:number", "must return a torch.nn.Module, got int"),
        ("own_networks:narrow", r"cannot take inputs float32 of shape \(2, 6\)"),
        ("own_networks:two", "must return a tensor, got tuple"),
        ("own_networks:values", "has 2 outputs, but y_train has class 2"),
        ("own_networks:plain", "Linear"),
    ],
)
def test_networks_that_do_not_go_are_told_in_words(folder, model, message):
    with pytest.raises(Problem, match=f"--model: .*{message}"):
        CliRunner().invoke(
            app, ["compress", "--model", model, "--data", "classes.npz"], catch_exceptions=False
        )


X, Y = np.zeros((6, 6)), np.zeros(6, int)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"x_train": X}, "misses the key.s. y_train"),
        ({"x_train": X, "y_train": Y, "labels": Y}, "unknown array.s. labels; known are"),
        ({"x_train": X, "y_train": Y[:5]}, "x_train and y_train need equal, positive lengths, got 6 and 5"),
        ({"x_train": X, "y_train": Y - 1}, "classes in y_train count from 0, got -1"),
        ({"x_train": X + np.nan, "y_train": Y}, "x_train holds values that are not finite"),
        ({"x_train": X.astype(str), "y_train": Y}, "x_train must hold numbers"),
        ({"x_train": X, "y_train": np.array(3)}, "y_train needs an axis of examples"),
        ({"x_train": X, "y_train": Y, "x_val": X}, "x_val and y_val go together, got x_val alone"),
        ({"x_train": X, "y_train": Y, "x_val": X[:, :4], "y_val": Y}, "x_val must be like x_train"),
        ({"x_train": X, "y_train": Y, "x_val": X, "y_val": Y + 0.5}, "y_val must be like y_train"),
        ({"x_train": X[:1], "y_train": Y[:1]}, "too few to hold one back"),
    ],
)
def test_data_that_do_not_go_are_told_in_words(tmp_path, arrays, message):
    file = tmp_path / "own.npz"
    np.savez(file, **arrays)
    with pytest.raises(Problem, match=f"--data: .*{message}"):
        CliRunner().invoke(
            app, ["compress", "--data", str(file), "--out", str(tmp_path)], catch_exceptions=False
        )


def test_options_that_do_not_go_are_told_in_words(folder):
    for message, options in {
        "--data: a network of your own needs data": ["--model", "own_networks:classes"],
        "--data: must be digits, fashion-mnist, or a file .npz": ["--data", "mnist"],
        "--data: no such file": ["--data", "none.npz"],
        "--checkpoint: --resume needs --checkpoint": ["--resume"],
        "is a folder, not a file": ["--checkpoint", "."],
    }.items():
        done = run("compress", *options)
        assert isinstance(done.exception, Problem) and message in str(done.exception)
