"""Loss and metric of a training, in every phase the same (docs/theory-networks.md, section 2)."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from isac_toolbox._validation import check_fraction
from isac_toolbox.nn._batches import Batch, batches

__all__ = [
    "Objective",
    "described_shape",
    "distillation_loss",
    "fingerprint",
    "is_classification",
    "right_decisions",
]

#: Losses whose target may be what the teacher predicts, with the function that turns outputs into targets.
_SOFT_TARGETS: dict[Any, Callable[[Tensor], Tensor]] = {
    F.mse_loss: lambda output: output,
    F.l1_loss: lambda output: output,
    F.smooth_l1_loss: lambda output: output,
    F.huber_loss: lambda output: output,
    F.binary_cross_entropy_with_logits: torch.sigmoid,
    nn.MSELoss: lambda output: output,
    nn.L1Loss: lambda output: output,
    nn.SmoothL1Loss: lambda output: output,
    nn.HuberLoss: lambda output: output,
    nn.BCEWithLogitsLoss: torch.sigmoid,
}


def is_classification(output: Any, target: Any) -> bool:
    """Return whether logits (batch, n_classes, ...) meet class indices (batch, ...)."""
    if not isinstance(output, Tensor) or not isinstance(target, Tensor):
        return False
    if output.ndim != target.ndim + 1 or output.ndim < 2 or output.shape[1] < 2:
        return False
    whole = not target.dtype.is_floating_point and not target.dtype.is_complex and target.dtype != torch.bool
    return whole and output.shape[:1] + output.shape[2:] == target.shape


def described_shape(value: Any) -> str:
    """Return shape and type of a tensor, or the type of anything else."""
    return f"{tuple(value.shape)} {value.dtype}" if isinstance(value, Tensor) else type(value).__name__


def right_decisions(output: Tensor, target: Tensor) -> float:
    """Return the part of correct decisions of a classification; negative targets do not count."""
    counted = target >= 0
    right = (output.argmax(1) == target) & counted
    return float(right.sum()) / max(int(counted.sum()), 1)


@dataclass(frozen=True)
class Objective:
    """What a network is trained for and judged by.

    Attributes
    ----------
    loss : callable
        Mean negative log-likelihood of (output, target), a scalar; the output is what the model returns.
    metric : callable, optional
        Quality of (output, target) of a batch, larger is better. Without one it is the part of correct
        decisions where logits (batch, n_classes, ...) meet class indices, and NaN elsewhere.
    """

    loss: Callable[[Any, Any], Tensor] = F.cross_entropy
    metric: Callable[[Any, Any], Any] | None = None

    def __post_init__(self) -> None:
        for name in ("loss", "metric"):
            value = getattr(self, name)
            if not callable(value) and (name == "loss" or value is not None):
                raise TypeError(f"{name} must be a function of (output, target), got {value!r}")

    def value(self, output: Any, target: Any) -> Tensor:
        """Return the loss of a batch.

        Raises
        ------
        ValueError
            If the loss does not give one number.
        """
        loss = self.loss(output, target)
        if not isinstance(loss, Tensor) or loss.numel() != 1:
            got = tuple(loss.shape) if isinstance(loss, Tensor) else type(loss).__name__
            raise ValueError(f"loss must return one number per batch, a tensor of shape (), got {got}")
        return loss.reshape(())

    def judge(self, output: Any, target: Any) -> float:
        """Return the metric of a batch, NaN where there is none."""
        if self.metric is not None:
            return float(self.metric(output, target))
        return right_decisions(output, target) if is_classification(output, target) else math.nan

    def training_loss(
        self, model: nn.Module, batch: Batch, teacher: nn.Module | None = None, weight: float = 0.5
    ) -> tuple[Tensor, float]:
        """Return the loss of a batch, mixed with the teacher's term if any, and the metric."""
        output = batch.run(model)
        hint = None
        if teacher is not None:
            with torch.no_grad():
                hint = batch.run(teacher)
        loss = self.mixed(output, batch.target, hint, weight)
        with torch.no_grad():
            return loss, self.judge(output, batch.target)

    def mixed(self, output: Any, target: Any, hint: Any, weight: float) -> Tensor:
        """Return the loss of the targets, mixed with that of the teacher's outputs.

        Raises
        ------
        ValueError
            If it is not known how outputs of this loss are compared with those of a teacher.
        """
        if hint is None:
            return self.value(output, target)
        kind = type(self.loss) if isinstance(self.loss, nn.Module) else self.loss
        soft = _SOFT_TARGETS.get(kind)
        if soft is not None:
            return (1.0 - weight) * self.value(output, target) + weight * self.value(output, soft(hint))
        if isinstance(output, Tensor) and output.ndim >= 2 and output.shape[1] >= 2:
            return distillation_loss(output, target, hint, weight, hard_loss=self.value)
        got = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
        raise ValueError(
            "teacher needs logits (batch, n_classes, ...), or one of the losses mse_loss, l1_loss, "
            "smooth_l1_loss, huber_loss and binary_cross_entropy_with_logits; got outputs "
            f"{got} with {_name(self.loss)}"
        )

    def takes_a_teacher(self, output: Any, target: Any) -> bool:
        """Return whether a teacher's outputs are sure to have a meaning under this loss."""
        kind = type(self.loss) if isinstance(self.loss, nn.Module) else self.loss
        if kind in _SOFT_TARGETS:
            return isinstance(output, Tensor)
        return kind in (F.cross_entropy, nn.CrossEntropyLoss) and is_classification(output, target)

    def evaluate(self, model: nn.Module, loader: Any, name: str = "loader") -> tuple[float, float]:
        """Return mean loss and metric in evaluation mode, weighed by examples; all modes are restored."""
        total, quality, seen = 0.0, 0.0, 0
        modes = {module: module.training for module in model.modules()}
        model.eval()
        try:
            with torch.no_grad():
                for batch in batches(loader, model, name):
                    output, size = batch.run(model), batch.size
                    total += float(self.value(output, batch.target)) * size
                    quality += self.judge(output, batch.target) * size
                    seen += size
        finally:
            for module, mode in modes.items():
                module.training = mode
        return total / max(seen, 1), quality / max(seen, 1)

    def described(self) -> dict[str, str]:
        """Return texts that differ where loss or metric differ, for checkpoints."""
        return {"loss": fingerprint(self.loss), "metric": fingerprint(self.metric)}


