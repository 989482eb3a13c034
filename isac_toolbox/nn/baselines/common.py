"""What all baselines share: result, fine-tuning, masks (docs/theory-networks.md, section 8)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from isac_toolbox.nn.export.report import CompressionReport, make_report
from isac_toolbox.nn.export.shrink import shrink, simplify
from isac_toolbox.nn.training import train

Masks = dict[str, Tensor]


@dataclass(frozen=True)
class BaselineResult:
    """What a baseline returns.

    Attributes
    ----------
    model : nn.Module
        Plain masked model in full size (for `torch_pruning`: the smaller model).
    masks : mapping of str to Tensor of bool
        Kept weights by layer name, in the full size.
    report : CompressionReport
        As of the compressor.
    """

    model: nn.Module
    masks: Mapping[str, Tensor]
    report: CompressionReport


@dataclass(frozen=True)
class Finetuning:
    """How every method trains the weights that it keeps.

    Attributes
    ----------
    learning_rate : float
        Adam, cosine schedule.
    teacher : nn.Module, optional
        Teacher for distillation.
    distillation : float
        Part of the teacher's term in the loss.
    seed : int
        Seed.
    """

    learning_rate: float = 1e-3
    teacher: nn.Module | None = None
    distillation: float = 0.5
    seed: int = 0

    def run(self, model: nn.Module, loader: Any, epochs: int, first_epoch: int = 0, **hooks: Any) -> None:
        """Train in place.

        Parameters
        ----------
        model : nn.Module
        loader : iterable of (x, y)
        epochs : int
        first_epoch : int
            Number of epochs that went before.
        **hooks
            Passed on to `training.train`.
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
            **hooks,
        )


def prunable(model: nn.Module) -> dict[str, nn.Linear | nn.Conv2d]:
    """Return the Linear and Conv2d layers by name."""
    return {name: m for name, m in model.named_modules() if type(m) in (nn.Linear, nn.Conv2d)}


def keep_largest(scores: Mapping[str, Tensor], n_keep: int) -> Masks:
    """Return masks of the `n_keep` largest scores over all layers."""
    flat = torch.cat([score.flatten() for score in scores.values()])
    mask = torch.zeros_like(flat, dtype=torch.bool)
    mask[torch.topk(flat, max(min(n_keep, flat.numel()), 1)).indices] = True
    parts = mask.split([score.numel() for score in scores.values()])
    return {name: part.reshape(score.shape) for (name, score), part in zip(scores.items(), parts)}


def apply_masks(model: nn.Module, masks: Mapping[str, Tensor]) -> None:
    """Zero the weights outside the masks."""
    with torch.no_grad():
        for name, layer in prunable(model).items():
            if name in masks:
                layer.weight.mul_(masks[name])


def finish(
    model: nn.Module, masks: Masks, loader: Any, epochs: int, first: int, tuning: Finetuning
) -> BaselineResult:
    """Fine-tune under fixed masks, drop what leads nowhere, and measure."""
    apply_masks(model, masks)
    tuning.run(model, loader, epochs, first, after_step=lambda: apply_masks(model, masks))
    simplify(model.eval())
    masks = {name: mask & (prunable(model)[name].weight != 0.0) for name, mask in masks.items()}
    shape = example_shape(loader)
    return BaselineResult(model, masks, make_report(model, masks, shape, shrink(model)))


def example_shape(loader: Any) -> tuple[int, ...]:
    with torch.random.fork_rng(devices=[]):
        return tuple(next(iter(loader))[0].shape[1:])


def weight_budget(model: nn.Module, density: float) -> int:
    total = sum(layer.weight.numel() for layer in prunable(model).values())
    return max(round(density * total), 1)
