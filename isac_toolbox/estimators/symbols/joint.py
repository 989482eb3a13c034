"""Symbol posteriors of users who send together: one by one where they are apart, jointly where they are not.

docs/theory.md, section 5.6. Everything starts from the likelihood of a cell's symbols,
``exp(2 Re s^H b - s^H A s)``, with the information matrix ``A`` of its subcarrier.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from scipy.special import logsumexp

from isac_toolbox._threads import in_threads, stretches
from isac_toolbox.estimators.symbols.kernels import (
    NEGLIGIBLE_NATS,
    enumerated_posterior,
    linear_log_probability,
    normalised_moments,
)
from isac_toolbox.estimators.symbols.tree_kernels import neighbourhood_posterior

__all__ = [
    "SymbolLikelihood",
    "SymbolPosterior",
    "coupled_groups",
    "crowds",
    "linear_error_rate",
    "symbol_posterior",
]

RealArray = NDArray[np.float64]
ComplexArray = NDArray[np.complex128]
IntArray = NDArray[np.int64]

# Cost cap: users whose LMMSE errors correlate more than this, on average over subcarriers, are decided
# jointly
_COUPLED = 0.1
# Cost cap: where one of them would be decided wrongly more often than this,
_CLEAR = 1e-5
# Cost cap: as long as their symbols have no more combinations than this.
_MAX_COMBINATIONS = 4096
# Cost cap: combinations that a search in a crowd of more users keeps; four err in one cell of hundreds.
_BREADTH = 8
# Guard: mean share of the best combination in a crowd below which many are about as likely, and more than a
# search of its neighbourhood finds.
_LEAST_SURE = 0.5
# Cost cap: the same above which nothing but the search is asked.
_SURE = 0.98
# Mathematics: distances of points, relative to the least, that reach the neighbours along rows and diagonals.
_NEIGHBOURHOOD = 1.5
# Cost cap: subcarriers that one thread takes at once.
_SUBCARRIERS_AT_ONCE = 128
# Guard: of a symbol's prior in the linear estimates of the others; beside one of its energy it is certain.
_LEAST_PRIOR_VARIANCE = 1e-6
# Guard: of a constellation point that is left out of an enumeration; bounds how certain a symbol can be.
_LEAST_PROBABILITY = float(np.exp(-NEGLIGIBLE_NATS))
# Guard: of a symbol; keeps correlations finite.
_LEAST_VARIANCE = 1e-30


@dataclass(frozen=True, eq=False)
class SymbolLikelihood:
    """Likelihood of the symbols of U users in every cell.

    Attributes
    ----------
    information : ndarray of complex, shape (N, U, U)
        ``A = G (s2 G + E)^-1 G``.
    matched : ndarray of complex, shape (N, U, T)
        ``b = G (s2 G + E)^-1 H^H y``.
    prior_precision : ndarray, shape (N, U), optional
        Of the Gaussian that stands for a symbol in the linear estimates of the others; one if not given.
    prior_mean : ndarray of complex, shape (N, U, T), optional
        Of the same; zero if not given.
    """

    information: ComplexArray
    matched: ComplexArray
    prior_precision: RealArray | None = None
    prior_mean: ComplexArray | None = None

    def under(self, log_prior: RealArray, constellation: ComplexArray) -> SymbolLikelihood:
        """Return the likelihood of all N T cells with the moments of their symbols' priors (U, N, T, Q)."""
        n_sub, n_users, n_symbols = self.matched.shape
        mean, variance = _moments(log_prior.copy(), constellation)
        return SymbolLikelihood(
            np.repeat(self.information, n_symbols, axis=0),
            self.matched.transpose(0, 2, 1).reshape(n_sub * n_symbols, n_users, 1),
            1 / np.maximum(variance.reshape(n_users, -1).T, _LEAST_PRIOR_VARIANCE),
            mean.reshape(n_users, -1).T[..., None],
        )

    @property
    def _loading(self) -> RealArray:
        """Prior precisions as diagonal matrices, shape (N or 1, U, U)."""
        unit = np.eye(self.information.shape[1])
        return unit if self.prior_precision is None else self.prior_precision[:, :, None] * unit

    @property
    def _pull(self) -> ComplexArray:
        """``b`` and the prior's share, shape (N, U, T)."""
        if self.prior_precision is None or self.prior_mean is None:
            return self.matched
        return np.asarray(self.matched + self.prior_precision[:, :, None] * self.prior_mean)

    @cached_property
    def lmmse_error(self) -> ComplexArray:
        """Error covariance ``(A + L)^-1`` of the linear estimate, ``L`` the prior precision, (N, U, U)."""
        inverse = np.linalg.inv(self.information + self._loading)
        return np.asarray((inverse + inverse.conj().transpose(0, 2, 1)) / 2, dtype=complex)

    @cached_property
    def error_correlation(self) -> ComplexArray:
        """Correlation coefficients of those errors, shape (N, U, U)."""
        error = self.lmmse_error
        index = np.arange(error.shape[1])
        deviation = np.sqrt(np.maximum(np.real(error[:, index, index]), 1e-300))
        return np.asarray(error / (deviation[:, :, None] * deviation[:, None, :]), dtype=complex)

    def unbiased(self) -> tuple[ComplexArray, RealArray]:
        """Return the linear estimates divided by their own gain (N, U, T), and their error variances (N, U).

        ``z_k = [(A + L)^-1 (b + L m)]_k / g_k`` less the share of its own prior mean ``m_k``, variance
        ``[(A + L)^-1]_kk / g_k`` with ``g_k = [(A + L)^-1 A]_kk``.
        """
        error, index = self.lmmse_error, np.arange(self.information.shape[1])
        gain = np.sum(error.real * self.information.real + error.imag * self.information.imag, axis=2)
        gain = np.maximum(gain, 1e-12)
        variance = np.maximum(np.real(error[:, index, index]) / gain, 1e-12)
        estimate = np.matmul(error, self._pull)
        if self.prior_precision is not None and self.prior_mean is not None:
            own = np.real(error[:, index, index]) * self.prior_precision
            estimate = estimate - own[:, :, None] * self.prior_mean
        return estimate / gain[:, :, None], variance

    def given_gaussian_rest(self, group: IntArray) -> SymbolLikelihood:
        """Return likelihood of a group's symbols, the others integrated out as Gaussians of their priors."""
        rest = np.setdiff1d(np.arange(self.information.shape[1]), group)
        block = self.information[:, group[:, None], group]
        if not rest.size:
            return SymbolLikelihood(block, self.matched[:, group])
        across = self.information[:, group[:, None], rest]
        inner = self.information[:, rest[:, None], rest] + self._loading[..., rest[:, None], rest]
        right = np.concatenate([across.conj().transpose(0, 2, 1), self._pull[:, rest]], axis=2)
        explained = np.matmul(across, np.linalg.solve(inner, right))
        return SymbolLikelihood(
            block - explained[:, :, : group.size], self.matched[:, group] - explained[:, :, group.size :]
        )


