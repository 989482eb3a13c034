"""Metrics of predicted probabilities, and the sparse product against the dense one."""

import numpy as np
import pytest
import torch

from isac_toolbox.nn.evaluation import metrics as metrics
from isac_toolbox.nn.ssvi.sparse_linear import compressed_rows, sparse_linear

CERTAIN = np.array([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 0.0]])
LABELS = np.array([0, 1, 0, 1])


def test_metrics_by_hand():
    found = metrics.prediction_metrics(CERTAIN, LABELS)
    assert found["accuracy"] == 0.75
    assert found["nll"] == pytest.approx(-np.log(1e-12) / 4)
    assert found["brier"] == pytest.approx(2.0 / 4)
    assert found["ece"] == pytest.approx(0.25)


def test_a_calibrated_forecast_has_no_calibration_error():
    p = np.tile([0.75, 0.25], (4, 1))
    assert metrics.expected_calibration_error(p, np.array([0, 0, 0, 1])) == pytest.approx(0.0)


@pytest.mark.parametrize(
    ("p", "y", "match"),
    [
        (np.ones(3), LABELS, "shape"),
        (2 * CERTAIN, LABELS, "add up to 1"),
        (np.full((4, 2), np.nan), LABELS, "add up to 1"),
        (CERTAIN, LABELS[:2], "labels must be 4 integers"),
        (CERTAIN, LABELS + 0.5, "labels must be 4 integers"),
        (CERTAIN, LABELS + 1, r"labels must lie in 0\.\.1"),
    ],
)
def test_bad_probabilities_are_named(p, y, match):
    with pytest.raises(ValueError, match=match):
        metrics.prediction_metrics(p, y)


def test_bad_bins_are_named():
    with pytest.raises(ValueError, match="n_bins"):
        metrics.expected_calibration_error(CERTAIN, LABELS, 0)


@pytest.mark.parametrize("lead", [(7,), (2, 3), ()])
def test_sparse_product_equals_the_dense_one(lead):
    generator = torch.Generator().manual_seed(0)
    index = torch.randperm(40 * 30, generator=generator)[:90].sort().values
    x = torch.randn((*lead, 30), generator=generator, requires_grad=True)
    values = torch.randn(90, generator=generator, requires_grad=True)
    dense = torch.zeros(1200).scatter(0, index, values).reshape(40, 30)
    slope = torch.randn((*lead, 40), generator=generator)
    wanted = torch.autograd.grad((x @ dense.t() * slope).sum(), (x, values))
    y = sparse_linear(x, values, *compressed_rows(index, 40, 30))
    torch.testing.assert_close(y, x @ dense.t(), atol=1e-5, rtol=1e-4)
    for got, want in zip(torch.autograd.grad((y * slope).sum(), (x, values)), wanted):
        torch.testing.assert_close(got, want, atol=1e-5, rtol=1e-4)


def test_input_without_gradient():
    starts, columns = compressed_rows(torch.tensor([0, 5]), 2, 3)
    values = torch.ones(2, requires_grad=True)
    sparse_linear(torch.tensor([[1.0, 2.0, 3.0]]), values, starts, columns).sum().backward()
    assert values.grad.tolist() == [1.0, 3.0]
