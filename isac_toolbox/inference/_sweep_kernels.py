"""Kernel of a sweep over lines of sight, points and unlocated paths (docs/theory.md, sections 3 and 4)."""

from __future__ import annotations

import numpy as np
from numba import njit

from isac_toolbox.inference._chain_kernels import log_add

__all__ = ["sweep_paths"]


@njit(cache=True, nogil=True, error_model="numpy")
def sweep_paths(  # type: ignore[no-untyped-def]
    posterior, rho, gamma, classes, precisions, limits, sizes, odds, counts, beliefs, learned, room
):
    """Fill in beliefs (5, n) and what is learned (classes + 2 + K,) in one sweep of the extrinsic rule.

    The rows of the beliefs are precision, its logarithm, probability, log-likelihood ratio and extrinsic
    log-odds; what is learned are the slabs of all classes, the gate, the share of the unlocated paths, and
    the users' visibilities.

    Parameters
    ----------
    posterior : (mean (n,), gram (n, n), covariance (n, n))
    rho : (n,)
        Prior precisions under which it was made.
    gamma : float
        Noise precision.
    classes : (n,)
        Slab class of every path.
    precisions : (2, classes)
        Of slabs and spikes.
    limits : (floor of a message's precision, largest ratio, weight of the old slab, its range (2,))
    sizes : (lines of sight, points, users, unlocated paths)
    odds : (2 + K,)
        Probabilities: of an open gate, of an unlocated path, of every user's seeing a point.
    counts : (7,)
        Log-odds of a line of sight, then pseudo-counts of gate, visibility and unlocated paths.
    room : like learned
    """
    mean, gram, covariance = posterior
    floor, most, weight, lowest, highest = limits
    n_lines, n_points, n_users, n_unlocated = sizes
    n, n_classes = rho.size, precisions.shape[1]
    first_unlocated = n_lines + n_points * n_users
    for i in range(n):
        variance = covariance[i, i].real
        share = rho[i] * variance
        told = (1.0 - share) / gamma
        if share > 0.5:
            told = 0.0
            for j in range(n):
                told += (gram[i, j] * np.conj(covariance[i, j])).real
        told = gamma * told if gamma * told > floor else floor
        magnitude, variance = abs(mean[i]) / told, variance / told
        slab, spike = 1.0 / precisions[0, classes[i]], 1.0 / precisions[1, classes[i]]
        excess, narrow = slab - spike, variance + spike
        ratio = excess * (magnitude / narrow) * (magnitude / (variance + slab)) - np.log1p(excess / narrow)
        beliefs[0, i], beliefs[1, i] = magnitude, variance
        beliefs[3, i] = -most if ratio < -most else most if ratio > most else ratio
        beliefs[4, i] = counts[0] if i < n_lines else np.log(odds[1]) - np.log1p(-odds[1])
    n_open = 0.0
    shut, ajar = np.log1p(-odds[0]), np.log(odds[0])
    for g in range(n_points):
        first = n_lines + g * n_users
        group = ajar
        for k in range(n_users):
            own = log_add(np.log1p(-odds[2 + k]), np.log(odds[2 + k]) + beliefs[3, first + k])
            beliefs[4, first + k] = own
            group += own
        n_open += np.exp(group - log_add(shut, group))
        for k in range(n_users):
            others = group - beliefs[4, first + k]
            inactive = log_add(shut, np.log1p(-odds[2 + k]) + others)
            beliefs[4, first + k] = np.log(odds[2 + k]) + others - inactive
    for k in range(learned.size):
        learned[k] = 0.0
        room[k] = 0.0
    for i in range(n):
        magnitude, variance, c = beliefs[0, i], beliefs[1, i], classes[i]
        slab, spike = precisions[0, c], precisions[1, c]
        active = 1.0 / (1.0 + np.exp(-(beliefs[4, i] + beliefs[3, i])))
        of_slab = 1.0 / (1.0 / variance + slab)
        on, off = active * of_slab, (1.0 - active) / (1.0 / variance + spike)
        beliefs[2, i] = active
        beliefs[0, i] = (on * slab + off * spike) / (on + off)
        beliefs[1, i] = np.log(beliefs[0, i])
        learned[c] += active
        room[c] += active * ((of_slab * magnitude / variance) ** 2 + of_slab)
        if i >= first_unlocated:
            learned[n_classes + 1] += active
        elif i >= n_lines:
            learned[n_classes + 2 + (i - n_lines) % n_users] += active
    for c in range(n_classes):
        slab = (learned[c] + weight) / (room[c] + weight / precisions[0, c])
        low, high = lowest * precisions[1, c], highest * precisions[1, c]
        learned[c] = low if slab < low else high if slab > high else slab
    learned[n_classes] = (counts[1] + n_open) / (counts[1] + counts[2] + n_points)
    learned[n_classes + 1] = (counts[5] + learned[n_classes + 1]) / (counts[5] + counts[6] + n_unlocated)
    for k in range(n_classes + 2, learned.size):
        most_of = n_open if n_open > learned[k] else learned[k]
        learned[k] = (counts[3] + learned[k]) / (counts[3] + counts[4] + most_of)
