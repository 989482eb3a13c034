"""Record of an epoch, and the schedule of a posterior (docs/theory-networks.md, sections 1 and 5)."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

__all__ = ["EpochRecord", "Schedule"]


@dataclass(frozen=True)
class EpochRecord:
    """Figures of one epoch of ``fit``.

    Attributes
    ----------
    epoch : int
        Number of the epoch, from 0.
    loss, accuracy : float
        Mean negative log-likelihood and metric in training, with drawn weights. The metric is that of the
        compressor, without one the part of correct decisions of a classification, NaN of anything else.
    val_accuracy : float
        Metric of the mean network under the current mask on the validation set; NaN without one.
    kl : float
        KL divergence of the posterior from the prior in nats.
    temperature : float
        ``T`` of the epoch.
    density : float
        Part of the weights with ``pi >= 0.5``.
    neurons : tuple of int
        Number of neurons (filters) of each layer with such a weight.
    mean_run : float
        Mean length of the runs of such weights in the first layer.
    seconds : float
        Duration of the epoch.
    n_connected : int
        Number of such weights on a path from an input to an output, which are kept if the fit ends here.
    val_loss : float
        Loss of the mean network under the current mask on the validation set; NaN without one.
    phase : str
        ``"posterior"``; in a guarded fit also ``"dense"`` and ``"settling"``; in ``finetune``,
        ``"fine-tuning"``.
    """

    epoch: int
    loss: float
    accuracy: float
    val_accuracy: float
    kl: float
    temperature: float
    density: float
    neurons: tuple[int, ...]
    mean_run: float
    seconds: float
    n_connected: int = 0
    val_loss: float = math.nan
    phase: str = "posterior"


@dataclass(frozen=True)
class Schedule:
    """Temperature and learning rate of the epochs of a posterior.

    Attributes
    ----------
    first, n_epochs : int
        First epoch of the posterior, and number of its epochs.
    first_update : int
        First epoch in which the engine is called.
    temperature : callable
        Temperature of the epoch of a number.
    """

    first: int
    n_epochs: int
    first_update: int
    temperature: Callable[[int], float]

    def part(self, epoch: int, inside: float) -> float:
        """Return which part is done, where ``inside`` of an epoch is."""
        return (epoch - self.first + inside) / self.n_epochs
