"""What the command line reports of motion, oscillators and elements, where a result has it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from isac_toolbox.estimators import EstimationResult
    from isac_toolbox.scenario import Truth

__all__ = ["elements_report", "motion_report"]


def motion_report(result: EstimationResult, truth: Truth | None) -> dict[str, Any] | None:
    """Return frequency offsets and velocities of users and scatterers; None for a static block."""
    if result.frequency_offsets_hz is None or result.frequency_offset_std_hz is None:
        return None
    users: list[dict[str, Any]] = [
        {"frequency_offset_hz": offset, "frequency_offset_std_hz": std}
        for offset, std in zip(result.frequency_offsets_hz, result.frequency_offset_std_hz, strict=True)
    ]
    velocities, covariances = result.user_velocities_m_s, result.user_velocity_covariance_m2_s2
    if velocities is not None and covariances is not None and len(velocities) == len(users):
        for entry, velocity, covariance in zip(users, velocities, covariances, strict=True):
            entry.update(velocity_m_s=velocity, velocity_std_m_s=_spread(covariance))
    if truth is not None and len(truth.frequency_offsets_hz) == len(users):
        for k, entry in enumerate(users):
            entry["frequency_offset_error_hz"] = entry["frequency_offset_hz"] - truth.frequency_offsets_hz[k]
            if "velocity_m_s" in entry:
                off = entry["velocity_m_s"] - truth.user_velocities_m_s[k]
                entry["velocity_error_m_s"] = float(np.linalg.norm(off))
    return {"reference_time_s": result.reference_time_s, "users": users, "scatterers": _scatterers(result)}


def _scatterers(result: EstimationResult) -> list[dict[str, Any]]:
    """Velocity and probability of motion of every scatterer; empty where none may move."""
    moving = result.moving_probability
    velocities, covariances = result.scatterer_velocities_m_s, result.scatterer_velocity_covariance_m2_s2
    if moving is None or velocities is None or covariances is None:
        return []
    return [
        {"moving_probability": chance, "velocity_m_s": velocity, "velocity_std_m_s": _spread(covariance)}
        for chance, velocity, covariance in zip(moving, velocities, covariances, strict=True)
    ]


def elements_report(result: EstimationResult) -> dict[str, Any] | None:
    """Return gains and phases of the elements with deviations; None where they were taken as known."""
    response, std = result.element_response, result.element_response_std
    if response is None or std is None:
        return None
    return {
        "gain_db": 20 * np.log10(np.maximum(np.abs(response), np.finfo(float).tiny)),
        "phase_rad": np.angle(response),
        "relative_std": std,
    }


def _spread(covariance: np.ndarray) -> float:
    """Root of the trace of a covariance (3, 3)."""
    return float(np.sqrt(max(float(np.trace(covariance)), 0.0)))