@dataclass(frozen=True, eq=False)
class SymbolPosterior:
    """Posterior of the symbols of U users.

    Attributes
    ----------
    log_probability : ndarray, shape (U, N, T, Q)
        Of every point of the constellation.
    mean : ndarray of complex, shape (U, N, T)
    variance : ndarray, shape (U, N, T)
    error_correlation : ndarray of complex, shape (N, T, U, U) or (N, 1, U, U)
        Correlation coefficients of the users' errors; those of one symbol hold for all.
    """

    log_probability: RealArray
    mean: ComplexArray
    variance: RealArray
    error_correlation: ComplexArray


def symbol_posterior(
    likelihood: SymbolLikelihood,
    constellation: ComplexArray,
    joint: bool = True,
    log_prior: RealArray | None = None,
) -> SymbolPosterior:
    """Return the posterior of symbols of a constellation, coupled users jointly by default.

    Priors (U, N, T, Q) are uniform if not given. In the linear estimate of a user the others' symbols are
    Gaussians of the moments of their priors, so that what is known of them is cancelled.
    """
    n_sub, n_users, n_symbols = likelihood.matched.shape
    n_points = constellation.size
    if log_prior is not None:
        likelihood = likelihood.under(log_prior, constellation)
        log_prior = log_prior.reshape(n_users, -1, 1, n_points)
    symbol, variance = likelihood.unbiased()
    log_probability = _of_linear_estimates(symbol, variance, constellation)
    if log_prior is not None:
        log_probability += log_prior
    error_correlation = likelihood.error_correlation[:, None]
    unclear = (linear_error_rate(variance, constellation) > _CLEAR) & joint
    decided = list(_jointly(likelihood, constellation, log_prior, unclear))
    if decided:
        shape = (len(error_correlation), likelihood.matched.shape[2], n_users, n_users)
        error_correlation = np.broadcast_to(error_correlation, shape).copy()
    for group, found in decided:
        log_probability[group] = found.mixed_with(log_probability[group])
        error_correlation[:, :, group[:, None], group] = found.error_correlation
    mean, spread = _moments(log_probability, constellation)
    by_cell = (n_users, n_sub, n_symbols)
    return SymbolPosterior(
        log_probability.reshape(*by_cell, n_points),
        mean.reshape(by_cell),
        spread.reshape(by_cell),
        error_correlation.reshape(n_sub, -1, n_users, n_users),
    )


