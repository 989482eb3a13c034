"""Mean Doppler shifts of users, from the strongest paths of their pilots (docs/theory.md, section 7.8)."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from isac_toolbox.channel.observation import UplinkObservation
from isac_toolbox.estimators.coarse.lobes import fit_unlocated
from isac_toolbox.estimators.doppler_search import DopplerSearch
from isac_toolbox.estimators.scene.derotation import channels_of, derotated
from isac_toolbox.estimators.scene.fit import Fit, residual_over_time
from isac_toolbox.estimators.scene.problem import Problem, with_noise_precision
from isac_toolbox.estimators.scene.refine import refine
from isac_toolbox.estimators.search import PathSearch
from isac_toolbox.estimators.symbols.block import ReceivedBlock
from isac_toolbox.estimators.symbols.detection import Detection

__all__ = ["acquired", "data_residual", "doppler_search"]

RealArray = NDArray[np.float64]

# Tuned: paths weaker than this share of the strongest of all users may be what another user's pilots leave.
_CLEAR = 0.3
# Guard: share of the highest power above which another shift may be a user's; the highest may be another's.
_ALIKE = 0.05
# Cost cap: trials in a cell of Doppler resolution; users' codes are as far apart as a cell and less.
_STEPS_PER_CELL = 6
# Cost cap: shifts tried on data, in a cell of the resolution of the whole block, and at most.
_DATA_STEPS, _MOST_DATA_SHIFTS = 8, 64
# Cost cap: cells of data that are looked at; so many tell a mean distance to some percent.
_MOST_DATA = 8192
# Tuned: share of the cells of data that count; they have interferers in common.
_WORTH = 0.2
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
    problem: Problem,
    block: ReceivedBlock,
    search: PathSearch,
    false_alarm_rate: float,
    data_aided: bool = True,
) -> tuple[ReceivedBlock, list[RealArray]]:
    """Return the block turned back by the Doppler shift of the strongest path of every user.

    And for every user the other shifts that its pilots do not rule out.

    Paths are sought over shifts as well, the strongest of all users first, and refined together: pilots that
    are orthogonal over time are not where users turn, and the strongest user would be found in all others.
    ``problem`` is that on the pilots of the block; data may help to choose among shifts.
    """
    derotation = block.derotation
    assert derotation is not None
    prior, frames = problem.prior.motion, problem.statistics.frames
    assert prior is not None and frames is not None
    stds = np.hypot(prior.offset_stds_hz, prior.further_std_hz)
    shifted = DopplerSearch.over(search, stds, _pilot_times(block), _STEPS_PER_CELL)
    others = [np.zeros(0)] * block.n_users
    if shifted.shifts_hz.size < 3:
        return block, others
    fit = fit_unlocated(problem, problem.empty_scene(), np.zeros(0, np.int64))
    for _ in range(block.n_users + _FURTHER_ROUNDS):
        extended = _extended(fit, shifted, block if data_aided else None, false_alarm_rate, others)
        if extended is None:
            break
        fit = extended
        if np.unique(fit.paths.user).size == block.n_users:
            break
    return derotated(block, replace(derotation, doppler_hz=_of_strongest(fit, block.n_users))), others


def _extended(
    fit: Fit,
    search: DopplerSearch,
    block: ReceivedBlock | None,
    false_alarm_rate: float,
    others: list[RealArray],
) -> Fit | None:
    """The fit with the strongest paths of the users that are clear of each other; None without any.

    Shifts of a user's first path that were not chosen are put into ``others``.
    """
    problem, frames = fit.problem, fit.problem.statistics.frames
    assert frames is not None
    spectra = search.spectra_over_time(residual_over_time(fit), frames, problem.user_energies)
    found, user, level = search.detect_in(spectra, false_alarm_rate, np.ones(len(spectra), int))
    if not len(found):
        return None
    power = search.power_at(spectra, found, user)
    shifts = search.shifts_at(spectra, found, user)
    fit = fit.under(with_noise_precision(problem, 1 / level), fit.posterior.prior_precision)
    for row in np.flatnonzero(power >= _CLEAR * power.max()):
        k = int(user[row])
        if k in fit.paths.user:
            fit = _with_path(fit, k, found[row], float(shifts[row]))
            continue
        tops = _alike(spectra[k].tops)
        trials = [_with_path(fit, k, spectra[k].tops[i, 1:], search.shifts_hz[i]) for i in tops]
        strength = np.array([abs(trial.posterior.mean[-1]) ** 2 for trial in trials])
        trials = [trials[i] for i in np.flatnonzero(strength >= _ALIKE * strength.max())]
        costs = [
            trial.problem.prior.penalty(trial.scene)
            + (0.0 if block is None else _data_cost(trial, block, search.shifts_hz))
            for trial in trials
        ]
        chosen = int(np.argmin(costs))
        fit = trials[chosen]
        shifts_hz = np.array([_last_shift(trial) for trial in trials])
        others[k] = np.delete(shifts_hz, chosen)[np.argsort(np.delete(costs, chosen))]
    return fit


def _last_shift(fit: Fit) -> float:
    """Doppler shift of the last path of a fit."""
    assert fit.parameters.doppler_hz is not None
    return float(fit.parameters.doppler_hz[-1])


def data_residual(fit: Fit, block: ReceivedBlock, detection: Detection) -> float:
    """Return the mean power of what channels and detected symbols leave of the symbols with data."""
    assert block.derotation is not None
    total, count = 0.0, 0
    data = block.has_data
    for symbols, channel in channels_of(fit, block.derotation):
        fitted = np.einsum("kntm,knt->ntm", channel, detection.moments.mean[..., symbols], optimize=True)
        left = block.received[..., symbols].transpose(0, 2, 1) - fitted
        there = np.broadcast_to(data[symbols], left.shape[:2])
        if block.masks is not None:
            left, there = left[..., block.masks.elements], there & block.masks.cells[:, symbols]
        left = left[there]
        total, count = total + float(np.vdot(left, left).real), count + left.size
    return total / max(count, 1)


def _alike(tops: RealArray) -> NDArray[np.int64]:
    """Shifts (of F) at which a user's strongest path is a peak not far below the highest of them."""
    power = np.concatenate([[0.0], tops[:, 0], [0.0]])
    peak = (power[1:-1] >= power[:-2]) & (power[1:-1] >= power[2:])
    return np.flatnonzero(peak & (power[1:-1] >= _ALIKE * power.max()))


