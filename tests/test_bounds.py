"""The hybrid bound against a Fisher matrix differentiated numerically from the noiseless block."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from numpy.testing import assert_allclose

import isac_toolbox as isac
from isac_toolbox.bounds import hybrid_crb
from isac_toolbox.channel.array import SPEED_OF_LIGHT_M_S
from isac_toolbox.channel.model import multi_user_channel

TINY = isac.Scenario(
    array_shape=(3, 2),
    n_subcarriers=8,
    subcarrier_spacing_hz=12e6,
    n_users=2,
    n_scatterers=2,
    visibility_probability=1.0,
    n_pilot_symbols=2,
    n_data_symbols=4,
    modulation="16qam",
)


def with_knowledge(simulation, **fields):
    """The same block with other prior knowledge."""
    return replace(simulation, observation=replace(simulation.observation, **fields))


class BruteForce:
    """Channel as a function of one real vector: gains, points, users, offsets (m), unlocated paths."""

    def __init__(self, simulation):
        truth, observation = simulation.truth, simulation.observation
        extra = truth.unlocated_paths
        self.simulation = simulation
        self.los = np.flatnonzero(truth.line_of_sight)
        self.seen = np.nonzero(truth.visibility)
        gains = np.concatenate(
            [truth.line_of_sight_gain[self.los], truth.scatterer_gain[self.seen], extra.gain]
        )
        # an unlocated path is its observed length and its direction cosines, as the receiver sees it
        length = SPEED_OF_LIGHT_M_S * (extra.delay_s + truth.time_offsets_s[extra.user])
        self.parts = [
            gains.real,
            gains.imag,
            truth.scatterer_positions_m.ravel(),
            truth.user_positions_m.ravel(),
            SPEED_OF_LIGHT_M_S * truth.time_offsets_s,
            np.column_stack([length, extra.direction_cosines]).ravel(),
        ]
        self.vector = np.concatenate(self.parts)
        self.edges = np.cumsum([part.size for part in self.parts])
        blocks = np.split(np.arange(self.vector.size), self.edges[:-1])
        self.points, self.users, self.offsets = blocks[2].reshape(-1, 3), blocks[3].reshape(-1, 3), blocks[4]
        # relative to the observation's prior
        self.prior = np.zeros(self.vector.size)
        with np.errstate(divide="ignore"):
            self.prior[blocks[3]] = (1 / observation.user_position_stds_m**2).ravel()
            self.prior[self.offsets] = 1 / (SPEED_OF_LIGHT_M_S * observation.time_offset_stds_s) ** 2
        blind = [n == 1 for n in observation.array.shape]
        if any(blind):  # the region limits the points; a cosine that is not seen is known
            extent = observation.region_m[1] - observation.region_m[0]
            self.prior[blocks[2]] = np.tile(12 / extent**2, len(self.points))
            self.prior[blocks[5].reshape(-1, 3)[:, 1:][:, blind]] = np.inf

    def channel(self, vector: np.ndarray) -> np.ndarray:
        truth, observation = self.simulation.truth, self.simulation.observation
        real, imaginary, points, users, offsets_m, free = np.split(vector, self.edges[:-1])
        gains = np.split(real + 1j * imaginary, np.cumsum([self.los.size, self.seen[0].size]))
        los_gain, scatterer_gain = (
            np.zeros(len(truth.line_of_sight), complex),
            np.zeros_like(truth.scatterer_gain),
        )
        los_gain[self.los], scatterer_gain[self.seen] = gains[0], gains[1]
        length, u_h, u_v = free.reshape(-1, 3).T
        cosines = np.stack([np.sqrt(1 - u_h**2 - u_v**2), u_h, u_v], axis=1)
        user = truth.environment.extra_user
        environment = replace(
            truth.environment,
            scatterer_positions_m=points.reshape(-1, 3),
            user_positions_m=users.reshape(-1, 3),
            line_of_sight_gain=los_gain,
            scatterer_gain=scatterer_gain,
            extra_direction=cosines @ observation.array.axes,
            extra_delay_s=(length - offsets_m[user]) / SPEED_OF_LIGHT_M_S,
            extra_gain=gains[2],
        )
        return multi_user_channel(
            environment,
            observation.array,
            observation.subcarrier_frequencies_hz,
            offsets_m / SPEED_OF_LIGHT_M_S,
            observation.wavefront,
            observation.carrier_hz,
        )

    def derivative(self) -> np.ndarray:
        """Of the channel in every unknown, shape (P, K, N, M); fourth-order differences."""
        slopes = []
        for p in range(self.vector.size):
            step = 1e-3 * np.eye(self.vector.size)[p]
            far = self.channel(self.vector + 2 * step) - self.channel(self.vector - 2 * step)
            near = self.channel(self.vector + step) - self.channel(self.vector - step)
            slopes.append((8 * near - far) / 12e-3)
        return np.array(slopes)

    def covariance(self, symbols: np.ndarray) -> tuple[np.ndarray, float]:
        """Inverse of the Fisher matrix with priors, and the channel's mean squared error."""
        slope = self.derivative()
        block = np.einsum("pknm,knt->pnmt", slope, symbols).reshape(len(slope), -1)
        fisher = 2 * np.real(block.conj() @ self.weighted(block).T)
        free = np.isfinite(self.prior)
        covariance = np.zeros_like(fisher)
        inside = np.ix_(free, free)
        covariance[inside] = np.linalg.inv(fisher[inside] + np.diag(self.prior[free]))
        flat = slope.reshape(len(slope), -1)
        error = np.einsum("pi,pq,qi->", flat.conj(), covariance, flat).real
        return covariance, float(error)

    def weighted(self, block: np.ndarray) -> np.ndarray:
        """Derivatives (P, N M T) times the inverse covariance of noise and interference."""
        truth, n = self.simulation.truth, self.simulation.observation.array.n_elements
        covariance = truth.noise_variance * (
            np.eye(n) if truth.noise_covariance is None else truth.noise_covariance
        )
        if truth.interference_covariance is not None:
            covariance = covariance + truth.interference_covariance
        by_antenna = block.reshape(len(block), *self.simulation.observation.received.shape[:2], -1)
        by_antenna = np.einsum("ab,pnbt->pnat", np.linalg.inv(covariance), by_antenna)
        return by_antenna.reshape(len(block), -1)

    def check(self, known_data: bool, rtol: float = 1e-5) -> None:
        truth, observation = self.simulation.truth, self.simulation.observation
        assert_allclose(self.channel(self.vector), truth.channel, atol=1e-12)
        covariance, error = self.covariance(truth.symbols if known_data else observation.pilots)
        bound = hybrid_crb(self.simulation, known_data=known_data)
        variance = np.diag(covariance)
        assert_allclose(bound.position_rmse_m, np.sqrt(variance[self.points].sum(axis=1)), rtol=rtol)
        assert_allclose(bound.user_position_rmse_m, np.sqrt(variance[self.users].sum(axis=1)), rtol=rtol)
        assert_allclose(
            bound.time_offset_rmse_s, np.sqrt(variance[self.offsets]) / SPEED_OF_LIGHT_M_S, rtol=rtol
        )
        for q, rows in enumerate(self.points):
            expected = covariance[np.ix_(rows, rows)]
            assert_allclose(
                bound.position_covariance_m2[q], expected, rtol=rtol, atol=rtol * np.abs(expected).max()
            )
        energy = np.sum(np.abs(truth.channel) ** 2)
        assert bound.channel_nmse == pytest.approx(error / energy, rel=rtol)
        assert bound.channel_nmse_db == pytest.approx(10 * np.log10(error / energy), abs=1e-3)


