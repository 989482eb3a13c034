"""What the iterative scene estimators share: normalised data, working set, record and result."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial

import numpy as np
from numpy.typing import NDArray
from scipy.special import logsumexp

from isac_toolbox._threads import shared_threads
from isac_toolbox.channel.atoms.dense import Statistics
from isac_toolbox.channel.observation import UplinkObservation
from isac_toolbox.estimators.result import Candidates, EstimationResult, Misfit
from isac_toolbox.estimators.scene.alternatives import Lattice
from isac_toolbox.estimators.scene.ambiguity import (
    PlaceBeliefs,
    clock_ambiguities,
    clock_periods_m,
    spread_over,
)
from isac_toolbox.estimators.scene.assemble import Outcome, build_result
from isac_toolbox.estimators.scene.bodies import body_warnings, join_bodies, point_energies
from isac_toolbox.estimators.scene.breathing import breathing
from isac_toolbox.estimators.scene.caveats import (
    not_modelled,
    taken_as_static,
    unseen_cosines,
    without_places,
)
from isac_toolbox.estimators.scene.channel_estimate import (
    ChannelEstimate,
    CouplingEstimate,
    DiffuseEstimate,
    ElementEstimate,
    ImageEstimate,
    mean_channel,
)
from isac_toolbox.estimators.scene.clusters import Clusters
from isac_toolbox.estimators.scene.colour import first_whitening, takes_colour
from isac_toolbox.estimators.scene.cones import best_places
from isac_toolbox.estimators.scene.contradictions import contradictions
from isac_toolbox.estimators.scene.coupled import with_loss
from isac_toolbox.estimators.scene.derotation import (
    at_rest,
    channel_at,
    channels_of,
    derotated,
    no_derotation,
)
from isac_toolbox.estimators.scene.diffuse import Diffuse
from isac_toolbox.estimators.scene.element_information import element_information
from isac_toolbox.estimators.scene.fit import Fit, scene_covariance
from isac_toolbox.estimators.scene.information import information_of
from isac_toolbox.estimators.scene.interferers import NoiseEstimate
from isac_toolbox.estimators.scene.mixers import Mixers
from isac_toolbox.estimators.scene.motion_estimate import MotionEstimate
from isac_toolbox.estimators.scene.moving import movers_of
from isac_toolbox.estimators.scene.moving_clusters import MovingClusters
from isac_toolbox.estimators.scene.plausibility import single_bounce_probability
from isac_toolbox.estimators.scene.problem import Problem
from isac_toolbox.estimators.scene.scene_estimate import SceneEstimate
from isac_toolbox.estimators.scene.silence import SilenceWatch, listen, without_zeros
from isac_toolbox.estimators.scene.structure import remove_rejected
from isac_toolbox.estimators.scene.whiteness import FittedBlock, whiteness
from isac_toolbox.estimators.scene.working_set import WorkingSet, marginal_objective
from isac_toolbox.estimators.scene.world import World
from isac_toolbox.estimators.search import PathSearch
from isac_toolbox.estimators.symbols.block import ReceivedBlock
from isac_toolbox.estimators.symbols.coupling import Coupling, takes_coupling
from isac_toolbox.estimators.symbols.detection import (
    ChannelKnowledge,
    Detection,
    detect,
    detect_over_time,
)
from isac_toolbox.estimators.symbols.elements import ElementErrors
from isac_toolbox.estimators.windows import usable_tones
from isac_toolbox.inference.turbo import TurboLoop

__all__ = ["SceneLoop"]

RealArray = NDArray[np.float64]


_FAR_BLOCKS = (
    "subcarrier_frequencies_hz: far blocks of subcarriers make lobes in delay almost as high as the main "
    "one; where two paths of a user come from one direction, some may be on a wrong lobe, with false points "
    "beside them"
)


class SceneLoop(TurboLoop):
    """A loop over a working set of paths, on the block scaled to unit mean power.

    Attributes
    ----------
    obs : UplinkObservation
    block : ReceivedBlock
        Its samples, scaled.
    search : PathSearch
    working : WorkingSet
        Scene, paths and beliefs; set by ``setup``.
    warnings : list of str
        What the result has to say beside its numbers.
    diffuse : Diffuse or Clusters, optional
        Diffuse part of the channel, where there is one.
    bundled : Fit, optional
        The last fit of a block that moves, where rays surround its paths.
    mixers : Mixers, optional
        Images of opposite subcarriers, where mixers may add some.
    judges_fit : bool
        Whether the residual is expected to be noise.
    prior_llr : ndarray, shape (K, N, T_d, bits), optional
        What a decoder says of the bits of OFDM symbols with data, of all in a block that moves.
    doubts_data : bool
        Whether the data contradict the pilots, so that LLRs have to allow for more than noise.
    """

    name: str
    judges_fit = True
    working: WorkingSet
    #: Whether gains may change over the block: when a block that moves is at its end.
    follows_breath = False
    #: Whether Doppler shifts and phases are estimated where the observation asks for it.
    follows_motion = False

    def __init__(
        self, obs: UplinkObservation, max_iter: int, tol: float, max_seconds: float | None = None
    ) -> None:
        if not isinstance(obs, UplinkObservation):
            raise TypeError(f"obs must be an UplinkObservation, got {type(obs).__name__}")
        super().__init__(max_iter, tol, max_seconds)
        self._given_elements = obs.usable_elements
        self.obs, self.block, self.warnings = without_zeros(obs)
        self.warnings += [*unseen_cosines(obs.array), *without_places(obs)]
        if self.follows_motion:
            self.warnings += not_modelled(obs, takes_colour(obs), takes_coupling(obs))
        else:
            self.warnings += taken_as_static(obs)
        self.search = PathSearch.for_observation(self.obs)
        if self.search.has_high_lobes:
            self.warnings.append(_FAR_BLOCKS)
        self.doubts_data = False
        self.diffuse: Diffuse | Clusters | None = None
        self.bundled: Fit | None = None
        self.mixers: Mixers | None = None
        self.prior_llr: RealArray | None = None
        self._statistics: Statistics
        self._dropped: list[tuple[RealArray, float, RealArray]] = []

    def run_bounded(
        self,
        callback: Callable[[TurboLoop], bool | None] | None = None,
        n_threads: int | None = None,
    ) -> EstimationResult:
        """Run with at most so many threads, one if not given, and give the result."""
        with shared_threads(n_threads or 1):
            self.run(callback)
            return self.result()

    def setup(self) -> None:
        """Forget what an earlier run dropped; a subclass makes the first working set."""
        self._dropped, self.bundled = [], None

    def start(self, coarse: Callable[[Problem, SilenceWatch | None], WorkingSet]) -> None:
        """Make the first working set from the pilots, without the parts of the block that carry no signal.

        Parameters
        ----------
        coarse : callable
            From the problem on the pilots, and the watch over its suspects, to a working set.
        """

        def first_fit(obs: UplinkObservation, block: ReceivedBlock, watch: SilenceWatch | None) -> Fit:
            if obs is not self.obs:
                self.obs, self.block, self.search = obs, block, PathSearch.for_observation(obs)
            if self.follows_motion and obs.motion is not None:
                self.block = block = derotated(block, no_derotation(obs.motion))
            elements = ElementErrors.of(obs.hardware, obs.array)
            if elements is not None:
                self.block = block = block.with_response(elements.response)
            if self.follows_motion:
                self.block = block = block.whitened(first_whitening(obs, block))
                self.search = self.search.whitened(block.whitening)
                self.block = block = replace(block, coupling=Coupling.of(obs))
            self.working = coarse(Problem.on_pilots(obs, block, elements), watch)
            return self.working.fit

        self.warnings += listen(self.obs, self.block, first_fit)

    def detect(self, part: ReceivedBlock | None = None) -> Detection:
        """Return the symbols of the block, or of some OFDM symbols of it, under the present channel."""
        fit, n_users = self._breathing(self.working.fit), self.working.n_users
        block = self.block if part is None else part
        prior_llr = self.prior_llr
        if part is None and prior_llr is not None and block.derotation is None:
            prior_llr = np.zeros((*block.known.shape, prior_llr.shape[-1]))
            prior_llr[:, :, block.has_data] = self.prior_llr
        if block.derotation is not None:
            at_symbol = partial(channel_at, fit)
            return detect_over_time(block, at_symbol, self._white_noise, prior_llr=prior_llr)
        if self.diffuse is None:
            channel = ChannelKnowledge.from_paths(
                fit.atoms, fit.posterior.mean, fit.posterior.covariance, n_users
            )
        else:
            mean = fit.atoms.synthesise(fit.posterior.mean, n_users) + self.diffuse.mean
            channel = ChannelKnowledge(mean, white_variance=self.diffuse.entry_variance)
        return detect(block, channel, self._white_noise, prior_llr=prior_llr)

    def _breathing(self, fit: Fit) -> Fit:
        """The fit with gains that change over a block that moves, where they do."""
        if self.bundled is not None:
            return self.bundled
        return breathing(fit, self._statistics) if self.follows_breath else fit

    def moving_clusters(self, fit: Fit) -> MovingClusters | None:
        """Return the clusters around the paths of a block that moves; none here."""
        del fit
        return None

    @property
    def _white_noise(self) -> float:
        """Noise variance of a scaled sample, without any diffuse part."""
        if self.bundled is not None and self.bundled.bundles is not None:
            return self.bundled.bundles.noise_variance
        if self.diffuse is None:
            return 1 / self.working.problem.noise_precision
        return self.diffuse.noise_variance

    def _final_detection(self) -> Detection:
        """The symbols of the block; where data contradict the model, what it leaves of them tempers them.

        The error of matched filtering against the decisions, over what noise makes of it, for every user and
        OFDM symbol.
        """
        detection = self.detect()
        if not self.doubts_data:
            return detection
        block, parts = self.block, self._parts_alike()
        error, gain = np.empty(block.pilots.shape, complex), np.empty(block.pilots.shape)
        for channel, at in parts:
            fitted = np.einsum("knm,knt->nmt", channel, detection.moments.mean[..., at])
            gain[..., at] = np.sum(np.abs(channel) ** 2, axis=2)[..., None]
            error[..., at] = np.einsum("knm,nmt->knt", channel.conj(), block.received[..., at] - fitted)
        noise = gain * self._white_noise
        data = ~block.known & block.has_samples
        excess = np.sum(np.abs(error) ** 2 * data, axis=1) / np.maximum(np.sum(noise * data, axis=1), 1e-300)
        tempered = detection.log_probability / np.maximum(excess, 1.0)[:, None, :, None]
        total = logsumexp(tempered, axis=3, keepdims=True)
        log_probability = np.where(block.known[..., None], detection.log_probability, tempered - total)
        return replace(detection, log_probability=log_probability)

    def _parts_alike(self) -> Iterator[tuple[NDArray[np.complex128], slice]]:
        """Channels (K, N, M) of the scaled block and their symbols, each its own where the block moves."""
        derotation = self.block.derotation
        if derotation is None:
            response = 1.0 if self.block.response is None else self.block.response
            receiver = self.working.problem.receiver
            yield receiver.whitened(self.channel() / self.block.scale / response), slice(None)
            return
        for symbols, channel in channels_of(self._breathing(self.working.fit), derotation):
            for i, t in enumerate(symbols):
                yield channel[:, :, i], slice(t, t + 1)

    def remove_rejected(self) -> None:
        """Drop what the posterior rejects, remembering dropped points as candidates."""
        working = self.working
        self.working, dropped = remove_rejected(working)
        visibility = working.visibility_probability if dropped.size else None
        for index in dropped:
            assert visibility is not None
            self._dropped.append(
                (
                    working.fit.scene.points_m[index],
                    float(working.point_probability[index]),
                    visibility[:, index],
                )
            )

    def record(self) -> None:
        """Set what the history keeps of an iteration."""
        self.objective = marginal_objective(self.working)
        self.noise_variance = self.block.scale**2 * self._white_noise
        self.n_active = int(np.count_nonzero(self.working.active))

    def channel(self) -> NDArray[np.complex128]:
        """Return the posterior mean channel, shape (K, N, M), in the units of the observation."""
        fit = self.working.fit
        channel = fit.atoms.synthesise(fit.posterior.mean, self.working.n_users)
        channel = channel if self.diffuse is None else channel + self.diffuse.mean
        channel = self.working.problem.receiver.stated(channel)
        elements = self.working.problem.elements
        return self.block.scale * (channel if elements is None else channel * elements.response)

    def result(self) -> EstimationResult:
        """Return the result at the present state."""
        working, scale = self.working, self.block.scale
        fit, points, _ = working.active_fit()
        self.follows_breath = self.block.derotation is not None
        moving = self.moving_clusters(fit) if self.follows_breath else None
        diffuse = self._diffuse_beside(fit) if moving is None else moving.at_rest
        if diffuse is not None:
            fit = replace(fit, excess=diffuse.noise_at(fit) * fit.problem.noise_precision)
        fit, share, doubt_m2 = best_places(fit)
        fit = with_loss(fit)
        if moving is not None:
            fit = self.bundled = replace(fit, bundles=moving.bundles)
        fit = self._breathing(fit)
        places_m, probability = working.fit.scene.points_m.copy(), working.point_probability.copy()
        places_m[points] = fit.scene.points_m
        covariance = scene_covariance(fit)
        probability[points] *= share * single_bounce_probability(fit, covariance)
        places = PlaceBeliefs.of(fit)
        if places is not None:
            probability[points] *= places.point_weights()
        scene = SceneEstimate.of_fit(
            fit,
            scale,
            point_probability=probability[points],
            visibility_probability=working.visibility_probability[:, points],
            line_of_sight_probability=working.line_of_sight_probability,
            path_probability=working.state.probability[working.active],
            candidates=self._candidates(places_m, probability),
            doubt_m2=doubt_m2,
            movers=None if fit.scene.motion is None else movers_of(fit),
        )
        ambiguities, clock_variance_m2 = clock_ambiguities(
            fit.scene.offsets_m, fit.problem.prior.offset_stds_m, self._clock_periods_m()
        )
        if places is not None:
            ambiguities += places.ambiguities(probability[points] >= 0.5)
        scene = scene.widened(clock_variance_m2, spread_over(ambiguities, len(scene.scatterer_positions_m)))
        shown = np.flatnonzero(probability[points] >= 0.5)
        if len(shown) == len(scene.scatterer_positions_m):
            energy = point_energies(fit)[shown]
            scene, ambiguities = join_bodies(scene, ambiguities, energy, fit.problem.length_cell_m)
        scene = scene.of_block(self.obs)
        detection = self._final_detection()  # before the channel, which large blocks hold once
        mean = mean_channel(fit, working.n_users, diffuse)
        warnings = (*self.warnings, *contradictions(fit, covariance), *body_warnings(scene))
        outcome = Outcome(self.history, self.status, self.converged, warnings, ambiguities)
        found = None if diffuse is None else DiffuseEstimate.of(diffuse, scale)
        misfit = self._judged(fit, mean, detection, diffuse) if self.judges_fit else None
        channel = ChannelEstimate.of_fit(fit, working.n_users, diffuse, mean).in_units(scale)
        motion = self._motion(fit, covariance)
        told = None
        if self.judges_fit and self.obs.hardware is None:
            told = information_of(fit, covariance, scene, shown, self.obs.motion)
        learned, coupling = working.problem.elements, working.problem.coupling
        channel = channel.behind(fit)
        elements = None if learned is None else ElementEstimate.of(learned, element_information(fit))
        if elements is not None:
            channel = elements.applied(channel)
            if motion is not None:
                motion = motion.over_elements(elements.element_response)
        silent = np.flatnonzero(self._given_elements & ~self.obs.usable_elements)
        if silent.size:
            channel = channel.without(silent)
            motion = None if motion is None else motion.without(silent)
            elements = None if elements is None else elements.without(silent)
        return build_result(
            self.name,
            channel,
            scene,
            detection,
            outcome,
            found,
            motion,
            misfit,
            told,
            elements,
            NoiseEstimate.of(self.block, self.search, channel.noise_variance),
            silent,
            None if self.mixers is None else ImageEstimate.of(self.mixers.images),
            None if coupling is None else CouplingEstimate.of(coupling),
        )

    def _diffuse_beside(self, fit: Fit) -> Diffuse | Clusters | None:
        """The diffuse part of what a fit leaves, under its present powers."""
        return None if self.diffuse is None else self.diffuse.filtered(fit, self._statistics, self.search)

    def _judged(
        self, fit: Fit, mean: NDArray[np.complex128], detection: Detection, diffuse: Diffuse | Clusters | None
    ) -> Misfit:
        """How far what the estimate leaves is from noise, on the samples as they came from the elements."""
        block, moments = self.block, detection.moments
        n_fitted = fit.n_fitted + fit.n_slopes + (0.0 if diffuse is None else diffuse.n_determined)
        if fit.problem.coupling is not None:
            n_fitted += fit.problem.coupling.n_determined
        if block.derotation is not None:
            n_fitted += 0.5 * np.count_nonzero(block.derotation.phases_rad)
            block, moments = at_rest(block, fit, moments)
        if block.whitening is not None:
            mean = block.whitening.apply(mean)
        elif block.response is not None:
            mean = mean * block.response
            block = block.with_response(np.ones(mean.shape[2], complex))
        return whiteness(FittedBlock(block, mean, moments, n_fitted, diffuse), self.search)

    def _motion(self, fit: Fit, covariance: RealArray) -> MotionEstimate | None:
        """What moves and turns beside the scatterers, None in a static block."""
        motion, derotation = self.obs.motion, self.block.derotation
        if motion is None or derotation is None:
            return None
        return MotionEstimate.of_fit(fit, covariance, motion, derotation, self.block.scale)

    def _clock_periods_m(self) -> RealArray:
        """Shift of every user's clock that the data used so far do not see, as a length, shape (K,)."""
        problem = self.working.problem
        pilots = Lattice.on_tones(problem.receiver, usable_tones(self.obs))
        return clock_periods_m(pilots, Lattice.of(problem), self.obs.constellation)

    def _candidates(self, places_m: RealArray, probability: RealArray) -> Candidates:
        working = self.working
        dropped = [np.array([d[i] for d in self._dropped]) for i in range(3)]
        n, world = len(self._dropped), World.of(self.working.fit)
        every_m = np.vstack([places_m, dropped[0].reshape(n, 3)])
        return Candidates(
            every_m if world is None else world.places_m(every_m),
            np.concatenate([probability, dropped[1].reshape(n)]),
            np.hstack([working.visibility_probability, dropped[2].reshape(n, working.n_users).T]),
        )
