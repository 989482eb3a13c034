"""The diffuse part in the iteration of EM-Turbo-BiSVBI: begun, renewed, given up (docs/theory.md, 5.8)."""

from __future__ import annotations

from dataclasses import replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from isac_toolbox.channel.atoms.dense import Statistics
from isac_toolbox.estimators.bisvbi_receiver import ReceiverLoop
from isac_toolbox.estimators.scene.clusters import Clusters, ClusterShape
from isac_toolbox.estimators.scene.diffuse import Diffuse
from isac_toolbox.estimators.scene.fit import Fit
from isac_toolbox.estimators.scene.misfit import Residual
from isac_toolbox.estimators.scene.moving_clusters import MovingClusters

__all__ = ["NEGLIGIBLE_NOISE", "DiffuseLoop"]

# Guard: noise relative to the samples' power (-70 dB) below which any fit is good.
NEGLIGIBLE_NOISE = 1e-7

# Cost cap: change of the number of paths after which clusters around them are looked for again.
_ALIKE = 0.1

_TOO_MANY_CELLS = (
    "rays around the paths are not allowed for: the block has too many resource elements and paths; estimate "
    "fewer OFDM symbols or subcarriers at a time"
)


class DiffuseLoop(ReceiverLoop):
    """A loop that has a diffuse part of the channel where the samples show one."""

    _profile_is_of_pilots: bool
    _refused: tuple[Statistics, int] | None

    def _n_determined_by_diffuse(self) -> float:
        """Complex parameters of the diffuse part that the data in use determine."""
        return 0.0 if self.diffuse is None else self.diffuse.n_determined

    def _look_for_diffuse(self, residual: Residual) -> Residual:
        """Begin or give up a diffuse part as the residual says, and return the residual beside it."""
        problem = self.working.problem
        possible = self.settings.diffuse and problem.statistics.missing is None
        possible &= problem.statistics.frames is None
        possible &= problem.noise_precision * NEGLIGIBLE_NOISE < 1
        if possible and self._keeps_clusters(residual):
            pass
        elif possible and residual.shows_diffuse:
            if not isinstance(self.diffuse, Diffuse):
                noise = self._noise_between_paths(residual)
                self._under_diffuse(Diffuse.start(self.working.fit, self._statistics, self.search, noise))
        else:
            self._give_up_diffuse()
            return residual
        assert self.diffuse is not None
        return residual.beside(self.diffuse)

    def _keeps_clusters(self, residual: Residual) -> bool:
        """Begin clusters where paths stand in them, and return whether there are any."""
        receiver = self.working.problem.receiver
        if receiver.beam_squint or receiver.whitening is not None:
            return False
        fit, _, _ = self.working.active_fit()
        if isinstance(self.diffuse, Clusters):
            return self.diffuse.stays(fit, self._statistics)
        if self.diffuse is not None or residual.shows_diffuse:
            return False
        if self._were_refused(fit):
            return False
        noise = self._noise_between_paths(residual)
        clusters = Clusters.shown(fit, self._statistics, self._cluster_shape, noise)
        if clusters is not None:
            self._under_diffuse(clusters)
        self._refused = (self._statistics, len(fit.paths)) if clusters is None else None
        return clusters is not None

    def _were_refused(self, fit: Fit) -> bool:
        """Whether clusters around about as many paths were refused on the same statistics."""
        if self._refused is None:
            return False
        statistics, n_paths = self._refused
        return statistics is self._statistics and abs(len(fit.paths) - n_paths) <= _ALIKE * n_paths

    def moving_clusters(self, fit: Fit) -> MovingClusters | None:
        """Return the clusters around the paths of a block that moves, where there are any."""
        receiver, statistics = fit.problem.receiver, self._statistics
        if not self.settings.diffuse or receiver.beam_squint or receiver.whitening is not None:
            return None
        if statistics.missing is not None or fit.problem.noise_precision * NEGLIGIBLE_NOISE >= 1:
            return None
        if not MovingClusters.may_surround(fit):
            return None
        if MovingClusters.too_many(fit, statistics):
            self.warnings.append(_TOO_MANY_CELLS)
            return None
        return MovingClusters.shown(fit, statistics, self._cluster_shape)

    def _noise_between_paths(self, residual: Residual) -> float:
        """Noise variance that a diffuse part begins with."""
        if self.working.problem.noise_known:
            return 1 / self.working.problem.noise_precision
        return min(spectrum.noise_level for spectrum in residual.spectra)

    @cached_property
    def _cluster_shape(self) -> ClusterShape:
        """What clusters look like on the array."""
        return ClusterShape.of(self.obs.array)

    def _give_up_diffuse(self) -> None:
        """Go on without a diffuse part."""
        if self.diffuse is None:
            return
        quiet = replace(self.working.problem, noise_precision=1 / self.diffuse.noise_variance)
        self.diffuse, self.working = None, self.working.with_problem(quiet)
        self._take_statistics()
        self.working = self.working.learn_noise()

    def _renew_diffuse(self) -> None:
        """Renew the diffuse part; its profile anew where there are data for the first time."""
        diffuse, anew = self.diffuse, self._profile_is_of_pilots
        if diffuse is None:
            return
        statistics, noise = self._statistics, diffuse.noise_variance
        if isinstance(diffuse, Clusters):
            fit, _, _ = self.working.active_fit()
            if anew:
                self._under_diffuse(Clusters.start(fit, statistics, self._cluster_shape, noise))
            else:
                self._under_diffuse(diffuse.renewed(fit, statistics, self.search))
        elif anew:
            self._under_diffuse(Diffuse.start(self.working.fit, statistics, self.search, noise))
        else:
            self._under_diffuse(diffuse.renewed(self.working.fit, statistics, self.search))
        self._profile_is_of_pilots = False

    def _under_diffuse(self, diffuse: Diffuse | Clusters) -> None:
        """Take over a diffuse part; what it adds to the noise at the delays of paths is noise to them."""
        self.diffuse = diffuse
        working = self.working
        noise = diffuse.paths_noise(working.fit, working.active)
        self.working = working.with_problem(replace(working.problem, noise_precision=1 / noise))

    def _channel_move(self, before: NDArray[np.complex128] | None) -> float:
        """Change of the channel in units of its stated error; infinite where clusters are new."""
        if before is None or self.diffuse is None:
            return np.inf
        variance = self.block.scale**2 * float(np.sum(self.diffuse.entry_variance)) * before[0].size
        return float(np.linalg.norm(self.channel() - before) / np.sqrt(max(variance, 1e-300)))
