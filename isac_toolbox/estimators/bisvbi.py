"""EM-Turbo-BiSVBI: joint sensing, channel estimation and data detection from one block.

After Liu, Xu, Xu and Caire, arXiv:2502.00811; docs/theory.md, sections 3 to 7.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from isac_toolbox._choices import DTYPES, M_STEPS
from isac_toolbox._threads import bounded_threads
from isac_toolbox._validation import (
    check_choice,
    check_flag,
    check_fraction,
    check_integer,
    check_positive,
)
from isac_toolbox.channel.hardware import ESTIMATED_NOISE, HARDWARE_FIELDS
from isac_toolbox.channel.observation import UplinkObservation
from isac_toolbox.estimators.baselines.least_squares import LeastSquares
from isac_toolbox.estimators.bisvbi_loop import BiSVBILoop
from isac_toolbox.estimators.bisvbi_start import Decoder
from isac_toolbox.estimators.coarse.start import COARSE_STAGES
from isac_toolbox.estimators.fallback import better_of, failed_over
from isac_toolbox.estimators.grid.e_step import INVERSES
from isac_toolbox.estimators.many import ManyBlocks
from isac_toolbox.estimators.memory import peak_bytes
from isac_toolbox.estimators.refusals import decided_alike, turns
from isac_toolbox.estimators.result import EstimationResult
from isac_toolbox.estimators.scene.first import ExpectedScene
from isac_toolbox.estimators.scene.squint import SQUINT_NATS
from isac_toolbox.inference.hierarchy import RULES
from isac_toolbox.inference.turbo import FAILED, STOPPED, TIME_LIMIT, Callback, Deadline

__all__ = ["M_STEPS", "BiSVBILoop", "Decoder", "EMTurboBiSVBI"]

_SQUINT = "the samples show beam squint, which was taken into account; pass beam_squint=True"
_COLOUR = (
    "the noise is not white over the array (interferers, or noise that the antennas share), which was taken "
    "into account; pass noise_covariance='estimate'"
)
_DATA_REFUSED = (
    "the detected data contradict the pilots, so the scene was estimated from the pilots alone; the channel "
    "may change within the block (motion, frequency offsets), or the SNR be too low for the constellation"
)
_PILOTS_DISTORTED = (
    "the pilots contradict the data, whose decisions do not depend on how they are used: distorted pilots "
    "that repeat look like a channel (converters, clipping, amplifiers); the data were kept"
)
_OUT_OF_TIME = (
    "the detected data contradict the pilots, and the run ended before the scene was estimated from the "
    "pilots alone; channel and scene may be wrong"
)


@dataclass(frozen=True)
class EMTurboBiSVBI(ManyBlocks):
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
        power-delay profile learned for every user, or clusters around the directions of paths that crowd.
    dtype : {"complex128", "complex64"}
        Precision in which the block's correlations and their tables are kept; all sums are in double
        precision. Single precision halves the largest arrays and adds an error of -140 dB of the channel.
    n_threads : int, optional
        Largest number of threads that share users and subcarriers of a large block (of some 260,000 samples
        and more); one if not given, which is right beside other processes. The numbers are the same bits.
    max_iter : int
        Largest number of iterations.
    max_seconds : float, optional
        Time for the iterations and what precedes them; no limit if not given. When it is over, also inside an
        iteration, the result is made of what there is, with the status ``"time limit"``.
    burn_in : int
        Largest number of pilot-only iterations before data are used; fewer where the scene is at rest sooner.
    tol : float
        Converged when no point moves by more than this share of a resolution cell in two successive
        iterations and the structure is settled; also when the scene swings by less than a hundredth of
        a cell and comes back as near as that.
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
            Where the search starts, in the place of a coarse stage;
            :class:`~isac_toolbox.tracking.Tracker` predicts it. It is no prior, and where it explains the
            block badly the estimate is made from nothing.

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
        if loop.shows_colour(result):
            loop, result = self._with_colour(loop, result, callback)
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
        of_pilots = alone.run_bounded(callback, self.n_threads)
        if decided_alike(result, of_pilots) and not turns(result):
            return loop, replace(result, warnings=(*result.warnings, _PILOTS_DISTORTED))
        return alone, of_pilots

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

    def _with_colour(
        self, loop: BiSVBILoop, result: EstimationResult, callback: Callback | None
    ) -> tuple[BiSVBILoop, EstimationResult]:
        """Run with the shape of the noise learned, and keep the outcome if it fits no worse."""
        coloured = replace(loop.obs, noise_covariance=ESTIMATED_NOISE)
        try:
            with np.errstate(over="ignore", invalid="ignore"):  # what diverges is not taken
                other, found = self._within(loop.deadline)._run(coloured, callback)
        except np.linalg.LinAlgError:
            return loop, result
        assert result.misfit is not None
        if other.status in (FAILED, STOPPED, TIME_LIMIT) or found.misfit is None:
            return loop, result
        if len(found.misfit.failing) > len(result.misfit.failing) or other.fits_badly():
            return loop, result
        return other, replace(found, warnings=(_COLOUR, *found.warnings))

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
