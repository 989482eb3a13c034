"""Kernel that assembles Gram matrices of path and derivative atoms from one-dimensional moments."""

from __future__ import annotations

import numpy as np
from numba import njit

__all__ = ["assemble_gram"]


@njit(cache=True)
def assemble_gram(delay, horizontal, vertical, cosine_h, cosine_v, squint, n_orders, n_types):  # type: ignore[no-untyped-def]
    """Gram of the first ``n_types`` atom types (path, d length, d u_h, d u_v), shape (types, types, L, L).

    ``delay[a] = sum_n conj(b_ni) R_n w_n^a b_nj``, ``horizontal[b] = sum_m conj(a_mi) s_m^b a_mj`` and
    ``vertical`` alike. An atom type multiplies the path atom by ``1, -j w, j s_h (1 + kappa w), j s_v (1 +
    kappa w)``; with beam squint (``kappa > 0``) the path atoms bring
    ``exp(j kappa w (s_h dh + s_v dv))`` as well, its series cut after ``n_orders`` terms
    (docs/theory.md, sections 2.2 and 2.3).
    """
    n = delay.shape[1]
    out = np.zeros((n_types, n_types, n, n), np.complex128)
    phase = np.array([1.0, -1.0j, 1.0j, 1.0j])
    in_delay = np.array([0, 1, 0, 0])
    in_h = np.array([0, 0, 1, 0])
    in_v = np.array([0, 0, 0, 1])
    squinted = np.array([0, 0, 1, 1])
    binomial = np.array([[1.0, 0.0, 0.0], [1.0, 1.0, 0.0], [1.0, 2.0, 1.0]])
    for i in range(n):
        for s in range(n_types):
            for t in range(n_types):
                factor = np.conj(phase[s]) * phase[t]
                a, b, c = in_delay[s] + in_delay[t], in_h[s] + in_h[t], in_v[s] + in_v[t]
                n_squint = squinted[s] + squinted[t] if squint > 0 else 0
                for m in range(n_squint + 1):
                    weight = factor * binomial[n_squint, m] * squint**m
                    for p in range(n_orders):
                        if p > 0:
                            weight = weight * (1j * squint / p)
                        choose = 1.0
                        for r in range(p + 1):
                            if r > 0:
                                choose = choose * (p - r + 1) / r
                            scale = weight * choose
                            for j in range(i, n):
                                value = scale * delay[a + m + p, i, j]
                                value = value * horizontal[b + r, i, j] * vertical[c + p - r, i, j]
                                if p > 0:
                                    value = value * (cosine_h[j] - cosine_h[i]) ** r
                                    value = value * (cosine_v[j] - cosine_v[i]) ** (p - r)
                                out[s, t, i, j] += value
        for s in range(n_types):
            for t in range(n_types):
                for j in range(i + 1, n):
                    out[t, s, j, i] = np.conj(out[s, t, i, j])
    return out
