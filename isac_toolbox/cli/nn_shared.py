"""What the commands ``isac nn`` share: networks, data sets, and the picture of the masks."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from isac_toolbox.cli.errors import Problem
from isac_toolbox.cli.nn_own import (
    check_network_takes_data,
    is_own_network,
    load_own_arrays,
    loss_of,
    own_network,
)

if TYPE_CHECKING:
    from rich.table import Table
    from torch import nn

    from isac_toolbox.nn.data import TensorLoader

__all__ = [
    "TEST_SET",
    "CheckpointOption",
    "DataOption",
    "ModelName",
    "ModelOption",
    "ResumeOption",
    "Task",
    "ThreadsOption",
    "check_checkpoint",
    "draw_masks",
    "fitting_threads",
    "is_own",
    "layer_table",
    "load_task",
    "make_network",
    "needs_extra",
]

#: What ``Task.measured_on`` says of a test set.
TEST_SET = "the test set"
_BATCH, _SMALL_BATCH = 256, 64
#: Batches of the small size from which on the large size is taken.
_LARGE = 100
#: Part of the training examples that is held back where a file has no others.
_HELD_BACK = 0.1


class ModelName(StrEnum):
    """Networks of the command line."""

    lenet_300_100 = "lenet-300-100"
    lenet_5 = "lenet-5"
    digits_mlp = "digits-mlp"


class DataName(StrEnum):
    """Data sets of the command line."""

    digits = "digits"
    fashion_mnist = "fashion-mnist"


_MODELS = f"{', '.join(ModelName)}, or module:function of your own"
_DATA = f"{', '.join(DataName)}, or a file .npz of your own"

ModelOption = Annotated[
    str,
    typer.Option(
        metavar="NAME|MODULE:FUNCTION",
        help=f"Network: {_MODELS}, which is called without arguments and returns a torch.nn.Module.",
    ),
]
DataOption = Annotated[
    str | None,
    typer.Option(
        metavar="NAME|FILE.npz",
        help=f"Data: {_DATA}, with x_train, y_train and, as you like, x_val, y_val, x_test, y_test. "
        "By default digits for digits-mlp, else fashion-mnist.",
    ),
]
CheckpointOption = Annotated[
    Path | None, typer.Option(metavar="FILE", help="File that is rewritten after every epoch.")
]
ResumeOption = Annotated[
    bool, typer.Option("--resume", help="Continue from the checkpoint, if there is one.")
]
ThreadsOption = Annotated[
    int | None, typer.Option(min=1, help="Threads; by default one for the digits, else all processors.")
]


@dataclass(frozen=True)
class Task:
    """Data of a command and what is asked of the outputs.

    Attributes
    ----------
    name : str
        Name of the data set, or of the file.
    train, validation, test : TensorLoader
        Batches.
    measured_on : str
        What ``test`` holds: the test set, or else the validation set or examples held back from training.
    loss : callable
        Loss of (output, target).
    n_outputs : int
        Number of classes, or of values per example.
    """

    name: str
    train: TensorLoader
    validation: TensorLoader
    test: TensorLoader
    measured_on: str
    loss: Any
    n_outputs: int

    @property
    def is_small(self) -> bool:
        """Return whether it is the digits, whose layers are too small for several threads."""
        return self.name == DataName.digits

    @property
    def is_classification(self) -> bool:
        """Return whether the targets are classes."""
        return not self.train.y.is_floating_point()


@contextmanager
def needs_extra() -> Iterator[None]:
    """Turn a missing extra into a message that names it."""
    try:
        yield
    except ImportError as error:
        raise Problem(str(error)) from None


def fitting_threads(task: Task, n_threads: int | None) -> AbstractContextManager[None]:
    """Return a context with so many threads; without a number, one for the digits and all else."""
    from isac_toolbox._threads import bounded_threads

    if n_threads is None:
        return bounded_threads(1) if task.is_small else nullcontext()
    return bounded_threads(n_threads)


def check_checkpoint(checkpoint: Path | None, resume: bool) -> None:
    """Refuse ``--resume`` without a file, and a file that cannot be written, before any work."""
    if checkpoint is None:
        if resume:
            raise ValueError("--resume needs --checkpoint FILE")
        return
    if checkpoint.is_dir():
        raise ValueError(f"{checkpoint} is a folder, not a file")
    checkpoint.parent.mkdir(parents=True, exist_ok=True)


def is_own(model: str, data: str | None) -> bool:
    """Return whether the network or the data are not of the toolbox."""
    return is_own_network(model) or (data is not None and data.endswith(".npz"))


def load_task(model: str, data: str | None, folder: Path | None, seed: int) -> Task:
    """Return the data that an option names, or those that go with a network."""
    if data is None and is_own_network(model):
        raise ValueError(f"a network of your own needs data; give {_DATA}")
    name = data or (DataName.digits if model == ModelName.digits_mlp else DataName.fashion_mnist)
    if name.endswith(".npz"):
        return _own_task(Path(name), seed)
    if name not in tuple(DataName):
        raise ValueError(f"must be {_DATA}, got {name!r}")
    return _ready_task(DataName(name), model, folder, seed)


def _ready_task(data: DataName, model: str, folder: Path | None, seed: int) -> Task:
    """Return a data set of the toolbox."""
    from isac_toolbox.nn import load_digits_split, load_fashion_mnist

    if data is DataName.digits:
        if model == ModelName.lenet_5:
            raise ValueError("the digits are 8 x 8 pixels, too small for lenet-5; give --data fashion-mnist")
        parts: list[Any] = [s.tensors for s in load_digits_split(0)]
    else:
        flat = model in (ModelName.lenet_300_100, ModelName.digits_mlp)
        images, labels = load_fashion_mnist(folder, "train", flat).tensors
        last = load_fashion_mnist(folder, "test", flat).tensors
        parts = [(images[:-5000], labels[:-5000]), (images[-5000:], labels[-5000:]), last]
    return _task(str(data), parts, TEST_SET, 64 if data is DataName.digits else _BATCH, seed)


def _own_task(path: Path, seed: int) -> Task:
    """Return the data of a file; where parts are missing, training examples are held back."""
    import torch

    parts = load_own_arrays(path)
    x, y = parts["train"]
    if "val" not in parts:
        generator = torch.Generator().manual_seed(seed)
        order = torch.randperm(len(x), generator=generator)
        n_held = max(round(_HELD_BACK * len(x)), 1)
        if len(x) <= n_held:
            raise ValueError(f"{path}: {len(x)} example is too few to hold one back; add x_val and y_val")
        parts |= {"val": (x[order[:n_held]], y[order[:n_held]])}
        x, y = x[order[n_held:]], y[order[n_held:]]
        measured_on = f"{n_held} held-back training examples"
    else:
        measured_on = "the validation set"
    if "test" in parts:
        measured_on = TEST_SET
    batch = _SMALL_BATCH if len(x) < _LARGE * _SMALL_BATCH else _BATCH
    return _task(str(path), [(x, y), parts["val"], parts.get("test", parts["val"])], measured_on, batch, seed)


def _task(name: str, parts: list[Any], measured_on: str, batch: int, seed: int) -> Task:
    """Return a task with the loaders of its parts."""
    from isac_toolbox.nn import TensorLoader

    (x, y), *others = parts
    validation, test = (TensorLoader(a, b, batch_size=1000, shuffle=False) for a, b in others)
    classes = not y.is_floating_point()
    return Task(
        name=name,
        train=TensorLoader(x, y, batch_size=batch, seed=seed),
        validation=validation,
        test=test,
        measured_on=measured_on,
        loss=loss_of(y),
        n_outputs=int(y.max()) + 1 if classes else y[0].numel(),
    )


def make_network(model: str, task: Task, seed: int) -> nn.Module:
    """Return a network with weights drawn from the seed, or what a function of one's own returns."""
    if is_own_network(model):
        network = own_network(model, seed)
    elif model in tuple(ModelName):
        network = _ready_network(ModelName(model), task, seed)
    else:
        raise ValueError(f"must be {_MODELS}, got {model!r}")
    check_network_takes_data(network, task.train)
    return network


def _ready_network(model: ModelName, task: Task, seed: int) -> nn.Module:
    """Return a network of the toolbox."""
    import torch

    from isac_toolbox.nn import models

    example = task.train.x[0]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if model is ModelName.lenet_5:
            if example.ndim != 3 or example.shape[1] != example.shape[2]:
                raise ValueError(f"lenet-5 needs square images (channels, n, n), got {tuple(example.shape)}")
            return models.lenet_5(example.shape[0], example.shape[1], task.n_outputs)
        hidden = (300, 100) if model is ModelName.lenet_300_100 else (64, 32)
        return models.mlp(example.numel(), hidden, task.n_outputs)


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
