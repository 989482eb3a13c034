"""Kernels over the cells of a block: symbol posteriors of users apart and together."""

from __future__ import annotations

import numpy as np
from numba import njit

__all__ = ["enumerated_posterior", "linear_log_probability", "normalised_moments"]

# Combinations less likely than the best by more than this cannot lift a marginal above the least probability.
_NEGLIGIBLE = -85.0


@njit(cache=True)
def linear_log_probability(symbol, variance, constellation):  # type: ignore[no-untyped-def]
    """``-|u - c|^2 / v`` of estimates (N, U, T) of variance (N, U), shape (U, N, T, Q)."""
    n_sub, n_users, n_symbols = symbol.shape
    out = np.empty((n_users, n_sub, n_symbols, constellation.size))
    for k in range(n_users):
        for n in range(n_sub):
            for t in range(n_symbols):
                for q in range(constellation.size):
                    error = symbol[n, k, t] - constellation[q]
                    out[k, n, t, q] = -(error.real**2 + error.imag**2) / variance[n, k]
    return out


@njit(cache=True)
def normalised_moments(log_probability, constellation):  # type: ignore[no-untyped-def]
    """Means and variances (U, N, T) under log-probabilities (U, N, T, Q), which are normalised in place."""
    n_users, n_sub, n_symbols, n_points = log_probability.shape
    mean = np.empty((n_users, n_sub, n_symbols), np.complex128)
    variance = np.empty((n_users, n_sub, n_symbols))
    for k in range(n_users):
        for n in range(n_sub):
            for t in range(n_symbols):
                cell = log_probability[k, n, t]
                largest = cell.max()
                total, first, second = 0.0, 0j, 0.0
                for q in range(n_points):
                    weight, point = np.exp(cell[q] - largest), constellation[q]
                    total += weight
                    first += weight * point
                    second += weight * (point.real**2 + point.imag**2)
                cell -= largest + np.log(total)
                first /= total
                mean[k, n, t] = first
                variance[k, n, t] = max(second / total - first.real**2 - first.imag**2, 0.0)
    return mean, variance


@njit(cache=True)
def _grown(below, factor, n_points, out):  # type: ignore[no-untyped-def]
    """Sums over one more user, the last one fastest: ``out[c Q + q] = below[c] + factor[q]``."""
    for c in range(below.size):
        for q in range(n_points):
            out[c * n_points + q] = below[c] + factor[q]


@njit(cache=True)
def _quadratic_forms(information, constellation, labels, out):  # type: ignore[no-untyped-def]
    """``s^H A s`` of every combination of points, filled in."""
    n_users = information.shape[0]
    for c in range(out.size):
        total = 0.0
        for k in range(n_users):
            s = constellation[labels[c, k]]
            total += information[k, k].real * (s.real**2 + s.imag**2)
            for j in range(k):
                r = constellation[labels[c, j]]
                total += 2 * (np.conj(s) * information[k, j] * r).real
        out[c] = total


@njit(cache=True)
def _fold(weight, partial, constellation, marginal, second):  # type: ignore[no-untyped-def]
    """Marginals (U, Q) and second moments ``E[s_k conj(s_j)]`` (U, U) of weights over all combinations.

    The last user is summed out first. ``partial[k]`` then holds, for every combination of the users before,
    the sum of weights times the symbol of a user k that has been summed out already.
    """
    n_users, n_points = marginal.shape
    size = weight.size
    for user in range(n_users - 1, -1, -1):
        size //= n_points
        for later in range(user, n_users):
            second[later, user] = 0.0
        marginal[user] = 0.0
        for c in range(size):
            total, first = 0.0, 0j
            for q in range(n_points):
                value, point = weight[c * n_points + q], constellation[q]
                marginal[user, q] += value
                total += value
                first += value * point
                second[user, user] += value * (point.real**2 + point.imag**2)
            weight[c] = total
            for later in range(user + 1, n_users):
                moment = 0j
                for q in range(n_points):
                    value = partial[later, c * n_points + q]
                    moment += value
                    second[later, user] += value * np.conj(constellation[q])
                partial[later, c] = moment
            partial[user, c] = first
        for later in range(user + 1, n_users):
            second[user, later] = np.conj(second[later, user])


@njit(cache=True)
def enumerated_posterior(information, matched, constellation):  # type: ignore[no-untyped-def]
    """Marginals (U, N, T, Q) and second moments ``E[s_k conj(s_j)]`` (N, T, U, U) by enumeration.

    Of the likelihood ``exp(2 Re s^H b - s^H A s)`` with ``A`` (N, U, U) and ``b`` (N, U, T): quadratic forms
    once a subcarrier, then per cell a sum of one term a user, an exponential, and the sums over one user
    after another. Memory is that of the combinations of one cell.
    """
    n_sub, n_users, n_symbols = matched.shape
    n_points = constellation.size
    n_combinations = n_points**n_users
    labels = np.empty((n_combinations, n_users), np.int64)
    for c in range(n_combinations):
        rest = c
        for k in range(n_users - 1, -1, -1):
            rest, labels[c, k] = divmod(rest, n_points)
    quadratic, linear = np.empty(n_combinations), np.empty((2, n_combinations))
    partial = np.empty((n_users, n_combinations // n_points), np.complex128)
    term = np.empty(n_points)
    marginal = np.empty((n_users, n_sub, n_symbols, n_points))
    second = np.empty((n_sub, n_symbols, n_users, n_users), np.complex128)
    for n in range(n_sub):
        _quadratic_forms(information[n], constellation, labels, quadratic)
        for t in range(n_symbols):
            size = 1
            linear[0, 0] = 0.0
            for k in range(n_users):
                for q in range(n_points):
                    term[q] = 2 * (np.conj(constellation[q]) * matched[n, k, t]).real
                _grown(linear[k % 2, :size], term, n_points, linear[(k + 1) % 2])
                size *= n_points
            weight = linear[n_users % 2]
            weight -= quadratic
            largest = weight.max()
            total = 0.0
            for c in range(n_combinations):
                exponent = weight[c] - largest
                weight[c] = np.exp(exponent) if exponent > _NEGLIGIBLE else 0.0
                total += weight[c]
            weight /= total
            _fold(weight, partial, constellation, marginal[:, n, t], second[n, t])
    return marginal, second