@dataclass(frozen=True, eq=False)
class _Together:
    """Decisions of users together: log-probabilities (U, N, T, Q) and error correlations (N, T, U, U).

    ``share`` (N, T) is how much of the probability they are about; all of it if not given.
    """

    log_probability: RealArray
    error_correlation: ComplexArray
    share: RealArray | None = None

    def mixed_with(self, log_probability: RealArray) -> RealArray:
        """Return log-probabilities with the rest of the probability as others (U, N, T, Q) have it."""
        if self.share is None:
            return self.log_probability
        with np.errstate(divide="ignore"):
            own, rest = np.log(self.share)[..., None], np.log1p(-self.share)[..., None]
        others = log_probability - logsumexp(log_probability, axis=-1, keepdims=True)
        return np.logaddexp(own + self.log_probability, rest + others)


def _jointly(
    likelihood: SymbolLikelihood,
    constellation: ComplexArray,
    log_prior: RealArray | None,
    unclear: NDArray[np.bool_],
) -> Iterator[tuple[IntArray, _Together]]:
    """Sets of users and what deciding them together finds, crowds after the groups that they are mixed with.

    Crowds of more combinations than can be enumerated are searched. Where that is sure of what it finds
    nothing else is asked; where it is not, the most coupled of their users are enumerated as well.
    """
    correlation, n_points = likelihood.error_correlation, constellation.size
    settled = np.zeros(correlation.shape[1], bool)

    def prior_of(group: IntArray) -> RealArray:
        return np.zeros((group.size, 1, 1, n_points)) if log_prior is None else log_prior[group]

    searched = []
    for crowd in crowds(correlation, unclear, n_points):
        found = _searched(likelihood.given_gaussian_rest(crowd), constellation, prior_of(crowd))
        if found is not None:
            settled[crowd] = found.share is None
            searched.append((crowd, found))
    for group in coupled_groups(correlation, unclear & ~settled, n_points):
        if not settled[group].any():
            yield group, _enumerated(likelihood.given_gaussian_rest(group), constellation, prior_of(group))
    yield from searched


