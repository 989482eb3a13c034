"""EM-Turbo-BiSVBI: joint sensing, channel estimation and data detection from one block.

After Liu, Xu, Xu and Caire, arXiv:2502.00811; docs/theory.md, sections 3 to 7.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from isac_toolbox._validation import check_integer
from isac_toolbox.channel.observation import UplinkObservation
from isac_toolbox.channel.scene import Receiver, ScenePrior
from isac_toolbox.estimators.assemble import SceneBelief, assemble_result
from isac_toolbox.estimators.coarse import COARSE_STAGES, coarse_scene
from isac_toolbox.estimators.detection import ChannelKnowledge, Detection, detect
from isac_toolbox.estimators.gauss_newton import Problem, gradient_steps, refine
from isac_toolbox.estimators.result import Candidates, EstimationResult
from isac_toolbox.estimators.search import PathSearch
from isac_toolbox.estimators.statistics import amplitude_scale, data_statistics, pilot_statistics
from isac_toolbox.estimators.structure import give_birth, merge_points, remove_rejected
from isac_toolbox.estimators.working_set import WorkingSet, marginal_objective
from isac_toolbox.inference.hierarchy import RULES
from isac_toolbox.inference.turbo import TurboLoop

__all__ = ["M_STEPS", "BiSVBILoop", "EMTurboBiSVBI"]

RealArray = NDArray[np.float64]

M_STEPS = ("gauss_newton", "gradient")

_SWEEPS = 3
_STEPS = {"gauss_newton": 2, "gradient": 3}
_STRUCTURE_EVERY = 3
_FALSE_ALARM_RATE = 1e-2


@dataclass(frozen=True)
class EMTurboBiSVBI:
    """Scatterers, users, clocks, channel and data of one block by EM-Turbo-BiSVBI.

    Parameters
    ----------
    coarse : {"nomp", "music"}
        Coarse stage that finds the starting scene.
    rule : {"extrinsic", "structured", "mean_field"}
        Update rule of the sparse prior.
    m_step : {"gauss_newton", "gradient"}
        Refinement of positions and clocks: joint Levenberg-Marquardt, or gradient steps block by block.
    data_aided : bool
        Feed soft symbols back after the pilot-only burn-in.
    unlocated_paths : bool
        Allow paths that no single-bounce point explains.
    max_iter : int
        Largest number of iterations.
    burn_in : int
        Pilot-only iterations before data are used.
    tol : float
        Converged when no point moves by more than this share of a resolution cell in two successive
        iterations and the structure is settled.

    Raises
    ------
    TypeError, ValueError
        For a setting that does not exist or is out of range.

    Notes
    -----
    Source: arXiv:2502.00811; docs/theory.md, sections 3 to 7. The estimator is deterministic.
    """

    coarse: str = "nomp"
    rule: str = "extrinsic"
    m_step: str = "gauss_newton"
    data_aided: bool = True
    unlocated_paths: bool = True
    max_iter: int = 30
    burn_in: int = 3
    tol: float = 1e-4

    def __post_init__(self) -> None:
        for name, allowed in (("coarse", COARSE_STAGES), ("rule", RULES), ("m_step", M_STEPS)):
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name} must be one of {allowed}, got {getattr(self, name)!r}")
        for name in ("data_aided", "unlocated_paths"):
            if not isinstance(getattr(self, name), bool):
                raise TypeError(f"{name} must be True or False, got {getattr(self, name)!r}")
        check_integer("max_iter", self.max_iter, 1)
        check_integer("burn_in", self.burn_in, 1)
        if not self.tol > 0:
            raise ValueError(f"tol must be positive, got {self.tol!r}")

    def estimate(
        self, obs: UplinkObservation, *, callback: Callable[[TurboLoop], bool | None] | None = None
    ) -> EstimationResult:
        """Estimate everything from one block.

        Parameters
        ----------
        obs : UplinkObservation
        callback : callable, optional
            Called with the :class:`BiSVBILoop` after every iteration; a true return value stops.

        Returns
        -------
        EstimationResult
            ``status`` says why it stopped; it never holds NaN silently.

        Raises
        ------
        TypeError
            If ``obs`` is not an observation.
        ValueError
            If a user has no usable pilot.
        """
        loop = BiSVBILoop(self, obs)
        loop.run(callback)
        return loop.result()


class BiSVBILoop(TurboLoop):
    """The iteration of :class:`EMTurboBiSVBI`: ``setup``, then ``step`` again and again, or ``run``.

    Attributes
    ----------
    working : WorkingSet
        Scene, paths and beliefs, on the block scaled to unit mean power.
    """

    working: WorkingSet

    def __init__(self, settings: EMTurboBiSVBI, obs: UplinkObservation) -> None:
        if not isinstance(obs, UplinkObservation):
            raise TypeError(f"obs must be an UplinkObservation, got {type(obs).__name__}")
        super().__init__(settings.max_iter, settings.tol)
        self.settings, self.obs = settings, obs
        self.scale = amplitude_scale(obs)
        self.received = obs.received / self.scale
        self.search = PathSearch.for_observation(obs)
        self._dropped: list[tuple[RealArray, float, RealArray]] = []

    def setup(self) -> None:
        """Coarse stage on the pilots, then the first working set."""
        obs = self.obs
        self._dropped = []
        self._settled = False
        statistics = pilot_statistics(obs, self.received)
        problem = Problem(Receiver.of(obs), statistics, ScenePrior.of(obs), obs.region_m, 1.0)
        start = coarse_scene(self.settings.coarse, problem, self.search, self.settings.unlocated_paths)
        self.working = WorkingSet.start(
            start.problem,
            start.scene,
            start.free_user,
            self.settings.rule,
            start.gain_power,
            n_cells=obs.n_subcarriers * obs.array.n_elements,
        )

    def step(self) -> None:
        """One EM iteration: data, E-step, noise, M-step, structure."""
        if self.settings.data_aided and self.n_iter >= self.settings.burn_in:
            self._use_data()
        self.working = self.working.e_step(_SWEEPS).learn_noise()
        before = self.working.fit.scene
        self._m_step()
        self.change = self._largest_move(before)
        self._revise_structure()
        self.objective = marginal_objective(self.working)
        self.noise_variance = self.scale**2 / self.working.problem.noise_precision
        self.n_active = int(np.count_nonzero(self.working.active))

    def _use_data(self) -> None:
        statistics = data_statistics(self.received, self._detect().moments)
        problem = self.working.problem
        self.working = self.working.with_problem(
            Problem(problem.receiver, statistics, problem.prior, problem.region_m, problem.noise_precision)
        )

    def _detect(self) -> Detection:
        working = self.working
        posterior = working.fit.posterior
        channel = ChannelKnowledge.from_paths(
            working.fit.atoms, posterior.mean, posterior.covariance, working.n_users
        )
        return detect(self.obs, self.received, channel, 1 / working.problem.noise_precision)

    def _m_step(self) -> None:
        n_steps = _STEPS[self.settings.m_step]
        move = refine if self.settings.m_step == "gauss_newton" else gradient_steps
        self.working = self.working.with_fit(move(self.working.problem, self.working.fit, n_steps))

    def _largest_move(self, before: object) -> float:
        old, new = getattr(before, "points_m"), self.working.fit.scene.points_m  # noqa: B009
        moved = np.linalg.norm(new - old, axis=1).max(initial=0.0)
        return float(moved / self.working.problem.length_cell_m)

    def _revise_structure(self) -> None:
        """Removal always; birth and merging every few iterations until they find nothing on all data."""
        self._remove()
        if not self._settled and self.n_iter % _STRUCTURE_EVERY == _STRUCTURE_EVERY - 1:
            born = give_birth(self.working, self.search, _FALSE_ALARM_RATE, self.settings.unlocated_paths)
            if born is not None:
                self.working = born.with_fit(refine(born.problem, born.fit, n_steps=2))
            merged = merge_points(self.working)
            if merged is not None:
                self.working = merged
            uses_all = not self.settings.data_aided or self.n_iter >= self.settings.burn_in
            self._settled = uses_all and born is None and merged is None
        if not self._settled:
            self.change = np.inf

    def _remove(self) -> None:
        working = self.working
        self.working, dropped = remove_rejected(working)
        visibility = working.visibility_probability
        for index in dropped:
            self._dropped.append(
                (
                    working.fit.scene.points_m[index],
                    float(working.point_probability[index]),
                    visibility[:, index],
                )
            )

    def result(self) -> EstimationResult:
        """The result at the present state."""
        working = self.working
        detection = self._detect()
        fit, points, free = working.active_fit()
        belief = SceneBelief(
            problem=working.problem,
            fit=fit,
            point_probability=working.point_probability[points],
            visibility_probability=working.visibility_probability[:, points],
            line_of_sight_probability=working.state.probability[: working.n_users],
            free_probability=working.free_probability[free],
            candidates=self._candidates(),
        )
        return assemble_result(
            "EM-Turbo-BiSVBI",
            self.obs,
            belief,
            detection,
            self.scale,
            self.history,
            self.status,
            self.converged,
        )

    def _candidates(self) -> Candidates:
        working = self.working
        dropped = [np.array([d[i] for d in self._dropped]) for i in range(3)]
        n = len(self._dropped)
        return Candidates(
            np.vstack([working.fit.scene.points_m, dropped[0].reshape(n, 3)]),
            np.concatenate([working.point_probability, dropped[1].reshape(n)]),
            np.hstack([working.visibility_probability, dropped[2].reshape(n, working.n_users).T]),
        )
