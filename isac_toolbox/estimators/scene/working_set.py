"""The working set: every path under consideration, its sparse prior and the E-step on it.

docs/theory.md, sections 3 to 5.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

from isac_toolbox._validation import check_real_vector
from isac_toolbox.channel.atoms.scene import Paths, Scene
from isac_toolbox.estimators.scene.fit import Fit, completed, evaluate
from isac_toolbox.estimators.scene.problem import Problem, with_noise_precision
from isac_toolbox.inference._chain_evidence import ChainEvidence
from isac_toolbox.inference._sweep_kernels import sweep_paths
from isac_toolbox.inference.hierarchy import LOG_RATIO_LIMIT, SLAB_PRIOR_COUNT, SLAB_RANGE, ThreeLayerPrior
from isac_toolbox.inference.messages import PRECISION_FLOOR
from isac_toolbox.inference.posterior import (
    expected_residual,
    unchecked_posterior,
    update_noise_precision,
)
from isac_toolbox.inference.state import PriorState
from isac_toolbox.inference.support import GatedChain, IndependentSupport

__all__ = ["ScenePriorGraph", "WorkingSet", "marginal_objective"]

RealArray = NDArray[np.float64]
BoolArray = NDArray[np.bool_]
IntArray = NDArray[np.int64]

# Prior: of a line of sight where the link has one; it is not learned.
_LINE_OF_SIGHT_PROBABILITY = 0.9
# Prior: that a user sees a scatterer, before it is learned.
_START_VISIBILITY = 0.5
# Tuned: spike precision relative to that of a path at the noise level; an inactive path is 40 dB below it.
_SPIKE_TO_NOISE = 1e4
# Guard: of a sweep, as in the hierarchy: floor of a message, largest ratio, weight and range of a slab.
_LIMITS = (PRECISION_FLOOR, LOG_RATIO_LIMIT, SLAB_PRIOR_COUNT, *SLAB_RANGE)
# Tuned: support probability of the paths of an adopted trial scene; the next sweep renews it.
_SURE = 0.99


@dataclass(frozen=True, eq=False)
class ScenePriorGraph:
    """Support graph of a scene: lines of sight, gated points with users as members, unlocated paths.

    Implements the ``SupportGraph`` protocol for coefficients in the order of :meth:`Paths.build`.

    Attributes
    ----------
    n_users, n_points, n_unlocated : int
    n_cells : int
        Number of resolution cells searched; the priors of gate and unlocated paths account for the cells in
        which nothing was found.
    lines, unlocated : IndependentSupport
        Of the lines of sight and of the unlocated paths.
    points : GatedChain
        A gate for every point, its users as members.
    visibility : ndarray, shape (K,)
        Probability that a user sees a scatterer, learned while there were points.
    """

    n_users: int
    n_points: int
    n_unlocated: int
    n_cells: int
    lines: IndependentSupport
    points: GatedChain
    unlocated: IndependentSupport
    visibility: RealArray

    @classmethod
    def start(
        cls,
        n_users: int,
        n_points: int,
        n_unlocated: int,
        n_cells: int,
        visibility: RealArray | None = None,
        has_line_of_sight: bool = True,
    ) -> ScenePriorGraph:
        """Return a graph in which nothing is learned but, where it is given, the users' visibility (K,)."""
        member = np.full(n_users, _START_VISIBILITY) if visibility is None else visibility
        lines = IndependentSupport(
            n_users if has_line_of_sight else 0, _LINE_OF_SIGHT_PROBABILITY, learn_probability=False
        )
        points = GatedChain.independent_members(
            n_points,
            member,
            gate=(1 + n_points) / (1 + n_cells + n_points),
            gate_prior=(1.0, float(n_cells)),
            member_prior=(2.0, 2.0),
        )
        share = (1 + n_unlocated) / (1 + n_cells * n_users + n_unlocated)
        unlocated = IndependentSupport(n_unlocated, share, prior_counts=(1.0, float(n_cells * n_users)))
        return cls(n_users, n_points, n_unlocated, n_cells, lines, points, unlocated, member)

    @property
    def n_lines(self) -> int:
        """Number of lines of sight: one a user, or none."""
        return self.lines.n_coefficients

    @property
    def n_coefficients(self) -> int:
        """Number of paths covered."""
        return self.n_lines + self.n_users * self.n_points + self.n_unlocated

    def _split(self, ratio: RealArray) -> tuple[RealArray, RealArray, RealArray]:
        end = self.n_lines + self.n_users * self.n_points
        return ratio[: self.n_lines], ratio[self.n_lines : end], ratio[end:]

    def sized(self, n_points: int, n_unlocated: int) -> ScenePriorGraph:
        """Return a graph of another size with what was learned of the users' visibility."""
        return ScenePriorGraph.start(
            self.n_users, n_points, n_unlocated, self.n_cells, self.visibility, self.n_lines > 0
        )

    def with_points(self, n_points: int) -> ScenePriorGraph:
        """Return the graph for another number of points, with all that was learned."""
        other = self.sized(n_points, self.n_unlocated)
        gate = float(self.points.gate) if self.n_points else 1 / (1 + self.n_cells)
        return replace(other, points=other.points.with_parameters(gate=gate), unlocated=self.unlocated)

    def paths(self, unlocated_user: IntArray) -> Paths:
        """Return every path: lines of sight, all pairs of user and point, the unlocated paths."""
        seen = np.ones((self.n_users, self.n_points), bool)
        return Paths.build(np.full(self.n_users, self.n_lines > 0), seen, unlocated_user)

    def _of_points(self, L: RealArray) -> ChainEvidence:
        """What the messages say of the points; a sweep asks twice, a step three times."""
        found: tuple[RealArray, ChainEvidence] | None = vars(self).get("_heard")
        if found is None or found[0] is not L:
            _, points, _ = self._split(check_real_vector("L", L, self.n_coefficients))
            found = L, self.points.evidence(points)
            vars(self)["_heard"] = found
        return found[1]

    def extrinsic_log_odds(self, L: RealArray) -> RealArray:
        """Return the message of the graph to every path, its own evidence left out, shape (L,)."""
        points = self._of_points(L).member_log_odds() if self.n_points else np.zeros(0)
        return np.concatenate([self.lines.log_odds, points, self.unlocated.log_odds])

    def learned(self, L: RealArray) -> ScenePriorGraph:
        """Return the graph after an EM update of gate, users' visibility and share of unlocated paths."""
        gated, unlocated, visibility = self.points, self.unlocated, self.visibility
        if self.n_points:
            gated = gated.learned_from(self._of_points(L))
            visibility = gated.member_probability
        if self.n_unlocated:
            unlocated = unlocated.learned(self._split(L)[2])
        sizes = self.n_users, self.n_points, self.n_unlocated, self.n_cells
        return ScenePriorGraph(*sizes, self.lines, gated, unlocated, visibility)

    @property
    def sizes(self) -> tuple[int, int, int, int]:
        """Numbers of lines of sight, points, users and unlocated paths."""
        return self.n_lines, self.n_points, self.n_users, self.n_unlocated

    def parameters(self) -> tuple[RealArray, RealArray]:
        """Return probabilities of gate, unlocated path and visibilities (2 + K,), and what is given (7,).

        Given are the log-odds of a line of sight and pseudo-counts of gate, visibility and unlocated paths.
        """
        line = float(self.lines.log_odds[0]) if self.n_lines else 0.0
        points, unlocated = self.points, self.unlocated
        counts = (*points.gate_prior, *points.member_prior, *unlocated.prior_counts)
        visibility = points.member_probability if self.n_points else self.visibility
        odds = np.concatenate([[float(points.gate), float(unlocated.probability)], visibility])
        return odds, np.array([line, *counts])

    def with_parameters(self, odds: RealArray) -> ScenePriorGraph:
        """Return the graph with other probabilities of gate, unlocated path and visibilities (2 + K,)."""
        points, unlocated, visibility = self.points, self.unlocated, self.visibility
        if self.n_points:
            visibility = odds[2:].copy()
            points = points.with_independent_members(float(odds[0]), visibility)
        if self.n_unlocated:
            unlocated = unlocated.with_parameters(probability=float(odds[1]))
        sizes = self.n_users, self.n_points, self.n_unlocated, self.n_cells
        return ScenePriorGraph(*sizes, self.lines, points, unlocated, visibility)

    def point_probability(self, L: RealArray) -> RealArray:
        """Return the probability that each point exists, shape (S,)."""
        if not self.n_points:
            return np.zeros(0)
        return np.asarray(expit(self._of_points(L).gate_log_odds()))


