"""What stays ambiguous is said, with honest weights: clocks, grating lobes, delays a period apart."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from numpy.testing import assert_allclose

import isac_toolbox as isac
from isac_toolbox.channel.array import SPEED_OF_LIGHT_M_S
from isac_toolbox.estimators import Ambiguity
from isac_toolbox.estimators.scene.alternatives import Alternatives, Lattice
from isac_toolbox.estimators.scene.ambiguity import (
    PlaceBeliefs,
    clock_ambiguities,
    clock_periods_m,
    spread_over,
)

QPSK = np.exp(0.5j * np.pi * (np.arange(4) + 0.5))
UPLINK = isac.Scenario.load("urban_uplink").replace(snr_db=20)


def lattice(period_m: float) -> Lattice:
    return Lattice(np.array([period_m]), np.ones(2))


@pytest.mark.parametrize(
    ("comb", "constellation", "multiple"),
    [
        (1, QPSK, 1),
        (2, QPSK, 1),
        (3, QPSK, 3),
        (4, QPSK, 1),
        (6, QPSK, 3),
        (8, QPSK, 2),
        (4, np.array([1, -1]), 2),
        (4, np.array([1, 1j, -1, 0.5]), 4),
    ],
)
def test_data_see_a_shift_of_the_clock_unless_it_turns_the_constellation_into_itself(
    comb, constellation, multiple
):
    """A shift by a period of a comb turns the symbols of tone i by i / comb of a turn."""
    period = clock_periods_m(lattice(200.0 / comb), lattice(200.0), constellation)
    assert_allclose(period, 200.0 / comb * multiple)
    for i in range(comb):
        turned = constellation * np.exp(2j * np.pi * i * multiple / comb)
        assert np.all(np.abs(turned[:, None] - constellation).min(axis=1) < 1e-9)


def test_clock_weights_are_those_of_the_prior():
    period, std = 200.0, 90.0
    found, variance = clock_ambiguities(np.array([70.0, 1.0]), np.array([std, 5.0]), np.full(2, period))
    (entry,) = found
    assert (entry.kind, entry.index) == ("clock", 0)
    values = entry.alternatives[:, 0] * SPEED_OF_LIGHT_M_S
    assert values[0] == pytest.approx(70.0) and -130.0 in np.round(values, 6)
    expected = np.exp(-0.5 * (values / std) ** 2)
    assert_allclose(entry.weights, expected / expected.sum(), rtol=1e-6)
    every = 70.0 + period * np.arange(-40, 41)
    weight = np.exp(-0.5 * (every / std) ** 2)
    assert variance[0] == pytest.approx(float(weight @ (every - 70.0) ** 2 / weight.sum()), rel=1e-6)
    assert variance[1] < 1e-12


def test_a_known_clock_is_never_ambiguous():
    found, variance = clock_ambiguities(np.array([0.0]), np.array([0.0]), np.array([10.0]))
    assert found == () and variance[0] == 0


def test_other_places_widen_the_covariance_to_the_second_moment():
    places = np.array([[1.0, 2.0, 3.0], [4.0, 2.0, 3.0]])
    entry = Ambiguity("scatterer", 1, places, np.array([0.75, 0.25]))
    added = spread_over((entry, Ambiguity("clock", 0, np.zeros((2, 1)), np.full(2, 0.5))), 2)
    assert np.all(added[0] == 0)
    assert_allclose(added[1], 0.25 * np.diag([9.0, 0.0, 0.0]))


@pytest.mark.parametrize("target", [0, -1])
def test_the_likeliest_places_are_listed_in_order_after_the_present_one(target):
    """Of eight places of one path those that are likeliest, whether it has a scatterer or not."""
    places = np.random.default_rng(0).normal(0, 10, (8, 3))
    belief = np.array([0.05, 0.3, 0.005, 0.1, 0.2, 0.07, 0.15, 0.06])
    fit = SimpleNamespace(
        paths=SimpleNamespace(target=np.array([target])), scene=SimpleNamespace(points_m=places[3:4] + 1e-3)
    )
    alternatives = Alternatives(np.zeros(8, np.int64), np.zeros((8, 3)), places)
    beliefs = PlaceBeliefs(fit, np.zeros(1, np.int64), alternatives, belief)
    (entry,) = beliefs.ambiguities(np.ones(1, bool))
    order = [3, 1, 4, 6, 5, 7] if target == 0 else [1, 4, 6, 3, 5, 7]
    assert entry.kind == ("scatterer" if target == 0 else "path")
    assert_allclose(entry.alternatives, places[order])
    assert_allclose(entry.weights, belief[order] / belief[order].sum())


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("std_s", [200e-9, 500e-9])
def test_wide_clock_priors_are_known_up_to_the_period(seed, std_s):
    """Clocks once came out a period off with a stated deviation below a nanosecond."""
    simulation = UPLINK.replace(time_offset_std_s=std_s).simulate(seed)
    result = isac.EMTurboBiSVBI().estimate(simulation.observation)
    truth = simulation.truth
    found = isac.metrics.localisation(result.scatterer_positions_m, truth.scatterer_positions_m)
    assert (found.misses, found.false_alarms) == (0, 0)
    assert result.status == "ambiguous" and result.converged
    of_clock = {entry.index: entry for entry in result.ambiguities if entry.kind == "clock"}
    for k, offset in enumerate(truth.time_offsets_s):
        listed = of_clock[k].alternatives[:, 0] if k in of_clock else result.time_offsets_s[[k]]
        assert np.min(np.abs(listed - offset)) < 1e-9
        if abs(result.time_offsets_s[k] - offset) > 1e-9:
            assert result.time_offset_std_s[k] > 100e-9


@pytest.mark.parametrize("spacing", [1.0, 1.2, 1.5, 2.0])
@pytest.mark.parametrize("seed", [0, 1])
def test_grating_lobes_are_alternatives(spacing, seed):
    """Sparse arrays once gave false points at probabilities up to 0.99."""
    simulation = UPLINK.replace(spacing_wavelengths=spacing).simulate(seed)
    result = isac.EMTurboBiSVBI().estimate(simulation.observation)
    true = simulation.truth.scatterer_positions_m
    entries = {entry.index: entry for entry in result.ambiguities if entry.kind == "scatterer"}
    for row, (point, probability) in enumerate(
        zip(result.scatterer_positions_m, result.scatterer_probability, strict=True)
    ):
        right = np.linalg.norm(true - point, axis=1).min() < 1.0
        if not right:
            assert probability < 0.8 and row in entries
            others = entries[row].alternatives
            assert np.linalg.norm(others[:, None] - true, axis=2).min() < 1.0
        if row in entries:
            entry = entries[row]
            assert_allclose(entry.alternatives[0], point, atol=1e-6)
            assert entry.weights.sum() == pytest.approx(1)
            assert probability <= entry.weights[0] + 1e-9
    found = isac.metrics.localisation(result.scatterer_positions_m, true)
    assert found.hits >= 0.7 * len(true)


@pytest.mark.parametrize(("n_subcarriers", "spacing_hz"), [(20, 5e6), (16, 6e6)])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_ranges_beyond_the_period_are_resolved_over_the_users(n_subcarriers, spacing_hz, seed):
    simulation = UPLINK.replace(n_subcarriers=n_subcarriers, subcarrier_spacing_hz=spacing_hz).simulate(seed)
    result = isac.EMTurboBiSVBI().estimate(simulation.observation)
    found = isac.metrics.localisation(result.scatterer_positions_m, simulation.truth.scatterer_positions_m)
    assert (found.misses, found.false_alarms) == (0, 0)
    nmse_db = isac.metrics.channel_nmse_db(result.channel, simulation.truth.channel)
    assert nmse_db < isac.bounds.hybrid_crb(simulation).channel_nmse_db + 2


@pytest.mark.parametrize("seed", [0, 1, 2, 3])
def test_clocks_without_lines_of_sight_come_from_shared_scatterers_or_locate_nothing(seed):
    scenario = UPLINK.replace(time_offset_std_s=200e-9, line_of_sight_probability=0.5)
    simulation = scenario.simulate(seed)
    result = isac.EMTurboBiSVBI().estimate(simulation.observation)
    found = isac.metrics.localisation(result.scatterer_positions_m, simulation.truth.scatterer_positions_m)
    assert found.false_alarms == 0 and found.hits >= 3
    lost = [text for text in result.warnings if "the clocks of user(s)" in text]
    assert bool(lost) == (seed == 3)


def test_nothing_is_ambiguous_where_all_is_told():
    result = isac.EMTurboBiSVBI().estimate(UPLINK.simulate(0).observation)
    assert result.ambiguities == () and result.warnings == () and result.status == "converged"


@pytest.mark.parametrize("offset_m", [0.0, 3e5])
def test_a_clock_of_very_many_periods_varies_as_its_prior(offset_m):
    """Weighed one by one they would take all memory; the sum over them is the integral, to all digits."""
    period, std = 200.0, 1e6
    found, variance = clock_ambiguities(np.array([offset_m]), np.array([std]), np.array([period]))
    values = offset_m + period * np.arange(-50_000, 50_001)
    weight = np.exp(-0.5 * (values / std) ** 2)
    assert not found
    assert variance[0] == pytest.approx(float(weight @ (values - offset_m) ** 2 / weight.sum()), rel=1e-6)
