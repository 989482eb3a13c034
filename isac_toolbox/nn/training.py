"""Plain supervised training, for fine-tuning, dense references and baselines."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from isac_toolbox._validation import check_fraction, check_integer, check_loader, check_positive

__all__ = [
    "accuracy",
    "batch_norms",
    "cosine",
    "dataset_size_of",
    "distillation_loss",
    "drawn_predictions",
    "recalibrate",
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


def dataset_size_of(loader: Any, given: int | None) -> int:
    """Return the number of examples: as given, or from the loader.

    Raises
    ------
    ValueError
        If the loader does not have it.
    """
    if given is not None:
        return check_integer("dataset_size", given, 1)
    size = getattr(loader, "dataset_size", None)
    if size is None and hasattr(loader, "dataset"):
        try:
            size = len(loader.dataset)
        except TypeError:  # an iterable-style data set has no length
            size = None
    if size is None and isinstance(loader, (list, tuple)):
        size = sum(len(batch[1]) for batch in loader)
    if size is None:
        raise ValueError(
            f"dataset_size must be given, {type(loader).__name__} does not know its number of examples"
        )
    return check_integer("dataset_size", int(size), 1)


def accuracy(model: nn.Module, loader: Any) -> float:
    """Return the part of correct decisions in evaluation mode; the mode is restored."""
    was_training = model.training
    model.eval()
    right, total = 0, 0
    with torch.no_grad():
        for x, y in loader:
            right += int((model(x).argmax(1) == y).sum())
            total += len(y)
    model.train(was_training)
    return right / max(total, 1)


def drawn_predictions(
    model: nn.Module,
    x: Tensor,
    n_samples: int,
    set_sampling: Callable[[int | None], None],
    seed: int,
) -> Tensor:
    """Return class probabilities (n_networks, batch, n_classes) of networks drawn from the posterior.

    Parameters
    ----------
    model : nn.Module
        Classifier that returns logits; used in evaluation mode, the mode is restored.
    x : Tensor, shape (batch, ...)
    n_samples : int
        Number of networks; 0 for the mean network alone.
    set_sampling : callable
        Function that turns the noise of the model's layers on with a seed, or off with None.
    seed : int
        Seed of the draws.

    Raises
    ------
    TypeError, ValueError
        If ``x`` is no tensor or ``n_samples`` is negative.
    """
    n_samples = check_integer("n_samples", n_samples, 0)
    if not isinstance(x, Tensor):
        raise TypeError(f"x must be a torch.Tensor, got {type(x).__name__}")
    was_training = model.training
    model.eval()
    with torch.no_grad():
        set_sampling(seed if n_samples else None)
        drawn = torch.stack([F.softmax(model(x), 1) for _ in range(max(n_samples, 1))])
        set_sampling(None)
    model.train(was_training)
    return drawn


def batch_norms(model: nn.Module) -> list[Any]:
    """Return the batch normalisations that keep running moments."""
    kinds = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
    return [m for m in model.modules() if isinstance(m, kinds) and m.track_running_stats]


def recalibrate(model: nn.Module, loader: Any, seed: int = 0, n_batches: int | None = None) -> None:
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
    """
    norms = batch_norms(model)
    if not norms:
        return
    momenta, was_training = [norm.momentum for norm in norms], model.training
    generator: Any = getattr(loader, "generator", None)
    state = generator.get_state() if isinstance(generator, torch.Generator) else None
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None
    model.train()
    with torch.no_grad(), training_epoch(seed, 0, loader):
        for x, _ in islice(loader, n_batches):
            model(x)
    if state is not None:
        generator.set_state(state)
    for norm, momentum in zip(norms, momenta):
        norm.momentum = momentum
    model.train(was_training)


