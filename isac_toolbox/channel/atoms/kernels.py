"""Kernels over a scene and its paths: geometry with derivatives, Gram matrices, normal equations.

Under planar wavefronts sums over subcarriers come from tables in the path length
(:mod:`isac_toolbox.channel.atoms.tables`) and sums over columns and rows from recurrences: those do not
grow with the number of subcarriers (docs/theory.md, sections 2.2 and 6).
"""

from __future__ import annotations

import numpy as np
from numba import njit

__all__ = [
    "assemble_gram",
    "normal_blocks",
    "path_correlations",
    "path_gram",
    "pull_slopes",
    "trace_paths",
]

_LINE_OF_SIGHT = -1


@njit(cache=True, error_model="numpy")
def trace_paths(scene, paths, bs, axes, spherical, out, columns):  # type: ignore[no-untyped-def]
    """Fill in length (L,), cosines (2, L), and derivatives in target (L, 1 + D, 3) and user (L, 4).

    ``scene`` is (points, users, offsets, unlocated paths), ``paths`` (user, target, unlocated), ``axes`` the
    horizontal and vertical axis of the array. ``columns`` of target, user and offset in the scene's vector
    are filled in as well.
    """
    points, users, offsets, unlocated_paths = scene
    user, target, unlocated = paths
    length, cosines, in_target, in_user = out
    target_column, user_column, offset_column = columns
    first_user = 3 * len(points)
    first_offset = first_user + 3 * len(users)
    first_unlocated = first_offset + len(offsets)
    to_bs, to_user = np.empty(3), np.empty(3)
    for i in range(user.size):
        k, q = user[i], target[i]
        user_column[i], offset_column[i] = first_user + 3 * k, first_offset + k
        if q < _LINE_OF_SIGHT:
            target_column[i] = first_unlocated + 3 * unlocated[i]
            length[i] = unlocated_paths[unlocated[i], 0]
            cosines[0, i], cosines[1, i] = unlocated_paths[unlocated[i], 1], unlocated_paths[unlocated[i], 2]
            for d in range(3):
                in_target[i, d, d] = 1.0
            continue
        target_column[i] = user_column[i] if q < 0 else 3 * q
        distance, user_distance = 0.0, 0.0
        for x in range(3):
            place = users[k, x] if q < 0 else points[q, x]
            to_bs[x], to_user[x] = place - bs[x], place - users[k, x]
            distance += to_bs[x] ** 2
            user_distance += to_user[x] ** 2
        distance, user_distance = np.sqrt(distance), np.sqrt(user_distance)
        length[i] = distance + user_distance + offsets[k]
        near, far = max(user_distance, 1e-300), max(distance, 1e-300)
        for a in range(2):
            cosines[a, i] = (axes[a, 0] * to_bs[0] + axes[a, 1] * to_bs[1] + axes[a, 2] * to_bs[2]) / far
        for x in range(3):
            e_b, e_k = to_bs[x] / far, to_user[x] / near
            in_target[i, 0, x] = e_b + e_k
            in_user[i, x] = -e_k
            if spherical:
                in_target[i, 1 + x, x] = 1.0
            else:
                for a in range(2):
                    in_target[i, 1 + a, x] = (axes[a, x] - cosines[a, i] * e_b) / far
        in_user[i, 3] = 1.0


@njit(cache=True, error_model="numpy")
def pull_slopes(slopes, in_target, target_column, in_user, user_column, offset_column, pulled):  # type: ignore[no-untyped-def]
    """Add ``sum_di slopes_di J_dip`` of slopes (1 + D, L) to (P,)."""
    for i in range(slopes.shape[1]):
        for x in range(3):
            for d in range(slopes.shape[0]):
                pulled[target_column[i] + x] += slopes[d, i] * in_target[i, d, x]
            pulled[user_column[i] + x] += slopes[0, i] * in_user[i, x]
        pulled[offset_column[i]] += slopes[0, i] * in_user[i, 3]


