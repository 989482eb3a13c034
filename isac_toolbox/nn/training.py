"""Plain supervised training, for fine-tuning, dense references and baselines."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

from isac_toolbox._validation import check_fraction, check_integer, check_loader, check_positive
from isac_toolbox.nn._batches import batches, dataset_size_of, n_batches_of
from isac_toolbox.nn._records import Means
from isac_toolbox.nn.objective import Objective, described_shape, is_classification

__all__ = [
    "accuracy",
    "batch_norms",
    "cosine",
    "evaluating",
    "frozen_modules",
    "recalibrate",
    "set_training",
    "size_or_none",
    "train",
    "training_epoch",
]


@contextmanager
def training_epoch(seed: int, epoch: int, loader: Any = None) -> Iterator[None]:
    """Set random state and number format for one pass over the data, and restore both afterwards.

    Torch's global generator is seeded, because dropout and loaders that shuffle draw from it. The method
    ``set_epoch`` of a loader is called, if there is one. Denormal numbers become zero on the CPU: weights
    that the prior pulls to zero would otherwise be denormal, and a step would take three times as long.
    """
    if hasattr(loader, "set_epoch"):
        loader.set_epoch(epoch)
    flushed = _denormals_are_flushed()
    torch.set_flush_denormal(True)
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(epoch_seed(seed, epoch))
            yield
    finally:
        torch.set_flush_denormal(flushed)


def _denormals_are_flushed() -> bool:
    """Return whether denormal numbers are zero now."""
    return float(torch.tensor(1e-40) * 1.0) == 0.0


def epoch_seed(seed: int, epoch: int, stream: int = 0) -> int:
    """Return an independent 32-bit seed for every (seed, epoch, stream)."""
    return int(np.random.SeedSequence((seed, epoch, stream)).generate_state(1)[0])


def cosine(progress: float) -> float:
    """Return the factor of the learning rate after the given part of the training, from 1 to 0."""
    return 0.5 * (1.0 + math.cos(math.pi * min(max(progress, 0.0), 1.0)))


def accuracy(model: nn.Module, loader: Any) -> float:
    """Return the part of correct decisions in evaluation mode; all modes are restored.

    Raises
    ------
    ValueError
        If outputs and targets are not logits (batch, n_classes, ...) and class indices (batch, ...).
    """
    right, total = 0, 0
    with evaluating(model), torch.no_grad():
        for batch in batches(loader, model):
            output, target = batch.run(model), batch.target
            if not is_classification(output, target):
                raise ValueError(
                    "accuracy needs logits (batch, n_classes, ...) and class indices (batch, ...), got "
                    f"outputs {described_shape(output)} and targets {described_shape(target)}; use a metric "
                    "of your own"
                )
            counted = target >= 0
            right += int(((output.argmax(1) == target) & counted).sum())
            total += int(counted.sum())
    return right / max(total, 1)


@contextmanager
def evaluating(*models: nn.Module | None) -> Iterator[None]:
    """Put models into evaluation mode, and every module back into its own afterwards."""
    modes = {m: m.training for model in models if model is not None for m in model.modules()}
    for module in modes:
        module.training = False
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode


def frozen_modules(model: nn.Module) -> frozenset[str]:
    """Return the names of modules that stay in evaluation mode in training.

    These are modules in evaluation mode inside a model in training mode, and normalisations whose scale and
    shift do not learn or whose momentum is zero.
    """
    frozen = set()
    for name, module in model.named_modules():
        norm = isinstance(module, _BatchNorm) and module.track_running_stats
        fixed = norm and (module.momentum == 0.0 or not _learns(module))
        if (model.training and not module.training) or fixed:
            frozen.add(name)
    return frozenset(frozen)


def _learns(norm: nn.Module) -> bool:
    """Return whether a normalisation has no scale and shift, or any of them learns."""
    own = list(norm.parameters(recurse=False))
    return not own or any(p.requires_grad for p in own)


def set_training(model: nn.Module, frozen: Iterable[str] = ()) -> None:
    """Put a model into training mode, apart from its frozen modules."""
    model.train()
    for name in frozen:
        model.get_submodule(name).training = False


def batch_norms(model: nn.Module, frozen: Iterable[str] = ()) -> list[Any]:
    """Return the batch normalisations that keep running moments, apart from frozen ones."""
    left_out = frozenset(frozen)
    return [
        m
        for name, m in model.named_modules()
        if isinstance(m, _BatchNorm) and m.track_running_stats and name not in left_out
    ]


def recalibrate(
    model: nn.Module,
    loader: Any,
    seed: int = 0,
    n_batches: int | None = None,
    frozen: Iterable[str] | None = None,
) -> None:
    """Compute the running moments of all batch normalisations again, as plain averages over the batches.

    Parameters
    ----------
    model : nn.Module
        Any module; without batch normalisations nothing happens.
    loader : iterable of (x, y)
        Batches.
    seed : int
        Seed of dropout and of loaders that use the global generator.
    n_batches : int, optional
        Number of batches; all if not given.
    frozen : iterable of str, optional
        Modules that stay as they are; by default those that ``frozen_modules`` finds.
    """
    left_out = frozen_modules(model) if frozen is None else frozenset(frozen)
    norms = batch_norms(model, left_out)
    if not norms:
        return
    momenta, modes = [norm.momentum for norm in norms], {m: m.training for m in model.modules()}
    generator: Any = getattr(loader, "generator", None)
    state = generator.get_state() if isinstance(generator, torch.Generator) else None
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None
    set_training(model, left_out)
    with torch.no_grad(), training_epoch(seed, 0, loader):
        for batch in islice(batches(loader, model), n_batches):
            batch.run(model)
    if state is not None:
        generator.set_state(state)
    for norm, momentum in zip(norms, momenta):
        norm.momentum = momentum
    for module, mode in modes.items():
        module.training = mode


def train(
    model: nn.Module,
    loader: Any,
    *,
    epochs: int,
    learning_rate: float = 1e-3,
    weight_decay: float = 0.0,
    seed: int = 0,
    first_epoch: int = 0,
    teacher: nn.Module | None = None,
    distillation: float = 0.5,
    loss: Callable[[Any, Any], Tensor] = F.cross_entropy,
    metric: Callable[[Any, Any], Any] | None = None,
    frozen: Iterable[str] | None = None,
    after_backward: Callable[[], None] | None = None,
    after_step: Callable[[], None] | None = None,
    on_epoch: Callable[[int, float, float], Any] | None = None,
) -> nn.Module:
    """Train in place with Adam and a cosine schedule; the global random state does not change.

    Parameters
    ----------
    model : nn.Module
        Any network; parameters without ``requires_grad`` and frozen modules (``frozen_modules``) stay.
    loader : iterable of (x, y)
        Batches, iterated once per epoch; also ``(x1, x2, y)`` and dicts.
    epochs : int
        Number of epochs.
    learning_rate, weight_decay : float
        Start of the cosine schedule, and decoupled weight decay.
    seed : int
        Seed of dropout and of loaders that use the global generator.
    first_epoch : int
        Number of earlier epochs; it shifts the seeds.
    teacher : nn.Module, optional
        Network for distillation; its modes are restored.
    distillation : float
        Weight of the teacher's term.
    loss : callable
        Mean negative log-likelihood of (output, target).
    metric : callable, optional
        Quality of (output, target), larger is better; by default the accuracy of a classification.
    frozen : iterable of str, optional
        Modules that stay in evaluation mode; by default those that ``frozen_modules`` finds.
    after_backward, after_step : callable, optional
        Called in every step, after the gradients are there and after the weights have moved.
    on_epoch : callable, optional
        Called with (epoch, mean loss, metric) of every epoch; a true return value stops the training.

    Returns
    -------
    nn.Module
        The same model, in evaluation mode.
    """
    check_loader("loader", loader)
    epochs = check_integer("epochs", epochs, 0)
    check_positive("learning_rate", learning_rate)
    check_fraction("distillation", distillation, low_open=False, high_open=False)
    objective = Objective(loss, metric)
    frozen = frozen_modules(model) if frozen is None else frozenset(frozen)
    optimiser = adam(model.parameters(), learning_rate, weight_decay)
    n_batches = None
    with evaluating(teacher):
        for epoch in range(epochs):
            means = Means()
            set_training(model, frozen)
            with training_epoch(seed, first_epoch + epoch, loader):
                for i, batch in enumerate(batches(loader, model)):
                    if n_batches is None:
                        size = size_or_none(loader) or batch.size
                        n_batches = n_batches_of(loader, size, batch.size)
                    set_rate(optimiser, learning_rate * cosine((epoch + i / n_batches) / epochs))
                    value, part = objective.training_loss(model, batch, teacher, distillation)
                    descend(optimiser, value, after_backward)
                    if after_step is not None:
                        after_step()
                    means.add(batch.size, float(value.detach()), part)
            n_batches = i + 1
            if on_epoch is not None and on_epoch(epoch, means.loss, means.quality):
                break
    return model.eval()


def adam(parameters: Iterable[Any], learning_rate: float, weight_decay: float = 0.0) -> torch.optim.Optimizer:
    """Return Adam, with decoupled weight decay, for the parameters that learn."""
    learning = [p for p in parameters if p.requires_grad]
    return torch.optim.AdamW(learning, lr=learning_rate, weight_decay=weight_decay, fused=True)


def set_rate(optimiser: torch.optim.Optimizer, rate: float) -> None:
    """Set the learning rate of all groups."""
    for group in optimiser.param_groups:
        group["lr"] = rate


def descend(
    optimiser: torch.optim.Optimizer, loss: Tensor, after_backward: Callable[[], None] | None = None
) -> None:
    """Take one step of the optimiser."""
    optimiser.zero_grad(set_to_none=True)
    loss.backward()
    if after_backward is not None:
        after_backward()
    optimiser.step()


def size_or_none(loader: Any) -> int | None:
    """Return the number of examples if the loader knows it."""
    try:
        return dataset_size_of(loader, None)
    except ValueError:
        return None
