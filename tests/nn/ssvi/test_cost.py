"""Operations of training on a fixed budget, counted by hand."""

import torch
from torch import nn

from isac_toolbox.nn import SSVI, TensorLoader


def test_operations_of_a_training_by_hand():
    """Twice batches of 8, 8 and 4 examples; the support changes after steps 1 and 2."""
    net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(64, 10))
    loader = TensorLoader(torch.rand(20, 1, 6, 6), torch.arange(20) % 10, batch_size=8, shuffle=False)
    ssvi = SSVI(net, 0.25, update_interval=1, update_until=0.5, replace_fraction=0.9, noise="outputs")
    ssvi.fit(loader, epochs=2, progress=False)
    assert ssvi.active_weights() == {"0": 9, "3": 160}
    forward = 9 * 16 + 2 * 160  # 16 positions; two products where the outputs are drawn
    inactive = 27 * 16 + 480
    assert ssvi.n_updates == 2
    assert ssvi.training_flops == 6 * 40 * forward + 2 * (8 + 8) * inactive
    assert ssvi.report().training_flops_dense == 6 * 40 * (36 * 16 + 2 * 640)
