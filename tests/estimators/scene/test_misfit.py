"""Blocks that the model does not fit: nothing is born of their misfit, and work is bounded."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

import isac_toolbox as isac
from isac_toolbox.estimators.bisvbi import BiSVBILoop
from isac_toolbox.estimators.scene import structure
from isac_toolbox.estimators.scene.evidence import log_evidence
from isac_toolbox.estimators.scene.misfit import Residual, Work
from isac_toolbox.inference.turbo import Deadline

SCENARIO = isac.Scenario.load("urban_uplink").replace(snr_db=20.0)


def with_element_errors(seed, factors):
    """A block through an array whose elements have complex factors (M,), and its channel."""
    simulation = SCENARIO.simulate(seed)
    truth = simulation.truth
    channel = truth.channel * factors
    samples = np.matmul(channel.transpose(1, 2, 0), truth.symbols.transpose(1, 0, 2))
    rng = np.random.default_rng(seed)
    noise = rng.standard_normal((2, *samples.shape)) * np.sqrt(truth.noise_variance / 2)
    return replace(simulation.observation, received=samples + noise[0] + 1j * noise[1]), simulation, channel


@pytest.fixture(scope="module")
def uncalibrated():
    """A finished loop on a block with element phases of 0.1 rad."""
    phases = np.exp(0.1j * np.random.default_rng(7).standard_normal(64))
    observation, simulation, channel = with_element_errors(4, phases)
    loop = BiSVBILoop(isac.EMTurboBiSVBI(), observation)
    return loop, loop.run_bounded(), simulation, channel


def test_phases_of_elements_make_no_paths(uncalibrated):
    """No more remains than the phases' own error; every point is found, none invented."""
    _, result, simulation, channel = uncalibrated
    found = isac.metrics.localisation(result.scatterer_positions_m, simulation.truth.scatterer_positions_m)
    assert (found.misses, found.false_alarms, len(result.unlocated_paths.user)) == (0, 0, 0)
    of_phases = isac.metrics.channel_nmse_db(simulation.truth.channel, channel)
    assert isac.metrics.channel_nmse_db(result.channel, channel) < of_phases + 0.5


def test_a_misfit_is_said_once(uncalibrated):
    loop, result, simulation, _ = uncalibrated
    for warnings in (result.warnings, loop.result().warnings):
        assert sum("or the model does not fit (calibration" in said for said in warnings) == 1
        assert sum("the model does not fit over element" in said for said in warnings) == 1
    assert isac.EMTurboBiSVBI().estimate(simulation.observation).warnings == ()


def test_the_surroundings_rise_where_the_array_is_not_calibrated(uncalibrated):
    loop, _, simulation, _ = uncalibrated
    fit, _, _ = loop.working.active_fit()
    strongest = np.argsort(-np.abs(fit.posterior.mean))[:3]
    assert Residual.of(loop.working, loop.search).excess(fit, strongest) > 2
    fitting = BiSVBILoop(isac.EMTurboBiSVBI(), simulation.observation)
    fitting.run()
    fit, _, _ = fitting.working.active_fit()
    assert Residual.of(fitting.working, fitting.search).excess(fit, np.arange(len(fit.paths))) == 1


def test_a_trial_in_a_misfit_needs_more(uncalibrated):
    """``(J - J') / excess + occam' - occam``: the fall of the objective counts for less."""
    loop, *_ = uncalibrated
    fit, _, _ = loop.working.active_fit()
    path = int(np.flatnonzero(fit.paths.is_point)[0])
    trial = (
        structure._fit_without(loop.working, fit, path)
        if (np.bincount(fit.paths.target[fit.paths.is_point])[fit.paths.target[path]] == 1)
        else structure._split_fit(loop.working, fit, path)
    )
    occam = structure.occam_factor(fit)
    gains = [structure._Aim(fit.objective, occam, e, at_start=np.inf).gain(trial) for e in (1.0, 4.0)]
    assert gains[0] == pytest.approx(log_evidence(trial) - log_evidence(fit))
    assert gains[0] - gains[1] == pytest.approx(0.75 * (fit.objective - trial.objective))


def test_one_dead_element_costs_no_more_than_three_blocks_that_fit():
    """Counted in iterations times paths, which no other process disturbs."""
    factors = (np.arange(64) != 20).astype(complex)
    observation, simulation, _ = with_element_errors(5, factors)
    loops = [BiSVBILoop(isac.EMTurboBiSVBI(), obs) for obs in (observation, simulation.observation)]
    sizes = []
    for loop in loops:
        loop.run()
        sizes.append(loop.n_iter * len(loop.working.fit.paths))
    assert sizes[0] <= 3 * sizes[1]


def small_working_set():
    simulation = SCENARIO.simulate(0)
    loop = BiSVBILoop(isac.EMTurboBiSVBI(), simulation.observation)
    loop.setup()
    loop.step()
    return loop.working


def test_work_is_as_many_pairs_of_paths_as_there_are_samples():
    working = small_working_set()
    _, _, n_paths = working.counts
    work = Work()
    assert work.may_try(10**6) and work.take_births(10**6) == 10**6  # no limit until it is set
    work.allow(101 * n_paths**2 - 1, working)  # one pair short of another trial
    tried = sum(work.may_try(n_paths) for _ in range(200))
    assert tried == 100 and work.exhausted
    few = Work()
    few.allow(1, working)
    assert sum(few.may_try(n_paths) for _ in range(200)) == 12
    few.allow(10**9, working)  # set once
    assert not few.may_try(n_paths)


def test_births_are_bounded():
    working = small_working_set()
    work = Work()
    work.allow(10**6, working)
    limit = working.counts[2] + 8 * working.n_users
    assert work.take_births(limit - 1) == limit - 1 and not work.exhausted
    assert work.take_births(3) == 1 and work.exhausted


def test_a_kind_of_move_that_brought_nothing_gets_fewer_trials():
    work = Work()
    first = work.patience("merges")
    work.learn("merges", found=False)
    assert work.patience("merges") < first == work.patience("splits")
    work.learn("merges", found=True)
    assert work.patience("merges") == first


def test_nothing_is_tried_after_the_deadline():
    deadline = Deadline(1e-9)
    assert not Work(deadline).may_try(1) and deadline.status == "time limit"


def test_two_blocks_far_apart_are_resolved():
    """Lobes 1.25 m apart, almost as high as the main one: the right one is taken."""
    simulation = SCENARIO.replace(n_subcarriers=192).simulate(1)
    was, kept = simulation.observation, np.r_[:32, 160:192]
    observation = replace(
        was,
        received=was.received[kept],
        pilots=was.pilots[:, kept],
        pilot_mask=was.pilot_mask[..., kept, :],
        subcarrier_frequencies_hz=was.subcarrier_frequencies_hz[kept],
    )
    result = isac.EMTurboBiSVBI(max_iter=10).estimate(observation)
    assert isac.metrics.channel_nmse_db(result.channel, simulation.truth.channel[:, kept]) < -55
    found = isac.metrics.localisation(result.scatterer_positions_m, simulation.truth.scatterer_positions_m)
    assert (found.misses, found.false_alarms) == (0, 0)
