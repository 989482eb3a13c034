"""Sums over subcarriers on a raster as functions of the path length, tabulated by Fourier transforms.

docs/theory.md, section 2.4. The raster may have holes, which are zeros of the transforms. Two kinds of table:
the symbol Gram's, a Taylor polynomial around every grid length, for differences of lengths; and the
correlation's, a grid of lengths with an interpolation kernel. After them neither Gram nor correlation of a
path depends on the number of subcarriers.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from math import factorial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import fft

from isac_toolbox._threads import in_threads, stretches
from isac_toolbox.channel.array import UniformPlanarArray
from isac_toolbox.channel.atoms.kernels import normal_blocks, path_correlations, path_gram
from isac_toolbox.channel.atoms.receiver import Raster, Receiver
from isac_toolbox.channel.atoms.scene import PathJacobian, PathParameters, Paths
from isac_toolbox.channel.atoms.zoom import SHARPNESS, TAPS, kernel_transform, zoom_pays, zoomed

__all__ = ["LARGE_GRID", "BlockTables"]

RealArray = NDArray[np.float64]
ComplexArray = NDArray[np.complex128]

# With twofold oversampling exact to about 1e-13 of the largest value, as the kernel is.
_TERMS = 15
# Entries of a whole grid of lengths from which on it is kept for the lengths of paths alone.
LARGE_GRID = 2**19
# Steps by which such lengths may be exceeded, as paths are refined.
_MARGIN = 16


@dataclass(frozen=True, eq=False)
class BlockTables:
    """Tables of one block's statistics under planar wavefronts without beam squint.

    Parameters
    ----------
    symbol_gram : ndarray of complex, shape (N, K, K)
    cross_correlation : ndarray of complex, shape (K, N, M)
    wavenumbers_per_m : ndarray, shape (N,)
    raster : Raster
        Of the subcarriers.
    array : UniformPlanarArray
    holes : ndarray, shape (H, 2)
        Horizontal and vertical phase slopes of the elements left out, where the correlation is zero.
    window_m : (float, float), optional
        Lengths at which paths are looked for; tables of large blocks hold these alone, until others are asked
        for.
    """

    symbol_gram: ComplexArray
    cross_correlation: ComplexArray
    wavenumbers_per_m: RealArray
    raster: Raster
    array: UniformPlanarArray
    holes: RealArray
    window_m: tuple[float, float] | None = None

    @classmethod
    def of(
        cls,
        symbol_gram: ComplexArray,
        cross_correlation: ComplexArray,
        receiver: Receiver,
        window_m: tuple[float, float] | None = None,
    ) -> BlockTables | None:
        """Return the tables of a block, None where its receiver's atoms have no such tables."""
        array = receiver.array
        if receiver.wavefront != "planar" or receiver.beam_squint or receiver.raster is None:
            return None
        if not isinstance(array, UniformPlanarArray) or not receiver.is_plain:
            return None
        wavenumbers, raster = receiver.wavenumbers_per_m, receiver.raster
        holes = receiver.hole_slopes
        return cls(symbol_gram, cross_correlation, wavenumbers, raster, array, holes, window_m)

    def with_correlation(self, cross_correlation: ComplexArray) -> BlockTables:
        """Return the tables of another correlation (K, N, M); those of the symbol Gram are shared."""
        other = replace(self, cross_correlation=cross_correlation)
        vars(other)["_gram"] = self._gram_table(self._window)
        return other

    def of_user(self, user: int) -> BlockTables:
        """Return the tables of one user alone; the transforms are shared."""
        alone = slice(user, user + 1)
        other = replace(
            self,
            symbol_gram=self.symbol_gram[:, alone, alone],
            cross_correlation=self.cross_correlation[alone],
        )
        pair, table, first = self._gram_table(self._window)
        grid, start = self._correlation_grid(self._window)
        row = pair[user, user]
        vars(other)["_gram"] = np.zeros((1, 1), np.int64), table[row : row + 1], first
        vars(other)["_grid"] = grid[alone], start
        return other

    @cached_property
    def _window(self) -> tuple[float, float] | None:
        """Lengths that tables are made for, None for a whole period."""
        n_users, _, n_antennas = self.cross_correlation.shape
        if self.window_m is None or n_users * n_antennas * self._size < LARGE_GRID:
            return None
        low, high = self.window_m
        margin = _MARGIN * self._step
        return None if high - low > self._period_m / 2 - 2 * margin else (low - margin, high + margin)

    @property
    def _period_m(self) -> float:
        """Length after which everything repeats."""
        return self._size * self._step

    def _asked(self, parameters: PathParameters) -> tuple[float, float] | None:
        """The window, None where paths have lengths outside."""
        if self._window is None or not parameters.length_m.size:
            return self._window
        low, high = self._window
        inside = low <= parameters.length_m.min() and parameters.length_m.max() <= high
        return self._window if inside else None

    @cached_property
    def _size(self) -> int:
        """Grid lengths in one period, at least twice the places of the raster."""
        return int(fft.next_fast_len(2 * self.raster.size))

    @cached_property
    def _place_wavenumber(self) -> float:
        """Wavenumbers from one place of the raster to the next."""
        lowest, next_lowest = np.argsort(self.raster.place)[:2]
        distance = self.wavenumbers_per_m[next_lowest] - self.wavenumbers_per_m[lowest]
        return float(distance / self.raster.place[next_lowest])

    @cached_property
    def _step(self) -> float:
        """Distance of grid lengths in metres."""
        return 2 * np.pi / (self._place_wavenumber * self._size)

    @cached_property
    def _reference(self) -> tuple[int, float]:
        """Middle of the raster, which may be a hole, and its wavenumber; the tables are relative to it."""
        middle = self.raster.size // 2
        nearest = int(np.argmin(np.abs(self.raster.place - middle)))
        from_nearest = middle - int(self.raster.place[nearest])
        return middle, float(self.wavenumbers_per_m[nearest] + from_nearest * self._place_wavenumber)

    @cached_property
    def _array_shape(self) -> tuple[tuple[int, int], tuple[float, float]]:
        """Numbers of elements and phase slope per element, horizontal and vertical."""
        spacing_h, spacing_v = self.array.spacings
        return self.array.shape, (2 * np.pi * spacing_h, 2 * np.pi * spacing_v)

    def _to_lengths(self, sequences: ComplexArray, first: int, count: int) -> ComplexArray:
        """``sum_n g_n exp(j (w_n - w_ref) l)`` of (n, N) at some lengths of the grid, (n, count)."""
        padded = np.zeros((len(sequences), self._size), complex)
        padded[:, self.raster.place - self._reference[0]] = sequences
        whole = fft.ifft(padded, axis=-1, norm="forward", overwrite_x=True)
        if count == self._size:
            return np.asarray(whole)
        return np.asarray(whole.take(np.arange(first, first + count), axis=1, mode="wrap"))

    def _gram_table(self, window: tuple[float, float] | None) -> tuple[NDArray[np.int64], ComplexArray, int]:
        """Row of every pair of users k <= j (-1: they do not interfere), Taylor coefficients, first centre.

        Coefficient p at a grid length: ``sum_n R_n[k, j] (j (w_n - w_ref) step / 2)^p / p! exp(...)``.
        """
        made: tuple[NDArray[np.int64], ComplexArray, int] | None = vars(self).get("_gram")
        if made is None or (window is None and made[1].shape[1] < self._size):
            made = vars(self)["_gram"] = self._made_gram(window)
        return made

    def _made_gram(self, window: tuple[float, float] | None) -> tuple[NDArray[np.int64], ComplexArray, int]:
        n_users = self.symbol_gram.shape[1]
        sent = np.any(self.symbol_gram, axis=0)
        k, j = np.nonzero(np.triu(sent))
        pair = np.full((n_users, n_users), -1)
        pair[k, j] = np.arange(k.size)
        relative = self.wavenumbers_per_m - self._reference[1]
        powers = _taylor_powers((0.5 * self._step * relative).tobytes())
        reach = self._size if window is None else int((window[1] - window[0]) / self._step) + 2
        first, count = (-reach, 2 * reach + 1) if 2 * reach + 1 < self._size else (0, self._size)
        table = np.empty((k.size, count, _TERMS), complex)
        for row, (a, b) in enumerate(zip(k, j, strict=True)):
            table[row] = self._to_lengths(self.symbol_gram[:, a, b] * powers, first, count).T
        return pair, table, first

    def _correlation_grid(self, window: tuple[float, float] | None) -> tuple[RealArray, int]:
        """``Z`` on grid lengths with the kernel's response divided out, as (K, G, 2 M) reals, and the first.

        Stored in the precision of ``Z``.
        """
        made: tuple[RealArray, int] | None = vars(self).get("_grid")
        if made is None or (window is None and made[0].shape[1] < self._size):
            made = vars(self)["_grid"] = self._made_grid(window)
        return made

    def _made_grid(self, window: tuple[float, float] | None) -> tuple[RealArray, int]:
        n_users, _, n_antennas = self.cross_correlation.shape
        middle, _ = self._reference
        correction = _kernel_response(self.raster.size, middle, self._size)[self.raster.place]
        first, count = 0, self._size
        if window is not None:
            first = int(np.floor(window[0] / self._step)) - TAPS
            count = int(np.ceil(window[1] / self._step)) + TAPS - first
        grid = np.empty((n_users, count, n_antennas), self.cross_correlation.dtype)

        rows = np.arange(first, first + count) % self._size if count < self._size else slice(None)

        def transform(users: slice) -> None:
            whole = None if zoom_pays(1 / self._size, count) else np.zeros((self._size, n_antennas), complex)
            for k in range(users.start, users.stop):
                columns = self.cross_correlation[k] * correction[:, None]
                if whole is None:
                    turn = 1 / self._size
                    grid[k] = zoomed(self.raster.rows(columns), first * turn, turn, count, middle)
                else:
                    grid[k] = self._transformed(columns, whole)[rows]

        in_threads(transform, stretches(n_users, 2), self.cross_correlation.size)
        return grid.view(grid.real.dtype), first

    def _transformed(self, columns: ComplexArray, room: ComplexArray) -> ComplexArray:
        """``sum_n g_n exp(j (w_n - w_ref) l)`` of (N, M) on the whole grid of lengths; ``room`` is used up.

        Along the columns as they lie in memory: a transposed copy would cost as much as the transform.
        """
        room[:] = 0
        room[self.raster.place - self._reference[0]] = columns
        return np.asarray(fft.ifft(room, axis=0, norm="forward", overwrite_x=True))

    @cached_property
    def _lattice(self) -> tuple[Any, ...]:
        """Step of the tables, their reference, and the array's lattice."""
        return (self._step, self._reference[1], *self._array_shape)

    def gram(self, parameters: PathParameters, paths: Paths) -> ComplexArray:
        """Return the Gram of the path atoms, shape (L, L)."""
        gram = np.empty((len(paths), len(paths)), complex)
        arguments = (*self._pairwise(parameters, paths), gram)
        path_gram(*arguments)
        return gram

    def _pairwise(self, parameters: PathParameters, paths: Paths) -> tuple[Any, ...]:
        holes = self.holes if self.holes.size else None
        at = parameters.length_m, parameters.cosines, paths.user, self._waves(parameters)
        return (*at, self._gram_table(self._asked(parameters)), self._lattice, holes)

    def _waves(self, parameters: PathParameters) -> ComplexArray:
        """Half the phase steps along columns and rows, and the phase at the reference, as waves (3, L)."""
        made: ComplexArray | None = vars(parameters).get("_waves")
        if made is None:
            _, reference, _, (slope_h, slope_v) = self._lattice
            angles = np.empty((3, parameters.length_m.size))
            np.multiply(parameters.cosines[0], 0.5 * slope_h, out=angles[0])
            np.multiply(parameters.cosines[1], 0.5 * slope_v, out=angles[1])
            np.multiply(parameters.length_m, reference, out=angles[2])
            made = vars(parameters)["_waves"] = np.exp(1j * angles)
        return made

    def correlations(self, parameters: PathParameters, paths: Paths) -> ComplexArray:
        """Return the inner products of path, length and cosine atoms with ``Z``, shape (4, L)."""
        out = np.empty((4, len(paths)), complex)
        grid, first = self._correlation_grid(self._asked(parameters))
        near, kernel = np.empty((2, grid.shape[2])), (TAPS, SHARPNESS)
        at = parameters.length_m, paths.user, self._waves(parameters)
        path_correlations(*at, grid, first, kernel, self._lattice, near, out)
        return out

    def normal_blocks(
        self, parameters: PathParameters, paths: Paths, gains: ComplexArray
    ) -> tuple[ComplexArray, RealArray, ComplexArray]:
        """Return ``B`` (L, P), ``S`` (P, P) of section 6.1 and the fitted slopes ``G^(d,0) x`` (3, L)."""
        jacobian = parameters.derivatives
        assert isinstance(jacobian, PathJacobian)
        n_paths, n_parameters = len(paths), jacobian.n_parameters
        out = (
            np.zeros((n_paths, n_parameters), complex),
            np.zeros((n_parameters, n_parameters)),
            np.zeros((3, n_paths), complex),
        )
        within = jacobian.entries, jacobian.columns
        arguments = (*self._pairwise(parameters, paths), gains, within, np.empty((n_parameters, 3)), out)
        normal_blocks(*arguments)
        return out


@lru_cache(maxsize=16)
def _taylor_powers(argument: bytes) -> ComplexArray:
    """``(j x)^p / p!`` of all terms, shape (terms, N)."""
    x = 1j * np.frombuffer(argument, np.float64)
    return np.stack([x**p / factorial(p) for p in range(_TERMS)])


@lru_cache(maxsize=16)
def _kernel_response(n: int, middle: int, size: int) -> RealArray:
    """Inverse of the kernel's Fourier transform at every place of the raster, shape (n,)."""
    order = np.arange(n, dtype=float) - middle
    return np.asarray(1 / (TAPS / 2 * kernel_transform(np.pi * TAPS / size * order)))
