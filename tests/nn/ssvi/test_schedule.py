"""Learning rates and scores that a training uses, by value."""

import pytest
import torch
from torch import nn

from isac_toolbox.nn import SSVI, PrunedVI, TensorLoader
from isac_toolbox.nn.ssvi import scores


def loader():
    return TensorLoader(torch.rand(12, 6), torch.arange(12) % 3, batch_size=12)


def test_pruned_inference_has_a_cosine_before_and_after_pruning():
    pruned, rates = PrunedVI(nn.Linear(6, 3), 0.5, finetune_part=0.5, learning_rate=0.2), []
    pruned.fit(
        loader(),
        epochs=8,
        progress=False,
        callback=lambda record: rates.append(pruned.optimiser.param_groups[0]["lr"]),
    )
    cosine = [0.2 * 0.5 * (1.0 + torch.tensor(torch.pi * k / 4).cos().item()) for k in range(4)]
    assert rates == pytest.approx(2 * cosine)


@pytest.mark.parametrize("name", ["exp_mean", "exp_snr"])
@pytest.mark.filterwarnings("ignore:removal='exp_snr'")
def test_exponential_scores_take_the_rate_that_is_set(name):
    ssvi = SSVI(nn.Linear(6, 3), 0.5, name, exp_rate=2.5, initial_sigma=0.3)
    layer = ssvi.layers[""]
    gradient = torch.randn(3, 6)
    removal, addition = ssvi._scores("", layer, gradient, 2, 0)
    wanted = getattr(scores, name)(layer.mean.detach(), layer.sigma.detach(), 2.5)
    torch.testing.assert_close(removal, wanted)
    assert torch.equal(addition, gradient.abs().flatten())
