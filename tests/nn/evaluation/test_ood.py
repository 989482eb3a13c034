"""Out-of-distribution scores: by hand, by brute force, and by what they do not depend on."""

import sys

import numpy as np
import pytest
import torch
from torch import nn

from isac_toolbox.nn import SSVI, neighbour_distance, ood_auroc, penultimate_features
from isac_toolbox.nn.models import mlp

CERTAIN = np.array([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 0.0]])


def test_flat_predictions_have_the_higher_entropy():
    flat = np.full((5, 2), 0.5)
    for score in ("entropy", "max_softmax"):
        assert ood_auroc(CERTAIN, flat, score) == 1.0
        assert ood_auroc(flat, CERTAIN, score) == 0.0
        assert ood_auroc(flat, flat, score) == 0.5


def test_energy_depends_on_the_size_of_logits_and_probabilities_do_not():
    inside, outside = np.array([[5.0, 9.0], [9.0, 5.0]]), np.array([[0.0, 4.0], [1.0, -3.0]])
    assert ood_auroc(inside, outside, "energy") == 1.0
    p_inside, p_outside = (torch.softmax(torch.tensor(z), 1) for z in (inside, outside))
    assert ood_auroc(p_inside, p_outside, "entropy") == 0.5
    assert ood_auroc(inside + 1e4, outside + 1e4, "energy") == 1.0


def test_mutual_information_is_large_where_certain_networks_disagree():
    open_class = np.full((2, 3, 2), 0.5)  # both networks find the class open
    disputed = np.stack([np.tile([1.0, 0.0], (3, 1)), np.tile([0.0, 1.0], (3, 1))])
    agreed = np.stack([CERTAIN, CERTAIN])
    assert ood_auroc(open_class, disputed, "mutual_information") == 1.0
    assert ood_auroc(open_class, agreed, "mutual_information") == 0.5
    assert ood_auroc(open_class.mean(0), disputed.mean(0), "entropy") == 0.5


def test_neighbour_distance_by_brute_force():
    rng = np.random.default_rng(0)
    features, reference = rng.normal(size=(7, 5)), rng.normal(size=(40, 5))
    a, b = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (features, reference))
    wanted = np.sort(np.linalg.norm(a[:, None] - b, axis=2), axis=1)
    for k in (1, 3, 40):
        np.testing.assert_allclose(neighbour_distance(features, reference, k), wanted[:, k - 1], rtol=1e-4)
    scaled = neighbour_distance(features * rng.uniform(1.0, 9.0, (7, 1)), 3.0 * reference, 3)
    np.testing.assert_allclose(scaled, wanted[:, 2], rtol=1e-4)
    assert np.all(neighbour_distance(reference, reference, 1) < 1e-3)


def test_former_names_of_the_scores_are_accepted():
    flat = np.full((4, 2), 0.5)
    assert ood_auroc(CERTAIN, flat, "confidence") == ood_auroc(CERTAIN, flat, "max_softmax") == 1.0
    disputed = np.stack([CERTAIN, 1.0 - CERTAIN])
    for name in ("information", "mutual_information"):
        assert ood_auroc(np.stack([flat, flat]), disputed, name) == 1.0


def test_given_scores_are_taken_as_they_are():
    assert ood_auroc([0.0, 1.0], [2.0, 3.0], "given") == 1.0
    assert ood_auroc([0.0, 2.0], [1.0, 3.0], "given") == 0.75


def test_features_are_what_the_last_linear_layer_reads(digits):
    torch.manual_seed(0)
    net, x = mlp(64, (20, 12), 10).eval(), digits[2].x[:9]
    features = penultimate_features(net, x)
    assert features.shape == (9, 12) and not features.requires_grad
    torch.testing.assert_close(net.fc3(features), net(x))
    assert not net.fc3._forward_pre_hooks


def test_draws_average_to_the_prediction(digits):
    ssvi = SSVI(mlp(64, (16,), 10), density=0.5, initial_sigma=0.1).fit(digits[0], epochs=1, progress=False)
    x = digits[2].x[:8]
    draws = ssvi.predict_draws(x, 4)
    assert draws.shape == (4, 8, 10) and not torch.equal(draws[0], draws[1])
    torch.testing.assert_close(draws.mean(0), ssvi.predict_proba(x, n_samples=4))
    torch.testing.assert_close(ssvi.predict_draws(x, 0)[0], ssvi.predict_proba(x))
    noise = ssvi.predict_draws(torch.rand_like(x), 4)
    assert 0.0 <= ood_auroc(draws, noise, "mutual_information") <= 1.0


@pytest.mark.parametrize(
    ("inside", "outside", "score", "match"),
    [
        (CERTAIN, np.full((2, 2), np.inf), "energy", "outside must be finite logits"),
        (np.zeros(3), CERTAIN, "energy", "inside must be finite logits"),
        (CERTAIN, 3.0 * CERTAIN, "entropy", "outside must be non-negative"),
        (CERTAIN, CERTAIN, "mutual_information", "inside must have shape"),
        (CERTAIN[None], 3.0 * CERTAIN[None], "mutual_information", "outside must be non-negative"),
        ([1.0], [np.nan], "given", "outside must be finite scores"),
        (CERTAIN, CERTAIN, "given", "inside must be finite scores"),
        (CERTAIN, CERTAIN, "loudness", "score must be one of"),
    ],
)
def test_bad_outputs_are_named(inside, outside, score, match):
    with pytest.raises(ValueError, match=match):
        ood_auroc(inside, outside, score)


@pytest.mark.parametrize(
    ("features", "reference", "k", "match"),
    [
        (np.ones(3), np.ones((4, 3)), 1, "features must be finite"),
        (np.ones((2, 3)), np.full((4, 3), np.nan), 1, "reference must be finite"),
        (np.ones((2, 3)), np.ones((4, 2)), 1, "the 2 columns of reference, got 3"),
        (np.ones((2, 3)), np.ones((4, 3)), 5, "k must be at most the 4 rows of reference, got 5"),
        (np.ones((2, 3)), np.ones((4, 3)), 0, "k must be"),
    ],
)
def test_bad_features_are_named(features, reference, k, match):
    with pytest.raises(ValueError, match=match):
        neighbour_distance(features, reference, k)


def test_a_model_without_a_linear_layer_and_a_missing_package_are_named(monkeypatch):
    with pytest.raises(ValueError, match=r"must have an nn\.Linear layer, ReLU has none"):
        penultimate_features(nn.ReLU(), torch.zeros(1, 2))
    monkeypatch.setitem(sys.modules, "sklearn.neighbors", None)
    with pytest.raises(ImportError, match="scikit-learn"):
        neighbour_distance(np.ones((2, 3)), np.ones((4, 3)))
