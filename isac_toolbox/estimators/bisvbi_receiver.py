"""What EM-Turbo-BiSVBI learns of the receiver: turns, elements, noise, images (docs/theory.md, 5 and 6)."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from isac_toolbox.channel.atoms.dense import Statistics
from isac_toolbox.estimators.bisvbi_start import StartedLoop
from isac_toolbox.estimators.scene.colour import elements_in_use, estimates_noise, left_by_scene, whitening_of
from isac_toolbox.estimators.scene.coupled import calibrated
from isac_toolbox.estimators.scene.derotation import derotated, mean_doppler_hz
from isac_toolbox.estimators.scene.fit import Fit
from isac_toolbox.estimators.scene.phases import phases_of
from isac_toolbox.estimators.scene.problem import Problem
from isac_toolbox.estimators.scene.schedule import StructureSchedule
from isac_toolbox.estimators.symbols.block import ReceivedBlock
from isac_toolbox.estimators.symbols.phases import PhasePrior
from isac_toolbox.estimators.symbols.statistics import SymbolMoments, data_statistics, pilot_statistics

__all__ = ["ReceiverLoop", "statistics_of"]

# Tuned: mean squared change of whitened noise below which the shape of the noise is learned no further.
_SETTLED_NOISE = 1e-4
# Tuned: rounds in which elements and gains are fitted in turn in an iteration.
_CALIBRATIONS = 3


def statistics_of(block: ReceivedBlock, moments: SymbolMoments) -> Statistics:
    """Return the statistics of a block with symbols of these moments, as it is turned back."""
    energies = None
    if block.derotation is None and (block.masks is None or block.masks.samples is None):
        energies = block.cell_energies
    return data_statistics(block.received, moments, block.masks, block.derotation, energies)


# Tuned: variance of a symbol below which it is known, so that no better channel would change it,
_CERTAIN = 1e-9
# Tuned: and change of a user's channel, relative to it, that such symbols bear.
_NEAR = 0.03
# Cost cap: subcarriers on which that is looked at.
_LOOKED_AT = 16


def _sampled_channel(fit: Fit, n_users: int) -> NDArray[np.complex128]:
    """The channel of the paths of a fit on some subcarriers, shape (K, n, M)."""
    delay, steering = fit.atoms.delay, fit.atoms.steering[0]
    delay = delay[:: max(len(delay) // _LOOKED_AT, 1)] * fit.posterior.mean
    own = [np.flatnonzero(fit.paths.user == k) for k in range(n_users)]
    return np.stack([delay[:, paths] @ steering[paths] for paths in own])


class ReceiverLoop(StartedLoop):
    """A loop that corrects its block by what it learns of the receiver, and keeps the statistics of it."""

    schedule: StructureSchedule
    _phase_prior: PhasePrior | None
    _pilot_misfit: float | None
    _whitening_settled: bool
    _decided: NDArray[np.complex128] | None
    _with_data: ReceivedBlock
    _data_symbols: NDArray[np.bool_]

    @property
    def _uses_data(self) -> bool:
        burn_in = self.settings.burn_in if self._expected is None else 0
        return self.settings.data_aided and (self.n_iter >= burn_in or self.schedule.wants_data)

    def _remember_decisions(self, moments: SymbolMoments) -> None:
        """Keep the channel under which symbols are decided, where they are certain and it alone decides."""
        problem, block = self.working.problem, self.block
        corrected = problem.elements is not None or problem.coupling is not None or self.mixers is not None
        corrected |= block.derotation is not None or estimates_noise(self.obs)
        beside = self.diffuse is not None or problem.statistics.missing is not None
        alone = not corrected and not beside and self.settings.decoder is None
        certain = alone and float(moments.variance.max(initial=0.0)) <= _CERTAIN
        self._decided = _sampled_channel(self.working.fit, self.working.n_users) if certain else None

    @property
    def _decisions_stand(self) -> bool:
        """Whether all symbols are certain and no user's channel is far from the one that decided them."""
        before = self._decided
        if before is None or self.diffuse is not None:
            return False
        moved = np.linalg.norm(_sampled_channel(self.working.fit, self.working.n_users) - before, axis=(1, 2))
        return bool(np.all(moved <= _NEAR * np.linalg.norm(before, axis=(1, 2))))

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
        """Take over the elements' responses and the coupling that the coarse stage learned."""
        problem = self.working.problem
        if problem.elements is None and problem.coupling is None:
            return
        self._take_receiver(problem)
        fresh = replace(self._pilots, noise_precision=problem.noise_precision)
        self.working = self.working.with_problem(replace(fresh, prior=problem.prior))

    def _take_receiver(self, problem: Problem) -> None:
        """Put the elements' responses and the coupling of a problem into block, pilots and search."""
        if problem.elements is not None:
            self.block = self.block.with_response(problem.elements.response)
        self.block = replace(self.block, coupling=problem.coupling)
        self.search = self.search.coupled(problem.receiver.coupling)
        self._pilots = self._on_pilots(problem.elements)

    def _turn_around_users(self) -> None:
        """Take a turn of the array to be linear around the present places of the users."""
        problem = self.working.problem
        turn = problem.prior.turn
        if turn is not None:
            prior = replace(problem.prior, turn=turn.around(self.working.fit.scene.users_m))
            self.working = self.working.with_problem(replace(problem, prior=prior))

    def _renew_whitening(self) -> None:
        """Learn the shape of the noise from what the users' channels leave, where it is to be learned."""
        if self._whitening_settled or not estimates_noise(self.obs):
            return
        left = left_by_scene(self.working.fit, self.block, self.detect().moments)
        found = whitening_of(left, self.block, self.working.fit)
        before = self.block.whitening
        if found is None or (before is not None and before.distance(found) < _SETTLED_NOISE):
            self._whitening_settled = before is not None
            return
        misfit = None if self._pilot_misfit is None else self._misfit_on_pilots()
        self.block, self.search = self.block.whitened(found), self.search.whitened(found)
        elements = self.working.problem.elements
        self._pilots = self._on_pilots(elements)
        self._divide_block()
        problem = replace(self._pilots, prior=self.working.problem.prior)
        self.working = self.working.with_problem(
            replace(problem, noise_precision=1 / left.whitened_variance(found, elements_in_use(self.block)))
        )
        if misfit is not None and self._pilot_misfit is not None:
            self._pilot_misfit += self._misfit_on_pilots() - misfit

    def _calibrate(self) -> float:
        """Learn the elements' responses and coupling from the present channel, and correct the block by them.

        Returns the largest relative change of a response, or change of a coefficient.
        """
        before = self.working.problem
        if before.elements is None and before.coupling is None:
            return 0.0
        alone = before.coupling is None and before.elements is not None and before.elements.joint is None
        for _ in range(_CALIBRATIONS if alone else 1):
            problem = calibrated(self.working.active_fit()[0], follows=True)
            self.working = self.working.with_problem(problem)
        problem = self.working.problem
        self._take_receiver(problem)
        self._divide_block()
        if not self._uses_data:
            self._statistics = self._pilots.statistics
            self._take_statistics()
        changed = 0.0
        if before.elements is not None and problem.elements is not None:
            apart = problem.elements.log_response - before.elements.log_response
            changed = float(np.max(np.abs(apart)))
        if before.coupling is not None and problem.coupling is not None:
            apart = problem.coupling.coefficients - before.coupling.coefficients
            changed = max(changed, float(np.max(np.abs(apart))))
        return changed

    def _learn_images(self) -> None:
        """Learn what mixers add of opposite subcarriers, and take it from the samples."""
        if self.mixers is None:
            return
        moments, noise = self._present_symbols(), self._white_noise
        self.mixers, self.block = self.mixers.refined(self.block, list(self._parts_alike()), moments, noise)
        self._pilots = self._on_pilots(self.working.problem.elements)
        self._divide_block()
        if not self._uses_data:
            self._statistics = self._pilots.statistics
            self._take_statistics()

    def _take_statistics(self) -> None:
        """Fit the paths to the present statistics, without the diffuse parts of other users in them."""
        statistics = self._statistics
        if self.diffuse is not None and not statistics.users_decouple:
            crossing = self.diffuse.crossing(statistics.symbol_gram)
            statistics = replace(statistics, cross_correlation=statistics.cross_correlation - crossing)
        self.working = self.working.with_problem(self.working.problem.with_statistics(statistics))

    def _divide_block(self) -> None:
        """Statistics of the OFDM symbols that hold pilots alone, made once, and the block of the others.

        A block that moves stays whole, as its pilots' statistics change with how they are turned back.
        """
        self._known: Statistics | None = None
        if self.block.derotation is not None:
            self._with_data, self._data_symbols = self.block, np.ones(self.block.known.shape[2], bool)
            return
        pilots, self._with_data = self.block.divided()
        self._data_symbols = self.block.has_data
        if self._pilots_are_known:
            self._known = self._pilots.statistics
            return
        certain = SymbolMoments(pilots.pilots, np.zeros(pilots.pilots.shape))
        self._known = statistics_of(pilots, certain)

    @property
    def _pilots_are_known(self) -> bool:
        """Whether the symbols that all users know are those of OFDM symbols that hold pilots alone."""
        block = self.block
        if self.settings.dtype != "complex128" or (
            block.masks is not None and block.masks.samples is not None
        ):
            return False
        return not np.any(np.all(block.known, axis=0)[:, block.has_data])

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
