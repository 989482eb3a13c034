"""Kernels that decide symbols of many coupled users together: a search of limited breadth, then exchanges.

docs/theory.md, section 5.6. Costs are in nats, ``s^H A s - 2 Re s^H b`` less what is known of the symbols.
"""

from __future__ import annotations

import numpy as np
from numba import njit

__all__ = ["neighbourhood_posterior"]

# Guard: deviations by which the misfit of a decision may exceed what noise makes of it, before it is sought
# anew.
_UNLIKELY_STDS = 4.0
# Cost cap: combinations that such a search keeps in the place of one of the first.
_WIDER = 8
# Cost cap: exchanges of symbols that lower the cost, in one cell; a handful are needed.
_MOST_EXCHANGES = 200
# Guard: fall of the cost that is more than rounding.
_LEAST_FALL = 1e-9


@njit(cache=True, nogil=True, error_model="numpy")
def _sorted_root(information, order, root, rest):  # type: ignore[no-untyped-def]
    """Upper triangular ``R`` with ``A + 1 = R^H R`` of users in an order, the weakest pivot first.

    The last is decided first. One is the precision of a symbol's prior; ``rest`` (U, U) is room.
    """
    n_users = len(information)
    for i in range(n_users):
        order[i] = i
        for j in range(n_users):
            rest[i, j] = information[i, j]
        rest[i, i] = rest[i, i] + 1.0
    for i in range(n_users):
        weakest = i
        for k in range(i + 1, n_users):
            if rest[order[k], order[k]].real < rest[order[weakest], order[weakest]].real:
                weakest = k
        user = order[weakest]
        order[weakest], order[i] = order[i], user
        for j in range(i):
            before = root[j, i]
            root[j, i], root[j, weakest] = root[j, weakest], before
        pivot = np.sqrt(rest[user, user].real)
        root[i, i] = pivot
        scale = 1.0 / pivot
        for k in range(i + 1, n_users):
            root[i, k] = rest[user, order[k]] * scale
        for k in range(i + 1, n_users):
            for m in range(i + 1, n_users):
                rest[order[k], order[m]] -= np.conj(root[i, k]) * root[i, m]


@njit(cache=True, nogil=True, error_model="numpy")
def _search(root, order, centre, prior, constellation, kept, ahead, labels):  # type: ignore[no-untyped-def]
    """Fill in the cheapest combination that a search of such breadth finds; return ``|z - R s|^2`` of it.

    ``kept`` and ``ahead`` are (costs (B,), labels (B, U)) of the partial combinations.
    """
    n_users, n_points, breadth = len(root), constellation.size, kept[0].size
    cost, chosen = kept
    next_cost, next_chosen = ahead
    n_kept = 1
    cost[0] = 0.0
    source, point = np.empty(breadth, np.int64), np.empty(breadth, np.int64)
    for k in range(n_users - 1, -1, -1):
        own, n_next = root[k, k].real, 0
        for i in range(n_kept):
            target = centre[k]
            for j in range(k + 1, n_users):
                target -= root[k, j] * constellation[chosen[i, j]]
            for q in range(n_points):
                symbol = constellation[q]
                error = target - own * symbol
                value = cost[i] + error.real**2 + error.imag**2 - symbol.real**2 - symbol.imag**2
                value -= prior[order[k], q]
                if n_next == breadth:
                    if value >= next_cost[n_next - 1]:
                        continue
                    n_next -= 1
                place = n_next
                while place > 0 and next_cost[place - 1] > value:
                    next_cost[place] = next_cost[place - 1]
                    source[place], point[place] = source[place - 1], point[place - 1]
                    place -= 1
                next_cost[place], source[place], point[place] = value, i, q
                n_next += 1
        for i in range(n_next):
            for j in range(k + 1, n_users):
                next_chosen[i, j] = chosen[source[i], j]
            next_chosen[i, k] = point[i]
        n_kept = n_next
        cost, next_cost = next_cost, cost
        chosen, next_chosen = next_chosen, chosen
    misfit = 0.0
    for k in range(n_users):
        labels[order[k]] = chosen[0, k]
        error = centre[k]
        for j in range(k, n_users):
            error -= root[k, j] * constellation[chosen[0, j]]
        misfit += error.real**2 + error.imag**2
    return misfit


