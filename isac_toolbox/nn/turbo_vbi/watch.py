"""Held-back examples, and whether a network loses more on them than asked (docs/theory-networks.md, 5.5)."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, RandomSampler, SequentialSampler, Subset

from isac_toolbox.nn._batches import Batch, batches, undisturbed
from isac_toolbox.nn.data import TensorLoader
from isac_toolbox.nn.objective import Objective
from isac_toolbox.nn.training import epoch_seed, evaluating

__all__ = ["Quality", "Verdict", "Watch", "hold_back", "is_trained", "some_of"]

#: Guard: part of the training examples that is held back where no validation set is given.
_HELD_BACK = 0.15
#: Guard: fewest examples of which a part is held back.
_FEWEST = 40
#: Examples of a part over which the scatter of a difference is taken.
_PART = 32
#: Guard: largest loss of a network that has not settled, where that is more than what is allowed.
_MOST_SLACK = 0.25
#: Guard: most standard errors by which a network must hold.
_MOST_ERRORS = 3.0
#: Cost cap: held-back examples on which many networks are compared with each other.
_FEW = 300
#: Guard: fewest parts that tell a scatter.
_FEWEST_PARTS = 4
#: Guard: part of the loss by which true targets must beat exchanged ones for a network to count as trained.
_LEARNED = 0.1


@dataclass(frozen=True)
class Quality:
    """Loss and metric of a network on the parts of a watched set.

    Attributes
    ----------
    losses, metrics, sizes : ndarray, shape (n_parts,)
        Mean loss, metric and number of examples of every part.
    """

    losses: np.ndarray
    metrics: np.ndarray
    sizes: np.ndarray

    @property
    def loss(self) -> float:
        """Return the mean loss over the examples."""
        return float(np.average(self.losses, weights=self.sizes))

    @property
    def metric(self) -> float:
        """Return the mean metric, NaN without one."""
        return float(np.average(self.metrics, weights=self.sizes))

    def joined(self, other: Quality) -> Quality:
        """Return the quality on both sets."""
        pairs = zip(vars(self).values(), vars(other).values())
        return Quality(*(np.concatenate(pair) for pair in pairs))

    def lost(self, reference: Quality) -> tuple[float, float]:
        """Return how much is lost against a reference, and the standard error of that.

        The points of the metric or, without one, the part of the reference's loss.
        """
        if math.isfinite(reference.metric):
            difference = reference.metrics - self.metrics
        else:
            difference = (self.losses - reference.losses) / max(abs(reference.loss), 1e-12)
        if not np.all(np.isfinite(difference)):
            return math.inf, 0.0
        mean = float(np.average(difference, weights=self.sizes))
        if len(difference) < _FEWEST_PARTS:
            return mean, 0.0
        weights = self.sizes / self.sizes.sum()
        variance = float(np.sum(weights**2 * (difference - mean) ** 2))
        return mean, math.sqrt(variance)


@dataclass(frozen=True)
class Verdict:
    """What a network has lost on the held-back examples, and on these and the training examples together.

    Attributes
    ----------
    mean, error : float
        Mean and standard error on the held-back examples.
    joint, joint_error : float
        The same together, infinite where that was not measured.
    """

    mean: float
    error: float
    joint: float = math.inf
    joint_error: float = 0.0

    def bound(self, n_errors: float = 2.0) -> float:
        """Return the smallest allowed loss for which the network passes.

        It passes if the mean plus ``n_errors`` standard errors on the held-back examples is allowed or, if
        that is so with one error less, where the same together with the training examples is.
        """
        fewer = n_errors - 1.0
        together = max(self.mean + fewer * self.error, self.joint + fewer * self.joint_error)
        return min(self.mean + n_errors * self.error, together)


class Watch:
    """Sets on which networks are compared with a reference.

    A loss is judged on examples that are held back. Where these are too few to tell, training examples speak
    as well: a network that loses nothing there has not lost what the reference had learned.

    Parameters
    ----------
    objective : Objective
        Loss and metric.
    held_back : iterable
        Batches that are not trained on.
    seen : list
        Batches of training examples.
    max_loss_drop : float
        Largest loss: points of the metric, or part of the loss without a metric.

    Attributes
    ----------
    few : list
        The first of the held-back batches.
    reference : tuple of Quality
        Of the reference network on both sets, and on the first of the held-back batches.
    """

    def __init__(self, objective: Objective, held_back: Any, seen: list[Any], max_loss_drop: float) -> None:
        self.objective, self.max_loss_drop = objective, max_loss_drop
        self.held_back, self.seen = held_back, seen
        self.few: list[Any] = []
        self.reference: tuple[Quality, Quality, Quality] | None = None

    def refer_to(self, model: nn.Module) -> None:
        """Make a network the reference."""
        if not self.few:
            self.few = some_of(self.held_back, model, _FEW, 0, "val_loader")
        self.reference = self.measure(model), self.measure(model, self.seen), self.measure(model, self.few)

    def measure(self, model: nn.Module, loader: Any = None) -> Quality:
        """Return loss and metric of a network in evaluation mode, on the held-back examples by default."""
        rows = []
        with evaluating(model), torch.no_grad():
            for output, part in _parts(self.held_back if loader is None else loader, model):
                loss = float(self.objective.value(output, part.target))
                rows.append((loss, self.objective.judge(output, part.target), part.size))
        losses, metrics, sizes = np.array(rows, dtype=np.float64).T
        return Quality(losses, metrics, sizes)

    def times(self, factor: float) -> float:
        """Return a few times the allowed loss, but not so much that anything would do."""
        return max(self.max_loss_drop, min(factor * self.max_loss_drop, _MOST_SLACK))

    def holds(self, model: nn.Module, slack: float = 1.0) -> bool:
        """Return whether a network loses at most what is allowed, times ``slack``.

        See ``bound``.
        """
        return self.bound(model) <= self.times(slack)

    def bound(self, model: nn.Module, n_errors: float = 2.0) -> float:
        """Return the smallest allowed loss for which a network passes."""
        return self.verdict(model).bound(n_errors)

    def verdict(self, model: nn.Module) -> Verdict:
        """Return what a network has lost; on the training examples only where that can decide."""
        assert self.reference is not None
        quality = self.measure(model)
        verdict = Verdict(*quality.lost(self.reference[0]))
        if verdict.bound(_MOST_ERRORS) <= self.max_loss_drop or verdict.mean > self.times(math.inf):
            return verdict
        all_of = quality.joined(self.measure(model, self.seen))
        return Verdict(verdict.mean, verdict.error, *all_of.lost(self.reference[0].joined(self.reference[1])))

    def lost_on_few(self, model: nn.Module) -> float:
        """Return the mean loss on the first of the held-back examples."""
        assert self.reference is not None
        return self.measure(model, self.few).lost(self.reference[2])[0]


def _parts(loader: Any, model: nn.Module) -> Iterator[tuple[Any, Batch]]:
    """Yield outputs and examples of small parts of all batches."""
    for batch in batches(loader, model, "val_loader"):
        output = batch.run(model)
        whole = isinstance(output, Tensor) and output.ndim > 0 and len(output) == batch.size
        for start in range(0, batch.size, _PART):
            part = batch.part(start, start + _PART)
            yield (output[start : start + _PART] if whole else part.run(model)), part


def some_of(
    loader: Any, model: nn.Module, n_examples: int, seed: int, name: str = "train_loader"
) -> list[Any]:
    """Return copies of the first batches of a loader, whose state and epoch stay."""
    found, n = [], 0
    with undisturbed(loader, seed):
        for batch in batches(loader, model, name):
            found.append(batch.copied())
            n += batch.size
            if n >= n_examples:
                break
    return found


def is_trained(objective: Objective, model: nn.Module, loader: Any) -> bool:
    """Return whether a network knows the targets of a set from those of other examples.

    A network that has learned something has a smaller loss with the true targets than with exchanged ones. A
    set of batches without targets tells nothing, and counts as known.
    """
    true, exchanged = 0.0, 0.0
    generator = torch.Generator().manual_seed(0)
    with evaluating(model), torch.no_grad():
        for batch in batches(loader, model, "val_loader"):
            if batch.target is None or batch.size < 2:
                return True
            output = batch.run(model)
            true += float(objective.value(output, batch.target)) * batch.size
            exchanged += float(objective.value(output, batch.exchanged(generator).target)) * batch.size
    return math.isfinite(true) and exchanged - true > _LEARNED * abs(exchanged)


def hold_back(loader: Any, model: nn.Module, seed: int) -> tuple[Any, Any]:
    """Return loaders of the examples that are trained on, and of those that are held back.

    Warns
    -----
    UserWarning
        If the loader cannot be divided; then the first batches are watched, which are trained on as well.
    """
    generator = torch.Generator().manual_seed(epoch_seed(seed, 0, 5))
    if isinstance(loader, TensorLoader) and len(loader.x) >= _FEWEST:
        held, kept = _divided(len(loader.x), generator)
        settings = {"batch_size": loader.batch_size, "seed": loader.seed}
        trained = TensorLoader(loader.x[kept], loader.y[kept], shuffle=loader.shuffle, **settings)
        return trained, TensorLoader(loader.x[held], loader.y[held], shuffle=False, **settings)
    if isinstance(loader, DataLoader) and _can_be_divided(loader):
        held, kept = _divided(len(loader.dataset), generator)  # type: ignore[arg-type]
        return _subset(loader, kept, loader.drop_last), _subset(loader, held, False, shuffle=False)
    if isinstance(loader, (list, tuple)) and len(loader) >= 1.0 / _HELD_BACK:
        every = round(1.0 / _HELD_BACK)
        return [b for i, b in enumerate(loader) if i % every], list(loader[::every])
    warnings.warn(
        f"no val_loader was given and train_loader ({type(loader).__name__}) cannot be divided, so "
        "max_loss_drop is watched on its first batch, which is trained on as well",
        stacklevel=5,
    )
    return loader, some_of(loader, model, 1, seed)


def _divided(n: int, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Return sorted positions of the examples that are held back, and of the others."""
    order = torch.randperm(n, generator=generator)
    n_held = max(round(_HELD_BACK * n), 1)
    return order[:n_held].sort().values, order[n_held:].sort().values


