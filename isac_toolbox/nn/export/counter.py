"""Operations that a model calls, counted by module with ``torch.utils.flop_counter``."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from isac_toolbox.nn.export.inputs import Inputs, evaluating

__all__ = ["counted"]

#: Operations of torch with products that torch's counter does not know.
_NOT_COUNTED = (
    "_fft",
    "linalg",
    "_cudnn_rnn",
    "miopen_rnn",
    "mkldnn_rnn",
    "_cdist",
    "_trilinear",
    "_embedding_bag",
)
_TORCH = {"aten", "prim", "prims", "profiler", "c10d"}


@contextmanager
def _unfused(model: nn.Module) -> Iterator[None]:
    """Let recurrent layers and attention call plain matrix products, which are counted on every device."""
    with ExitStack() as stack:
        if any(isinstance(module, nn.RNNBase) for module in model.modules()):
            stack.enter_context(warnings.catch_warnings())
            warnings.simplefilter("ignore")  # a remark on number formats of other devices
            stack.enter_context(torch.backends.mkldnn.flags(enabled=False))
            stack.enter_context(torch.backends.cudnn.flags(enabled=False))
        stack.enter_context(sdpa_kernel(SDPBackend.MATH))
        yield


class _Watch(TorchDispatchMode):
    """Notes operations that have products and no formula, by module."""

    def __init__(self, counter: FlopCounterMode) -> None:
        super().__init__()
        self._counter = counter
        self.missed: dict[str, list[str]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        foreign = func.namespace not in _TORCH
        known = func.overloadpacket in self._counter.flop_registry
        if not known and (foreign or name.startswith(_NOT_COUNTED)):
            parents = [p for p in self._counter.mod_tracker.parents if p != "Global"]
            owner = max(parents, key=len, default="")
            found = self.missed.setdefault(owner, [])
            if name not in found:
                found.append(name)
        return func(*args, **(kwargs or {}))


def counted(model: nn.Module, inputs: Inputs) -> tuple[dict[str, int], dict[str, list[str]]]:
    """Return MACs of one example and operations that are not counted, by module."""
    used = inputs.first()
    with _unfused(model):
        try:
            counter, watch = _run(model, used)
        except Exception:  # a model that insists on its number of examples raises whatever it raises
            used = inputs
            counter, watch = _run(model, used)
    root = type(model).__name__
    whole = {
        name.removeprefix(root).removeprefix("."): sum(of.values())
        for name, of in counter.get_flop_counts().items()
        if name != "Global"
    }
    own = dict(whole)
    for name, flops in whole.items():
        parent = name
        while parent:
            parent = parent.rpartition(".")[0]
            if parent in whole:
                own[parent] -= flops
                break
    counts = {}
    for name, _ in model.named_modules():
        if own.get(name, 0):
            counts[name] = own[name] // (2 * used.size)
    missed = {name.removeprefix(root).removeprefix("."): found for name, found in watch.missed.items()}
    return counts, missed


def _run(model: nn.Module, inputs: Inputs) -> tuple[FlopCounterMode, _Watch]:
    counter = FlopCounterMode(display=False)
    watch = _Watch(counter)
    with evaluating(model), counter, watch:
        inputs.run(model)
    return counter, watch
