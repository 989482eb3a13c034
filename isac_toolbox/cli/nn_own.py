"""Networks and data of one's own for the commands ``isac nn``; nothing here imports torch before it runs."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from torch import nn

    from isac_toolbox.nn.data import TensorLoader

__all__ = ["check_network_takes_data", "is_own_network", "load_own_arrays", "loss_of", "own_network"]

_KEYS = ("x_train", "y_train")
_OPTIONAL = (("x_val", "y_val"), ("x_test", "y_test"))


# ---- data ----------------------------------------------------------------------------------------------


def load_own_arrays(path: Path) -> dict[str, tuple[Any, Any]]:
    """Return the parts ``train``, and ``val`` and ``test`` where the file has them, as pairs of tensors.

    Numbers with a point become float32; whole numbers in y are classes, and in x tokens.

    Raises
    ------
    FileNotFoundError, ValueError
        If the file is none, misses an array, or its arrays do not go together; the message names the array.
    """
    from isac_toolbox import _npz

    arrays = _npz.read(path, "data set", _KEYS)
    known = {*_KEYS, *(name for pair in _OPTIONAL for name in pair), "format"}
    unknown = sorted(arrays.keys() - known)
    if unknown:
        names = ", ".join(sorted(known))
        raise ValueError(f"{path}: unknown array(s) {', '.join(unknown)}; known are {names}")
    parts = {"train": _pair(path, arrays, *_KEYS)}
    for x, y in _OPTIONAL:
        if (x in arrays) != (y in arrays):
            raise ValueError(f"{path}: {x} and {y} go together, got {x if x in arrays else y} alone")
        if x in arrays:
            parts[x.removeprefix("x_")] = _pair(path, arrays, x, y)
            _check_like_training(path, arrays, x, y)
    return parts


def _pair(path: Path, arrays: dict[str, Any], x: str, y: str) -> tuple[Any, Any]:
    """Return inputs and targets as tensors."""
    found = tuple(_tensor(path, arrays[name], name) for name in (x, y))
    lengths = [len(value) for value in found]
    if lengths[0] != lengths[1] or not lengths[0]:
        got = " and ".join(map(str, lengths))
        raise ValueError(f"{path}: {x} and {y} need equal, positive lengths, got {got}")
    if not found[1].is_floating_point() and int(found[1].min()) < 0:
        raise ValueError(f"{path}: classes in {y} count from 0, got {int(found[1].min())}")
    return found[0], found[1]


def _tensor(path: Path, array: np.ndarray, name: str) -> Any:
    """Return an array as a float32 or int64 tensor."""
    import torch

    if array.ndim == 0:
        raise ValueError(f"{path}: {name} needs an axis of examples, got a single number")
    if array.dtype.kind in "iub":
        return torch.from_numpy(array.astype(np.int64))
    if array.dtype.kind != "f":
        raise ValueError(f"{path}: {name} must hold numbers, got {array.dtype}")
    if not np.isfinite(array).all():
        raise ValueError(f"{path}: {name} holds values that are not finite")
    if np.abs(array).max(initial=0.0) > np.finfo(np.float32).max:
        raise ValueError(
            f"{path}: {name} holds values beyond single precision, {np.finfo(np.float32).max:.3g}"
        )
    return torch.from_numpy(array.astype(np.float32))


def _check_like_training(path: Path, arrays: dict[str, Any], *names: str) -> None:
    """Refuse an array whose examples differ in form from those of the training."""
    for name, reference in zip(names, _KEYS):
        got, wanted = (arrays[key] for key in (name, reference))
        if got.shape[1:] != wanted.shape[1:] or (got.dtype.kind == "f") != (wanted.dtype.kind == "f"):
            raise ValueError(
                f"{path}: {name} must be like {reference}, {wanted.dtype} of shape (n, {_axes(wanted)}), got "
                f"{got.dtype} of shape (n, {_axes(got)})"
            )


def _axes(array: np.ndarray) -> str:
    """Return the shape of one example in words."""
    return ", ".join(map(str, array.shape[1:])) or "one value"


# ---- network -------------------------------------------------------------------------------------------


def is_own_network(name: str) -> bool:
    """Return whether a name is that of a function in a module."""
    return ":" in name


def own_network(name: str, seed: int) -> nn.Module:
    """Return what the function ``module:function`` returns, called with torch's generator at the seed.

    Modules of the current folder are found too.

    Raises
    ------
    ValueError
        If there is no such function, or it raises an error or returns no network.
    """
    import torch

    build = _function(name)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        try:
            network = build()
        except Exception as error:  # a function of the user's may raise anything
            raise ValueError(f"{name} raised {type(error).__name__}: {error}") from error
    if not isinstance(network, torch.nn.Module):
        raise ValueError(f"{name} must return a torch.nn.Module, got {type(network).__name__}")
    return network


def _function(name: str) -> Callable[[], Any]:
    """Return the function of a name ``module:function``."""
    module_name, _, attribute = name.partition(":")
    if not module_name or not attribute:
        raise ValueError(f"a network of your own is module:function, got {name!r}")
    with _current_folder_first():
        try:
            module = import_module(module_name)
        except Exception as error:  # nor is it known what an import runs
            raise ValueError(f"cannot import {module_name}: {type(error).__name__}: {error}") from error
    found = getattr(module, attribute, None)
    if not callable(found):
        what = "nothing of that name" if found is None else f"a {type(found).__name__}"
        raise ValueError(f"{module_name} must have a function {attribute}, it has {what}")
    return found


@contextmanager
def _current_folder_first() -> Iterator[None]:
    """Let imports find modules of the current folder, as ``python -m`` does."""
    folder = os.getcwd()
    sys.path.insert(0, folder)
    try:
        yield
    finally:
        sys.path.remove(folder)


# ---- both ----------------------------------------------------------------------------------------------


def loss_of(y: Any) -> Any:
    """Return the loss of targets: cross-entropy of classes, mean squared error of other numbers."""
    from torch.nn import functional as F

    return F.mse_loss if y.is_floating_point() else F.cross_entropy


def check_network_takes_data(network: nn.Module, loader: TensorLoader) -> None:
    """Refuse a network that cannot take the inputs, or whose outputs do not go with the targets.

    Raises
    ------
    ValueError
        With the shapes of what goes in, comes out, and is wanted.
    """
    import torch

    x, y = loader.x[:2], loader.y[:2]
    given = f"{x.dtype} of shape {tuple(x.shape)}".removeprefix("torch.")
    modes = {module: module.training for module in network.modules()}
    network.eval()
    try:
        with torch.no_grad():
            output = network(x)
    except Exception as error:  # a network of the user's may raise anything
        raise ValueError(
            f"the network cannot take inputs {given}: {type(error).__name__}: {error}"
        ) from error
    finally:
        for module, mode in modes.items():
            module.training = mode
    if not isinstance(output, torch.Tensor):
        raise ValueError(f"the network must return a tensor, got {type(output).__name__}")
    got = tuple(output.shape)
    if y.is_floating_point():
        if got != tuple(y.shape):
            raise ValueError(f"outputs of shape {got} do not go with targets of shape {tuple(y.shape)}")
        return
    if output.ndim < 2 or got[:1] + got[2:] != tuple(y.shape):
        wanted = f"for classes of shape {tuple(y.shape)}"
        raise ValueError(f"outputs must be logits (batch, n_classes, ...) {wanted}, got {got}")
    if int(loader.y.max()) >= got[1]:
        raise ValueError(f"the network has {got[1]} outputs, but y_train has class {int(loader.y.max())}")
