"""Snapshots of the scene while an estimator iterates, to look at or to play afterwards."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from isac_toolbox.channel.array import SPEED_OF_LIGHT_M_S
from isac_toolbox.channel.paths import UnlocatedPaths
from isac_toolbox.estimators.scene.loop import SceneLoop
from isac_toolbox.inference.turbo import TurboLoop

__all__ = ["SceneRecorder", "SceneSnapshot"]

RealArray = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class SceneSnapshot:
    """The scene after one iteration, in the names of :class:`EstimationResult`.

    Attributes
    ----------
    iteration : int
        Counted from 1.
    scatterer_positions_m : ndarray, shape (S, 3)
        Every point of the working set, whatever its probability.
    scatterer_probability : ndarray, shape (S,)
    visibility_probability : ndarray, shape (K, S)
    line_of_sight_probability : ndarray, shape (K,)
    unlocated_paths : UnlocatedPaths
    user_positions_m : ndarray, shape (K, 3)
    noise_variance : float
        Per sample.
    objective : float
    """

    iteration: int
    scatterer_positions_m: RealArray
    scatterer_probability: RealArray
    visibility_probability: RealArray
    line_of_sight_probability: RealArray
    unlocated_paths: UnlocatedPaths
    user_positions_m: RealArray
    noise_variance: float
    objective: float


@dataclass(eq=False)
class SceneRecorder:
    """A callback that keeps a :class:`SceneSnapshot` of every iteration.

    Pass it as ``estimate(obs, callback=recorder)``. A new run, also one that an estimator starts again by
    itself, replaces the snapshots of the one before. Estimators without iterations leave it empty.

    Attributes
    ----------
    snapshots : list of SceneSnapshot
    """

    snapshots: list[SceneSnapshot] = field(default_factory=list)

    def begin(self, loop: TurboLoop) -> None:
        """Forget the run before."""
        self.snapshots.clear()

    def __call__(self, loop: TurboLoop) -> None:
        """Take a snapshot, unless the loop is still inside an iteration.

        Raises
        ------
        TypeError
            If the loop does not estimate a scene.
        """
        if not isinstance(loop, SceneLoop):
            raise TypeError(f"loop must be the loop of a scene estimator, got {type(loop).__name__}")
        seen = self.snapshots[-1].iteration if self.snapshots else 0
        if loop.n_iter != seen:
            self.snapshots.append(_snapshot(loop))

    def __len__(self) -> int:
        return len(self.snapshots)

    def __iter__(self) -> Iterator[SceneSnapshot]:
        return iter(self.snapshots)

    def __getitem__(self, index: int) -> SceneSnapshot:
        return self.snapshots[index]


def _snapshot(loop: SceneLoop) -> SceneSnapshot:
    """Copies of what the loop believes now."""
    working = loop.working
    scene = working.fit.scene
    return SceneSnapshot(
        iteration=loop.n_iter,
        scatterer_positions_m=scene.points_m.copy(),
        scatterer_probability=working.point_probability.copy(),
        visibility_probability=working.visibility_probability.copy(),
        line_of_sight_probability=working.line_of_sight_probability,
        unlocated_paths=_unlocated(loop),
        user_positions_m=scene.users_m[: None if working.problem.prior.has_places else 0].copy(),
        noise_variance=float(loop.noise_variance),
        objective=float(loop.objective),
    )


def _unlocated(loop: SceneLoop) -> UnlocatedPaths:
    """Unlocated paths of the working set with their clock offsets removed."""
    working = loop.working
    scene, user = working.fit.scene, working.unlocated_user
    return UnlocatedPaths(
        user=user.copy(),
        direction_cosines=scene.unlocated_m[:, 1:].copy(),
        delay_s=(scene.unlocated_m[:, 0] - scene.offsets_m[user]) / SPEED_OF_LIGHT_M_S,
        gain=np.asarray(
            loop.block.scale * working.fit.posterior.mean[working.fit.paths.is_unlocated], dtype=complex
        ),
        probability=working.unlocated_probability.copy(),
    )
