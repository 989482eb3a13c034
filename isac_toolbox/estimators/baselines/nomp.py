"""Newtonised OMP with location and fusion over users."""

from __future__ import annotations

from dataclasses import dataclass
from time import perf_counter

import numpy as np
from numpy.typing import NDArray

from isac_toolbox._threads import bounded_threads
from isac_toolbox._validation import check_positive
from isac_toolbox.channel.atoms.scene import Paths
from isac_toolbox.channel.observation import UplinkObservation
from isac_toolbox.estimators.baselines.channel_only import (
    check_observation,
)
from isac_toolbox.estimators.coarse.nomp import newtonised_omp
from isac_toolbox.estimators.many import ManyBlocks
from isac_toolbox.estimators.result import EstimationResult
from isac_toolbox.estimators.scene.assemble import Outcome, build_result
from isac_toolbox.estimators.scene.caveats import taken_as_static, unseen_cosines, without_places
from isac_toolbox.estimators.scene.channel_estimate import ChannelEstimate
from isac_toolbox.estimators.scene.cones import best_places
from isac_toolbox.estimators.scene.fit import Fit, evaluate
from isac_toolbox.estimators.scene.locate import fuse_points
from isac_toolbox.estimators.scene.place import place_points, release_points
from isac_toolbox.estimators.scene.problem import Problem
from isac_toolbox.estimators.scene.refine import refine
from isac_toolbox.estimators.scene.scene_estimate import SceneEstimate
from isac_toolbox.estimators.scene.silence import SilenceWatch, listen, without_zeros
from isac_toolbox.estimators.scene.whiteness import FittedBlock, whiteness
from isac_toolbox.estimators.search import PathSearch
from isac_toolbox.estimators.symbols.block import ReceivedBlock
from isac_toolbox.estimators.symbols.detection import ChannelKnowledge, detect
from isac_toolbox.inference.turbo import Callback

__all__ = ["NOMP"]


@dataclass(frozen=True)
class NOMP(ManyBlocks):
    """Newtonised OMP on the pilots, then single-bounce location and fusion over users.

    The strongest classical baseline: paths are detected user by user and refined together. The channel is
    that of the users' own paths, direction and delay free; points are what fusion makes of them, and every
    point found is reported with probability one, as the method has no other, or that of its place among those
    that a linear array leaves open. Without places all paths stay unlocated. The coarse stage of the joint
    estimator prunes its paths at the end; this is the published method, which does not.

    Parameters
    ----------
    false_alarm_rate : float
        Per user and round, in (0, 1).

    Raises
    ------
    ValueError
        If the rate is out of range.

    Notes
    -----
    Mamandipoor, Ramasamy, Madhow, IEEE TSP 2016; docs/theory.md, section 7.
    """

    false_alarm_rate: float = 1e-2

    def __post_init__(self) -> None:
        check_positive("false_alarm_rate", self.false_alarm_rate)
        if self.false_alarm_rate >= 1:
            raise ValueError(f"false_alarm_rate must lie in (0, 1), got {self.false_alarm_rate!r}")

    def estimate(self, obs: UplinkObservation, *, callback: Callback | None = None) -> EstimationResult:
        """Estimate from one block; ``callback`` is never called, as there is no loop to watch."""
        del callback
        check_observation(obs)
        with bounded_threads(1):
            return self._estimate(obs)

    def _estimate(self, obs: UplinkObservation) -> EstimationResult:
        start = perf_counter()
        problem, path_fit, block, silent, warnings = self._find_paths(obs)
        placed, sight, seen = place_points(path_fit)
        scene, seen = fuse_points(placed, seen)
        unlocated_user = placed.paths.user[placed.paths.is_unlocated]
        scene, seen, unlocated_user = release_points(problem, scene, seen, unlocated_user)
        paths = Paths.build(sight, seen, unlocated_user)
        weak = np.full(len(paths), float(placed.posterior.prior_precision.min(initial=1e-9)))
        fit, share, doubt_m2 = best_places(
            refine(evaluate(problem, scene, paths, weak), n_steps=10, tol=1e-2)
        )
        channel = ChannelKnowledge.from_paths(
            path_fit.atoms, path_fit.posterior.mean, path_fit.posterior.covariance, obs.n_users
        )
        detection = detect(block, channel, 1 / problem.noise_precision, joint=False)
        estimate = ChannelEstimate.of_fit(path_fit, obs.n_users).in_units(block.scale)
        located = SceneEstimate.certain(fit, block.scale, sight, seen, share, doubt_m2).of_block(obs)
        said = [*warnings, *unseen_cosines(obs.array), *without_places(obs), *taken_as_static(obs)]
        seconds = perf_counter() - start
        outcome = Outcome.finished(estimate.noise_variance, len(path_fit.paths), seconds, said)
        fitted = FittedBlock(block, estimate.mean / block.scale, detection.moments, path_fit.n_fitted)
        misfit = whiteness(fitted, PathSearch.for_observation(obs))
        estimate = estimate.without(silent) if silent.size else estimate
        return build_result("NOMP", estimate, located, detection, outcome, misfit=misfit, silent=silent)

    def _find_paths(
        self, obs: UplinkObservation
    ) -> tuple[Problem, Fit, ReceivedBlock, NDArray[np.int64], list[str]]:
        """Paths of all users, in the parts of the block that carry signal, silent elements, what is said."""
        found: list[tuple[Problem, Fit, ReceivedBlock, UplinkObservation]] = []

        def first_fit(heard: UplinkObservation, block: ReceivedBlock, watch: SilenceWatch | None) -> Fit:
            problem = Problem.on_pilots(heard, block)
            search = PathSearch.for_observation(heard).covering(problem.statistics.cross_correlation)
            problem, fit = newtonised_omp(
                problem,
                search,
                false_alarm_rate=self.false_alarm_rate,
                prune=False,
                watch=watch,
            )
            found.append((problem, fit, block, heard))
            return fit

        heard, block, warnings = without_zeros(obs)
        warnings += listen(heard, block, first_fit)
        problem, fit, block, heard = found[-1]
        silent = np.flatnonzero(obs.usable_elements & ~heard.usable_elements)
        return problem, fit, block, silent, warnings
