"""Figures of epochs, which all fits have."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Self

__all__ = ["EpochFigures", "Means"]


@dataclass(frozen=True, kw_only=True)
class EpochFigures:
    """Figures of one epoch of a fit.

    Attributes
    ----------
    epoch : int
        Number of the epoch, from 0.
    loss, accuracy : float
        Mean negative log-likelihood and metric in training, with drawn weights. The metric is that of the
        method, without one the part of correct decisions of a classification, NaN of anything else.
    val_accuracy, val_loss : float
        Metric and loss of the mean network on the validation set; NaN without one.
    kl : float
        KL divergence of the posterior from the prior in nats.
    density : float
        Kept or active part of the weights of all converted layers.
    neurons : tuple of int
        Neurons (filters) of each layer with such a weight.
    mean_run : float
        Mean length of the runs of such weights in the first layer.
    seconds : float
        Duration of the epoch.
    """

    epoch: int
    loss: float
    accuracy: float
    val_accuracy: float
    kl: float
    density: float
    neurons: tuple[int, ...]
    mean_run: float
    seconds: float
    val_loss: float = math.nan

    @classmethod
    def stored(cls, rows: Iterable[Mapping[str, Any]]) -> list[Self]:
        """Return the records of a file."""
        return [cls(**{**row, "neurons": tuple(row["neurons"])}) for row in rows]


class Means:
    """Mean loss and metric of the examples of an epoch so far."""

    def __init__(self) -> None:
        self._loss, self._quality, self._n = 0.0, 0.0, 0

    def add(self, n_examples: int, loss: float, quality: float) -> None:
        """Add the means of a batch."""
        self._loss += loss * n_examples
        self._quality += quality * n_examples
        self._n += n_examples

    @property
    def loss(self) -> float:
        """Return the mean loss, 0 without examples."""
        return self._loss / max(self._n, 1)

    @property
    def quality(self) -> float:
        """Return the mean metric, 0 without examples."""
        return self._quality / max(self._n, 1)
