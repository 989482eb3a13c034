"""Formulas of the baselines' papers, by value."""

import math

import pytest
import torch
from torch import nn

from isac_toolbox.nn.baselines import Finetuning, group_lasso, magnitude
from isac_toolbox.nn.baselines.dropout import _molchanov_kl


@pytest.mark.parametrize("alpha", [0.02, 0.5, 3.0, 60.0])
def test_the_divergence_of_variational_dropout(alpha):
    """`-KL = E_q ln |w| - ln sigma + const`, by integration; the paper's approximation is good to 0.01."""
    z = torch.linspace(-12.0, 12.0, 2_000_001, dtype=torch.float64)
    density = torch.exp(-0.5 * z**2) / math.sqrt(2.0 * math.pi)

    def exact(a):
        root = math.sqrt(a)
        value = (density * torch.log((1.0 + root * z).abs().clamp(min=1e-12))).sum() * (z[1] - z[0])
        return float(value) - 0.5 * math.log(a)  # up to the constant that makes it vanish at large alpha

    def approximate(a):
        return float(_molchanov_kl(torch.ones(1), torch.tensor([math.log(a)])))

    constant = exact(1e4)
    assert approximate(alpha) == pytest.approx(exact(alpha) - constant, abs=0.02)


def one_batch(n_inputs):
    """Twenty examples that no weight can learn from."""
    return [(torch.zeros(20, n_inputs), torch.zeros(20, dtype=torch.int64))]


def test_the_group_lasso_takes_the_root_of_the_group_size_off_the_norm():
    """One proximal step: the norm of a group falls by `rate strength sqrt(size)`."""
    net = nn.Sequential(nn.Linear(9, 4, bias=False))
    with torch.no_grad():
        net[0].weight.copy_(torch.arange(1.0, 37.0).reshape(4, 9))
    wanted = net[0].weight.detach().clone()
    norm = wanted.norm(dim=0, keepdim=True)
    wanted *= 1.0 - 0.01 * 0.5 * math.sqrt(4) / norm
    given = {"density": 1.0, "epochs": 1, "finetune_epochs": 0, "strength": 0.5}
    result = group_lasso(net, one_batch(9), **given, tuning=Finetuning(learning_rate=0.01))
    kept = result.masks["0"]
    torch.testing.assert_close(result.model[0].weight[kept], wanted[kept])


def test_magnitudes_leave_on_the_cubic_schedule(monkeypatch):
    net, seen = nn.Sequential(nn.Linear(100, 10, bias=False)), []

    def run(self, model, loader, epochs, first_epoch=0, after_step=None):
        """A training that leaves the weights alone."""
        for _ in range(epochs * len(loader)):
            after_step()
            seen.append(int(model[0].weight.count_nonzero()))

    monkeypatch.setattr(Finetuning, "run", run)
    magnitude(net, 10 * one_batch(100), density=0.1, epochs=8, steps=4, pruning_part=0.5)
    parts = [1.0 - k / 4 for k in (1, 2, 3, 4)]
    assert seen[:40:10] == [round(100 + 900 * part**3) for part in parts]
    assert set(seen[30:]) == {100}
