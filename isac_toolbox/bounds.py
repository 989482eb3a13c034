"""Hybrid Cramer-Rao bound of positions, clocks and channel."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from isac_toolbox._validation import check_has
from isac_toolbox.channel.array import SPEED_OF_LIGHT_M_S, UniformPlanarArray
from isac_toolbox.channel.atoms.dense import PathAtoms, fisher_blocks, make_atoms
from isac_toolbox.channel.atoms.elements import coupling_blocks, element_blocks
from isac_toolbox.channel.atoms.frames import Frames, MovingAtoms
from isac_toolbox.channel.atoms.kinematics import Kinematics
from isac_toolbox.channel.atoms.receiver import Receiver
from isac_toolbox.channel.atoms.scene import PathParameters, Paths, Scene, ScenePrior, path_parameters
from isac_toolbox.channel.atoms.whitening import Whitening
from isac_toolbox.channel.coupling import CouplingKinds
from isac_toolbox.channel.motion import Motion
from isac_toolbox.channel.observation import UplinkObservation
from isac_toolbox.estimators.symbols.block import Masks
from isac_toolbox.estimators.symbols.phases import walk_precision

if TYPE_CHECKING:
    from isac_toolbox.scenario import Simulation, Truth

__all__ = ["HybridBound", "hybrid_crb"]


@dataclass(frozen=True, eq=False)
class HybridBound:
    """Lower bounds on root mean squared errors.

    Attributes
    ----------
    position_rmse_m : ndarray, shape (S,)
        Of every scatterer.
    position_covariance_m2 : ndarray, shape (S, 3, 3)
    user_position_rmse_m : ndarray, shape (K,)
    time_offset_rmse_s : ndarray, shape (K,)
        Both empty where the observation has no places.
    channel_nmse : float
        ``E sum |h_hat - h|^2 / sum |h|^2``.
    unlisted_share : float
        Share of the channel's power in what the truth lists no path for (rays, bodies' extent, a diffuse
        tail). The bound takes that part as known: it stays a bound, but no receiver comes near it.
    frequency_offset_rmse_hz, user_velocity_rmse_m_s : ndarray, shape (K,)
    scatterer_velocity_rmse_m_s : ndarray, shape (S,)
        Zero of those at rest. All three are empty where nothing moves. With motion the channel is that of
        all symbols, phases of the oscillators included.
    """

    position_rmse_m: NDArray[np.float64]
    position_covariance_m2: NDArray[np.float64]
    user_position_rmse_m: NDArray[np.float64]
    time_offset_rmse_s: NDArray[np.float64]
    channel_nmse: float
    unlisted_share: float = 0.0
    frequency_offset_rmse_hz: NDArray[np.float64] = field(default_factory=lambda: np.zeros(0))
    user_velocity_rmse_m_s: NDArray[np.float64] = field(default_factory=lambda: np.zeros(0))
    scatterer_velocity_rmse_m_s: NDArray[np.float64] = field(default_factory=lambda: np.zeros(0))

    @property
    def channel_nmse_db(self) -> float:
        """Channel bound in dB."""
        return float(10 * np.log10(self.channel_nmse))


def hybrid_crb(simulation: Simulation, known_data: bool = True) -> HybridBound:
    """Bound at the true scene: gains and scatterers unknown, users and clocks with their priors.

    Parameters
    ----------
    simulation : Simulation
    known_data : bool
        True: all symbols known (no receiver can do better); False: pilots only.

    Returns
    -------
    HybridBound

    Raises
    ------
    TypeError
        If it is no simulation.
    ValueError
        If the truth lists no path at all (CDL-A to CDL-C): there is nothing to bound.

    Notes
    -----
    docs/theory.md, section 8. Visibility is known; unlocated paths count with free direction and delay.
    Where the observation has no places, all paths are unlocated, and users and clocks have no bound.
    Paths that the block cannot tell apart make the Fisher matrix singular; a tiny ridge then keeps the
    channel's bound finite and the positions' very large. An array of one row or column does not see one
    direction cosine: scatterers then have the region as prior, a Gaussian of the variance of a uniform law
    (extent squared over twelve), as in the estimators. Other arrays have no prior of the scatterers. Masked
    elements and cells tell nothing, a cell of which single samples are masked as much as the share of its
    elements that are left; the channel's error counts all entries. What ``truth.diffuse_channel`` holds is
    taken as known (``unlisted_share``). Noise that is not white over the array, and interferers, have their
    true covariance, which counts as known.

    Examples
    --------
    >>> import isac_toolbox as isac
    >>> sim = isac.Scenario.load("urban_uplink").simulate(seed=0)
    >>> bound = isac.bounds.hybrid_crb(sim)
    >>> round(bound.channel_nmse_db, 1), bound.position_rmse_m.shape
    (-47.5, (8,))
    """
    check_has("simulation", simulation, "a Simulation", ("observation", "truth"))
    obs, truth = simulation.observation, simulation.truth
    if not (truth.line_of_sight.any() or truth.visibility.any() or len(truth.unlocated_paths)):
        raise ValueError(
            "simulation must have a line of sight, a scatterer or an unlocated path for a bound, got one of "
            f"{len(truth.rays)} rays alone ({truth.environment.name})"
        )
    receiver = replace(Receiver.of(obs), coupling=truth.coupling_matrix)
    scene, paths, gains = _truth(truth, obs)
    if obs.geometry is None:
        station = replace(receiver, bs_position_m=truth.environment.bs_position_m)
        scene, paths = _unlocated(scene, paths, station)

    symbols = truth.symbols if known_data else obs.pilots
    if obs.motion is not None:
        turned = np.exp(1j * (truth.symbol_phase_rad + truth.user_symbol_phase_rad))
        symbols = symbols * turned[:, None, :]
    masks = Masks.of(obs)
    if masks is not None:
        symbols = symbols * np.sqrt(masks.share())
    parameters = path_parameters(scene, paths, receiver)
    whitening = _whitening(truth, receiver)
    heard = make_atoms(parameters, paths, replace(receiver, whitening=whitening))
    everywhere = make_atoms(parameters, paths, replace(receiver, element_mask=None))
    prior, n_gains = ScenePrior.of(obs), 2 * len(paths)
    if obs.motion is None:
        information, metric = (
            _real_fisher(atoms.full_gram(gram), gains, parameters.jacobian)
            for atoms, gram in ((heard, _gram(symbols)), (everywhere, _gram_of_channels(symbols)))
        )
    else:
        turns = _MovingFisher(gains, parameters.jacobian, obs.motion)
        information = turns.information(heard, symbols)
        metric = turns.information(everywhere, None)
    end = n_gains + scene.n_parameters
    elements = _elements(obs)
    if elements is not None:
        stated = heard if whitening is None else make_atoms(parameters, paths, receiver)
        information = _with_elements(
            information, stated, parameters, gains, _gram(symbols), receiver.element_mask, whitening
        )
        metric = _with_elements(metric, everywhere, parameters, gains, _gram_of_channels(symbols))
    coupling = _coupling(obs)
    if coupling is not None:
        kinds, of_kinds = coupling
        count, told = len(information) - end, replace(receiver, whitening=whitening)
        information, metric = (
            _with_coupling(matrix, kinds, parameters, paths, by, gains, gram, count)
            for matrix, by, gram in (
                (information, told, _gram(symbols)),
                (metric, replace(receiver, element_mask=None), _gram_of_channels(symbols)),
            )
        )
    information *= 2 / truth.noise_variance if whitening is None else 2 * whitening.scale
    information[n_gains:end, n_gains:end] += np.diag(prior.precision(scene))
    known = np.zeros(len(information), bool)
    known[n_gains:end] = prior.known(scene)
    if elements is not None:
        at = slice(end, end + len(elements[0]))
        known[at], of_prior = elements
        information[at, at] += of_prior
    if coupling is not None:
        information[-of_kinds.size :, -of_kinds.size :] += np.diag(of_kinds)
    if obs.motion is not None:
        known[end:] = turns.add_prior(information[end:, end:])
    covariance = np.zeros_like(information)
    covariance[np.ix_(~known, ~known)] = _inverse(information[np.ix_(~known, ~known)])

    error = float(np.sum(metric * covariance))
    channels = truth.channel if truth.channel_over_time is None else truth.channel_over_time
    power, unlisted = float(np.sum(np.abs(channels) ** 2)), truth.diffuse_channel
    block = covariance[n_gains:end, n_gains:end]
    points, users, offsets, _ = scene.blocks()
    variance = np.diag(block)
    positions = block[points, points].reshape(len(scene.points_m), 3, len(scene.points_m), 3)
    index = np.arange(len(scene.points_m))
    if obs.geometry is None:
        users = offsets = slice(0, 0)
    return HybridBound(
        position_rmse_m=np.sqrt(variance[points].reshape(-1, 3).sum(axis=1)),
        position_covariance_m2=positions[index, :, index],
        user_position_rmse_m=np.sqrt(variance[users].reshape(-1, 3).sum(axis=1)),
        time_offset_rmse_s=np.sqrt(variance[offsets]) / SPEED_OF_LIGHT_M_S,
        channel_nmse=error / power,
        unlisted_share=0.0 if unlisted is None else float(np.sum(np.abs(unlisted) ** 2)) / power,
        **_of_motion(scene, variance),
    )


def _truth(truth: Truth, obs: UplinkObservation) -> tuple[Scene, Paths, NDArray[np.complex128]]:
    """The true scene, its paths and their gains (L,)."""
    extra = truth.unlocated_paths
    observed_length = SPEED_OF_LIGHT_M_S * (extra.delay_s + truth.time_offsets_s[extra.user])
    motion = None
    if obs.motion is not None:
        velocities = truth.scatterer_velocities_m_s
        motion = Kinematics(
            truth.frequency_offsets_hz,
            truth.user_velocities_m_s,
            velocities,
            np.any(velocities != 0, axis=1),
            np.zeros(len(extra)) if extra.doppler_hz is None else extra.doppler_hz,
            obs.motion.hz_per_m_s,
        )
    scene = Scene(
        points_m=truth.scatterer_positions_m,
        users_m=truth.user_positions_m,
        offsets_m=SPEED_OF_LIGHT_M_S * truth.time_offsets_s,
        unlocated_m=np.column_stack([observed_length, extra.direction_cosines]),
        motion=motion,
    )
    paths = Paths.build(truth.line_of_sight, truth.visibility, extra.user)
    los, seen = paths.is_line_of_sight, paths.is_point
    gains = np.empty(len(paths), complex)
    gains[los] = truth.line_of_sight_gain[paths.user[los]]
    gains[seen] = truth.scatterer_gain[paths.user[seen], paths.target[seen]]
    gains[paths.is_unlocated] = extra.gain
    return scene, paths, gains


def _of_motion(scene: Scene, variance: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
    """Bounds of the motion of a scene from the variances (P,) of its vector."""
    if scene.motion is None:
        return {}
    offsets, users, points, _ = scene.motion.blocks(scene.n_parameters - scene.motion.size)
    return {
        "frequency_offset_rmse_hz": np.sqrt(variance[offsets]),
        "user_velocity_rmse_m_s": np.sqrt(variance[users].reshape(-1, 3).sum(axis=1)),
        "scatterer_velocity_rmse_m_s": np.sqrt(variance[points].reshape(-1, 3).sum(axis=1)),
    }


def _gram(symbols: NDArray[np.complex128]) -> NDArray[np.complex128]:
    """``sum_t conj(u_knt) u_jnt`` of symbols (K, N, T), shape (N, K, K)."""
    return np.asarray(np.einsum("knt,jnt->nkj", symbols.conj(), symbols, optimize=True))


def _gram_of_channels(symbols: NDArray[np.complex128]) -> NDArray[np.complex128]:
    """Symbol Gram under which the Fisher matrix is that of the channels of all users, (N, K, K)."""
    n_users, n_sub, _ = symbols.shape
    return np.broadcast_to(np.eye(n_users, dtype=complex), (n_sub, n_users, n_users))


def _unlocated(scene: Scene, paths: Paths, receiver: Receiver) -> tuple[Scene, Paths]:
    """The same paths, none of them with a place."""
    parameters = path_parameters(scene, paths, receiver)
    alone = Scene(
        points_m=np.zeros((0, 3)),
        users_m=scene.users_m,
        offsets_m=np.zeros_like(scene.offsets_m),
        unlocated_m=np.column_stack([parameters.length_m, *parameters.cosines]),
        motion=_unlocated_motion(scene, paths, parameters),
    )
    n_users = len(scene.users_m)
    return alone, Paths.build(np.zeros(n_users, bool), np.zeros((n_users, 0), bool), paths.user)


def _whitening(truth: Truth, receiver: Receiver) -> Whitening | None:
    """The whitening of noise and interference together; None where they are white.

    Raises
    ------
    ValueError
        Together with beam squint.
    """
    n_elements = receiver.array.n_elements
    shape, interference = truth.noise_covariance, truth.interference_covariance
    if shape is None and interference is None:
        return None
    if receiver.beam_squint:
        raise ValueError(
            "simulation: the bound takes noise that is not white over the array, or interferers, without "
            "beam_squint, got both"
        )
    covariance = truth.noise_variance * (np.eye(n_elements) if shape is None else shape)
    total = covariance if interference is None else covariance + interference
    return Whitening.of(np.asarray(total, dtype=complex), receiver.element_mask)


def _elements(obs: UplinkObservation) -> tuple[NDArray[np.bool_], NDArray[np.float64]] | None:
    """Known ones of the elements' gains and phases (2 M,), and their precision (2 M, 2 M); None if all are.

    Raises
    ------
    ValueError
        Where the array may stand otherwise than stated, or the block moves as well.
    """
    hardware = obs.hardware
    if hardware is None or not hardware.has_element_errors:
        return None
    if obs.motion is not None or obs.beam_squint or np.any(hardware.rotation_stds):
        raise ValueError(
            "simulation: the bound takes element errors (element_gain_std, element_phase_std_rad) in static "
            "blocks without beam_squint and array_rotation_std_rad, got them together"
        )
    prior = hardware.element_covariance
    known = np.diag(prior) == 0
    precision = np.zeros_like(prior)
    precision[np.ix_(~known, ~known)] = _inverse(prior[np.ix_(~known, ~known)])
    return known, precision


def _with_elements(
    fisher: NDArray[np.float64],
    atoms: PathAtoms,
    parameters: PathParameters,
    gains: NDArray[np.complex128],
    symbol_gram: NDArray[np.complex128],
    heard: NDArray[np.bool_] | None = None,
    whitening: Whitening | None = None,
) -> NDArray[np.float64]:
    """Fisher matrix with gains and phases (2 M) of the elements as further parameters.

    The atoms are those on the elements, without the whitening.
    """
    cross, own = element_blocks(atoms, parameters.jacobian, gains, symbol_gram, heard, whitening)
    return np.block([[fisher, cross], [cross.T, own]])


def _coupling(obs: UplinkObservation) -> tuple[CouplingKinds, NDArray[np.float64]] | None:
    """Kinds of pairs that couple, and precision (2 R,) of real and imaginary parts; None where none do.

    Raises
    ------
    ValueError
        Where the block moves as well, or the array is no planar one, or squints.
    """
    hardware = obs.hardware
    if hardware is None or not hardware.coupling_std:
        return None
    if obs.motion is not None or obs.beam_squint or not isinstance(obs.array, UniformPlanarArray):
        raise ValueError(
            "simulation: the bound takes coupling (coupling_std) in static blocks of a UniformPlanarArray "
            "without beam_squint, got them together"
        )
    kinds = CouplingKinds.of(obs.array)
    precision = 2 / (hardware.coupling_std * kinds.relative_stds) ** 2
    return kinds, np.tile(precision, 2)


def _with_coupling(
    fisher: NDArray[np.float64],
    kinds: CouplingKinds,
    parameters: PathParameters,
    paths: Paths,
    receiver: Receiver,
    gains: NDArray[np.complex128],
    symbol_gram: NDArray[np.complex128],
    n_elements: int,
) -> NDArray[np.float64]:
    """Fisher matrix with real and imaginary parts (2 R) of what elements hear of each other.

    Before them it has ``n_elements`` gains and phases of elements, none or two of each.
    """
    atoms = make_atoms(parameters, paths, receiver)
    ideal = make_atoms(parameters, paths, replace(receiver, coupling=None, whitening=None))
    sent = ideal.synthesise(gains, symbol_gram.shape[1])
    flat = kinds.applied(sent.reshape(-1, sent.shape[2]).T).transpose(0, 2, 1)
    fields = receiver.whitened(flat.reshape(-1, *sent.shape))
    if receiver.element_mask is not None:
        fields = np.where(receiver.element_mask, fields, 0)
    cross, own, explained = coupling_blocks(atoms, parameters.jacobian, gains, fields, symbol_gram)
    if n_elements:
        heard = receiver.stated(atoms.synthesise(gains, symbol_gram.shape[1]))
        of_elements = np.einsum("knm,rknm->mr", heard.conj(), receiver.whitened(explained), optimize=True)
        if receiver.element_mask is not None:
            of_elements = np.where(receiver.element_mask[:, None], of_elements, 0)
        in_elements = np.block([[of_elements.real, -of_elements.imag], [of_elements.imag, of_elements.real]])
        cross = np.concatenate([cross, in_elements])
    return np.block([[fisher, cross], [cross.T, own]])


def _unlocated_motion(scene: Scene, paths: Paths, parameters: PathParameters) -> Kinematics | None:
    """The same Doppler shifts with no place behind them."""
    motion, shifts = scene.motion, parameters.doppler_hz
    if motion is None or shifts is None:
        return None
    return motion.take(slice(0, 0), slice(0, 0)).extended(0, shifts - motion.offsets_hz[paths.user])


@dataclass(frozen=True, eq=False)
class _MovingFisher:
    """Fisher matrix of a block that moves, symbol by symbol.

    Parameters, in this order: real and imaginary parts of the gains, the scene's vector, and the phases of
    station and users together, in the basis of what has no mean over the block.

    Attributes
    ----------
    gains : ndarray of complex, shape (L,)
    jacobian : ndarray, shape (2 + D, L, P)
    motion : Motion
    """

    gains: NDArray[np.complex128]
    jacobian: NDArray[np.float64]
    motion: Motion

    @property
    def _has_phases(self) -> bool:
        return self.motion.has_phase_noise and self.motion.times_s.size > 1

    @cached_property
    def _basis(self) -> NDArray[np.float64]:
        """Orthonormal basis (T, T - 1) of what has no mean."""
        n = self.motion.times_s.size
        return np.asarray(np.linalg.qr(np.ones((n, 1)), mode="complete")[0][:, 1:])

    def information(self, atoms: PathAtoms, symbols: NDArray[np.complex128] | None) -> NDArray[np.float64]:
        """Return real inner products of the derivatives of the mean of the samples, summed over symbols.

        Of the channels of every symbol where ``symbols`` (K, N, T) is None.
        """
        assert isinstance(atoms, MovingAtoms)
        n_paths = self.gains.size
        of_scene = self.jacobian * self.gains[:, None]
        n_scene = of_scene.shape[2]
        still = np.zeros((1 + len(self.jacobian), n_paths, 2 * n_paths + n_scene), complex)
        still[0, :, :n_paths], still[0, :, n_paths : 2 * n_paths] = np.eye(n_paths), 1j * np.eye(n_paths)
        still[1:, :, 2 * n_paths :] = of_scene
        still = still.reshape(-1, still.shape[2])
        n_users = len(self.motion.user_velocities_m_s)
        of_phases = np.zeros((len(still), n_users), complex)
        of_phases[np.arange(n_paths), atoms.user] = 1j * self.gains
        total = np.zeros((still.shape[1], still.shape[1]))
        n_times, crossing, alone = self.motion.times_s.size, [], []
        for t, time in enumerate(self.motion.times_s):
            gram = self._gram_at(atoms, None if symbols is None else symbols[..., t : t + 1], time)
            right = gram @ still
            total += np.real(still.conj().T @ right)
            crossing.append(np.real(of_phases.conj().T @ right))
            alone.append(np.real(of_phases.conj().T @ gram @ of_phases))
        if not self._has_phases:
            return total
        cross = np.einsum("tkp,tb->kbp", crossing, self._basis).reshape(-1, still.shape[1])
        inner = np.einsum("tkj,tb,tc->kbjc", alone, self._basis, self._basis, optimize=True)
        square = inner.reshape(n_users * (n_times - 1), -1)
        return np.block([[total, cross.T], [cross, square]])

    def _gram_at(
        self, atoms: MovingAtoms, symbols: NDArray[np.complex128] | None, time_s: float
    ) -> NDArray[np.complex128]:
        """Gram of all atoms in one OFDM symbol, as a matrix (types L, types L)."""
        n_users, n_sub = len(self.motion.user_velocities_m_s), len(atoms.delay)
        gram = np.broadcast_to(np.eye(n_users, dtype=complex), (n_sub, n_users, n_users))
        frame = Frames(
            np.array([time_s]),
            (gram if symbols is None else _gram(symbols))[None],
            np.zeros((n_users, n_sub, 1, 0), complex),
            np.zeros(n_users),
        )
        full = atoms.full_gram_over_time(frame)
        size = full.shape[0] * full.shape[2]
        return full.transpose(0, 2, 1, 3).reshape(size, size)

    def add_prior(self, of_phases: NDArray[np.float64]) -> NDArray[np.bool_]:
        """Add the prior of the phases to their block in place, and return which of them are known."""
        if not self._has_phases:
            return np.zeros(0, bool)
        of_phases += walk_precision(self.motion, self._basis)
        return np.zeros(len(of_phases), bool)


def _real_fisher(
    gram: NDArray[np.complex128], gains: NDArray[np.complex128], jacobian: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Real inner products of the channel's derivatives in (Re x, Im x, scene)."""
    gg, gs, ss = fisher_blocks(gram, gains, jacobian)
    return np.block([[gg.real, -gg.imag, gs.real], [gg.imag, gg.real, gs.imag], [gs.real.T, gs.imag.T, ss]])


def _inverse(matrix: NDArray[np.float64]) -> NDArray[np.float64]:
    """Inverse of a positive semi-definite matrix, scaled to unit diagonal, with a tiny ridge.

    Raises
    ------
    ValueError
        If the block and the priors say nothing of some combination of parameters.
    """
    scale = 1 / np.sqrt(np.maximum(np.diag(matrix), 1e-300))
    scaled = matrix * scale[:, None] * scale
    try:
        return np.linalg.inv(scaled + 1e-13 * np.eye(len(matrix))) * scale[:, None] * scale
    except np.linalg.LinAlgError:
        raise ValueError(
            f"simulation: neither samples nor priors tell its {len(matrix)} parameters apart, so that there "
            "is no bound; fewer users or paths, or narrower priors, have one"
        ) from None
