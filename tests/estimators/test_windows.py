"""Windows of the path search: widened to what arrives, no longer than what the pilots tell apart."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from numpy.testing import assert_allclose

import isac_toolbox as isac
from helpers.scenes import complex_normal, on_subcarriers
from isac_toolbox.channel.array import SPEED_OF_LIGHT_M_S
from isac_toolbox.estimators.scene.problem import Problem
from isac_toolbox.estimators.search import PathSearch
from isac_toolbox.estimators.symbols.block import ReceivedBlock
from isac_toolbox.estimators.windows import usable_pilots

NARROW = isac.Scenario.load("urban_uplink").replace(snr_db=20, n_subcarriers=264, subcarrier_spacing_hz=360e3)


def searches(observation) -> tuple[PathSearch, PathSearch]:
    """The search by priors alone, and the one that has seen the pilots."""
    search = PathSearch.for_observation(observation)
    problem = Problem.on_pilots(observation, ReceivedBlock.of(observation))
    return search, search.covering(problem.statistics.cross_correlation)


def delayed(observation, seconds: float):
    turn = np.exp(-2j * np.pi * observation.subcarrier_frequencies_hz * seconds)
    return replace(observation, received=observation.received * turn[:, None, None])


@pytest.mark.parametrize("name", ["urban_uplink", "low_snr", "rich_scattering", "traced_munich"])
def test_a_window_that_holds_all_paths_stays(name):
    for seed in range(3):
        search, seen = searches(isac.Scenario.load(name).simulate(seed).observation)
        assert seen is search


@pytest.mark.parametrize("delay_ns", [-400, -100, 600, 1500])
def test_a_window_grows_to_paths_outside(delay_ns):
    simulation = NARROW.simulate(0)
    search, seen = searches(delayed(simulation.observation, delay_ns * 1e-9))
    lines = np.linalg.norm(simulation.truth.user_positions_m - simulation.observation.bs_position_m, axis=1)
    arrivals = lines + SPEED_OF_LIGHT_M_S * (simulation.truth.time_offsets_s + delay_ns * 1e-9)
    assert seen.min_length_m < arrivals.min() and arrivals.max() < seen.max_length_m
    if delay_ns < 0:
        assert search.min_length_m > arrivals.min()


def test_noise_alone_widens_nothing():
    observation = NARROW.simulate(0).observation
    rng = np.random.default_rng(0)
    for _ in range(10):
        noise = rng.standard_normal((*observation.received.shape, 2)) @ [1, 1j]
        search, seen = searches(replace(observation, received=noise))
        assert seen is search


def cyclic_shifts(observation, n_shifts: int):
    """Pilots of all users on the same comb of four, told apart by cyclic shifts."""
    n_users, n_sub, n_symbols = observation.pilots.shape
    tone = np.arange(n_sub)
    turns = np.multiply.outer(np.arange(n_users) / n_shifts, tone // 4)
    pilots = np.zeros((n_users, n_sub, n_symbols), complex)
    pilots[:, ::4, 0] = 2 * np.exp(2j * np.pi * turns)[:, ::4]
    known = np.zeros((n_sub, n_symbols), bool)
    known[:, 0] = True
    return replace(observation, pilots=pilots, pilot_mask=known)


@pytest.mark.parametrize("n_shifts", [3, 4, 8])
def test_users_that_share_tones_by_cyclic_shifts_limit_the_window(n_shifts):
    observation = cyclic_shifts(NARROW.simulate(0).observation, n_shifts)
    search = PathSearch.for_observation(observation)
    period = SPEED_OF_LIGHT_M_S / (4 * 360e3)
    assert search.code_shift_m == pytest.approx(period / n_shifts, abs=4.0)
    assert np.ptp(search.lengths_m) <= search.code_shift_m
    assert search.on_all_tones().code_shift_m is None


@pytest.mark.parametrize("pattern", ["orthogonal", "comb", "random"])
def test_other_pilots_do_not(pattern):
    observation = NARROW.replace(pilot_pattern=pattern, n_pilot_symbols=3).simulate(0).observation
    assert PathSearch.for_observation(observation).code_shift_m is None
    assert np.all(usable_pilots(observation) == np.where(observation.known, observation.pilots, 0))


@pytest.mark.parametrize("first_s", [0.0, 5e-8, 4e-7])
def test_paths_at_the_time_base_of_a_narrow_band_stay_in_the_first_period(first_s):
    """The taper blurs a path over more than the early share of the window, but its peak says where it is."""
    n_sub, spacing_hz = 42, 30e3
    frequencies = (np.arange(n_sub) - n_sub / 2) * spacing_hz
    pilots = np.zeros((2, n_sub, 1), complex)
    pilots[0, ::2] = pilots[1, 1::2] = 1.0
    channel = np.exp(-2j * np.pi * frequencies * first_s)[:, None] * np.ones(4)
    observation = isac.UplinkObservation(
        received=np.einsum("knt,nm->nmt", pilots, channel),
        pilots=pilots,
        pilot_mask=np.ones((n_sub, 1), bool),
        array=isac.UniformPlanarArray((2, 2)),
        subcarrier_frequencies_hz=frequencies,
        constellation=isac.qam_constellation("qpsk"),
        noise_variance=1e-4,
    )
    _, seen = searches(observation)
    assert seen.min_length_m <= first_s * SPEED_OF_LIGHT_M_S <= seen.lengths_m[-1]


def test_an_open_window_ends_at_the_lobes_of_tones_in_groups():
    """Pairs of tones, six apart in step: a path looks like one a sixth of the period away."""
    n_sub, spacing_hz = 96, 30e3
    rng = np.random.default_rng(0)
    pilots = np.zeros((2, n_sub, 1), complex)
    for k in range(2):
        pilots[k, np.arange(n_sub) // 2 % 3 == k] = 1.0
    observation = isac.UplinkObservation(
        received=rng.standard_normal((n_sub, 4, 1)) + 0j,
        pilots=pilots,
        pilot_mask=np.ones((n_sub, 1), bool),
        array=isac.UniformPlanarArray((2, 2)),
        subcarrier_frequencies_hz=np.arange(n_sub) * spacing_hz - 1.44e6,
        constellation=isac.qam_constellation("qpsk"),
    )
    search = PathSearch.for_observation(observation)
    lobe_m = SPEED_OF_LIGHT_M_S / (6 * spacing_hz)
    assert search.code_shift_m == pytest.approx(lobe_m, rel=1e-9)
    assert search.lengths_m[-1] - search.lengths_m[0] < lobe_m


def test_lower_lobes_of_a_comb_leave_the_window_to_the_priors():
    """Two of four tones: a lobe of half the power a quarter of the period away, which hides no path."""
    scenario = isac.Scenario.load("urban_uplink").replace(pilot_pattern="comb", n_users=4, n_pilot_symbols=2)
    search = PathSearch.for_observation(scenario.simulate(seed=0).observation)
    assert search.code_shift_m is None
    assert np.ptp(search.lengths_m) > 150.0


HOLES = {
    "no dc": np.delete(np.arange(264), 132),
    "resource blocks": np.delete(np.arange(264), np.r_[60:84, 132, 200:212]),
    "any order": np.random.default_rng(0).permutation(np.delete(np.arange(264), [0, 17, 132])),
    "far blocks": np.r_[0:60, 200:264],
}


@pytest.mark.parametrize("index", HOLES.values(), ids=HOLES)
def test_the_transform_over_a_raster_is_the_sum_over_its_subcarriers(index):
    observation = on_subcarriers(NARROW.simulate(0).observation, index)
    search = PathSearch.for_observation(observation)
    residual = complex_normal(np.random.default_rng(1), (index.size, 5))
    expected = np.exp(1j * search.lengths_m[:, None] * search.receiver.wavenumbers_per_m) @ residual
    found = search.over_lengths(residual)
    assert np.max(np.abs(found - expected)) < 1e-9 * np.max(np.abs(expected))


@pytest.mark.parametrize("index", [*HOLES.values(), None], ids=[*HOLES, "no raster"])
def test_transforms_between_lengths_and_subcarriers_are_their_sums(index):
    observation = NARROW.simulate(0).observation
    if index is None:
        shaken = observation.subcarrier_frequencies_hz + np.random.default_rng(2).uniform(-1e3, 1e3, 264)
        observation = replace(observation, subcarrier_frequencies_hz=shaken)
    else:
        observation = on_subcarriers(observation, index)
    search, rng = PathSearch.for_observation(observation), np.random.default_rng(1)
    assert (search.receiver.raster is None) == (index is None)
    n_tones, n_lengths = search.receiver.frequencies_hz.size, search.lengths_m.size
    responses = search.responses(np.arange(n_lengths))
    amplitudes = complex_normal(rng, (n_lengths, 3))
    assert_allclose(search.at_tones(amplitudes), responses @ amplitudes, atol=1e-9)
    energy = rng.uniform(size=n_tones)
    between = (responses.conj().T * energy) @ responses
    assert_allclose(search.overlap(energy), between[:, 0], atol=1e-9)
    bins = np.sort(rng.choice(n_lengths, 7, replace=False))
    root = complex_normal(rng, (7, 7))
    covariance = root @ root.conj().T
    expected = np.real(np.einsum("nb,bc,nc->n", responses[:, bins], covariance, responses[:, bins].conj()))
    assert_allclose(search.power_at_tones(covariance, bins), expected, atol=1e-9)


@pytest.mark.parametrize("index", HOLES.values(), ids=HOLES)
def test_holes_neither_hide_late_paths_nor_make_any(index):
    for seed in range(3):
        simulation = NARROW.simulate(seed)
        observation = on_subcarriers(simulation.observation, index)
        search, seen = searches(observation)
        assert seen is search
    search, seen = searches(delayed(observation, 600e-9))
    line = np.linalg.norm(simulation.truth.user_positions_m - observation.bs_position_m, axis=1)
    arrivals = line + SPEED_OF_LIGHT_M_S * (simulation.truth.time_offsets_s + 600e-9)
    assert seen.min_length_m < arrivals.min() and arrivals.max() < seen.max_length_m


def test_cyclic_shifts_are_found_on_a_raster_with_holes():
    observation = cyclic_shifts(NARROW.simulate(0).observation, 8)
    whole = PathSearch.for_observation(observation).code_shift_m
    holed = PathSearch.for_observation(on_subcarriers(observation, HOLES["no dc"])).code_shift_m
    assert holed == pytest.approx(whole, rel=0.05)


def test_a_window_grows_to_a_weak_late_path():
    """30 dB below the others and 1.5 us late, where the region ends before."""
    for seed in range(3):
        observation = NARROW.simulate(seed).observation
        frequencies = observation.subcarrier_frequencies_hz
        late = np.sqrt(1e-3) * np.exp(-2j * np.pi * frequencies * 1.5e-6)
        sent = np.sum(observation.pilots, axis=0)
        received = observation.received + late[:, None, None] * sent[:, None, :]
        search, seen = searches(replace(observation, received=received))
        assert search.max_length_m < SPEED_OF_LIGHT_M_S * 1.5e-6 < seen.max_length_m
