"""Quality of predicted probabilities (docs/theory-ssvi.md, section 7)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from scipy.special import logsumexp
from torch import Tensor

from isac_toolbox import metrics
from isac_toolbox.nn._checks import check_choice

__all__ = [
    "brier_score",
    "expected_calibration_error",
    "negative_log_likelihood",
    "ood_auroc",
    "predict_loader",
    "prediction_metrics",
]


def _checked_probabilities(name: str, probabilities: Any) -> np.ndarray:
    p = np.asarray(probabilities, dtype=np.float64)
    if p.ndim != 2 or not len(p):
        raise ValueError(f"{name} must have shape (n, n_classes) with n > 0, got {p.shape}")
    if not np.all(np.isfinite(p)) or np.any(p < 0.0) or np.any(np.abs(p.sum(1) - 1.0) > 1e-3):
        raise ValueError(f"{name} must be non-negative and add up to 1 in every row")
    return p


def _checked(probabilities: Any, labels: Any) -> tuple[np.ndarray, np.ndarray]:
    p, y = _checked_probabilities("probabilities", probabilities), np.asarray(labels)
    if y.shape != p.shape[:1] or y.dtype.kind not in "iu":
        raise ValueError(f"labels must be {len(p)} integers, got {y.dtype} of shape {y.shape}")
    if y.min() < 0 or y.max() >= p.shape[1]:
        raise ValueError(f"labels must lie in 0..{p.shape[1] - 1}, got {y.min()}..{y.max()}")
    return p, y


def negative_log_likelihood(probabilities: Any, labels: Any) -> float:
    """Return the mean `-ln p(label)` in nats, with probabilities of at least 1e-12."""
    p, y = _checked(probabilities, labels)
    return float(-np.mean(np.log(np.maximum(p[np.arange(len(y)), y], 1e-12))))


def brier_score(probabilities: Any, labels: Any) -> float:
    """Return the mean squared distance of the probabilities from the one-hot label, summed over classes."""
    p, y = _checked(probabilities, labels)
    return float(np.mean(np.sum((p - np.eye(p.shape[1])[y]) ** 2, axis=1)))


def expected_calibration_error(probabilities: Any, labels: Any, n_bins: int = 15) -> float:
    """Return the mean distance of confidence and accuracy over bins of equal width.

    Parameters
    ----------
    probabilities : array_like, shape (n, n_classes)
        Class probabilities.
    labels : array_like of int, shape (n,)
        True classes.
    n_bins : int
        Bins of the largest probability.

    Notes
    -----
    Source: Guo, Pleiss, Sun, Weinberger, "On calibration of modern neural networks", ICML 2017.
    """
    p, y = _checked(probabilities, labels)
    return metrics.expected_calibration_error(np.minimum(p.max(1), 1.0), p.argmax(1) == y, n_bins)


def ood_auroc(inside: Any, outside: Any, score: str = "entropy") -> float:
    """Return the area under the ROC curve of telling foreign inputs by what the network says of them.

    Parameters
    ----------
    inside, outside : array_like, shape (n, n_classes)
        Probabilities of the network's own kind of inputs, and of foreign ones; logits for the energy.
    score : {"entropy", "confidence", "energy"}
        Entropy of the prediction; one minus its largest probability; or the free energy `-ln sum exp(logit)`,
        which still sees how large the logits are.

    Returns
    -------
    float
        1 where every foreign input scores higher, 0.5 by chance.

    Raises
    ------
    ValueError
        If the score is unknown, or its inputs are no probabilities or no finite logits.

    Notes
    -----
    Source of the energy: Liu, Wang, Owens, Li, "Energy-based out-of-distribution detection", NeurIPS 2020,
    arXiv:2010.03759.
    """
    check_choice("score", score, tuple(_FOREIGN_SCORES))
    parts = [_FOREIGN_SCORES[score](name, z) for name, z in (("inside", inside), ("outside", outside))]
    is_foreign = np.repeat([False, True], [len(part) for part in parts])
    return metrics.auroc(np.concatenate(parts), is_foreign)


def _entropy(name: str, probabilities: Any) -> np.ndarray:
    p = _checked_probabilities(name, probabilities)
    return -np.sum(p * np.log(np.maximum(p, 1e-12)), axis=1)


def _lack_of_confidence(name: str, probabilities: Any) -> np.ndarray:
    return 1.0 - _checked_probabilities(name, probabilities).max(1)


def _energy(name: str, logits: Any) -> np.ndarray:
    z = np.asarray(logits, dtype=np.float64)
    if z.ndim != 2 or not z.size or not np.all(np.isfinite(z)):
        raise ValueError(f"{name} must be finite logits of shape (n, n_classes) with n > 0, got {z.shape}")
    return -logsumexp(z, axis=1)


_FOREIGN_SCORES: dict[str, Callable[[str, Any], np.ndarray]] = {
    "entropy": _entropy,
    "confidence": _lack_of_confidence,
    "energy": _energy,
}


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
