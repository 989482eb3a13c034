"""Beliefs of the three-layer prior about each coefficient (docs/theory.md, section 3)."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

import numpy as np

__all__ = ["PriorState"]


@dataclass(frozen=True)
class PriorState:
    """What the prior knows about each coefficient; its arrays cannot be written to.

    Attributes
    ----------
    precision : ndarray, shape (n,)
        ``rho`` (for the factorised rule, its mean).
    log_precision : ndarray, shape (n,)
        ``<ln rho>`` for the factorised rule, ``ln rho`` otherwise.
    probability : ndarray, shape (n,)
        ``pi``, the probability that the coefficient is active.
    log_likelihood_ratio : ndarray, shape (n,)
        ``L``, evidence of the data for "active".
    extrinsic_log_odds : ndarray, shape (n,)
        ``e``, evidence of the support graph, each coefficient's own ``L`` left out.
    """

    precision: np.ndarray
    log_precision: np.ndarray
    probability: np.ndarray
    log_likelihood_ratio: np.ndarray
    extrinsic_log_odds: np.ndarray

    def __post_init__(self) -> None:
        for field in fields(self):
            getattr(self, field.name).flags.writeable = False

    def take(self, index: np.ndarray) -> PriorState:
        """Return the state at ``index`` (integers or a boolean mask)."""
        return PriorState(*(getattr(self, field.name)[index] for field in fields(self)))

    def replaced(self, index: int, *, precision: float, probability: float) -> PriorState:
        """Return a state in which one coefficient has another precision and probability.

        Parameters
        ----------
        index : int
            The coefficient.
        precision : float
            Its new ``rho``, positive.
        probability : float
            Its new ``pi``.
        """
        changes = {"precision": precision, "log_precision": np.log(precision), "probability": probability}
        arrays = {name: np.array(getattr(self, name)) for name in changes}
        for name, value in changes.items():
            arrays[name][index] = value
        return replace(self, **arrays)

    def append(self, other: PriorState) -> PriorState:
        """Return this state followed by ``other``."""
        pairs = ((getattr(self, f.name), getattr(other, f.name)) for f in fields(self))
        return PriorState(*(np.concatenate(pair) for pair in pairs))

    @staticmethod
    def initial(n: int, precision: float | np.ndarray, probability: float | np.ndarray = 0.5) -> PriorState:
        """Return a state without evidence: given precision and prior probability, ``L = 0``.

        Parameters
        ----------
        n : int
            Number of coefficients.
        precision : float or ndarray, shape (n,)
            Positive start value of ``rho``.
        probability : float or ndarray, shape (n,)
            Prior probability of "active", strictly between 0 and 1.

        Raises
        ------
        ValueError
            If a precision is not positive or a probability not inside (0, 1).
        """
        rho = np.broadcast_to(np.asarray(precision, dtype=np.float64), (n,)).copy()
        pi = np.broadcast_to(np.asarray(probability, dtype=np.float64), (n,)).copy()
        if not np.all(rho > 0.0):
            raise ValueError(f"precision must be positive, got {precision!r}")
        if not np.all((pi > 0.0) & (pi < 1.0)):
            raise ValueError(f"probability must lie strictly between 0 and 1, got {probability!r}")
        return PriorState(rho, np.log(rho), pi, np.zeros(n), np.log(pi) - np.log1p(-pi))
