"""One face for arrays, sparse matrices and linear operators: correlate, fetch columns, column energies."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy.sparse import issparse
from scipy.sparse.linalg import LinearOperator, aslinearoperator

from isac_toolbox._validation import without_mask

#: Cost cap: columns of an operator fetched at a time while their energies are measured.
BLOCK_COLUMNS = 64
#: Guard: relative gap between an operator and its adjoint that single precision does not reach.
ADJOINT_TOLERANCE = 1e-3


class Dictionary:
    """The matrix ``A`` of a linear model, scaled to a mean column energy of ``m``.

    Parameters
    ----------
    A : array_like, sparse matrix or LinearOperator, shape (m, n)
        Real or complex. An operator is never formed as a whole.

    Attributes
    ----------
    scale : float
        Factor between ``A`` and the scaled columns.
    energies : ndarray, shape (n,)
        Squared norms ``d`` of the scaled columns.

    Raises
    ------
    TypeError
        If ``A`` is not numeric, or an operator without ``rmatvec``.
    ValueError
        If ``A`` is not a matrix, is empty, is not finite or has a column of zeros, or if an operator's
        ``rmatvec`` is not the adjoint of its ``matvec``.
    """

    def __init__(self, A: Any) -> None:
        self._operator = None
        if isinstance(A, LinearOperator):
            self._operator = A
        elif issparse(A):
            self._operator = aslinearoperator(A)
        else:
            self._matrix = np.asarray(without_mask("A", A))
            if self._matrix.dtype.kind in "bui":
                self._matrix = self._matrix.astype(np.float64)
        source = self._matrix if self._operator is None else self._operator
        self.shape: tuple[int, int] = source.shape
        kind = np.dtype(source.dtype).kind
        if kind not in "buifc":
            raise TypeError(f"A must be numeric, got dtype {source.dtype}")
        if len(self.shape) != 2 or 0 in self.shape:
            raise ValueError(f"A must be a matrix (m, n) with m, n >= 1, got shape {self.shape}")
        self.is_complex = kind == "c"
        self.scale = 1.0
        if self._operator is not None:
            self._check_adjoint(self._operator)
        self.energies = self._checked_energies()
        mean_energy = float(np.mean(self.energies))
        self.scale = float(np.sqrt(self.shape[0] / mean_energy))
        self.energies = self.energies * (self.shape[0] / mean_energy)

    def _check_adjoint(self, operator: LinearOperator) -> None:
        """Compare ``<A u, v>`` with ``<u, A^H v>`` for one random pair: a transpose is no adjoint."""
        rng = np.random.default_rng(0)
        u, v = (rng.standard_normal(n) for n in self.shape[::-1])
        if self.is_complex:
            u, v = (real + 1j * rng.standard_normal(real.size) for real in (u, v))
        forward = np.asarray(operator.matvec(u)).reshape(-1)
        try:
            back = np.asarray(operator.rmatvec(v)).reshape(-1)
        except NotImplementedError:
            raise TypeError(
                "A must have rmatvec, the product with its conjugate transpose, beside matvec: give it to "
                "LinearOperator, or pass the matrix itself"
            ) from None
        size = float(np.linalg.norm(forward))  # what <A u, v> is typically
        gap = abs(np.vdot(v, forward) - np.vdot(back, u))
        if 0 < size < np.inf and not gap <= ADJOINT_TOLERANCE * size:
            raise ValueError(
                "A must have an rmatvec that is the product with its conjugate transpose, got another one: "
                f"<A u, v> and <u, A^H v> differ by {gap / size:.2g} of their size"
            )

    def _checked_energies(self) -> np.ndarray:
        """Squared norms of the unscaled columns; all must be finite and positive."""
        starts = range(0, self.shape[1], BLOCK_COLUMNS)
        blocks = (self.columns(np.arange(i, min(i + BLOCK_COLUMNS, self.shape[1]))) for i in starts)
        energies = np.concatenate([np.sum(np.abs(block) ** 2, axis=0) for block in blocks])
        if not np.all(np.isfinite(energies)):
            raise ValueError("A must be finite, got NaN or infinite entries")
        empty = np.flatnonzero(energies == 0.0)
        if empty.size:
            raise ValueError(f"A must have no column of zeros, got {empty.size}, the first at {empty[0]}")
        return energies

    def columns(self, index: np.ndarray) -> np.ndarray:
        """Return the scaled columns at ``index``, (m, len(index))."""
        if self._operator is None:
            return self.scale * self._matrix[:, index]
        units = np.zeros((self.shape[1], len(index)))
        units[index, np.arange(len(index))] = 1.0
        return self.scale * np.asarray(self._operator.matmat(units))

    def correlate(self, vector: np.ndarray) -> np.ndarray:
        """Return ``A^H vector`` with scaled columns, (n,)."""
        if self._operator is None:
            return self.scale * np.conj(np.conj(vector) @ self._matrix)
        return self.scale * np.asarray(self._operator.rmatvec(vector)).reshape(-1)
