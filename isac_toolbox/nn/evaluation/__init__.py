"""Quality of predictions: likelihood, calibration and out-of-distribution inputs."""

from isac_toolbox.nn.evaluation.metrics import (
    brier_score,
    expected_calibration_error,
    negative_log_likelihood,
    prediction_metrics,
)
from isac_toolbox.nn.evaluation.ood import neighbour_distance, ood_auroc, penultimate_features

__all__ = [
    "brier_score",
    "expected_calibration_error",
    "negative_log_likelihood",
    "neighbour_distance",
    "ood_auroc",
    "penultimate_features",
    "prediction_metrics",
]
