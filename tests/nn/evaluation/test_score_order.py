"""Scores of out-of-distribution inputs whose formulas order two inputs differently."""

import numpy as np

from isac_toolbox.nn import ood_auroc


def test_the_energy_sums_over_all_classes():
    """`ln(3 e^4) > 5 > 4.5`: the largest logit alone would order them the other way round."""
    level, single = np.array([[4.0, 4.0, 4.0]]), np.array([[5.0, -9.0, -9.0]])
    assert ood_auroc(level, single, "energy") == 1.0
    assert ood_auroc(single, np.array([[4.5, -9.0, -9.0]]), "energy") == 1.0


def test_the_maximum_probability_sees_one_class_alone():
    inside, outside = np.array([[0.5, 0.25, 0.25, 0.0]]), np.array([[0.49, 0.49, 0.01, 0.01]])
    assert ood_auroc(inside, outside, "max_softmax") == 1.0
    assert ood_auroc(inside, outside, "entropy") == 0.0