@njit(cache=True, nogil=True, error_model="numpy")
def _single_exchanges(information, slope, prior, labels, constellation, near, single, lowest):  # type: ignore[no-untyped-def]
    """Fill in what another symbol of a user costs more, (U, neighbours), and the least of every user."""
    for k in range(labels.size):
        label, lowest[k] = labels[k], np.inf
        for a in range(near.shape[1]):
            q, single[k, a] = near[label, a], np.inf
            if q >= 0:
                step = constellation[q] - constellation[label]
                value = (step.real**2 + step.imag**2) * information[k, k].real
                value -= 2.0 * (step.real * slope[k].real + step.imag * slope[k].imag)
                single[k, a] = value + prior[k, label] - prior[k, q]
                if single[k, a] < lowest[k]:
                    lowest[k] = single[k, a]


@njit(cache=True, nogil=True, error_model="numpy")
def _settle(information, slope, prior, labels, constellation, near, reach, single, lowest):  # type: ignore[no-untyped-def]
    """Exchange a symbol, or those of two users, as long as that lowers the cost."""
    n_users, n_near = single.shape
    for _ in range(_MOST_EXCHANGES):
        _single_exchanges(information, slope, prior, labels, constellation, near, single, lowest)
        best, first, second, of_first, of_second = -_LEAST_FALL, -1, -1, 0, 0
        for k in range(n_users):
            for a in range(n_near):
                if single[k, a] < best:
                    best, first, second, of_first = single[k, a], k, -1, near[labels[k], a]
            for j in range(k):
                if lowest[k] + lowest[j] - 2.0 * reach * abs(information[k, j]) >= best:
                    continue
                for a in range(n_near):
                    q = near[labels[k], a]
                    if q < 0:
                        continue
                    turned = np.conj(constellation[q] - constellation[labels[k]]) * information[k, j]
                    for c in range(n_near):
                        r = near[labels[j], c]
                        if r < 0:
                            continue
                        both = turned * (constellation[r] - constellation[labels[j]])
                        value = single[k, a] + single[j, c] + 2.0 * both.real
                        if value < best:
                            best, first, second, of_first, of_second = value, k, j, q, r
        if first < 0:
            return
        for user, label in ((first, of_first), (second, of_second)):
            if user >= 0:
                step = constellation[label] - constellation[labels[user]]
                labels[user] = label
                for i in range(n_users):
                    slope[i] -= information[i, user] * step


@njit(cache=True, nogil=True, error_model="numpy")
def _weigh(information, labels, constellation, near, reach, single, lowest, most, marginal, moment, second):  # type: ignore[no-untyped-def]
    """Fill in marginals (U, Q) and second moments (U, U) over all combinations within two exchanges.

    ``moment`` (U,) is room. Returns the share of the combination itself.
    """
    n_users, n_near = single.shape
    total = 1.0
    for k in range(n_users):
        for q in range(constellation.size):
            marginal[k, q] = 0.0
        moment[k] = 0j
        for j in range(n_users):
            second[k, j] = 0j
    for k in range(n_users):
        for a in range(n_near):
            if single[k, a] < most:
                weight, q = np.exp(-single[k, a]), near[labels[k], a]
                step = constellation[q] - constellation[labels[k]]
                total += weight
                marginal[k, q] += weight
                moment[k] += weight * step
                second[k, k] += weight * (step.real**2 + step.imag**2)
        for j in range(k):
            if lowest[k] + lowest[j] - 2.0 * reach * abs(information[k, j]) >= most:
                continue
            for a in range(n_near):
                q = near[labels[k], a]
                if q < 0:
                    continue
                step = constellation[q] - constellation[labels[k]]
                turned = np.conj(step) * information[k, j]
                for c in range(n_near):
                    r = near[labels[j], c]
                    if r < 0:
                        continue
                    other = constellation[r] - constellation[labels[j]]
                    value = single[k, a] + single[j, c] + 2.0 * (turned * other).real
                    if value < most:
                        weight = np.exp(-value)
                        total += weight
                        marginal[k, q] += weight
                        marginal[j, r] += weight
                        moment[k] += weight * step
                        moment[j] += weight * other
                        second[k, k] += weight * (step.real**2 + step.imag**2)
                        second[j, j] += weight * (other.real**2 + other.imag**2)
                        second[k, j] += weight * step * np.conj(other)
    share = 1.0 / total
    for k in range(n_users):
        stays, base = 1.0, constellation[labels[k]]
        for q in range(constellation.size):
            marginal[k, q] *= share
            stays -= marginal[k, q]
        marginal[k, labels[k]] = stays if stays > 0.0 else 0.0
        moment[k] *= share
        for j in range(k + 1):
            other = constellation[labels[j]]
            value = second[k, j] * share + base * np.conj(moment[j]) + moment[k] * np.conj(other)
            second[k, j] = value + base * np.conj(other)
            second[j, k] = np.conj(second[k, j])
    return share


