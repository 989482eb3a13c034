"""Variational layers: divergence, sampling, conversion."""

import pytest
import torch
from torch import nn
from torch.distributions import Normal, kl_divergence

from isac_toolbox.nn import VariationalConv2d, VariationalLinear, convert, gaussian_kl
from isac_toolbox.nn.layers import to_plain, variational_layers
from isac_toolbox.nn.models import lenet_5, mlp, resnet18


def sampling(layer, seed):
    layer.sampling, layer.generator = True, torch.Generator().manual_seed(seed)
    return layer


def test_kl_is_that_of_torch_distributions():
    torch.manual_seed(0)
    mean, variance, rho = torch.randn(5, 4), torch.rand(5, 4) + 0.1, torch.rand(5, 4) * 9 + 0.2
    reference = kl_divergence(Normal(mean, variance.sqrt()), Normal(torch.zeros(5, 4), rho.rsqrt())).sum()
    torch.testing.assert_close(gaussian_kl(mean, variance, rho), reference)
    assert gaussian_kl(torch.zeros(3), 1 / rho[0, :3], rho[0, :3]).abs() < 1e-6


def test_local_reparameterisation_has_the_moments_of_sampled_weights():
    torch.manual_seed(1)
    layer = sampling(VariationalLinear.from_plain(nn.Linear(6, 3)), 0)
    layer.variance.copy_(torch.rand(3, 6))
    x = torch.randn(1, 6)
    with torch.no_grad():
        y = layer(x.expand(40_000, -1))
    torch.testing.assert_close(y.mean(0), layer.weight @ x[0] + layer.bias, atol=0.03, rtol=0)
    torch.testing.assert_close(y.var(0), layer.variance @ x[0] ** 2, rtol=0.05, atol=0)


def test_kernel_is_drawn_once_per_pass():
    layer = sampling(VariationalConv2d.from_plain(nn.Conv2d(1, 1, 1, bias=False)), 0)
    layer.variance.fill_(1.0)
    y = layer(torch.ones(2, 1, 4, 4))
    assert torch.all(y == y[0, 0, 0, 0]) and not torch.all(layer(torch.ones(1, 1, 1, 1)) == y[0, 0, 0, 0])


@pytest.mark.parametrize(
    "plain",
    [
        nn.Conv2d(4, 6, 3, stride=2, padding=1, groups=2),
        nn.Conv2d(4, 4, 3, groups=4, bias=False, padding="same", padding_mode="circular"),
        nn.Conv2d(4, 3, (1, 3), dilation=(1, 2)),
    ],
)
def test_converted_convolution_computes_the_same(plain):
    x = torch.randn(2, 4, 9, 9)
    layer = convert(plain)
    torch.testing.assert_close(layer(x), plain(x), rtol=0, atol=0)
    layer.masked = True
    layer.mask[0] = False
    kept = to_plain(layer)
    assert type(kept) is nn.Conv2d and not kept.weight[0].any()
    torch.testing.assert_close(kept(x), layer(x))


def test_conversion_leaves_the_model_and_the_random_state_alone():
    model = resnet18(width=4)
    state = torch.random.get_rng_state()
    converted = convert(model)
    assert torch.equal(state, torch.random.get_rng_state())
    assert not variational_layers(model)
    assert len(variational_layers(converted)) == 21
    x = torch.randn(2, 1, 28, 28)
    torch.testing.assert_close(converted.eval()(x), model.eval()(x))


def test_excluded_layers_stay():
    assert set(variational_layers(convert(lenet_5(), exclude=["conv1", "fc2"]))) == {"conv2", "fc1"}


class Twice(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(4, 4)

    def forward(self, x):
        return self.inner(self.inner(x))


def tied():
    model = mlp(8, (8, 8), 8)
    model.fc2.weight = model.fc1.weight
    return model


def test_layers_with_one_weight_tensor_stay_whole_by_name():
    with pytest.warns(UserWarning, match=r"fc1 \(weight shared, 64\), fc2 \(weight shared, 64\)"):
        assert set(variational_layers(convert(tied()))) == {"fc3"}


def test_a_layer_that_is_called_twice_has_one_posterior():
    model, x = Twice(), torch.randn(3, 4)
    converted = convert(model)
    torch.testing.assert_close(converted(x), model(x))
    layer = variational_layers(converted)["inner"]
    layer.track_variance(True)
    layer.sampling = True
    converted(x).square().sum().backward()
    assert layer.mean.grad is not None and layer.variance.grad.abs().max() > 0.0
    layer.mask[0] = False
    layer.sampling, layer.masked = False, True
    torch.testing.assert_close(to_plain(converted)(x), converted(x))


def test_a_module_with_two_names_is_one_module_afterwards():
    model = nn.ModuleDict({"left": nn.Sequential(nn.Linear(4, 4), nn.ReLU())})
    model["right"] = model["left"]
    model["again"] = model["left"][0]
    converted = convert(model)
    assert set(variational_layers(converted)) == {"left.0"}
    assert converted["right"][0] is converted["left"][0] is converted["again"]
    plain = to_plain(converted)
    assert type(plain["again"]) is nn.Linear and plain["right"][0] is plain["left"][0] is plain["again"]


def test_what_cannot_be_converted_is_refused():
    with pytest.raises(TypeError, match=r"model must be a torch\.nn\.Module, got str"):
        convert("model")
    with pytest.raises(ValueError, match="at least one"):
        convert(nn.Sequential(nn.ReLU()))
    with pytest.raises(ValueError, match="fc9"):
        convert(mlp(4, (4,), 2), exclude=["fc9"])
