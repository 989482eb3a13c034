"""Metrics of predicted probabilities."""

import numpy as np
import pytest

from isac_toolbox.nn.evaluation import metrics as metrics

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
