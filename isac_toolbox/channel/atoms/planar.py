"""Path atoms under planar wavefronts: delay, horizontal and vertical factors, with or without beam squint."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from math import comb, factorial

import numpy as np
from numpy.typing import NDArray

from isac_toolbox._threads import in_threads
from isac_toolbox.channel.array import UniformPlanarArray
from isac_toolbox.channel.atoms.kernels import assemble_gram

__all__ = ["PlanarAtoms", "delay_moments", "match_separable", "over_times", "squint_orders"]

RealArray = NDArray[np.float64]
ComplexArray = NDArray[np.complex128]

# Largest term left out of the squint's series, relative to the atom; near-copies of a path need as much, or
# the Gram is none.
_SQUINT_TOLERANCE = 1e-7
_MAX_SQUINT_ORDERS = 10


@dataclass(frozen=True, eq=False)
class PlanarAtoms:
    """Atoms ``b (x) a_h (x) a_v`` and their derivatives (docs/theory.md, sections 2.2 and 2.3).

    Atom type 0 is the path itself, 1 its derivative in the path length, 2 and 3 those in ``u_h`` and ``u_v``.
    Every inner product is a sum of products of one-dimensional moments over subcarriers, columns and rows.

    Attributes
    ----------
    user : ndarray of int, shape (L,)
    delay : ndarray of complex, shape (N, L)
    wavenumbers_per_m : ndarray, shape (N,)
    cosines : ndarray, shape (2, L)
        Direction cosines ``u_h, u_v``.
    array : UniformPlanarArray
    squint : float
        ``f_n / (f_c w_n)``, length per radian of carrier phase; zero without beam squint.
    """

    user: NDArray[np.int64]
    delay: ComplexArray
    wavenumbers_per_m: RealArray
    cosines: RealArray
    array: UniformPlanarArray
    squint: float = 0.0

    @property
    def n_types(self) -> int:
        """Number of atom types."""
        return 4

    @cached_property
    def n_orders(self) -> int:
        """Terms of the squint's series, 1 without squint."""
        if not self.squint:
            return 1
        return squint_orders(self.array, self.squint * self.wavenumbers_per_m)

    @cached_property
    def factors(self) -> tuple[ComplexArray, ComplexArray]:
        """Horizontal (L, M_h) and vertical (L, M_v) factors at the carrier."""
        slope_h, slope_v = self.array.phase_slopes
        u_h, u_v = self.cosines
        return np.exp(1j * u_h[:, None] * slope_h), np.exp(1j * u_v[:, None] * slope_v)

    @cached_property
    def steering(self) -> ComplexArray:
        """Responses at the carrier with their derivatives in ``u_h`` and ``u_v``, shape (3, L, M)."""
        a = self._kronecker(*self.factors)
        return np.stack([a, *self.array.steering_derivatives(a)])

    def gram(self, symbol_gram: ComplexArray) -> ComplexArray:
        """Return the Gram of the path atoms, shape (L, L)."""
        if self.squint:
            return self._gram(symbol_gram, 1)[0, 0]
        moments = delay_moments(self.delay, self.user, self.wavenumbers_per_m, symbol_gram, 1)[0]
        return self._array_gram * moments

    @cached_property
    def _array_gram(self) -> ComplexArray:
        """``a_i^H a_j`` at the carrier, shape (L, L)."""
        a_h, a_v = self.factors
        return (a_h.conj() @ a_h.T) * (a_v.conj() @ a_v.T)

    def full_gram(self, symbol_gram: ComplexArray) -> ComplexArray:
        """Return the Gram of all atom types, shape (4, 4, L, L)."""
        return self._gram(symbol_gram, self.n_types)

    def _gram(self, symbol_gram: ComplexArray, n_types: int) -> ComplexArray:
        orders = self.delay_orders(n_types)
        delay = delay_moments(self.delay, self.user, self.wavenumbers_per_m, symbol_gram, orders)
        return self.assembled(delay, n_types)

    def delay_orders(self, n_types: int) -> int:
        """Return how many moments over subcarriers the Gram of the first atom types needs."""
        derivatives = 2 if n_types > 1 else 0
        return self.n_orders + derivatives * (2 if self.squint else 1)

    def assembled(self, delay: ComplexArray, n_types: int) -> ComplexArray:
        """Return the Gram of the first atom types from moments over subcarriers, (types, types, L, L)."""
        derivatives = 2 if n_types > 1 else 0
        horizontal, vertical = (
            _array_moments(factor, slope, self.n_orders + derivatives)
            for factor, slope in zip(self.factors, self.array.phase_slopes, strict=True)
        )
        u_h, u_v = self.cosines
        gram: ComplexArray = assemble_gram(
            delay, horizontal, vertical, u_h, u_v, self.squint, self.n_orders, n_types
        )
        return gram

    def correlate(self, cross_correlation: ComplexArray, derivatives: bool = False) -> ComplexArray:
        """Return the inner products with ``Z`` (K, N, M): shape (L,), or (4, L) with derivatives."""
        return self._inner_products(self._correlation_moments(cross_correlation, derivatives), derivatives)

    def correlate_over_time(self, cross_correlation: ComplexArray, turns: ComplexArray) -> ComplexArray:
        """Return inner products with ``Z`` (K, N, Q, M) summed over times with weights (1 or 2, Q, L).

        With two weights those of all types come under the first, and of the paths under the second at the
        end, shape (5, L); with one those of the paths, (L,).
        """
        derivatives = len(turns) > 1
        moments = self._correlation_moments(cross_correlation, derivatives, turns)
        values = self._inner_products(moments[0], derivatives)
        if not derivatives:
            return values
        return np.concatenate([values, self._inner_products(moments[1], False)[None]])

    def _inner_products(self, moments: ComplexArray, derivatives: bool) -> ComplexArray:
        """Inner products of the atom types from the moments of the correlation, shape (L,) or (4, L)."""
        path = self._through_squint(moments, 0, 0, 0)
        if not derivatives:
            return path
        in_length = 1j * self._through_squint(moments, 1, 0, 0)
        in_cosines = [-1j * self._cosine_derivative(moments, *axis) for axis in ((1, 0), (0, 1))]
        return np.stack([path, in_length, *in_cosines])

    def _cosine_derivative(self, moments: ComplexArray, in_h: int, in_v: int) -> ComplexArray:
        plain = self._through_squint(moments, 0, in_h, in_v)
        if not self.squint:
            return plain
        return plain + self.squint * self._through_squint(moments, 1, in_h, in_v)

    def _through_squint(self, moments: ComplexArray, a: int, b: int, c: int) -> ComplexArray:
        """Moment (a, b, c) under ``exp(-j kappa w (s_h u_h + s_v u_v))``, shape (L,)."""
        u_h, u_v = self.cosines
        total = moments[a, b, c]
        for p in range(1, self.n_orders):
            weight = (-1j * self.squint) ** p / factorial(p)
            for r in range(p + 1):
                scale = weight * comb(p, r) * u_h**r * u_v ** (p - r)
                total = total + scale * moments[a + p, b + r, c + p - r]
        return total

    def _correlation_moments(
        self, cross_correlation: ComplexArray, derivatives: bool, turns: ComplexArray | None = None
    ) -> ComplexArray:
        """``sum conj(b_n a_m) w_n^a s_h^b s_v^c Z_knm`` of every path, shape (A, B, C, L).

        With ``turns`` (V, Q, L) the sums run over the times of ``Z`` (K, N, Q, M) as well, (V, A, B, C, L).
        """
        n_delay = self.n_orders + (0 if not derivatives else 2 if self.squint else 1)
        n_array = self.n_orders + (1 if derivatives else 0)
        powers = [s[:, None] ** np.arange(n_array) for s in self.array.phase_slopes]
        right = [f.conj()[:, :, None] * p for f, p in zip(self.factors, powers, strict=True)]
        left = self.delay.T.conj() * self.wavenumbers_per_m ** np.arange(n_delay)[:, None, None]
        shape = (n_delay, n_array, n_array, self.user.size)
        moments = np.empty(shape if turns is None else (len(turns), *shape), complex)
        n_h, n_v = self.array.shape
        for k in np.unique(self.user):
            index = np.flatnonzero(self.user == k)
            over_delay = left[:, index].reshape(-1, self.delay.shape[0]) @ cross_correlation[k].reshape(
                self.delay.shape[0], -1
            )
            if turns is not None:
                over_delay = over_times(over_delay, turns[:, :, index])
            cube = over_delay.reshape(*moments.shape[:-3], index.size, n_h, n_v)
            over_rows = np.matmul(cube, right[1][index])
            moments[..., index] = np.einsum("...lhc,lhb->...bcl", over_rows, right[0][index], optimize=True)
        return moments

    def synthesise(self, gains: ComplexArray, n_users: int) -> ComplexArray:
        """Return the channel ``H_k = sum over the user's paths of x b a^T``, shape (K, N, M)."""
        weighted = self.delay * gains
        channel = np.zeros((n_users, self.delay.shape[0], self.array.n_elements), complex)
        powers = self.wavenumbers_per_m[:, None] * self.squint
        a_h, a_v = self.factors

        def fill_in(k: int) -> None:
            index = np.flatnonzero(self.user == k)
            if not index.size:
                return
            if self.n_orders == 1:
                np.matmul(weighted[:, index], self._kronecker(a_h[index], a_v[index]), out=channel[k])
                return
            left = [weighted[:, index]]
            for _ in range(1, self.n_orders):
                left.append(left[-1] * powers)
            channel[k] = np.concatenate(left, axis=1) @ np.concatenate(self._squint_responses(index))

        in_threads(fill_in, range(n_users), channel.size)
        return channel

    def respond(self, rows: ComplexArray) -> ComplexArray:
        """Return inner products ``sum_m y_num b_ni a_mi`` of rows (N, U, M) with every path, (N, U, L)."""
        responses = self._squint_responses(np.arange(self.user.size))
        total = np.matmul(rows, responses[0].T)
        power = np.ones(self.delay.shape[0])
        for response in responses[1:]:
            power = power * self.squint * self.wavenumbers_per_m
            total = total + power[:, None, None] * np.matmul(rows, response.T)
        return total * self.delay[:, None, :]

    def match(self, gains: ComplexArray, users: NDArray[np.int64]) -> ComplexArray:
        """Return ``sum_m conj(h_unm) b_ni a_mi`` of users' channels with every path, shape (N, U, L)."""
        if not self.squint:
            return match_separable(self.delay, self.user, self._array_gram, gains, users)
        channel = self.synthesise(gains, int(max(users.max(), self.user.max(initial=0))) + 1)
        return self.respond(channel[users].conj().transpose(1, 0, 2))

    def _squint_responses(self, index: NDArray[np.int64]) -> list[ComplexArray]:
        """``(j theta_m)^p / p! a_m`` for every order p, each (L', M); ``theta`` is the carrier phase."""
        a_h, a_v = (factor[index] for factor in self.factors)
        responses = [self._kronecker(a_h, a_v)]
        if self.n_orders > 1:
            slope_h, slope_v = self.array.phase_slopes
            phase_h, phase_v = self.cosines[0, index, None] * slope_h, self.cosines[1, index, None] * slope_v
            phase = (phase_h[:, :, None] + phase_v[:, None, :]).reshape(index.size, self.array.n_elements)
            for p in range(1, self.n_orders):
                responses.append(responses[-1] * (1j * phase / p))
        return responses

    def _kronecker(self, a_h: ComplexArray, a_v: ComplexArray) -> ComplexArray:
        return (a_h[:, :, None] * a_v[:, None, :]).reshape(len(a_h), self.array.n_elements)

    def on_subcarriers(self, part: slice) -> PlanarAtoms:
        """Return the atoms on some subcarriers."""
        return replace(self, delay=self.delay[part], wavenumbers_per_m=self.wavenumbers_per_m[part])

    def over_cells(self, delay: ComplexArray) -> PlanarAtoms:
        """The atoms over resource elements, subcarrier after subcarrier, of given delay factors."""
        repeats = len(delay) // len(self.delay)
        return replace(self, delay=delay, wavenumbers_per_m=np.repeat(self.wavenumbers_per_m, repeats))

    def take(self, index: NDArray[np.int64]) -> PlanarAtoms:
        """Return the atoms of some paths."""
        return PlanarAtoms(
            self.user[index],
            self.delay[:, index],
            self.wavenumbers_per_m,
            self.cosines[:, index],
            self.array,
            self.squint,
        )


