"""What a scene leaves unexplained, and how much work a block may cost that the model does not fit.

docs/theory.md, section 6.5.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from isac_toolbox.estimators.doppler_search import DopplerSearch
from isac_toolbox.estimators.scene.clusters import Clusters
from isac_toolbox.estimators.scene.diffuse import Diffuse
from isac_toolbox.estimators.scene.fit import Fit, residual_correlation, residual_over_time
from isac_toolbox.estimators.scene.working_set import WorkingSet
from isac_toolbox.estimators.search import PathSearch, Spectrum, beside
from isac_toolbox.inference.turbo import Deadline

__all__ = ["Residual", "Work", "spectra_of"]

RealArray = NDArray[np.float64]
ComplexArray = NDArray[np.complex128]
IntArray = NDArray[np.int64]

# Cost cap: trials that a run may have at the size it starts from, however few its samples are.
_LEAST_TRIALS = 12
# Cost cap: refined trials for one move; those that succeed are among the first five in fitting blocks.
_MAX_TRIALS = 8
# Cost cap: the same for a kind of move that brought nothing in the search before.
_FEW_TRIALS = 2
# Cost cap: births of a user that a run may have beside doubling what its first search finds.
_BIRTHS_PER_USER = 8


def spectra_of(fit: Fit, search: PathSearch) -> list[Spectrum]:
    """Return the spectra of what the paths of a fit leave, over Doppler shifts where the search is."""
    return _spectra(fit, search, None)


def _spectra(fit: Fit, search: PathSearch, correlation: ComplexArray | None) -> list[Spectrum]:
    """Spectra of what is left, of the residual correlation (K, N, M) where it is there already."""
    energies, frames = fit.problem.user_energies, fit.problem.statistics.frames
    if isinstance(search, DopplerSearch) and frames is not None:
        return [*search.spectra_over_time(residual_over_time(fit), frames, energies)]
    return search.spectra(residual_correlation(fit) if correlation is None else correlation, energies)


@dataclass(frozen=True, eq=False)
class Residual:
    """What a working set leaves of the block, as a search for paths sees it.

    Attributes
    ----------
    search : PathSearch
    correlation : ndarray of complex, shape (K, N, M)
    spectra : sequence of Spectrum
        Of the users.
    level : float
        Of the noise in the spectra.
    diffuse : Diffuse, optional
        Diffuse part by which the spectra are divided, so that it counts as noise at its lengths.
    """

    search: PathSearch
    correlation: ComplexArray
    spectra: Sequence[Spectrum]
    level: float
    diffuse: Diffuse | Clusters | None = None

    @classmethod
    def of(cls, working: WorkingSet, search: PathSearch) -> Residual:
        """Return what the mean channel of a working set leaves."""
        problem = working.problem
        correlation = residual_correlation(working.fit)
        spectra = _spectra(working.fit, search, correlation)
        median = float(np.median([spectrum.noise_level for spectrum in spectra]))
        return cls(search, correlation, spectra, max(median, 1 / problem.noise_precision))

    @cached_property
    def shows_diffuse(self) -> bool:
        """Whether power over all directions at some lengths rises above the noise."""
        return self.search.shows_diffuse(self.spectra)

    def beside(self, diffuse: Diffuse | Clusters) -> Residual:
        """Return the same where a diffuse part counts as noise: paths have to exceed both together."""
        return replace(self, level=diffuse.noise_variance, diffuse=diffuse)

    @cached_property
    def _rises(self) -> RealArray | None:
        """How far the diffuse part rises above the noise in the spectra; None where it is not known."""
        return None if self.diffuse is None else self.diffuse.rises(self.search)

    def detect(self, false_alarm_rate: float, room: int) -> tuple[RealArray, IntArray]:
        """Return the paths (P, 3) above noise and surroundings, so many per user at most, and users (P,)."""
        rooms = np.full(len(self.spectra), room)
        found, user, _ = self.search.detect_in(
            self.spectra, false_alarm_rate, rooms, noise_level=self.level, rises=self._rises
        )
        return found, user

    def doppler_hz(self, found: RealArray, user: IntArray) -> RealArray | None:
        """Return the Doppler shifts of paths found, None where they turn as their users do."""
        if isinstance(self.search, DopplerSearch):
            return self.search.shifts_at([*self.spectra], found, user)
        return None

    def n_peaks(self, false_alarm_rate: float) -> int:
        """Return how many peaks rise above the noise, whatever their surroundings."""
        threshold, rises = self.search.threshold(self.level, false_alarm_rate), self._rises
        powers = [spectrum.power for spectrum in self.spectra]
        if rises is not None:
            powers = [beside(power, rise) for power, rise in zip(powers, rises, strict=True)]
        return sum(len(self.search.peaks(power, threshold)) for power in powers)

    def excess(self, fit: Fit, paths: IntArray) -> float:
        """Return how far the surroundings of some paths of a fit rise above the noise, at least 1."""
        parameters = np.column_stack([fit.parameters.length_m, *fit.parameters.cosines])[paths]
        users = fit.paths.user[paths]
        level = 1 / fit.problem.noise_precision if isinstance(self.diffuse, Diffuse) else self.level
        highest = max(
            float(self.search.excess(self.spectra[k].power, parameters[users == k], level).max())
            for k in np.unique(users)
        )
        if not isinstance(self.diffuse, Diffuse):
            return highest
        return max(highest, float(self.diffuse.noise_at(fit)[paths].max()) / level)


@dataclass(eq=False)
class Work:
    """Work that a run may still do for its structure; without limit until its size is known.

    A trial costs the pairs of paths that it looks at. Together they may be as many as the samples of the
    block, which every iteration looks at; so the search for structure takes no more than a few iterations.

    Attributes
    ----------
    deadline : Deadline
        Asked before every trial.
    pairs, births : int, optional
        Pairs of paths and births that are left.
    exhausted : bool
        Whether more was wanted than was left.
    idle : set
        Kinds of moves that brought nothing in the search before.
    """

    deadline: Deadline = field(default_factory=Deadline)
    pairs: int | None = None
    births: int | None = None
    exhausted: bool = False
    idle: set[Hashable] = field(default_factory=set)

    def allow(self, n_samples: int, working: WorkingSet) -> None:
        """Set the limits, once, from the size of the block and what the first search starts from."""
        if self.pairs is None:
            _, _, n_paths = working.counts
            self.pairs = max(n_samples, _LEAST_TRIALS * n_paths**2)
            self.births = n_paths + _BIRTHS_PER_USER * working.n_users

    def patience(self, kind: Hashable) -> int:
        """Return the trials that one move of a kind may take."""
        return _FEW_TRIALS if kind in self.idle else _MAX_TRIALS

    def learn(self, kind: Hashable, found: bool) -> None:
        """Remember whether a search found a move of a kind."""
        if found:
            self.idle.discard(kind)
        else:
            self.idle.add(kind)

    def may_try(self, n_paths: int) -> bool:
        """Take a trial with so many paths; return whether it may be made."""
        if self.deadline.reached():
            return False
        if self.pairs is None:
            return True
        if self.pairs < n_paths**2:
            self.exhausted = True
            return False
        self.pairs -= n_paths**2
        return True

    def take_births(self, wanted: int) -> int:
        """Take births; return how many there were."""
        if self.births is None:
            return wanted
        given = min(wanted, self.births)
        self.exhausted |= given < wanted
        self.births -= given
        return given
