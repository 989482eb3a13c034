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
    "trace_paths",
]

_LINE_OF_SIGHT = -1


@njit(cache=True, nogil=True, error_model="numpy")
def trace_paths(scene, paths, bs, axes, spherical, out):  # type: ignore[no-untyped-def]
    """Fill in length (L,), cosines (2, L), derivatives (L, 1 + D, 7) from zeros, and their columns (L, 7).

    ``scene`` is (points, users, offsets, unlocated paths), ``paths`` (user, target, unlocated), ``axes`` the
    horizontal and vertical axis of the array. The seven columns of a path in the scene's vector are those of
    its target, its user and its clock. At the end of ``out`` is room for two vectors.
    """
    points, users, offsets, unlocated_paths = scene
    user, target, unlocated = paths
    length, cosines, entries, columns, to_bs, to_user = out
    first_user = 3 * len(points)
    first_offset = first_user + 3 * len(users)
    first_unlocated = first_offset + len(offsets)
    n_axes = bs.size
    for i in range(user.size):
        k, q = user[i], target[i]
        first = 3 * q
        if q == _LINE_OF_SIGHT:
            first = first_user + 3 * k
        elif q < _LINE_OF_SIGHT:
            first = first_unlocated + 3 * unlocated[i]
        for x in range(n_axes):
            columns[i, x], columns[i, 3 + x] = first + x, first_user + 3 * k + x
        columns[i, 6] = first_offset + k
        if q < _LINE_OF_SIGHT:
            length[i] = unlocated_paths[unlocated[i], 0]
            for d in range(n_axes):
                entries[i, d, d] = 1.0
                if d > 0:
                    cosines[d - 1, i] = unlocated_paths[unlocated[i], d]
            continue
        distance, user_distance = 0.0, 0.0
        for x in range(n_axes):
            place = users[k, x] if q < 0 else points[q, x]
            to_bs[x], to_user[x] = place - bs[x], place - users[k, x]
            distance += to_bs[x] ** 2
            user_distance += to_user[x] ** 2
        distance, user_distance = np.sqrt(distance), np.sqrt(user_distance)
        far, near = max(distance, 1e-300), max(user_distance, 1e-300)
        length[i] = distance + user_distance + offsets[k]
        entries[i, 0, 6] = 1.0
        for x in range(n_axes):
            from_user = to_user[x] / near
            entries[i, 0, x] = to_bs[x] / far + from_user
            entries[i, 0, 3 + x] = -from_user
            if spherical:
                entries[i, 1 + x, x] = 1.0
        for a in range(2):
            along = 0.0
            for x in range(n_axes):
                along += axes[a, x] * to_bs[x]
            cosines[a, i] = along / far
            if not spherical:
                for x in range(n_axes):
                    entries[i, 1 + a, x] = (axes[a, x] - along / far * to_bs[x] / far) / far


