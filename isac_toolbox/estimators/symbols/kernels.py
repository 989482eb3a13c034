"""Kernels over the cells of a block: symbol posteriors of users apart and together."""

from __future__ import annotations

import numpy as np
from numba import njit

__all__ = ["NEGLIGIBLE_NATS", "enumerated_posterior", "linear_log_probability", "normalised_moments"]

# Cost cap: combinations of symbols less likely than a good one by more nats are left out; all of them
# together change a moment by less than rounding.
NEGLIGIBLE_NATS = 45.0
# Guard: least squared pivot of a root, beside the trace of the matrix and a nat.
_LEAST_PIVOT = 1e-13

# Guard: a point of the constellation less likely than the best by more nats changes no moment.
_NEGLIGIBLE = -85.0


@njit(cache=True, nogil=True, error_model="numpy")
def linear_log_probability(symbol, variance, constellation, out, first, stop):  # type: ignore[no-untyped-def]
    """Fill in ``-|u - c|^2 / v`` (U, N, T, Q) of estimates (N, U, T) and variances (N, U), a stretch of N."""
    n_users, n_symbols = symbol.shape[1], symbol.shape[2]
    for k in range(n_users):
        for n in range(first, stop):
            for t in range(n_symbols):
                for q in range(constellation.size):
                    error = symbol[n, k, t] - constellation[q]
                    out[k, n, t, q] = -(error.real**2 + error.imag**2) / variance[n, k]


@njit(cache=True, nogil=True, error_model="numpy")
def normalised_moments(log_probability, constellation, mean, variance, first, stop):  # type: ignore[no-untyped-def]
    """Fill in means and variances (U, N, T) on some subcarriers under log-probabilities (U, N, T, Q).

    Those are normalised in place.
    """
    n_users, _, n_symbols, n_points = log_probability.shape
    for k in range(n_users):
        for n in range(first, stop):
            for t in range(n_symbols):
                cell = log_probability[k, n, t]
                largest = cell[0]
                for q in range(1, n_points):
                    if cell[q] > largest:
                        largest = cell[q]
                total, moment, second = 0.0, 0j, 0.0
                for q in range(n_points):
                    if cell[q] - largest < _NEGLIGIBLE:
                        continue
                    weight, point = np.exp(cell[q] - largest), constellation[q]
                    total += weight
                    moment += weight * point
                    second += weight * (point.real**2 + point.imag**2)
                largest += np.log(total)
                for q in range(n_points):
                    cell[q] -= largest
                moment *= 1.0 / total  # a complex division takes a third of a second to compile
                mean[k, n, t] = moment
                spread = second / total - moment.real**2 - moment.imag**2
                variance[k, n, t] = spread if spread > 0.0 else 0.0


@njit(cache=True, nogil=True, error_model="numpy")
def _triangular_root(information, root):  # type: ignore[no-untyped-def]
    """Upper triangular ``R`` with ``A = R^H R``, diagonal real and positive; ``A`` may lack rank."""
    n_users = len(information)
    trace = 1.0
    for k in range(n_users):
        trace += information[k, k].real
    least = _LEAST_PIVOT * trace
    for i in range(n_users):
        pivot = information[i, i].real
        for j in range(i):
            pivot -= root[j, i].real ** 2 + root[j, i].imag ** 2
        pivot = np.sqrt(max(pivot, least))
        root[i, i] = pivot
        for k in range(i + 1, n_users):
            rest = information[i, k]
            for j in range(i):
                rest -= np.conj(root[j, i]) * root[j, k]
            root[i, k] = rest / pivot


@njit(cache=True, nogil=True, error_model="numpy")
def _centre(root, matched, centre):  # type: ignore[no-untyped-def]
    """``z`` with ``R^H z = b``, so that ``s^H A s - 2 Re s^H b = |R s - z|^2 - |z|^2``."""
    for k in range(matched.size):
        rest = matched[k]
        for j in range(k):
            rest -= np.conj(root[j, k]) * centre[j]
        centre[k] = rest / root[k, k].real


@njit(cache=True, nogil=True, error_model="numpy")
def _decided_in_turn(root, centre, cost, constellation, labels):  # type: ignore[no-untyped-def]
    """Cost of the combination that deciding one user after another finds; no better one costs more."""
    total = 0.0
    for k in range(centre.size - 1, -1, -1):
        target = centre[k]
        for j in range(k + 1, centre.size):
            target -= root[k, j] * constellation[labels[j]]
        least = np.inf
        for q in range(constellation.size):
            error = root[k, k].real * constellation[q] - target
            own = error.real**2 + error.imag**2 + cost[k, q]
            if own < least:
                least, labels[k] = own, q
        total += least
    return total


