"""What the samples of a block alone say of the elements' responses (docs/theory.md, section 6.9)."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from isac_toolbox.channel.atoms.dense import make_atoms
from isac_toolbox.channel.atoms.elements import element_blocks
from isac_toolbox.channel.atoms.frames import MovingAtoms
from isac_toolbox.channel.atoms.scene import Scene, ScenePrior
from isac_toolbox.estimators.result import ElementInformation
from isac_toolbox.estimators.scene.fit import Fit, channel_parts, element_errors_left, scene_blocks
from isac_toolbox.estimators.scene.information import marginal
from isac_toolbox.estimators.scene.world import World
from isac_toolbox.estimators.symbols.elements import phase_slopes

__all__ = ["element_information", "element_products", "paths_and_scene"]

RealArray = NDArray[np.float64]


def element_information(fit: Fit) -> ElementInformation:
    """Return what the samples say of gains and phases of the elements, relative to the stated response.

    Gains, places, clocks and directions of the block are integrated out under their priors, that of the
    elements is left out. An array that may be turned has slopes of its phases that nothing is said of.
    Doppler shifts and phases of oscillators count as known: over the symbols of a block they have no mean.

    Parameters
    ----------
    fit : Fit
        Of the paths that exist, on samples divided by the present responses.
    """
    problem = fit.problem
    elements = problem.elements
    assert elements is not None
    cross, own = element_products(fit)
    gamma = 2 * problem.noise_precision
    inner, hidden = paths_and_scene(fit)
    across = gamma * cross[hidden]
    n_hidden, n_own = int(np.count_nonzero(hidden)), len(own)
    matrix = np.zeros((n_hidden + n_own, n_hidden + n_own))
    matrix[:n_hidden, :n_hidden] = inner
    matrix[:n_hidden, n_hidden:], matrix[n_hidden:, :n_hidden] = across, across.T
    matrix[n_hidden:, n_hidden:] = gamma * own
    left, _ = element_errors_left(fit)
    found = elements.log_response + 1j * _slope(fit)
    own_part = np.arange(n_hidden, n_hidden + n_own)
    information, _ = marginal(matrix, np.zeros(len(matrix)), own_part, np.arange(n_hidden))
    vector = information @ np.concatenate([found.real, found.imag])
    vector = vector + gamma * np.concatenate([left.real, left.imag])
    turn_prior = problem.prior.turn
    if turn_prior is not None and np.any(turn_prior.stds[:3]):
        information, vector = _without_slopes(fit, information, vector)
    return ElementInformation((information + information.T) / 2, vector)


def element_products(fit: Fit) -> tuple[RealArray, RealArray]:
    """Return real inner products of elements with gains and scene (2 L + P, 2 M), and each other (2 M, 2 M).

    As :func:`~isac_toolbox.channel.atoms.elements.element_blocks`, over all frames of a block.
    """
    gains, receiver = fit.posterior.mean, fit.problem.receiver
    stated = make_atoms(fit.parameters, fit.paths, replace(receiver, whitening=None))
    atoms = stated.still if isinstance(stated, MovingAtoms) else stated
    jacobian, n_paths = fit.parameters.jacobian[: len(atoms.steering)], len(gains)
    cross, own = np.zeros((0, 0)), np.zeros((0, 0))
    for turn, _, gram in channel_parts(fit):
        across, alone = element_blocks(
            atoms, jacobian, gains * turn, gram, receiver.element_mask, receiver.whitening
        )
        turned = (across[:n_paths] + 1j * across[n_paths : 2 * n_paths]) * np.conj(turn)[:, None]
        across[:n_paths], across[n_paths : 2 * n_paths] = turned.real, turned.imag
        cross = cross + across if cross.size else across
        own = own + alone if own.size else alone
    return cross, own


def paths_and_scene(fit: Fit, keeps_pointing: bool = False) -> tuple[RealArray, NDArray[np.bool_]]:
    """Hessian of the objective in what is not of the elements, and which entries that is (2 L + P,).

    Real and imaginary parts of the gains, and the unknowns of the scene but its motion, and its pointing
    unless that is kept.
    """
    gain_scene, scene_scene, _ = scene_blocks(fit)
    gram, scene = fit.gram, fit.scene
    half = fit.problem.noise_precision * np.block(
        [
            [gram.real, -gram.imag, gain_scene.real],
            [gram.imag, gram.real, gain_scene.imag],
            [gain_scene.real.T, gain_scene.imag.T, scene_scene],
        ]
    )
    n_gains = 2 * len(fit.paths)
    half.flat[:: len(half) + 1] += np.concatenate(
        [np.tile(fit.posterior.prior_precision, 2), _alone(fit).precision(scene) / 2]
    )
    hidden = np.ones(len(half), bool)
    hidden[n_gains:] = ~_alone(fit).known(scene)
    if not keeps_pointing:
        hidden[n_gains:][scene.pointing_block] = False
    if scene.motion is not None:
        hidden[len(hidden) - scene.motion.size :] = False
    return 2 * half[np.ix_(hidden, hidden)], hidden


def _alone(fit: Fit) -> ScenePrior:
    """The prior of the scene of an array that stands as stated."""
    prior = fit.problem.prior
    if prior.turn is None:
        return prior
    return replace(prior, turn=None, users_m=prior.turn.users_m, user_stds_m=prior.turn.user_stds_m)


def _slope(fit: Fit) -> RealArray:
    """Phases of the elements that the scene has as directions turned all alike, shape (M,)."""
    scene: Scene = fit.scene
    world = World.of(fit)
    slope = np.zeros(2) if scene.pointing is None else scene.pointing
    if world is not None:
        slope = slope + world.mean[3:]
    return np.asarray(np.column_stack(phase_slopes(fit.problem.receiver.array)) @ slope)


def _without_slopes(fit: Fit, information: RealArray, vector: RealArray) -> tuple[RealArray, RealArray]:
    """The same with nothing said of the slopes of the phases."""
    slopes = np.column_stack(phase_slopes(fit.problem.receiver.array))
    columns = np.vstack([np.zeros_like(slopes), slopes])
    through = information @ columns
    inverse = np.linalg.pinv(columns.T @ through, hermitian=True)
    return information - through @ inverse @ through.T, vector - through @ inverse @ (columns.T @ vector)
