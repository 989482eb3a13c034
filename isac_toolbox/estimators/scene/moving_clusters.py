"""Clusters around the paths of a block that moves: their rays turn at rates of their own.

docs/theory.md, section 5.11.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from isac_toolbox.channel.atoms.dense import Statistics
from isac_toolbox.channel.atoms.frames import MovingAtoms
from isac_toolbox.estimators.scene.clusters import Clusters, ClusterShape, crowding
from isac_toolbox.estimators.scene.fit import Bundles, Fit

__all__ = ["MovingClusters"]

RealArray = NDArray[np.float64]

# Cost cap: entries of the delay factors of paths over cells, with their slopes (256 MB).
_MOST_ENTRIES = 2**24
# Cost cap: share of paths with neighbours below which no clusters are tried; it is 0 to 0.3 in blocks of
# points and 0.35 to 0.8 in those of 3GPP.
_CLUSTERED = 0.2
# Prior: change of an amplitude over half the block relative to it, before any is learned.
_START_SLOPE = 0.1


@dataclass(frozen=True, eq=False)
class MovingClusters:
    """Clusters of a block that moves.

    Attributes
    ----------
    at_rest : Clusters
        At the reference time; noise and what the samples determine are those of the whole block.
    bundles : Bundles
        Paths and clusters over the array, with their slopes over time.
    """

    at_rest: Clusters
    bundles: Bundles

    @staticmethod
    def may_surround(fit: Fit) -> bool:
        """Return whether so many paths of a fit have neighbours that clusters are to be tried."""
        return crowding(fit)[0] >= _CLUSTERED

    @staticmethod
    def too_many(fit: Fit, statistics: Statistics) -> bool:
        """Return whether a block has more cells and paths than clusters are learned for."""
        frames = statistics.frames
        assert frames is not None
        return 2 * len(fit.atoms.delay) * frames.times_s.size * len(fit.paths) > _MOST_ENTRIES

    @classmethod
    def shown(cls, fit: Fit, statistics: Statistics, shape: ClusterShape) -> MovingClusters | None:
        """Return the clusters around the paths of a fit; None where they would make its channel worse.

        By Mallows's C_p: they explain energy, but every parameter that the samples determine of them adds its
        noise.
        """
        cells = _Cells.of(fit, statistics)
        clusters = cells.clusters(shape)
        if not clusters.pays(cells.over_cells, cells.statistics):
            return None
        return cls(cells.at_rest(clusters), cells.bundles(clusters))


@dataclass(frozen=True, eq=False)
class _Cells:
    """A fit and its statistics with resource elements in the subcarriers' place, time after time on each.

    Attributes
    ----------
    fit : Fit
        At the reference time.
    over_cells : Fit
        Whose paths have delay factors of cells (C, L).
    statistics : Statistics
        Over cells.
    times_s : ndarray, shape (Q,)
        Of every subcarrier's cells.
    """

    fit: Fit
    over_cells: Fit
    statistics: Statistics
    times_s: RealArray

    @classmethod
    def of(cls, fit: Fit, statistics: Statistics) -> _Cells:
        """Return the cells of a block."""
        frames, atoms = statistics.frames, fit.atoms
        assert frames is not None and isinstance(atoms, MovingAtoms)
        turned = atoms.delay[:, None] * frames.turns(atoms.doppler_hz, atoms.user)
        over_cells = replace(fit)
        over_cells.__dict__["atoms"] = atoms.still.over_cells(turned.reshape(-1, turned.shape[2]))
        n_users, _, _, n_elements = frames.cross_correlation.shape
        flat = Statistics(
            frames.symbol_gram.swapaxes(0, 1).reshape(-1, n_users, n_users),
            frames.cross_correlation.reshape(n_users, -1, n_elements),
            statistics.energy,
            statistics.n_observations,
        )
        return cls(fit, over_cells, flat, frames.times_s)

    @property
    def _half_s(self) -> float:
        """Largest of the times, by which slopes are scaled."""
        return float(np.abs(self.times_s).max()) or 1.0

    def clusters(self, shape: ClusterShape) -> Clusters:
        """Clusters with slopes: the paths once more, growing from the reference time on."""
        fit = self.over_cells
        alone = Clusters.begun(fit, self.statistics, shape, 1 / fit.problem.noise_precision)
        growth = np.tile(1j * self.times_s / self._half_s, len(self.fit.atoms.delay))
        return replace(
            alone,
            user=np.tile(alone.user, 2),
            lengths_m=np.tile(alone.lengths_m, 2),
            cosines=np.tile(alone.cosines, 2),
            delay=np.concatenate([alone.delay, growth[:, None] * alone.delay], axis=1),
            steering=np.tile(alone.steering, (2, 1)),
            over_array=np.tile(alone.over_array, (2, 1)),
            path_power=np.concatenate([alone.path_power, _START_SLOPE**2 * alone.path_power]),
            cluster_power=np.concatenate([alone.cluster_power, _START_SLOPE * alone.cluster_power]),
        ).settled(fit, self.statistics)

    def at_rest(self, clusters: Clusters) -> Clusters:
        """Clusters at the reference time, beside the paths of the fit."""
        fit, n_paths, n_users = self.fit, len(self.fit.paths), len(clusters.mean)
        by_cell = (n_users, len(fit.atoms.delay), self.times_s.size)
        still = replace(
            clusters,
            user=clusters.user[:n_paths],
            lengths_m=clusters.lengths_m[:n_paths],
            cosines=clusters.cosines[:, :n_paths],
            delay=fit.atoms.delay,
            steering=clusters.steering[:n_paths],
            over_array=clusters.over_array[:n_paths],
            path_power=clusters.path_power[:n_paths],
            cluster_power=clusters.cluster_power[:n_paths],
            variance=clusters.variance.reshape(by_cell).mean(axis=2),
            symbol_energies=clusters.symbol_energies.reshape(by_cell).sum(axis=2),
        )
        return replace(still, mean=still.whole - fit.atoms.synthesise(fit.posterior.mean, n_users))

    def bundles(self, clusters: Clusters) -> Bundles:
        """What paths and clusters are over the array, and how it changes."""
        n_paths = len(self.fit.paths)
        slopes = clusters.over_array[n_paths:] / (2 * np.pi * self._half_s)
        return Bundles(
            clusters.over_array[:n_paths], slopes, clusters.entry_variance, clusters.noise_variance
        )
