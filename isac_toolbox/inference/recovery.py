"""Sparse recovery by turbo variational Bayes on a working set (docs/theory.md, sections 3 to 5)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.special import expit

from isac_toolbox._validation import check_observations, check_positive, check_working_set_limit
from isac_toolbox.inference._active_columns import ActiveColumns, ProjectedResidual
from isac_toolbox.inference._dictionary import Dictionary
from isac_toolbox.inference.hierarchy import RULES, Swept, ThreeLayerPrior
from isac_toolbox.inference.messages import GaussianMessage
from isac_toolbox.inference.mixture import branch_variances, gaussian_log_ratio, mixture_moments
from isac_toolbox.inference.posterior import (
    ENERGY_FLOOR,
    GaussianPosterior,
    update_noise_precision,
    working_set_posterior,
)
from isac_toolbox.inference.state import PriorState
from isac_toolbox.inference.support import IndependentSupport, SupportGraph
from isac_toolbox.inference.turbo import CONVERGED, History, TurboLoop

#: Tuned: a coefficient enters the working set above the first probability and leaves it below the second.
BIRTH_PROBABILITY, DEATH_PROBABILITY = 0.2, 0.02
#: Cost cap: births per step, as a fraction of the observations.
BIRTH_RATE = 0.1
#: Tuned: steps before a known noise level is enforced; steps after which the support graph learns although
#: the set still moves (earlier, the few coefficients found so far would pass for all there are).
BURN_IN, LEARN_ANYWAY = 5, 10
#: Tuned: first slab precision, and spike precision of the extrinsic rule, per observation.
SLAB_START, SPIKE_PRECISION = 0.1, 1e8
#: Tuned: spike precision of the other two rules, relative to that of the messages.
SPIKE_TO_MESSAGE = 30.0


@dataclass(frozen=True)
class SparseRecoveryResult:
    """Posterior of a sparse linear model.

    Attributes
    ----------
    mean, variance : ndarray, shape (n,)
        Posterior mean (zero outside the working set) and mean squared deviation from it.
    probability : ndarray, shape (n,)
        Posterior probability of "active".
    noise_variance : float
        Noise variance, estimated or given.
    slab_variance : float
        Variance of an active coefficient.
    support : SupportGraph
        The support graph with its learned parameters; the caller's own object is not changed.
    history : History
        Objective, noise variance, number of active coefficients and time of every iteration.
    status : str
        Why the loop stopped.
    """

    mean: np.ndarray
    variance: np.ndarray
    probability: np.ndarray
    noise_variance: float
    slab_variance: float
    support: SupportGraph
    history: History
    status: str

    @property
    def converged(self) -> bool:
        """Whether the loop converged."""
        return self.status == CONVERGED

    @property
    def n_iter(self) -> int:
        """Number of iterations."""
        return len(self.history)


class SparseRecovery(TurboLoop):
    """Turbo variational Bayes for ``y = A x + noise`` with a growing and shrinking working set.

    Each step: Gaussian posterior on the working set, messages to all coefficients, one pass of the prior, EM
    updates of slab, support graph and noise, then removals and births. Data and dictionary are
    scaled inside, so the amplitudes of ``y`` and ``A`` do not matter.

    Parameters
    ----------
    A, y, support, rule, noise_variance, max_iter, tol, max_active
        As in ``sparse_recover``.

    Notes
    -----
    The extrinsic rule runs with moment matching: starting from an empty set, the average precision would hold
    every uncertain coefficient at the spike. Outside the set all rules decide births by the Gaussian message.
    The objective is the negative log marginal likelihood of the scaled data given precisions and noise; it is
    not a bound of the whole model and may rise when the structure changes. Source: docs/theory.md, section 5.
    """

    def __init__(
        self,
        A: Any,
        y: np.ndarray,
        support: SupportGraph | None = None,
        rule: str = "extrinsic",
        *,
        noise_variance: float | None = None,
        max_iter: int = 100,
        tol: float = 1e-6,
        max_active: int | None = None,
    ) -> None:
        super().__init__(max_iter, tol)
        if rule not in RULES:
            raise ValueError(f"rule must be one of {RULES}, got {rule!r}")
        self.rule = rule
        self._known_noise = (
            None if noise_variance is None else check_positive("noise_variance", noise_variance)
        )
        self.dictionary = Dictionary(A)
        self.m, self.n = self.dictionary.shape
        data = check_observations(y, self.m)
        self.is_complex = self.dictionary.is_complex or data.dtype.kind == "c"
        self._y_scale = float(np.linalg.norm(data) / np.sqrt(self.m))
        self._y = data / self._y_scale
        self._initial_support = _support_graph(support, self.m, self.n)
        self.max_active = check_working_set_limit(max_active, self.m, self.n)

    def setup(self) -> None:
        """Start with an empty working set: everything is noise."""
        dtype = complex if self.is_complex else float
        self.support = self._initial_support
        self.prior = ThreeLayerPrior(
            np.array([SLAB_START * self.m]),
            SPIKE_PRECISION * self.m if self.rule == "extrinsic" else SPIKE_TO_MESSAGE * self.m,
            self.rule,
            self.is_complex,
            moment_matching=self.rule == "extrinsic",
        )
        self._classes = np.zeros(self.n, dtype=np.int64)
        self.state = PriorState.initial(self.n, float(np.max(self.prior.spike_precision)))
        self.working = ActiveColumns(self.dictionary, dtype)
        self._zeta = self.dictionary.correlate(self._y)
        self._gamma = 1.0
        self._mean = np.zeros(self.n, dtype=dtype)
        self._variance = np.full(self.n, 1.0 / SLAB_START / self.m)
        self._step, self._settled = 0, False
        self.noise_variance = self._y_scale**2

    def step(self) -> None:
        """Do one iteration."""
        index = self.working.index
        posterior = self._posterior(self.state)
        residual = self._y - self.working.columns @ posterior.mean
        set_message = posterior.message()
        self._gamma = self._noise_precision(residual, posterior, set_message)
        message = self._all_messages(posterior, set_message)
        previous = self._mean
        swept = self._sweep(message, posterior, index)
        self.state = swept.state
        self._store_moments(message, posterior, index)
        self.prior, self.support = self._noise_bound_spike(swept.prior), swept.support
        self.objective = self._objective(residual, posterior)
        self.noise_variance = self._y_scale**2 / self._gamma
        self.n_active = int(np.sum(self.state.probability > 0.5))
        moved = self._remove() + self._give_birth()
        self._settled = self._settled or not moved
        self._step += 1
        size = max(float(np.linalg.norm(self._mean)), np.finfo(float).tiny)
        is_open = moved or self._step <= BURN_IN or not self._settled
        self.change = np.inf if is_open else float(np.linalg.norm(self._mean - previous)) / size

    def _posterior(self, state: PriorState) -> GaussianPosterior:
        """Gaussian posterior on the working set."""
        index = self.working.index
        return working_set_posterior(
            self.working.gram, self._zeta[index], self._gamma, state.precision[index]
        )

    def _noise_precision(
        self, residual: np.ndarray, posterior: GaussianPosterior, set_message: GaussianMessage
    ) -> float:
        """Noise precision from the explicit residual, or towards a known one from below.

        Once the set has settled, the residual includes the spread between "on" and "off" of undecided
        coefficients, ``pi (1 - pi) |m_1 - m_0|^2 / (gamma v)``, which a Gaussian posterior does not hold;
        while the set grows, leaving it out lets weak coefficients in.
        """
        square = max(float(np.real(np.vdot(residual, residual))), ENERGY_FLOOR * self.m)
        expected = square + float(np.sum(posterior.gram_covariance_diagonal))
        if self._settled:
            expected += float(np.sum(self._spread(set_message) / set_message.variance)) / self._gamma
        learned = update_noise_precision(self.m, expected, is_complex=self.is_complex)
        if self._known_noise is None:
            return learned
        known = self._y_scale**2 / self._known_noise
        return known if self._step >= BURN_IN else min(learned, known)

    def _spread(self, set_message: GaussianMessage) -> np.ndarray:
        """Variance of the spike-slab posterior beyond the mean of its branch variances, (k,)."""
        index = self.working.index
        precisions = self.prior.class_precisions(self._classes[index])
        ratio = gaussian_log_ratio(set_message, *precisions, self.is_complex)
        probability = expit(self.state.extrinsic_log_odds[index] + ratio)
        w1, w0 = branch_variances(set_message, *precisions)
        _, variance = mixture_moments(probability, set_message, *precisions)
        return np.maximum(variance - probability * w1 - (1.0 - probability) * w0, 0.0)

    def _all_messages(self, posterior: GaussianPosterior, set_message: GaussianMessage) -> GaussianMessage:
        """Messages of all coefficients: extrinsic inside the set, projected matched filter outside."""
        index = self.working.index
        outside = ProjectedResidual(self.working, posterior, self._zeta, self.dictionary.energies).message()
        outside.mean[index], outside.variance[index] = set_message.mean, set_message.variance
        return outside

    def _sweep(
        self, message: GaussianMessage, posterior: GaussianPosterior, index: np.ndarray
    ) -> Swept[SupportGraph]:
        """One pass of the engine over all coefficients; the graph learns once the set has settled."""
        return self.prior.sweep(
            self.state,
            message,
            posterior.mean,
            posterior.variance,
            self._classes,
            self.support,
            inside=index,
            learn_support=self._settled or self._step >= LEARN_ANYWAY,
        )

    def _store_moments(
        self, message: GaussianMessage, posterior: GaussianPosterior, index: np.ndarray
    ) -> None:
        """Posterior moments of all coefficients; outside the set the mean is held at zero."""
        precisions = self.prior.class_precisions(self._classes)
        mixture_mean, mixture_variance = mixture_moments(self.state.probability, message, *precisions)
        self._variance = mixture_variance + np.abs(mixture_mean) ** 2
        self._mean = np.zeros_like(self._mean)
        self._mean[index], self._variance[index] = posterior.mean, posterior.variance

    def _noise_bound_spike(self, prior: ThreeLayerPrior) -> ThreeLayerPrior:
        """The prior with the spike that the noise allows; the extrinsic rule's is fixed."""
        if self.rule == "extrinsic":
            return prior
        spike = SPIKE_TO_MESSAGE * self._gamma * self.m
        return prior.with_spike_precision(max(spike, 10.0 * float(prior.slab_precision[0])))

    def _objective(self, residual: np.ndarray, posterior: GaussianPosterior) -> float:
        """Negative log marginal likelihood of the scaled data, without its constant."""
        log_det = self.m * np.log(posterior.noise_precision) + posterior.log_det
        log_det += float(np.sum(np.log(posterior.prior_precision)))
        fit = posterior.noise_precision * float(np.real(np.vdot(self._y, residual)))
        return float(fit - log_det) * (1.0 if self.is_complex else 0.5)

    def _remove(self) -> int:
        """Let rejected coefficients leave; return how many."""
        stays = self.state.probability[self.working.index] > DEATH_PROBABILITY
        self.working.keep(stays)
        return int(np.sum(~stays))

    def _give_birth(self) -> int:
        """Let the most probable outsiders enter one by one; return how many."""
        limit = min(max(1, int(BIRTH_RATE * self.m)), self.max_active - len(self.working))
        if limit <= 0:
            return 0
        outside = ProjectedResidual(
            self.working, self._posterior(self.state), self._zeta, self.dictionary.energies
        )
        precisions = self.prior.class_precisions(self._classes)
        for count in range(limit):
            message = outside.message()
            odds = self.state.extrinsic_log_odds + gaussian_log_ratio(message, *precisions, self.is_complex)
            odds[self.working.index] = -np.inf
            best = int(np.argmax(odds))
            if not expit(odds[best]) > BIRTH_PROBABILITY:
                return count
            outside.include(best, self._admit(best, float(expit(odds[best])), message))
        return limit

    def _admit(self, coefficient: int, probability: float, message: GaussianMessage) -> float:
        """Give a new member its state and return its precision (the slab for the Gamma rules)."""
        rho = float(self.prior.slab_precision[0])
        if self.rule == "extrinsic":
            one = np.array([coefficient])
            no_moments = np.zeros(1)
            rho_one, _ = self.prior.precision(
                np.array([probability]), message.take(one), no_moments, no_moments, self._classes[one]
            )
            rho = float(rho_one[0])
        self.state = self.state.replaced(coefficient, precision=rho, probability=probability)
        return rho

    def result(self) -> SparseRecoveryResult:
        """Return the current posterior in the units of the caller."""
        unit = self._y_scale * self.dictionary.scale
        return SparseRecoveryResult(
            mean=unit * self._mean,
            variance=unit**2 * self._variance,
            probability=self.state.probability,
            noise_variance=float(self.noise_variance),
            slab_variance=unit**2 / float(self.prior.slab_precision[0]),
            support=self.support,
            history=self.history,
            status=self.status,
        )


