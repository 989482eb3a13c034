"""Export: smaller modules with the same outputs."""

import warnings

import pytest
import torch
from torch import nn

from isac_toolbox.nn import count_macs, filter_macs, mac_gates, shrink
from isac_toolbox.nn.export.shrink import Channels, simplify
from isac_toolbox.nn.models import lenet_5, lenet_300_100, mlp, resnet18


def kill(model, part=0.5, seed=0):
    """Zero whole output rows of all but the last layer, and some columns of every layer."""
    generator = torch.Generator().manual_seed(seed)
    layers = [m for m in model.modules() if isinstance(m, (nn.Linear, nn.Conv2d))]
    with torch.no_grad():
        for layer in layers:
            columns = torch.rand(layer.weight.shape[1], generator=generator) < 0.3 * part
            layer.weight[:, columns] = 0.0
            if layer is not layers[-1]:
                layer.weight[torch.rand(len(layer.weight), generator=generator) < part] = 0.0
    return model


def disturb_norms(model, seed=0):
    """Batch normalisations as after a training."""
    torch.manual_seed(seed)
    for module in model.modules():
        if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d)):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, 0.0, 0.3)
            nn.init.normal_(module.running_mean, 0.0, 0.3)
            nn.init.uniform_(module.running_var, 0.5, 2.0)
    return model


def n_parameters(model):
    return sum(p.numel() for p in model.parameters())


class Residual(nn.Module):
    """A block whose addition ties the channels of `stem` and `b`."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(1, 8, 3, padding=1)
        self.a = nn.Conv2d(8, 8, 3, padding=1)
        self.b = nn.Conv2d(8, 8, 3, padding=1)
        self.head = nn.Linear(8, 3)

    def forward(self, x):
        x = torch.relu(self.stem(x))
        x = torch.relu(self.b(torch.relu(self.a(x))) + x)
        return self.head(x.mean(dim=(2, 3)))


def strided():
    return nn.Sequential(
        nn.Conv2d(2, 8, 3, stride=2, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 8, 3, padding=1, groups=8),
        nn.LeakyReLU(0.1),
        nn.Conv2d(8, 12, 1),
        nn.Sigmoid(),
        nn.Conv2d(12, 12, 3, stride=2, groups=3),
        nn.AvgPool2d(2),
        nn.Flatten(),
        nn.Linear(12, 10, bias=False),
        nn.BatchNorm1d(10),
        nn.Tanh(),
        nn.Linear(10, 4),
    )


def normalised():
    return nn.Sequential(
        nn.Conv2d(1, 6, 3, bias=False), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 5, 3), nn.Flatten(),
        nn.Linear(5 * 36, 3),
    )  # fmt: skip


CASES = {
    "mlp": (lambda: lenet_300_100(), (784,)),
    "lenet-5": (lambda: lenet_5(), (1, 28, 28)),
    "stride, groups, depthwise": (strided, (2, 12, 12)),
    "batch norm": (normalised, (1, 10, 10)),
    "residual": (Residual, (1, 7, 7)),
    "resnet-18": (lambda: resnet18(width=4), (1, 28, 28)),
}


@pytest.mark.parametrize("fold", [False, True], ids=["norms kept", "norms folded"])
@pytest.mark.parametrize("case", CASES)
def test_the_smaller_module_computes_the_same(case, fold):
    make, shape = CASES[case]
    torch.manual_seed(3)
    model = disturb_norms(kill(make())).eval()
    x = torch.randn(5, *shape)
    small = shrink(model, x, fold_norms=fold)
    torch.testing.assert_close(small(x), model(x), atol=1e-5, rtol=1e-5)
    assert n_parameters(small) < n_parameters(model)
    assert sum(count_macs(small, shape).values()) < sum(count_macs(model, shape).values())
    if fold:
        kept = [m for m in small.modules() if isinstance(m, (nn.BatchNorm1d, nn.BatchNorm2d))]
        assert not kept


def test_neurons_without_input_and_without_reader_are_removed():
    model = mlp(6, (5, 4), 3)
    with torch.no_grad():
        model.fc1.weight[0] = 0.0  # constant: nothing enters
        model.fc2.weight[:, 1] = 0.0  # unread: nothing leaves
        model.fc3.weight[:, 2] = 0.0
        model.fc2.weight[[0, 1, 3], 4] = 0.0  # read only by the removed neuron: unread in the second round
    small = shrink(model, (6,))
    assert [m.weight.shape for m in (small.fc1, small.fc2, small.fc3)] == [(2, 6), (3, 2), (3, 3)]
    x = torch.randn(9, 6)
    torch.testing.assert_close(small(x), model(x), atol=1e-6, rtol=1e-5)


def test_channels_of_an_addition_are_removed_only_together():
    torch.manual_seed(0)
    model = Residual()
    with torch.no_grad():
        for layer, channels in ((model.stem, [0, 1, 2]), (model.b, [1, 2, 3]), (model.a, [5])):
            layer.weight[channels] = 0.0
            layer.bias[channels] = 0.0
    small = shrink(model, (1, 7, 7))
    assert small.stem.out_channels == small.b.out_channels == small.head.in_features == 6
    assert small.a.out_channels == 7


def test_a_padded_convolution_keeps_a_constant_it_cannot_fold():
    model = nn.Sequential(nn.Conv2d(1, 2, 1), nn.ReLU(), nn.Conv2d(2, 1, 3, padding=1))
    with torch.no_grad():
        model[0].weight[0], model[0].bias[0] = 0.0, 1.0
    small = shrink(model, (1, 5, 5))
    assert small[0].out_channels == 2
    x = torch.randn(2, 1, 5, 5)
    torch.testing.assert_close(small(x), model(x))


def test_a_dead_network_stays_a_network():
    model = mlp(4, (3,), 2)
    with torch.no_grad():
        model.fc1.weight.zero_()
    small = shrink(model, (4,))
    assert small.fc1.out_features == 1
    torch.testing.assert_close(small(torch.randn(3, 4)), model(torch.randn(3, 4)))


class Branching(nn.Module):
    """Control flow that depends on the data, around a chain that can be traced."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 6))
        self.head = nn.Linear(6, 2)

    def forward(self, x):
        x = self.body(x)
        return self.head(x.abs() if x.sum() > 1e9 else x)


