"""Files of networks with a wrong bit or an end too soon: refused by name, and the model is left as it was."""

from __future__ import annotations

import contextlib
import json
import random

import numpy as np
import pytest
import torch
from torch import nn

from helpers.faults import fingerprint, flipped, how_many, refused_or_whole, tally, truncated
from isac_toolbox.nn import load_compressed, save_compressed
from isac_toolbox.nn._checkpoints import Checkpoint
from isac_toolbox.nn._posteriors import read_state, write_state
from isac_toolbox.nn._tensor_files import read_tensors, write_tensors
from isac_toolbox.nn.models import mlp

WIDTHS = (4, (3,), 2)


def masked():
    torch.manual_seed(0)
    model = mlp(*WIDTHS)
    masks = {
        name: torch.rand(m.weight.shape) < 0.5 for name, m in model.named_modules() if hasattr(m, "weight")
    }
    for name, mask in masks.items():
        model.get_submodule(name).weight.data.mul_(mask)
    return model, masks


def compressed(folder):
    path = save_compressed(folder / "net", *masked())
    fresh = mlp(*WIDTHS)
    before = fingerprint(fresh.state_dict())

    def load():
        try:
            return load_compressed(path, mlp(*WIDTHS)).state_dict()
        except Exception:
            with pytest.raises(Exception, match="net"):
                load_compressed(path, fresh)
            assert fingerprint(fresh.state_dict()) == before  # nothing of it was loaded
            raise

    return path, load


def posterior(folder):
    state = {"mean": torch.randn(3, 4), "layers": [{"std": torch.rand(3), "kept": 2}], "seed": 0}
    path = write_state(folder / "posterior", "a thing 1", state)
    return path, lambda: read_state(path, "a thing 1")


def checkpoint(folder):
    settings = {"rate": 0.5, "epochs": 3}
    file = Checkpoint.from_arguments(folder / "fit.pt", False, "a thing 1", "a thing", settings)
    optimiser = {
        "state": {0: {"step": torch.tensor(3.0), "exp_avg": torch.randn(3, 4)}},
        "groups": [(0, 0.1)],
    }
    file.write({"model": mlp(*WIDTHS).state_dict(), "optimiser": optimiser, "epoch": 3}, None)

    def load():
        seen = {}
        file.resume(seen.update, None)
        return seen

    return file.path, load


MADE = {make.__name__: make for make in (compressed, posterior, checkpoint)}


@pytest.mark.parametrize("kind", MADE)
def test_damaged_files_are_refused_or_whole(kind, tmp_path):
    path, load = MADE[kind](tmp_path)
    content, whole = path.read_bytes(), fingerprint(load())
    for changed in flipped(content, how_many(25, 800)):
        refused_or_whole(f"{kind}, a bit flipped", path, changed, load, whole)
    for changed in truncated(content, how_many(6, 200)):
        refused_or_whole(f"{kind}, cut short", path, changed, load, whole)


def test_files_without_a_checksum_are_read(tmp_path):
    """As earlier versions wrote them."""
    from safetensors.torch import save_file

    tensors = {"a": torch.arange(3.0), "b": torch.tensor(True)}
    save_file(tensors, tmp_path / "old.safetensors", metadata={"format": "x"})
    found = read_tensors(tmp_path / "old.safetensors")
    assert fingerprint(found.tensors) == fingerprint(tensors) and found.metadata == {"format": "x"}


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16, torch.int64, torch.bool])
def test_all_kinds_of_tensors_have_a_checksum(dtype, tmp_path):
    tensors = {
        "none": torch.zeros(0, 3).to(dtype),
        "one": torch.tensor(1.0).to(dtype),
        "two": torch.ones(2).to(dtype),
    }
    path = write_tensors(tmp_path / "t", tensors, {})
    found = read_tensors(path).tensors
    assert all(torch.equal(found[name], value) for name, value in tensors.items())


def test_a_header_longer_than_its_file_is_refused_unread(tmp_path):
    path = tmp_path / "long.safetensors"
    path.write_bytes((2**40).to_bytes(8, "little") + b"{}")
    with pytest.raises(ValueError, match=r"long\.safetensors .* header says 1099511627776 bytes, at most 2"):
        read_tensors(path)


def test_no_memory_is_taken_for_a_layer_that_the_model_does_not_have(tmp_path, monkeypatch):
    path = save_compressed(tmp_path / "net", *masked())
    tensors, metadata = read_tensors(path)
    layers = json.loads(metadata["layers"])
    layers[next(iter(layers))]["shape"] = [10**9, 10**9]
    write_tensors(path, tensors, metadata | {"layers": json.dumps(layers)})
    monkeypatch.setattr(np, "zeros", lambda *a, **k: pytest.fail("memory was taken"))
    with pytest.raises(ValueError, match=r"net\.safetensors: does not fit Sequential: \S+ is \(1000"):
        load_compressed(path, mlp(*WIDTHS))


def test_a_model_that_does_not_fit_is_left_as_it_was(tmp_path):
    """torch loads what fits before it complains, and a folded bias opens a slot."""
    made = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2))
    path = save_compressed(tmp_path / "net", made, {})
    other = nn.Sequential(nn.Linear(4, 3, bias=False), nn.Linear(3, 5))
    before = fingerprint(other.state_dict())
    with pytest.raises(ValueError, match=r"net\.safetensors: does not fit Sequential"):
        load_compressed(path, other)
    assert fingerprint(other.state_dict()) == before and other[0].bias is None


def test_checkpoints_run_nothing(tmp_path):
    """torch's reader of weights takes tensors and plain values alone."""

    class Trap:
        def __reduce__(self):
            return (tmp_path / "flag").touch, ()

    file = Checkpoint.from_arguments(tmp_path / "fit.pt", False, "f", "a thing", {})
    torch.save({"format": "f", "settings": {}, "trap": Trap()}, file.path)
    with pytest.raises(ValueError, match=r"fit\.pt cannot be read"):
        file.resume(dict, None)
    assert not (tmp_path / "flag").exists()


def test_a_fit_interrupted_at_random_times_ends_as_if_it_had_not_been(tmp_path):
    """A callback that raises stands for Ctrl-C: epochs are short, and their moments are what a file knows."""
    from isac_toolbox.nn import SSVI, TensorLoader

    x, y = torch.randn(64, 4, generator=torch.Generator().manual_seed(0)), torch.arange(64) % 2

    def fit(path, resume, stop):
        torch.manual_seed(0)
        model, loader = SSVI(mlp(*WIDTHS), seed=0), TensorLoader(x, y, batch_size=16, seed=0)

        def interrupt(record):
            if record.epoch >= stop:
                raise KeyboardInterrupt

        model.fit(loader, epochs=5, progress=False, checkpoint=path, resume=resume, callback=interrupt)
        return fingerprint(model.model.state_dict())

    whole = fit(tmp_path / "whole.pt", False, 99)
    for i in range(how_many(1, 10)):
        path = tmp_path / f"{i}.pt"
        stops = sorted(random.Random(i).choices(range(5), k=2))
        for stop in stops:
            with contextlib.suppress(KeyboardInterrupt):
                fit(path, True, stop)
        assert fit(path, True, 99) == whole
        tally("fit of a network, interrupted", "resumed to the same bits", len(stops))
