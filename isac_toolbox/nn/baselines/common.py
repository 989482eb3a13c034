"""Result, fine-tuning and masks of all baselines (docs/theory-networks.md, section 8)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from isac_toolbox.nn._batches import first_batch
from isac_toolbox.nn.export.report import CompressionReport, make_report
from isac_toolbox.nn.export.shrink import shrink, simplify
from isac_toolbox.nn.objective import Objective
from isac_toolbox.nn.training import train

Masks = dict[str, Tensor]


@dataclass(frozen=True)
class BaselineResult:
    """Result of a baseline.

    Attributes
    ----------
    model : nn.Module
        Plain masked model of full size; of ``torch_pruning``, the smaller model.
    masks : mapping of str to Tensor of bool
        Kept weights by layer name, in the shape of the full model.
    report : CompressionReport
        Size and structure of the model.
    """

    model: nn.Module
    masks: Mapping[str, Tensor]
    report: CompressionReport


@dataclass(frozen=True)
class Finetuning:
    """Training of the kept weights, the same for every method.

    Attributes
    ----------
    learning_rate : float
        Adam, cosine schedule.
    teacher : nn.Module, optional
        Network for distillation.
    distillation : float
        Weight of the teacher's term in the loss, from 0 to 1.
    seed : int
        Seed of dropout and of loaders that use the global generator.
    loss : callable
        Mean negative log-likelihood of (output, target).
    metric : callable, optional
        Quality of (output, target) of a batch, larger is better.
    """

    learning_rate: float = 1e-3
    teacher: nn.Module | None = None
    distillation: float = 0.5
    seed: int = 0
    loss: Callable[[Any, Any], Tensor] = field(default_factory=lambda: F.cross_entropy)
    metric: Callable[[Any, Any], Any] | None = None

    @property
    def objective(self) -> Objective:
        """Return loss and metric."""
        return Objective(self.loss, self.metric)

    def run(self, model: nn.Module, loader: Any, epochs: int, first_epoch: int = 0, **hooks: Any) -> None:
        """Train in place.

        Parameters
        ----------
        model : nn.Module
        loader : iterable of (x, y)
        epochs : int
        first_epoch : int
            Number of earlier epochs.
        **hooks
            Other arguments of ``training.train``.
        """
        train(
            model,
            loader,
            epochs=epochs,
            learning_rate=self.learning_rate,
            seed=self.seed,
            first_epoch=first_epoch,
            teacher=self.teacher,
            distillation=self.distillation,
            loss=self.loss,
            metric=self.metric,
            **hooks,
        )


def prunable(model: nn.Module) -> dict[str, nn.Linear | nn.Conv2d]:
    """Return the Linear and Conv2d layers by name."""
    return {name: m for name, m in model.named_modules() if type(m) in (nn.Linear, nn.Conv2d)}


def keep_largest(scores: Mapping[str, Tensor], n_keep: int) -> Masks:
    """Return masks of the ``n_keep`` largest scores over all layers."""
    flat = torch.cat([score.flatten() for score in scores.values()])
    mask = torch.zeros_like(flat, dtype=torch.bool)
    mask[torch.topk(flat, max(min(n_keep, flat.numel()), 1)).indices] = True
    parts = mask.split([score.numel() for score in scores.values()])
    return {name: part.reshape(score.shape) for (name, score), part in zip(scores.items(), parts)}


def apply_masks(model: nn.Module, masks: Mapping[str, Tensor]) -> None:
    """Set the weights outside the masks to zero, in place."""
    with torch.no_grad():
        for name, layer in prunable(model).items():
            if name in masks:
                layer.weight.mul_(masks[name])


def finish(
    model: nn.Module, masks: Masks, loader: Any, epochs: int, first: int, tuning: Finetuning
) -> BaselineResult:
    """Fine-tune under fixed masks, remove disconnected weights, and return the result with its report."""
    apply_masks(model, masks)
    tuning.run(model, loader, epochs, first, after_step=lambda: apply_masks(model, masks))
    example = first_batch(loader, model).part(0, 2)
    simplify(model.eval(), example)
    masks = {name: mask & (prunable(model)[name].weight != 0.0) for name, mask in masks.items()}
    return BaselineResult(model, masks, make_report(model, masks, example, shrink(model, example)))


def example_shape(model: nn.Module, loader: Any) -> tuple[int, ...]:
    """Return the shape of one example, without a draw from the global generator."""
    return first_batch(loader, model).input_shape


def weight_budget(model: nn.Module, density: float) -> int:
    """Return the number of weights at a density, at least one."""
    total = sum(layer.weight.numel() for layer in prunable(model).values())
    return max(round(density * total), 1)
