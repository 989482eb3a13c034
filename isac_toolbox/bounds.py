"""Hybrid Cramer-Rao bound of positions, clocks and channel."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from isac_toolbox._validation import check_has
from isac_toolbox.channel.array import SPEED_OF_LIGHT_M_S
from isac_toolbox.channel.atoms.dense import fisher_blocks, make_atoms
from isac_toolbox.channel.atoms.receiver import Receiver
from isac_toolbox.channel.atoms.scene import Paths, Scene, ScenePrior, path_parameters
from isac_toolbox.estimators.symbols.block import Masks

if TYPE_CHECKING:
    from isac_toolbox.scenario import Simulation

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
    """

    position_rmse_m: NDArray[np.float64]
    position_covariance_m2: NDArray[np.float64]
    user_position_rmse_m: NDArray[np.float64]
    time_offset_rmse_s: NDArray[np.float64]
    channel_nmse: float
    unlisted_share: float = 0.0

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
    taken as known (``unlisted_share``).

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
    receiver = Receiver.of(obs)
    extra = truth.unlocated_paths
    observed_length = SPEED_OF_LIGHT_M_S * (extra.delay_s + truth.time_offsets_s[extra.user])
    scene = Scene(
        points_m=truth.scatterer_positions_m,
        users_m=truth.user_positions_m,
        offsets_m=SPEED_OF_LIGHT_M_S * truth.time_offsets_s,
        unlocated_m=np.column_stack([observed_length, extra.direction_cosines]),
    )
    paths = Paths.build(truth.line_of_sight, truth.visibility, extra.user)
    los, seen = paths.is_line_of_sight, paths.is_point
    gains = np.empty(len(paths), complex)
    gains[los] = truth.line_of_sight_gain[paths.user[los]]
    gains[seen] = truth.scatterer_gain[paths.user[seen], paths.target[seen]]
    gains[paths.is_unlocated] = extra.gain

    if obs.geometry is None:
        station = replace(receiver, bs_position_m=truth.environment.bs_position_m)
        scene, paths = _unlocated(scene, paths, station)

    symbols = truth.symbols if known_data else obs.pilots
    masks = Masks.of(obs)
    if masks is not None:
        symbols = symbols * np.sqrt(masks.share())
    symbol_gram = np.einsum("knt,jnt->nkj", symbols.conj(), symbols, optimize=True)
    parameters = path_parameters(scene, paths, receiver)
    atoms = make_atoms(parameters, paths, receiver)
    information = (
        _real_fisher(atoms.full_gram(symbol_gram), gains, parameters.jacobian) * 2 / truth.noise_variance
    )
    prior = ScenePrior.of(obs)
    n_gains = 2 * len(paths)
    information[n_gains:, n_gains:] += np.diag(prior.precision(scene))
    keep = np.concatenate([np.ones(n_gains, bool), ~prior.known(scene)])
    covariance = np.zeros_like(information)
    covariance[np.ix_(keep, keep)] = _inverse(information[np.ix_(keep, keep)])

    identity = np.broadcast_to(np.eye(obs.n_users, dtype=complex), symbol_gram.shape)
    everywhere = make_atoms(parameters, paths, replace(receiver, element_mask=None))
    metric = _real_fisher(everywhere.full_gram(identity), gains, parameters.jacobian)
    error = float(np.sum(metric * covariance))
    power, unlisted = float(np.sum(np.abs(truth.channel) ** 2)), truth.diffuse_channel
    block = covariance[n_gains:, n_gains:]
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
    )


def _unlocated(scene: Scene, paths: Paths, receiver: Receiver) -> tuple[Scene, Paths]:
    """The same paths, none of them with a place."""
    parameters = path_parameters(scene, paths, receiver)
    alone = Scene(
        points_m=np.zeros((0, 3)),
        users_m=scene.users_m,
        offsets_m=np.zeros_like(scene.offsets_m),
        unlocated_m=np.column_stack([parameters.length_m, *parameters.cosines]),
    )
    n_users = len(scene.users_m)
    return alone, Paths.build(np.zeros(n_users, bool), np.zeros((n_users, 0), bool), paths.user)


def _real_fisher(
    gram: NDArray[np.complex128], gains: NDArray[np.complex128], jacobian: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Real inner products of the channel's derivatives in (Re x, Im x, scene)."""
    gg, gs, ss = fisher_blocks(gram, gains, jacobian)
    return np.block([[gg.real, -gg.imag, gs.real], [gg.imag, gg.real, gs.imag], [gs.real.T, gs.imag.T, ss]])


def _inverse(matrix: NDArray[np.float64]) -> NDArray[np.float64]:
    """Inverse of a positive semi-definite matrix, scaled to unit diagonal, with a tiny ridge."""
    scale = 1 / np.sqrt(np.maximum(np.diag(matrix), 1e-300))
    scaled = matrix * scale[:, None] * scale
    return np.linalg.inv(scaled + 1e-13 * np.eye(len(matrix))) * scale[:, None] * scale
