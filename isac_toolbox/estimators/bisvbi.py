"""EM-Turbo-BiSVBI: joint sensing, channel estimation and data detection from one block.

After Liu, Xu, Xu and Caire, arXiv:2502.00811; docs/theory.md, sections 3 to 7.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from isac_toolbox._choices import DTYPES, M_STEPS
from isac_toolbox._threads import bounded_threads
from isac_toolbox._validation import (
    as_array,
    check_choice,
    check_flag,
    check_fraction,
    check_integer,
    check_positive,
    check_shape,
)
from isac_toolbox.channel.atoms.dense import Statistics
from isac_toolbox.channel.atoms.scene import Scene
from isac_toolbox.channel.hardware import HARDWARE_FIELDS
from isac_toolbox.channel.observation import UplinkObservation
from isac_toolbox.estimators.baselines.least_squares import LeastSquares
from isac_toolbox.estimators.coarse.acquire import acquired, data_residual, doppler_search
from isac_toolbox.estimators.coarse.start import COARSE_STAGES, NO_PEAKS, coarse_working_set
from isac_toolbox.estimators.fallback import better_of, failed_over
from isac_toolbox.estimators.grid.e_step import INVERSES, make_e_step
from isac_toolbox.estimators.memory import peak_bytes
from isac_toolbox.estimators.result import EstimationResult
from isac_toolbox.estimators.scene.derotation import derotated, mean_doppler_hz
from isac_toolbox.estimators.scene.diffuse import Diffuse
from isac_toolbox.estimators.scene.first import ExpectedScene, expected_shifts_hz, first_working_set
from isac_toolbox.estimators.scene.fit import learned_elements
from isac_toolbox.estimators.scene.loop import SceneLoop
from isac_toolbox.estimators.scene.misfit import Residual, Work
from isac_toolbox.estimators.scene.moving import with_movers
from isac_toolbox.estimators.scene.phases import phases_of
from isac_toolbox.estimators.scene.problem import Problem
from isac_toolbox.estimators.scene.refine import gradient_steps, refine
from isac_toolbox.estimators.scene.schedule import StructureSchedule
from isac_toolbox.estimators.scene.silence import SilenceWatch
from isac_toolbox.estimators.scene.squint import SQUINT_NATS, shows_squint
from isac_toolbox.estimators.scene.structure import absorb_duplicates, give_birth, merge_points, split_points
from isac_toolbox.estimators.scene.working_set import WorkingSet
from isac_toolbox.estimators.symbols.block import ReceivedBlock
from isac_toolbox.estimators.symbols.elements import ElementErrors
from isac_toolbox.estimators.symbols.phases import PhasePrior
from isac_toolbox.estimators.symbols.statistics import SymbolMoments, data_statistics, pilot_statistics
from isac_toolbox.inference.hierarchy import RULES
from isac_toolbox.inference.turbo import FAILED, STOPPED, TIME_LIMIT, Callback, Deadline

__all__ = ["M_STEPS", "BiSVBILoop", "Decoder", "EMTurboBiSVBI"]

#: From LLRs of all bits (K, N, T, bits) to extrinsic LLRs of the same.
Decoder: TypeAlias = Callable[[NDArray[np.float64]], NDArray[np.float64]]


RealArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

# Tuned: sweeps of an E-step; after three the support hardly changes.
_SWEEPS = 3
# Tuned: steps of an M-step.
_STEPS = {"gauss_newton": 2, "gradient": 3}
# Tuned: deviations by which the misfit of the pilots may rise before the data are given up.
_CONTRADICTION_STDS = 8.0
# Tuned: parameters for which one of a diffuse part counts, as its profile is fitted too; 1.25 are measured.
_PROFILE_OPTIMISM = 1.5
# Tuned: noise relative to that of the coarse stage (0.5 dB) above which least squares is tried as well.
_BAD_FIT = 1.12
# Guard: noise relative to the samples' power (-70 dB) below which any fit is good.
_NEGLIGIBLE_NOISE = 1e-7
# Guard: of a bit that a decoder is sure of; keeps logarithms of probabilities finite.
_MOST_LLR = 40.0
# Cost cap: iterations after a run has spent its work on structure; paths made by a misfit never rest.
_LAST_ITERATIONS = 3
# Guard: what the data leave, relative to the noise, above which users may turn by other shifts than found;
# shifts from pilots alone are not exact, and leave less.
_BAD_DATA = 1.15
# Guard: share of it that another shift has to leave at most.
_BETTER_DATA = 0.9


# Tuned: rounds in which elements and gains are fitted in turn in an iteration.
_CALIBRATIONS = 3
# Tuned: resolution cells for which a relative change of an element's response counts.
_ELEMENT_CELLS = 0.1


# Guard: settings that can do without places have this value.
_NEED_NO_PLACES = (("coarse", "nomp"), ("inverse", "subspace"), ("unlocated_paths", True))

_NO_STATIC_PEAKS = (
    "symbol_times_s: MUSIC takes the block as static, so NOMP was the coarse stage instead of coarse='music'"
)
_UNDECIDED_SHIFTS = (
    "symbol_times_s: the pilots of user(s) {users} look the same at several Doppler shifts, of which the "
    "prior chose without the help of data; velocities and frequency offsets may be wrong; pilots closer in "
    "time tell"
)
_SQUINT = "the samples show beam squint, which was taken into account; pass beam_squint=True"
_DATA_REFUSED = (
    "the detected data contradict the pilots, so the scene was estimated from the pilots alone; the channel "
    "may change within the block (motion, frequency offsets), or the SNR be too low for the constellation"
)
_OUT_OF_TIME = (
    "the detected data contradict the pilots, and the run ended before the scene was estimated from the "
    "pilots alone; channel and scene may be wrong"
)
_DIFFUSE = (
    "{db:.0f} dB of the channel's power come from many directions at once and are in the channel, but in no "
    "path: diffuse scattering, or the model does not fit (calibration of the array, distortion, motion); the "
    "stated errors of scatterers count it as noise"
)
_UNEXPLAINED = (
    "{paths} remain unexplained; the model does not fit: calibration of the array, dead elements or "
    "subcarriers, order of the subcarriers, wavefront, distortion by amplifiers or converters, motion, or "
    "diffuse scattering; the stated errors hold for a model that fits"
)


@dataclass(frozen=True)
class EMTurboBiSVBI:
    """Scatterers, users, clocks, channel and data of one block by EM-Turbo-BiSVBI.

    Parameters
    ----------
    coarse : {"nomp", "music"}
        Coarse stage that finds the starting scene. A linear array's location spectrum has no peaks, and MUSIC
        takes a block as static: ``"music"`` gives way to ``"nomp"`` there, with a warning.
    rule : {"extrinsic", "structured", "mean_field"}
        Update rule of the sparse prior.
    m_step : {"gauss_newton", "gradient"}
        Refinement of positions and clocks: joint Levenberg-Marquardt, or gradient steps block by block.
    inverse : {"subspace", "full", "mm"}
        E-step: on the working set alone, or on every point of a grid over the region as well, either by
        one full inverse a sweep or inverse-free by majorisation-minimisation. The last two are baselines:
        they cost far more and need ``O((K grid_points)^2)`` (``"full"``) or ``O(K grid_points)`` memory.
    grid_points : int
        About how many points that grid has; of no effect with ``inverse="subspace"``.
    decoder : callable, optional
        What the code says of the data: called in every iteration that uses data, with the LLRs of all bits
        (K, N, T, bits), ``ln P(0) / P(1)``, zero at pilots and without what it said itself, it returns its
        extrinsic LLRs of the same bits in the same shape, zero where it says nothing. They are the priors of
        the symbols in the next detection. The ``llr`` of the result are those that it would be given next.
    data_aided : bool
        Feed soft symbols back after the pilot-only burn-in. Where the outcome contradicts the pilots
        (wrong decisions that confirmed themselves), the block is estimated again without.
    unlocated_paths : bool
        Allow paths that no single-bounce point in the region explains. Points that are more likely of
        several bounces are listed as unlocated paths in either case.
    diffuse : bool
        Allow a diffuse part of the channel where the samples show one: white over the array, with a
        power-delay profile learned for every user.
    dtype : {"complex128", "complex64"}
        Precision in which the block's correlations and their tables are kept; all sums are in double
        precision. Single precision halves the largest arrays and adds an error of -140 dB of the channel.
    n_threads : int, optional
        Largest number of threads of BLAS and of the Fourier transforms; one if not given, which is fastest at
        most sizes and right beside other processes.
    max_iter : int
        Largest number of iterations.
    max_seconds : float, optional
        Time for the iterations and what precedes them; no limit if not given. When it is over, also inside an
        iteration, the result is made of what there is, with the status ``"time limit"``.
    burn_in : int
        Pilot-only iterations before data are used.
    tol : float
        Converged when no point moves by more than this share of a resolution cell in two successive
        iterations and the structure is settled.
    false_alarm_rate : float
        Of a search for new paths, per user and search, in (0, 1); also of the NOMP coarse stage.

    Raises
    ------
    TypeError, ValueError
        For a setting that does not exist or is out of range.

    Notes
    -----
    Source: arXiv:2502.00811; docs/theory.md, sections 3 to 7. The estimator is deterministic.

    Examples
    --------
    >>> import isac_toolbox as isac
    >>> sim = isac.Scenario.load("urban_uplink").simulate(seed=0)
    >>> res = isac.EMTurboBiSVBI().estimate(sim.observation)
    >>> res.status, len(res.scatterer_positions_m)
    ('converged', 8)
    >>> isac.metrics.channel_nmse_db(res.channel, sim.truth.channel) < -46
    True
    """

    coarse: str = "nomp"
    rule: str = "extrinsic"
    m_step: str = "gauss_newton"
    inverse: str = "subspace"
    grid_points: int = 1024
    data_aided: bool = True
    unlocated_paths: bool = True
    diffuse: bool = True
    dtype: str = "complex128"
    max_iter: int = 30
    burn_in: int = 3
    tol: float = 1e-4
    n_threads: int | None = None
    false_alarm_rate: float = 1e-2
    max_seconds: float | None = None
    decoder: Decoder | None = None

    def __post_init__(self) -> None:
        choices = (
            ("coarse", COARSE_STAGES),
            ("rule", RULES),
            ("m_step", M_STEPS),
            ("inverse", INVERSES),
            ("dtype", DTYPES),
        )
        for name, allowed in choices:
            check_choice(name, getattr(self, name), allowed)
        for name in ("data_aided", "unlocated_paths", "diffuse"):
            check_flag(name, getattr(self, name))
        check_integer("grid_points", self.grid_points, 1)
        check_integer("max_iter", self.max_iter, 1)
        check_integer("burn_in", self.burn_in, 1)
        check_positive("tol", self.tol)
        check_fraction("false_alarm_rate", self.false_alarm_rate)
        if self.n_threads is not None:
            check_integer("n_threads", self.n_threads, 1)
        if self.max_seconds is not None:
            check_positive("max_seconds", self.max_seconds)
        if self.decoder is not None:
            if not callable(self.decoder):
                raise TypeError(f"decoder must be callable with LLRs, got {type(self.decoder).__name__}")
            if not self.data_aided:
                raise ValueError("decoder needs data_aided=True, as data are not used otherwise")

    def memory_usage(self, obs: UplinkObservation) -> int:
        """Return the peak memory in bytes of :meth:`estimate` beside the observation, to a factor of two.

        The number of paths is not known beforehand; 24 per user are assumed.

        Parameters
        ----------
        obs : UplinkObservation

        Returns
        -------
        int

        Raises
        ------
        TypeError
            If ``obs`` is not an observation.
        """
        if not isinstance(obs, UplinkObservation):
            raise TypeError(f"obs must be an UplinkObservation, got {type(obs).__name__}")
        return peak_bytes(obs, self.dtype, self.inverse, self.grid_points)

    def estimate(
        self,
        obs: UplinkObservation,
        *,
        callback: Callback | None = None,
        expected: ExpectedScene | None = None,
    ) -> EstimationResult:
        """Estimate everything from one block.

        Parameters
        ----------
        obs : UplinkObservation
        callback : callable, optional
            Called with the loop (:class:`~isac_toolbox.inference.TurboLoop`) after every iteration, and once
            a second inside a longer one, between the changes of structure that it tries (``loop.n_iter`` then
            counts the iterations completed); a true return value stops.
        expected : ExpectedScene, optional
            Where the search starts, in the place of a coarse stage; :class:`~isac_toolbox.Tracker` predicts
            it. It is no prior, and where it explains the block badly the estimate is made from nothing.

        Returns
        -------
        EstimationResult
            ``status`` says why it stopped; it never holds NaN silently.

        Raises
        ------
        TypeError
            If ``obs`` is not an observation, or ``expected`` no expected scene.
        ValueError
            If a user has no usable pilot, ``grid_points`` are too many for a full inverse, settings need
            places (``unlocated_paths=False``, ``coarse="music"``, inverses on a grid) that are not given, or
            a block that moves has an inverse on a grid or misses single samples; if ``expected`` has another
            number of users, or the block no places or priors of hardware.
        """
        if expected is not None:
            _check_expected(expected, obs)
            found = self._from_expected(obs, callback, expected)
            if found is not None:
                return found
        try:
            loop, result = self._run(obs, callback)
        except np.linalg.LinAlgError:
            return failed_over(LeastSquares().estimate(obs), BiSVBILoop.name)
        if loop.shows_squint():
            loop, result = self._with_squint(loop, result, callback)
        if loop.fits_badly():
            with bounded_threads(self.n_threads or 1):
                return better_of(loop.obs, result, LeastSquares().estimate(loop.obs))
        return result

    def _from_expected(
        self, obs: UplinkObservation, callback: Callback | None, expected: ExpectedScene
    ) -> EstimationResult | None:
        """Run from an expected scene; None where it does not explain the block."""
        loop = BiSVBILoop(self, obs, expected)
        try:
            result = loop.run_bounded(callback, self.n_threads)
        except np.linalg.LinAlgError:
            return None
        if loop.status in (STOPPED, TIME_LIMIT):
            return result
        if loop.status == FAILED or loop.fits_badly() or (self.data_aided and loop.contradicts_pilots()):
            return None
        return result

    def _run(self, obs: UplinkObservation, callback: Callback | None) -> tuple[BiSVBILoop, EstimationResult]:
        """Run on pilots and data, and where these contradict each other once more on the pilots alone."""
        loop = BiSVBILoop(self, obs)
        result = loop.run_bounded(callback, self.n_threads)
        if loop.status == STOPPED or not (self.data_aided and loop.contradicts_pilots()):
            return loop, result
        if loop.deadline.reached():
            return loop, replace(result, warnings=(*result.warnings, _OUT_OF_TIME))
        alone = BiSVBILoop(replace(self._within(loop.deadline), data_aided=False, decoder=None), obs)
        alone.warnings.append(_DATA_REFUSED)
        alone.doubts_data = True
        return alone, alone.run_bounded(callback, self.n_threads)

    def _with_squint(
        self, loop: BiSVBILoop, result: EstimationResult, callback: Callback | None
    ) -> tuple[BiSVBILoop, EstimationResult]:
        """Run with beam squint, and keep the outcome if it explains the samples better after all."""
        squinted = replace(loop.obs, beam_squint=True)
        try:
            other, found = self._within(loop.deadline)._run(squinted, callback)
        except np.linalg.LinAlgError:
            return loop, result
        if other.status == FAILED or not other.objective < loop.objective - SQUINT_NATS:
            return loop, result
        return other, replace(found, warnings=(_SQUINT, *found.warnings))

    def _within(self, deadline: Deadline) -> EMTurboBiSVBI:
        """The same estimator with the time that is left."""
        if self.max_seconds is None:
            return self
        return replace(self, max_seconds=max(deadline.seconds_left, 1e-3))


def _check_expected(expected: ExpectedScene, obs: UplinkObservation) -> None:
    """Refuse an expected scene that is none of this block's."""
    if not isinstance(expected, ExpectedScene):
        raise TypeError(f"expected must be an ExpectedScene, got {type(expected).__name__}")
    if not isinstance(obs, UplinkObservation):
        raise TypeError(f"obs must be an UplinkObservation, got {type(obs).__name__}")
    obs.geometry_for("expected")
    if obs.hardware is not None:
        given = [name for name in HARDWARE_FIELDS if getattr(obs, name) is not None]
        raise ValueError(f"expected must be None for a block with priors of its hardware, got {given}")
    if len(expected.user_positions_m) != obs.n_users:
        raise ValueError(
            f"expected must have the block's {obs.n_users} users, got {len(expected.user_positions_m)}"
        )


