"""Baselines: each reaches the density asked for, with the same interface."""

import importlib.util

import pytest
import torch

from isac_toolbox.nn import baselines
from isac_toolbox.nn.baselines.torch_pruning import _where_kept
from isac_toolbox.nn.training import accuracy

TUNING = baselines.Finetuning(learning_rate=2e-3)
EPOCHS = {"epochs": 8, "finetune_epochs": 6}
CALLS = {
    "one-shot": lambda m, d: baselines.magnitude(m, d, density=0.2, epochs=10, tuning=TUNING),
    "iterative": lambda m, d: baselines.magnitude(m, d, density=0.2, epochs=10, steps=5, tuning=TUNING),
    "lasso": lambda m, d: baselines.group_lasso(m, d, density=0.2, **EPOCHS, tuning=TUNING),
    "dropout": lambda m, d: baselines.sparse_variational_dropout(m, d, density=0.2, **EPOCHS, tuning=TUNING),
}
if importlib.util.find_spec("torch_pruning"):
    CALLS["torch-pruning"] = lambda m, d: baselines.torch_pruning(m, d, density=0.2, epochs=10, tuning=TUNING)


@pytest.mark.parametrize("name", CALLS)
def test_density_and_accuracy(name, digits, trained):
    before = [p.clone() for p in trained.parameters()]
    result = CALLS[name](trained, digits[0])
    assert all(torch.equal(a, b) for a, b in zip(before, trained.parameters()))
    assert 0.1 < result.report.density <= 0.2 + 1e-3
    assert accuracy(result.model, digits[1]) > 0.85
    assert set(result.masks) == {"fc1", "fc2", "fc3"}
    if name != "torch-pruning":
        for key, mask in result.masks.items():
            assert torch.equal(result.model.get_submodule(key).weight != 0.0, mask)
        assert len(result.report.layers) == 3


@pytest.mark.parametrize("group", ["in", "out"])
def test_group_lasso_keeps_every_layer_alive(group, digits, trained):
    result = baselines.group_lasso(trained, digits[0], density=0.12, group=group, **EPOCHS, tuning=TUNING)
    assert result.report.density <= 0.12
    assert min(result.report.neurons_kept) >= 5
    assert accuracy(result.model, digits[1]) > 0.6


@pytest.mark.skipif("torch-pruning" not in CALLS, reason="torch-pruning is not installed")
def test_uniform_torch_pruning_takes_the_same_part_of_every_layer(digits, trained):
    result = baselines.torch_pruning(
        trained, digits[0], density=0.1, epochs=1, global_pruning=False, tuning=TUNING
    )
    first, second, last = result.report.neurons_kept
    assert first / trained.fc1.out_features == pytest.approx(second / trained.fc2.out_features, abs=0.04)
    assert last == 10


def test_torch_pruning_needs_one_target(digits, trained):
    with pytest.raises(ValueError, match="either density or macs"):
        baselines.torch_pruning(trained, digits[0], epochs=1)


def test_bad_settings_are_named(digits, trained):
    with pytest.raises(ValueError, match=r"density must lie in \(0, 1\], got 0"):
        baselines.magnitude(trained, digits[0], density=0, epochs=1)
    with pytest.raises(ValueError, match="group must be one of"):
        baselines.group_lasso(trained, digits[0], density=0.1, epochs=1, finetune_epochs=1, group="x")


def test_kept_rows_and_columns_are_found():
    old = torch.randn(6, 5, 3, 3)
    mask = _where_kept(old, old[[0, 4]][:, [1, 2]])
    assert mask.flatten(1).any(1).nonzero().ravel().tolist() == [0, 4]
    assert mask.any(0).flatten(1).any(1).nonzero().ravel().tolist() == [1, 2]
