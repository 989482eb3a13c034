"""Three-layer sparse prior: support, precision, coefficient (docs/theory.md, section 3).

Three update rules live behind one interface. They differ in what they take from the coefficient:

``extrinsic``
    the Gaussian message with the prior divided out, tested against the spike and the slab (default);
``structured``
    ``q(rho, s)`` kept as one block, with Gamma priors on the precision;
``mean_field``
    ``q(x) q(rho) q(s)``, fully factorised.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic, NamedTuple, TypeVar

import numpy as np
from scipy.special import digamma, expit, gammaln

from isac_toolbox._choices import RULES
from isac_toolbox.inference.messages import GaussianMessage
from isac_toolbox.inference.mixture import branch_variances, gaussian_log_ratio
from isac_toolbox.inference.state import PriorState
from isac_toolbox.inference.support import SupportGraph

Graph = TypeVar("Graph", bound=SupportGraph)

#: Guard: log-likelihood ratios are clipped to plus or minus this value.
LOG_RATIO_LIMIT = 1e3
#: Prior: weight of the old slab precision in its own update, in coefficients.
SLAB_PRIOR_COUNT = 0.1
#: Guard: range of the slab precision relative to the spike precision.
SLAB_RANGE = (1e-18, 0.1)


@dataclass(frozen=True, eq=False)
class ThreeLayerPrior:
    """Spike-slab prior with a learned slab per class and one of three update rules; it never changes itself.

    Parameters
    ----------
    slab_precision : array_like, shape (n_classes,)
        ``rho1``, precision of an active coefficient, one per class (a user, a layer).
    spike_precision : float or array_like, shape (n_classes,)
        ``rho0``, precision of an inactive coefficient, above the slab's.
    rule : {"extrinsic", "structured", "mean_field"}
        Update rule.
    is_complex : bool
        Circular complex coefficients (default) or real ones.
    moment_matching : bool
        For the extrinsic rule: take the precision whose zero-mean Gaussian prior reproduces the mean of the
        spike-slab posterior, instead of the average precision.
    slab_shape, spike_shape : float
        Gamma shapes ``a`` of the structured and factorised rules; the rates are ``a / rho1`` and ``a /
        rho0``.

    Raises
    ------
    ValueError
        If the rule is unknown, a precision or shape is not positive and finite, or a spike is not narrower
        than its slab.

    Notes
    -----
    Source: docs/theory.md, section 3.
    """

    slab_precision: np.ndarray
    spike_precision: float | np.ndarray
    rule: str = "extrinsic"
    is_complex: bool = True
    moment_matching: bool = False
    slab_shape: float = 1.0
    spike_shape: float = 1.0

    def __post_init__(self) -> None:
        if self.rule not in RULES:
            raise ValueError(f"rule must be one of {RULES}, got {self.rule!r}")
        if self.moment_matching and self.rule != "extrinsic":
            raise ValueError(f"moment_matching needs rule='extrinsic', got rule={self.rule!r}")
        slab = np.atleast_1d(np.array(self.slab_precision, dtype=np.float64))
        object.__setattr__(self, "slab_precision", _read_only(slab))
        spike = np.asarray(self.spike_precision, dtype=np.float64)
        if self.slab_precision.ndim != 1 or spike.shape not in ((), self.slab_precision.shape):
            raise ValueError(
                "spike_precision must be a scalar or have the shape of slab_precision "
                f"{self.slab_precision.shape}, got {spike.shape}"
            )
        for name in ("slab_precision", "spike_precision", "slab_shape", "spike_shape"):
            value = np.asarray(getattr(self, name), dtype=np.float64)
            if not np.all(np.isfinite(value) & (value > 0.0)):
                raise ValueError(f"{name} must be finite and positive, got {value!r}")
        if spike.ndim:
            object.__setattr__(self, "spike_precision", _read_only(spike.copy()))
        if not np.all(spike > self.slab_precision):
            raise ValueError(f"spike_precision must exceed slab_precision, got {spike!r}")

    @property
    def is_matched(self) -> bool:
        """Whether it is the extrinsic rule with matched moments, of complex coefficients."""
        return self.rule == "extrinsic" and self.moment_matching and self.is_complex

    @property
    def _half(self) -> float:
        """Exponent of the precision in the likelihood: 1 for complex, 1/2 for real coefficients."""
        return 1.0 if self.is_complex else 0.5

    def class_precisions(self, classes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return ``(rho1, rho0)`` of each coefficient, both (n,)."""
        found: tuple[np.ndarray, tuple[np.ndarray, np.ndarray]] | None = vars(self).get("_of_classes")
        if found is not None and found[0] is classes:  # a sweep asks for the same three times
            return found[1]
        spike = self.spike_precision
        if not np.ndim(spike):
            spike = np.full(self.slab_precision.shape, spike, float)
        pair = self.slab_precision[classes], np.asarray(spike)[classes]
        vars(self)["_of_classes"] = classes, pair
        return pair

    def _rates(self, classes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Gamma rates ``b = a / rho`` of slab and spike, both (n,)."""
        slab, spike = self.class_precisions(classes)
        return self.slab_shape / slab, self.spike_shape / spike

    def _power(self, posterior_mean: np.ndarray, posterior_variance: np.ndarray) -> np.ndarray:
        """Exponent of the likelihood of ``rho``: ``E|x|^2``, or ``E x^2 / 2`` for real coefficients."""
        return self._half * (np.abs(posterior_mean) ** 2 + posterior_variance)

    def log_likelihood_ratio(
        self,
        state: PriorState,
        message: GaussianMessage,
        posterior_mean: np.ndarray,
        posterior_variance: np.ndarray,
        classes: np.ndarray,
    ) -> np.ndarray:
        """Return the evidence ``L`` for "active" in the current rule, clipped to ``LOG_RATIO_LIMIT``.

        Parameters
        ----------
        state : PriorState
            Current state; only the factorised rule reads it (``<rho>``, ``<ln rho>``).
        message : GaussianMessage
            Extrinsic message; only the extrinsic rule reads it.
        posterior_mean, posterior_variance : ndarray, shape (n,)
            Posterior moments; only the structured rule reads them.
        classes : ndarray of int, shape (n,)
            Slab class of each coefficient.

        Returns
        -------
        ndarray, shape (n,)
        """
        if self.rule == "extrinsic":
            ratio = gaussian_log_ratio(message, *self.class_precisions(classes), self.is_complex)
        elif self.rule == "structured":
            ratio = self._structured_log_ratio(self._power(posterior_mean, posterior_variance), classes)
        else:
            ratio = self._mean_field_log_ratio(state, classes)
        return np.clip(ratio, -LOG_RATIO_LIMIT, LOG_RATIO_LIMIT)

    def _structured_log_ratio(self, power: np.ndarray, classes: np.ndarray) -> np.ndarray:
        """``ln Z1 - ln Z0``, ``Z = b^a Gamma(a+h) / (Gamma(a) (b + power)^(a+h))``, ``h`` = 1 or 1/2."""

        def log_evidence(shape: float, rate: np.ndarray) -> np.ndarray:
            constant = gammaln(shape + self._half) - gammaln(shape)
            return shape * np.log(rate) + constant - (shape + self._half) * np.log(rate + power)

        slab_rate, spike_rate = self._rates(classes)
        return log_evidence(self.slab_shape, slab_rate) - log_evidence(self.spike_shape, spike_rate)

    def _mean_field_log_ratio(self, state: PriorState, classes: np.ndarray) -> np.ndarray:
        """``<ln Gamma(rho; a1, b1)> - <ln Gamma(rho; a0, b0)>`` under the current ``q(rho)``."""

        def expected_log_density(shape: float, rate: np.ndarray) -> np.ndarray:
            constant = shape * np.log(rate) - gammaln(shape)
            return constant + (shape - 1.0) * state.log_precision - rate * state.precision

        slab_rate, spike_rate = self._rates(classes)
        return expected_log_density(self.slab_shape, slab_rate) - expected_log_density(
            self.spike_shape, spike_rate
        )

    def precision(
        self,
        probability: np.ndarray,
        message: GaussianMessage,
        posterior_mean: np.ndarray,
        posterior_variance: np.ndarray,
        classes: np.ndarray,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return the precision for the next Gaussian step, given the support probabilities ``pi``.

        Parameters
        ----------
        probability : ndarray, shape (n,)
            ``pi``.
        message, posterior_mean, posterior_variance, classes
            As in ``log_likelihood_ratio``.

        Returns
        -------
        precision : ndarray, shape (n,)
            ``rho``, or ``<rho>``.
        log_precision : ndarray, shape (n,)
            ``ln rho``, or ``<ln rho>`` for the factorised rule.
        """
        if self.rule == "mean_field":
            return self._mean_field_precision(
                probability, self._power(posterior_mean, posterior_variance), classes
            )
        if self.rule == "structured":
            rho = self._structured_precision(
                probability, self._power(posterior_mean, posterior_variance), classes
            )
        elif self.moment_matching:
            rho = self._matched_precision(probability, message, classes)
        else:
            slab, spike = self.class_precisions(classes)
            rho = probability * slab + (1.0 - probability) * spike
        return rho, np.log(rho)

    def _structured_precision(
        self, probability: np.ndarray, power: np.ndarray, classes: np.ndarray
    ) -> np.ndarray:
        """``<rho> = sum_s pi_s (a_s + h)/(b_s + power)``."""
        slab_rate, spike_rate = self._rates(classes)
        slab = (self.slab_shape + self._half) / (slab_rate + power)
        spike = (self.spike_shape + self._half) / (spike_rate + power)
        return probability * slab + (1.0 - probability) * spike

    def _mean_field_precision(
        self, probability: np.ndarray, power: np.ndarray, classes: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Mean and mean logarithm of ``q(rho) = Gamma(a~, b~)``."""
        slab_rate, spike_rate = self._rates(classes)
        shape = probability * self.slab_shape + (1.0 - probability) * self.spike_shape + self._half
        rate = probability * slab_rate + (1.0 - probability) * spike_rate + power
        return shape / rate, digamma(shape) - np.log(rate)

    def _matched_precision(
        self, probability: np.ndarray, message: GaussianMessage, classes: np.ndarray
    ) -> np.ndarray:
        """Precision that reproduces the mixture's mean: the average of ``rho_s`` weighted by ``pi_s w_s``.

        A zero-mean Gaussian prior turns the message into the mean ``w r / v``, ``w = 1/(1/v + rho)``; it
        equals ``mixture_moments`` when ``w = sum_s pi_s w_s``, and ``1/w - 1/v`` is then this average, free
        of the cancellation.
        """
        slab, spike = self.class_precisions(classes)
        w1, w0 = branch_variances(message, slab, spike)
        weight1, weight0 = probability * w1, (1.0 - probability) * w0
        return (weight1 * slab + weight0 * spike) / (weight1 + weight0)

    def sweep(
        self,
        state: PriorState,
        message: GaussianMessage,
        posterior_mean: np.ndarray,
        posterior_variance: np.ndarray,
        classes: np.ndarray,
        support: Graph,
        *,
        inside: np.ndarray | None = None,
        learn_slab: bool = True,
        learn_support: bool = True,
        damping: float = 1.0,
    ) -> Swept[Graph]:
        """Sweep once: evidence, support graph, probability, precision, slab and graph.

        The only place where messages, slab, support graph and precision meet: the scene estimators, their
        baselines on a grid, :func:`sparse_recover` and the compression of networks all call it. Nothing that
        is given changes.

        Parameters
        ----------
        state : PriorState
            Current state of the n coefficients.
        message : GaussianMessage, shape (n,)
        posterior_mean, posterior_variance : ndarray, shape (n,) or (k,)
            Posterior moments, of the coefficients ``inside`` where that is given.
        classes : ndarray of int, shape (n,)
            Slab class of each coefficient.
        support : SupportGraph
            Graph over the same n coefficients, in the same order.
        inside : ndarray of int, shape (k,), optional
            Coefficients that have a posterior. The others are judged by their Gaussian message, stay at the
            spike, and do not teach the slab.
        learn_slab, learn_support : bool
            Whether EM updates the slab of every class, and the parameters of the graph.
        damping : float
            Step on ``ln rho`` from the old precision to the new one, in (0, 1].

        Returns
        -------
        Swept
            ``prior`` with the slabs learned, ``state``, and ``support`` with its parameters learned.

        Raises
        ------
        ValueError
            If the graph covers another number of coefficients.

        Notes
        -----
        Source: docs/theory.md, sections 3 and 4.
        """
        if support.n_coefficients != message.mean.size:
            raise ValueError(
                f"support covers {support.n_coefficients} coefficients, the message has {message.mean.size}"
            )
        members: slice | np.ndarray = slice(None)
        of_members = classes
        if inside is not None:
            members, of_members = inside, classes[inside]
        moments = posterior_mean, posterior_variance, of_members
        inner = message if inside is None else message.take(inside)
        ratio = self.log_likelihood_ratio(state if inside is None else state.take(inside), inner, *moments)
        if inside is not None:
            ratio = _placed(self._gaussian_evidence(message, classes), inside, ratio)
        extrinsic = support.extrinsic_log_odds(ratio)
        probability = expit(extrinsic + ratio)
        rho, log_rho = self.precision(probability[members], inner, *moments)
        if inside is not None:
            spike = self.class_precisions(classes)[1]
            rho, log_rho = _placed(spike, inside, rho), _placed(np.log(spike), inside, log_rho)
        prior = self._with_learned_slab(probability[members], inner, of_members) if learn_slab else self
        graph = support.learned(ratio) if learn_support else support
        if damping != 1.0:
            rho = np.exp((1.0 - damping) * np.log(state.precision) + damping * np.log(rho))
        return Swept(prior, PriorState(rho, log_rho, probability, ratio, extrinsic), graph)

    def _gaussian_evidence(self, message: GaussianMessage, classes: np.ndarray) -> np.ndarray:
        """Evidence of the messages alone, whatever the rule, clipped."""
        ratio = gaussian_log_ratio(message, *self.class_precisions(classes), self.is_complex)
        return np.clip(ratio, -LOG_RATIO_LIMIT, LOG_RATIO_LIMIT)

    def with_spike_precision(self, spike_precision: float | np.ndarray) -> ThreeLayerPrior:
        """Return the same prior with another spike, a scalar or (n_classes,), which is not checked."""
        return self._with(spike_precision=spike_precision)

    def with_slab_precision(self, slab_precision: np.ndarray) -> ThreeLayerPrior:
        """Return the same prior with other slabs (n_classes,), which are not checked."""
        return self._with(slab_precision=slab_precision)

    def _with(self, **changes: float | np.ndarray) -> ThreeLayerPrior:
        """A copy with values that were made here and need no check."""
        new = object.__new__(type(self))
        vars(new).update(vars(self))
        vars(new).pop("_of_classes", None)
        for name, value in changes.items():
            vars(new)[name] = _read_only(value)
        return new

    def _with_learned_slab(
        self, probability: np.ndarray, message: GaussianMessage, classes: np.ndarray
    ) -> ThreeLayerPrior:
        """EM update of the slab precision of every class (docs/theory.md, section 3, step 3).

        ``rho1 = sum pi / sum pi (|m|^2 + w)``, ``w = 1/(1/v + rho1)``, ``m = w r / v``. The old value enters
        with the weight of ``SLAB_PRIOR_COUNT`` coefficients: fixed points stay, and an empty class keeps its
        value.
        """
        slab, _ = self.class_precisions(classes)
        w = 1.0 / (1.0 / message.variance + slab)
        second_moment = np.abs(w * message.mean / message.variance) ** 2 + w
        n_classes = self.slab_precision.size
        count = np.bincount(classes, probability, n_classes)
        power = np.bincount(classes, probability * second_moment, n_classes)
        learned = (count + SLAB_PRIOR_COUNT) / (power + SLAB_PRIOR_COUNT / self.slab_precision)
        spike = np.asarray(self.spike_precision, dtype=np.float64)
        return self.with_slab_precision(np.clip(learned, SLAB_RANGE[0] * spike, SLAB_RANGE[1] * spike))


class Swept(NamedTuple, Generic[Graph]):
    """What a sweep returns.

    Attributes
    ----------
    prior : ThreeLayerPrior
        With the slabs learned.
    state : PriorState
    support : SupportGraph
        With its parameters learned.
    """

    prior: ThreeLayerPrior
    state: PriorState
    support: Graph


def _placed(outside: np.ndarray, inside: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Entries of all coefficients, those inside replaced."""
    merged = np.array(outside)
    merged[inside] = values
    return merged


def _read_only(value: float | np.ndarray) -> float | np.ndarray:
    """The value; an array cannot be written to from now on."""
    if isinstance(value, np.ndarray):
        value.flags.writeable = False
    return value