def _check_motion(settings: EMTurboBiSVBI, obs: UplinkObservation, block: ReceivedBlock) -> None:
    """Refuse what does not go together with a block that moves."""
    if obs.motion is None:
        return
    if settings.inverse != "subspace":
        raise ValueError(
            "inverse must be 'subspace' for a block that moves (symbol_times_s with priors of motion), whose "
            f"paths turn apart, got {settings.inverse!r}"
        )
    masks = block.masks
    if masks is not None and masks.samples is not None:
        whole = np.all(masks.samples | ~masks.elements[:, None], axis=1)
        n_cells = int(np.count_nonzero(masks.cells & ~whole))
        raise ValueError(
            "sample_mask must leave out whole resource elements, all antennas of a subcarrier and symbol, of "
            "a block that moves (symbol_times_s with priors of motion); mask antennas by element_mask: got "
            f"{n_cells} resource elements of which single samples are missing"
        )


def _statistics(block: ReceivedBlock, moments: SymbolMoments) -> Statistics:
    return data_statistics(block.received, moments, block.masks, block.derotation)


class BiSVBILoop(SceneLoop):
    """The iteration of :class:`EMTurboBiSVBI`: ``setup``, then ``step`` again and again, or ``run``."""

    name = "EM-Turbo-BiSVBI"
    follows_motion = True
    _pilots: Problem
    _coarse_noise_variance: float

    def __init__(
        self, settings: EMTurboBiSVBI, obs: UplinkObservation, expected: ExpectedScene | None = None
    ) -> None:
        super().__init__(obs, settings.max_iter, settings.tol, settings.max_seconds)
        self.settings = settings
        self._expected = expected
        for name, free in _NEED_NO_PLACES:
            if getattr(settings, name) != free:
                obs.geometry_for(f"{name}={getattr(settings, name)!r}")
        if settings.coarse == "music" and not all(obs.array.sees_cosines):
            self.warnings.append(f"{NO_PEAKS}, so NOMP was the coarse stage")
        elif settings.coarse == "music" and obs.motion is not None:
            self.warnings.append(_NO_STATIC_PEAKS)
        _check_motion(settings, obs, self.block)

    def setup(self) -> None:
        """Run the coarse stage on the pilots and make the first working set."""
        super().setup()
        settings = self.settings
        self.schedule = StructureSchedule() if self._expected is None else StructureSchedule(every=1)
        self.max_iter = settings.max_iter
        self._work = Work(self.deadline)
        self._n_unexplained = 0
        self._pilot_misfit: float | None = None
        self._undecided_shifts: list[int] = []
        self.start(self._coarse)
        self.warnings += self._coarse_warnings
        if self._undecided_shifts:
            self.warnings.append(_UNDECIDED_SHIFTS.format(users=self._undecided_shifts))
        motion = self.obs.motion
        self._phase_prior = None if motion is None else PhasePrior.of(motion)
        self._take_elements()
        self._divide_block()
        self._statistics = self._pilots.statistics
        self._profile_is_of_pilots = False
        self.diffuse = None
        self.prior_llr = None
        self._e_step = make_e_step(
            settings.inverse, self._pilots.region_m, settings.grid_points, self.obs.n_users
        )

    def _coarse(self, pilots: Problem, watch: SilenceWatch | None) -> WorkingSet:
        """The first working set, by the coarse stage or as expected; what it says is kept."""
        if self._expected is not None:
            return self._as_expected(self._expected)
        if self.obs.motion is None:
            return self._coarse_on(pilots, watch)
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
        self._coarse_warnings: list[str] = []
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

    def step(self) -> None:
        """Do one EM iteration: data, E-step, noise, M-step, structure."""
        if not self.settings.data_aided and self.block.derotation is not None:
            self._use_turned_pilots()
        if self._uses_data:
            if self._pilot_misfit is None:
                self._pilot_misfit = self._misfit_on_pilots()
                self._n_determined = self._n_determined_by_diffuse()
                self.search = self.search.on_all_tones()
                self._profile_is_of_pilots = True
            self._use_data()
        self.working = self.working.completed()
        if self._uses_data or not self.settings.data_aided:
            self.schedule = self.schedule.on_all_data()
        self.working = self._e_step(self.working, _SWEEPS).learn_noise()
        self._renew_diffuse()
        self._turn_around_users()
        before = self.working.fit.scene
        if not self.deadline.reached():
            self._m_step()
        changed = self._calibrate()
        self.change = max(self._largest_move(before), _ELEMENT_CELLS * changed)
        self._revise_structure()
        self.record()

    @property
    def _uses_data(self) -> bool:
        burn_in = self.settings.burn_in if self._expected is None else 0
        return self.settings.data_aided and self.n_iter >= burn_in

    def _use_data(self) -> None:
        """Put the pilots' and the soft data symbols' statistics in the place of the present ones."""
        if self.block.derotation is not None:
            self._turn()
        if self.settings.decoder is not None:
            self._ask_decoder(self.settings.decoder)
        moments = self.detect(self._with_data).moments
        statistics = self._known + _statistics(self._with_data, moments)
        self._statistics = statistics.stored_as(self.settings.dtype)
        self._take_statistics()

    def _use_turned_pilots(self) -> None:
        """Put the pilots' statistics, turned back as they are known by now, in the place of the present."""
        self._turn()
        self._statistics = pilot_statistics(self.block).stored_as(self.settings.dtype)
        self._take_statistics()

    def _turn(self) -> None:
        """Turn the symbols back by the present Doppler shifts and phases, and make their statistics anew."""
        fit, derotation = self.working.fit, self.block.derotation
        assert derotation is not None
        derotation = replace(derotation, doppler_hz=mean_doppler_hz(fit))
        self.block = derotated(self.block, derotation)
        if self._phase_prior is not None:
            moments = self._present_symbols()
            used = np.max(moments.variance, axis=0) < 0.5
            if self.block.masks is not None:
                used &= self.block.masks.cells
            derotation, _ = phases_of(self._phase_prior, fit, self.block, moments, used)
            self.block = derotated(self.block, derotation)
        self._divide_block()

    def _present_symbols(self) -> SymbolMoments:
        """All symbols as detected; without use of data the pilots, and nothing known of the others."""
        if self.settings.data_aided:
            return self.detect().moments
        return SymbolMoments(self.block.pilots, np.where(self.block.known, 0.0, 1.0))

    def _take_elements(self) -> None:
        """Divide the block by the elements' responses that the coarse stage learned."""
        elements = self.working.problem.elements
        if elements is None:
            return
        self.block = self.block.with_response(elements.response)
        self._pilots = self._on_pilots(elements)
        problem = replace(self._pilots, noise_precision=self.working.problem.noise_precision)
        self.working = self.working.with_problem(replace(problem, prior=self.working.problem.prior))

    def _turn_around_users(self) -> None:
        """Take a turn of the array to be linear around the present places of the users."""
        problem = self.working.problem
        turn = problem.prior.turn
        if turn is not None:
            prior = replace(problem.prior, turn=turn.around(self.working.fit.scene.users_m))
            self.working = self.working.with_problem(replace(problem, prior=prior))

    def _calibrate(self) -> float:
        """Learn the elements' responses from the present channel, and correct the block by them.

        Returns the largest relative change of one.
        """
        before = self.working.problem.elements
        if before is None:
            return 0.0
        elements = before
        for _ in range(_CALIBRATIONS):
            elements = learned_elements(self.working.active_fit()[0])
            self.working = self.working.with_problem(self.working.problem.calibrated(elements))
        self.block = self.block.with_response(elements.response)
        self._pilots = self._on_pilots(elements)
        self._divide_block()
        if not self._uses_data:
            self._statistics = self._pilots.statistics
            self._take_statistics()
        return float(np.max(np.abs(elements.log_response - before.log_response)))

    def _ask_decoder(self, decoder: Decoder) -> None:
        """Renew what the code says of the bits, from what the samples say of them."""
        block = self.block
        llr = np.zeros((*block.known.shape, self.obs.bits_per_symbol))
        llr[:, :, self._data_symbols] = self.detect(self._with_data).llr
        said = as_array("decoder: its LLRs", decoder(llr), float)
        check_shape("decoder: its LLRs", said, llr.shape, "(K, N, T, bits)")
        if np.any(np.isnan(said)):
            raise ValueError(f"decoder: its LLRs must be numbers, got {np.count_nonzero(np.isnan(said))} NaN")
        self.prior_llr = np.clip(said, -_MOST_LLR, _MOST_LLR)[:, :, self._data_symbols]

    def _take_statistics(self) -> None:
        """Fit the paths to the present statistics, without the diffuse parts of other users in them."""
        statistics = self._statistics
        if self.diffuse is not None and not statistics.users_decouple:
            crossing = self.diffuse.crossing(statistics.symbol_gram)
            statistics = replace(statistics, cross_correlation=statistics.cross_correlation - crossing)
        self.working = self.working.with_problem(self.working.problem.with_statistics(statistics))

    def _divide_block(self) -> None:
        """Statistics of the OFDM symbols that hold pilots alone, made once, and the block of the others."""
        pilots, self._with_data = self.block.divided()
        self._data_symbols = self.block.has_data
        certain = SymbolMoments(pilots.pilots, np.zeros(pilots.pilots.shape))
        self._known = _statistics(pilots, certain)

    def _misfit_on_pilots(self) -> float:
        """Squared residual of the pilots under the present channel."""
        fit = self.working.fit
        gains = fit.posterior.mean
        statistics = self._pilots.statistics
        if self.block.derotation is not None:
            statistics = pilot_statistics(self.block)
        if self.diffuse is not None:
            statistics = statistics.without(self.diffuse.mean)
        if statistics.missing is not None:
            statistics = statistics.completed(fit.atoms.synthesise(gains, self.working.n_users))
        fitted = 2 * np.vdot(gains, statistics.correlate(fit.atoms)).real
        return statistics.energy - float(fitted - np.vdot(gains, statistics.gram(fit.atoms) @ gains).real)

    def contradicts_pilots(self) -> bool:
        """Return whether the pilots fit much worse than before data were used.

        The pilot-only fit is better on the pilots by about half a nat per parameter even when the final
        channel is true; far more than that means that the data have led it astray.
        """
        if self._pilot_misfit is None:
            return False
        fit, _, _ = self.working.active_fit()
        n_parameters = float(2 * len(fit.paths) + fit.scene.n_parameters)
        determined = max(self._n_determined, self._n_determined_by_diffuse())
        n_parameters += _PROFILE_OPTIMISM * 2 * determined
        rise = (self._misfit_on_pilots() - self._pilot_misfit) / self._white_noise
        return rise > 0.5 * n_parameters + _CONTRADICTION_STDS * np.sqrt(0.5 * n_parameters)

    def _n_determined_by_diffuse(self) -> float:
        """Complex parameters of the diffuse part that the data in use determine."""
        return 0.0 if self.diffuse is None else self.diffuse.n_determined

    def shows_squint(self) -> bool:
        """Return whether beam squint, which the observation does not ask for, explains the samples better."""
        return self.status not in (STOPPED, TIME_LIMIT) and shows_squint(self.working.fit)

    def fits_badly(self) -> bool:
        """Return whether a finished scene leaves clearly more than the noise that the coarse stage found."""
        if self.status == STOPPED:
            return False
        if self.noise_variance <= _BAD_FIT * self._coarse_noise_variance:
            return False
        return self.noise_variance > _NEGLIGIBLE_NOISE * float(np.mean(np.abs(self.obs.received) ** 2))

    def _look_for_diffuse(self, residual: Residual) -> Residual:
        """Begin or give up a diffuse part as the residual says, and return the residual beside it."""
        problem = self.working.problem
        possible = self.settings.diffuse and problem.statistics.missing is None
        possible &= problem.statistics.frames is None
        possible &= problem.noise_precision * _NEGLIGIBLE_NOISE < 1
        if not (possible and self.search.shows_diffuse(residual.spectra)):
            if self.diffuse is not None:
                quiet = replace(problem, noise_precision=1 / self.diffuse.noise_variance)
                self.diffuse, self.working = None, self.working.with_problem(quiet)
                self._take_statistics()
                self.working = self.working.learn_noise()
            return residual
        if self.diffuse is None:
            noise = min(spectrum.noise_level for spectrum in residual.spectra)
            if problem.noise_known:
                noise = 1 / problem.noise_precision
            self._under_diffuse(Diffuse.start(self.working.fit, self._statistics, self.search, noise))
        assert self.diffuse is not None
        return residual.beside(self.diffuse)

    def _renew_diffuse(self) -> None:
        """Renew the diffuse part; its profile anew where there are data for the first time."""
        if self.diffuse is None:
            return
        fit, noise = self.working.fit, self.diffuse.noise_variance
        if self._profile_is_of_pilots:
            self._under_diffuse(Diffuse.start(fit, self._statistics, self.search, noise))
        else:
            self._under_diffuse(self.diffuse.renewed(fit, self._statistics, self.search))
        self._profile_is_of_pilots = False

    def _under_diffuse(self, diffuse: Diffuse) -> None:
        """Take over a diffuse part; what it adds to the noise at the delays of paths is noise to them."""
        self.diffuse = diffuse
        working = self.working
        seen = diffuse.noise_at(working.fit)[working.active]
        noise = float(seen.mean()) if seen.size else diffuse.noise_variance
        self.working = working.with_problem(replace(working.problem, noise_precision=1 / noise))

    def _m_step(self) -> None:
        n_steps = _STEPS[self.settings.m_step]
        move = refine if self.settings.m_step == "gauss_newton" else gradient_steps
        self.working = self.working.with_fit(move(self.working.fit, n_steps))
        if self.working.fit.scene.motion is not None:
            self.working = self.working.with_fit(with_movers(self.working.fit))

    def result(self) -> EstimationResult:
        """Return the result at the present state; it says what no path explains."""
        result = super().result()
        said = list(self._unexplained())
        if result.diffuse_power.any():
            share = float(
                result.diffuse_power.sum() / np.mean(np.abs(result.channel) ** 2, axis=(1, 2)).sum()
            )
            said.append(_DIFFUSE.format(db=10 * np.log10(share)))
        return replace(result, warnings=(*result.warnings, *said))

    def _unexplained(self) -> Iterator[str]:
        """What to say of paths that remain."""
        if self._n_unexplained or self._work.exhausted:
            paths = f"at least {self._n_unexplained} paths" if self._n_unexplained else "paths"
            yield _UNEXPLAINED.format(paths=paths)

    def _largest_move(self, before: Scene) -> float:
        old, new = before.points_m, self.working.fit.scene.points_m
        moved = np.linalg.norm(new - old, axis=1).max(initial=0.0)
        return float(moved / self.working.problem.length_cell_m)

    def _revise_structure(self) -> None:
        """Removal always; search when the schedule says so. The loop stays open until all is settled."""
        self.remove_rejected()
        if self.schedule.is_due(self.n_iter) and not self.deadline.reached():
            counts = self.working.counts
            if self.schedule.completes_cycle(counts):
                self.schedule = self.schedule.after_cycle()
            else:
                changed = self._search_structure()
                if changed:
                    self.working = self._e_step(self.working, 1)
                self.schedule = self.schedule.after_search(counts, changed)
        if self._work.exhausted and not self.schedule.settled:
            self.schedule = self.schedule.after_cycle()
            self.max_iter = min(self.max_iter, self.n_iter + 1 + _LAST_ITERATIONS)
        if not self.schedule.settled:
            self.change = np.inf

    def _search_structure(self) -> bool:
        """Births, splits, merges and duplicates absorbed; whether there was any."""
        settings, work = self.settings, self._work
        work.allow(self.obs.received.size, self.working)
        self.working = self.working.completed()
        residual = self._look_for_diffuse(Residual.of(self.working, self.search))
        n_before = self.working.n_points + len(self.working.unlocated_user)
        born = give_birth(self.working, residual, work, settings.false_alarm_rate, settings.unlocated_paths)
        if born is not None:
            placed = born.with_fit(refine(born.fit, n_steps=2))
            self.working = self._e_step(placed, _SWEEPS)
        changed = born is not None
        n_born = 0 if born is None else len(born.fit.scene.points_m) + len(born.unlocated_user) - n_before
        self._n_unexplained = max(residual.n_peaks(settings.false_alarm_rate) - n_born, 0)
        for move in (split_points, merge_points, absorb_duplicates):
            moved = move(self.working, residual, work)
            self.working = moved or self.working
            changed = changed or moved is not None
        return changed
