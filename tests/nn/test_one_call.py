"""Compression in one call: limits are kept, budgets met, bad input named."""

import subprocess
import sys

import pytest
import torch

from isac_toolbox.nn import compress
from isac_toolbox.nn.training import accuracy

QUIET = {"progress": False, "epochs": 10}


def test_a_trained_network_loses_no_more_than_asked(digits, trained):
    result = compress(trained, digits[0], val_loader=digits[1], max_loss_drop=0.02, **QUIET)
    assert result.metric >= result.metric_dense - 0.02
    assert result.metric == pytest.approx(accuracy(result.model, digits[1]), abs=0.005)
    assert result.report.n_kept < result.report.n_weights
    assert "weights (1/" in str(result) and "metric" in str(result)


@pytest.mark.filterwarnings("ignore:the budget of")
@pytest.mark.parametrize("limit", [{"density": 0.2}, {"max_weights": 1000}, {"max_macs": 3000}])
def test_budgets_are_met(limit, digits, trained):
    result = compress(trained, digits[0], val_loader=digits[1], **limit, **QUIET)
    found = {"density": result.report.density, "max_weights": result.report.n_kept}
    found["max_macs"] = result.report.macs
    for name, value in limit.items():
        assert found[name] <= value
    assert result.metric > 0.7


def test_a_budget_that_costs_much_says_what_costs_little(digits, trained):
    with pytest.warns(UserWarning, match=r"the budget of 60 weights costs .* MACs cost at most"):
        compress(trained, digits[0], val_loader=digits[1], max_weights=60, **QUIET)


def test_bad_limits_are_named(digits, trained):
    with pytest.raises(ValueError, match=r"one of .*got \['max_weights', 'density'\]"):
        compress(trained, digits[0], max_weights=10, density=0.5, **QUIET)
    for name, value in (("max_loss_drop", -1.0), ("density", 1.5), ("max_weights", 0), ("max_macs", 0)):
        with pytest.raises(ValueError, match=name):
            compress(trained, digits[0], **{name: value}, **QUIET)
    with pytest.raises(TypeError, match="train_loader"):
        compress(trained, iter([]), **QUIET)
    assert isinstance(trained, torch.nn.Module)


def test_the_function_is_public_whatever_was_imported_first():
    code = "import isac_toolbox.nn as nn; nn.CompressedNetwork; print(callable(nn.compress))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "True"
