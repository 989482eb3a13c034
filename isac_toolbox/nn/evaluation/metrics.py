"""Quality of predicted probabilities (docs/theory-ssvi.md, section 7)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from isac_toolbox.metrics import expected_calibration_error as binary_calibration_error

__all__ = [
    "brier_score",
    "checked_probabilities",
    "expected_calibration_error",
    "negative_log_likelihood",
    "predict_loader",
    "prediction_metrics",
]


def checked_probabilities(name: str, probabilities: Any) -> np.ndarray:
    """Return probabilities (n, n_classes) in float64, or raise an error that names the argument."""
    p = np.asarray(probabilities, dtype=np.float64)
    if p.ndim != 2 or not len(p):
        raise ValueError(f"{name} must have shape (n, n_classes) with n > 0, got {p.shape}")
    if not np.all(np.isfinite(p)) or np.any(p < 0.0) or np.any(np.abs(p.sum(1) - 1.0) > 1e-3):
        raise ValueError(f"{name} must be non-negative and add up to 1 in every row")
    return p


def _checked(probabilities: Any, labels: Any) -> tuple[np.ndarray, np.ndarray]:
    """Return probabilities and labels, or raise an error that names the argument."""
    p, y = checked_probabilities("probabilities", probabilities), np.asarray(labels)
    if y.shape != p.shape[:1] or y.dtype.kind not in "iu":
        raise ValueError(f"labels must be {len(p)} integers, got {y.dtype} of shape {y.shape}")
    if y.min() < 0 or y.max() >= p.shape[1]:
        raise ValueError(f"labels must lie in 0..{p.shape[1] - 1}, got {y.min()}..{y.max()}")
    return p, y


def negative_log_likelihood(probabilities: Any, labels: Any) -> float:
    """Return the mean ``-ln p(label)`` in nats, with probabilities of at least 1e-12."""
    p, y = _checked(probabilities, labels)
    return float(-np.mean(np.log(np.maximum(p[np.arange(len(y)), y], 1e-12))))


def brier_score(probabilities: Any, labels: Any) -> float:
    """Return the mean squared distance of the probabilities and the one-hot label, summed over classes."""
    p, y = _checked(probabilities, labels)
    return float(np.mean(np.sum((p - np.eye(p.shape[1])[y]) ** 2, axis=1)))


def expected_calibration_error(probabilities: Any, labels: Any, n_bins: int = 15) -> float:
    """Return the expected calibration error: mean distance of confidence and accuracy over equal bins.

    Parameters
    ----------
    probabilities : array_like, shape (n, n_classes)
        Class probabilities.
    labels : array_like of int, shape (n,)
        True classes.
    n_bins : int
        Bins of the largest probability (the confidence).

    Notes
    -----
    Source: Guo, Pleiss, Sun, Weinberger, "On calibration of modern neural networks", ICML 2017.
    """
    p, y = _checked(probabilities, labels)
    return binary_calibration_error(np.minimum(p.max(1), 1.0), p.argmax(1) == y, n_bins)


def prediction_metrics(probabilities: Any, labels: Any, n_bins: int = 15) -> dict[str, float]:
    """Return ``accuracy``, ``nll``, ``ece`` and ``brier``.

    Parameters
    ----------
    probabilities : array_like, shape (n, n_classes)
    labels : array_like of int, shape (n,)
    n_bins : int
        Bins of the calibration error.

    Returns
    -------
    dict of str to float
    """
    p, y = _checked(probabilities, labels)
    return {
        "accuracy": float(np.mean(p.argmax(1) == y)),
        "nll": negative_log_likelihood(p, y),
        "ece": expected_calibration_error(p, y, n_bins),
        "brier": brier_score(p, y),
    }


def predict_loader(predict: Callable[[Tensor], Tensor], loader: Any) -> tuple[np.ndarray, np.ndarray]:
    """Return probabilities and labels of all batches."""
    pairs = [(predict(x), y) for x, y in loader]
    return tuple(torch.cat(part).numpy(force=True) for part in zip(*pairs))  # type: ignore[return-value]
