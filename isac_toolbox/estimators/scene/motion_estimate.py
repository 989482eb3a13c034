"""What moves and turns beside the scatterers, as an estimator found it."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from isac_toolbox.channel.evolution import ChannelEvolution
from isac_toolbox.channel.motion import Motion
from isac_toolbox.estimators.scene.derotation import evolution_of
from isac_toolbox.estimators.scene.fit import Fit, diagonal_blocks
from isac_toolbox.estimators.symbols.derotation import Derotation
from isac_toolbox.estimators.symbols.phases import PhasePrior

__all__ = ["MotionEstimate"]

RealArray = NDArray[np.float64]
ComplexArray = NDArray[np.complex128]


@dataclass(frozen=True, eq=False)
class MotionEstimate:
    """What moves and turns beside the scatterers, in the names and units of :class:`EstimationResult`."""

    reference_time_s: float
    frequency_offsets_hz: RealArray
    frequency_offset_std_hz: RealArray
    user_velocities_m_s: RealArray
    user_velocity_covariance_m2_s2: RealArray
    symbol_phase_rad: RealArray
    user_symbol_phase_rad: RealArray
    evolution: ChannelEvolution

    def without(self, silent: NDArray[np.int64]) -> MotionEstimate:
        """Return the same with no channel on elements that are silent."""
        heard = np.ones(self.evolution.parts.shape[-1], complex)
        heard[silent] = 0
        return self.over_elements(heard)

    def over_elements(self, response: ComplexArray) -> MotionEstimate:
        """Return the same with the channel of elements of some responses (M,)."""
        evolution = ChannelEvolution(self.evolution.parts * response, self.evolution.curves)
        return replace(self, evolution=evolution)

    @classmethod
    def of_fit(
        cls, fit: Fit, covariance: RealArray, motion: Motion, derotation: Derotation, scale: float
    ) -> MotionEstimate:
        """Return the motion of a fit of a block that was derotated.

        Of the phases that all users share the station's oscillator has the part that the priors give it, and
        of the frequencies that walks look like the walks have theirs.
        """
        found = fit.scene.motion
        assert found is not None
        offsets, users, _, _ = found.blocks(fit.scene.n_parameters - found.size)
        of_walks = _slope_variances(motion)
        share = of_walks / np.maximum(of_walks + motion.frequency_offset_stds_hz**2, 1e-300)
        variance = (1 - share) ** 2 * np.diag(covariance)[offsets] + (1 - share) * of_walks
        lines = 2 * np.pi * np.outer(share * found.offsets_hz, motion.times_s)
        station, alone = _shared(derotation.phases_rad + lines, motion)
        return cls(
            motion.reference_time_s,
            (1 - share) * found.offsets_hz,
            np.sqrt(variance),
            found.user_velocities_m_s,
            diagonal_blocks(covariance[users, users]),
            station,
            alone,
            evolution_of(fit, derotation, scale),
        )


def _slope_variances(motion: Motion) -> RealArray:
    """Variances (K,) of the frequencies that walking phases look like, zero without."""
    walks = PhasePrior.of(motion)
    return np.zeros(len(motion.frequency_offset_stds_hz)) if walks is None else walks.slope_stds_hz**2


def _shared(phases_rad: RealArray, motion: Motion) -> tuple[RealArray, RealArray]:
    """Station's phases (T,) and users' own (K, T) of their sums, by the variances of the walks."""
    own, common = motion.user_phase_noise_stds_rad**2, motion.phase_noise_std_rad**2
    if not common:
        return np.zeros(phases_rad.shape[1]), phases_rad
    if not np.any(own):
        return phases_rad.mean(axis=0), np.zeros_like(phases_rad)
    between = np.diag(own) + common
    station = np.full(len(own), common) @ np.linalg.pinv(between) @ phases_rad
    return station, np.where(own[:, None] > 0, phases_rad - station, 0.0)
