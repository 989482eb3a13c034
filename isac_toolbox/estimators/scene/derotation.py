"""What turns in a moving block: start values, channels at other times, phases of the oscillators.

docs/theory.md, sections 2.6 and 7.8.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from isac_toolbox.channel.atoms.frames import MovingAtoms, chebyshev_times, interpolation
from isac_toolbox.channel.atoms.kinematics import KinematicPrior
from isac_toolbox.channel.evolution import ChannelEvolution
from isac_toolbox.channel.motion import Motion
from isac_toolbox.estimators.scene.fit import Fit
from isac_toolbox.estimators.symbols.block import ReceivedBlock
from isac_toolbox.estimators.symbols.derotation import Derotation
from isac_toolbox.estimators.symbols.detection import ChannelKnowledge
from isac_toolbox.estimators.symbols.statistics import SymbolMoments

__all__ = ["at_rest", "channel_at", "derotated", "evolution_of", "mean_doppler_hz", "no_derotation"]

RealArray = NDArray[np.float64]
ComplexArray = NDArray[np.complex128]

# Guard: nodes of the channel over time beyond its largest phase; leaves less than 1e-6 of it.
_EVOLUTION_NODES = 6.0


def derotated(block: ReceivedBlock, derotation: Derotation) -> ReceivedBlock:
    """Return the block with another estimate of how it turns."""
    return replace(block, derotation=derotation)


def no_derotation(motion: Motion) -> Derotation:
    """Return the derotation of which nothing is known: no mean shift, no phases."""
    prior = KinematicPrior.of(motion)
    times, n_users = motion.times_s, len(motion.user_velocities_m_s)
    nodes = chebyshev_times(times, 2 * prior.largest_doppler_hz)
    return Derotation(times, nodes, np.zeros(n_users), np.zeros((n_users, times.size)))


def mean_doppler_hz(fit: Fit) -> RealArray:
    """Return the mean Doppler shift of every user, its paths weighted by their power, shape (K,)."""
    frames, shifts = fit.problem.statistics.frames, fit.parameters.doppler_hz
    assert frames is not None and shifts is not None
    n_users = frames.mean_doppler_hz.size
    power = np.abs(fit.posterior.mean) ** 2
    total = np.bincount(fit.paths.user, power, n_users)
    mean = np.bincount(fit.paths.user, power * shifts, n_users) / np.maximum(total, 1e-300)
    return np.where(total > 0, mean, frames.mean_doppler_hz)


def channel_at(fit: Fit, derotation: Derotation) -> ChannelKnowledge:
    """Return the channel in one OFDM symbol, of which the derotation is given."""
    atoms, posterior = fit.atoms, fit.posterior
    assert isinstance(atoms, MovingAtoms)
    angle = 2 * np.pi * atoms.doppler_hz * derotation.times_s + derotation.phases_rad[atoms.user, 0]
    turn = np.exp(1j * angle)
    covariance = turn[:, None] * posterior.covariance * turn.conj()
    return ChannelKnowledge.from_paths(
        atoms.still, posterior.mean * turn, covariance, derotation.doppler_hz.size
    )


def at_rest(block: ReceivedBlock, fit: Fit, moments: SymbolMoments) -> tuple[ReceivedBlock, SymbolMoments]:
    """Return a block at rest that leaves of its channel at the reference time what this one leaves.

    The symbols turn in the channel's place, by the users' mean shifts and phases; what paths turn beside
    these is taken out of the samples with the symbols' means.
    """
    derotation = block.derotation
    assert derotation is not None
    turned = moments.derotated(derotation.factors)
    evolution = evolution_of(fit, derotation, 1.0, whitened=True)
    still = fit.atoms.synthesise(fit.posterior.mean, block.n_users)
    received = block.received.copy()
    for t in range(evolution.n_symbols):
        received[..., t] += np.einsum("knm,kn->nm", still, turned.mean[..., t], optimize=True)
        received[..., t] -= np.einsum(
            "knm,kn->nm", evolution.at([t])[..., 0], moments.mean[..., t], optimize=True
        )
    return replace(block, received=received, derotation=None), turned


def evolution_of(fit: Fit, derotation: Derotation, scale: float, whitened: bool = False) -> ChannelEvolution:
    """Return the channel over the symbols of a derotated block; ``scale`` undoes the normalisation.

    It is that on the elements, or, ``whitened``, that of the samples of the fit. Its parts are the channels
    at a few times, between which it is interpolated.
    """
    atoms, gains = fit.atoms, fit.posterior.mean * scale
    assert isinstance(atoms, MovingAtoms)
    beside = atoms.doppler_hz - derotation.doppler_hz[atoms.user]
    times, n_users = derotation.times_s, derotation.doppler_hz.size
    nodes = chebyshev_times(times, float(np.abs(beside).max(initial=0.0)), _EVOLUTION_NODES)
    turns = np.exp(2j * np.pi * nodes[:, None] * beside)
    parts = np.stack([atoms.still.synthesise(gains * turn, n_users) for turn in turns])
    parts = parts if whitened else fit.problem.receiver.stated(parts)
    return ChannelEvolution(parts, derotation.factors[:, None, :] * interpolation(nodes, times))
