"""The file of a checkpoint, with a state that no trainer made."""

import pytest
import torch

from isac_toolbox.nn._checkpoints import Checkpoint

SETTINGS = {"rate": 0.5, "epochs": 3}


def checkpoint(path, settings=SETTINGS, content="a thing"):
    return Checkpoint.from_arguments(path, False, f"{content} 1", content, settings)


class Loader:
    def __init__(self, seed):
        self.generator = torch.Generator().manual_seed(seed)


def test_a_state_and_the_loaders_generator_come_back(tmp_path):
    written, read, seen = Loader(1), Loader(2), {}
    torch.rand(3, generator=written.generator)
    file = checkpoint(tmp_path / "state")
    file.write({"values": torch.arange(3), "n": 7}, written)
    file.resume(seen.update, read)
    assert seen["n"] == 7 and torch.equal(seen["values"], torch.arange(3))
    assert torch.equal(torch.rand(5, generator=written.generator), torch.rand(5, generator=read.generator))


def test_without_a_file_nothing_is_restored(tmp_path):
    def never(state):
        raise AssertionError

    checkpoint(tmp_path / "none").resume(never, None)
    assert Checkpoint.from_arguments(None, False, "f", "a thing", {}) is None
    with pytest.raises(ValueError, match="resume=True needs the path of a checkpoint"):
        Checkpoint.from_arguments(None, True, "f", "a thing", {})


def test_a_crash_leaves_the_old_file(tmp_path, monkeypatch):
    file = checkpoint(tmp_path / "state")
    file.write({"n": 1}, None)

    def broken(state, path):
        path.write_bytes(b"half")
        raise OSError("disk full")

    with monkeypatch.context() as patch, pytest.raises(OSError, match="disk full"):
        patch.setattr(torch, "save", broken)
        file.write({"n": 2}, None)
    seen = {}
    file.resume(seen.update, None)
    assert seen["n"] == 1


def test_other_contents_settings_and_models_are_refused(tmp_path):
    path = tmp_path / "state"
    checkpoint(path).write({}, None)
    with pytest.raises(ValueError, match="is not a checkpoint of another thing"):
        checkpoint(path, content="another thing").resume(dict, None)
    with pytest.raises(ValueError, match=r"other settings: rate = 0\.25 \(file: 0\.5\)"):
        checkpoint(path, {"rate": 0.25, "epochs": 3}).resume(dict, None)

    def other_model(state):
        torch.nn.Linear(2, 2).load_state_dict({"weight": torch.zeros(3, 3)})

    with pytest.raises(ValueError, match="another model"):
        checkpoint(path).resume(other_model, None)
