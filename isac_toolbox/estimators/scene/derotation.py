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
from isac_toolbox.estimators.search import PathSearch
from isac_toolbox.estimators.symbols.block import ReceivedBlock
from isac_toolbox.estimators.symbols.derotation import Derotation
from isac_toolbox.estimators.symbols.detection import ChannelKnowledge
from isac_toolbox.estimators.symbols.statistics import pilot_statistics

__all__ = ["acquired", "channel_at", "derotated", "evolution_of", "mean_doppler_hz", "no_derotation"]

RealArray = NDArray[np.float64]
ComplexArray = NDArray[np.complex128]

# Mathematics: steps of the Doppler search in units of what the pilots' span resolves; a quarter loses 0.2 dB.
_STEPS_PER_CELL = 4
# Guard: nodes of the channel over time beyond its largest phase; leaves less than 1e-6 of it.
_EVOLUTION_NODES = 6.0
# Cost cap: Doppler shifts that are tried for every user.
_MOST_TRIALS = 512


def derotated(block: ReceivedBlock, derotation: Derotation) -> ReceivedBlock:
    """Return the block with another estimate of how it turns."""
    return replace(block, derotation=derotation)


def no_derotation(motion: Motion) -> Derotation:
    """Return the derotation of which nothing is known: no mean shift, no phases."""
    prior = KinematicPrior.of(motion)
    times, n_users = motion.times_s, len(motion.user_velocities_m_s)
    nodes = chebyshev_times(times, 2 * prior.largest_doppler_hz)
    return Derotation(times, nodes, np.zeros(n_users), np.zeros((n_users, times.size)))


def acquired(block: ReceivedBlock, motion: Motion, search: PathSearch) -> ReceivedBlock:
    """Return the block turned by the mean Doppler shift at which each user's pilots add up to the most.

    Shifts are tried over four deviations of the prior, a quarter of the pilots' resolution apart; the highest
    power over directions and delays counts, and the prior. Between the steps a parabola is laid.
    """
    derotation = no_derotation(motion)
    block, prior = derotated(block, derotation), KinematicPrior.of(motion)
    trials = _trials(block, prior)
    if trials.size < 2:
        return block
    scores = np.stack([_scores(block, shift, search) for shift in trials], axis=1)
    stds = np.hypot(prior.offset_stds_hz, prior.further_std_hz)[:, None]
    noise = np.median(scores, axis=1, keepdims=True) / 20
    scores = scores - 0.5 * noise * (trials / np.maximum(stds, 1e-9)) ** 2
    return derotated(block, replace(derotation, doppler_hz=np.array([_peak(trials, row) for row in scores])))


def _trials(block: ReceivedBlock, prior: KinematicPrior) -> RealArray:
    """Doppler shifts to try, symmetric around zero."""
    assert block.derotation is not None
    times = block.derotation.times_s[np.any(block.known.all(axis=0), axis=0)]
    span = float(np.ptp(times)) if times.size else 0.0
    if not span > 0:
        return np.zeros(1)
    reach = prior.largest_doppler_hz
    n = min(int(np.ceil(reach * span * _STEPS_PER_CELL)), _MOST_TRIALS // 2)
    return np.linspace(-reach, reach, 2 * n + 1)


def _scores(block: ReceivedBlock, shift_hz: float, search: PathSearch) -> RealArray:
    """Highest power in the spectrum of every user, its pilots turned by a shift, shape (K,)."""
    assert block.derotation is not None
    shifts = np.full(block.n_users, shift_hz)
    statistics = pilot_statistics(derotated(block, replace(block.derotation, doppler_hz=shifts)))
    spectra = search.spectra(statistics.cross_correlation, statistics.user_energies)
    return np.array([float(spectrum.power.max()) for spectrum in spectra])


def _peak(trials: RealArray, scores: RealArray) -> float:
    """Where a parabola through the highest score and its neighbours has its top."""
    i = int(np.argmax(scores))
    if not 0 < i < trials.size - 1:
        return float(trials[i])
    left, top, right = scores[i - 1 : i + 2]
    bend = left - 2 * top + right
    return float(trials[i] + (0.0 if bend >= 0 else 0.5 * (left - right) / bend) * (trials[1] - trials[0]))


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


def evolution_of(fit: Fit, derotation: Derotation, scale: float) -> ChannelEvolution:
    """Return the channel over the symbols of a derotated block; ``scale`` undoes the normalisation.

    Its parts are the channels at a few times, between which it is interpolated.
    """
    atoms, gains = fit.atoms, fit.posterior.mean * scale
    assert isinstance(atoms, MovingAtoms)
    beside = atoms.doppler_hz - derotation.doppler_hz[atoms.user]
    times, n_users = derotation.times_s, derotation.doppler_hz.size
    nodes = chebyshev_times(times, float(np.abs(beside).max(initial=0.0)), _EVOLUTION_NODES)
    turns = np.exp(2j * np.pi * nodes[:, None] * beside)
    parts = np.stack([atoms.still.synthesise(gains * turn, n_users) for turn in turns])
    return ChannelEvolution(parts, derotation.factors[:, None, :] * interpolation(nodes, times))