@njit(cache=True, nogil=True, error_model="numpy")
def _extended(root, centre, cost, constellation, limit, k, size, label, metric):  # type: ignore[no-untyped-def]
    """Extend ``size`` combinations of the users after k by every point of user k that stays below the limit.

    Combinations of user k are ``label[k]``, shape (2, .): point, and index of the combination before. Costs
    ``metric[k]`` only grow from user to user, so what is above the limit once stays there.
    """
    n_users = centre.size
    count = 0
    for c in range(size):
        target, above = centre[k], c
        for j in range(k + 1, n_users):
            target -= root[k, j] * constellation[label[j, 0, above]]
            above = label[j, 1, above]
        before = metric[k + 1, c] if k + 1 < n_users else 0.0
        for q in range(constellation.size):
            error = root[k, k].real * constellation[q] - target
            total = before + error.real**2 + error.imag**2 + cost[k, q]
            if total <= limit:
                metric[k, count] = total
                label[k, 0, count], label[k, 1, count] = q, c
                count += 1
    return count


@njit(cache=True, nogil=True, error_model="numpy")
def _fold(sizes, label, weight, partial, constellation, marginal, second):  # type: ignore[no-untyped-def]
    """Marginals (U, Q) and second moments ``E[s_k conj(s_j)]`` (U, U) of weights of combinations.

    User 0 is summed out first. ``partial[j]`` then holds, for every combination of the users that are left,
    the sum of weights times the symbol of a user j that has been summed out already.
    """
    n_users = len(sizes)
    for user in range(n_users):
        left = sizes[user + 1] if user + 1 < n_users else 1
        weight[user + 1, :left] = 0.0
        partial[user + 1, : user + 1, :left] = 0.0
        marginal[user], second[user] = 0.0, 0.0
        for c in range(sizes[user]):
            point, above = label[user, 0, c], label[user, 1, c]
            value, s = weight[user, c], constellation[point]
            marginal[user, point] += value
            weight[user + 1, above] += value
            partial[user + 1, user, above] += value * s
            second[user, user] += value * (s.real**2 + s.imag**2)
            for before in range(user):
                moment = partial[user, before, c]
                partial[user + 1, before, above] += moment
                second[user, before] += np.conj(moment) * s
    for user in range(n_users):
        for before in range(user):
            second[before, user] = np.conj(second[user, before])


@njit(cache=True, nogil=True, error_model="numpy")
def enumerated_posterior(information, matched, log_prior, constellation):  # type: ignore[no-untyped-def]
    """Return the marginals (U, N, T, Q) and second moments ``E[s_k conj(s_j)]`` (N, T, U, U) by enumeration.

    Of the likelihood ``exp(2 Re s^H b - s^H A s)`` with ``A`` (N, U, U) and ``b`` (N, U, T), and log-priors
    of the points (U, N, T, Q), or (U, 1, 1, Q) where they are the same in every cell. The combinations of a
    cell form a tree, the last user's points first, along which costs only grow (a sphere decoder's): branches
    that are less likely than the decision user by user by :data:`NEGLIGIBLE_NATS` are left out. Memory is
    that of the combinations of one cell.
    """
    n_sub, n_users, n_symbols = matched.shape
    n_points = constellation.size
    most = n_points**n_users
    root, centre = np.zeros((n_users, n_users), np.complex128), np.empty(n_users, np.complex128)
    cost, decided = np.empty((n_users, n_points)), np.empty(n_users, np.int64)
    sizes, label = np.empty(n_users, np.int64), np.empty((n_users, 2, most), np.int64)
    metric, weight = np.empty((n_users, most)), np.empty((n_users + 1, most))
    partial = np.empty((n_users + 1, n_users, most), np.complex128)
    marginal = np.empty((n_users, n_sub, n_symbols, n_points))
    second = np.empty((n_sub, n_symbols, n_users, n_users), np.complex128)
    step_n, step_t = log_prior.shape[1] > 1, log_prior.shape[2] > 1
    for n in range(n_sub):
        _triangular_root(information[n], root)
        for t in range(n_symbols):
            for k in range(n_users):
                prior = log_prior[k, n * step_n, t * step_t]
                cost[k] = prior.max() - prior
            _centre(root, matched[n, :, t], centre)
            best = _decided_in_turn(root, centre, cost, constellation, decided)
            limit, size = best + NEGLIGIBLE_NATS, 1
            for k in range(n_users - 1, -1, -1):
                size = _extended(root, centre, cost, constellation, limit, k, size, label, metric)
                sizes[k] = size
            best, total = metric[0, :size].min(), 0.0
            for c in range(size):
                weight[0, c] = np.exp(best - metric[0, c])
                total += weight[0, c]
            weight[0, :size] /= total
            _fold(sizes, label, weight, partial, constellation, marginal[:, n, t], second[n, t])
    return marginal, second