def test_an_untraceable_model_loses_only_channels_inside_its_parts():
    model = kill(Branching())
    with pytest.warns(
        UserWarning, match=r"cannot trace Branching: .*only inside parts that can be traced: 'body'"
    ):
        small = shrink(model, (4,))
    assert small.body[0].out_features < 6 and small.head.in_features == 6
    x = torch.randn(5, 4)
    torch.testing.assert_close(small(x), model(x), atol=1e-6, rtol=1e-5)


class Peeking(Branching):
    """Reads the weights of a chain from outside, where they are no longer all there."""

    def forward(self, x):
        y = self.head(self.body(x))
        return y * self.body[0].weight.shape[0] if x.sum() < 1e9 else y


def test_a_chain_that_is_read_from_outside_is_left_alone():
    model = kill(Peeking())
    with pytest.warns(UserWarning, match=r"channels of 'body.0', 'body.2' are zero but stay.*outputs differ"):
        small = shrink(model, (4,))
    assert n_parameters(small) == n_parameters(model)


@pytest.mark.parametrize("channels", [None, "given"])
def test_simplify_changes_no_output_of_an_untraceable_model(channels):
    model = kill(Peeking())
    x = torch.randn(5, 4)
    wanted = model(x)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        simplify(model, (4,), channels=None if channels is None else Channels(model, (4,)))
    torch.testing.assert_close(model(x), wanted)


class Odd(nn.Module):
    """Operations whose effect on channels is not known keep their channels."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = nn.Linear(4, 6), nn.Linear(4, 6), nn.Linear(12, 3)

    def forward(self, x):
        return self.c(torch.cat([self.a(x).softmax(1), self.b(x).cumsum(1)], dim=1))


def test_unknown_operations_protect_what_they_read_and_a_warning_says_so():
    model = kill(Odd())
    with torch.no_grad():
        model.a.weight[:2] = model.b.weight[3:] = 0.0
    with pytest.warns(
        UserWarning, match="of 'a', 'b' are zero, but they can never leave: read by softmax, read by cumsum"
    ):
        small = shrink(model, (4,))
    assert n_parameters(small) == n_parameters(model)
    x = torch.randn(3, 4)
    torch.testing.assert_close(small(x), model(x))


def test_bad_examples_are_named():
    with pytest.raises(TypeError, match=r"example must be a tensor, a tuple of tensors, .* got float"):
        shrink(mlp(4, (3,), 2), 4.0)


def test_macs_by_hand():
    counts = count_macs(strided(), (2, 12, 12))
    assert counts == {
        "0": 8 * 2 * 9 * 36,
        "3": 8 * 9 * 36,
        "5": 12 * 8 * 36,
        "7": 12 * 4 * 9 * 4,
        "10": 120,
        "13": 40,
    }
    mask = torch.zeros(12, 8, 1, 1, dtype=torch.bool)
    mask[0, :2] = True
    assert count_macs(strided(), (2, 12, 12), {"5": mask})["5"] == 2 * 36


def test_a_filter_costs_its_macs_and_those_of_its_readers():
    model = lenet_5(widths=(4, 6, 30))
    before = {name: p.clone() for name, p in model.state_dict().items()}
    costs = filter_macs(model, (1, 28, 28))
    first, second, hidden = 25 * 24 * 24 + 6 * 25 * 64, 4 * 25 * 64 + 16 * 30, 16 * 6 + 10
    assert costs == {"conv1": first, "conv2": second, "fc1": hidden, "fc2": 0}
    assert all(torch.equal(p, before[name]) for name, p in model.state_dict().items())
    shared = filter_macs(resnet18(width=4), (1, 12, 12))
    assert shared["stage1.0.conv2"] == 0 < shared["stage1.0.conv1"]  # the addition keeps the second alive


def test_gates_charge_in_proportion_to_macs():
    model = lenet_5(widths=(4, 6, 30))
    costs, gates = filter_macs(model, (1, 28, 28)), mac_gates(model, (1, 28, 28), 300.0)
    nats = {name: torch.logit(torch.tensor(g, dtype=torch.float64)).item() for name, g in gates.items()}
    for name, cost in costs.items():
        assert nats[name] == pytest.approx(-300.0 * cost / max(costs.values()), abs=1e-9)
    with pytest.raises(ValueError, match="nats must be at most 700"):
        mac_gates(model, (1, 28, 28), 800.0)
    with pytest.raises(ValueError, match="no channel of this model can be removed alone"):
        mac_gates(nn.Sequential(nn.Linear(4, 2)), (4,), 10.0)
