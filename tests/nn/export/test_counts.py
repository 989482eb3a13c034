"""Parameters, bytes and MACs, counted by hand."""

import torch
from torch import nn

from isac_toolbox.nn import count_macs, make_report
from isac_toolbox.nn.export.codings import coding_bits


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