def _of_linear_estimates(symbol: ComplexArray, variance: RealArray, constellation: ComplexArray) -> RealArray:
    """Log-probabilities (U, N, T, Q), not normalised, of estimates (N, U, T) of variance (N, U)."""
    n_sub, n_users, n_symbols = symbol.shape
    out = np.empty((n_users, n_sub, n_symbols, constellation.size))

    def fill_in(part: slice) -> None:
        linear_log_probability(symbol, variance, constellation, out, part.start, part.stop)

    in_threads(fill_in, stretches(n_sub, _SUBCARRIERS_AT_ONCE), out.size)
    return out


def _moments(log_probability: RealArray, constellation: ComplexArray) -> tuple[ComplexArray, RealArray]:
    """Means and variances (U, N, T) under log-probabilities (U, N, T, Q), which are normalised in place."""
    n_users, n_sub, n_symbols, _ = log_probability.shape
    mean, variance = np.empty((n_users, n_sub, n_symbols), complex), np.empty((n_users, n_sub, n_symbols))

    def fill_in(part: slice) -> None:
        normalised_moments(log_probability, constellation, mean, variance, part.start, part.stop)

    in_threads(fill_in, stretches(n_sub, _SUBCARRIERS_AT_ONCE), log_probability.size)
    return mean, variance


def linear_error_rate(variance: RealArray, constellation: ComplexArray) -> RealArray:
    """Return a rough symbol error rate ``exp(-d^2 / 4 v)`` of linear estimates of variance (N, U), (U,)."""
    gaps = np.abs(constellation[:, None] - constellation)
    nearest = float(np.min(gaps[gaps > 0]))
    return np.asarray(np.mean(np.exp(-(nearest**2) / (4 * variance)), axis=0))


def coupled_groups(
    error_correlation: ComplexArray, unclear: NDArray[np.bool_], n_points: int
) -> list[IntArray]:
    """Return the groups of two or more users to be decided jointly.

    Pairs with an unclear user join in the order of their mean correlation while the group's combinations
    stay few enough.

    Parameters
    ----------
    error_correlation : ndarray of complex, shape (N, U, U)
        Of the linear estimates.
    unclear : ndarray of bool, shape (U,)
        Users whom a linear receiver decides wrongly now and then.
    n_points : int
        Size of the constellation.
    """
    if not unclear.any():
        return []
    symbol_gram = np.mean(np.abs(error_correlation), axis=0)
    n_users = len(symbol_gram)
    largest = _most_users(n_points)
    group_of = np.arange(n_users)
    first, second = np.triu_indices(n_users, 1)
    for pair in np.argsort(-symbol_gram[first, second], kind="stable"):
        i, j = first[pair], second[pair]
        if symbol_gram[i, j] <= _COUPLED:
            break
        together = (group_of == group_of[i]) | (group_of == group_of[j])
        if (unclear[i] or unclear[j]) and np.count_nonzero(together) <= largest:
            group_of[together] = group_of[i]
    groups = [np.flatnonzero(group_of == g) for g in np.unique(group_of)]
    return [g for g in groups if g.size > 1]


def crowds(error_correlation: ComplexArray, unclear: NDArray[np.bool_], n_points: int) -> list[IntArray]:
    """Return the sets of users coupled with each other that have too many combinations to enumerate.

    Arguments are those of :func:`coupled_groups`.
    """
    coupled = np.mean(np.abs(error_correlation), axis=0) > _COUPLED
    together = (coupled & (unclear[:, None] | unclear)) | np.eye(unclear.size, dtype=bool)
    for _ in range(unclear.size.bit_length()):  # chains twice as long every time
        together = together @ together
    sets = {tuple(np.flatnonzero(row).tolist()) for row in together}
    return [np.array(users) for users in sorted(sets) if len(users) > _most_users(n_points)]


def _most_users(n_points: int) -> int:
    """Users whose symbols are few enough to go through all their combinations."""
    return int(np.log(_MAX_COMBINATIONS) / np.log(n_points) + 1e-9)


