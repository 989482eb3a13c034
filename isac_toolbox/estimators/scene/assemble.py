"""From what an estimator found to an :class:`EstimationResult`, with uncertainties."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from isac_toolbox.channel.array import SPEED_OF_LIGHT_M_S, AntennaArray, ArbitraryArray
from isac_toolbox.channel.atoms.frames import MovingAtoms
from isac_toolbox.channel.evolution import ChannelEvolution
from isac_toolbox.channel.geometry import unit_vectors
from isac_toolbox.channel.motion import Motion
from isac_toolbox.channel.observation import UplinkObservation
from isac_toolbox.channel.paths import UnlocatedPaths
from isac_toolbox.estimators.result import Ambiguity, Candidates, EstimationResult, Misfit, SceneInformation
from isac_toolbox.estimators.scene.clusters import Clusters
from isac_toolbox.estimators.scene.derotation import evolution_of
from isac_toolbox.estimators.scene.diffuse import Diffuse
from isac_toolbox.estimators.scene.fit import Fit, scene_blocks, scene_covariance
from isac_toolbox.estimators.scene.moving import Movers
from isac_toolbox.estimators.scene.remedies import misfit_warnings
from isac_toolbox.estimators.scene.world import World
from isac_toolbox.estimators.symbols.derotation import Derotation
from isac_toolbox.estimators.symbols.detection import Detection
from isac_toolbox.estimators.symbols.elements import ElementErrors
from isac_toolbox.estimators.symbols.phases import PhasePrior
from isac_toolbox.inference.turbo import History, IterationRecord

__all__ = [
    "ChannelEstimate",
    "DiffuseEstimate",
    "ElementEstimate",
    "MotionEstimate",
    "Outcome",
    "SceneEstimate",
    "build_result",
    "channel_variance",
    "not_modelled",
    "taken_as_static",
    "unseen_cosines",
    "without_places",
]

RealArray = NDArray[np.float64]
ComplexArray = NDArray[np.complex128]

# Guard: power of a sidelobe of an array, relative to the main lobe, that noise may lift above it.
_ALIKE = 0.9
_COSINES = ("horizontal", "vertical")


@dataclass(frozen=True, eq=False)
class ChannelEstimate:
    """Channel with its error, and the noise, in the units of the observation.

    Attributes
    ----------
    mean : ndarray of complex, shape (K, N, M)
    variance : ndarray, shape (K, N, M)
    noise_variance : float
        Per sample.
    """

    mean: ComplexArray
    variance: RealArray
    noise_variance: float

    @classmethod
    def of_fit(
        cls, fit: Fit, n_users: int, scale: float, diffuse: Diffuse | Clusters | None = None
    ) -> ChannelEstimate:
        """Return the channel of a fit's paths and of a diffuse part.

        ``scale`` undoes the normalisation of amplitudes. The diffuse part takes up the error that the paths
        have because of it, so that of the paths is the noise's alone.
        """
        mean = fit.atoms.synthesise(fit.posterior.mean, n_users)
        if diffuse is None:
            variance = channel_variance(fit, scene_covariance(fit), n_users)
            return cls(mean * scale, variance * scale**2, scale**2 / fit.problem.noise_precision)
        quiet = replace(fit.problem, noise_precision=1 / diffuse.noise_variance)
        variance = np.zeros(mean.shape)
        if isinstance(diffuse, Diffuse):
            alone = replace(fit.under(quiet, fit.posterior.prior_precision), excess=None)
            variance = channel_variance(alone, scene_covariance(alone), n_users)
        unheard = fit.problem.receiver.element_mask
        own = np.repeat(diffuse.variance[:, :, None], mean.shape[2], axis=2)
        if unheard is not None:
            own[..., ~unheard] = diffuse.power[:, None, None]
        noise_variance = scale**2 * diffuse.noise_variance
        return cls((mean + diffuse.mean) * scale, (variance + own) * scale**2, noise_variance)


@dataclass(frozen=True, eq=False)
class DiffuseEstimate:
    """The diffuse part, in the names and units of :class:`EstimationResult`."""

    diffuse_power: RealArray
    diffuse_profile: RealArray
    diffuse_delays_s: RealArray

    @classmethod
    def of(cls, diffuse: Diffuse | Clusters, scale: float) -> DiffuseEstimate:
        """Return a diffuse part; ``scale`` undoes the normalisation of amplitudes."""
        return cls(diffuse.power * scale**2, diffuse.profile * scale**2, diffuse.delays_s)


@dataclass(frozen=True, eq=False)
class ElementEstimate:
    """Responses of the elements, in the names of :class:`EstimationResult`."""

    element_response: ComplexArray
    element_response_std: RealArray

    @classmethod
    def of(cls, elements: ElementErrors | None) -> ElementEstimate | None:
        """Return what was learned of the elements; None where they were known."""
        if elements is None:
            return None
        deviation = np.abs(elements.response) * np.sqrt(np.sum(elements.log_stds**2, axis=0))
        return cls(elements.response, deviation)

    def applied(self, channel: ChannelEstimate) -> ChannelEstimate:
        """Return a channel of samples that were divided by the responses with them in it."""
        power = np.abs(self.element_response) ** 2
        error = np.abs(channel.mean) ** 2 * self.element_response_std**2
        return ChannelEstimate(
            channel.mean * self.element_response, channel.variance * power + error, channel.noise_variance
        )


@dataclass(frozen=True, eq=False)
class MotionEstimate:
    """What moves and turns beside the scatterers, in the names and units of :class:`EstimationResult`."""

    reference_time_s: float
    frequency_offsets_hz: RealArray
    frequency_offset_std_hz: RealArray
    user_velocities_m_s: RealArray
    user_velocity_covariance_m2_s2: RealArray
    symbol_phase_rad: RealArray
    user_symbol_phase_rad: RealArray
    evolution: ChannelEvolution

    def over_elements(self, response: ComplexArray) -> MotionEstimate:
        """Return the same with the channel of elements of some responses (M,)."""
        evolution = ChannelEvolution(self.evolution.parts * response, self.evolution.curves)
        return replace(self, evolution=evolution)

    @classmethod
    def of_fit(
        cls, fit: Fit, covariance: RealArray, motion: Motion, derotation: Derotation, scale: float
    ) -> MotionEstimate:
        """Return the motion of a fit of a block that was derotated.

        Of the phases that all users share the station's oscillator has the part that the priors give it, and
        of the frequencies that walks look like the walks have theirs.
        """
        found = fit.scene.motion
        assert found is not None
        offsets, users, _, _ = found.blocks(fit.scene.n_parameters - found.size)
        of_walks = _slope_variances(motion)
        share = of_walks / np.maximum(of_walks + motion.frequency_offset_stds_hz**2, 1e-300)
        variance = (1 - share) ** 2 * np.diag(covariance)[offsets] + (1 - share) * of_walks
        lines = 2 * np.pi * np.outer(share * found.offsets_hz, motion.times_s)
        station, alone = _shared(derotation.phases_rad + lines, motion)
        return cls(
            motion.reference_time_s,
            (1 - share) * found.offsets_hz,
            np.sqrt(variance),
            found.user_velocities_m_s,
            _diagonal_blocks(covariance[users, users]),
            station,
            alone,
            evolution_of(fit, derotation, scale),
        )


def _slope_variances(motion: Motion) -> RealArray:
    """Variances (K,) of the frequencies that walking phases look like, zero without."""
    walks = PhasePrior.of(motion)
    return np.zeros(len(motion.frequency_offset_stds_hz)) if walks is None else walks.slope_stds_hz**2


def _shared(phases_rad: RealArray, motion: Motion) -> tuple[RealArray, RealArray]:
    """Station's phases (T,) and users' own (K, T) of their sums, by the variances of the walks."""
    own, common = motion.user_phase_noise_stds_rad**2, motion.phase_noise_std_rad**2
    if not common:
        return np.zeros(phases_rad.shape[1]), phases_rad
    if not np.any(own):
        return phases_rad.mean(axis=0), np.zeros_like(phases_rad)
    between = np.diag(own) + common
    station = np.full(len(own), common) @ np.linalg.pinv(between) @ phases_rad
    return station, np.where(own[:, None] > 0, phases_rad - station, 0.0)


@dataclass(frozen=True, eq=False)
class SceneEstimate:
    """Everything that a result says of the scene, in the names of :class:`EstimationResult`."""

    scatterer_positions_m: RealArray
    scatterer_probability: RealArray
    scatterer_covariance_m2: RealArray
    scatterer_extent_m2: RealArray
    visibility_probability: RealArray
    candidates: Candidates
    line_of_sight_probability: RealArray
    unlocated_paths: UnlocatedPaths
    user_positions_m: RealArray
    user_position_covariance_m2: RealArray
    time_offsets_s: RealArray
    time_offset_std_s: RealArray
    scatterer_velocities_m_s: RealArray | None = None
    scatterer_velocity_covariance_m2_s2: RealArray | None = None
    moving_probability: RealArray | None = None

    @classmethod
    def unknown(cls, obs: UplinkObservation) -> SceneEstimate:
        """Return the scene of a method that looks for none: users and clocks nominal, nothing found."""
        n_users = obs.n_users
        nothing = Candidates(np.zeros((0, 3)), np.zeros(0), np.zeros((n_users, 0)))
        return cls(
            scatterer_positions_m=nothing.scatterer_positions_m,
            scatterer_probability=nothing.scatterer_probability,
            scatterer_covariance_m2=np.zeros((0, 3, 3)),
            scatterer_extent_m2=np.zeros((0, 3, 3)),
            visibility_probability=nothing.visibility_probability,
            candidates=nothing,
            line_of_sight_probability=np.full(n_users, 0.5),
            unlocated_paths=UnlocatedPaths.none(),
            **_nominal(obs),
        )

    def of_block(self, obs: UplinkObservation) -> SceneEstimate:
        """Return the scene with what a block without places leaves open: users and clocks nominal."""
        if obs.geometry is not None:
            return self
        undecided = np.full(obs.n_users, 0.5)
        return replace(self, line_of_sight_probability=undecided, **_nominal(obs))

    @classmethod
    def of_fit(
        cls,
        fit: Fit,
        scale: float,
        point_probability: RealArray,
        visibility_probability: RealArray,
        line_of_sight_probability: RealArray,
        path_probability: RealArray,
        candidates: Candidates | None = None,
        doubt_m2: RealArray | None = None,
        movers: Movers | None = None,
    ) -> SceneEstimate:
        """Return the scene of a fit; points less likely than not are listed as unlocated paths.

        So are those whose place an array that does not see a direction cosine leaves open.

        Parameters
        ----------
        fit : Fit
            Of the paths that exist.
        scale : float
            Amplitude that the block was divided by.
        point_probability : ndarray, shape (S,)
            Of the fit's points.
        visibility_probability : ndarray, shape (K, S)
        line_of_sight_probability : ndarray, shape (K,)
        path_probability : ndarray, shape (L,)
            That each of the fit's paths exists, wherever it runs.
        candidates : Candidates, optional
            Every point considered; the fit's points if not given.
        doubt_m2 : ndarray, shape (S, 3, 3), optional
            Covariance to add to that of the fit's points.
        movers : Movers, optional
            Which of the fit's points move.
        """
        covariance, world = scene_covariance(fit), World.of(fit)
        points, users, offsets, _ = fit.scene.blocks()
        points_m, users_m = fit.scene.points_m, fit.scene.users_m
        if world is not None:
            points_m, users_m, covariance = world.with_places(fit, covariance)
        of_points = _diagonal_blocks(covariance[points, points])
        if doubt_m2 is not None:
            of_points = of_points + doubt_m2
        shown = (point_probability >= 0.5) & _is_placed(fit, of_points)
        if candidates is None:
            candidates = Candidates(points_m, point_probability, visibility_probability)
        return cls(
            scatterer_positions_m=points_m[shown],
            scatterer_probability=point_probability[shown],
            scatterer_covariance_m2=of_points[shown],
            scatterer_extent_m2=np.zeros((np.count_nonzero(shown), 3, 3)),
            visibility_probability=visibility_probability[:, shown],
            candidates=candidates,
            line_of_sight_probability=line_of_sight_probability,
            unlocated_paths=_unlocated(fit, shown, path_probability, scale),
            user_positions_m=users_m,
            user_position_covariance_m2=_diagonal_blocks(covariance[users, users]),
            time_offsets_s=fit.scene.offsets_m / SPEED_OF_LIGHT_M_S,
            time_offset_std_s=np.sqrt(np.diag(covariance)[offsets]) / SPEED_OF_LIGHT_M_S,
            **({} if movers is None else _velocities(movers, shown)),
        )

    def widened(self, clock_variance_m2: RealArray, scatterer_covariance_m2: RealArray) -> SceneEstimate:
        """Return the scene with further uncertainty of clocks (K,), as lengths, and scatterers (S, 3, 3)."""
        clock = np.sqrt(self.time_offset_std_s**2 + clock_variance_m2 / SPEED_OF_LIGHT_M_S**2)
        return replace(
            self,
            time_offset_std_s=clock,
            scatterer_covariance_m2=self.scatterer_covariance_m2 + scatterer_covariance_m2,
        )

    @classmethod
    def certain(
        cls,
        fit: Fit,
        scale: float,
        line_of_sight: NDArray[np.bool_],
        seen: NDArray[np.bool_],
        share: RealArray | None = None,
        doubt_m2: RealArray | None = None,
    ) -> SceneEstimate:
        """Return the scene of a method without probabilities: all that it found is taken for sure.

        ``share`` (S,) and ``doubt_m2`` (S, 3, 3) are what a linear array leaves open of the places.
        """
        return cls.of_fit(
            fit,
            scale,
            point_probability=np.ones(seen.shape[1]) if share is None else share,
            visibility_probability=seen.astype(float),
            line_of_sight_probability=line_of_sight.astype(float),
            path_probability=np.ones(len(fit.paths)),
            doubt_m2=doubt_m2,
        )


@dataclass(frozen=True, eq=False)
class Outcome:
    """How an estimation went.

    Attributes
    ----------
    history : History
    status : str
        Why it stopped.
    converged : bool
    warnings : tuple of str
    ambiguities : tuple of Ambiguity
    """

    history: History
    status: str
    converged: bool
    warnings: tuple[str, ...] = ()
    ambiguities: tuple[Ambiguity, ...] = ()

    @classmethod
    def finished(
        cls, noise_variance: float, n_active: int, seconds: float, warnings: Sequence[str] = ()
    ) -> Outcome:
        """Return the outcome of a method without iterations: one row of history, no objective."""
        history = History()
        history.append(IterationRecord(float("nan"), noise_variance, n_active, seconds))
        return cls(history, "finished", True, tuple(warnings))


def build_result(
    estimator: str,
    channel: ChannelEstimate,
    scene: SceneEstimate,
    detection: Detection,
    outcome: Outcome,
    diffuse: DiffuseEstimate | None = None,
    motion: MotionEstimate | None = None,
    misfit: Misfit | None = None,
    information: SceneInformation | None = None,
    elements: ElementEstimate | None = None,
) -> EstimationResult:
    """Return the result of an estimator, the one place that fills its fields."""
    parts = [part for part in (diffuse, motion, elements) if part is not None]
    found = {f.name: getattr(part, f.name) for part in parts for f in fields(part)}
    return EstimationResult(
        estimator=estimator,
        channel=channel.mean,
        channel_variance=channel.variance,
        noise_variance=channel.noise_variance,
        **{field.name: getattr(scene, field.name) for field in fields(scene)},
        symbol_mean=detection.moments.mean,
        symbol_decision=detection.decision,
        llr=detection.llr,
        history=outcome.history,
        converged=outcome.converged,
        n_iter=len(outcome.history),
        status=_status(outcome, misfit),
        warnings=(*outcome.warnings, *misfit_warnings(misfit)),
        ambiguities=outcome.ambiguities,
        misfit=misfit,
        information=information,
        **found,
    )


def _status(outcome: Outcome, misfit: Misfit | None) -> str:
    """Why an estimator stopped, or what is the matter with an outcome that it converged to."""
    if not outcome.converged:
        return outcome.status
    if misfit is not None and misfit.failing:
        return "misfit"
    return "ambiguous" if outcome.ambiguities else outcome.status


def _nominal(obs: UplinkObservation) -> dict[str, Any]:
    """Users, none where they are not given, and clocks as the observation has them."""
    positions, stds = np.zeros((0, 3)), np.zeros((0, 3))
    if obs.user_positions_m is not None and obs.user_position_stds_m is not None:
        positions, stds = obs.user_positions_m, obs.user_position_stds_m
    return {
        "user_positions_m": positions,
        "user_position_covariance_m2": stds[:, :, None] ** 2 * np.eye(3),
        "time_offsets_s": np.zeros(obs.n_users),
        "time_offset_std_s": np.array(obs.time_offset_stds_s),
    }


def without_places(obs: UplinkObservation) -> tuple[str, ...]:
    """Return what a result has to say where nothing can be located."""
    if obs.geometry is not None:
        return ()
    missing = "user_positions_m" if obs.user_positions_m is None else "region_m"
    return (
        f"{missing}: none given, so that nothing is located and lines of sight stay undecided; paths have "
        "directions, and delays relative to the receiver's time base, up to one unambiguous interval",
    )


def taken_as_static(obs: UplinkObservation) -> tuple[str, ...]:
    """Return what a method that follows no motion and learns no array has to say where that is asked for."""
    said = []
    if obs.motion is not None:
        said.append(
            "symbol_times_s: the block moves or turns, but this estimator takes it as static, and its "
            "channel as one for all symbols; EMTurboBiSVBI follows motion"
        )
    if obs.hardware is not None:
        said.append(
            "element_response, element_gain_std, element_phase_std_rad, array_rotation_std_rad: this "
            "estimator takes the array as ideal; EMTurboBiSVBI learns its elements and how it stands"
        )
    return (*said, *not_modelled(obs))


def not_modelled(obs: UplinkObservation) -> tuple[str, ...]:
    """Return what no estimator takes into account yet of what an observation says of its receiver."""
    hardware = obs.hardware
    if hardware is None:
        return ()
    coloured = hardware.noise_covariance is not None or hardware.estimates_noise
    asked = [
        name
        for name, is_asked in (("coupling_std", hardware.coupling_std > 0), ("noise_covariance", coloured))
        if is_asked
    ]
    if not asked:
        return ()
    return (
        f"{', '.join(asked)}: not taken into account; correct the samples beforehand (whiten them over the "
        "array, undo the coupling), or trust stated errors less",
    )


def unseen_cosines(array: AntennaArray) -> tuple[str, ...]:
    """Return warnings that the array does not see some direction cosine, or takes one for another."""
    if isinstance(array, ArbitraryArray) and array.highest_sidelobe > _ALIKE:
        return (
            f"{array.description} hears directions far apart with {100 * array.highest_sidelobe:.0f} % of "
            "the power of one; paths may have one direction of several that look the same, and scatterers a "
            "place of several",
            *_unseen(array),
        )
    return _unseen(array)


def _unseen(array: AntennaArray) -> tuple[str, ...]:
    unseen = [name for name, sees in zip(_COSINES, array.sees_cosines, strict=True) if not sees]
    if not unseen:
        return ()
    form = "a cone around its axis" if len(unseen) == 1 else "a length without a direction"
    return (
        f"{array.description} does not see the {' and the '.join(unseen)} direction cosine: a "
        f"path is {form}; unlocated paths report 0 there, and a scatterer is given a place only where the "
        "region or several users leave no more than a resolution cell open",
    )


def _velocities(movers: Movers, shown: NDArray[np.bool_]) -> dict[str, RealArray]:
    """The velocities of the points that are shown, in the names of a result."""
    velocities, covariances = movers.marginal()
    return {
        "scatterer_velocities_m_s": velocities[shown],
        "scatterer_velocity_covariance_m2_s2": covariances[shown],
        "moving_probability": movers.probability[shown],
    }


def _is_placed(fit: Fit, covariances_m2: RealArray) -> NDArray[np.bool_]:
    """Which points (S,) are known to a resolution cell, where the array does not see all cosines."""
    if all(fit.problem.receiver.array.sees_cosines):
        return np.ones(len(covariances_m2), bool)
    return np.asarray(np.linalg.eigvalsh(covariances_m2)[:, -1] <= fit.problem.length_cell_m**2)


def _diagonal_blocks(covariance: RealArray) -> RealArray:
    """The 3 x 3 blocks on the diagonal, shape (S, 3, 3)."""
    n = len(covariance) // 3
    index = np.arange(n)
    return covariance.reshape(n, 3, n, 3)[index, :, index]


def _unlocated(fit: Fit, shown: NDArray[np.bool_], probability: RealArray, scale: float) -> UnlocatedPaths:
    """Unlocated paths, and paths over points that are not shown."""
    paths, scene, receiver = fit.paths, fit.scene, fit.problem.receiver
    hidden = np.zeros(len(paths), bool)
    hidden[paths.is_point] = ~shown[paths.target[paths.is_point]]
    index = np.flatnonzero(paths.is_unlocated | hidden)
    user, unlocated = paths.user[index], paths.is_unlocated[index]
    cosines = np.empty((index.size, 2))
    cosines[unlocated] = scene.unlocated_m[paths.unlocated[index[unlocated]], 1:]
    direction, _ = unit_vectors(receiver.bs_position_m, scene.points_m[paths.target[index[~unlocated]]])
    cosines[~unlocated] = np.stack(receiver.array.direction_cosines(direction), axis=-1)
    cosines[:, np.logical_not(receiver.array.sees_cosines)] = 0.0
    # noise may carry a path near the edge out of the unit disc; what is reported is a direction
    cosines /= np.maximum(np.linalg.norm(cosines, axis=1, keepdims=True) * (1 + 1e-15), 1.0)
    length = fit.parameters.length_m[index] - scene.offsets_m[user]
    return UnlocatedPaths(
        user=user,
        direction_cosines=cosines,
        delay_s=length / SPEED_OF_LIGHT_M_S,
        gain=np.asarray(fit.posterior.mean[index] * scale, dtype=complex),
        probability=probability[index],
        doppler_hz=_doppler_by_motion(fit, index),
    )


def _doppler_by_motion(fit: Fit, index: NDArray[np.int64]) -> RealArray | None:
    """Doppler shifts of paths, their users' frequency offsets removed; None where nothing moves."""
    motion, shifts = fit.scene.motion, fit.parameters.doppler_hz
    if motion is None or shifts is None:
        return None
    return np.asarray(shifts[index] - motion.offsets_hz[fit.paths.user[index]])


