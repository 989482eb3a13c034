"""MUSIC-SCVBI: MUSIC candidates, then subspace-constrained VBI at fixed positions.

The coarse stage of arXiv:2502.00811 as an estimator of its own; docs/theory.md, section 7.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from isac_toolbox._validation import check_integer, check_positive
from isac_toolbox.channel.observation import UplinkObservation
from isac_toolbox.estimators.coarse.start import NO_PEAKS, music_working_set
from isac_toolbox.estimators.many import ManyBlocks
from isac_toolbox.estimators.result import EstimationResult
from isac_toolbox.estimators.scene.loop import SceneLoop
from isac_toolbox.estimators.scene.problem import Problem
from isac_toolbox.estimators.scene.silence import SilenceWatch
from isac_toolbox.estimators.scene.working_set import WorkingSet
from isac_toolbox.inference.hierarchy import RULES
from isac_toolbox.inference.turbo import TurboLoop

__all__ = ["MusicSCVBI"]


@dataclass(frozen=True)
class MusicSCVBI(ManyBlocks):
    """Coarse scene, channel and data from pilots: MUSIC peaks pruned by sparse Bayesian inference.

    Positions stay where MUSIC put them and users where they are nominally, so the channel's error is
    that of the grid; it is the start of the fine estimator, and the baseline without refinement. A linear
    array's spectrum has ridges instead of peaks: the result then warns that it is rough.

    Parameters
    ----------
    rule : {"extrinsic", "structured", "mean_field"}
        Update rule of the sparse prior.
    max_iter : int
        Largest number of sweeps.
    tol : float
        Converged when the gains change by less than this, relatively, in two successive sweeps.

    Raises
    ------
    TypeError, ValueError
        For a setting that does not exist or is out of range.
    """

    rule: str = "extrinsic"
    max_iter: int = 30
    tol: float = 1e-4

    def __post_init__(self) -> None:
        if self.rule not in RULES:
            raise ValueError(f"rule must be one of {RULES}, got {self.rule!r}")
        check_integer("max_iter", self.max_iter, 1)
        check_positive("tol", self.tol)

    def estimate(
        self, obs: UplinkObservation, *, callback: Callable[[TurboLoop], bool | None] | None = None
    ) -> EstimationResult:
        """Estimate from one block; ``callback`` is called with the loop after every sweep.

        Raises
        ------
        TypeError
            If ``obs`` is not an observation.
        ValueError
            If a user has no usable pilot, or places are not given.
        """
        return MusicScvbiLoop(self, obs).run_bounded(callback)


class MusicScvbiLoop(SceneLoop):
    """Sweeps of :class:`MusicSCVBI`."""

    name = "MUSIC-SCVBI"
    judges_fit = False  # positions stay on the grid

    def __init__(self, settings: MusicSCVBI, obs: UplinkObservation) -> None:
        super().__init__(obs, settings.max_iter, settings.tol)
        obs.geometry_for("MusicSCVBI")
        self.settings = settings
        if not all(obs.array.sees_cosines):
            self.warnings.append(
                f"{NO_PEAKS}: points and channel of this estimator are rough there; EMTurboBiSVBI and NOMP "
                "do not need peaks"
            )

    def setup(self) -> None:
        """Take the peaks of MUSIC as candidates."""
        super().setup()
        self.start(self._coarse)

    def _coarse(self, pilots: Problem, watch: SilenceWatch | None) -> WorkingSet:
        del watch  # it looks at the outcome
        return music_working_set(self.obs, pilots, self.search, self.settings.rule)

    def step(self) -> None:
        """Do one sweep: E-step, noise, removal."""
        before = self.working.fit.posterior.mean
        n_points = self.working.n_points
        self.working = self.working.completed().e_step(1).learn_noise()
        self.remove_rejected()
        after = self.working.fit.posterior.mean
        if self.working.n_points == n_points:
            size = float(np.linalg.norm(after))
            self.change = float(np.linalg.norm(after - before)) / max(size, 1e-300)
        else:
            self.change = np.inf
        self.record()
