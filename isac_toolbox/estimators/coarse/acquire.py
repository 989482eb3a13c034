"""Mean Doppler shifts of users, from the strongest paths of their pilots (docs/theory.md, section 7.8)."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from isac_toolbox.channel.observation import UplinkObservation
from isac_toolbox.estimators.coarse.lobes import fit_unlocated
from isac_toolbox.estimators.doppler_search import DopplerSearch
from isac_toolbox.estimators.scene.derotation import derotated
from isac_toolbox.estimators.scene.fit import Fit, residual_over_time
from isac_toolbox.estimators.scene.problem import Problem, with_noise_precision
from isac_toolbox.estimators.scene.refine import refine
from isac_toolbox.estimators.search import PathSearch
from isac_toolbox.estimators.symbols.block import ReceivedBlock

__all__ = ["acquired", "doppler_search"]

RealArray = NDArray[np.float64]

# Tuned: paths weaker than this share of the strongest of all users may be what another user's pilots leave.
_CLEAR = 0.3
# Cost cap: rounds beside one for every user.
_FURTHER_ROUNDS = 4
# Tuned: cells of Doppler resolution by which the paths of a user may differ to be found at one shift.
_TOGETHER_CELLS = 0.5


def doppler_search(obs: UplinkObservation, block: ReceivedBlock, search: PathSearch) -> DopplerSearch | None:
    """Return the search over Doppler shifts that a block needs whose paths differ by more than it resolves.

    None where the paths of a user are found together at its mean shift.
    """
    motion, derotation = obs.motion, block.derotation
    if motion is None or derotation is None:
        return None
    prior = Problem.on_pilots(obs, block).prior.motion
    assert prior is not None
    times = _pilot_times(block)
    if 4 * prior.further_std_hz * float(np.ptp(times)) < _TOGETHER_CELLS:
        return None
    return DopplerSearch.over(search, np.hypot(prior.offset_stds_hz, prior.further_std_hz), times)


def acquired(
    obs: UplinkObservation, block: ReceivedBlock, search: PathSearch, false_alarm_rate: float
) -> ReceivedBlock:
    """Return the block turned back by the Doppler shift of the strongest path of every user.

    Paths are sought over shifts as well, the strongest of all users first, and refined together: pilots that
    are orthogonal over time are not where users turn, and the strongest user would be found in all others.
    """
    derotation = block.derotation
    assert derotation is not None
    problem = Problem.on_pilots(obs, block)
    prior, frames = problem.prior.motion, problem.statistics.frames
    assert prior is not None and frames is not None
    stds = np.hypot(prior.offset_stds_hz, prior.further_std_hz)
    shifted = DopplerSearch.over(search, stds, _pilot_times(block))
    if shifted.shifts_hz.size < 3:
        return block
    fit = fit_unlocated(problem, problem.empty_scene(), np.zeros(0, np.int64))
    for _ in range(block.n_users + _FURTHER_ROUNDS):
        extended = _extended(fit, shifted, false_alarm_rate)
        if extended is None:
            break
        fit = extended
        if np.unique(fit.paths.user).size == block.n_users:
            break
    return derotated(block, replace(derotation, doppler_hz=_of_strongest(fit, block.n_users)))


def _extended(fit: Fit, search: DopplerSearch, false_alarm_rate: float) -> Fit | None:
    """The fit with the strongest paths of users that have none yet; None where there are no more."""
    problem, frames = fit.problem, fit.problem.statistics.frames
    assert frames is not None
    spectra = search.spectra_over_time(residual_over_time(fit), frames, problem.user_energies)
    room = np.where(np.isin(np.arange(len(spectra)), fit.paths.user), 0, 1)
    found, user, level = search.detect_in(spectra, false_alarm_rate, np.ones_like(room))
    if not len(found):
        return None
    power = search.power_at(spectra, found, user)
    kept = power >= _CLEAR * power.max()
    found, user = found[kept], user[kept]
    if fit.scene.motion is None:
        return None
    further = search.shifts_at(spectra, found, user) - fit.scene.motion.offsets_hz[user]
    scene = fit.scene.extended(np.zeros((0, 3)), found, further)
    at_noise = with_noise_precision(problem, 1 / level)
    users = np.concatenate([fit.paths.user, user])
    return refine(fit_unlocated(at_noise, scene, users), n_steps=6, tol=0.1)


def _of_strongest(fit: Fit, n_users: int) -> RealArray:
    """Doppler shift of the strongest path of every user, zero of one without, shape (K,)."""
    doppler, shifts = np.zeros(n_users), fit.parameters.doppler_hz
    assert shifts is not None
    power = np.abs(fit.posterior.mean) ** 2
    for k in np.unique(fit.paths.user):
        own = np.flatnonzero(fit.paths.user == k)
        doppler[k] = shifts[own[np.argmax(power[own])]]
    return doppler


def _pilot_times(block: ReceivedBlock) -> RealArray:
    """Times of the symbols in which all users' symbols are known somewhere."""
    assert block.derotation is not None
    return block.derotation.times_s[np.any(block.known.all(axis=0), axis=0)]
