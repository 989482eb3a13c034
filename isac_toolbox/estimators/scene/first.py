"""A scene that is expected, from which a search starts instead of from nothing (docs/theory.md, 11.4)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from isac_toolbox.channel.array import SPEED_OF_LIGHT_M_S
from isac_toolbox.channel.atoms.kinematics import Kinematics
from isac_toolbox.channel.atoms.scene import Scene
from isac_toolbox.channel.geometry import unit_vectors
from isac_toolbox.channel.observation import UplinkObservation
from isac_toolbox.channel.paths import UnlocatedPaths
from isac_toolbox.estimators.scene.problem import Problem, with_noise_precision
from isac_toolbox.estimators.scene.refine import refine
from isac_toolbox.estimators.scene.working_set import WorkingSet
from isac_toolbox.estimators.symbols.block import ReceivedBlock

__all__ = ["ExpectedScene", "expected_shifts_hz", "first_working_set"]

RealArray = NDArray[np.float64]

# Tuned: steps of the first refinement; a prediction is a fraction of a resolution cell off.
_STEPS = 4


@dataclass(frozen=True, eq=False)
class ExpectedScene:
    """What a block is expected to hold: S scatterers and K users.

    Attributes
    ----------
    scatterer_positions_m, scatterer_velocities_m_s : ndarray, shape (S, 3)
        A velocity of zero stands for a scatterer that rests.
    user_positions_m, user_velocities_m_s : ndarray, shape (K, 3)
    time_offsets_s, frequency_offsets_hz : ndarray, shape (K,)
    unlocated_paths : UnlocatedPaths
    noise_variance : float
        Per sample. A block that leaves clearly more is estimated again from nothing.
    """

    scatterer_positions_m: RealArray
    scatterer_velocities_m_s: RealArray
    user_positions_m: RealArray
    user_velocities_m_s: RealArray
    time_offsets_s: RealArray
    frequency_offsets_hz: RealArray
    unlocated_paths: UnlocatedPaths
    noise_variance: float

    def scene(self, problem: Problem) -> Scene:
        """Return it as a scene of a problem, what is known as it is known; points in the region."""
        prior, paths = problem.prior, self.unlocated_paths
        users = np.where(prior.user_stds_m > 0, self.user_positions_m, prior.users_m)
        offsets = np.where(prior.offset_stds_m > 0, SPEED_OF_LIGHT_M_S * self.time_offsets_s, 0.0)
        length = SPEED_OF_LIGHT_M_S * paths.delay_s + offsets[paths.user]
        return Scene(
            np.clip(self.scatterer_positions_m, *problem.region_m),
            users,
            offsets,
            np.column_stack([length, paths.direction_cosines]),
            self._motion(problem),
        )

    def _motion(self, problem: Problem) -> Kinematics | None:
        prior, paths = problem.prior.motion, self.unlocated_paths
        if prior is None or problem.statistics.frames is None:
            return None
        may_move = np.any(self.scatterer_velocities_m_s != 0, axis=1) & (prior.scatterer_velocity_std_m_s > 0)
        known = prior.user_velocity_stds_m_s == 0
        return Kinematics(
            np.where(prior.offset_stds_hz > 0, self.frequency_offsets_hz, 0.0),
            np.where(known, prior.user_velocities_m_s, self.user_velocities_m_s),
            self.scatterer_velocities_m_s * may_move[:, None],
            may_move,
            np.zeros(len(paths)) if paths.doppler_hz is None else paths.doppler_hz,
            prior.hz_per_m_s,
        )


def expected_shifts_hz(expected: ExpectedScene, obs: UplinkObservation) -> RealArray:
    """Return the Doppler shifts of the users' lines of sight, there or not, shape (K,)."""
    assert obs.motion is not None and obs.bs_position_m is not None
    direction, _ = unit_vectors(obs.bs_position_m, expected.user_positions_m)
    away = np.sum(direction * expected.user_velocities_m_s, axis=1)
    return np.asarray(expected.frequency_offsets_hz - obs.motion.hz_per_m_s * away)


def first_working_set(
    expected: ExpectedScene, problem: Problem, block: ReceivedBlock, rule: str
) -> WorkingSet:
    """Return the working set of an expected scene, every pair of user and scatterer in it, refined."""
    started = with_noise_precision(problem, block.scale**2 / expected.noise_variance)
    scene, statistics = expected.scene(started), problem.statistics
    n_users, user = len(scene.users_m), expected.unlocated_paths.user
    n_paths = n_users * (1 + len(scene.points_m)) + user.size
    power = statistics.energy / statistics.n_observations / n_paths
    n_cells = problem.receiver.frequencies_hz.size * problem.receiver.n_elements
    working = WorkingSet.start(started, scene, user, rule, power, n_cells)
    return working.with_fit(refine(working.fit, n_steps=_STEPS, tol=0.1))
