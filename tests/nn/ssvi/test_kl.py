"""The prior's part of the loss on a fixed budget, by value."""

import pytest
import torch
from torch import nn
from torch.distributions import Normal, kl_divergence

from isac_toolbox.nn import SSVI, TensorLoader
from isac_toolbox.nn.ssvi.layers import active_kl

N = 30
SETTINGS = {"density": 0.5, "prior_sd": 0.2, "kl_weight": 0.7, "initial_sigma": 0.05, "update_interval": 1000}


def silent(output, target):
    """A loss that no weight changes."""
    return 0.0 * output.sum()


def divergence(mean, sigma, prior_sd):
    return kl_divergence(Normal(mean, sigma), Normal(torch.zeros_like(mean), prior_sd)).sum()


@pytest.fixture(scope="module")
def loader():
    return TensorLoader(torch.rand(N, 6), torch.zeros(N, dtype=torch.int64), batch_size=10)


def made(**settings):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = nn.Sequential(nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 2))
    return SSVI(network, loss=silent, sigma_step="rho", **(SETTINGS | settings))


def test_the_divergence_is_that_of_two_gaussians():
    generator = torch.Generator().manual_seed(0)
    mean, sigma = torch.randn(50, generator=generator), 0.05 + torch.rand(50, generator=generator)
    torch.testing.assert_close(active_kl(mean, sigma, 0.3), divergence(mean, sigma, 0.3))
    ssvi = made()
    found = sum(divergence(layer.mean, layer.sigma, 0.2) for layer in ssvi.layers.values())
    assert ssvi.kl() == pytest.approx(float(found.detach()))


def test_its_gradient_grows_over_the_first_half_of_the_epochs(loader):
    ssvi, factors = made(learning_rate=1e-12), []

    def compare(record):
        """The gradients of the epoch's last step against those of the divergence."""
        for layer in ssvi.layers.values():
            mean, rho = (p.detach().clone().requires_grad_() for p in (layer.mean, layer.rho))
            divergence(mean, nn.functional.softplus(rho), 0.2).backward()
            found = float((layer.mean.grad / mean.grad).mean())
            torch.testing.assert_close(layer.mean.grad, found * mean.grad)
            torch.testing.assert_close(layer.rho.grad, found * rho.grad)
            factors.append(found)

    ssvi.fit(loader, epochs=5, callback=compare, progress=False)
    wanted = [0.7 / N * part for part in (0.0, 0.4, 0.8, 1.0, 1.0) for _ in ssvi.layers]
    assert factors == pytest.approx(wanted)


def test_only_the_means_decay(loader):
    ssvi = made(kl_weight=0.0, weight_decay=0.1, momentum=0.0, learning_rate=0.5)
    before = {n: (v.mean.detach().clone(), v.rho.detach().clone()) for n, v in ssvi.layers.items()}
    ssvi.fit(loader, epochs=1, progress=False)
    kept = 1.0
    for step in range(3):
        kept *= 1.0 - 0.1 * 0.5 * 0.5 * (1.0 + torch.tensor(torch.pi * step / 3).cos().item())
    for name, layer in ssvi.layers.items():
        mean, rho = before[name]
        torch.testing.assert_close(layer.mean.detach(), kept * mean)
        assert torch.equal(layer.rho.detach(), rho)
