"""Example inputs of a model, and whether two models give the same outputs for them."""

from __future__ import annotations

import io
import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

__all__ = [
    "Inputs",
    "device_of",
    "difference",
    "evaluating",
    "flat_tensors",
    "inputs_of",
    "outputs",
    "quiet",
]

#: Examples of the noise that stands for inputs where only their shape is given.
_BATCH = 3
#: Largest relative deviation of a rewriting in double and in single precision; rounding stays far below.
_TOLERANCE = {torch.float64: 1e-7, torch.float32: 1e-4}


@dataclass(frozen=True)
class Inputs:
    """Inputs of one call of a model.

    Attributes
    ----------
    args : tuple
        Positional inputs.
    named : dict
        Inputs by name.
    """

    args: tuple[Any, ...]
    named: dict[str, Any]

    def run(self, model: nn.Module) -> Any:
        """Return what the model returns."""
        return model(*self.args, **self.named)

    @property
    def size(self) -> int:
        """Return the number of examples, by the first tensor."""
        first = next(flat_tensors((self.args, self.named)), None)
        return 1 if first is None or first.ndim == 0 else len(first)

    def mapped(self, change: Any) -> Inputs:
        """Return the inputs with every tensor replaced by ``change(tensor)``."""
        return Inputs(_mapped(self.args, change), _mapped(self.named, change))

    def first(self, n: int = 1) -> Inputs:
        """Return the first ``n`` examples of every tensor with as many examples as the first tensor."""
        size = self.size
        return self.mapped(lambda t: t[:n] if t.ndim and len(t) == size else t)


def inputs_of(example: Any, model: nn.Module) -> Inputs:
    """Return example inputs on the device of the model.

    Parameters
    ----------
    example : Tensor, tuple of Tensor, mapping of str to Tensor, tuple of int, or an object with both
        Inputs of a batch, positional ones or by name; ``(3, 32, 32)``, the shape of one example, stands for
        noise in the number format of the model. An object with ``args`` and ``named`` gives both.
    model : nn.Module

    Raises
    ------
    TypeError
        If it is something else.
    """
    tensor = next((p for p in model.parameters() if p.is_floating_point()), torch.zeros(()))
    if isinstance(example, Tensor):
        found = Inputs((example,), {})
    elif hasattr(example, "args") and hasattr(example, "named"):
        found = Inputs(tuple(example.args), dict(example.named))
    elif isinstance(example, Mapping):
        found = Inputs((), dict(example))
    elif isinstance(example, (tuple, list)) and all(isinstance(n, int) for n in example):
        generator = torch.Generator().manual_seed(0)
        noise = torch.randn((_BATCH, *example), generator=generator)
        found = Inputs((noise.to(tensor.dtype),), {})
    elif isinstance(example, (tuple, list)):
        found = Inputs(tuple(example), {})
    else:
        raise TypeError(
            "example must be a tensor, a tuple of tensors, a mapping of names to tensors, or the shape of "
            f"one example as a tuple of int, got {type(example).__name__}"
        )
    return found.mapped(lambda t: t.to(tensor.device))


def _mapped(value: Any, change: Any) -> Any:
    if isinstance(value, Tensor):
        return change(value)
    if isinstance(value, Mapping):
        return {key: _mapped(item, change) for key, item in value.items()}
    if isinstance(value, (tuple, list)):
        return type(value)([_mapped(item, change) for item in value])
    return value


def flat_tensors(value: Any) -> Iterator[Tensor]:
    """Yield the tensors in nested tuples, lists and mappings."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from flat_tensors(item)
    elif isinstance(value, (tuple, list)):
        for item in value:
            yield from flat_tensors(item)


class evaluating:
    """Context in which a model is in evaluation mode, without gradients, fused paths and random effects.

    Fused paths of attention read parameters that a smaller module no longer has in that shape. The mode of
    every module is restored, even where children differ.
    """

    def __init__(self, model: nn.Module) -> None:
        self._model = model

    def __enter__(self) -> None:
        self._modes = {module: module.training for module in self._model.modules()}
        self._fast = torch.backends.mha.get_fastpath_enabled()
        self._contexts = (torch.no_grad(), torch.random.fork_rng(devices=[]))
        torch.backends.mha.set_fastpath_enabled(False)
        for context in self._contexts:
            context.__enter__()
        torch.manual_seed(0)
        self._model.eval()

    def __exit__(self, *error: Any) -> None:
        for module, mode in self._modes.items():
            module.training = mode
        for context in reversed(self._contexts):
            context.__exit__(*error)
        torch.backends.mha.set_fastpath_enabled(self._fast)


@contextmanager
def quiet() -> Iterator[None]:
    """Keep back remarks on internals of torch, which it makes while it fails as well."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)


def outputs(model: nn.Module, inputs: Inputs) -> list[Tensor]:
    """Return the tensors of the outputs in evaluation mode."""
    with evaluating(model):
        return [t.detach().clone() for t in flat_tensors(inputs.run(model))]


def difference(reference: nn.Module, other: nn.Module, inputs: Inputs) -> str:
    """Return in words how the outputs of two models differ; empty if they agree.

    Double precision decides where both models can compute in it, so that rounding does not.
    """
    try:
        double = inputs.mapped(lambda t: t.double() if t.is_floating_point() else t)
        models = [deepcopy(model).double() for model in (reference, other)]
        wanted = outputs(models[0], double)
    except Exception:  # a model that insists on its own number format raises whatever it raises
        double, models = inputs, [reference, other]
        wanted = outputs(reference, inputs)
    try:
        found = outputs(models[1], double)
    except Exception as error:  # shapes no longer fit somewhere in the model's own code
        return f"{type(error).__name__}: {error}".splitlines()[0]
    return _difference(wanted, found)


def _difference(wanted: list[Tensor], found: list[Tensor]) -> str:
    if [t.shape for t in wanted] != [t.shape for t in found]:
        return "the outputs have other shapes"
    for a, b in zip(wanted, found):
        if not a.is_floating_point():
            if not torch.equal(a, b):
                return "integer outputs differ"
            continue
        same = torch.isfinite(a)
        if not torch.equal(same, torch.isfinite(b)):
            return "outputs that are not finite differ"
        if not bool(same.any()):
            continue
        gap, scale = float((a - b)[same].abs().max()), 1.0 + float(a[same].abs().max())
        if gap > _TOLERANCE.get(a.dtype, 1e-2) * scale:
            return f"the outputs differ by {gap:.2g}"
    return ""


def device_of(model: nn.Module) -> torch.device:
    """Return the device of the first parameter, the CPU without parameters."""
    return next((p.device for p in model.parameters()), torch.device("cpu"))
