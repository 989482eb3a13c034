"""Running moments taken anew."""

import torch
from torch import nn

from isac_toolbox.nn.training import recalibrate


def test_moments_are_plain_averages_over_the_batches():
    model, batches = nn.Sequential(nn.BatchNorm1d(2, momentum=0.3)).eval(), torch.randn(4, 6, 2)
    loader = [(x, None) for x in batches]
    for n in (4, 3):
        recalibrate(model, loader, n_batches=n)
        torch.testing.assert_close(model[0].running_mean, batches[:n].mean((0, 1)))
        torch.testing.assert_close(model[0].running_var, batches[:n].var(1).mean(0))
    assert model[0].momentum == 0.3 and not model.training
