"""Files of compressed networks read back equal, also where constants were folded into new biases."""

import os

import pytest
import torch
from torch import nn

from isac_toolbox.nn import (
    SSVI,
    TensorLoader,
    TurboVBICompressor,
    export_onnx,
    load_compressed,
    save_compressed,
    shrink,
)
from isac_toolbox.nn.export.shrink import simplify
from isac_toolbox.nn.models import lenet_5, mlp, resnet18


def n_parameters(model):
    return sum(p.numel() for p in model.parameters())


def masked(seed=0):
    torch.manual_seed(seed)
    model = lenet_5(widths=(3, 4, 10))
    masks = {}
    for name in ("conv1", "conv2", "fc1", "fc2"):
        weight = model.get_submodule(name).weight
        masks[name] = torch.rand(weight.shape) < 0.2
        weight.data.mul_(masks[name])
    return model, masks


def test_a_file_reads_back_equal(tmp_path):
    model, masks = masked()
    path = save_compressed(tmp_path / "net", model, masks)
    assert path.suffix == ".safetensors"
    other = load_compressed(path, lenet_5(widths=(3, 4, 10)))
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), other.state_dict().values()))
    half = save_compressed(tmp_path / "half.safetensors", model, masks, torch.float16)
    assert half.stat().st_size < path.stat().st_size < 4 * n_parameters(model)
    rounded = load_compressed(half, lenet_5(widths=(3, 4, 10)))
    torch.testing.assert_close(rounded.fc1.weight, model.fc1.weight, atol=1e-4, rtol=1e-3)


def test_bad_files_and_masks_are_refused(tmp_path):
    model, masks = masked()
    path = save_compressed(tmp_path / "net", model, masks)
    with pytest.raises(FileNotFoundError, match="no such file"):
        load_compressed(tmp_path / "none.safetensors", model)
    with pytest.raises(ValueError, match="does not fit"):
        load_compressed(path, lenet_5(widths=(3, 5, 10)))
    (tmp_path / "text.safetensors").write_text("text")
    with pytest.raises(ValueError, match="not a safetensors file"):
        load_compressed(tmp_path / "text.safetensors", model)
    with pytest.raises(ValueError, match="masks\\['fc1'\\] must have the shape"):
        save_compressed(tmp_path / "x", model, {"fc1": masks["fc2"]})
    with pytest.raises(ValueError, match="hides weights"):
        save_compressed(tmp_path / "x", model, {"fc1": torch.zeros_like(masks["fc1"])})
    with pytest.raises(ValueError, match="value_dtype"):
        save_compressed(tmp_path / "x", model, masks, torch.int8)


def test_how_to_get_onnx(monkeypatch, tmp_path):
    monkeypatch.setattr("isac_toolbox.nn.export.files.find_spec", lambda name: None)
    with pytest.raises(ImportError, match="pip install onnx onnxscript onnxruntime"):
        export_onnx(mlp(4, (3,), 2), tmp_path / "net", (4,), int8=True)


@pytest.mark.parametrize("int8", [False, True])
def test_one_onnx_file_computes_what_the_model_does(int8, tmp_path):
    for name in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(name)
    import onnxruntime

    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 8, 3),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(8 * 36, 64),
        nn.ReLU(),
        nn.Linear(64, 3),
    )
    model[1].eval()
    modes = [module.training for module in model.modules()]
    x = torch.randn(40, 1, 8, 8)
    path = export_onnx(model, tmp_path / "net", x, int8=int8)
    assert [module.training for module in model.modules()] == modes
    assert [file.name for file in tmp_path.iterdir()] == ["net.onnx"]  # no second file
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    found = session.run(None, {session.get_inputs()[0].name: x[:7].numpy()})[0]
    with torch.no_grad():
        wanted = model.eval()(x[:7])
    torch.testing.assert_close(torch.from_numpy(found), wanted, atol=0.05 if int8 else 1e-5, rtol=0.0)
    if int8:
        assert path.stat().st_size < 0.5 * 4 * n_parameters(model)


# ---- keys of folded models -----------------------------------------------------------------------------


def plain_chain():
    return nn.Sequential(
        nn.Linear(4, 6), nn.Sigmoid(), nn.Linear(6, 5, bias=False), nn.Tanh(), nn.Linear(5, 3, bias=False)
    )


def pointwise_convolutions():
    return nn.Sequential(
        nn.Conv2d(1, 4, 3),
        nn.Sigmoid(),
        nn.Conv2d(4, 4, 1, bias=False),
        nn.Tanh(),
        nn.Conv2d(4, 2, 1, bias=False),
    )