def channel_variance(fit: Fit, covariance: RealArray, n_users: int) -> RealArray:
    """Return the posterior variance of every channel entry, shape (K, N, M) (docs/theory.md, section 5).

    The channel's error is ``Phi (dx - gamma Sigma B dtheta) + sum_i x_i phi_i' J_i dtheta`` with
    ``dx ~ CN(0, Sigma)`` and ``dtheta ~ N(0, C)``; its covariance lives on the path and derivative atoms
    of each user.
    """
    atoms, posterior = fit.atoms, fit.posterior
    if isinstance(atoms, MovingAtoms):
        atoms = atoms.still
    n_types, n_paths = atoms.n_types, len(fit.paths)
    gain_scene, _, _ = scene_blocks(fit)
    in_scene = np.empty((n_types, n_paths, covariance.shape[0]), complex)
    in_scene[0] = -fit.problem.noise_precision * (posterior.covariance @ gain_scene)
    in_scene[1:] = posterior.mean[:, None] * fit.parameters.jacobian[: n_types - 1]
    variance = np.zeros((n_users, atoms.delay.shape[0], atoms.steering.shape[2]))
    for k in np.unique(atoms.user):
        index = np.flatnonzero(atoms.user == k)
        rows = in_scene[:, index].reshape(n_types * index.size, -1)
        joint: ComplexArray = np.asarray((rows @ covariance) @ rows.conj().T, dtype=complex)
        joint[: index.size, : index.size] += posterior.covariance[np.ix_(index, index)]
        joint = joint.reshape(n_types, index.size, n_types, index.size)
        variance[k] = _summed_power(
            joint, atoms.delay[:, index], atoms.steering[:, index], atoms.wavenumbers_per_m
        )
    return variance