@pytest.mark.parametrize("known_data", [True, False])
@pytest.mark.parametrize("wavefront", ["planar", "spherical"])
@pytest.mark.parametrize("pattern", ["orthogonal", "random"])
def test_bound_of_a_tiny_scene(known_data, wavefront, pattern):
    simulation = TINY.replace(wavefront=wavefront, pilot_pattern=pattern).simulate(0)
    assert simulation.truth.scatterer_gain.all() and simulation.truth.line_of_sight.all()
    BruteForce(simulation).check(known_data)


@pytest.mark.parametrize("noise", [{"n_interferers": 2}, {"noise_correlation": 0.6, "noise_spread_db": 2.0}])
def test_bound_under_coloured_noise(noise):
    BruteForce(TINY.replace(**noise).simulate(1)).check(True)


@pytest.mark.parametrize("wrong", ["truth", "observation", None, {}, "urban_uplink"])
def test_what_is_no_simulation_is_named(wrong):
    sim = isac.Scenario(array_shape=(2, 2), n_subcarriers=4, n_users=1).simulate(0)
    given = getattr(sim, wrong) if wrong in ("truth", "observation") else wrong
    with pytest.raises(TypeError, match=f"simulation must be a Simulation, got {type(given).__name__}"):
        hybrid_crb(given)