def squint_orders(array: UniformPlanarArray, relative_frequencies: RealArray) -> int:
    """Return terms needed for ``exp(j x theta)``, x the relative frequencies and theta the array's phases."""
    largest = float(np.max(np.abs(relative_frequencies))) * sum(s.max() for s in array.phase_slopes)
    for order in range(1, _MAX_SQUINT_ORDERS):
        if largest**order / factorial(order) < _SQUINT_TOLERANCE:
            return order
    return _MAX_SQUINT_ORDERS


def delay_moments(
    delay: ComplexArray,
    user: NDArray[np.int64],
    wavenumbers_per_m: RealArray,
    symbol_gram: ComplexArray,
    orders: int,
) -> ComplexArray:
    """Return ``sum_n conj(b_ni) R_n[k_i, k_j] w_n^p b_nj`` for p < orders, shape (orders, L, L)."""
    n_paths = user.size
    moments = np.empty((orders, n_paths, n_paths), dtype=delay.dtype)
    powers = wavenumbers_per_m[None, :] ** np.arange(orders)[:, None]
    conjugate = delay.conj()
    for j in np.unique(user):
        index, others = np.flatnonzero(user == j), np.flatnonzero(user >= j)
        left = conjugate[:, others] * symbol_gram[:, user[others], j]
        right = powers[:, :, None] * delay[:, index]
        block = np.matmul(left.T, right)
        moments[:, others[:, None], index] = block
        moments[:, index[:, None], others] = block.conj().transpose(0, 2, 1)
    return moments


