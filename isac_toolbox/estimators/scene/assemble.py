"""From what an estimator found to an :class:`EstimationResult`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from isac_toolbox.estimators.result import Ambiguity, EstimationResult, Misfit, SceneInformation
from isac_toolbox.estimators.scene.channel_estimate import (
    ChannelEstimate,
    CouplingEstimate,
    DiffuseEstimate,
    ElementEstimate,
    ImageEstimate,
)
from isac_toolbox.estimators.scene.interferers import NoiseEstimate
from isac_toolbox.estimators.scene.motion_estimate import MotionEstimate
from isac_toolbox.estimators.scene.remedies import misfit_warnings
from isac_toolbox.estimators.scene.scene_estimate import SceneEstimate
from isac_toolbox.estimators.symbols.detection import Detection
from isac_toolbox.inference.turbo import History, IterationRecord

__all__ = ["Outcome", "build_result"]


@dataclass(frozen=True, eq=False)
class Outcome:
    """How an estimation went.

    Attributes
    ----------
    history : History
    status : str
        Why it stopped.
    converged : bool
    warnings : tuple of str
    ambiguities : tuple of Ambiguity
    """

    history: History
    status: str
    converged: bool
    warnings: tuple[str, ...] = ()
    ambiguities: tuple[Ambiguity, ...] = ()

    @classmethod
    def finished(
        cls, noise_variance: float, n_active: int, seconds: float, warnings: Sequence[str] = ()
    ) -> Outcome:
        """Return the outcome of a method without iterations: one row of history, no objective."""
        history = History()
        history.append(IterationRecord(float("nan"), noise_variance, n_active, seconds))
        return cls(history, "finished", True, tuple(warnings))


def build_result(
    estimator: str,
    channel: ChannelEstimate,
    scene: SceneEstimate,
    detection: Detection,
    outcome: Outcome,
    diffuse: DiffuseEstimate | None = None,
    motion: MotionEstimate | None = None,
    misfit: Misfit | None = None,
    information: SceneInformation | None = None,
    elements: ElementEstimate | None = None,
    noise: NoiseEstimate | None = None,
    silent: NDArray[np.int64] | None = None,
    images: ImageEstimate | None = None,
    coupling: CouplingEstimate | None = None,
) -> EstimationResult:
    """Return the result of an estimator, the one place that fills its fields."""
    parts = [part for part in (diffuse, motion, elements, noise, images, coupling) if part is not None]
    found = {f.name: getattr(part, f.name) for part in parts for f in fields(part)}
    if silent is not None:
        found["silent_elements"] = silent
    return EstimationResult(
        estimator=estimator,
        channel=channel.mean,
        channel_variance=channel.variance,
        noise_variance=channel.noise_variance,
        **{field.name: getattr(scene, field.name) for field in fields(scene)},
        symbol_mean=detection.moments.mean,
        symbol_decision=detection.decision,
        llr=detection.llr,
        history=outcome.history,
        converged=outcome.converged,
        n_iter=len(outcome.history),
        status=_status(outcome, misfit),
        warnings=(*outcome.warnings, *misfit_warnings(misfit)),
        ambiguities=outcome.ambiguities,
        misfit=misfit,
        information=information,
        **found,
    )


def _status(outcome: Outcome, misfit: Misfit | None) -> str:
    """Why an estimator stopped, or what is the matter with an outcome that it converged to."""
    if not outcome.converged:
        return outcome.status
    if misfit is not None and misfit.failing:
        return "misfit"
    return "ambiguous" if outcome.ambiguities else outcome.status