def test_bound_with_priors_per_axis_and_user():
    simulation = TINY.simulate(1)
    stds = np.array([[0.2, 1.0, 0.0], [0.5, 0.0, 0.3]])
    simulation = with_knowledge(simulation, user_position_std_m=stds, time_offset_std_s=[0.0, 2e-9])
    BruteForce(simulation).check(True)
    bound = hybrid_crb(simulation)
    assert bound.time_offset_rmse_s[0] == 0 < bound.time_offset_rmse_s[1] <= 2e-9
    assert np.all(bound.user_position_rmse_m <= np.sqrt((stds**2).sum(axis=1)))


def test_bound_without_some_lines_of_sight():
    simulation = TINY.replace(n_scatterers=3, line_of_sight_probability=0.5).simulate(3)
    assert 0 < simulation.truth.line_of_sight.sum() < 2
    BruteForce(simulation).check(True)


def test_bound_with_unlocated_paths():
    base = TINY.simulate(2)
    array = base.observation.array
    directions = np.array([[0.8, 0.4, 0.1], [0.7, -0.5, -0.3]])
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    environment = replace(
        base.truth.environment,
        extra_user=np.array([1, 0]),
        extra_direction=directions @ array.axes,
        extra_delay_s=np.array([4e-7, 5e-7]),
        extra_gain=0.01 * np.array([1.0, 0.6j]),
    )
    simulation = TINY.replace(azimuth_rad=array.azimuth_rad).simulate(
        2, environment=environment, users=[0, 1]
    )
    assert len(simulation.truth.unlocated_paths) == 2
    BruteForce(simulation).check(True)
    BruteForce(simulation).check(False)


@pytest.mark.parametrize("shape", [(6, 1), (1, 6), (1, 1)])
@pytest.mark.parametrize("known_data", [True, False])
def test_bound_of_a_linear_array_keeps_the_regions_deviation(shape, known_data):
    n_users = 2 if max(shape) > 1 else 1
    scenario = TINY.replace(array_shape=shape, n_users=n_users, n_pilot_symbols=n_users)
    simulation = scenario.simulate(0)
    BruteForce(simulation).check(known_data)
    region = simulation.observation.region_m
    deviation = (region[1] - region[0]) / np.sqrt(12)
    bound = hybrid_crb(simulation, known_data=known_data)
    assert np.all(np.diagonal(bound.position_covariance_m2, axis1=1, axis2=2) <= deviation**2)
    flat = scenario.replace(
        bs_position_m=(0.0, 0.0, 1.5),
        user_region_m=((40.0, -30.0, 1.5), (80.0, 30.0, 1.5)),
        region_m=((20.0, -30.0, 1.4), (80.0, 30.0, 1.6)),
        snr_db=30.0,
    )
    flat_bound = hybrid_crb(flat.simulate(0), known_data=known_data)
    height = np.sqrt(flat_bound.position_covariance_m2[:, 2, 2])
    assert np.all(height <= 0.2 / np.sqrt(12) * (1 + 1e-9))
    if shape == (6, 1):  # in the plane height has no effect
        assert_allclose(height, 0.2 / np.sqrt(12), rtol=0.01)
        assert np.all(flat_bound.position_rmse_m < 2.0)


def test_unlocated_paths_of_a_linear_array_are_cones_to_the_bound():
    scenario = TINY.replace(array_shape=(6, 1))
    base = scenario.simulate(2)
    array = base.observation.array
    environment = replace(
        base.truth.environment,
        extra_user=np.array([1]),
        extra_direction=np.array([[0.8, 0.6, 0.0]]) @ array.axes,
        extra_delay_s=np.array([4e-7]),
        extra_gain=np.array([0.01 + 0j]),
    )
    fixed = scenario.replace(azimuth_rad=array.azimuth_rad)
    BruteForce(fixed.simulate(2, environment=environment, users=[0, 1])).check(True)


def test_known_users_and_clocks_have_no_error():
    simulation = TINY.replace(user_position_std_m=0.0, time_offset_std_s=0.0).simulate(0)
    bound = hybrid_crb(simulation)
    assert not bound.user_position_rmse_m.any() and not bound.time_offset_rmse_s.any()
    assert np.all(bound.position_rmse_m > 0)
    BruteForce(simulation).check(True)


def test_known_is_the_limit_of_tight_priors():
    simulation = TINY.simulate(0)
    known = hybrid_crb(with_knowledge(simulation, user_position_std_m=0.0, time_offset_std_s=0.0))
    tight = hybrid_crb(with_knowledge(simulation, user_position_std_m=1e-6, time_offset_std_s=1e-15))
    assert_allclose(tight.position_rmse_m, known.position_rmse_m, rtol=1e-6)
    loose = hybrid_crb(simulation)
    assert np.all(loose.position_rmse_m > 1.01 * known.position_rmse_m)
    assert loose.channel_nmse > known.channel_nmse


