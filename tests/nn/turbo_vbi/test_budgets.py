"""Budgets of the support, by value."""

import numpy as np
import pytest
import torch
from torch import nn

from isac_toolbox.inference import GatedChain
from isac_toolbox.nn import TensorLoader, TurboVBICompressor, filter_macs


def at_the_budgets(model, **settings):
    """A compressor between fit and budget, with everything kept."""
    settings = {"warmup_epochs": 0, "support": "independent", "seed": 0} | settings
    compressor = TurboVBICompressor(model, **settings)
    shape = (5, *([1, 6, 6] if isinstance(model[0], nn.Conv2d) else [model[0].in_features]))
    generator = torch.Generator().manual_seed(0)
    loader = TensorLoader(torch.rand(shape, generator=generator), torch.zeros(5, dtype=torch.int64))
    compressor.fit(loader, epochs=1, progress=False)
    for layer in compressor.layers.values():
        layer.mask.fill_(True)
    return compressor, loader


def give(compressor, name, **values):
    """Overwrite weights, variances, curvatures, log-odds of one layer."""
    layer = compressor.layers[name]
    with torch.no_grad():
        for key in ("weight", "variance"):
            if key in values:
                getattr(layer, key).copy_(values[key])
    if "curvature" in values:
        average = compressor.curvatures[name]
        average.curvature.copy_(values["curvature"] * average.weight)
    if "log_odds" in values:
        compressor.priors[name].odds = values["log_odds"].float().flatten().numpy()


def test_a_weight_at_one_half_stays_under_every_rule():
    compressor = TurboVBICompressor(nn.Sequential(nn.Linear(3, 1, bias=False)), support="independent")
    prior = compressor.priors["0"]
    prior.odds = np.array([-1e-9, 0.0, 1e-9], np.float32)
    stays = torch.tensor([[False, True, True]])
    assert torch.equal(prior.active, stays)
    # after a fine-tuning the log-odds are half the saliency over the threshold, less one half
    saliency = {"0": torch.tensor([[0.99, 1.0, 1.01]])}
    assert torch.equal(compressor._support_above(saliency, 1.0)["0"], stays)


def test_the_odds_of_the_fit_decide_and_then_the_signal_to_noise_ratio():
    compressor, _ = at_the_budgets(nn.Sequential(nn.Linear(4, 1)))
    weight = torch.tensor([[3.0, -1.0, 2.0, 0.5]])
    odds, variance = torch.tensor([[1.0, 9.0, 1.0, 1.0]]), torch.tensor([[9.0, 1.0, 1.0, 0.01]])
    give(compressor, "0", weight=weight, variance=variance, log_odds=odds)  # mu^2 / sigma^2: 1, 1, 4, 25
    for n, kept in ((3, [0, 1, 1, 1]), (2, [0, 1, 0, 1]), (1, [0, 1, 0, 0])):
        assert compressor.keep_at_most(n).support()["0"].int().tolist() == [kept]


def test_after_finetuning_mean_squared_times_curvature_decides():
    compressor, loader = at_the_budgets(nn.Sequential(nn.Linear(5, 1)))
    compressor.finetune(loader, epochs=1, progress=False)
    weight = torch.tensor([[4.0, -2.0, 1.0, 0.5, 3.0]])
    curvature = torch.tensor([[0.01, 1.0, 1.5, 16.5, 0.4]])
    give(compressor, "0", weight=weight, curvature=curvature)  # mu^2 h: 0.16, 4, 1.5, 4.125, 3.6
    for n, kept in ((4, [0, 1, 1, 1, 1]), (3, [0, 1, 0, 1, 1]), (2, [0, 1, 0, 1, 0]), (1, [0, 0, 0, 1, 0])):
        assert compressor.keep_at_most(n).support()["0"].int().tolist() == [kept]


def test_the_chain_joins_in_with_half_the_saliency_over_the_threshold():
    compressor = TurboVBICompressor(nn.Sequential(nn.Linear(6, 2)), p01=0.1, p11=0.9, gate=0.4)
    saliency = torch.tensor([[0.9, 3.0, 0.8, 0.0, 0.7, 90.0], [0.3, 0.2, 1.2, 0.1, 0.0, 0.4]])
    chain = GatedChain([6, 6], gate=0.4, p_first=0.5, p01=0.1, p11=0.9)
    for threshold in (0.3, 1.0, 2.0):
        scaled = saliency.double().flatten().numpy() / threshold
        evidence = np.where(scaled > 0.0, np.minimum(0.5 * (scaled - 1.0), 20.0), -20.0)
        kept = evidence + chain.extrinsic_log_odds(evidence) > 0.0
        found = compressor._support_above({"0": saliency}, threshold)["0"]
        assert found.flatten().tolist() == kept.tolist()
        assert 0 < kept.sum() < 12 and (kept != (evidence > 0.0)).any()


def test_a_budget_of_macs_drops_the_filters_with_the_least_evidence_per_mac():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(
            *(nn.Conv2d(1, 3, 3), nn.ReLU(), nn.Flatten()),
            *(nn.Linear(48, 6), nn.ReLU(), nn.Linear(6, 2)),
        )
    compressor, _ = at_the_budgets(model)
    costs = filter_macs(model, (1, 6, 6))
    assert costs == {"0": 9 * 16 + 16 * 6, "3": 48 + 2, "5": 0}
    give(compressor, "0", log_odds=torch.tensor([10.0, 40.0, 50.0])[:, None, None, None].expand(3, 1, 3, 3))
    strength = torch.tensor([1.0, 0.2, 3.0, 0.4, 2.0, 0.3])
    give(compressor, "3", log_odds=strength[:, None].expand(6, 48))
    # per MAC: filters 0.375, 1.5, 1.9; units 0.96, 0.19, 2.9, 0.38, 1.9, 0.29
    whole = 3 * 9 * 16 + 48 * 6 + 6 * 2
    for macs, filters, units in (
        (whole - 1, [1, 1, 1], [1, 0, 1, 1, 1, 1]),
        (whole - 99, [1, 1, 1], [1, 0, 1, 1, 1, 0]),
        (whole - 101, [0, 1, 1], [1, 0, 1, 1, 1, 0]),
    ):
        support = compressor.keep_macs_at_most(macs).support()
        assert support["0"].flatten(1).any(1).int().tolist() == filters
        assert support["3"].any(1).int().tolist() == units
        assert compressor.report().macs <= macs


@pytest.mark.parametrize("budget", [1, 7, 11])
def test_a_budget_is_met_with_what_is_connected(budget):
    compressor, _ = at_the_budgets(nn.Sequential(nn.Linear(3, 3), nn.ReLU(), nn.Linear(3, 1)))
    for name in ("0", "2"):
        size = compressor.layers[name].weight.shape
        give(compressor, name, weight=torch.ones(size), log_odds=torch.rand(size) + 1.0)
    assert compressor.keep_at_most(budget).report().n_kept <= budget
