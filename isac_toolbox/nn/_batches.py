"""What a batch of any loader holds: inputs of the model and target of the loss, unpacked here alone."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from isac_toolbox._validation import check_integer

__all__ = [
    "Batch",
    "as_inputs",
    "batches",
    "concatenated",
    "dataset_size_of",
    "first_batch",
    "n_batches_of",
    "undisturbed",
    "unpack",
]

#: Keys under which a batch that is a dict may hold its target.
_TARGET_KEYS = ("labels", "label", "targets", "target", "y")
_FORMS = (
    "(x, y), (x1, x2, ..., y) for a model with several inputs, or a dict with the target under one of "
    + ", ".join(repr(key) for key in _TARGET_KEYS)
)


@dataclass(frozen=True)
class Batch:
    """Inputs and target of some examples.

    Attributes
    ----------
    args : tuple
        Positional inputs of the model.
    named : dict
        Inputs by name.
    target : object
        What the loss compares with; None for inputs alone.
    """

    args: tuple[Any, ...]
    named: dict[str, Any]
    target: Any = None

    def run(self, model: nn.Module) -> Any:
        """Return what the model returns; of an output with ``logits``, these."""
        output = model(*self.args, **self.named)
        if isinstance(output, Tensor):
            return output
        logits = output.get("logits") if isinstance(output, Mapping) else getattr(output, "logits", None)
        return output if logits is None else logits

    @property
    def size(self) -> int:
        """Return the number of examples, by the first tensor of the target or of the inputs."""
        for tensor in _tensors((self.target, self.args, self.named)):
            return len(tensor) if tensor.ndim else 1
        return 1

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Return the shape of one example of the first input."""
        for tensor in _tensors((self.args, self.named)):
            return tuple(tensor.shape[1:])
        return ()

    def stored(self) -> dict[str, Any]:
        """Return tensors and plain collections, for a checkpoint."""
        return {"args": list(self.args), "named": dict(self.named), "target": self.target}

    @classmethod
    def from_stored(cls, stored: Mapping[str, Any]) -> Batch:
        """Return the batch of what ``stored`` returned."""
        return cls(tuple(stored["args"]), dict(stored["named"]), stored["target"])

    def to(self, device: torch.device) -> Batch:
        """Return the batch with all tensors on a device."""
        return self._with(lambda tensor: tensor.to(device))

    def part(self, start: int, stop: int) -> Batch:
        """Return some of the examples; tensors that are not as long as the first one stay whole."""
        size = self.size
        return self._with(lambda t: t[start:stop] if t.ndim and len(t) == size else t)

    def copied(self) -> Batch:
        """Return a batch that shares no memory with this one."""
        return self._with(lambda tensor: tensor.detach().clone())

    def exchanged(self, generator: torch.Generator) -> Batch:
        """Return the inputs with the targets of other examples, at random."""
        order = torch.randperm(self.size, generator=generator)
        return Batch(self.args, self.named, _mapped(self.target, lambda t: t[order] if t.ndim else t))

    def _with(self, change: Callable[[Tensor], Tensor]) -> Batch:
        return Batch(*(_mapped(part, change) for part in (self.args, self.named, self.target)))


def unpack(batch: Any, model: nn.Module, name: str = "loader") -> Batch:
    """Return inputs and target of one batch of a loader, on the device of the model.

    Parameters
    ----------
    batch : object
        ``(x, y)``, where ``x`` may be a tensor, a dict of inputs by name, or a list or tuple that the model
        takes as it is or as several inputs; ``(x1, x2, ..., y)``; or a dict.
    model : nn.Module
        Its ``forward`` says how many inputs it takes.
    name : str
        Argument that the loader came as, for messages.

    Raises
    ------
    TypeError, ValueError
        If the batch has another form; the message says which are known.
    """
    if isinstance(batch, Batch):
        return _on_device(batch, model)
    if isinstance(batch, Mapping):
        return _on_device(_from_mapping(batch, model, name), model)
    if not isinstance(batch, (tuple, list)):
        raise TypeError(f"{name} must give batches {_FORMS}, got {type(batch).__name__}")
    if len(batch) < 2:
        raise ValueError(f"{name} must give batches {_FORMS}, got {len(batch)} part without a target")
    *inputs, target = batch
    if len(inputs) == 1:
        return _on_device(Batch(*_one_input(inputs[0], model, name), target), model)
    allowed = _Inputs.of(model).allowed
    if len(inputs) > allowed:
        raise ValueError(
            f"{name} gives batches of {len(batch)} parts, the last one taken as target, but "
            f"{type(model).__name__} takes {allowed} input(s); let the loader give {_FORMS}"
        )
    return _on_device(Batch(tuple(inputs), {}, target), model)


