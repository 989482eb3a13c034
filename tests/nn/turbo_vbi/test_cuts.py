"""Cuts are as deep as they may be, and are taken back where the network does not recover."""

import pytest
import torch

from isac_toolbox.nn import TurboVBICompressor
from isac_toolbox.nn._batches import first_batch
from isac_toolbox.nn.objective import Objective
from isac_toolbox.nn.turbo_vbi.cuts import Cuts, Rung
from isac_toolbox.nn.turbo_vbi.order import layer_adaptive_scores
from isac_toolbox.nn.turbo_vbi.trials import Trials
from isac_toolbox.nn.turbo_vbi.watch import Watch


@pytest.fixture
def trials(digits, trained):
    compressor = TurboVBICompressor(trained)
    compressor._remember(first_batch(digits[0], compressor.model, "train_loader"))
    compressor._set_masked(True)
    watch = Watch(Objective(), digits[1], [(digits[0].x, digits[0].y)], 0.01)
    watch.refer_to(compressor.model)
    return Trials(compressor, watch, digits[0])


def kept(support):
    return sum(int(mask.sum()) for mask in support.values())


# ---- scores --------------------------------------------------------------------------------------------


def test_scores_are_each_square_over_the_sum_of_those_not_smaller():
    power = torch.tensor([[4.0, 1.0], [9.0, 0.0]])
    expected = torch.tensor([[4.0 / 13.0, 1.0 / 14.0], [1.0, 0.0]], dtype=torch.float64)
    torch.testing.assert_close(layer_adaptive_scores(power), expected)
    torch.testing.assert_close(
        layer_adaptive_scores(1e-6 * power), expected
    )  # the scale of a layer is nothing
    assert not layer_adaptive_scores(torch.zeros(3)).any()


def test_no_layer_loses_all_its_weights_before_another_has_lost_all_but_one(trials):
    compressor = trials.compressor
    for name, layer in compressor.layers.items():
        layer.mean.data *= {"fc1": 1e-4}.get(name, 1.0)
    order = compressor._most_salient_first(compressor._scores())
    n_layers = len(compressor.layers)
    assert all(int(mask.sum()) == 1 for mask in trials.first_of(order, n_layers).values())


# ---- trials --------------------------------------------------------------------------------------------


def test_a_trial_leaves_masks_switches_and_modes_as_they_were(trials):
    compressor = trials.compressor
    first = next(iter(compressor.layers.values()))
    first.mask[0] = False
    compressor.model.train()
    compressor._set_sampling(3)
    masks = {name: layer.mask.clone() for name, layer in compressor.layers.items()}
    generators = [layer.generator for layer in compressor.layers.values()]
    less = {name: mask & (torch.arange(mask.shape[1]) % 2 == 0) for name, mask in masks.items()}
    assert trials.lost(less) > trials.lost(masks)
    assert trials.verdict({name: torch.zeros_like(m) for name, m in masks.items()}).bound() == float("inf")
    assert all(torch.equal(layer.mask, masks[name]) for name, layer in compressor.layers.items())
    assert all(layer.masked and layer.sampling for layer in compressor.layers.values())
    assert [layer.generator for layer in compressor.layers.values()] == generators
    assert all(module.training for module in compressor.model.modules())


# ---- cuts ----------------------------------------------------------------------------------------------


def test_a_cut_loses_at_most_its_limit_and_the_next_smaller_one_more(trials):
    cuts = Cuts(trials, patience=2)
    cuts.limit = 0.03
    support = cuts.next_support(0.0)
    part = kept(support) / trials.n_weights
    assert 0.4 <= part <= 0.95
    assert trials.lost(support) <= 0.03
    order = trials.compressor._most_salient_first(trials.compressor._scores())
    if part > 0.5:
        assert trials.lost(cuts._first_of(order, (part - 0.1) * trials.n_weights)) > 0.03


def test_the_limit_grows_with_every_cut_that_was_recovered_from_at_once(trials):
    cuts = Cuts(trials, patience=2)
    for expected in (0.05, 0.1, 0.2, 0.25):
        trials.compressor._keep(cuts.next_support(0.0))
        assert cuts.limit == pytest.approx(expected)
    counts = [rung.n for rung in cuts.rungs]
    assert counts == sorted(counts, reverse=True)


def test_a_cut_that_the_network_does_not_recover_from_is_taken_back_and_a_smaller_one_made(trials):
    cuts, compressor = Cuts(trials, patience=2), trials.compressor
    compressor._keep(cuts.next_support(0.0))
    n_first, weights = trials.n_kept, {n: p.clone() for n, p in compressor.model.named_parameters()}
    for parameter in compressor.model.parameters():
        parameter.data.zero_()
    assert cuts.next_support(1.0) is None
    smaller = cuts.next_support(1.0)
    assert cuts.limit == pytest.approx(0.25 * 0.05) and cuts.patience == 4
    assert trials.n_kept == trials.n_weights and kept(smaller) >= n_first
    for name, parameter in compressor.model.named_parameters():
        torch.testing.assert_close(parameter, weights[name])


def test_a_denser_network_is_the_one_in_the_middle(trials):
    cuts = Cuts(trials, patience=2)
    cuts.rungs = [Rung(n, {}) for n in (1000, 500, 250, 50)]
    assert cuts.denser_than(50, 1000).n == 250
    assert cuts.denser_than(250, 1000).n == 500
    assert cuts.denser_than(500, 1000) is None