def distillation_loss(
    output: Tensor,
    target: Tensor,
    teacher: Tensor | None,
    weight: float = 0.5,
    softness: float = 3.0,
    hard_loss: Callable[[Any, Any], Tensor] = F.cross_entropy,
) -> Tensor:
    """Return the loss of the labels, mixed with the divergence from the softened outputs of a teacher.

    Parameters
    ----------
    output : Tensor, shape (batch, n_classes, ...)
        Logits of the student.
    target : Tensor, shape (batch, ...)
        Class indices.
    teacher : Tensor, shape (batch, n_classes, ...), optional
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
    check_fraction("distillation", weight, low_open=False, high_open=False)
    hard = hard_loss(output, target)
    if teacher is None:
        return hard
    soft = F.kl_div(
        F.log_softmax(output / softness, 1),
        F.log_softmax(teacher / softness, 1),
        reduction="batchmean",
        log_target=True,
    )
    positions = output[0, 0].numel()
    return (1.0 - weight) * hard + weight * softness**2 / positions * soft


def fingerprint(value: Any) -> str:
    """Return a text that is the same in another process for the same function, loss module or network."""
    if value is None:
        return "none"
    if isinstance(value, nn.Module):
        own = {k: v for k, v in vars(value).items() if k[0] != "_" and isinstance(v, (str, int, float))}
        own.pop("training", None)
        return f"{type(value).__qualname__} {_digest(repr(value), value.state_dict(), own)}"
    if isinstance(value, partial):
        return f"partial {fingerprint(value.func)} {_digest(value.args, value.keywords)}"
    code = getattr(value, "__code__", None)
    if code is None:
        return _name(value)
    cells = [cell.cell_contents for cell in getattr(value, "__closure__", None) or ()]
    return f"{_name(value)} {_digest(code.co_code, code.co_consts, code.co_names, cells, value.__defaults__)}"


def _name(value: Any) -> str:
    return str(getattr(value, "__qualname__", type(value).__qualname__))


def _digest(*parts: Any) -> str:
    """Return a short hash of numbers, texts, tensors, functions and collections of them."""
    hasher = hashlib.sha256()

    def add(part: Any) -> None:
        if isinstance(part, Tensor):
            plain = part.detach().cpu().contiguous()
            hasher.update(f"{plain.dtype}{tuple(plain.shape)}".encode())
            hasher.update(plain.reshape(-1).view(torch.uint8).numpy().tobytes() if plain.numel() else b"")
        elif isinstance(part, Mapping):
            for key in sorted(part, key=str):
                add(str(key))
                add(part[key])
        elif isinstance(part, (tuple, list)):
            for item in part:
                add(item)
        elif isinstance(part, bytes):
            hasher.update(part)
        elif isinstance(part, (str, int, float, bool, type(None))):
            hasher.update(repr(part).encode())
        elif callable(part):
            hasher.update(fingerprint(part).encode())
        else:
            hasher.update(type(part).__qualname__.encode())

    for part in parts:
        add(part)
    return hasher.hexdigest()[:12]