@pytest.mark.parametrize("std", [(0.0, 0.0), (1e-8, 1e-17)])
def test_twenty_db_more_give_a_tenth_of_the_error(std):
    scenario = TINY.replace(user_position_std_m=std[0], time_offset_std_s=std[1])
    low, high = (hybrid_crb(scenario.replace(snr_db=snr).simulate(0)) for snr in (0.0, 20.0))
    assert_allclose(low.position_rmse_m, 10 * high.position_rmse_m, rtol=1e-5)
    assert low.channel_nmse_db - high.channel_nmse_db == pytest.approx(20, abs=1e-4)


@pytest.mark.parametrize("seed", range(3))
def test_bounds_fall_with_snr_and_with_known_data(seed):
    bounds = {
        (snr, known): hybrid_crb(TINY.replace(snr_db=snr).simulate(seed), known_data=known)
        for snr in (-10.0, 0.0, 10.0, 20.0)
        for known in (True, False)
    }
    fields = ("position_rmse_m", "user_position_rmse_m", "time_offset_rmse_s", "channel_nmse")
    for (snr, known), bound in bounds.items():
        if known:
            worse = bounds[snr, False]
            assert all(np.all(getattr(bound, f) < getattr(worse, f)) for f in fields)
        if snr > -10:
            worse = bounds[snr - 10, known]
            assert all(np.all(getattr(bound, f) < getattr(worse, f)) for f in fields)


def test_without_data_symbols_both_bounds_agree():
    simulation = TINY.replace(n_data_symbols=0).simulate(0)
    known, pilots = hybrid_crb(simulation), hybrid_crb(simulation, known_data=False)
    assert_allclose(known.position_rmse_m, pilots.position_rmse_m)
    assert known.channel_nmse == pytest.approx(pilots.channel_nmse)


def test_a_scene_without_scatterers_has_a_bound():
    bound = hybrid_crb(TINY.replace(n_scatterers=0).simulate(0))
    assert bound.position_rmse_m.shape == (0,) and bound.position_covariance_m2.shape == (0, 3, 3)
    assert 0 < bound.channel_nmse < 1


# --- blocks with more than paths -----------------------------------------------------------------------


def test_the_bound_of_a_diffuse_block_is_that_of_its_paths():
    """At the same noise the tail changes nothing but the power that errors are measured against."""
    alone = TINY.replace(n_users=1)
    plain, diffuse = alone.simulate(0), alone.replace(diffuse_power_db=-10.0).simulate(0)
    scale = np.abs(diffuse.truth.line_of_sight_gain / plain.truth.line_of_sight_gain)[0]
    same_noise = replace(diffuse.truth, noise_variance=plain.truth.noise_variance * scale**2)
    first = hybrid_crb(plain)
    second = hybrid_crb(replace(diffuse, truth=same_noise))
    assert first.unlisted_share == 0
    assert 0.02 < second.unlisted_share < 0.3
    assert_allclose(first.position_rmse_m, second.position_rmse_m, rtol=1e-6)
    assert second.channel_nmse == pytest.approx(first.channel_nmse * scale**2, rel=1e-6)


def test_rays_alone_have_no_bound():
    with pytest.raises(ValueError, match=r"line of sight, a scatterer or an unlocated path .* \(CDL-A\)"):
        hybrid_crb(TINY.replace(cdl="CDL-A").simulate(0))
    bound = hybrid_crb(TINY.replace(cdl="CDL-D").simulate(0))
    assert bound.position_rmse_m.shape == (0,) and 0.05 < bound.unlisted_share < 0.25


def test_a_block_that_does_not_tell_its_parameters_has_no_bound(monkeypatch):
    def singular(matrix):
        raise np.linalg.LinAlgError("Singular matrix")

    monkeypatch.setattr(np.linalg, "inv", singular)
    with pytest.raises(
        ValueError, match=r"simulation: neither samples nor priors tell its .* parameters apart"
    ):
        isac.bounds.hybrid_crb(TINY.simulate(0))


def test_element_errors_of_gains_alone_cost_less_than_with_phases():
    """What is known of elements is taken as known, not as unknown without a prior."""
    exact = TINY.simulate(0)
    bounds = [
        isac.bounds.hybrid_crb(isac.Simulation(replace(exact.observation, **stds), exact.truth)).channel_nmse
        for stds in ({}, {"element_gain_std": 0.1}, {"element_gain_std": 0.1, "element_phase_std_rad": 0.1})
    ]
    assert np.all(np.isfinite(bounds)) and bounds[0] < bounds[1] < bounds[2]
