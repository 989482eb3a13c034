"""Parameters, bytes and MACs, counted by hand."""

import warnings

import pytest
import torch
from torch import nn

from isac_toolbox.nn import count_macs, make_report
from isac_toolbox.nn.export.codings import coding_bits
from isac_toolbox.nn.export.macs import uncounted


def test_a_report_by_hand():
    model = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2), nn.Linear(2, 2, bias=False))
    masks = {"0": torch.tensor([[1, 0, 1], [0, 0, 0]]).bool(), "2": torch.tensor([[1, 0], [0, 0]]).bool()}
    report = make_report(model, masks, (3,), value_bits=5)
    assert report.n_parameters_dense == 6 + 2 + 4 + 4
    # two weights and one; the bias of the dead neuron goes, its normalisation stays
    assert report.n_parameters == 2 + 1 + 1 + 4
    assert (report.macs_dense, report.macs, report.macs_kept) == (10, 10, 3)
    assert [layer.neurons_kept for layer in report.layers] == [1, 1]
    # 30 and 20 bits are 4 and 3 bytes, not 50 bits in 7
    assert report.bytes["dense"] == 4 + 3
    # ceil((6 + 10) / 8) and ceil((4 + 5) / 8)
    assert report.bytes["bitmap"] == 2 + 2


def test_fields_of_csr_are_as_narrow_as_they_can_be():
    # 8 columns: numbers 0 to 7 in 3 bits; pointers 0 to 4 in 3 bits
    mask = torch.zeros(2, 8, dtype=torch.bool)
    mask[0, :4] = True
    assert coding_bits(mask.numpy(), 10)["csr"] == 4 * 10 + 4 * 3 + 3 * 3
    # a stream of the best order: gap 0 and length 4 - 1 of one run, orders 0 and 2: 1 + 3 bits
    assert coding_bits(mask.numpy(), 10)["run_length"] == 40 + 4 + 48


class Twice(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = nn.Conv2d(1, 1, 3, padding=1)

    def forward(self, x):
        return self.inner(self.inner(x)[:, :, ::2])


def test_every_call_of_a_layer_counts():
    assert count_macs(Twice(), (1, 6, 5)) == {"inner": 9 * (30 + 15)}


class Applied(nn.Module):
    """A function of the input and a module's parameters."""

    def __init__(self, function, **layers):
        super().__init__()
        self.function = function
        for name, layer in layers.items():
            setattr(self, name, layer)

    def forward(self, x):
        return self.function(self, x)


def attention_by_hand(m, x):
    q, k, v = m.qkv(x).chunk(3, -1)
    return (q @ k.transpose(1, 2)).softmax(-1) @ v


CALLS = {
    "linear over tokens": (nn.Linear(6, 5, bias=False), (11, 6), {"": 11 * 6 * 5}),
    "conv1d": (nn.Conv1d(2, 4, 3, padding=1), (2, 9), {"": 4 * 2 * 3 * 9}),
    "conv3d": (nn.Conv3d(1, 2, 2), (1, 3, 3, 3), {"": 2 * 8 * 8}),
    "conv transpose": (nn.ConvTranspose2d(3, 2, 2, stride=2), (3, 4, 4), {"": 3 * 2 * 4 * 16}),
    "groups": (nn.Conv2d(4, 6, 3, groups=2), (4, 5, 5), {"": 6 * 2 * 9 * 9}),
    "functional": (
        Applied(lambda m, x: nn.functional.linear(x, m.w), w=nn.Parameter(torch.ones(4, 3))),
        (3,),
        {"": 12},
    ),
    "lstm": (
        Applied(lambda m, x: m.core(x)[0], core=nn.LSTM(3, 4, batch_first=True)),
        (7, 3),
        {"core": 7 * 16 * (3 + 4)},
    ),
    "gru": (
        Applied(lambda m, x: m.core(x)[0], core=nn.GRU(3, 4, batch_first=True)),
        (7, 3),
        {"core": 7 * 12 * (3 + 4)},
    ),
    "attention": (
        Applied(lambda m, x: m.core(x, x, x)[0], core=nn.MultiheadAttention(6, 2, batch_first=True)),
        (5, 6),
        {"core": 4 * 5 * 36 + 2 * 25 * 6},
    ),
    "attention by hand": (
        Applied(attention_by_hand, qkv=nn.Linear(6, 18)),
        (5, 6),
        {"": 2 * 25 * 6, "qkv": 5 * 6 * 18},
    ),
    "fused attention": (
        Applied(lambda m, x: nn.functional.scaled_dot_product_attention(x, x, x)),
        (2, 5, 6),
        {"": 2 * 2 * 25 * 6},
    ),
}


@pytest.mark.parametrize("case", CALLS)
def test_every_operation_counts_whatever_calls_it(case):
    model, shape, wanted = CALLS[case]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert count_macs(model, shape) == wanted
        assert count_macs(model, torch.randn(4, *shape)) == wanted
    assert uncounted(model, shape) == {}


def test_what_is_not_counted_is_named():
    model = Applied(lambda m, x: m.inner(x) + torch.fft.fft(x).real, inner=nn.Linear(4, 4))
    with pytest.warns(UserWarning, match=r"not counted: _fft_\w+ in 'the model itself'"):
        assert count_macs(model, (4,)) == {"inner": 16}
    distances = Applied(lambda m, x: m.far(x), far=Applied(lambda m, x: torch.cdist(x, x)))
    assert uncounted(distances, (5, 4)) == {"far": ["_cdist_forward"]}


def test_a_mode_stays_as_it_was():
    model = nn.Sequential(nn.Linear(3, 3), nn.Dropout(), nn.BatchNorm1d(3))
    model[1].eval()
    count_macs(model, (3,))
    assert [m.training for m in model] == [True, False, True] and model.training