def over_times(projected: ComplexArray, turns: ComplexArray) -> ComplexArray:
    """Return ``sum_q turns_vql X_alqm`` of correlations (A L, Q M) projected on delays, (V, A, L, M)."""
    _, n_times, n_paths = turns.shape
    split = projected.reshape(-1, n_paths, n_times, projected.shape[1] // n_times)
    return np.asarray(np.matmul(turns.transpose(2, 0, 1), split).transpose(2, 0, 1, 3))


def match_separable(
    delay: ComplexArray,
    user: NDArray[np.int64],
    array_gram: ComplexArray,
    gains: ComplexArray,
    users: NDArray[np.int64],
) -> ComplexArray:
    """Return ``sum_i conj(x_i b_ni) (a_i^H a_l) b_nl`` over the paths i of a user, shape (N, U, L)."""
    weighted = (delay * gains).conj()
    matched = np.empty((delay.shape[0], users.size, user.size), complex)
    for row, k in enumerate(users):
        index = np.flatnonzero(user == k)
        matched[:, row] = weighted[:, index] @ array_gram[index]
    matched *= delay[:, None, :]
    return matched


def _array_moments(factor: ComplexArray, slope: RealArray, orders: int) -> ComplexArray:
    """``sum_m conj(a_mi) s_m^p a_mj`` for p < orders, shape (orders, L, L)."""
    return np.stack([(factor.conj() * slope**p) @ factor.T for p in range(orders)])