def sparse_recover(
    A: Any,
    y: np.ndarray,
    support: SupportGraph | None = None,
    rule: str = "extrinsic",
    *,
    noise_variance: float | None = None,
    max_iter: int = 100,
    tol: float = 1e-6,
    max_active: int | None = None,
    callback: Callable[[TurboLoop], bool | None] | None = None,
) -> SparseRecoveryResult:
    """Recover a sparse ``x`` from ``y = A x + noise``; support, noise and variances are learned.

    Parameters
    ----------
    A : array_like, sparse matrix or LinearOperator, shape (m, n)
        Real or complex. An operator is never formed as a whole: single columns are fetched when they enter
        the working set, all of them once in blocks for their energies.
    y : array_like, shape (m,)
        Real or complex observations. Real ``A`` and real ``y`` give a real ``x``.
    support : SupportGraph, optional
        Graph over the n coefficients, for example a ``GatedChain``; by default independent with a learned
        probability under a Beta(1, n) prior, which keeps chance hits of n tests out. It is copied.
    rule : {"extrinsic", "structured", "mean_field"}
        Update rule of the prior.
    noise_variance : float, optional
        Known variance of one (complex) observation; estimated by default.
    max_iter : int
        Largest number of iterations.
    tol : float
        Relative change of the mean at which the loop has converged.
    max_active : int, optional
        Largest working set; by default n if n <= m, otherwise 3/4 of m.
    callback : callable, optional
        Called with the loop after every iteration; a true return value stops it.

    Returns
    -------
    SparseRecoveryResult

    Raises
    ------
    TypeError, ValueError
        If an argument has the wrong type, shape or range, holds NaN or infinity, if ``y`` or a column of
        ``A`` is all zero, if an operator's ``rmatvec`` is missing or wrong, or if ``support`` covers another
        number of coefficients.

    Examples
    --------
    >>> import numpy as np
    >>> rng = np.random.default_rng(0)
    >>> A = rng.standard_normal((40, 80))
    >>> x = np.zeros(80)
    >>> x[[3, 50]] = 1.0, -2.0
    >>> result = sparse_recover(A, A @ x + 0.01 * rng.standard_normal(40))
    >>> np.flatnonzero(result.probability > 0.5).tolist()
    [3, 50]
    """
    loop = SparseRecovery(
        A,
        y,
        support,
        rule,
        noise_variance=noise_variance,
        max_iter=max_iter,
        tol=tol,
        max_active=max_active,
    )
    loop.run(callback)
    return loop.result()


def _support_graph(support: Any, m: int, n: int) -> SupportGraph:
    """Validate the support graph, or make an independent one."""
    if support is None:
        return IndependentSupport(n, min(0.5, 0.5 * m / n), prior_counts=(1.0, n))
    for name in ("n_coefficients", "extrinsic_log_odds", "learned"):
        if not hasattr(support, name):
            raise TypeError(f"support must be a support graph, got {type(support).__name__} without {name}")
    if support.n_coefficients != n:
        raise ValueError(
            f"support must cover the {n} columns of A, got {support.n_coefficients} coefficients"
        )
    return support