def as_inputs(x: Any, model: nn.Module) -> Batch:
    """Return inputs without target, as ``unpack`` would for the first part of ``(x, y)``.

    Raises
    ------
    TypeError
        If there is no tensor in ``x``.
    """
    if not any(True for _ in _tensors(x)):
        raise TypeError(f"x must be a torch.Tensor, or a tuple, list or dict of them, got {type(x).__name__}")
    return _on_device(Batch(*_one_input(x, model, "x")), model)


def batches(loader: Any, model: nn.Module, name: str = "loader") -> Iterator[Batch]:
    """Yield the unpacked batches of one pass over a loader.

    Raises
    ------
    ValueError
        If the loader gives no batch.
    """
    empty = True
    for batch in loader:
        empty = False
        yield unpack(batch, model, name)
    if empty:
        raise ValueError(f"{name} gives no batch")


@contextmanager
def undisturbed(loader: Any, seed: int = 0) -> Iterator[None]:
    """Iterate a loader for a look: its generator, its epoch and the global random state stay as they are."""
    generator: Any = getattr(loader, "generator", None)
    state = generator.get_state() if isinstance(generator, torch.Generator) else None
    epoch = getattr(loader, "epoch", None)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if epoch is not None and hasattr(loader, "set_epoch"):
            loader.set_epoch(0)
        try:
            yield
        finally:
            if state is not None:
                generator.set_state(state)
            if epoch is not None and hasattr(loader, "set_epoch"):
                loader.set_epoch(epoch)


def first_batch(loader: Any, model: nn.Module, name: str = "loader") -> Batch:
    """Return the first batch; the loader's state stays."""
    with undisturbed(loader):
        return next(batches(loader, model, name))


