"""One pass over equal groups of a gated chain in single precision (docs/theory.md, sections 3 and 4).

The filters of ``_chain_kernels`` in odds instead of logarithms: per coefficient two exponentials and three
logarithms. Evidence beyond ``_LIMIT`` nats decides its coefficient; the rest counts for the gate alone.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit

#: Guard: largest evidence of one coefficient in the filters; its exponential times _LARGE is finite.
_LIMIT = 300.0
#: Guard: evidence whose exponential is finite in single precision.
_SINGLE = 80.0
#: Guard: a product of likelihoods is replaced by its logarithm before it leaves this range.
_LARGE = 1e150
#: Guard: log-odds of a gate whose exponential is finite.
_GATE_LIMIT = 690.0


@njit(cache=True, error_model="numpy")
def sweep_groups(
    mean: np.ndarray,
    variance: np.ndarray,
    slab: float,
    spike: float,
    ratio_limit: float,
    gate: float,
    first: float,
    p01: float,
    p11: float,
    damping: float,
    precision: np.ndarray,
    log_odds: np.ndarray,
    sums: np.ndarray,
) -> None:
    """Update the precision and the posterior log-odds of every coefficient.

    Parameters
    ----------
    mean, variance : (n_groups, n_members)
        The message, ``r`` and ``v``.
    slab, spike : float
        Precisions ``rho1`` and ``rho0``.
    ratio_limit : float
        Bound of ``|L|``.
    gate, first, p01, p11 : float
        Parameters of the chain; a gate of 1 and three equal ones are independent coefficients.
    damping : float
        Step on ``ln rho``.
    precision : (n_groups, n_members)
        ``rho``; changed.
    log_odds : (n_groups, n_members)
        ``L + e``; filled in.
    sums : (9,)
        Filled in: ``sum P(z)``, ``sum P(s_first)``, the expected transitions 00, 01, 10, 11 inside open
        gates, ``sum pi``, ``sum pi E(x^2 | slab)`` and the number of groups.
    """
    n_groups, n = mean.shape
    predicted, filtered, likelihood = np.empty(n), np.empty(n), np.empty(n)
    excess = 1.0 / slab - 1.0 / spike
    sums[:] = 0.0
    for k in range(n_groups):
        log_open, product, p = 0.0, 1.0, first
        for i in range(n):
            v, r = variance[k, i], mean[k, i]
            narrow, wide = v + 1.0 / spike, v + 1.0 / slab
            ratio = 0.5 * (excess * r * r / (narrow * wide) - math.log(np.float32(wide / narrow)))
            ratio = min(max(ratio, -ratio_limit), ratio_limit)
            log_odds[k, i] = ratio
            if abs(ratio) < _SINGLE:
                e = float(math.exp(np.float32(ratio)))
            else:
                e = math.exp(min(max(ratio, -_LIMIT), _LIMIT))
                log_open += max(ratio - _LIMIT, 0.0)
            predicted[i], likelihood[i] = p, e
            total = 1.0 - p + p * e
            product *= total
            if product > _LARGE or product < 1.0 / _LARGE:
                log_open += math.log(product)
                product = 1.0
            filtered[i] = p * e / total
            p = p01 + (p11 - p01) * filtered[i]
        log_open += math.log(product)
        # closed: odds of a closed gate, given everything
        log_closed = -np.inf if gate >= 1.0 else math.log((1.0 - gate) / gate) - log_open
        closed = math.exp(min(max(log_closed, -_GATE_LIMIT), _GATE_LIMIT))
        opened = 1.0 / (1.0 + closed)
        sums[0] += opened
        back, n00, n01, n10, n11 = 1.0, 0.0, 0.0, 0.0, 0.0
        for i in range(n - 1, -1, -1):
            p, e = predicted[i], likelihood[i]
            r = p / (1.0 - p) * back
            inside = 1.0 + e * r
            without = closed
            if log_odds[k, i] > _LIMIT:  # its own evidence is more than e holds
                without = math.exp(min(log_closed + log_odds[k, i] - _LIMIT, _GATE_LIMIT))
            odds = r / (1.0 + without * inside)
            log_odds[k, i] += math.log(np.float32(odds)) if 1e-37 < odds < 1e37 else math.log(odds)
            active = e * odds / (1.0 + e * odds)
            v = variance[k, i]
            rho = active * slab + (1.0 - active) * spike
            old = precision[k, i]
            precision[k, i] = old * math.exp(np.float32(damping * math.log(np.float32(rho / old))))
            gain = 1.0 / (1.0 + v * slab)
            m = gain * mean[k, i]
            sums[6] += active
            sums[7] += active * (m * m + gain * v)
            here = e * back
            if i > 0:
                a = filtered[i - 1]
                t00, t01 = (1.0 - a) * (1.0 - p01), (1.0 - a) * p01 * here
                t10, t11 = a * (1.0 - p11), a * p11 * here
                scale = 1.0 / (t00 + t01 + t10 + t11)
                n00 += t00 * scale
                n01 += t01 * scale
                n10 += t10 * scale
                n11 += t11 * scale
                back = (1.0 - p11 + p11 * here) / (1.0 - p01 + p01 * here)
            else:
                sums[1] += opened * e * r / inside
        sums[2] += opened * n00
        sums[3] += opened * n01
        sums[4] += opened * n10
        sums[5] += opened * n11
    sums[8] = n_groups
