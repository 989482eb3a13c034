"""The genie receiver: LMMSE detection with the true channel."""

from __future__ import annotations

from dataclasses import dataclass
from time import perf_counter
from typing import TYPE_CHECKING

import numpy as np

from isac_toolbox.channel.observation import UplinkObservation
from isac_toolbox.estimators.baselines.channel_only import (
    check_observation,
)
from isac_toolbox.estimators.many import ManyBlocks
from isac_toolbox.estimators.result import Candidates, EstimationResult
from isac_toolbox.estimators.scene.assemble import Outcome, build_result
from isac_toolbox.estimators.scene.caveats import taken_as_static
from isac_toolbox.estimators.scene.channel_estimate import ChannelEstimate
from isac_toolbox.estimators.scene.scene_estimate import SceneEstimate
from isac_toolbox.estimators.scene.silence import without_zeros
from isac_toolbox.estimators.symbols.block import ReceivedBlock
from isac_toolbox.estimators.symbols.detection import ChannelKnowledge, detect
from isac_toolbox.inference.turbo import Callback

if TYPE_CHECKING:
    from isac_toolbox.scenario import Truth


__all__ = ["GenieLMMSE"]


@dataclass(frozen=True, eq=False)
class GenieLMMSE(ManyBlocks):
    """LMMSE detection with the true channel and noise: what no linear receiver can beat.

    Receivers that decide users jointly, as :class:`EMTurboBiSVBI` does where they are coupled, can.

    The one estimator that is given the truth; its channel and scene are the true ones.

    Parameters
    ----------
    truth : Truth
        Of the simulation that made the observation.

    Raises
    ------
    TypeError
        If ``truth`` has no channel.
    """

    truth: Truth

    def __post_init__(self) -> None:
        if not hasattr(self.truth, "channel"):
            raise TypeError(f"truth must be a simulation's truth, got {type(self.truth).__name__}")

    def estimate(self, obs: UplinkObservation, *, callback: Callback | None = None) -> EstimationResult:
        """Detect the data of the truth's own block; ``callback`` is never called.

        Raises
        ------
        ValueError
            If the truth belongs to a block of another shape.
        """
        del callback
        check_observation(obs)
        truth = self.truth
        expected = (obs.n_users, obs.n_subcarriers, obs.array.n_elements)
        if truth.channel.shape != expected:
            raise ValueError(
                f"truth.channel must have shape (K, N, M) = {expected}, got {truth.channel.shape}"
            )
        start = perf_counter()
        obs, _, warnings = without_zeros(obs)
        block = ReceivedBlock.of(obs, scale=1.0)
        detection = detect(block, ChannelKnowledge(truth.channel), truth.noise_variance, joint=False)
        n_points = len(truth.scatterer_positions_m)
        probability, seen = np.ones(n_points), truth.visibility.astype(float)
        scene = SceneEstimate(
            scatterer_positions_m=truth.scatterer_positions_m,
            scatterer_probability=probability,
            scatterer_covariance_m2=np.zeros((n_points, 3, 3)),
            scatterer_extent_m2=np.zeros((n_points, 3, 3)),
            visibility_probability=seen,
            candidates=Candidates(truth.scatterer_positions_m, probability, seen),
            line_of_sight_probability=truth.line_of_sight.astype(float),
            unlocated_paths=truth.unlocated_paths,
            user_positions_m=truth.user_positions_m,
            user_position_covariance_m2=np.zeros((obs.n_users, 3, 3)),
            time_offsets_s=truth.time_offsets_s,
            time_offset_std_s=np.zeros(obs.n_users),
        )
        estimate = ChannelEstimate(truth.channel, np.zeros(expected), truth.noise_variance)
        n_paths = int(truth.visibility.sum())
        outcome = Outcome.finished(
            truth.noise_variance, n_paths, perf_counter() - start, [*warnings, *taken_as_static(obs)]
        )
        return build_result("GenieLMMSE", estimate, scene, detection, outcome)