def _can_be_divided(loader: DataLoader[Any]) -> bool:
    """Return whether a loader goes through a whole data set with a length, in order or at random."""
    try:
        enough = len(loader.dataset) >= _FEWEST  # type: ignore[arg-type]
    except TypeError:
        return False
    sampler = loader.sampler
    plain = type(sampler) is SequentialSampler or (
        type(sampler) is RandomSampler and not sampler.replacement and len(sampler) == len(loader.dataset)  # type: ignore[arg-type]
    )
    return enough and plain and loader.batch_size is not None and hasattr(loader.dataset, "__getitem__")


def _subset(
    loader: DataLoader[Any], positions: torch.Tensor, drop_last: bool, shuffle: bool | None = None
) -> DataLoader[Any]:
    """Return a loader of some of the examples, else with the same settings."""
    mixed = type(loader.sampler) is RandomSampler if shuffle is None else shuffle
    return DataLoader(
        Subset(loader.dataset, positions.tolist()),
        batch_size=loader.batch_size,
        shuffle=mixed,
        num_workers=loader.num_workers,
        collate_fn=loader.collate_fn,
        pin_memory=loader.pin_memory,
        drop_last=drop_last,
        generator=loader.generator if mixed else None,
        worker_init_fn=loader.worker_init_fn,
    )
