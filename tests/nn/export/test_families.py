"""Random masks on networks of many kinds: the smaller network computes the same."""

import warnings
from copy import deepcopy

import pytest
import torch

from helpers.families import FAMILIES, draw
from isac_toolbox.nn import count_macs, shrink
from isac_toolbox.nn.export.shrink import Channels, simplify


def outputs(model, x):
    torch.manual_seed(0)  # dropout that is always on
    with torch.no_grad():
        return model(x)


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("family", FAMILIES)
def test_random_masks_change_no_output(family, seed):
    model, x = draw(family, seed)
    wanted, before = outputs(model, x), deepcopy(model.state_dict())
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        small = shrink(model, x)
        channels = Channels(model, x)
        same = simplify(deepcopy(model), x, channels=channels)
    assert float((outputs(small, x) - wanted).abs().max()) <= 1e-5
    assert float((outputs(same, x) - wanted).abs().max()) <= 1e-5
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    refused = any("stay, because" in str(w.message) for w in caught)
    example_first = family != "multihead"  # some have the examples on the second axis
    if not refused and example_first:
        removed = [(graph, graph.simplified(model)[1]) for graph in channels.graphs]
        parts = sum(graph.macs(torch.zeros_like(gone)) - graph.macs(gone) for graph, gone in removed)
        before, after = (sum(count_macs(m, x).values()) for m in (model, small))
        assert after == before - round(parts)


#: Families whose networks lose channels for the masks of the first seed.
SMALLER = sorted(set(FAMILIES) - {"grouped", "attention", "norms", "shuffled"})


@pytest.mark.parametrize("family", SMALLER)
def test_there_is_something_to_remove(family):
    model, x = draw(family, 0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        small = shrink(model, x)
    assert sum(p.numel() for p in small.parameters()) < sum(p.numel() for p in model.parameters())
