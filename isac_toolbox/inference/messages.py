"""Gaussian messages between the linear model and the sparse prior (docs/theory.md, section 3)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

#: Guard: smallest message precision, as a fraction of the posterior precision.
PRECISION_FLOOR = 1e-12


@dataclass(frozen=True)
class GaussianMessage:
    """Independent pseudo-observations ``r_i = x_i + noise``, of variance ``v_i``.

    Attributes
    ----------
    mean : ndarray, shape (n,)
        ``r``, real or complex.
    variance : ndarray, shape (n,)
        ``v``, positive.
    """

    mean: np.ndarray
    variance: np.ndarray

    def take(self, index: np.ndarray) -> GaussianMessage:
        """Return the messages at ``index`` (integers or a boolean mask)."""
        return GaussianMessage(self.mean[index], self.variance[index])


def extrinsic_message(
    mean: np.ndarray, variance: np.ndarray, prior_precision: np.ndarray | float
) -> GaussianMessage:
    """Divide a zero-mean Gaussian prior out of a Gaussian marginal.

    ``1/v = 1/variance - rho`` and ``r = v mean / variance``. The difference is floored at ``PRECISION_FLOOR``
    times ``1/variance``, so that a marginal which the prior alone explains gives a message that is wide, not
    negative.

    Parameters
    ----------
    mean : ndarray, shape (n,)
        Posterior means, real or complex.
    variance : ndarray, shape (n,)
        Posterior variances, positive.
    prior_precision : ndarray, shape (n,), or float
        ``rho``, the precision the prior contributed.

    Returns
    -------
    GaussianMessage
        Mean and variance of shape (n,).

    Raises
    ------
    ValueError
        If a variance is not positive.

    Notes
    -----
    Source: docs/theory.md, section 3 (the turbo discipline: the receiver's own part is divided out).
    """
    variance = np.asarray(variance, dtype=np.float64)
    if not np.all(variance > 0.0):
        raise ValueError(f"variance must be positive, got a minimum of {np.min(variance)!r}")
    precision = np.maximum(1.0 / variance - prior_precision, PRECISION_FLOOR / variance)
    return GaussianMessage(np.asarray(mean) / (variance * precision), 1.0 / precision)
