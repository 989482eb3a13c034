"""Sum-product kernel of the lattice field, in the log-odds domain (docs/theory.md, section 4.4).

Direction ``2 a`` of a site leads to its predecessor along axis ``a``, direction ``2 a + 1`` to its successor;
``k ^ 1`` is the way back. ``messages[i, k]`` comes into site ``i`` from its neighbour in direction ``k``: the
log-likelihood ratio of everything behind that edge, zero if nothing is known there.
"""

from __future__ import annotations

import numpy as np
from numba import njit


@njit(cache=True)
def cavity(
    site: int, direction: int, log_odds: np.ndarray, offset: np.ndarray, messages: np.ndarray
) -> float:
    """Return the log-odds of a site without one edge, its neighbour there taken as inactive."""
    total = log_odds[site] + offset[site, direction]
    for k in range(messages.shape[1]):
        if k != direction:
            total += messages[site, k]
    return total


@njit(cache=True)
def sum_product(
    log_odds: np.ndarray,
    neighbours: np.ndarray,
    gain: np.ndarray,
    offset: np.ndarray,
    messages: np.ndarray,
    n_sweeps: int,
    damping: float,
    tol: float,
) -> tuple[int, float]:
    """Sweep along successors and back along predecessors until no message moves by more than ``tol``.

    Parameters
    ----------
    log_odds : (n_sites,)
        Prior log-odds plus evidence of each site.
    neighbours : (n_sites, n_directions)
        Neighbour in each direction, -1 at the border.
    gain : (n_directions,)
        ``e^W - 1``.
    offset : (n_sites, n_directions)
        Lowest value of each incoming message.
    messages : (n_sites, n_directions)
        Start on entry, result on exit.

    Returns
    -------
    (int, float)
        Sweeps made and the largest change of a message in the last one.
    """
    n_sites, n_directions = neighbours.shape
    change = 0.0
    for sweep in range(n_sweeps):
        change = 0.0
        for half in range(2):
            for step in range(n_sites):
                site = step if half == 0 else n_sites - 1 - step
                for k in range(1 - half, n_directions, 2):
                    target = neighbours[site, k]
                    if target < 0:
                        continue
                    odds = cavity(site, k, log_odds, offset, messages)
                    new = offset[target, k ^ 1] + np.log1p(gain[k] / (1.0 + np.exp(-odds)))
                    old = messages[target, k ^ 1]
                    new += damping * (old - new)
                    change = max(change, abs(new - old))
                    messages[target, k ^ 1] = new
        if change <= tol:
            return sweep + 1, change
    return n_sweeps, change
