"""Out-of-distribution detection (docs/theory-ssvi.md, section 7)."""

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
    """Return the area under the ROC curve of an out-of-distribution score.

    Parameters
    ----------
    inside, outside : array_like
        Outputs of the network for in-distribution and for out-of-distribution inputs, in the shape that the
        score needs.
    score : {"entropy", "max_softmax", "energy", "mutual_information", "given"}
        Of probabilities (n, n_classes): the entropy, or one minus the maximum softmax probability. Of logits
        (n, n_classes): the free energy ``-ln sum exp(logit)``, which depends on their size, as probabilities
        do not. Of the probabilities of several networks (n_networks, n, n_classes), as ``SSVI.predict_draws``
        returns them: the mutual information of class and network (BALD). ``"given"``: the inputs are scores
        (n,) already, such as ``neighbour_distance``. ``"confidence"`` and ``"information"`` are the former
        names of the second and the fourth score.

    Returns
    -------
    float
        1 where every out-of-distribution input scores higher, 0.5 by chance.

    Raises
    ------
    ValueError
        If the score is unknown, or its inputs have the wrong shape, are not finite or no probabilities.

    Notes
    -----
    Source: docs/theory-ssvi.md, section 7. Maximum softmax probability: Hendrycks, Gimpel, "A baseline for
    detecting misclassified and out-of-distribution examples in neural networks", ICLR 2017, arXiv:1610.02136.
    Energy: Liu, Wang, Owens, Li, "Energy-based out-of-distribution detection", NeurIPS 2020,
    arXiv:2010.03759. Mutual information: Houlsby, Huszar, Ghahramani, Lengyel, "Bayesian active learning for
    classification and preference learning", arXiv:1112.5745.
    """
    chosen = _FORMER_NAMES.get(score, score) if isinstance(score, str) else score
    check_choice("score", chosen, tuple(_SCORES))
    parts = [_SCORES[chosen](name, z) for name, z in (("inside", inside), ("outside", outside))]
    is_outside = np.repeat([False, True], [len(part) for part in parts])
    return auroc(np.concatenate(parts), is_outside)


def penultimate_features(model: nn.Module, x: Tensor) -> Tensor:
    """Return the inputs of the last Linear layer.

    Parameters
    ----------
    model : nn.Module
        Classifier, for example ``SSVI.mean_model()``; its mode does not change.
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
    """Return the distance of every feature vector from its ``k``-th nearest training vector.

    All vectors are scaled to unit length first.

    Parameters
    ----------
    features : array_like, shape (n, n_features)
        Vectors to score, for example ``penultimate_features``.
    reference : array_like, shape (n_reference, n_features)
        Vectors of training inputs.
    k : int
        Number of the neighbour, at most ``n_reference``.

    Returns
    -------
    ndarray, shape (n,)

    Raises
    ------
    TypeError, ValueError
        If an array is not finite or has the wrong shape, or ``k`` is out of range.
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
    """Return feature vectors of unit length, or raise an error that names the argument."""
    x = np.asarray(rows, dtype=np.float32)
    if x.ndim != 2 or not x.size or not np.all(np.isfinite(x)):
        raise ValueError(f"{name} must be finite and of shape (n, n_features) with n > 0, got {x.shape}")
    return x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12)


def _entropy(name: str, probabilities: Any) -> np.ndarray:
    """Return the entropy of the prediction."""
    p = checked_probabilities(name, probabilities)
    return -np.sum(p * np.log(np.maximum(p, 1e-12)), axis=1)


def _max_softmax(name: str, probabilities: Any) -> np.ndarray:
    """Return one minus the maximum softmax probability."""
    return 1.0 - checked_probabilities(name, probabilities).max(1)


def _energy(name: str, logits: Any) -> np.ndarray:
    """Return the free energy of the logits."""
    z = np.asarray(logits, dtype=np.float64)
    if z.ndim != 2 or not z.size or not np.all(np.isfinite(z)):
        raise ValueError(f"{name} must be finite logits of shape (n, n_classes) with n > 0, got {z.shape}")
    return -logsumexp(z, axis=1)


def _mutual_information(name: str, draws: Any) -> np.ndarray:
    """Return the entropy of the mean prediction less the mean entropy."""
    p = np.asarray(draws, dtype=np.float64)
    if p.ndim != 3 or not len(p):
        raise ValueError(f"{name} must have shape (n_networks, n, n_classes), got {p.shape}")
    return _entropy(name, p.mean(0)) - np.mean([_entropy(name, part) for part in p], axis=0)


def _given(name: str, scores: Any) -> np.ndarray:
    """Return scores as they are."""
    z = np.asarray(scores, dtype=np.float64)
    if z.ndim != 1 or not z.size or not np.all(np.isfinite(z)):
        raise ValueError(f"{name} must be finite scores of shape (n,) with n > 0, got {z.shape}")
    return z


_SCORES: dict[str, Callable[[str, Any], np.ndarray]] = {
    "entropy": _entropy,
    "max_softmax": _max_softmax,
    "energy": _energy,
    "mutual_information": _mutual_information,
    "given": _given,
}
_FORMER_NAMES = {"confidence": "max_softmax", "information": "mutual_information"}
