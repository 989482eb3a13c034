"""The iteration of EM-Turbo-BiSVBI: data, E-step, noise, M-step, structure (docs/theory.md, 3 to 7)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from isac_toolbox._validation import (
    as_array,
    check_shape,
)
from isac_toolbox.channel.atoms.scene import Scene
from isac_toolbox.channel.observation import UplinkObservation
from isac_toolbox.estimators.bisvbi_diffuse import NEGLIGIBLE_NOISE, DiffuseLoop
from isac_toolbox.estimators.bisvbi_receiver import statistics_of
from isac_toolbox.estimators.bisvbi_start import BiSVBISettings, Decoder
from isac_toolbox.estimators.coarse.start import NO_PEAKS
from isac_toolbox.estimators.grid.e_step import make_e_step
from isac_toolbox.estimators.refusals import turns
from isac_toolbox.estimators.result import EstimationResult
from isac_toolbox.estimators.scene.clusters import Clusters
from isac_toolbox.estimators.scene.colour import (
    asks_for_colour,
    shows_colour,
    takes_colour,
)
from isac_toolbox.estimators.scene.first import ExpectedScene
from isac_toolbox.estimators.scene.misfit import Residual, Work
from isac_toolbox.estimators.scene.mixers import Mixers
from isac_toolbox.estimators.scene.moving import with_movers
from isac_toolbox.estimators.scene.refine import gradient_steps, refine
from isac_toolbox.estimators.scene.schedule import StructureSchedule
from isac_toolbox.estimators.scene.squint import shows_squint
from isac_toolbox.estimators.scene.structure import (
    absorb_duplicates,
    give_birth,
    merge_points,
    split_points,
    unlocate_points,
)
from isac_toolbox.estimators.symbols.block import ReceivedBlock
from isac_toolbox.estimators.symbols.coupling import Coupling
from isac_toolbox.estimators.symbols.phases import PhasePrior
from isac_toolbox.inference.turbo import STOPPED, TIME_LIMIT

__all__ = ["BiSVBILoop"]

RealArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

# Tuned: sweeps of an E-step; after three the support hardly changes.
_SWEEPS = 3
# Tuned: steps of an M-step.
_STEPS = {"gauss_newton": 2, "gradient": 3}
# Tuned: moves, in resolution cells, below which a scene that comes back every other iteration is at rest.
_SWING_CELLS = 1e-2
# Tuned: deviations by which the misfit of the pilots may rise before the data are given up.
_CONTRADICTION_STDS = 8.0
# Tuned: parameters for which one of a diffuse part counts, as its profile is fitted too; 1.25 are measured.
_PROFILE_OPTIMISM = 1.5
# Tuned: noise relative to that of the coarse stage (0.5 dB) above which least squares is tried as well.
_BAD_FIT = 1.12
# Guard: of a bit that a decoder is sure of; keeps logarithms of probabilities finite.
_MOST_LLR = 40.0
# Tuned: change of a channel with clusters, in units of its stated error, below which it is settled.
_SETTLED_CHANNEL = 0.1
# Cost cap: iterations after a run has spent its work on structure; paths made by a misfit never rest.
_LAST_ITERATIONS = 3
# Tuned: resolution cells for which a relative change of an element's response counts.
_ELEMENT_CELLS = 0.1
# Guard: settings that can do without places have this value.
_NEED_NO_PLACES = (("coarse", "nomp"), ("inverse", "subspace"), ("unlocated_paths", True))

_NO_STATIC_PEAKS = (
    "symbol_times_s: MUSIC takes the block as static, so NOMP was the coarse stage instead of coarse='music'"
)
_NO_WHITE_PEAKS = (
    "noise_covariance: MUSIC takes the noise as white, so NOMP was the coarse stage instead of coarse='music'"
)
_NO_COUPLED_PEAKS = (
    "coupling_std: MUSIC takes elements as not coupled, so NOMP was the coarse stage instead of "
    "coarse='music'"
)
_UNDECIDED_SHIFTS = (
    "symbol_times_s: the pilots of user(s) {users} look the same at several Doppler shifts, of which the "
    "prior chose without the help of data; velocities and frequency offsets may be wrong; pilots closer in "
    "time tell"
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


def _check_motion(settings: BiSVBISettings, obs: UplinkObservation, block: ReceivedBlock) -> None:
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


class BiSVBILoop(DiffuseLoop):
    """The iteration of ``EMTurboBiSVBI``: ``setup``, then ``step`` again and again, or ``run``."""

    name = "EM-Turbo-BiSVBI"
    follows_motion = True

    def __init__(
        self, settings: BiSVBISettings, obs: UplinkObservation, expected: ExpectedScene | None = None
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
        elif settings.coarse == "music" and asks_for_colour(obs):
            self.warnings.append(_NO_WHITE_PEAKS)
        elif settings.coarse == "music" and Coupling.of(obs) is not None:
            self.warnings.append(_NO_COUPLED_PEAKS)
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
        self._whitening_settled = False
        self._decided = self._refused = None
        self._earlier: Scene | None = None
        self._undecided_shifts = []
        self.start(self._coarse)
        self.warnings += self._coarse_warnings
        if self._undecided_shifts:
            self.warnings.append(_UNDECIDED_SHIFTS.format(users=self._undecided_shifts))
        motion = self.obs.motion
        self._phase_prior = None if motion is None else PhasePrior.of(motion)
        self._take_elements()
        self._divide_block()
        self._statistics = self._pilots.statistics
        if self._statistics.frames is not None:  # they are made anew as soon as the block turns otherwise
            self._pilots = self._pilots.with_statistics(replace(self._statistics, frames=None))
        self._profile_is_of_pilots = False
        self.diffuse = None
        self.mixers = Mixers.of(self.obs)
        self.prior_llr = None
        self._e_step = make_e_step(
            settings.inverse, self._pilots.region_m, settings.grid_points, self.obs.n_users
        )

    def step(self) -> None:
        """Do one EM iteration: data, E-step, noise, M-step, structure."""
        channel = self.channel() if isinstance(self.diffuse, Clusters) else None
        if not self.settings.data_aided and self.block.derotation is not None:
            self._use_turned_pilots()
        if self._uses_data:
            self._renew_whitening()
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
        self._learn_images()
        self.change = max(self._largest_move(before), _ELEMENT_CELLS * changed)
        moved = max(self.change, self._largest_move_of_paths(before))
        if self.change < _SWING_CELLS and self._earlier is not None:
            self.change = max(min(self.change, self._largest_move(self._earlier)), _ELEMENT_CELLS * changed)
        self._earlier = before
        if isinstance(self.diffuse, Clusters):
            self.change = min(self.change, self.tol * self._channel_move(channel) / _SETTLED_CHANNEL)
        self._revise_structure(moved)
        self.record()

    def _use_data(self) -> None:
        """Put the pilots' and the soft data symbols' statistics in the place of the present ones.

        Not where these are of symbols that are certain, under a channel that has hardly changed.
        """
        if self._decisions_stand:
            return
        if self.block.derotation is not None:
            self._turn()
        if self.settings.decoder is not None:
            self._ask_decoder(self.settings.decoder)
        moments = self.detect(self._with_data).moments
        statistics = statistics_of(self._with_data, moments)
        if self._known is not None:
            statistics = self._known + statistics
        self._statistics = statistics.stored_as(self.settings.dtype)
        self._take_statistics()
        self._remember_decisions(moments)

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
        n_parameters += _PROFILE_OPTIMISM * 2 * determined + 2 * fit.problem.n_of_receiver
        rise = (self._misfit_on_pilots() - self._pilot_misfit) / self._white_noise
        return rise > 0.5 * n_parameters + _CONTRADICTION_STDS * np.sqrt(0.5 * n_parameters)

    def shows_squint(self) -> bool:
        """Return whether beam squint, which the observation does not ask for, explains the samples better."""
        return self.status not in (STOPPED, TIME_LIMIT) and shows_squint(self.working.fit)

    def shows_colour(self, result: EstimationResult) -> bool:
        """Return whether the noise, taken as white, is far from it where no signal is.

        Asked only where what is left has a direction, or a loud element or symbol, and does not turn over the
        symbols.
        """
        misfit = result.misfit
        hardware = self.obs.hardware
        if hardware is not None and (hardware.estimates_noise or hardware.noise_covariance is not None):
            return False
        if misfit is None or not misfit.failing or self.status in (STOPPED, TIME_LIMIT):
            return False
        if turns(result) or not takes_colour(self.obs):
            return False
        return shows_colour(self.obs, self.working.fit, self.block, self.detect().moments)

    def fits_badly(self) -> bool:
        """Return whether a finished scene leaves clearly more than the noise that the coarse stage found."""
        if self.status == STOPPED:
            return False
        if self.noise_variance <= _BAD_FIT * self._coarse_noise_variance:
            return False
        return self.noise_variance > NEGLIGIBLE_NOISE * float(np.mean(np.abs(self.obs.received) ** 2))

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
        """Largest move of a point since a scene, in resolution cells; infinite with other points."""
        old, new = before.points_m, self.working.fit.scene.points_m
        if old.shape != new.shape:
            return np.inf
        moved = np.linalg.norm(new - old, axis=1).max(initial=0.0)
        return float(moved / self.working.problem.length_cell_m)

    def _largest_move_of_paths(self, before: Scene) -> float:
        """Largest move of an unlocated path since a scene, in resolution cells; infinite with other ones."""
        old, new = before.unlocated_m, self.working.fit.scene.unlocated_m
        if old.shape != new.shape:
            return np.inf
        return float(np.max(np.abs(new - old) / self.working.problem.path_cells, initial=0.0))

    def _revise_structure(self, moved: float) -> None:
        """Removal always; search when the schedule says so. The loop stays open until all is settled.

        ``moved`` are the resolution cells by which the iteration moved points or paths at the most.
        """
        self.remove_rejected()
        self.schedule = self.schedule.after_iteration()
        if self.schedule.is_due(moved) and not self.deadline.reached():
            counts = self.working.counts
            if self.schedule.completes_cycle(counts):
                self.schedule = self.schedule.after_cycle()
            else:
                changed = self._search_structure()
                if changed:
                    self.working = self._e_step(self.working, 1)
                self.schedule = self.schedule.after_search(counts, changed, moved)
        if self._work.exhausted and self.schedule.searches_all_data:
            if self.diffuse is None:
                self._look_for_diffuse(Residual.of(self.working, self.search))
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
        moves = [split_points, merge_points, absorb_duplicates]
        for move in [*moves, unlocate_points] if settings.unlocated_paths else moves:
            moved = move(self.working, residual, work)
            self.working = moved or self.working
            changed = changed or moved is not None
        return changed