def distillation_loss(
    output: Tensor,
    target: Tensor,
    teacher: Tensor | None,
    weight: float = 0.5,
    softness: float = 3.0,
    hard_loss: Callable[[Tensor, Tensor], Tensor] = F.cross_entropy,
) -> Tensor:
    """Return the loss of the labels, mixed with the divergence from the softened outputs of a teacher.

    Parameters
    ----------
    output : Tensor, shape (batch, n_classes)
        Logits of the student.
    target : Tensor, shape (batch,)
        Class indices.
    teacher : Tensor, shape (batch, n_classes), optional
        Logits of the teacher; without them the loss is that of the labels.
    weight : float
        Weight of the divergence, from 0 to 1.
    softness : float
        Temperature of both softmax functions.
    hard_loss : callable
        Mean loss of (output, target).

    Notes
    -----
    Source: Hinton, Vinyals, Dean, "Distilling the knowledge in a neural network", arXiv:1503.02531.
    """
    hard = hard_loss(output, target)
    if teacher is None:
        return hard
    soft = F.kl_div(
        F.log_softmax(output / softness, 1),
        F.log_softmax(teacher / softness, 1),
        reduction="batchmean",
        log_target=True,
    )
    return (1.0 - weight) * hard + weight * softness**2 * soft


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
    after_backward: Callable[[], None] | None = None,
    after_step: Callable[[], None] | None = None,
    on_epoch: Callable[[int, float, float], None] | None = None,
) -> nn.Module:
    """Train in place with Adam and a cosine schedule; the global random state does not change.

    Parameters
    ----------
    model : nn.Module
        Classifier that returns logits.
    loader : iterable of (x, y)
        Batches, iterated once per epoch.
    epochs : int
        Number of epochs.
    learning_rate, weight_decay : float
        Start of the cosine schedule, and decoupled weight decay.
    seed : int
        Seed of dropout and of loaders that use the global generator.
    first_epoch : int
        Number of earlier epochs; it shifts the seeds.
    teacher : nn.Module, optional
        Network for distillation.
    distillation : float
        Weight of the teacher's term.
    after_backward, after_step : callable, optional
        Called in every step, after the gradients are there and after the weights have moved.
    on_epoch : callable, optional
        Called with (epoch, mean loss, accuracy) of every epoch.

    Returns
    -------
    nn.Module
        The same model, in evaluation mode.
    """
    check_loader("loader", loader)
    epochs = check_integer("epochs", epochs, 0)
    check_positive("learning_rate", learning_rate)
    check_fraction("distillation", distillation, low_open=False, high_open=False)
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimiser = torch.optim.AdamW(parameters, lr=learning_rate, weight_decay=weight_decay, fused=True)
    if teacher is not None:
        teacher.eval()
    for epoch in range(epochs):
        total, right, seen = 0.0, 0, 0
        model.train()
        with training_epoch(seed, first_epoch + epoch, loader):
            for i, (x, y) in enumerate(loader):
                optimiser.param_groups[0]["lr"] = learning_rate * cosine((epoch + i / len(loader)) / epochs)
                loss, hits = _step(model, optimiser, x, y, teacher, distillation, after_backward)
                if after_step is not None:
                    after_step()
                total, right, seen = total + loss * len(y), right + hits, seen + len(y)
        if on_epoch is not None:
            on_epoch(epoch, total / max(seen, 1), right / max(seen, 1))
    return model.eval()


def _step(
    model: nn.Module,
    optimiser: torch.optim.Optimizer,
    x: Tensor,
    y: Tensor,
    teacher: nn.Module | None,
    distillation: float,
    after_backward: Callable[[], None] | None,
) -> tuple[float, int]:
    """Take one step of the optimiser; return the loss and the number of correct decisions."""
    output = model(x)
    hint = None
    if teacher is not None:
        with torch.no_grad():
            hint = teacher(x)
    loss = distillation_loss(output, y, hint, distillation)
    optimiser.zero_grad(set_to_none=True)
    loss.backward()
    if after_backward is not None:
        after_backward()
    optimiser.step()
    return float(loss.detach()), int((output.detach().argmax(1) == y).sum())
