"""Spike-slab mixture under a Gaussian message (docs/theory.md, section 3)."""

from __future__ import annotations

import numpy as np

from isac_toolbox.inference.messages import GaussianMessage


def gaussian_log_ratio(
    message: GaussianMessage, slab_precision: np.ndarray, spike_precision: np.ndarray, is_complex: bool
) -> np.ndarray:
    """Return the log-likelihood ratio of slab against spike for a Gaussian message.

    ``L = ln((v + 1/rho0)/(v + 1/rho1)) + |r|^2 (1/(v + 1/rho0) - 1/(v + 1/rho1))``, halved for real
    coefficients. Both differences are formed before they are taken, so nothing cancels.

    Parameters
    ----------
    message : GaussianMessage
    slab_precision, spike_precision : array_like, shape (n,)
        Prior precisions ``rho1`` and ``rho0`` of the two branches.
    is_complex : bool
        Whether the coefficients are complex.

    Returns
    -------
    ndarray, shape (n,)

    Notes
    -----
    Source: docs/theory.md, section 3, step 1.
    """
    narrow = message.variance + 1.0 / spike_precision
    wide = message.variance + 1.0 / slab_precision
    excess = 1.0 / slab_precision - 1.0 / spike_precision
    magnitude = np.abs(message.mean)
    ratio = -np.log1p(excess / narrow) + excess * (magnitude / narrow) * (magnitude / wide)
    return ratio if is_complex else 0.5 * ratio


def branch_variances(
    message: GaussianMessage, slab_precision: np.ndarray, spike_precision: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return the posterior variances ``w_s = 1/(1/v + rho_s)`` of slab and spike branch, each (n,).

    Parameters
    ----------
    message : GaussianMessage
    slab_precision, spike_precision : array_like, shape (n,)
        Prior precisions ``rho1`` and ``rho0`` of the two branches.

    Returns
    -------
    slab, spike : ndarray, shape (n,)
    """
    data_precision = 1.0 / message.variance
    return 1.0 / (data_precision + slab_precision), 1.0 / (data_precision + spike_precision)


def mixture_moments(
    probability: np.ndarray,
    message: GaussianMessage,
    slab_precision: np.ndarray,
    spike_precision: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """Return the mean and variance of the spike-slab posterior of each coefficient.

    Branch ``s`` has variance ``w_s = 1/(1/v + rho_s)`` and mean ``m_s = w_s r / v``; the branches are
    weighted by ``pi`` and ``1 - pi``.

    Parameters
    ----------
    probability : ndarray, shape (n,)
        Probability ``pi`` of the slab.
    message : GaussianMessage
    slab_precision, spike_precision : array_like, shape (n,)
        Prior precisions ``rho1`` and ``rho0`` of the two branches.

    Returns
    -------
    mean : ndarray, shape (n,)
    variance : ndarray, shape (n,)
    """
    w1, w0 = branch_variances(message, slab_precision, spike_precision)
    information = message.mean / message.variance
    mean = (probability * w1 + (1.0 - probability) * w0) * information
    spread = probability * (1.0 - probability) * np.abs((w1 - w0) * information) ** 2
    return mean, probability * w1 + (1.0 - probability) * w0 + spread