def _with_path(fit: Fit, user: int, path: RealArray, shift_hz: float) -> Fit:
    """The fit with one more path, refined."""
    motion = fit.scene.motion
    assert motion is not None
    further = shift_hz - motion.offsets_hz[user]
    scene = fit.scene.extended(np.zeros((0, 3)), path[None], further)
    return refine(fit_unlocated(fit.problem, scene, np.append(fit.paths.user, user)), n_steps=6, tol=0.1)


def _data_cost(fit: Fit, block: ReceivedBlock, shifts_hz: RealArray) -> float:
    """How much better another shift would suit the data of a fit's last path, in nats; zero without data.

    Data are matched to that path alone and turned back; the cost of a shift is the number of cells times the
    logarithm of their mean squared distance from the constellation. Data lie between pilots, whose distances
    or codes over time leave several shifts: under the right one no other suits the data better.
    """
    user, atoms, gain = int(fit.paths.user[-1]), fit.atoms, fit.posterior.mean[-1]
    assert block.derotation is not None
    data = ~block.known[user] & block.has_samples
    if not data.any():
        return 0.0
    response, delay = atoms.steering[0, -1], atoms.delay[:, -1]
    if fit.problem.receiver.element_mask is not None:
        response = response * fit.problem.receiver.element_mask
    matched = np.tensordot(response.conj(), block.received, axes=(0, 1)) * delay.conj()[:, None]
    symbols = matched[data] / (gain * np.vdot(response, response).real)
    times = np.broadcast_to(block.derotation.times_s, data.shape)[data]
    n_symbols, stride = symbols.size, -(-symbols.size // _MOST_DATA)
    symbols, times = symbols[::stride], times[::stride]

    def cost(shift_hz: float) -> float:
        turned = symbols * np.exp(-2j * np.pi * shift_hz * times)
        distance = np.min(np.abs(turned[:, None] - block.constellation) ** 2, axis=1)
        return n_symbols * float(np.log(np.mean(distance)))

    found = _last_shift(fit)
    reach = max(abs(found), float(np.max(np.abs(shifts_hz))))
    n = int(np.ceil(reach * _DATA_STEPS * np.ptp(block.derotation.times_s)))
    others = np.linspace(-reach, reach, 2 * min(n, _MOST_DATA_SHIFTS) + 1)
    return _WORTH * max(cost(found) - min(map(cost, others)), 0.0)


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
