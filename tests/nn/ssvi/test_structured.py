"""The structured scores against their formulas, and the supports that training starts from."""

import numpy as np
import pytest
import torch
from torch import nn

from isac_toolbox.inference import GatedChain
from isac_toolbox.nn import SSVI
from isac_toolbox.nn.ssvi.layers import SparseGaussianLinear
from isac_toolbox.nn.ssvi.topology import StructuredScore, random_support

INDEX = torch.tensor([0, 1, 2, 5, 8, 9])


def layer(index, shape=(3, 4)):
    made = SparseGaussianLinear.from_plain(nn.Linear(shape[1], shape[0]))
    made.set_support(index, torch.ones(len(index)), torch.zeros(len(index)))
    return made


def test_scores_are_the_chains_odds_of_squared_evidence():
    density, p11, gate, n = 0.3, 0.7, 0.6, 2
    ratio = torch.tensor([3.0, 0.5, 8.0, 2.0, 900.0, 4.0], dtype=torch.float64)
    gradient = torch.tensor([9.0, 9.0, 9.0, 0.1, -0.4, 9.0, 0.3, 0.0, 9.0, 9.0, 0.6, -0.2]).reshape(3, 4)
    removal, addition = StructuredScore(torch.Size((3, 4)), density, p11, gate).scores(
        layer(INDEX), ratio, gradient, n
    )
    inside = density / gate  # active part of a living neuron, which the chain must keep
    chain = GatedChain(
        [4, 4, 4], gate=gate, p_first=inside, p01=inside * (1.0 - p11) / (1.0 - inside), p11=p11
    )
    assert inside == pytest.approx(inside * chain.p11 + (1.0 - inside) * chain.p01)
    tau, gamma = 2.0, 0.4  # second lowest ratio, second largest gradient of an inactive weight
    evidence = np.full(12, -0.5)
    evidence[INDEX.numpy()] = np.minimum(0.5 * ((ratio.numpy() / tau) ** 2 - 1.0), 20.0)
    extrinsic = chain.extrinsic_log_odds(evidence)
    np.testing.assert_allclose(removal.numpy(), (evidence + extrinsic)[INDEX.numpy()], rtol=1e-10)
    inactive = np.setdiff1d(np.arange(12), INDEX.numpy())
    slope = gradient.double().abs().flatten().numpy()[inactive]
    wanted = extrinsic[inactive] + 0.5 * ((slope / gamma) ** 2 - 1.0)
    np.testing.assert_allclose(addition.numpy()[inactive], wanted, rtol=1e-6)


def test_the_thresholds_have_no_evidence():
    """Weights at the thresholds of the plain rules bring nothing: the chain alone decides on them."""
    graph = StructuredScore(torch.Size((3, 4)), 0.5, 0.8, 0.5)
    ratio = torch.full((6,), 7.0, dtype=torch.float64)
    gradient = torch.full((3, 4), 0.3)
    removal, addition = graph.scores(layer(INDEX), ratio, gradient, 6)
    evidence = np.full(12, -0.5)
    evidence[INDEX.numpy()] = 0.0
    extrinsic = graph.graph.extrinsic_log_odds(evidence)
    np.testing.assert_allclose(removal.numpy(), extrinsic[INDEX.numpy()])
    inactive = np.setdiff1d(np.arange(12), INDEX.numpy())
    np.testing.assert_allclose(addition.numpy()[inactive], extrinsic[inactive])


def test_the_first_runs_are_as_long_as_the_chains():
    shape = torch.Size((40, 60))
    for p11, run in ((0.5, 2), (0.75, 4), (0.9, 10)):
        settings = {"removal": "structured", "addition": "structured", "p11": p11}
        start = SSVI(nn.Linear(60, 40), 0.2, **settings).layers[""]
        generator = torch.Generator().manual_seed(0)
        reference = random_support(shape, start.n_active, generator, run)
        lengths = [_mean_run(start.mask), _mean_run(_mask(reference, shape))]
        assert lengths[0] == pytest.approx(lengths[1], rel=0.1)
        assert 0.7 * run < lengths[0] < 1.5 * run


def _mask(index, shape):
    flat = torch.zeros(shape.numel(), dtype=torch.bool)
    flat[index] = True
    return flat.reshape(shape)


def _mean_run(mask):
    starts = mask & ~torch.cat([torch.zeros(len(mask), 1, dtype=torch.bool), mask[:, :-1]], 1)
    return int(mask.sum()) / int(starts.sum())


@pytest.mark.parametrize("density", [0.1, 0.5])
def test_means_start_with_the_spread_of_he_for_the_active_inputs(density):
    wide = SSVI(nn.Linear(400, 100), density).layers[""]
    active_inputs = 400 * density
    assert float(wide.mean.detach().std()) == pytest.approx((2.0 / active_inputs) ** 0.5, rel=0.05)
