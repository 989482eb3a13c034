"""What the trainer descends on and what the engine hands back, by value."""

import math
from copy import deepcopy

import pytest
import torch
from torch import nn
from torch.distributions import Normal, kl_divergence

from isac_toolbox.nn import TensorLoader, TurboVBICompressor
from isac_toolbox.nn._batches import Batch
from isac_toolbox.nn.turbo_vbi.prior import LayerPrior

N, FACTORS = 24, {"0": 1.0, "2": 3.0}


@pytest.fixture(scope="module")
def network():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 3))


@pytest.fixture(scope="module")
def loader():
    generator = torch.Generator().manual_seed(1)
    x, y = torch.randn(N, 5, generator=generator), torch.randint(3, (N,), generator=generator)
    return TensorLoader(x, y, batch_size=N)


def silent(output, target):
    """A loss that no weight changes: what is left of the gradient is the prior's part."""
    return 0.0 * output.sum()


def fitted(network, loader, epochs=2, **given):
    """One engine update, after the last step of the last epoch; the weights stay where they are."""
    settings = {
        "warmup_epochs": epochs - 1,
        "updates_per_epoch": 1,
        "learning_rate": 1e-12,
        "max_loss_drop": None,
    } | given
    return TurboVBICompressor(network, **settings).fit(loader, epochs=epochs, progress=False)


def test_the_priors_gradient_is_that_of_its_divergence(network, loader):
    start = TurboVBICompressor(network).precisions
    compressor = fitted(network, loader, temperature=0.4, temperature_factors=FACTORS, loss=silent)
    for name, layer in compressor.layers.items():
        mean = network.get_submodule(name).weight.detach().clone().requires_grad_()
        spread = torch.full_like(mean, 0.1)  # the divergence's slope does not depend on it
        rho = start[name]
        assert rho[0, 0] == pytest.approx(1.0 / float(mean.detach().square().mean()), rel=1e-6)
        kl_divergence(Normal(mean, spread), Normal(0.0, rho.rsqrt())).sum().backward()
        torch.testing.assert_close(layer.mean.grad, 0.4 / N * FACTORS[name] * mean.grad)
        # the averages that go to the engine hold the data alone
        assert not compressor.curvatures[name].mean_gradient.any()


def test_the_whole_gradient_is_a_finite_difference_of_the_objective(network, loader):
    compressor = TurboVBICompressor(deepcopy(network).double(), temperature=0.5)
    (x, y), scale, noise = next(iter(loader)), 0.5 / N, 7
    layer = compressor.layers["0"]

    def objective():
        compressor._set_sampling(noise)
        with torch.no_grad():
            value = nn.functional.cross_entropy(compressor.model(x.double()), y)
        return float(value) + scale * compressor.kl()

    compressor.optimiser = torch.optim.SGD(compressor.model.parameters(), lr=0.0)
    compressor._set_sampling(noise)
    compressor._step(Batch((x.double(),), {}, y), scale)
    gradient, step = layer.mean.grad.clone(), 1e-5
    for place in ((0, 0), (1, 3), (3, 4)):
        values = []
        for sign in (1.0, -1.0):
            with torch.no_grad():
                layer.mean[place] += sign * step
            values.append(objective())
            with torch.no_grad():
                layer.mean[place] -= sign * step
        slope = (values[0] - values[1]) / (2.0 * step)
        assert float(gradient[place]) == pytest.approx(slope, rel=1e-4), place


def test_variances_and_messages_take_the_factor_of_their_layer(network, loader, monkeypatch):
    seen = {}

    def spy(prior, mean, gradient, curvature, temperature, size):
        message = original(prior, mean, gradient, curvature, temperature, size)
        seen[tuple(mean.shape)] = message.variance, curvature.double().flatten().numpy()
        return message

    original = LayerPrior.message
    monkeypatch.setattr(LayerPrior, "message", spy)
    given = {"temperature": 0.4, "support_temperature": 0.8, "temperature_factors": FACTORS}
    compressor = fitted(network, loader, **given)
    for name, layer in compressor.layers.items():
        h, factor = compressor.curvatures[name].mean_curvature, FACTORS[name]
        wanted = 1.0 / (N * h / (0.4 * factor) + compressor.precisions[name])
        torch.testing.assert_close(layer.variance, wanted)
        variance, curvature = seen[tuple(layer.mean.shape)]
        assert variance == pytest.approx(0.8 * factor / (N * curvature))


@pytest.mark.parametrize("damping", [0.3, 0.8])
def test_the_new_precision_enters_damped_in_its_logarithm(damping, network, loader):
    given = {"temperature": 0.05, "spike_precision": 1e4, "seed": 3}
    start = TurboVBICompressor(network, **given).precisions
    once = {step: fitted(network, loader, damping=step, **given).precisions for step in (damping, 1.0)}
    for name, rho in start.items():
        full, wanted = once[1.0][name].log(), (1.0 - damping) * rho.log()
        assert float(full.max() - full.min()) > 0.5  # the engine tells the weights apart
        torch.testing.assert_close(once[damping][name].log(), wanted + damping * full)


def test_automatic_relevance_determination_reads_the_power(network, loader):
    compressor = fitted(network, loader, epochs=3, precision="relevance", temperature=5.0)
    for name, layer in compressor.layers.items():
        power = layer.mean.detach().square() + layer.variance
        torch.testing.assert_close(compressor.precisions[name], 1.0 / power)


def test_the_record_holds_the_mean_over_examples(network):
    """Batches of 16 and 8 examples; the loss of each is its first input."""
    x = torch.arange(N, dtype=torch.float32)[:, None].expand(N, 5) / N
    compressor = TurboVBICompressor(
        network,
        warmup_epochs=0,
        max_loss_drop=None,
        loss=lambda output, y: y.float().mean() + 0.0 * output.sum(),
    )
    y = torch.cat([torch.zeros(16, dtype=torch.int64), torch.full((8,), 2)])
    compressor.fit(TensorLoader(x, y, batch_size=16, shuffle=False), epochs=1, progress=False)
    assert compressor.history[0].loss == pytest.approx(2.0 * 8 / N)
    assert math.isnan(compressor.history[0].val_accuracy)