@njit(cache=True, nogil=True, error_model="numpy")
def neighbourhood_posterior(  # type: ignore[no-untyped-def]
    information, matched, log_prior, constellation, near, breadth, most, marginal, second, sure
):
    """Fill in marginals (U, N, T, Q), second moments (N, T, U, U) and shares of the best combinations (N, T).

    Of symbols with information (N, U, U), matched samples (N, U, T) and priors (U, 1 or N, 1 or T, Q), over
    the combinations within two exchanges of the best that is found, by fewer than ``most`` nats worse.
    ``near`` (Q, neighbours) lists what a point is exchanged for, minus one where there is none. The search
    keeps ``breadth`` partial combinations, and more where its outcome fits worse than noise explains.
    """
    n_sub, n_users, n_symbols = matched.shape
    n_points, n_near = near.shape
    order, labels = np.empty(n_users, np.int64), np.empty(n_users, np.int64)
    root, rest = np.zeros((n_users, n_users), np.complex128), np.empty((n_users, n_users), np.complex128)
    centre, slope = np.empty(n_users, np.complex128), np.empty(n_users, np.complex128)
    moment, prior = np.empty(n_users, np.complex128), np.empty((n_users, n_points))
    single, lowest, own = np.empty((n_users, n_near)), np.empty(n_users), np.empty((n_users, n_points))
    wide = _WIDER * breadth
    cost, next_cost = np.empty(wide), np.empty(wide)
    chosen, next_chosen = np.empty((wide, n_users), np.int64), np.empty((wide, n_users), np.int64)
    reach = 0.0
    for q in range(n_points):
        for a in range(n_near):
            if near[q, a] >= 0:
                step = constellation[near[q, a]] - constellation[q]
                reach = max(reach, step.real**2 + step.imag**2)
    for n in range(n_sub):
        _sorted_root(information[n], order, root, rest)
        for t in range(n_symbols):
            for k in range(n_users):
                left = matched[n, order[k], t]
                for j in range(k):
                    left -= np.conj(root[j, k]) * centre[j]
                centre[k] = left * (1.0 / root[k, k].real)
                for q in range(n_points):
                    prior[k, q] = log_prior[k, n % log_prior.shape[1], t % log_prior.shape[2], q]
            kept, ahead = (cost[:breadth], chosen[:breadth]), (next_cost[:breadth], next_chosen[:breadth])
            misfit = _search(root, order, centre, prior, constellation, kept, ahead, labels)
            if misfit > n_users + _UNLIKELY_STDS * np.sqrt(float(n_users)):
                _search(
                    root,
                    order,
                    centre,
                    prior,
                    constellation,
                    (cost, chosen),
                    (next_cost, next_chosen),
                    labels,
                )
            for k in range(n_users):
                slope[k] = matched[n, k, t]
                for j in range(n_users):
                    slope[k] -= information[n, k, j] * constellation[labels[j]]
            _settle(information[n], slope, prior, labels, constellation, near, reach, single, lowest)
            sure[n, t] = _weigh(
                information[n],
                labels,
                constellation,
                near,
                reach,
                single,
                lowest,
                most,
                own,
                moment,
                second[n, t],
            )
            for k in range(n_users):
                for q in range(n_points):
                    marginal[k, n, t, q] = own[k, q]
