"""A training loop of one's own, and files of fitted posteriors."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from isac_toolbox.nn import TensorLoader, TurboVBICompressor
from isac_toolbox.nn.models import mlp
from isac_toolbox.nn.training import accuracy, cosine, training_epoch

GIVEN = {"max_loss_drop": None, "warmup_epochs": 1, "temperature": 0.1, "seed": 3}


def test_an_own_loop_with_the_same_optimiser_gives_the_same_network(digits, trained):
    epochs, loader = 4, digits[0]
    fitted = TurboVBICompressor(trained, **GIVEN).fit(loader, epochs=epochs, progress=False)
    own = TurboVBICompressor(trained, **GIVEN).begin(loader, epochs=epochs)
    optimiser = torch.optim.AdamW(own.model.parameters(), lr=1e-3, weight_decay=0.0, fused=True)
    for epoch in range(epochs):
        with training_epoch(3, epoch, loader):
            for i, (x, y) in enumerate(loader, start=1):
                optimiser.param_groups[0]["lr"] = 1e-3 * cosine((epoch + i / len(loader)) / epochs)
                optimiser.zero_grad()
                loss = F.cross_entropy(own.model(x), y)
                loss.backward()
                own.step(loss)
                optimiser.step()
    own.finish(loader)
    # the last step's variances are updated before the optimiser moves the weights, so not bit for bit
    assert own.report().density == pytest.approx(fitted.report().density, abs=0.03)
    assert accuracy(own.export(), digits[2]) == pytest.approx(accuracy(fitted.export(), digits[2]), abs=0.03)
    assert len(own.history) == epochs


def test_clipping_and_another_optimiser(digits):
    own = TurboVBICompressor(mlp(64, (16,), 10), **GIVEN).begin(digits[0], epochs=3)
    optimiser = torch.optim.SGD(own.model.parameters(), lr=0.1, momentum=0.9)
    for _ in range(3):
        for x, y in digits[0]:
            optimiser.zero_grad()
            loss = F.cross_entropy(own.model(x), y)
            loss.backward()
            own.step(loss)
            nn.utils.clip_grad_norm_(own.model.parameters(), 1.0)
            optimiser.step()
    assert own.history[-1].loss < own.history[0].loss
    own.finish(digits[0]).finetune(digits[0], epochs=1, progress=False)


def test_steps_out_of_order_are_named(digits, trained):
    compressor = TurboVBICompressor(trained, **GIVEN)
    with pytest.raises(RuntimeError, match="step needs begin"):
        compressor.step(1.0)
    with pytest.raises(ValueError, match="epochs must exceed warmup_epochs = 1"):
        compressor.begin(digits[0], epochs=1)
    compressor.begin(digits[0], epochs=2)
    with pytest.raises(RuntimeError, match=r"call loss\.backward"):
        compressor.step(1.0)
    with pytest.raises(RuntimeError, match="finish needs at least one epoch"):
        compressor.finish(digits[0])


def test_a_posterior_survives_a_file(digits, trained, tmp_path):
    gate = {"fc1": 0.4}
    compressor = TurboVBICompressor(trained, gate=gate, independent_layers=["fc2"], **GIVEN)
    compressor.fit(digits[0], epochs=3, progress=False).finetune(digits[0], epochs=1, progress=False)
    path = compressor.save(tmp_path / "posterior")
    assert path.suffix == ".safetensors"
    again = TurboVBICompressor.load(path, mlp(64, (64, 32), 10))
    x, n = digits[2].x, compressor.report().n_kept
    assert again.settings == compressor.settings and again.report().n_kept == n
    for n_samples in (0, 3):
        assert torch.equal(again.predict(x, n_samples), compressor.predict(x, n_samples))
    budgets = [c.keep_at_most(n // 2).report().n_kept for c in (compressor, again)]
    assert budgets[0] == budgets[1] <= n // 2
    with pytest.raises(ValueError, match="does not fit Sequential"):
        TurboVBICompressor.load(path, mlp(64, (8,), 10))
    with pytest.raises(FileNotFoundError, match="no such file"):
        TurboVBICompressor.load(tmp_path / "other", mlp(64, (64, 32), 10))
    with pytest.raises(RuntimeError, match="save needs a fitted network"):
        TurboVBICompressor(trained).save(path)
    assert isinstance(digits[0], TensorLoader)
