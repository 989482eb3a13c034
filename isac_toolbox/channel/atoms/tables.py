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

from isac_toolbox.channel.array import UniformPlanarArray
from isac_toolbox.channel.atoms.kernels import normal_blocks, path_correlations, path_gram
from isac_toolbox.channel.atoms.receiver import Raster, Receiver
from isac_toolbox.channel.atoms.scene import PathJacobian, PathParameters, Paths

__all__ = ["BlockTables"]

RealArray = NDArray[np.float64]
ComplexArray = NDArray[np.complex128]

# With twofold oversampling both are exact to about 1e-13 of the largest value.
_TERMS = 15
_TAPS = 14
_SHARPNESS = 2.30 * _TAPS


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
    gram_table : tuple of ndarray, optional
        Row of every pair of users and Taylor coefficients, where they were made for a larger block.
    correlation_grid : ndarray, optional
        Transformed correlations, likewise.
    """

    symbol_gram: ComplexArray
    cross_correlation: ComplexArray
    wavenumbers_per_m: RealArray
    raster: Raster
    array: UniformPlanarArray
    holes: RealArray
    gram_table: tuple[NDArray[np.int64], ComplexArray] | None = None
    correlation_grid: RealArray | None = None

    @classmethod
    def of(
        cls, symbol_gram: ComplexArray, cross_correlation: ComplexArray, receiver: Receiver
    ) -> BlockTables | None:
        """Return the tables of a block, None where its receiver's atoms have no such tables."""
        array = receiver.array
        if receiver.wavefront != "planar" or receiver.beam_squint or receiver.raster is None:
            return None
        if not isinstance(array, UniformPlanarArray) or not receiver.is_plain:
            return None
        wavenumbers, raster = receiver.wavenumbers_per_m, receiver.raster
        return cls(symbol_gram, cross_correlation, wavenumbers, raster, array, receiver.hole_slopes)

    def with_correlation(self, cross_correlation: ComplexArray) -> BlockTables:
        """Return the tables of another correlation (K, N, M); those of the symbol Gram are shared."""
        return replace(
            self,
            cross_correlation=cross_correlation,
            gram_table=self._gram_table,
            correlation_grid=None,
        )

    def of_user(self, user: int) -> BlockTables:
        """Return the tables of one user alone; the transforms are shared."""
        alone = slice(user, user + 1)
        pair, table = self._gram_table
        row = pair[user, user]
        return BlockTables(
            self.symbol_gram[:, alone, alone],
            self.cross_correlation[alone],
            self.wavenumbers_per_m,
            self.raster,
            self.array,
            self.holes,
            gram_table=(np.zeros((1, 1), np.int64), table[row : row + 1]),
            correlation_grid=self._correlation_grid[alone],
        )

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

    def _to_lengths(self, sequences: ComplexArray) -> ComplexArray:
        """``sum_n g_n exp(j (w_n - w_ref) l)`` on the grid, along the last axis."""
        padded = np.zeros((*sequences.shape[:-1], self._size), complex)
        padded[..., self.raster.place - self._reference[0]] = sequences
        return np.asarray(fft.ifft(padded, axis=-1, norm="forward", overwrite_x=True))

    @cached_property
    def _gram_table(self) -> tuple[NDArray[np.int64], ComplexArray]:
        """Row of every pair of users k <= j (-1 where they do not interfere), and the Taylor coefficients.

        Coefficient p at a grid length: ``sum_n R_n[k, j] (j (w_n - w_ref) step / 2)^p / p! exp(...)``.
        """
        if self.gram_table is not None:
            return self.gram_table
        n_users = self.symbol_gram.shape[1]
        sent = np.any(self.symbol_gram, axis=0)
        k, j = np.nonzero(np.triu(sent))
        pair = np.full((n_users, n_users), -1)
        pair[k, j] = np.arange(k.size)
        relative = self.wavenumbers_per_m - self._reference[1]
        powers = _taylor_powers((0.5 * self._step * relative).tobytes())
        sequences = self.symbol_gram[:, k, j].T[:, None, :] * powers
        return pair, np.ascontiguousarray(self._to_lengths(sequences).transpose(0, 2, 1))

    @cached_property
    def _correlation_grid(self) -> RealArray:
        """``Z`` on grid lengths with the kernel's response divided out, as (K, G, 2 M) reals.

        Stored in the precision of ``Z``.
        """
        if self.correlation_grid is not None:
            return self.correlation_grid
        n_users, _, n_antennas = self.cross_correlation.shape
        middle, _ = self._reference
        correction = _kernel_response(self.raster.size, middle, self._size)[self.raster.place]
        grid = np.empty((n_users, self._size, n_antennas), self.cross_correlation.dtype)
        for k, z in enumerate(self.cross_correlation):
            # along the columns as they lie in memory: a transposed copy would cost as much as the transform
            padded = np.zeros((self._size, n_antennas), complex)
            padded[self.raster.place - middle] = z * correction[:, None]
            grid[k] = fft.ifft(padded, axis=0, norm="forward", overwrite_x=True)
        return grid.view(grid.real.dtype)

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
        at = parameters.length_m, parameters.cosines, paths.user
        return (*at, self._gram_table, self._lattice, holes)

    def correlations(self, parameters: PathParameters, paths: Paths) -> ComplexArray:
        """Return the inner products of path, length and cosine atoms with ``Z``, shape (4, L)."""
        out = np.empty((4, len(paths)), complex)
        at = parameters.length_m, parameters.cosines, paths.user
        path_correlations(*at, self._correlation_grid, (_TAPS, _SHARPNESS), self._lattice, out)
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
        arguments = (*self._pairwise(parameters, paths), gains, within, out)
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
    nodes, weights = np.polynomial.legendre.leggauss(200)
    value = np.exp(_SHARPNESS * (np.sqrt(1 - nodes**2) - 1)) * weights * (_TAPS / 2)
    order = np.arange(n) - middle
    waves = np.cos(np.pi * _TAPS / size * np.multiply.outer(order, nodes))
    return np.asarray(1 / (waves @ value))
