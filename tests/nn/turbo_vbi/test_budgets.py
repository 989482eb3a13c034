"""Budgets of the support, by value."""

import torch
from torch import nn

from isac_toolbox.inference import PriorState
from isac_toolbox.nn import TurboVBICompressor


def test_a_weight_at_one_half_stays_under_every_rule():
    compressor = TurboVBICompressor(nn.Sequential(nn.Linear(3, 1, bias=False)), support="independent")
    prior = compressor.priors["0"]
    prior.state = PriorState.initial(3, 1.0, [0.5 - 1e-9, 0.5, 0.5 + 1e-9])
    stays = torch.tensor([[False, True, True]])
    assert torch.equal(prior.active, stays)
    # after a fine-tuning the log-odds are half the saliency over the threshold, less one half
    saliency = {"0": torch.tensor([[0.99, 1.0, 1.01]])}
    assert torch.equal(compressor._support_above(saliency, 1.0)["0"], stays)