@njit(cache=True, fastmath=True, error_model="numpy", inline="always")
def _array_sums(x, slope, n):  # type: ignore[no-untyped-def]
    """``sum cos(s_m x)`` over n centred elements of spacing ``slope``, and its two derivatives in x."""
    step, first = slope * x, 0.5 * slope * x if n % 2 == 0 else 0.0
    double = 2 * np.cos(step)
    cosine, sine = np.cos(first), np.sin(first)
    before_c = np.cos(first - step) if n % 2 == 0 else double / 2
    before_s = np.sin(first - step) if n % 2 == 0 else -np.sin(step)
    s = 0.5 * slope if n % 2 == 0 else 0.0
    value, one, two = 0.0, 0.0, 0.0
    for _ in range((n + 1) // 2):
        weight = 1.0 if s == 0.0 else 2.0
        value += weight * cosine
        one -= weight * s * sine
        two -= weight * s * s * cosine
        cosine, before_c = double * cosine - before_c, cosine
        sine, before_s = double * sine - before_s, sine
        s += slope
    return value, one, two


@njit(cache=True, fastmath=True, error_model="numpy", inline="always")
def _array_sum(x, slope, n):  # type: ignore[no-untyped-def]
    """``sum cos(s_m x)`` over n centred elements of spacing ``slope``."""
    step, first = slope * x, 0.5 * slope * x if n % 2 == 0 else 0.0
    double = 2 * np.cos(step)
    cosine = np.cos(first)
    before = np.cos(first - step) if n % 2 == 0 else double / 2
    value = 0.0 if n % 2 == 0 else -1.0
    for _ in range((n + 1) // 2):
        value += 2 * cosine
        cosine, before = double * cosine - before, cosine
    return value


@njit(cache=True, fastmath=True, error_model="numpy")
def _holes_sum(x_h, x_v, holes):  # type: ignore[no-untyped-def]
    """``sum exp(j (s_h x_h + s_v x_v))`` over the elements left out, whose phase slopes are ``holes``."""
    value = 0j
    for q in range(len(holes)):
        angle = holes[q, 0] * x_h + holes[q, 1] * x_v
        value += complex(np.cos(angle), np.sin(angle))
    return value


@njit(cache=True, fastmath=True, error_model="numpy")
def path_gram(length, cosines, user, pair, table, step, reference, shape, slopes, holes):  # type: ignore[no-untyped-def]
    """Return the Gram (L, L) of the path atoms.

    ``G_ij = F_{k_i k_j}(l_i - l_j) D_h(u_hj - u_hi) D_v(u_vj - u_vi)``; ``F`` from its Taylor table
    (pairs, centres, terms) of grid step ``step``, at the reference wavenumber ``reference``. Elements left
    out, of phase slopes ``holes`` (H, 2), are subtracted from ``D_h D_v``; None where there are none, so that
    nothing is compiled for them.
    """
    n, n_centres, n_terms = user.size, table.shape[1], table.shape[2]
    gram = np.zeros((n, n), np.complex128)
    for i in range(n):
        for j in range(i, n):
            a, b = (i, j) if user[i] <= user[j] else (j, i)
            p = pair[user[a], user[b]]
            if p < 0:
                continue
            x = (length[a] - length[b]) / step
            centre = int(np.rint(x))
            t = 2 * (x - centre)
            centre %= n_centres
            value = table[p, centre, n_terms - 1]
            for term in range(n_terms - 2, -1, -1):
                value = value * t + table[p, centre, term]
            turn = reference * (length[a] - length[b])
            value *= complex(np.cos(turn), np.sin(turn))
            x_h, x_v = cosines[0, b] - cosines[0, a], cosines[1, b] - cosines[1, a]
            over_array = _array_sum(x_h, slopes[0], shape[0]) * _array_sum(x_v, slopes[1], shape[1])
            if holes is not None:
                over_array = over_array - _holes_sum(x_h, x_v, holes)
            value *= over_array
            gram[a, b] = value
            gram[b, a] = np.conj(value)
        gram[i, i] = gram[i, i].real
    return gram


@njit(cache=True, fastmath=True, error_model="numpy")
def path_correlations(  # type: ignore[no-untyped-def]
    length, cosines, user, grid, kernel, step, reference, shape, slopes, out
):
    """Fill in inner products of path, length, ``u_h`` and ``u_v`` atoms with ``Z``, (4, L).

    ``grid`` (K, G, 2 M) holds real and imaginary parts of ``Z`` transformed to lengths; the kernel
    ``exp(sharpness (sqrt(1 - z^2) - 1))`` over (taps, sharpness) interpolates it and its derivative
    (docs/theory.md, section 2.4).
    """
    n_taps, sharpness = kernel
    n_lengths, n_real = grid.shape[1], grid.shape[2]
    plain, sloped = np.empty(n_real), np.empty(n_real)
    for i in range(user.size):
        k = user[i]
        position = length[i] / step
        first = int(np.floor(position)) - n_taps // 2 + 1
        plain[:] = 0.0
        sloped[:] = 0.0
        for tap in range(n_taps):
            row = grid[k, (first + tap) % n_lengths]
            z = (position - first - tap) / (0.5 * n_taps)
            root = np.sqrt(max(1 - z * z, 1e-4))
            w = np.exp(sharpness * (root - 1))
            v = -w * sharpness * z / (root * 0.5 * n_taps * step)
            for m in range(n_real):
                plain[m] += w * row[m]
                sloped[m] += v * row[m]
        path, in_length, in_h, in_v = 0j, 0j, 0j, 0j
        turn_h = complex(np.cos(cosines[0, i] * slopes[0]), -np.sin(cosines[0, i] * slopes[0]))
        turn_v = complex(np.cos(cosines[1, i] * slopes[1]), -np.sin(cosines[1, i] * slopes[1]))
        s_h = -0.5 * slopes[0] * (shape[0] - 1)
        a_h = complex(np.cos(cosines[0, i] * s_h), -np.sin(cosines[0, i] * s_h))
        m = 0
        for _ in range(shape[0]):
            s_v = -0.5 * slopes[1] * (shape[1] - 1)
            a_v = complex(np.cos(cosines[1, i] * s_v), -np.sin(cosines[1, i] * s_v))
            over, over_length, over_v = 0j, 0j, 0j
            for _ in range(shape[1]):
                value = a_v * complex(plain[m], plain[m + 1])
                over += value
                over_v += s_v * value
                over_length += a_v * complex(sloped[m], sloped[m + 1])
                a_v *= turn_v
                s_v += slopes[1]
                m += 2
            path += a_h * over
            in_length += a_h * over_length
            in_h += s_h * a_h * over
            in_v += a_h * over_v
            a_h *= turn_h
            s_h += slopes[0]
        turn = complex(np.cos(reference * length[i]), np.sin(reference * length[i]))
        out[0, i] = turn * path
        out[1, i] = turn * (in_length + 1j * reference * path)
        out[2, i] = -1j * turn * in_h
        out[3, i] = -1j * turn * in_v


@njit(cache=True, fastmath=True, error_model="numpy")
def _subtract_element(g, f0, f1, f2, s_h, s_v, x_h, x_v):  # type: ignore[no-untyped-def]
    """Take one element of phase slopes ``s_h``, ``s_v`` out of the block (4, 4) of a pair of paths."""
    angle = s_h * x_h + s_v * x_v
    a = complex(np.cos(angle), np.sin(angle))
    g[0, 0] -= f0 * a
    g[1, 0] -= f1 * a
    g[0, 1] += f1 * a
    g[1, 1] += f2 * a
    slopes = (s_h, s_v)
    for c in range(2):
        g[0, 2 + c] -= 1j * slopes[c] * f0 * a
        g[2 + c, 0] += 1j * slopes[c] * f0 * a
        g[1, 2 + c] -= 1j * slopes[c] * f1 * a
        g[2 + c, 1] -= 1j * slopes[c] * f1 * a
        for d in range(2):
            g[2 + c, 2 + d] -= slopes[c] * slopes[d] * f0 * a


@njit(cache=True, fastmath=True, error_model="numpy")
def normal_blocks(  # type: ignore[no-untyped-def]
    length, cosines, user, pair, table, step, reference, shape, slopes, holes, gains, jacobian, out
):
    """Fill in ``B`` (L, P), ``S`` (P, P) and the fitted slopes ``G^(d,0) x`` (3, L), from zeros.

    The block of a pair is ``g_st = d/ds_i d/dt_j F(l_i - l_j) D_h(u_hj - u_hi) D_v(u_vj - u_vi)``
    (docs/theory.md, sections 2.2 and 6.1); elements left out, of phase slopes ``holes`` (H, 2), are
    subtracted; None where there are none.
    """
    gain_scene, scene_scene, fitted = out
    in_target, target_column, in_user, user_column, offset_column = jacobian
    n, n_centres, n_terms = user.size, table.shape[1], table.shape[2]
    n_parameters = scene_scene.shape[0]
    g = np.empty((4, 4), np.complex128)
    d = np.empty((3, 3))
    row = np.empty((3, n_parameters))
    for i in range(n):
        row[:] = 0.0
        for j in range(i, n):
            a, b = (i, j) if user[i] <= user[j] else (j, i)
            p = pair[user[a], user[b]]
            if p < 0:
                continue
            x = (length[a] - length[b]) / step
            centre = int(np.rint(x))
            t = 2 * (x - centre)
            centre %= n_centres
            f0, f1, f2 = table[p, centre, n_terms - 1], 0j, 0j
            for term in range(n_terms - 2, -1, -1):
                f2 = f2 * t + f1
                f1 = f1 * t + f0
                f0 = f0 * t + table[p, centre, term]
            f1, f2 = f1 * (2 / step), f2 * (8 / step**2)
            turn = reference * (length[a] - length[b])
            phase = complex(np.cos(turn), np.sin(turn))
            f2 = phase * (f2 + 2j * reference * f1 - reference**2 * f0)
            f1 = phase * (f1 + 1j * reference * f0)
            f0 = phase * f0
            x_h, x_v = cosines[0, b] - cosines[0, a], cosines[1, b] - cosines[1, a]
            h0, h1, h2 = _array_sums(x_h, slopes[0], shape[0])
            v0, v1, v2 = _array_sums(x_v, slopes[1], shape[1])
            g[0, 0] = f0 * (h0 * v0)
            g[0, 1] = -f1 * (h0 * v0)
            g[0, 2] = f0 * (h1 * v0)
            g[0, 3] = f0 * (h0 * v1)
            g[1, 1] = -f2 * (h0 * v0)
            g[1, 2] = f1 * (h1 * v0)
            g[1, 3] = f1 * (h0 * v1)
            g[2, 2] = -f0 * (h2 * v0)
            g[2, 3] = -f0 * (h1 * v1)
            g[3, 3] = -f0 * (h0 * v2)
            for s in range(1, 4):
                g[s, 0] = -g[0, s]
                for r in range(1, s):
                    g[s, r] = g[r, s]
            if holes is not None:
                for q in range(len(holes)):
                    _subtract_element(g, f0, f1, f2, holes[q, 0], holes[q, 1], x_h, x_v)
            for way in range(1 if a == b else 2):
                left, right = (a, b) if way == 0 else (b, a)
                for s in range(3):
                    fitted[s, left] += (g[1 + s, 0] if way == 0 else np.conj(g[0, 1 + s])) * gains[right]
                    slope = (g[0, 1 + s] if way == 0 else np.conj(g[1 + s, 0])) * gains[right]
                    for c in range(3):
                        gain_scene[left, target_column[right] + c] += slope * in_target[right, s, c]
                        if s == 0:
                            gain_scene[left, user_column[right] + c] += slope * in_user[right, c]
                    if s == 0:
                        gain_scene[left, offset_column[right]] += slope * in_user[right, 3]
            product = np.conj(gains[a]) * gains[b]
            for s in range(3):
                for r in range(3):
                    value = (product * g[1 + s, 1 + r]).real
                    if i == j:
                        value *= 0.5
                    if a == i:
                        d[s, r] = value
                    else:
                        d[r, s] = value
            for s in range(3):
                for c in range(3):
                    for r in range(3):
                        row[s, target_column[j] + c] += d[s, r] * in_target[j, r, c]
                    row[s, user_column[j] + c] += d[s, 0] * in_user[j, c]
                row[s, offset_column[j]] += d[s, 0] * in_user[j, 3]
        for s in range(3):
            for c in range(4):
                into = target_column[i] + c if c < 3 else offset_column[i]
                x = in_target[i, s, c] if c < 3 else in_user[i, 3]
                if c < 3 or s == 0:
                    for q in range(n_parameters):
                        scene_scene[into, q] += x * row[s, q]
                if c < 3 and s == 0:
                    for q in range(n_parameters):
                        scene_scene[user_column[i] + c, q] += in_user[i, c] * row[0, q]
    for q in range(n_parameters):
        for r in range(q + 1):
            total = scene_scene[q, r] + scene_scene[r, q]
            scene_scene[q, r] = total
            scene_scene[r, q] = total


@njit(cache=True, error_model="numpy")
def assemble_gram(delay, horizontal, vertical, cosine_h, cosine_v, squint, n_orders, n_types):  # type: ignore[no-untyped-def]
    """Return the Gram of the first ``n_types`` atom types, shape (types, types, L, L).

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
