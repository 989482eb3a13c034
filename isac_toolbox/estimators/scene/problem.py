"""The problem of one block: its statistics, its prior and its noise, but no scene."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from isac_toolbox.channel.atoms.dense import Measurements, Statistics
from isac_toolbox.channel.atoms.receiver import Receiver
from isac_toolbox.channel.atoms.scene import Scene, ScenePrior
from isac_toolbox.channel.atoms.turn import Turn
from isac_toolbox.channel.motion import Motion
from isac_toolbox.channel.observation import UplinkObservation
from isac_toolbox.estimators.symbols.block import ReceivedBlock
from isac_toolbox.estimators.symbols.coupling import Coupling
from isac_toolbox.estimators.symbols.elements import ElementErrors, slope_stds
from isac_toolbox.estimators.symbols.phases import PhasePrior
from isac_toolbox.estimators.symbols.statistics import pilot_statistics

__all__ = ["Problem", "with_noise_precision"]

RealArray = NDArray[np.float64]
ComplexArray = NDArray[np.complex128]
# Guard: of a block of unit mean power; 140 dB of SNR, beyond what double precision resolves here.
_LARGEST_PRECISION = 1e14


@dataclass(frozen=True, eq=False)
class Problem:
    """Data and prior of one refinement: everything but the scene.

    Attributes
    ----------
    data : Measurements
        Statistics of the block scaled to unit mean power, and the receiver.
    prior : ScenePrior
    region_m : ndarray, shape (2, 3)
        NaN where nothing can be located (``prior.has_places``).
    noise_precision : float
        Inverse noise variance of a scaled sample.
    noise_known : bool
        Whether it was given rather than estimated.
    elements : ElementErrors, optional
        By which the samples were divided, where elements' responses are unknown.
    coupling : Coupling, optional
        What elements hear of each other, where they may; the receiver's is its matrix.
    """

    data: Measurements
    prior: ScenePrior
    region_m: RealArray
    noise_precision: float
    noise_known: bool = False
    elements: ElementErrors | None = None
    coupling: Coupling | None = None

    @classmethod
    def on_pilots(
        cls, obs: UplinkObservation, block: ReceivedBlock, elements: ElementErrors | None = None
    ) -> Problem:
        """Return the problem on the pilots of a block, noise as given or not known yet.

        ``elements`` is what the block was corrected by, where that is to be learned on. Where the shape of
        the noise is learned its variance is as well.
        """
        known = obs.noise_variance is not None
        precision = block.scale**2 / obs.noise_variance if obs.noise_variance is not None else 1.0
        receiver = Receiver.of(obs)
        if block.whitening is not None:
            receiver = replace(receiver, whitening=block.whitening)
            known = known and not (obs.hardware is not None and obs.hardware.estimates_noise)
            precision = precision * block.whitening.scale if known else 1.0
        if block.coupling is not None:
            receiver = replace(receiver, coupling=block.coupling.matrix)
        data = Measurements(pilot_statistics(block), receiver)
        region = np.full((2, 3), np.nan) if obs.geometry is None else obs.geometry.region_m
        prior = _with_walks(ScenePrior.of(obs, turn_of(obs)), obs.motion)
        if obs.wavefront == "planar" and np.any(slopes := slope_stds(obs.hardware, obs.array)):
            prior = replace(prior, pointing_stds=slopes)
        return cls(data, prior, region, precision, known, elements, block.coupling)

    def calibrated(self, elements: ElementErrors) -> Problem:
        """Return the same problem with the samples divided by other responses of the elements."""
        before = 1.0 if self.elements is None else self.elements.response
        statistics = self.statistics.over_elements(elements.response / before, self.receiver.whitening)
        return replace(self.with_statistics(statistics), elements=elements)

    @property
    def n_of_receiver(self) -> float:
        """Complex parameters of elements and coupling that the samples tell rather than the prior."""
        of_elements = 0.0 if self.elements is None else self.elements.n_determined / 2
        return of_elements + (0.0 if self.coupling is None else self.coupling.n_determined)

    def coupled(self, coupling: Coupling) -> Problem:
        """Return the same problem with elements that hear each other otherwise."""
        receiver = replace(self.receiver, coupling=coupling.matrix)
        data = Measurements(self.statistics, receiver, window_m=self.data.window_m)
        return replace(self, data=data, coupling=coupling)

    def empty_scene(self) -> Scene:
        """Return the scene before anything is found: users as expected, no point, no path."""
        n_users, nothing, motion = len(self.prior.users_m), np.zeros((0, 3)), None
        if self.statistics.frames is not None:
            assert self.prior.motion is not None
            motion = self.prior.motion.expected(self.statistics.frames.mean_doppler_hz)
        return Scene(nothing, self.prior.users_m, np.zeros(n_users), nothing, motion)

    def further_hz(
        self, scene: Scene, user: NDArray[np.int64], doppler_hz: RealArray | None = None
    ) -> RealArray:
        """Return shifts (P,) beside their offsets of paths of users, zero where nothing moves.

        Of paths of given shifts (P,), or of those that turn as the users' symbols do.
        """
        if scene.motion is None or self.statistics.frames is None:
            return np.zeros(user.size)
        total = self.statistics.frames.mean_doppler_hz[user] if doppler_hz is None else doppler_hz
        return np.asarray(total - scene.motion.offsets_hz[user])

    @property
    def statistics(self) -> Statistics:
        """Statistics of the block."""
        return self.data.statistics

    @property
    def receiver(self) -> Receiver:
        """The receiver."""
        return self.data.receiver

    def with_statistics(self, statistics: Statistics) -> Problem:
        """Return the same problem on other data of the same receiver."""
        return replace(self, data=Measurements(statistics, self.receiver, window_m=self.data.window_m))

    def searched_over(self, window_m: tuple[float, float]) -> Problem:
        """Return the same problem with the lengths at which paths are looked for."""
        return replace(self, data=Measurements(self.statistics, self.receiver, window_m=window_m))

    def completed(self, channel: ComplexArray) -> Problem:
        """Return the same problem with missing samples as a channel (K, N, M) predicts them."""
        return replace(self, data=self.data.completed(channel))

    def of_user(self, user: int) -> Problem:
        """Return the problem of one user, for users that decouple."""
        return replace(self, data=self.data.of_user(user), prior=self.prior.of_user(user))

    @property
    def doppler_step_hz(self) -> float:
        """Resolution in the Doppler shift, the inverse of the block's span."""
        assert self.statistics.frames is not None
        return 1 / max(float(np.ptp(self.statistics.frames.times_s)), 1e-12)

    @cached_property
    def length_cell_m(self) -> float:
        """Resolution in path length, ``c / bandwidth``."""
        wavenumbers = self.receiver.wavenumbers_per_m
        n = wavenumbers.size
        return float(2 * np.pi * (n - 1) / n / np.ptp(wavenumbers))

    @cached_property
    def longest_length_m(self) -> float:
        """Extent of the lengths that a path may have: twice the region's diagonal, or all that tones tell."""
        if not self.prior.has_places:
            return float(self.data.length_periods_m.max())
        return 2 * float(np.linalg.norm(self.region_m[1] - self.region_m[0]))

    @cached_property
    def user_energies(self) -> RealArray:
        """Squared norm ``M sum_n R_n[k, k]`` of a path atom of every user, shape (K,)."""
        return self.receiver.n_elements * self.statistics.user_energies

    @cached_property
    def cosine_cells(self) -> RealArray:
        """Resolution in the direction cosines, shape (2,)."""
        return self.receiver.array.cosine_cells

    @cached_property
    def path_cells(self) -> RealArray:
        """Resolution in length and direction cosines, shape (3,)."""
        return np.array([self.length_cell_m, *self.cosine_cells])


def turn_of(obs: UplinkObservation) -> Turn | None:
    """Return the turn of an observation's array, None where it is known how it stands."""
    hardware, places = obs.hardware, obs.geometry
    if hardware is None or places is None:
        return None
    slopes = slope_stds(hardware, obs.array) if obs.wavefront == "spherical" else np.zeros(2)
    stds = np.append(hardware.rotation_stds, slopes)
    if not stds.any():
        return None
    return Turn(obs.array, places.bs_position_m, stds, places.user_positions_m, places.user_position_stds_m)


def _with_walks(prior: ScenePrior, motion: Motion | None) -> ScenePrior:
    """The prior with frequency offsets as wide as phases that walk make them look over the block."""
    walks = None if motion is None else PhasePrior.of(motion)
    if walks is None or prior.motion is None:
        return prior
    offsets = np.hypot(prior.motion.offset_stds_hz, walks.slope_stds_hz)
    return replace(prior, motion=replace(prior.motion, offset_stds_hz=offsets))


def with_noise_precision(problem: Problem, noise_precision: float) -> Problem:
    """Return the same problem at another noise precision, unless the noise is known."""
    if problem.noise_known:
        return problem
    return replace(problem, noise_precision=min(noise_precision, _LARGEST_PRECISION))
