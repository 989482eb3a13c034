"""Magnitude pruning beside that of torch."""

from __future__ import annotations

from copy import deepcopy

import pytest
import torch
from torch import nn
from torch.nn.utils import prune

from isac_toolbox.nn.baselines.magnitude import _largest_weights
from isac_toolbox.nn.models import lenet_5, mlp


@pytest.mark.parametrize("density", [0.5, 0.13])
@pytest.mark.parametrize(
    "make", [lambda: mlp(64, (20, 12), 10), lambda: lenet_5(1, 28, 10)], ids=["mlp", "cnn"]
)
def test_magnitudes_are_those_of_torch(make, density):
    """Without any training: the same weights as ``torch.nn.utils.prune.global_unstructured`` keeps."""
    torch.manual_seed(0)
    model = make()
    layers = {n: m for n, m in model.named_modules() if isinstance(m, (nn.Linear, nn.Conv2d))}
    n_weights = sum(m.weight.numel() for m in layers.values())
    n_keep = round(density * n_weights)
    peer = deepcopy(model)
    parameters = [(peer.get_submodule(name), "weight") for name in layers]
    prune.global_unstructured(parameters, prune.L1Unstructured, amount=n_weights - n_keep)
    masks = _largest_weights(model, n_keep)
    for name in layers:
        assert torch.equal(masks[name], peer.get_submodule(name).weight_mask.bool()), name
