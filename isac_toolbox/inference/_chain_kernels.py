"""Sum-product kernels of the gated Markov chain, in the log domain (docs/theory.md, section 4).

Conventions, for member ``i`` of a group inside an open gate: `forward[i, s] = ln p(s_i = s, L of the members
before i)`` and ``backward[i, s] = ln p(L of the members after i | s_i = s)``, where a message ``L_j` has the
likelihood ``exp(L_j s_j)``. Both leave ``L_i`` out.
"""

from __future__ import annotations

import numpy as np
from numba import njit


@njit(cache=True, nogil=True, error_model="numpy")
def log_add(a: float, b: float) -> float:
    """Return ``ln(e^a + e^b)``, exact for minus infinity."""
    if a < b:
        a, b = b, a
    if b == -np.inf:
        return a
    return a + np.log1p(np.exp(b - a))


@njit(cache=True, nogil=True, error_model="numpy")
def filter_groups(
    ratio: np.ndarray,
    starts: np.ndarray,
    log_first: np.ndarray,
    log_transition: np.ndarray,
    forward: np.ndarray,
    backward: np.ndarray,
    log_open: np.ndarray,
) -> None:
    """Run the forward and backward filters of every group; fill in the log evidence of its open gate.

    Parameters
    ----------
    ratio : (n,)
        ``L``.
    starts : (n_groups + 1,)
        First member of each group, then n.
    log_first : (n, 2)
        ``ln P(s_i)``, read at the first member of each group.
    log_transition : (n, 2, 2)
        ``ln P(s_i = b | s_{i-1} = a)`` at ``[i, a, b]``, read at all other members.
    forward, backward : (n, 2), log_open : (n_groups,)
        Filled in.
    """
    for g in range(starts.size - 1):
        first, stop = starts[g], starts[g + 1]
        forward[first, 0] = log_first[first, 0]
        forward[first, 1] = log_first[first, 1]
        for i in range(first + 1, stop):
            zero = forward[i - 1, 0]
            one = forward[i - 1, 1] + ratio[i - 1]
            for b in range(2):
                forward[i, b] = log_add(zero + log_transition[i, 0, b], one + log_transition[i, 1, b])
        log_open[g] = log_add(forward[stop - 1, 0], forward[stop - 1, 1] + ratio[stop - 1])
        backward[stop - 1, 0] = 0.0
        backward[stop - 1, 1] = 0.0
        for i in range(stop - 1, first, -1):
            zero = backward[i, 0]
            one = backward[i, 1] + ratio[i]
            for a in range(2):
                backward[i - 1, a] = log_add(log_transition[i, a, 0] + zero, log_transition[i, a, 1] + one)


@njit(cache=True, nogil=True, error_model="numpy")
def member_log_odds(
    starts: np.ndarray,
    log_gate: np.ndarray,
    forward: np.ndarray,
    backward: np.ndarray,
    extrinsic: np.ndarray,
) -> None:
    """Return log-odds ``ln[g alpha_1 beta_1] - ln[(1 - g) + g alpha_0 beta_0]`` of every member.

    Neither filter holds ``L_i``, so member ``i`` has left the evidence of its gate as well.
    """
    for g in range(starts.size - 1):
        for i in range(starts[g], starts[g + 1]):
            one = log_gate[g, 1] + forward[i, 1] + backward[i, 1]
            zero = log_add(log_gate[g, 0], log_gate[g, 1] + forward[i, 0] + backward[i, 0])
            if one == -np.inf:
                extrinsic[i] = -np.inf
            else:
                extrinsic[i] = one - zero


@njit(cache=True, nogil=True, error_model="numpy")
def pair_counts(
    ratio: np.ndarray,
    starts: np.ndarray,
    log_gate: np.ndarray,
    log_transition: np.ndarray,
    forward: np.ndarray,
    backward: np.ndarray,
    log_evidence: np.ndarray,
    pairs: np.ndarray,
) -> None:
    """Fill in gate-weighted transition counts ``P(z = 1, s_{i-1} = a, s_i = b | all)`` at ``pairs[i, a, b]``.

    First members keep zeros. ``log_evidence`` (n_groups,) is the log evidence of the group, both gates.
    """
    for g in range(starts.size - 1):
        base = log_gate[g, 1] - log_evidence[g]
        for i in range(starts[g] + 1, starts[g + 1]):
            for a in range(2):
                before = base + forward[i - 1, a] + a * ratio[i - 1]
                for b in range(2):
                    after = b * ratio[i] + backward[i, b]
                    pairs[i, a, b] = np.exp(before + log_transition[i, a, b] + after)
