"""How a run of EM-Turbo-BiSVBI begins: the coarse stage, or a scene that is expected.

docs/theory.md, sections 7 and 7.8.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from isac_toolbox.estimators.coarse.acquire import acquired, data_residual, doppler_search
from isac_toolbox.estimators.coarse.panels import with_first_phases
from isac_toolbox.estimators.coarse.start import coarse_working_set
from isac_toolbox.estimators.scene.derotation import derotated, mean_doppler_hz
from isac_toolbox.estimators.scene.first import ExpectedScene, expected_shifts_hz, first_working_set
from isac_toolbox.estimators.scene.loop import SceneLoop
from isac_toolbox.estimators.scene.problem import Problem
from isac_toolbox.estimators.scene.silence import SilenceWatch
from isac_toolbox.estimators.scene.working_set import WorkingSet
from isac_toolbox.estimators.symbols.elements import ElementErrors

__all__ = ["BiSVBISettings", "Decoder", "StartedLoop"]

#: From LLRs of all bits (K, N, T, bits) to extrinsic LLRs of the same.
Decoder: TypeAlias = Callable[[NDArray[np.float64]], NDArray[np.float64]]

RealArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

# Guard: what the data leave, relative to the noise, above which users may turn by other shifts than found;
# shifts from pilots alone are not exact, and leave less.
_BAD_DATA = 1.15
# Guard: share of it that another shift has to leave at most.
_BETTER_DATA = 0.9


class BiSVBISettings(Protocol):
    """What the loop reads of :class:`~isac_toolbox.estimators.bisvbi.EMTurboBiSVBI`."""

    @property
    def coarse(self) -> str: ...
    @property
    def rule(self) -> str: ...
    @property
    def m_step(self) -> str: ...
    @property
    def inverse(self) -> str: ...
    @property
    def grid_points(self) -> int: ...
    @property
    def data_aided(self) -> bool: ...
    @property
    def unlocated_paths(self) -> bool: ...
    @property
    def diffuse(self) -> bool: ...
    @property
    def dtype(self) -> str: ...
    @property
    def max_iter(self) -> int: ...
    @property
    def burn_in(self) -> int: ...
    @property
    def tol(self) -> float: ...
    @property
    def false_alarm_rate(self) -> float: ...
    @property
    def max_seconds(self) -> float | None: ...
    @property
    def decoder(self) -> Decoder | None: ...


class StartedLoop(SceneLoop):
    """A loop that has a first working set, and what the pilots tell of the block."""

    settings: BiSVBISettings
    _expected: ExpectedScene | None
    _pilots: Problem
    _coarse_noise_variance: float
    _coarse_warnings: list[str]
    _undecided_shifts: list[int]

    def _coarse(self, pilots: Problem, watch: SilenceWatch | None) -> WorkingSet:
        """The first working set, by the coarse stage or as expected; what it says is kept."""
        if self._expected is not None:
            return self._as_expected(self._expected)
        if self.obs.motion is None:
            return self._coarse_on(self._with_phases_of_panels(pilots), watch)
        self.block, others = acquired(
            pilots, self.block, self.search, self.settings.false_alarm_rate, self.settings.data_aided
        )
        self.search = doppler_search(self.obs, self.block, self.search) or self.search
        self.working = self._coarse_on(self._on_pilots(pilots.elements), watch)
        if self.settings.data_aided and np.any(~self.block.known):
            if watch is None or watch.found is None:
                self._try_other_shifts(others, watch)
        else:
            self._undecided_shifts = [k for k, shifts in enumerate(others) if shifts.size]
        return self.working

    def _with_phases_of_panels(self, pilots: Problem) -> Problem:
        """The problem on the pilots with first phases of panels, where they are not known."""
        if pilots.elements is None:
            return pilots
        elements = with_first_phases(
            pilots.elements, self.obs, self.block, self.settings.false_alarm_rate, self.deadline
        )
        if elements is pilots.elements:
            return pilots
        self.block = self.block.with_response(elements.response)
        return self._on_pilots(elements)

    def _on_pilots(self, elements: ElementErrors | None) -> Problem:
        """The problem on the pilots of the block as it is."""
        return Problem.on_pilots(self.obs, self.block, elements)

    def _as_expected(self, expected: ExpectedScene) -> WorkingSet:
        """The first working set of an expected scene, on the pilots."""
        derotation = self.block.derotation
        if derotation is not None:
            turned = replace(derotation, doppler_hz=expected_shifts_hz(expected, self.obs))
            self.block = derotated(self.block, turned)
            self.search = doppler_search(self.obs, self.block, self.search) or self.search
        pilots = Problem.on_pilots(self.obs, self.block)
        self._pilots = pilots.with_statistics(pilots.statistics.stored_as(self.settings.dtype))
        self.search = self.search.covering(self._pilots.statistics.cross_correlation)
        self._coarse_warnings = []
        self._coarse_noise_variance = expected.noise_variance
        return first_working_set(expected, self._pilots, self.block, self.settings.rule)

    def _try_other_shifts(self, others: list[RealArray], watch: SilenceWatch | None) -> None:
        """Take other shifts of users that their pilots allow where these explain the data better.

        Nothing is tried where the data leave hardly more than noise.
        """
        if not any(shifts.size for shifts in others):
            return
        misfit = self._data_misfit()
        for user in self._by_doubt():
            for shift in others[user]:
                if misfit < _BAD_DATA or self.deadline.reached():
                    return
                before = self.block, self.working, self._pilots, self._coarse_noise_variance
                elements = self._pilots.elements
                doppler = mean_doppler_hz(self.working.fit)
                doppler[user] = shift
                assert self.block.derotation is not None
                self.block = derotated(self.block, replace(self.block.derotation, doppler_hz=doppler))
                self.working = self._coarse_on(self._on_pilots(elements), watch)
                trial = self._data_misfit()
                if trial < _BETTER_DATA * misfit:
                    misfit = trial
                else:
                    self.block, self.working, self._pilots, self._coarse_noise_variance = before

    def _by_doubt(self) -> IntArray:
        """Users in the order of how uncertain their data are."""
        variance = np.mean(self.detect().moments.variance, axis=(1, 2))
        return np.argsort(-variance, kind="stable")

    def _data_misfit(self) -> float:
        """What paths and detected data leave, relative to the noise; one without data."""
        if not np.any(~self.block.known):
            return 1.0
        noise = 1 / self.working.problem.noise_precision
        return data_residual(self.working.fit, self.block, self.detect()) / noise

    def _coarse_on(self, pilots: Problem, watch: SilenceWatch | None) -> WorkingSet:
        """The first working set from a problem on the pilots; what it says is kept."""
        settings = self.settings
        self._pilots = pilots.with_statistics(pilots.statistics.stored_as(settings.dtype))
        self.search = self.search.covering(self._pilots.statistics.cross_correlation)
        coarse = coarse_working_set(
            settings.coarse,
            self.obs,
            self._pilots,
            self.search,
            settings.rule,
            settings.unlocated_paths,
            settings.false_alarm_rate,
            self.deadline,
            watch,
        )
        self._coarse_warnings = coarse.warnings
        self._coarse_noise_variance = self.block.scale**2 * coarse.noise_level
        return coarse.working
