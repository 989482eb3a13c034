"""The working set of a plain linear model, and the residual it leaves (docs/theory.md, section 5)."""

from __future__ import annotations

import numpy as np

from isac_toolbox.inference._dictionary import Dictionary
from isac_toolbox.inference.messages import GaussianMessage
from isac_toolbox.inference.posterior import ENERGY_FLOOR, GaussianPosterior


class ActiveColumns:
    """Columns of the active coefficients and their Gram rows against the whole dictionary.

    Parameters
    ----------
    dictionary : Dictionary
        The scaled columns, (m, n).
    dtype : type
        ``float`` or ``complex``.

    Attributes
    ----------
    index : ndarray of int, shape (k,)
        Coefficients in the set, in order of entry.
    columns : ndarray, shape (m, k)
        ``Phi_W``.
    cross_gram : ndarray, shape (n, k)
        ``Phi^H Phi_W``.
    """

    def __init__(self, dictionary: Dictionary, dtype: type) -> None:
        m, n = dictionary.shape
        self._dictionary = dictionary
        self.index = np.zeros(0, dtype=np.int64)
        self.columns: np.ndarray = np.zeros((m, 0), dtype=dtype)
        self.cross_gram: np.ndarray = np.zeros((n, 0), dtype=dtype)

    def __len__(self) -> int:
        return int(self.index.size)

    @property
    def gram(self) -> np.ndarray:
        """Gram matrix ``G_WW``, (k, k), exactly Hermitian."""
        block = self.cross_gram[self.index]
        return 0.5 * (block + block.conj().T)

    def add(self, coefficient: int) -> None:
        """Let one coefficient enter: its column is fetched and correlated once."""
        column = self._dictionary.columns(np.array([coefficient]))
        cross = self._dictionary.correlate(column[:, 0])
        self.index = np.append(self.index, coefficient)
        self.columns = np.column_stack([self.columns, column])
        self.cross_gram = np.column_stack([self.cross_gram, cross])

    def keep(self, mask: np.ndarray) -> None:
        """Keep the members where ``mask`` (k,) is true."""
        self.index = self.index[mask]
        self.columns = self.columns[:, mask]
        self.cross_gram = self.cross_gram[:, mask]


class ProjectedResidual:
    """Residual correlation and projected energy of every coefficient while the set grows.

    With ``P = I - gamma Phi_W Sigma Phi_W^H`` it holds ``c_i = phi_i^H P y`` and ``D_i = phi_i^H P phi_i``.
    Letting coefficient ``j`` enter is a rank-one update, so several births in one step do not explain the
    same residual twice.

    Parameters
    ----------
    working : ActiveColumns
        The set; ``include`` adds to it.
    posterior : GaussianPosterior
        Posterior on the set as it is now.
    correlation : ndarray, shape (n,)
        ``zeta = Phi^H y``.
    energies : ndarray, shape (n,)
        ``d_i``.
    """

    def __init__(
        self,
        working: ActiveColumns,
        posterior: GaussianPosterior,
        correlation: np.ndarray,
        energies: np.ndarray,
    ) -> None:
        self._working = working
        self._energies = energies
        self._gamma = posterior.noise_precision
        self._cross = working.cross_gram
        self._gain = self._cross @ posterior.covariance
        self._entered: list[tuple[np.ndarray, float]] = []
        self.correlation = correlation - self._cross @ posterior.mean
        explained = np.real(np.einsum("ij,ij->i", self._gain, np.conj(self._cross)))
        self.energy = energies - self._gamma * explained

    def message(self) -> GaussianMessage:
        """Return the off-set message of every coefficient, (n,); meaningless inside the set."""
        energy = np.maximum(self.energy, ENERGY_FLOOR * self._energies)
        return GaussianMessage(self.correlation / energy, 1.0 / (self._gamma * energy))

    def include(self, coefficient: int, prior_precision: float) -> None:
        """Let one coefficient enter the set under the given prior precision."""
        energy = max(self.energy[coefficient], ENERGY_FLOOR * self._energies[coefficient])
        variance = 1.0 / (self._gamma * energy + prior_precision)
        self._working.add(coefficient)
        direction = self._project(self._working.cross_gram[:, -1], coefficient)
        self.correlation = self.correlation - direction * (
            self._gamma * variance * self.correlation[coefficient]
        )
        self.energy = self.energy - self._gamma * variance * np.abs(direction) ** 2
        self._entered.append((direction, variance))

    def _project(self, cross: np.ndarray, coefficient: int) -> np.ndarray:
        """``phi_i^H P phi_j`` for every ``i``, given ``phi_i^H phi_j`` and ``j``."""
        projected = cross - self._gamma * (self._gain @ np.conj(self._cross[coefficient]))
        for direction, variance in self._entered:
            projected -= self._gamma * variance * np.conj(direction[coefficient]) * direction
        return projected
