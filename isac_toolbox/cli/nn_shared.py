"""What the commands ``isac nn`` share: networks, data sets, and the picture of the masks."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any

from isac_toolbox.cli.errors import Problem

if TYPE_CHECKING:
    from rich.table import Table
    from torch import nn

    from isac_toolbox.nn.data import TensorLoader

__all__ = [
    "DataName",
    "ModelName",
    "draw_masks",
    "fitting_threads",
    "layer_table",
    "load_data",
    "make_network",
    "needs_extra",
]

_BATCH = 256


class ModelName(StrEnum):
    """Networks of the command line."""

    lenet_300_100 = "lenet-300-100"
    lenet_5 = "lenet-5"
    digits_mlp = "digits-mlp"


class DataName(StrEnum):
    """Data sets of the command line."""

    digits = "digits"
    fashion_mnist = "fashion-mnist"


@contextmanager
def needs_extra() -> Iterator[None]:
    """Turn a missing extra into a message that names it."""
    try:
        yield
    except ImportError as error:
        raise Problem(str(error)) from None


def fitting_threads(data: DataName) -> AbstractContextManager[None]:
    """Return a context with one thread for the digits, whose layers are too small for several."""
    from isac_toolbox._threads import bounded_threads

    return bounded_threads(1) if data is DataName.digits else nullcontext()


def load_data(
    data: DataName, model: ModelName, folder: Path | None, seed: int
) -> tuple[TensorLoader, TensorLoader, TensorLoader]:
    """Return training, validation and test batches."""
    from isac_toolbox.nn import TensorLoader, load_digits_split, load_fashion_mnist

    if data is DataName.digits:
        if model is ModelName.lenet_5:
            raise ValueError("the digits are 8 x 8 pixels, too small for lenet-5; give --data fashion-mnist")
        parts: list[Any] = [s.tensors for s in load_digits_split(0)]
    else:
        flat = model is not ModelName.lenet_5
        images, labels = load_fashion_mnist(folder, "train", flat).tensors
        last = load_fashion_mnist(folder, "test", flat).tensors
        parts = [(images[:-5000], labels[:-5000]), (images[-5000:], labels[-5000:]), last]
    batch = 64 if data is DataName.digits else _BATCH
    (x, y), (x_val, y_val), (x_test, y_test) = parts
    return (
        TensorLoader(x, y, batch_size=batch, seed=seed),
        TensorLoader(x_val, y_val, batch_size=1000, shuffle=False),
        TensorLoader(x_test, y_test, batch_size=1000, shuffle=False),
    )


def make_network(model: ModelName, loader: TensorLoader, seed: int) -> nn.Module:
    """Return a network with weights drawn from the seed."""
    import torch

    from isac_toolbox.nn import models

    n_inputs = loader.x[0].numel()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if model is ModelName.lenet_5:
            return models.lenet_5()
        hidden = (300, 100) if model is ModelName.lenet_300_100 else (64, 32)
        return models.mlp(n_inputs, hidden, 10)


def draw_masks(masks: dict[str, Any], path: Path) -> None:
    """Draw the masks, a panel per layer; rows are neurons or filters."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(len(masks), 1, figsize=(8, 2.6 * len(masks)), squeeze=False)
    for axis, (name, mask) in zip(axes[:, 0], masks.items()):
        rows = mask.numpy(force=True).reshape(len(mask), -1)
        axis.imshow(rows, aspect="auto", cmap="Greys", interpolation="nearest", vmin=0, vmax=1)
        axis.set(title=f"{name}: {rows.mean():.1%} kept (black)", xlabel="input", ylabel="neuron")
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


def layer_table(report: Any) -> Table:
    """Return a table of what is left of each layer."""
    from rich.table import Table

    table = Table("layer", "density", "neurons kept", "mean run")
    for layer in report.layers:
        kept = f"{layer.neurons_kept} of {layer.neurons}"
        table.add_row(layer.name, f"{layer.density:.4f}", kept, f"{layer.mean_run:.1f}")
    return table