def _searched(
    likelihood: SymbolLikelihood, constellation: ComplexArray, log_prior: RealArray
) -> _Together | None:
    """What a search in a crowd finds, None where most of it stays unsure."""
    n_sub, n_users, n_symbols = likelihood.matched.shape
    marginal = np.empty((n_users, n_sub, n_symbols, constellation.size))
    second = np.empty((n_sub, n_symbols, n_users, n_users), complex)
    sure = np.empty((n_sub, n_symbols))
    near = _neighbours(constellation)

    def fill_in(part: slice) -> None:
        prior = log_prior if log_prior.shape[1] == 1 else log_prior[:, part]
        own = np.empty((n_users, part.stop - part.start, n_symbols, constellation.size))
        neighbourhood_posterior(
            np.ascontiguousarray(likelihood.information[part]),
            np.ascontiguousarray(likelihood.matched[part]),
            np.ascontiguousarray(prior),
            constellation,
            near,
            _BREADTH,
            NEGLIGIBLE_NATS,
            own,
            second[part],
            sure[part],
        )
        marginal[:, part] = own

    parts = stretches(n_sub, _SUBCARRIERS_AT_ONCE)
    in_threads(fill_in, parts, _BREADTH * constellation.size * n_users * likelihood.matched.size)
    if sure.mean() < _LEAST_SURE:
        return None
    mean = (marginal @ constellation).transpose(1, 2, 0)
    log_probability = np.log(np.maximum(marginal, _LEAST_PROBABILITY))
    share = None if sure.mean() > _SURE else np.minimum(sure, 1.0)
    return _Together(log_probability, _error_correlation(second, mean), share)


def _neighbours(constellation: ComplexArray) -> IntArray:
    """Indices of the points around every point, minus one where there are fewer, shape (Q, neighbours)."""
    gaps = np.abs(constellation[:, None] - constellation)
    near = (gaps > 0) & (gaps < _NEIGHBOURHOOD * np.min(gaps[gaps > 0]))
    out = np.full((len(near), int(near.sum(axis=1).max())), -1)
    for row, around in zip(out, near, strict=True):
        row[: around.sum()] = np.flatnonzero(around)
    return out


def _enumerated(likelihood: SymbolLikelihood, constellation: ComplexArray, log_prior: RealArray) -> _Together:
    """What the enumeration of all combinations of a group finds."""
    information, matched = likelihood.information, likelihood.matched

    def enumerate_in(part: slice) -> tuple[RealArray, ComplexArray]:
        prior = log_prior if log_prior.shape[1] == 1 else log_prior[:, part]
        found: tuple[RealArray, ComplexArray] = enumerated_posterior(
            information[part], matched[part], np.ascontiguousarray(prior), constellation
        )
        return found

    n_combinations = constellation.size ** matched.shape[1]
    parts = stretches(len(matched), _SUBCARRIERS_AT_ONCE)
    marginals, seconds = zip(*in_threads(enumerate_in, parts, matched.size * n_combinations), strict=True)
    marginal, second = np.concatenate(marginals, axis=1), np.concatenate(seconds)
    mean = (marginal @ constellation).transpose(1, 2, 0)
    log_probability = np.log(np.maximum(marginal, _LEAST_PROBABILITY))
    return _Together(log_probability, _error_correlation(second, mean))


def _error_correlation(second: ComplexArray, mean: ComplexArray) -> ComplexArray:
    """Correlation coefficients from second moments ``E[s_k conj(s_j)]`` (..., U, U) and means (..., U)."""
    covariance = second - mean[..., :, None] * mean.conj()[..., None, :]
    index = np.arange(mean.shape[-1])
    deviation = np.sqrt(np.maximum(np.real(covariance[..., index, index]), _LEAST_VARIANCE))
    error_correlation = covariance / (deviation[..., :, None] * deviation[..., None, :])
    size = np.abs(error_correlation)
    error_correlation = error_correlation / np.maximum(size, 1.0)
    error_correlation[..., index, index] = 1.0
    return np.asarray(error_correlation)
