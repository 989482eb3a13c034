"""What turns in a moving block: start values, channels at other times, phases of the oscillators.

docs/theory.md, sections 2.6 and 7.8.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from isac_toolbox.channel.atoms.frames import MovingAtoms, StillAtoms, chebyshev_times, interpolation
from isac_toolbox.channel.atoms.kinematics import KinematicPrior
from isac_toolbox.channel.evolution import ChannelEvolution
from isac_toolbox.channel.motion import Motion
from isac_toolbox.estimators.scene.fit import Bundles, Fit
from isac_toolbox.estimators.symbols.block import ReceivedBlock
from isac_toolbox.estimators.symbols.derotation import Derotation
from isac_toolbox.estimators.symbols.detection import ChannelKnowledge
from isac_toolbox.estimators.symbols.statistics import SymbolMoments

__all__ = [
    "at_rest",
    "channel_at",
    "channels_of",
    "derotated",
    "evolution_of",
    "mean_doppler_hz",
    "no_derotation",
]

RealArray = NDArray[np.float64]
ComplexArray = NDArray[np.complex128]
IntArray = NDArray[np.int64]

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
    """Return the channel in some OFDM symbols, of which the derotation is given.

    Resource elements take the place of subcarriers, one subcarrier's symbols after another; the paths' delay
    factors hold how they turn.
    """
    posterior, n_users = fit.posterior, derotation.doppler_hz.size
    if fit.bundles is not None:
        times = np.tile(derotation.times_s, len(fit.atoms.delay))
        mean = _of_bundles(fit, fit.bundles, _turned(fit, derotation).delay, times, n_users)
        return ChannelKnowledge(mean, white_variance=fit.bundles.entry_variance)
    return ChannelKnowledge.from_paths(
        _turned(fit, derotation), posterior.mean, posterior.covariance, n_users
    )


def _of_bundles(
    fit: Fit, bundles: Bundles, turned: ComplexArray, times_s: RealArray, n_users: int
) -> ComplexArray:
    """Channel (K, C, M) of paths and rays around them in cells of some times (C,) and path factors (C, L)."""
    channel = np.empty((n_users, len(turned), bundles.over_array.shape[1]), complex)
    for k in range(n_users):
        own = np.flatnonzero(fit.paths.user == k)
        slopes = turned[:, own] @ bundles.slopes_hz[own]
        channel[k] = turned[:, own] @ bundles.over_array[own] + 2j * np.pi * times_s[:, None] * slopes
    return channel


def _breath(fit: Fit, times_s: RealArray) -> ComplexArray:
    """Factors (T, L) of gains that change over a block, or one."""
    if fit.slopes_hz is None:
        return np.ones((1, 1), complex)
    return np.asarray(1 + 2j * np.pi * times_s[:, None] * fit.slopes_hz)


def _turned(fit: Fit, derotation: Derotation) -> StillAtoms:
    """Atoms over the resource elements of some OFDM symbols."""
    atoms = fit.atoms
    assert isinstance(atoms, MovingAtoms)
    angle = (
        2 * np.pi * atoms.doppler_hz * derotation.times_s[:, None] + derotation.phases_rad.T[:, atoms.user]
    )
    turned = atoms.delay[:, None, :] * (np.exp(1j * angle) * _breath(fit, derotation.times_s))
    return atoms.still.over_cells(turned.reshape(-1, atoms.user.size))


def at_rest(block: ReceivedBlock, fit: Fit, moments: SymbolMoments) -> tuple[ReceivedBlock, SymbolMoments]:
    """Return a block at rest that leaves of its channel at the reference time what this one leaves.

    The symbols turn in the channel's place, by the users' mean shifts and phases; what paths turn beside
    these is taken out of the samples with the symbols' means. Samples are in single precision.
    """
    derotation = block.derotation
    assert derotation is not None
    turned = moments.derotated(derotation.factors)
    still = fit.atoms.synthesise(fit.posterior.mean, block.n_users)
    if fit.bundles is not None:
        at_reference = np.zeros(len(fit.atoms.delay))
        still = _of_bundles(fit, fit.bundles, fit.atoms.delay, at_reference, block.n_users)
    received = block.received.astype("c8")
    for symbols, channel in channels_of(fit, derotation):
        received[..., symbols] += np.einsum("knm,knt->nmt", still, turned.mean[..., symbols], optimize=True)
        received[..., symbols] -= np.einsum(
            "kntm,knt->nmt", channel, moments.mean[..., symbols], optimize=True
        )
    return replace(block, received=received, derotation=None), turned


def channels_of(fit: Fit, derotation: Derotation) -> Iterator[tuple[IntArray, ComplexArray]]:
    """Runs of OFDM symbols, and the channels of the fit's samples in them, (K, N, T', M)."""
    n_sub = len(fit.atoms.delay)
    for symbols in derotation.parts(n_sub):
        mean = channel_at(fit, derotation.take(symbols)).mean
        yield symbols, mean.reshape(len(mean), n_sub, symbols.size, -1)


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
    turns = np.exp(2j * np.pi * nodes[:, None] * beside) * _breath(fit, nodes)
    if fit.bundles is None:
        parts = np.stack([atoms.still.synthesise(gains * turn, n_users) for turn in turns])
    else:
        at = [np.full(len(atoms.delay), t) for t in nodes]
        turned = [atoms.delay * turn for turn in turns]
        parts = scale * np.stack([_of_bundles(fit, fit.bundles, d, t, n_users) for d, t in zip(turned, at)])
    parts = parts if whitened else fit.problem.receiver.stated(parts)
    return ChannelEvolution(parts, derotation.factors[:, None, :] * interpolation(nodes, times))