@njit(cache=True, nogil=True, fastmath=True, error_model="numpy")
def _array_sums(half, slope, n):  # type: ignore[no-untyped-def]
    """``sum cos(s_m x)`` over n centred elements of spacing ``slope``, and its two derivatives in x.

    ``half`` is ``exp(j slope x / 2)``; in real numbers, which take half as long to compile.
    """
    cosine, sine = half.real, half.imag
    turn_c, turn_s = cosine * cosine - sine * sine, 2 * cosine * sine
    place, value = 0.5 * slope, 0.0
    if n % 2 == 1:
        cosine, sine, place, value = turn_c, turn_s, slope, 0.5
    one, two = 0.0, 0.0
    for _ in range(n // 2):
        value += cosine
        one -= place * sine
        two -= place * place * cosine
        before = cosine
        cosine = cosine * turn_c - sine * turn_s
        sine = sine * turn_c + before * turn_s
        place += slope
    return 2 * value, 2 * one, 2 * two


@njit(cache=True, nogil=True, fastmath=True, error_model="numpy")
def _table_place(difference, step, first, n_centres):  # type: ignore[no-untyped-def]
    """Row of a Taylor table from its first centre on, and how far from its centre in half steps."""
    x = difference / step
    centre = np.rint(x)
    return (int(centre) - first) % n_centres, 2 * (x - centre)


@njit(cache=True, nogil=True, fastmath=True, error_model="numpy")
def _holes_sum(x_h, x_v, holes, order_h, order_v):  # type: ignore[no-untyped-def]
    """``sum exp(j (s_h x_h + s_v x_v))`` over elements of phase slopes ``holes``, or a derivative of it."""
    value = 0j
    for q in range(len(holes)):
        angle = holes[q, 0] * x_h + holes[q, 1] * x_v
        wave = complex(np.cos(angle), np.sin(angle))
        value += (1j * holes[q, 0]) ** order_h * (1j * holes[q, 1]) ** order_v * wave
    return value


@njit(cache=True, nogil=True, fastmath=True, error_model="numpy")
def path_gram(length, cosines, user, waves, tables, lattice, holes, gram):  # type: ignore[no-untyped-def]
    """Fill in the Gram (L, L) of the path atoms.

    ``G_ij = F_{k_i k_j}(l_i - l_j) D_h(u_hj - u_hi) D_v(u_vj - u_vi)``. ``waves`` (3, L) are half the phase
    steps of paths along columns and rows, and their phases at the reference; ``F`` is from its ``tables``,
    rows of pairs of users, coefficients (pairs, centres, terms), and the first centre. ``lattice`` is the
    step of their centres, the reference wavenumber, and numbers of elements and phase slopes along columns
    and rows. Elements left out, of phase slopes ``holes`` (H, 2), are subtracted from ``D_h D_v``; None where
    there are none, so that nothing is compiled for them.
    """
    pair, table, first = tables
    step, _, shape, slopes = lattice
    for i in range(user.size):
        for j in range(i + 1):
            a, b = (i, j) if user[i] <= user[j] else (j, i)
            p = pair[user[a], user[b]]
            value = 0j
            if p >= 0:
                centre, t = _table_place(length[a] - length[b], step, first, table.shape[1])
                for term in range(table.shape[2] - 1, -1, -1):
                    value = value * t + table[p, centre, term]
                h, _, _ = _array_sums(np.conj(waves[0, a]) * waves[0, b], slopes[0], shape[0])
                v, _, _ = _array_sums(np.conj(waves[1, a]) * waves[1, b], slopes[1], shape[1])
                over_array = h * v
                if holes is not None:
                    x_h, x_v = cosines[0, b] - cosines[0, a], cosines[1, b] - cosines[1, a]
                    over_array = over_array - _holes_sum(x_h, x_v, holes, 0, 0)
                value *= over_array * (waves[2, a] * np.conj(waves[2, b]))
            gram[a, b] = value
            gram[b, a] = np.conj(value)
        gram[i, i] = gram[i, i].real


@njit(cache=True, nogil=True, fastmath=True, error_model="numpy")
def path_correlations(length, user, waves, grid, first, kernel, lattice, near, out):  # type: ignore[no-untyped-def]
    """Fill in inner products of path, length, ``u_h`` and ``u_v`` atoms with ``Z``, (4, L).

    ``grid`` (K, G, 2 M) holds real and imaginary parts of ``Z`` transformed to lengths from the place
    ``first`` on; the kernel
    ``exp(sharpness (sqrt(1 - z^2) - 1))`` over (taps, sharpness) interpolates it and its derivative
    (docs/theory.md, section 2.4). ``waves`` and ``lattice`` are those of :func:`path_gram`, ``near`` (2, 2 M)
    is room.
    """
    n_taps, sharpness = kernel
    step, reference, shape, slopes = lattice
    n_lengths, n_real = grid.shape[1], grid.shape[2]
    for i in range(user.size):
        position = length[i] / step
        before = int(np.floor(position)) - n_taps // 2 + 1
        for m in range(n_real):
            near[0, m] = 0.0
            near[1, m] = 0.0
        for tap in range(n_taps):
            row = grid[user[i], (before + tap - first) % n_lengths]
            z = (position - before - tap) / (0.5 * n_taps)
            root = np.sqrt(max(1 - z * z, 1e-4))
            w = np.exp(sharpness * (root - 1))
            v = -w * sharpness * z / (root * 0.5 * n_taps * step)
            for m in range(n_real):
                near[0, m] += w * row[m]
                near[1, m] += v * row[m]
        turn_h, turn_v = np.conj(waves[0, i]) ** 2, np.conj(waves[1, i]) ** 2
        wave_h, first_v = 1 + 0j, 1 + 0j
        for _ in range(shape[0] - 1):
            wave_h *= waves[0, i]
        for _ in range(shape[1] - 1):
            first_v *= waves[1, i]
        path, in_length, in_h, in_v = 0j, 0j, 0j, 0j
        s_h = -0.5 * slopes[0] * (shape[0] - 1)
        m = 0
        for _ in range(shape[0]):
            wave_v, s_v = first_v, -0.5 * slopes[1] * (shape[1] - 1)
            over, over_length, over_v = 0j, 0j, 0j
            for _ in range(shape[1]):
                value = wave_v * complex(near[0, m], near[0, m + 1])
                over += value
                over_v += s_v * value
                over_length += wave_v * complex(near[1, m], near[1, m + 1])
                wave_v *= turn_v
                s_v += slopes[1]
                m += 2
            path += wave_h * over
            in_length += wave_h * over_length
            in_h += s_h * wave_h * over
            in_v += wave_h * over_v
            wave_h *= turn_h
            s_h += slopes[0]
        out[0, i] = waves[2, i] * path
        out[1, i] = waves[2, i] * (in_length + 1j * reference * path)
        out[2, i] = -1j * waves[2, i] * in_h
        out[3, i] = -1j * waves[2, i] * in_v


@njit(cache=True, nogil=True, error_model="numpy")
def _n_columns(entries, i):  # type: ignore[no-untyped-def]
    """Columns that a path depends on: an unlocated one, without a clock, on its own three alone."""
    return 3 if entries[i, 0, 6] == 0.0 else 7


@njit(cache=True, nogil=True, fastmath=True, error_model="numpy")
def normal_blocks(length, cosines, user, waves, tables, lattice, holes, gains, jacobian, row, out):  # type: ignore[no-untyped-def]
    """Fill in ``B`` (L, P), ``S`` (P, P) and the fitted slopes ``G^(d,0) x`` (3, L), from zeros.

    The block of a pair is ``g_st = d/ds_i d/dt_j F(l_i - l_j) D_h(u_hj - u_hi) D_v(u_vj - u_vi)``
    (docs/theory.md, sections 2.2 and 6.1), with tables, lattice and holes as in :func:`path_gram`; the
    Jacobian is entries (L, 3, 7) and their columns (L, 7), ``row`` (P, 3) is room.
    """
    pair, table, first = tables
    step, reference, shape, slopes = lattice
    entries, columns = jacobian
    gain_scene, scene_scene, fitted = out
    n, n_parameters = user.size, len(scene_scene)
    for i in range(n):
        for q in range(n_parameters):
            row[q, 0], row[q, 1], row[q, 2] = 0.0, 0.0, 0.0
        for j in range(i, n):
            a, b = (i, j) if user[i] <= user[j] else (j, i)
            p = pair[user[a], user[b]]
            if p < 0:
                continue
            centre, t = _table_place(length[a] - length[b], step, first, table.shape[1])
            f0, f1, f2 = 0j, 0j, 0j
            for term in range(table.shape[2] - 1, -1, -1):
                f2 = f2 * t + f1
                f1 = f1 * t + f0
                f0 = f0 * t + table[p, centre, term]
            turn = waves[2, a] * np.conj(waves[2, b])
            f1 = f1 * (2 / step) + 1j * reference * f0
            f2 = turn * (f2 * (8 / step**2) + 2j * reference * f1 + reference**2 * f0)
            f1, f0 = turn * f1, turn * f0
            h0, h1, h2 = _array_sums(np.conj(waves[0, a]) * waves[0, b], slopes[0], shape[0])
            v0, v1, v2 = _array_sums(np.conj(waves[1, a]) * waves[1, b], slopes[1], shape[1])
            d00, d10, d01, d20, d11, d02 = h0 * v0, h1 * v0, h0 * v1, h2 * v0, h1 * v1, h0 * v2
            if holes is not None:
                x_h, x_v = cosines[0, b] - cosines[0, a], cosines[1, b] - cosines[1, a]
                d00 = d00 - _holes_sum(x_h, x_v, holes, 0, 0)
                d10, d01 = d10 - _holes_sum(x_h, x_v, holes, 1, 0), d01 - _holes_sum(x_h, x_v, holes, 0, 1)
                d20, d02 = d20 - _holes_sum(x_h, x_v, holes, 2, 0), d02 - _holes_sum(x_h, x_v, holes, 0, 2)
                d11 = d11 - _holes_sum(x_h, x_v, holes, 1, 1)
            g1, g2, g3 = -f1 * d00, f0 * d10, f0 * d01
            for way in range(1 if a == b else 2):
                left, right = a, b
                if way == 1:
                    left, right, g1, g2, g3 = b, a, -np.conj(g1), -np.conj(g2), -np.conj(g3)
                s1, s2, s3 = g1 * gains[right], g2 * gains[right], g3 * gains[right]
                fitted[0, left] -= s1
                fitted[1, left] -= s2
                fitted[2, left] -= s3
                for c in range(_n_columns(entries, right)):
                    slope = s1 * entries[right, 0, c] + s2 * entries[right, 1, c] + s3 * entries[right, 2, c]
                    gain_scene[left, columns[right, c]] += slope
            product = np.conj(gains[a]) * gains[b] * (0.5 if a == b else 1.0)
            ll, lh, lv = -(product * f2 * d00).real, (product * f1 * d10).real, (product * f1 * d01).real
            hh, hv, vv = (product * f0 * d20).real, (product * f0 * d11).real, (product * f0 * d02).real
            for c in range(_n_columns(entries, j)):
                q, e0, e1, e2 = columns[j, c], entries[j, 0, c], entries[j, 1, c], entries[j, 2, c]
                row[q, 0] += ll * e0 + lh * e1 + lv * e2
                row[q, 1] += lh * e0 - hh * e1 - hv * e2
                row[q, 2] += lv * e0 - hv * e1 - vv * e2
        for c in range(_n_columns(entries, i)):
            e0, e1, e2 = entries[i, 0, c], entries[i, 1, c], entries[i, 2, c]
            for q in range(n_parameters):
                scene_scene[columns[i, c], q] += e0 * row[q, 0] + e1 * row[q, 1] + e2 * row[q, 2]
    for q in range(n_parameters):
        for r in range(q + 1):
            scene_scene[q, r] += scene_scene[r, q]
            scene_scene[r, q] = scene_scene[q, r]


@njit(cache=True, nogil=True, error_model="numpy")
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