@dataclass(frozen=True, eq=False)
class WorkingSet:
    """Scene, paths and beliefs of one moment.

    Attributes
    ----------
    fit : Fit
        At the current scene; paths are all lines of sight, every (point, user) pair, the unlocated paths.
    prior : ThreeLayerPrior
        One slab per user, and one for all lines of sight.
    state : PriorState
    graph : ScenePriorGraph
    """

    fit: Fit
    prior: ThreeLayerPrior
    state: PriorState
    graph: ScenePriorGraph

    @classmethod
    def start(
        cls,
        problem: Problem,
        scene: Scene,
        unlocated_user: IntArray,
        rule: str,
        gain_power: float,
        n_cells: int,
    ) -> WorkingSet:
        """Return a working set with every path active under a slab of the given mean power."""
        n_users = len(scene.users_m)
        slab = np.full(n_users + 1, 1 / gain_power)
        prior = ThreeLayerPrior(
            slab, _spike_precision(problem, slab), rule=rule, moment_matching=rule == "extrinsic"
        )
        graph = ScenePriorGraph.start(
            n_users,
            len(scene.points_m),
            len(unlocated_user),
            n_cells,
            has_line_of_sight=problem.prior.has_line_of_sight,
        )
        return cls._assemble(problem, scene, unlocated_user, prior, graph, None)

    @classmethod
    def _assemble(
        cls,
        problem: Problem,
        scene: Scene,
        unlocated_user: IntArray,
        prior: ThreeLayerPrior,
        graph: ScenePriorGraph,
        state: PriorState | None,
    ) -> WorkingSet:
        paths = graph.paths(unlocated_user)
        if state is None:
            slab = prior.slab_precision[_classes(paths, graph.n_users)]
            state = PriorState.initial(len(paths), slab, 0.5)
        fit = evaluate(problem, scene, paths, state.precision)
        return cls(fit, prior, state, graph)

    @property
    def problem(self) -> Problem:
        """The problem that the scene is fitted to."""
        return self.fit.problem

    @property
    def n_users(self) -> int:
        """Number of users K."""
        return len(self.fit.scene.users_m)

    @property
    def n_points(self) -> int:
        """Number of points S."""
        return len(self.fit.scene.points_m)

    @cached_property
    def classes(self) -> IntArray:
        """Slab class of every path, shape (L,)."""
        return _classes(self.fit.paths, self.n_users)

    @cached_property
    def point_probability(self) -> RealArray:
        """Probability that each point exists, shape (S,)."""
        return self.graph.point_probability(self.state.log_likelihood_ratio)

    @property
    def line_of_sight_probability(self) -> RealArray:
        """Probability of every user's line of sight, shape (K,)."""
        probability = np.zeros(self.n_users)
        sight = self.fit.paths.is_line_of_sight
        probability[self.fit.paths.user[sight]] = self.state.probability[sight]
        return probability

    @property
    def visibility_probability(self) -> RealArray:
        """Probability that a user sees a point, shape (K, S)."""
        return self.state.probability[self.fit.paths.is_point].reshape(self.n_points, self.n_users).T

    @property
    def unlocated_user(self) -> IntArray:
        """User of every unlocated path, shape (F,)."""
        return self.fit.paths.user[self.fit.paths.is_unlocated]

    @property
    def unlocated_probability(self) -> RealArray:
        """Probability of every unlocated path, shape (F,)."""
        return self.state.probability[self.fit.paths.is_unlocated]

    @property
    def counts(self) -> tuple[int, int, int]:
        """Numbers of points, of unlocated paths and of active paths."""
        return self.n_points, len(self.unlocated_user), int(self.active.sum())

    @property
    def active(self) -> BoolArray:
        """Paths more likely than not, shape (L,)."""
        return self.state.probability > 0.5

    def with_problem(self, problem: Problem) -> WorkingSet:
        """Return the same beliefs on other data."""
        if problem.data is self.problem.data:
            fit = self.fit.under(problem, self.state.precision)
        else:
            fit = evaluate(problem, self.fit.scene, self.fit.paths, self.state.precision)
        return self.with_fit(fit)

    def completed(self) -> WorkingSet:
        """Return the same beliefs with missing samples as the present channel predicts them."""
        return self.with_fit(completed(self.fit))

    def with_fit(self, fit: Fit) -> WorkingSet:
        """Return the same beliefs at a refined scene."""
        return WorkingSet(fit, self.prior, self.state, self.graph)

    def e_step(self, n_sweeps: int) -> WorkingSet:
        """Sweep message, support graph, precision and Gaussian posterior (sections 3 to 5)."""
        if n_sweeps and self.prior.is_matched and len(self.fit.paths):
            return self._swept(n_sweeps)
        current = self
        for _ in range(n_sweeps):
            current = current._sweep()
        return current

    def _swept(self, n_sweeps: int) -> WorkingSet:
        """The same under the extrinsic rule with matched moments, as one kernel a sweep."""
        fit, prior, problem, classes = self.fit, self.prior, self.problem, self.classes
        slab, n_classes = prior.slab_precision, prior.slab_precision.size
        odds, counts = self.graph.parameters()
        posterior, precision = fit.posterior, fit.posterior.prior_precision.copy()
        for _ in range(n_sweeps):
            precisions = np.stack([slab, _spike_precision(problem, slab)])
            beliefs, learned = np.empty((5, len(fit.paths))), np.empty(n_classes + odds.size)
            sweep_paths(
                (posterior.mean, fit.gram, posterior.covariance),
                precision,
                problem.noise_precision,
                classes,
                precisions,
                _LIMITS,
                self.graph.sizes,
                odds,
                counts,
                beliefs,
                learned,
                np.empty_like(learned),
            )
            slab, odds = learned[:n_classes], learned[n_classes:]
            precision = beliefs[0].copy()
            posterior = unchecked_posterior(fit.gram, fit.correlation, problem.noise_precision, precision)
        prior = prior.with_spike_precision(precisions[1]).with_slab_precision(slab)
        graph = self.graph.with_parameters(odds)
        return WorkingSet(replace(fit, posterior=posterior), prior, PriorState(*beliefs), graph)

    def _sweep(self) -> WorkingSet:
        prior = self.prior.with_spike_precision(_spike_precision(self.problem, self.prior.slab_precision))
        posterior = self.fit.posterior
        prior, state, graph = prior.sweep(
            self.state, posterior.message(), posterior.mean, posterior.variance, self.classes, self.graph
        )
        renewed = unchecked_posterior(
            self.fit.gram, self.fit.correlation, self.problem.noise_precision, state.precision
        )
        return WorkingSet(replace(self.fit, posterior=renewed), prior, state, graph)

    def learn_noise(self) -> WorkingSet:
        """Learn the noise precision from the expected residual, then renew the posterior (section 5)."""
        statistics = self.problem.statistics
        residual = expected_residual(
            statistics.energy, self.fit.gram, self.fit.correlation, self.fit.posterior
        )
        precision = update_noise_precision(statistics.n_observations, residual, prior=(1e-6, 1e-12))
        return self.with_problem(with_noise_precision(self.problem, precision))

    def restructured(
        self, scene: Scene, unlocated_user: IntArray, kept_points: IntArray, kept_unlocated: IntArray
    ) -> WorkingSet:
        """Return another set of points and unlocated paths; beliefs of kept ones carry over.

        Parameters
        ----------
        scene : Scene
            New scene.
        unlocated_user : ndarray of int, shape (F',)
        kept_points : ndarray of int, shape (S',)
            Old index of every new point, -1 for a new one.
        kept_unlocated : ndarray of int, shape (F',)
            Old index of every new unlocated path, -1 for a new one.
        """
        k, n_lines = self.n_users, self.graph.n_lines
        pair = n_lines + k * kept_points[:, None] + np.arange(k)
        pair = np.where(kept_points[:, None] < 0, -1, pair).ravel()
        unlocated = np.where(kept_unlocated < 0, -1, n_lines + k * self.n_points + kept_unlocated)
        source = np.concatenate([np.arange(n_lines), pair, unlocated]).astype(np.int64)
        graph = self.graph.sized(len(kept_points), len(kept_unlocated))
        paths = graph.paths(unlocated_user)
        slab = self.prior.slab_precision[_classes(paths, k)]
        fresh = PriorState.initial(len(source), slab, 0.5)
        index = np.where(source < 0, len(self.fit.paths) + np.arange(source.size), source)
        merged = self.state.append(fresh).take(index)
        return self._assemble(self.problem, scene, unlocated_user, self.prior, graph, merged)

    def adopt(self, trial: Fit) -> WorkingSet:
        """Take over a trial scene: its paths active, every other pair of user and point inactive."""
        n_users, scene = self.n_users, trial.scene
        sight, seen, unlocated_user = trial.paths.membership(n_users, len(scene.points_m))
        graph = self.graph.sized(len(scene.points_m), len(unlocated_user))
        paths = graph.paths(unlocated_user)
        active = np.concatenate([sight[: graph.n_lines], seen.T.ravel(), np.ones(unlocated_user.size, bool)])
        classes = _classes(paths, n_users)
        slab, spike = self.prior.class_precisions(classes)
        state = PriorState.initial(
            len(paths), np.where(active, slab, spike), np.where(active, _SURE, 1 - _SURE)
        )
        return self._assemble(self.problem, scene, unlocated_user, self.prior, graph, state)

    def active_fit(self) -> tuple[Fit, IntArray, IntArray]:
        """Return the active paths under their slabs, on the scene of what they use.

        Returns
        -------
        fit : Fit
        points : ndarray of int, shape (S',)
            Indices of the used points.
        unlocated : ndarray of int, shape (F',)
            Indices of the used unlocated paths.
        """
        scene, paths, active = self.fit.scene, self.fit.paths, self.active
        points = np.unique(paths.target[active & paths.is_point])
        unlocated = np.unique(paths.unlocated[active & paths.is_unlocated])
        seen = active[paths.is_point].reshape(self.n_points, self.n_users).T[:, points]
        used = scene.take(points, unlocated)
        sight = np.zeros(self.n_users, bool)
        sight[paths.user[active & paths.is_line_of_sight]] = True
        active_paths = Paths.build(sight, seen, self.unlocated_user[unlocated])
        precision = self.prior.slab_precision[_classes(active_paths, self.n_users)]
        fit = self.fit.restricted(used, active_paths, np.flatnonzero(active), precision)
        return fit, points, unlocated


def marginal_objective(working: WorkingSet) -> float:
    """Return the negative log marginal likelihood of the block at the scene, in nats, without constants."""
    fit, statistics = working.fit, working.problem.statistics
    gamma = working.problem.noise_precision
    prior_part = float(np.sum(np.log(fit.posterior.prior_precision)))
    data_part = gamma * statistics.energy - statistics.n_observations * np.log(gamma)
    return data_part + fit.objective - fit.posterior.log_det - prior_part


def _classes(paths: Paths, n_users: int) -> IntArray:
    return np.where(paths.is_line_of_sight, n_users, paths.user)


def _spike_precision(problem: Problem, slab: RealArray) -> RealArray:
    """Spike far below what the noise lets one see, and far above every slab precision."""
    energy = float(problem.user_energies.max())
    return np.maximum(_SPIKE_TO_NOISE * problem.noise_precision * energy, 1e3 * slab)
