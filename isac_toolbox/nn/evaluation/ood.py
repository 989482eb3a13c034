"""Telling foreign inputs from the network's own kind (docs/theory-ssvi.md, section 7)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from scipy.special import logsumexp
from torch import Tensor, nn

from isac_toolbox._validation import check_choice, check_integer, import_optional
from isac_toolbox.metrics import auroc
from isac_toolbox.nn.evaluation.metrics import checked_probabilities

__all__ = ["neighbour_distance", "ood_auroc", "penultimate_features"]


def ood_auroc(inside: Any, outside: Any, score: str = "entropy") -> float:
    """Return the area under the ROC curve of telling foreign inputs by what the network says of them.

    Parameters
    ----------
    inside, outside : array_like
        What the network says of its own kind of inputs, and of foreign ones; the score tells the shape.
    score : {"entropy", "confidence", "energy", "information", "given"}
        Of probabilities (n, n_classes), the entropy or one minus the largest; of logits (n, n_classes), the
        free energy `-ln sum exp(logit)`, which still sees how large they are; of the probabilities of several
        networks (n_networks, n, n_classes), as `SSVI.predict_draws` returns them, the mutual information of
        class and network; or (n,) scores as they are, such as `neighbour_distance`.

    Returns
    -------
    float
        1 where every foreign input scores higher, 0.5 by chance.

    Raises
    ------
    ValueError
        If the score is unknown, or its inputs have the wrong shape or are no probabilities, or not finite.

    Notes
    -----
    Source: docs/theory-ssvi.md, section 7. Energy: Liu, Wang, Owens, Li, "Energy-based out-of-distribution
    detection", NeurIPS 2020, arXiv:2010.03759.
    """
    check_choice("score", score, tuple(_SCORES))
    parts = [_SCORES[score](name, z) for name, z in (("inside", inside), ("outside", outside))]
    is_foreign = np.repeat([False, True], [len(part) for part in parts])
    return auroc(np.concatenate(parts), is_foreign)


def penultimate_features(model: nn.Module, x: Tensor) -> Tensor:
    """Return what the last Linear layer reads.

    Parameters
    ----------
    model : nn.Module
        Classifier, for example `SSVI.mean_model()`; its mode stays.
    x : Tensor, shape (n, ...)
        Inputs.

    Returns
    -------
    Tensor, shape (n, n_features)
        Without gradients.

    Raises
    ------
    ValueError
        If the model has no Linear layer.

    Notes
    -----
    Source: docs/theory-ssvi.md, section 7.
    """
    linear = [module for module in model.modules() if isinstance(module, nn.Linear)]
    if not linear:
        raise ValueError(f"model must have an nn.Linear layer, {type(model).__name__} has none")
    read: list[Tensor] = []
    handle = linear[-1].register_forward_pre_hook(lambda _, inputs: read.append(inputs[0]))
    try:
        with torch.no_grad():
            model(x)
    finally:
        handle.remove()
    return read[-1].flatten(1)


def neighbour_distance(features: Any, reference: Any, k: int = 50) -> np.ndarray:
    """Return the distance of every feature vector from its `k`-th nearest among those of training inputs.

    All vectors are scaled to unit length first.

    Parameters
    ----------
    features : array_like, shape (n, n_features)
        Vectors to score, for example `penultimate_features`.
    reference : array_like, shape (n_reference, n_features)
        Those of training inputs.
    k : int
        Which neighbour, at most `n_reference`.

    Returns
    -------
    ndarray, shape (n,)

    Raises
    ------
    TypeError, ValueError
        If an array is not finite or has the wrong shape, or `k` is out of range.
    ImportError
        If scikit-learn is not installed.

    Notes
    -----
    Source: Sun, Ming, Zhu, Li, "Out-of-distribution detection with deep nearest neighbors", ICML 2022,
    arXiv:2204.06507.
    """
    neighbours = import_optional("sklearn.neighbors", "scikit-learn", "nn", "this score")
    vectors, known = _unit_rows("features", features), _unit_rows("reference", reference)
    if vectors.shape[1] != known.shape[1]:
        raise ValueError(
            f"features must have the {known.shape[1]} columns of reference, got {vectors.shape[1]}"
        )
    if check_integer("k", k, 1) > len(known):
        raise ValueError(f"k must be at most the {len(known)} rows of reference, got {k}")
    search = neighbours.NearestNeighbors(n_neighbors=k, algorithm="brute").fit(known)
    return np.asarray(search.kneighbors(vectors)[0][:, -1])


def _unit_rows(name: str, rows: Any) -> np.ndarray:
    x = np.asarray(rows, dtype=np.float32)
    if x.ndim != 2 or not x.size or not np.all(np.isfinite(x)):
        raise ValueError(f"{name} must be finite and of shape (n, n_features) with n > 0, got {x.shape}")
    return x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12)


def _entropy(name: str, probabilities: Any) -> np.ndarray:
    p = checked_probabilities(name, probabilities)
    return -np.sum(p * np.log(np.maximum(p, 1e-12)), axis=1)


def _lack_of_confidence(name: str, probabilities: Any) -> np.ndarray:
    return 1.0 - checked_probabilities(name, probabilities).max(1)


def _energy(name: str, logits: Any) -> np.ndarray:
    z = np.asarray(logits, dtype=np.float64)
    if z.ndim != 2 or not z.size or not np.all(np.isfinite(z)):
        raise ValueError(f"{name} must be finite logits of shape (n, n_classes) with n > 0, got {z.shape}")
    return -logsumexp(z, axis=1)


def _information(name: str, draws: Any) -> np.ndarray:
    """Entropy of the mean less the mean entropy."""
    p = np.asarray(draws, dtype=np.float64)
    if p.ndim != 3 or not len(p):
        raise ValueError(f"{name} must have shape (n_networks, n, n_classes), got {p.shape}")
    return _entropy(name, p.mean(0)) - np.mean([_entropy(name, part) for part in p], axis=0)


def _given(name: str, scores: Any) -> np.ndarray:
    z = np.asarray(scores, dtype=np.float64)
    if z.ndim != 1 or not z.size or not np.all(np.isfinite(z)):
        raise ValueError(f"{name} must be finite scores of shape (n,) with n > 0, got {z.shape}")
    return z


_SCORES: dict[str, Callable[[str, Any], np.ndarray]] = {
    "entropy": _entropy,
    "confidence": _lack_of_confidence,
    "energy": _energy,
    "information": _information,
    "given": _given,
}
