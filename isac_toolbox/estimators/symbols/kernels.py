"""Kernels over the cells of a block: symbol posteriors of users apart and together."""

from __future__ import annotations

import numpy as np
from numba import njit

__all__ = ["enumerated_posterior", "linear_log_probability", "normalised_moments"]

# Guard: combinations less likely than the best by more nats cannot lift a marginal above the least
# probability.
_NEGLIGIBLE = -85.0


@njit(cache=True, error_model="numpy")
def linear_log_probability(symbol, variance, constellation):  # type: ignore[no-untyped-def]
    """Return ``-|u - c|^2 / v`` of estimates (N, U, T) of variance (N, U), shape (U, N, T, Q)."""
    n_sub, n_users, n_symbols = symbol.shape
    out = np.empty((n_users, n_sub, n_symbols, constellation.size))
    for k in range(n_users):
        for n in range(n_sub):
            for t in range(n_symbols):
                for q in range(constellation.size):
                    error = symbol[n, k, t] - constellation[q]
                    out[k, n, t, q] = -(error.real**2 + error.imag**2) / variance[n, k]
    return out


@njit(cache=True, error_model="numpy")
def normalised_moments(log_probability, constellation):  # type: ignore[no-untyped-def]
    """Return means and variances (U, N, T) under log-probabilities (U, N, T, Q), normalised in place."""
    n_users, n_sub, n_symbols, n_points = log_probability.shape
    mean = np.empty((n_users, n_sub, n_symbols), np.complex128)
    variance = np.empty((n_users, n_sub, n_symbols))
    for k in range(n_users):
        for n in range(n_sub):
            for t in range(n_symbols):
                cell = log_probability[k, n, t]
                largest = -np.inf
                for q in range(n_points):
                    largest = max(largest, cell[q])
                total, first, second = 0.0, 0j, 0.0
                for q in range(n_points):
                    if cell[q] - largest < _NEGLIGIBLE:
                        continue
                    weight, point = np.exp(cell[q] - largest), constellation[q]
                    total += weight
                    first += weight * point
                    second += weight * (point.real**2 + point.imag**2)
                largest += np.log(total)
                for q in range(n_points):
                    cell[q] -= largest
                first /= total
                mean[k, n, t] = first
                variance[k, n, t] = max(second / total - first.real**2 - first.imag**2, 0.0)
    return mean, variance


@njit(cache=True, error_model="numpy")
def _labels(n_points, n_users):  # type: ignore[no-untyped-def]
    """Points of every combination, shape (Q^U, U), the last user's changing fastest."""
    labels = np.empty((n_points**n_users, n_users), np.int64)
    for c in range(len(labels)):
        rest = c
        for k in range(n_users - 1, -1, -1):
            rest, labels[c, k] = divmod(rest, n_points)
    return labels


@njit(cache=True, error_model="numpy")
def _quadratic_forms(information, constellation, labels, out):  # type: ignore[no-untyped-def]
    """``s^H A s`` of every combination of points, filled in user by user.

    Combinations of the first k users are extended by every point of the next one, in place from the last
    to the first: ``A_kk |s_k|^2 + 2 Re conj(s_k) sum_j<k A_kj s_j`` is added.
    """
    n_users, n_points = len(information), constellation.size
    size, stride = 1, len(labels)
    out[0] = 0.0
    for k in range(n_users):
        for c in range(size - 1, -1, -1):
            before, cross = out[c], 0j
            for j in range(k):
                cross += information[k, j] * constellation[labels[c * stride, j]]
            for q in range(n_points):
                s = constellation[q]
                square = information[k, k].real * (s.real**2 + s.imag**2)
                out[c * n_points + q] = before + square + 2 * (s.real * cross.real + s.imag * cross.imag)
        size *= n_points
        stride //= n_points


@njit(cache=True, error_model="numpy")
def _linear_forms(matched, log_prior, constellation, out):  # type: ignore[no-untyped-def]
    """``2 Re s^H b`` and log-priors (U, Q) of every combination of points, filled in the same way."""
    size = 1
    out[0] = 0.0
    for k in range(matched.size):
        b = matched[k]
        for c in range(size - 1, -1, -1):
            before = out[c]
            for q in range(constellation.size):
                s = constellation[q]
                value = 2 * (s.real * b.real + s.imag * b.imag) + log_prior[k, q]
                out[c * constellation.size + q] = before + value
        size *= constellation.size


@njit(cache=True, error_model="numpy")
def _fold(weight, partial, constellation, marginal, second):  # type: ignore[no-untyped-def]
    """Marginals (U, Q) and second moments ``E[s_k conj(s_j)]`` (U, U) of weights over all combinations.

    The last user is summed out first. ``partial[k]`` then holds, for every combination of the users before,
    the sum of weights times the symbol of a user k that has been summed out already.
    """
    n_users, n_points = marginal.shape
    size = weight.size
    for user in range(n_users - 1, -1, -1):
        size //= n_points
        for later in range(user + 1, n_users):
            cross = 0j
            for c in range(size):
                moment = 0j
                for q in range(n_points):
                    value = partial[later, c * n_points + q]
                    moment += value
                    cross += value * np.conj(constellation[q])
                partial[later, c] = moment
            second[later, user] = cross
            second[user, later] = np.conj(cross)
        marginal[user] = 0.0
        for c in range(size):
            total, first = 0.0, 0j
            for q in range(n_points):
                value = weight[c * n_points + q]
                marginal[user, q] += value
                total += value
                first += value * constellation[q]
            weight[c], partial[user, c] = total, first
        second[user, user] = np.sum(marginal[user] * np.abs(constellation) ** 2)


@njit(cache=True, error_model="numpy")
def enumerated_posterior(information, matched, log_prior, constellation):  # type: ignore[no-untyped-def]
    """Return the marginals (U, N, T, Q) and second moments ``E[s_k conj(s_j)]`` (N, T, U, U) by enumeration.

    Of the likelihood ``exp(2 Re s^H b - s^H A s)`` with ``A`` (N, U, U) and ``b`` (N, U, T), and log-priors
    of the points (U, N, T, Q), or (U, 1, 1, Q) where they are the same in every cell: quadratic forms
    once a subcarrier, then per cell one sum a combination, an exponential, and the sums over one user after
    another. Memory is that of the combinations of one cell.
    """
    n_sub, n_users, n_symbols = matched.shape
    n_points = constellation.size
    labels = _labels(n_points, n_users)
    quadratic, weight = np.empty(len(labels)), np.empty(len(labels))
    partial = np.empty((n_users, len(labels) // n_points), np.complex128)
    marginal = np.empty((n_users, n_sub, n_symbols, n_points))
    second = np.empty((n_sub, n_symbols, n_users, n_users), np.complex128)
    step_n, step_t = log_prior.shape[1] > 1, log_prior.shape[2] > 1
    for n in range(n_sub):
        _quadratic_forms(information[n], constellation, labels, quadratic)
        for t in range(n_symbols):
            _linear_forms(matched[n, :, t], log_prior[:, n * step_n, t * step_t], constellation, weight)
            weight -= quadratic
            largest, total = weight.max(), 0.0
            for c in range(weight.size):
                exponent = weight[c] - largest
                weight[c] = np.exp(exponent) if exponent > _NEGLIGIBLE else 0.0
                total += weight[c]
            weight /= total
            _fold(weight, partial, constellation, marginal[:, n, t], second[n, t])
    return marginal, second