def normed():
    return nn.Sequential(
        nn.Conv2d(1, 4, 3),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.Conv2d(4, 4, 1, bias=False),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.Flatten(),
        nn.LazyLinear(3),
    )


FOLDED = {
    "linear": (plain_chain, (4,), True),
    "convolutions": (pointwise_convolutions, (1, 5, 5), True),
    "norms": (normed, (1, 5, 5), False),
    "resnet-18": (lambda: resnet18(width=4), (1, 12, 12), False),
}


def half_dead(make, shape):
    """A network whose dead channels are constants that are not zero, and its masks."""
    torch.manual_seed(0)
    model = make().eval()
    model(torch.zeros(1, *shape))
    masks = {}
    with torch.no_grad():
        for name, layer in model.named_modules():
            if isinstance(layer, nn.BatchNorm2d):
                layer.bias.uniform_(0.2, 1.0)
                layer.running_mean.normal_()
            if isinstance(layer, (nn.Linear, nn.Conv2d)):
                layer.weight[1::2] = 0.0
                masks[name] = layer.weight != 0.0
                if layer.bias is not None:
                    layer.bias.uniform_(0.2, 1.0)
    return model, masks


@pytest.mark.parametrize("case", FOLDED)
def test_a_folded_model_reads_back_into_the_architecture(case, tmp_path):
    make, shape, new_biases = FOLDED[case]
    model, masks = half_dead(make, shape)
    x = torch.randn(4, *shape)
    wanted, keys = model(x), set(model.state_dict())
    simplify(model, x)
    masks = {name: mask & (model.get_submodule(name).weight != 0.0) for name, mask in masks.items()}
    torch.testing.assert_close(model(x), wanted, atol=1e-5, rtol=1e-5)
    # a constant before a normalisation moves its mean, so that no key is new; elsewhere a bias is
    assert (set(model.state_dict()) != keys) == new_biases
    fresh = make().eval()
    fresh(torch.zeros(1, *shape))
    loaded = load_compressed(save_compressed(tmp_path / "net", model, masks), fresh).eval()
    assert set(loaded.state_dict()) == set(model.state_dict())
    torch.testing.assert_close(loaded(x), wanted, atol=1e-5, rtol=1e-5)
    small = shrink(model, x)
    assert n_parameters(small) < n_parameters(model)


def test_double_precision_is_kept_and_others_may_read_the_file(tmp_path):
    model = mlp(3, (4,), 2).double()
    path = save_compressed(tmp_path / "net", model, {"fc1": torch.ones(4, 3, dtype=torch.bool)})
    loaded = load_compressed(path, mlp(3, (4,), 2).double())
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), loaded.state_dict().values()))
    umask = os.umask(0)
    os.umask(umask)
    assert path.stat().st_mode & 0o777 == 0o666 & ~umask


def test_a_fit_resumes_where_an_earlier_fit_made_biases(tmp_path):
    loader = TensorLoader(torch.rand(8, 4), torch.arange(8) % 3)
    settings = {"warmup_epochs": 0, "support": "independent"}
    first = TurboVBICompressor(plain_chain(), **settings)
    with torch.no_grad():
        first.layers["2"].bias = nn.Parameter(torch.ones(5))
    first.fit(loader, epochs=1, checkpoint=tmp_path / "fit", progress=False)
    second = TurboVBICompressor(plain_chain(), **settings)
    second.fit(loader, epochs=1, checkpoint=tmp_path / "fit", resume=True, progress=False)
    torch.testing.assert_close(
        second.masked_model()(torch.ones(2, 4)), first.masked_model()(torch.ones(2, 4))
    )


def fitted(seed):
    loader = TensorLoader(
        torch.rand(16, 64, generator=torch.Generator().manual_seed(seed)), torch.arange(16) % 3
    )
    return SSVI(mlp(64, (40,), 3), density=0.05, seed=seed).fit(loader, epochs=2, progress=False)


def test_a_loaded_state_is_what_sparse_layers_compute_with():
    a, b = fitted(0), fitted(1)
    x = torch.rand(5, 64)
    assert not torch.allclose(a.model(x), b.model(x))
    a.model.load_state_dict(b.model.state_dict())
    torch.testing.assert_close(a.model(x), b.model(x))


def test_sparse_layers_follow_a_change_of_the_number_format():
    a = fitted(0)
    x = torch.rand(5, 64)
    wanted = a.model(x)
    torch.testing.assert_close(a.model.double()(x.double()).float(), wanted)
