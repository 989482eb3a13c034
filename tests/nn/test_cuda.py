"""Both trainings on a GPU: they learn, stay there, and go on from a checkpoint that was written there."""

from copy import deepcopy

import pytest
import torch

from isac_toolbox.nn import SSVI, TensorLoader, TurboVBICompressor, baselines
from isac_toolbox.nn.export import load_compressed, save_compressed
from isac_toolbox.nn.models import lenet_5, mlp
from isac_toolbox.nn.training import accuracy, train

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")


@pytest.fixture(scope="module")
def loaders(digits):
    return [
        TensorLoader(part.x.cuda(), part.y.cuda(), batch_size=part.batch_size, shuffle=part.shuffle)
        for part in digits
    ]


@pytest.mark.parametrize("settings", [{}, {"removal": "structured", "addition": "structured"}])
def test_ssvi_learns_on_the_gpu(loaders, settings):
    torch.manual_seed(0)
    ssvi = SSVI(
        mlp(64, (64, 32), 10).cuda(), density=0.1, update_interval=10, layer_density="erk", **settings
    )
    ssvi.fit(loaders[0], loaders[1], epochs=25, progress=False)
    assert all(p.is_cuda for p in ssvi.model.parameters())
    assert all(layer.index.is_cuda for layer in ssvi.layers.values())
    assert ssvi.evaluate(loaders[2])["accuracy"] > 0.9
    assert ssvi.evaluate(loaders[2], n_samples=3)["accuracy"] > 0.9
    assert ssvi.report().n_kept == sum(ssvi.active_weights().values())


def test_ssvi_starts_alike_on_both_devices(digits, loaders):
    torch.manual_seed(0)
    net = mlp(64, (64, 32), 10)
    here, there = (SSVI(part, density=0.1, seed=3) for part in (net, deepcopy(net).cuda()))
    for layer, other in zip(here.layers.values(), there.layers.values()):
        torch.testing.assert_close(layer.mean.data, other.mean.data.cpu())
        assert torch.equal(layer.index, other.index.cpu())


def test_a_checkpoint_on_the_gpu_is_taken_up(loaders, tmp_path):
    def made():
        torch.manual_seed(0)
        return SSVI(mlp(64, (32,), 10).cuda(), density=0.2, update_interval=10)

    whole = made().fit(loaders[0], epochs=4, progress=False)
    file = tmp_path / "state"
    made().fit(loaders[0], epochs=4, progress=False, checkpoint=file, callback=lambda r: r.epoch == 1)
    resumed = made().fit(loaders[0], epochs=4, progress=False, checkpoint=file, resume=True)
    for key, value in whole.model.state_dict().items():
        torch.testing.assert_close(resumed.model.state_dict()[key], value)


@pytest.mark.parametrize("precision", ["mixture", "relevance"])
def test_compression_on_the_gpu(loaders, precision):
    torch.manual_seed(0)
    net = train(mlp(64, (64, 32), 10).cuda(), loaders[0], epochs=25, learning_rate=2e-3)
    given = {"temperature": 0.15, "temperature_start": 0.03, "learning_rate": 3e-3, "precision": precision}
    compressor = TurboVBICompressor(net, **given).fit(loaders[0], loaders[1], epochs=30, progress=False)
    compressor.keep_at_most(1500).finetune(loaders[0], epochs=15, teacher=net, progress=False)
    small = compressor.export()
    assert all(p.is_cuda for p in small.parameters())
    torch.testing.assert_close(small(loaders[2].x), compressor.model(loaders[2].x), atol=1e-4, rtol=0)
    assert compressor.report().n_kept <= 1500
    assert accuracy(small, loaders[2]) >= accuracy(net, loaders[2]) - 0.04


def test_a_compression_goes_on_from_a_checkpoint(loaders, tmp_path):
    torch.manual_seed(0)
    net, file = mlp(64, (32,), 10).cuda(), tmp_path / "state"
    given = {"temperature": 0.15, "warmup_epochs": 1}
    whole = TurboVBICompressor(net, **given).fit(loaders[0], epochs=4, progress=False)
    part = {"checkpoint": file, "callback": lambda r: r.epoch == 1}
    TurboVBICompressor(net, **given).fit(loaders[0], epochs=4, progress=False, **part)
    resumed = TurboVBICompressor(net, **given)
    resumed.fit(loaders[0], epochs=4, progress=False, checkpoint=file, resume=True)
    for name, mask in whole.support().items():
        assert mask.is_cuda and torch.equal(mask, resumed.support()[name])


@pytest.mark.parametrize("method", ["group_lasso", "sparse_variational_dropout"])
def test_baselines_on_the_gpu(loaders, method):
    torch.manual_seed(0)
    net = train(mlp(64, (32,), 10).cuda(), loaders[0], epochs=5, learning_rate=2e-3)
    result = getattr(baselines, method)(net, loaders[0], density=0.3, epochs=4, finetune_epochs=3)
    assert all(mask.is_cuda for mask in result.masks.values())
    assert result.report.n_kept <= round(0.3 * result.report.n_weights) + 1


def test_files_written_from_the_gpu(loaders, tmp_path):
    torch.manual_seed(0)
    net = mlp(64, (32,), 10).cuda()
    compressor = TurboVBICompressor(net, temperature=0.15, warmup_epochs=1)
    compressor.fit(loaders[0], epochs=3, progress=False)
    masked = compressor.masked_model()
    read = load_compressed(save_compressed(tmp_path / "net", masked, compressor.support()), net)
    torch.testing.assert_close(read(loaders[2].x), masked(loaders[2].x))


def test_convolutions_are_compressed_on_the_gpu():
    torch.manual_seed(0)
    x, y = torch.rand(256, 1, 28, 28).cuda(), torch.randint(10, (256,)).cuda()
    loader = TensorLoader(x, y, batch_size=64)
    net = lenet_5(widths=(6, 8, 20)).cuda()
    compressor = TurboVBICompressor(net, temperature=0.3, warmup_epochs=1).fit(
        loader, epochs=3, progress=False
    )
    compressor.finetune(loader, epochs=1, progress=False)
    torch.testing.assert_close(compressor.export()(x), compressor.model(x), atol=1e-4, rtol=0)
    ssvi = SSVI(net, density=0.2, update_interval=2).fit(loader, epochs=3, progress=False)
    assert ssvi.predict_proba(x, n_samples=2).is_cuda and ssvi.n_updates > 0