def n_batches_of(loader: Any, size: int, first: int) -> int:
    """Return the batches of an epoch: the length of the loader or, without one, by the first batch.

    Parameters
    ----------
    loader : iterable
    size : int
        Examples of an epoch.
    first : int
        Examples of the first batch.
    """
    try:
        return max(len(loader), 1)
    except TypeError:  # an iterable-style data set
        return max(-(-size // max(first, 1)), 1)


def dataset_size_of(loader: Any, given: int | None) -> int:
    """Return the number of examples: as given, or those that an epoch of the loader shows.

    A sampler or ``drop_last`` may show fewer than the data set has; examples that are shown twice count once.

    Raises
    ------
    ValueError
        If the loader does not have it.
    """
    if given is not None:
        return check_integer("dataset_size", given, 1)
    size = getattr(loader, "dataset_size", None)
    if size is None and hasattr(loader, "dataset"):
        size = _shown(loader)
    if size is None and isinstance(loader, (list, tuple)):
        size = sum(_rough_size(batch) for batch in loader)
    if size is None:
        raise ValueError(
            f"dataset_size must be given, {type(loader).__name__} does not know its number of examples"
        )
    return check_integer("dataset_size", int(size), 1)


def described_data(loader: Any, size: int) -> dict[str, Any]:
    """Return what a checkpoint stores of the data: examples of an epoch and of a batch."""
    return {"dataset_size": size, "batch_size": getattr(loader, "batch_size", None)}


def _shown(loader: Any) -> int | None:
    """Return the examples of an epoch of a DataLoader, None if they are not known."""
    total = _length(loader.dataset)
    if total is None:
        return None
    batch, sampler = getattr(loader, "batch_size", None), _length(getattr(loader, "sampler", None))
    if batch is None:  # a sampler of batches, or no batching
        return total if getattr(loader, "batch_sampler", None) is None else min(total, _in_batches(loader))
    shown = total if sampler is None else min(total, sampler)
    return shown - shown % batch if getattr(loader, "drop_last", False) else shown


def _in_batches(loader: Any) -> int:
    """Return the examples that a sampler of batches shows in an epoch, without a draw that lasts."""
    generators = [g for g in _generators(loader.batch_sampler) if isinstance(g, torch.Generator)]
    states = [g.get_state() for g in generators]
    with torch.random.fork_rng(devices=[]):
        shown = sum(len(batch) for batch in loader.batch_sampler)
    for generator, state in zip(generators, states):
        generator.set_state(state)
    return shown


def _generators(sampler: Any) -> list[Any]:
    return [getattr(owner, "generator", None) for owner in (sampler, getattr(sampler, "sampler", None))]


def _length(value: Any) -> int | None:
    """Return the length of something, None without one."""
    try:
        return len(value)
    except TypeError:
        return None


def _rough_size(batch: Any) -> int:
    """Return the examples of a batch of any form."""
    parts = tuple(batch.values()) if isinstance(batch, Mapping) else tuple(batch)[::-1]
    return Batch((), {}, parts).size


def _from_mapping(batch: Mapping[str, Any], model: nn.Module, name: str) -> Batch:
    """Return a batch that is a dict."""
    found = [key for key in _TARGET_KEYS if key in batch]
    if not found:
        raise ValueError(f"{name} must give batches {_FORMS}, got a dict with the keys {sorted(batch)}")
    inputs = {key: value for key, value in batch.items() if key != found[0]}
    return Batch(*_one_input(inputs, model, name), batch[found[0]])


def _one_input(x: Any, model: nn.Module, name: str) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return positional and named inputs of a model for what a batch holds beside its target."""
    if isinstance(x, (tuple, list)) and _Inputs.of(model).required > 1:
        return tuple(x), {}
    if not isinstance(x, Mapping):
        return (x,), {}
    taken = _Inputs.of(model)
    unknown = [] if taken.any_name else sorted(set(x) - taken.names)
    if not unknown:
        return (), dict(x)
    if len(unknown) == len(x):  # the model takes the dict itself
        return (x,), {}
    raise ValueError(
        f"{name} gives inputs {unknown} that {type(model).__name__} does not take, only {sorted(taken.names)}"
    )


@dataclass(frozen=True)
class _Inputs:
    """What ``forward`` takes: how many inputs by place it needs and allows, and which names."""

    required: int
    allowed: float
    names: frozenset[str]
    any_name: bool

    @classmethod
    def of(cls, model: nn.Module) -> _Inputs:
        """Return them for a model."""
        parameters = inspect.signature(model.forward).parameters.values()
        places = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
        several = any(p.kind is p.VAR_POSITIONAL for p in parameters)
        return cls(
            sum(p.default is p.empty for p in places),
            math.inf if several else len(places),
            frozenset(p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)),
            any(p.kind is p.VAR_KEYWORD for p in parameters),
        )


def _on_device(batch: Batch, model: nn.Module) -> Batch:
    """Return the batch on the device of the model."""
    device = next((p.device for p in model.parameters()), None)
    parts = (batch.args, batch.named, batch.target)
    if device is None or all(tensor.device == device for tensor in _tensors(parts)):
        return batch
    return batch.to(device)


def _tensors(value: Any) -> Iterator[Tensor]:
    """Yield the tensors of nested tuples, lists and dicts."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _tensors(item)
    elif isinstance(value, (tuple, list)):
        for item in value:
            yield from _tensors(item)


def _mapped(value: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """Return nested tuples, lists and dicts with every tensor changed."""
    if isinstance(value, Tensor):
        return change(value)
    if isinstance(value, Mapping):
        return {key: _mapped(item, change) for key, item in value.items()}
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*(_mapped(item, change) for item in value))
    if isinstance(value, (tuple, list)):
        return type(value)(_mapped(item, change) for item in value)
    return value


def concatenated(values: Iterable[Any]) -> Any:
    """Return outputs of several batches as one: tensors joined along the examples, by place or by name."""
    parts = list(values)
    first = parts[0]
    if isinstance(first, Tensor):
        return torch.cat(parts) if first.ndim else torch.stack(parts)
    if isinstance(first, Mapping):
        return {key: concatenated(part[key] for part in parts) for key in first}
    if isinstance(first, (tuple, list)):
        return tuple(concatenated(part[i] for part in parts) for i in range(len(first)))
    raise TypeError(f"outputs must be tensors, or tuples or dicts of them, got {type(first).__name__}")
