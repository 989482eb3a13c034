"""Record of an epoch, and the schedule of a posterior (docs/theory-networks.md, sections 1 and 5)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from isac_toolbox.nn._records import EpochFigures

__all__ = ["EpochRecord", "Schedule"]


@dataclass(frozen=True, kw_only=True)
class EpochRecord(EpochFigures):
    """Figures of one epoch of ``fit``; the validation is of the mean network under the current mask.

    Attributes
    ----------
    temperature : float
        ``T`` of the epoch.
    n_connected : int
        Number of weights with ``pi >= 0.5`` on a path from an input to an output, which are kept if the fit
        ends here.
    phase : str
        ``"posterior"``; in a guarded fit also ``"dense"`` and ``"settling"``; in ``finetune``,
        ``"fine-tuning"``.
    """

    temperature: float
    n_connected: int = 0
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
