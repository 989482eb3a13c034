"""From a loop's last state to an :class:`EstimationResult`, with uncertainties."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from isac_toolbox.channel.array import SPEED_OF_LIGHT_M_S
from isac_toolbox.channel.geometry import unit_vectors
from isac_toolbox.channel.observation import UplinkObservation
from isac_toolbox.channel.paths import UnlocatedPaths
from isac_toolbox.estimators.result import Candidates, EstimationResult
from isac_toolbox.estimators.scene.fit import Fit, scene_blocks, scene_covariance
from isac_toolbox.estimators.scene.problem import Problem
from isac_toolbox.estimators.symbols.detection import Detection
from isac_toolbox.inference.turbo import History

__all__ = ["SceneBelief", "assemble_result", "channel_variance"]

RealArray = NDArray[np.float64]
ComplexArray = NDArray[np.complex128]


@dataclass(frozen=True, eq=False)
class SceneBelief:
    """Everything about the scene that a result reports.

    Attributes
    ----------
    problem : Problem
    fit : Fit
        Of the paths that make up the channel.
    point_probability : ndarray, shape (S,)
        Of the fit's points.
    visibility_probability : ndarray, shape (K, S)
    line_of_sight_probability : ndarray, shape (K,)
    path_probability : ndarray, shape (L,)
        That each of the fit's paths exists, wherever it runs.
    candidates : Candidates
    """

    problem: Problem
    fit: Fit
    point_probability: RealArray
    visibility_probability: RealArray
    line_of_sight_probability: RealArray
    path_probability: RealArray
    candidates: Candidates


def assemble_result(
    name: str,
    obs: UplinkObservation,
    belief: SceneBelief,
    detection: Detection,
    scale: float,
    history: History,
    status: str,
    converged: bool,
    channel_fit: Fit | None = None,
) -> EstimationResult:
    """Result in the units of the observation (``scale`` undoes the normalisation of amplitudes).

    ``channel_fit`` gives the channel where it is not that of the located scene.
    """
    fit, problem = belief.fit, belief.problem
    n_users = obs.n_users
    covariance = scene_covariance(problem, fit)
    points, users, offsets, _ = fit.scene.blocks()
    shown = belief.point_probability >= 0.5
    source = fit if channel_fit is None else channel_fit
    own = covariance if channel_fit is None else scene_covariance(problem, source)
    channel = source.atoms.synthesise(source.posterior.mean, n_users)
    return EstimationResult(
        estimator=name,
        channel=channel * scale,
        channel_variance=channel_variance(problem, source, own, n_users) * scale**2,
        scatterer_positions_m=fit.scene.points_m[shown],
        scatterer_probability=belief.point_probability[shown],
        scatterer_covariance_m2=_diagonal_blocks(covariance[points, points])[shown],
        visibility_probability=belief.visibility_probability[:, shown],
        candidates=belief.candidates,
        line_of_sight_probability=belief.line_of_sight_probability,
        unlocated_paths=_unlocated(problem, fit, shown, belief.path_probability, scale),
        user_positions_m=fit.scene.users_m,
        user_position_covariance_m2=_diagonal_blocks(covariance[users, users]),
        time_offsets_s=fit.scene.offsets_m / SPEED_OF_LIGHT_M_S,
        time_offset_std_s=np.sqrt(np.diag(covariance)[offsets]) / SPEED_OF_LIGHT_M_S,
        noise_variance=scale**2 / problem.noise_precision,
        symbol_mean=detection.moments.mean,
        symbol_decision=detection.decision,
        llr=detection.llr,
        history=history,
        converged=converged,
        n_iter=len(history),
        status=status,
    )


def _diagonal_blocks(covariance: RealArray) -> RealArray:
    """The 3 x 3 blocks on the diagonal, shape (S, 3, 3)."""
    n = len(covariance) // 3
    index = np.arange(n)
    return covariance.reshape(n, 3, n, 3)[index, :, index]


def _unlocated(
    problem: Problem, fit: Fit, shown: NDArray[np.bool_], probability: RealArray, scale: float
) -> UnlocatedPaths:
    """Free paths, and paths over points that are not shown."""
    paths, scene = fit.paths, fit.scene
    hidden = np.zeros(len(paths), bool)
    hidden[paths.is_point] = ~shown[paths.target[paths.is_point]]
    index = np.flatnonzero(paths.is_free | hidden)
    user, free = paths.user[index], paths.is_free[index]
    cosines = np.empty((index.size, 2))
    cosines[free] = scene.free_m[paths.free[index[free]], 1:]
    direction, _ = unit_vectors(problem.receiver.bs_position_m, scene.points_m[paths.target[index[~free]]])
    cosines[~free] = np.stack(problem.receiver.array.direction_cosines(direction), axis=-1)
    length = fit.parameters.length_m[index] - scene.offsets_m[user]
    return UnlocatedPaths(
        user=user,
        direction_cosines=cosines,
        delay_s=length / SPEED_OF_LIGHT_M_S,
        gain=np.asarray(fit.posterior.mean[index] * scale, dtype=complex),
        probability=probability[index],
    )


def channel_variance(problem: Problem, fit: Fit, covariance: RealArray, n_users: int) -> RealArray:
    """Posterior variance of every channel entry, shape (K, N, M) (docs/theory.md, section 5).

    The channel's error is ``Phi (dx - gamma Sigma B dtheta) + sum_i x_i phi_i' J_i dtheta`` with
    ``dx ~ CN(0, Sigma)`` and ``dtheta ~ N(0, C)``; its covariance lives on the path and derivative atoms
    of each user.
    """
    atoms, posterior = fit.atoms, fit.posterior
    n_types, n_paths = atoms.n_types, len(fit.paths)
    gain_scene, _, _ = scene_blocks(problem, fit)
    own = np.empty((n_types, n_paths, covariance.shape[0]), complex)
    own[0] = -problem.noise_precision * (posterior.covariance @ gain_scene)
    own[1:] = posterior.mean[:, None] * fit.parameters.jacobian
    variance = np.zeros((n_users, atoms.delay.shape[0], atoms.steering.shape[2]))
    for k in np.unique(atoms.user):
        index = np.flatnonzero(atoms.user == k)
        rows = own[:, index].reshape(n_types * index.size, -1)
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
