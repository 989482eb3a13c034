"""Price's theorem: the gradient by the variance is half the expected curvature."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from isac_toolbox.inference import extrinsic_message
from isac_toolbox.nn.layers import VariationalConv2d, VariationalLinear
from isac_toolbox.nn.turbo_vbi.prior import Curvature, LayerPrior, PriorSettings


def averaged(layer, loss, passes):
    """Averages over many passes; the memory is long enough to hold them all."""
    average = Curvature(layer.weight.detach(), decay=1.0 - 1e-6)
    layer.sampling, layer.generator = True, torch.Generator().manual_seed(0)
    for _ in range(passes):
        layer.zero_grad()
        layer.track_variance(True)
        loss(layer).backward()
        average.add(layer.weight.grad, layer.variance.grad)
    layer.sampling = False
    layer.track_variance(False)
    return average


def hessian_diagonal(function, weight):
    h = torch.autograd.functional.hessian(function, weight)
    n = weight.numel()
    return h.reshape(n, n).diagonal().reshape(weight.shape)


def test_curvature_of_a_quadratic_loss():
    torch.manual_seed(0)
    x, y = torch.randn(200, 3), torch.randn(200, 2)
    layer = VariationalLinear.from_plain(nn.Linear(3, 2, bias=False))
    layer.variance.fill_(0.04)
    average = averaged(layer, lambda net: F.mse_loss(net(x), y), 1500)
    exact = hessian_diagonal(lambda w: F.mse_loss(F.linear(x, w), y), layer.weight.detach())
    torch.testing.assert_close(average.mean_curvature, exact, rtol=0.06, atol=0)


def test_curvature_of_a_logistic_loss():
    torch.manual_seed(0)
    x, y = torch.randn(200, 3), torch.randint(3, (200,))
    layer = VariationalLinear.from_plain(nn.Linear(3, 3, bias=False))
    layer.variance.fill_(0.01)
    average = averaged(layer, lambda net: F.cross_entropy(net(x), y), 3000)
    exact = hessian_diagonal(lambda w: F.cross_entropy(F.linear(x, w), y), layer.weight.detach())
    torch.testing.assert_close(average.mean_curvature, exact, rtol=0.15, atol=0.005)
    g = torch.func.grad(lambda w: F.cross_entropy(F.linear(x, w), y))(layer.weight.detach())
    torch.testing.assert_close(average.mean_gradient, g, rtol=0, atol=0.01)


def test_curvature_of_a_kernel_holds_the_coupling_of_positions():
    torch.manual_seed(0)
    x = torch.rand(50, 1, 4, 4)
    layer = VariationalConv2d.from_plain(nn.Conv2d(1, 1, 2, bias=False))
    layer.variance.fill_(0.01)
    layer.weight.data.zero_()  # the estimate's noise grows with the mean gradient

    def loss(w):
        return F.conv2d(x, w).sum(dim=(1, 2, 3)).square().mean()

    average = averaged(layer, lambda net: net(x).sum(dim=(1, 2, 3)).square().mean(), 2500)
    exact = hessian_diagonal(loss, layer.weight.detach())
    torch.testing.assert_close(average.mean_curvature, exact, rtol=0.2, atol=0)


def test_negative_curvature_is_floored():
    average = Curvature(torch.zeros(3))
    average.add(torch.zeros(3), torch.tensor([1.0, -1.0, 0.0]))
    h = average.mean_curvature
    assert h[0] == pytest.approx(2.0, rel=1e-5)
    assert torch.all(h > 0.0) and torch.all(h[1:] < 0.01)


def test_message_excludes_the_prior():
    torch.manual_seed(0)
    n_data, temperature = 1000, 0.2
    h, rho, r = torch.rand(4, 5) + 0.5, 10 ** (torch.rand(4, 5) * 5), torch.randn(4, 5)
    # the stationary point of N h (mu - r)^2 / (2 T) + rho mu^2 / 2, under any prior rho
    mu = r / (1.0 + temperature * rho / (n_data * h))
    g = h * (mu - r)
    prior = LayerPrior(torch.full((4, 5), 100.0), PriorSettings())
    message = prior.message(mu, g, h, temperature, n_data)
    np.testing.assert_allclose(message.mean, r.numpy().ravel(), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(
        message.variance, temperature / (n_data * h.double().numpy().ravel()), rtol=1e-6
    )
    # and it is what the engine calls extrinsic: the marginal with the prior divided out
    variance = 1.0 / (n_data * h / temperature + rho)
    reference = extrinsic_message(
        mu.double().numpy().ravel(), variance.double().numpy().ravel(), rho.double().numpy().ravel()
    )
    np.testing.assert_allclose(message.mean, reference.mean, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(message.variance, reference.variance, rtol=1e-3)


def test_step_of_a_flat_weight_is_clipped():
    prior = LayerPrior(torch.full((1, 2), 0.1), PriorSettings())
    message = prior.message(torch.zeros(1, 2), torch.tensor([[1.0, -1.0]]), torch.full((1, 2), 1e-9), 1.0, 10)
    np.testing.assert_allclose(message.mean, [-0.1, 0.1], rtol=1e-6)


@pytest.mark.parametrize("support", ["chain", "independent"])
@pytest.mark.parametrize("rule", ["extrinsic", "structured", "mean_field"])
def test_a_restored_prior_goes_on_alike(rule, support):
    torch.manual_seed(0)
    weight, settings = torch.randn(4, 6), PriorSettings(rule=rule, support=support)
    whole, first, second = (LayerPrior(weight, settings) for _ in range(3))

    def step(prior, seed):
        generator = torch.Generator().manual_seed(seed)
        g, h = torch.randn(4, 6, generator=generator), torch.rand(4, 6, generator=generator) + 0.1
        prior.update(prior.message(weight, g, h, 0.5, 100), weight, torch.full_like(weight, 0.01))

    for seed in (0, 1):
        step(whole, seed)
    step(first, 0)
    second.load_state_dict(first.state_dict())
    step(second, 1)
    for name, value in whole.state_dict().items():
        torch.testing.assert_close(second.state_dict()[name], value)


def test_the_state_of_a_weight_has_eight_bytes_and_its_averages_as_many():
    weight = torch.zeros(10, 20)
    assert LayerPrior(weight, PriorSettings()).n_bytes == 8 * 200
    average = Curvature(weight)
    assert sum(t.numel() * t.element_size() for t in (average.gradient, average.curvature)) == 8 * 200
