"""What happens to constant channels and to batch normalisations, by value."""

import pytest
import torch
from torch import nn

from isac_toolbox.nn.export import fold_batch_norm, shrink


def normalisation(kind, n, eps=0.7):
    """A batch normalisation whose `eps` is as large as its variances."""
    norm = kind(n, eps=eps)
    generator = torch.Generator().manual_seed(n)
    with torch.no_grad():
        for value in (norm.weight, norm.bias, norm.running_mean):
            value.copy_(torch.randn(n, generator=generator))
        norm.running_var.copy_(torch.rand(n, generator=generator))
    return norm


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("affine", [False, True])
def test_a_folded_normalisation_keeps_its_eps(affine, bias):
    norm = normalisation(nn.BatchNorm2d, 3)
    if not affine:
        norm.weight = norm.bias = None
    model = nn.Sequential(nn.Conv2d(2, 3, 2, bias=bias), norm).eval()
    weight = model[0].weight.detach().clone()
    x = torch.rand(4, 2, 5, 5)
    wanted = model(x)
    folded = fold_batch_norm(model, x)
    assert isinstance(folded[1], nn.Identity)
    torch.testing.assert_close(folded(x), wanted)
    scale = (norm.running_var + 0.7) ** -0.5 * (norm.weight if affine else 1.0)
    torch.testing.assert_close(folded[0].weight, weight * scale[:, None, None, None])


def test_a_constant_goes_through_a_normalisation_with_its_eps():
    model = nn.Sequential(
        nn.Linear(3, 4), normalisation(nn.BatchNorm1d, 4), nn.ReLU(), nn.Linear(4, 2)
    ).eval()
    with torch.no_grad():
        model[0].weight[1:3] = 0.0
        model[0].bias[1:3] = torch.tensor([2.0, -3.0])
    small, x = shrink(model, (3,)), torch.randn(6, 3)
    assert small[0].out_features == 2
    torch.testing.assert_close(small(x), model(x))


def test_a_constant_goes_through_a_depthwise_kernel_and_into_a_bias():
    model = nn.Sequential(nn.Conv2d(1, 3, 1), nn.Conv2d(3, 3, 2, groups=3), nn.Conv2d(3, 1, 2)).eval()
    with torch.no_grad():
        model[0].weight[1], model[0].bias[1] = 0.0, 1.5
    small, x = shrink(model, (1, 6, 6)), torch.randn(2, 1, 6, 6)
    assert [layer.out_channels for layer in small] == [2, 2, 1]
    torch.testing.assert_close(small(x), model(x))
    constant = model[1].bias[1] + 1.5 * model[1].weight[1].sum()
    shift = constant * model[2].weight[0, 1].sum()
    torch.testing.assert_close(small[2].bias, model[2].bias + shift)


def test_an_average_over_padding_is_constant_for_zeros_alone():
    model = nn.Sequential(nn.Conv2d(1, 3, 1), nn.AvgPool2d(2, padding=1), nn.Conv2d(3, 1, 2)).eval()
    with torch.no_grad():
        model[0].weight[:2] = 0.0
        model[0].bias[:2] = torch.tensor([0.0, 1.0])
    small, x = shrink(model, (1, 6, 6)), torch.randn(2, 1, 6, 6)
    assert small[0].out_channels == 2
    torch.testing.assert_close(small(x), model(x))