def _summed_power(
    joint: ComplexArray, delay: ComplexArray, steering: ComplexArray, wavenumbers_per_m: RealArray
) -> RealArray:
    """``diag(Psi C Psi^H)`` as an (N, M) array for a user's path and derivative atoms ``Psi``.

    A pair of paths contributes ``b_ni conj(b_nj)`` times a quadratic in ``w_n`` whose coefficients depend on
    the antenna, so the sum over the pairs i <= j is one real matrix product.
    """
    n_types, n_paths = joint.shape[:2]
    i, j = np.triu_indices(n_paths)
    arrays = np.concatenate([steering[:1], steering])
    phase = np.where(np.arange(n_types) == 1, -1j, 1)
    weights = joint[:, i, :, j] * np.multiply.outer(phase, phase.conj())
    weights[i != j] *= 2
    coefficients = np.zeros((3, i.size, steering.shape[2]), complex)
    for s in range(n_types):
        for t in range(n_types):
            term = weights[:, s, t, None] * (arrays[s, i] * arrays[t, j].conj())
            coefficients[int(s == 1) + int(t == 1)] += term
    pairs = delay[:, i] * delay[:, j].conj()
    powers = wavenumbers_per_m[:, None] ** np.arange(3)[:, None, None] * pairs
    left = np.concatenate([powers.real, powers.imag], axis=2)
    right = np.concatenate([coefficients.real, -coefficients.imag], axis=1)
    return np.maximum(np.sum(np.matmul(left, right), axis=0), 0.0)
