"""The bound of a block that moves against a Fisher matrix differentiated numerically from its samples."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from numpy.testing import assert_allclose

import isac_toolbox as isac
from isac_toolbox.bounds import hybrid_crb
from isac_toolbox.channel.array import SPEED_OF_LIGHT_M_S
from isac_toolbox.channel.doppler import Turning
from isac_toolbox.channel.model import moving_channel

TINY = isac.Scenario(
    array_shape=(3, 2),
    n_subcarriers=8,
    subcarrier_spacing_hz=12e6,
    n_users=2,
    n_scatterers=2,
    visibility_probability=1.0,
    n_pilot_symbols=2,
    n_data_symbols=3,
    pilot_positions=(1, 3),
    modulation="16qam",
    snr_db=20,
    symbol_period_s=40e-6,
    user_speed_m_s=(5.0, 20.0),
    scatterer_speed_m_s=5.0,
    frequency_offset_std_hz=100.0,
)
PHASES = {"phase_noise_std_rad": 0.05, "user_phase_noise_std_rad": 0.1}
# A unit vector of unknown direction shares half its square with the plane users move in.
PLANE_SHARE = 0.5


class BruteForce:
    """Mean samples as a function of one real vector, with the prior precision of every unknown.

    Gains, points, users, offsets (m), unlocated paths, frequency offsets, velocities of users and points,
    shifts of unlocated paths, and the phases of all oscillators, which are of mean zero.
    """

    def __init__(self, simulation: isac.Simulation):
        truth, obs = simulation.truth, simulation.observation
        self.truth, self.obs, motion = truth, obs, obs.motion
        extra = truth.unlocated_paths
        self.los, self.seen = np.flatnonzero(truth.line_of_sight), np.nonzero(truth.visibility)
        gains = np.concatenate(
            [truth.line_of_sight_gain[self.los], truth.scatterer_gain[self.seen], extra.gain]
        )
        length = SPEED_OF_LIGHT_M_S * (extra.delay_s + truth.time_offsets_s[extra.user])
        n_users, n_symbols = truth.symbols.shape[0], obs.n_symbols
        self.basis = np.linalg.qr(np.ones((n_symbols, 1)), mode="complete")[0][:, 1:]
        phases = np.vstack([truth.symbol_phase_rad, truth.user_symbol_phase_rad]) @ self.basis
        shifts = np.zeros(len(extra)) if extra.doppler_hz is None else extra.doppler_hz
        self.moving = np.any(truth.scatterer_velocities_m_s != 0, axis=1)
        self.parts = [
            gains.real,
            gains.imag,
            truth.scatterer_positions_m.ravel(),
            truth.user_positions_m.ravel(),
            SPEED_OF_LIGHT_M_S * truth.time_offsets_s,
            np.column_stack([length, extra.direction_cosines]).ravel(),
            truth.frequency_offsets_hz,
            truth.user_velocities_m_s.ravel(),
            truth.scatterer_velocities_m_s.ravel(),
            shifts,
            phases.ravel(),
        ]
        self.vector = np.concatenate(self.parts)
        self.edges = np.cumsum([part.size for part in self.parts])
        self.blocks = np.split(np.arange(self.vector.size), self.edges[:-1])
        # a difference of a millimetre, a metre per second or a hertz, a milliradian
        scales = [1e-3] * 6 + [1.0] * 4 + [1e-3]
        self.steps = np.repeat(scales, [part.size for part in self.parts])
        precision = np.zeros(self.vector.size)
        speeds = np.sum(motion.user_velocities_m_s**2 + motion.user_velocity_stds_m_s**2, axis=1)
        of_shifts = motion.hz_per_m_s * np.sqrt(
            PLANE_SHARE * speeds.max() + 4 * motion.scatterer_velocity_std_m_s**2
        )
        points = np.repeat(motion.scatterer_velocity_std_m_s * self.moving, 3)
        stds = {
            3: obs.user_position_stds_m.ravel(),
            4: SPEED_OF_LIGHT_M_S * obs.time_offset_stds_s,
            6: motion.frequency_offset_stds_hz,
            7: motion.user_velocity_stds_m_s.ravel(),
            8: points,
            9: np.full(shifts.size, of_shifts),
        }
        with np.errstate(divide="ignore"):
            for block, std in stds.items():
                precision[self.blocks[block]] = 1 / std**2
        self.free = np.isfinite(precision)
        self.prior = np.diag(np.where(self.free, precision, 0.0))
        self._add_prior_of_phases(n_users)

    def _add_prior_of_phases(self, n_users: int) -> None:
        """Steps are independent: their precision, of phases in the basis; no noise, no phases."""
        motion, rows = self.obs.motion, self.blocks[10].reshape(1 + n_users, -1)
        steps = np.diff(np.eye(motion.times_s.size), axis=0) @ self.basis
        stds = [motion.phase_noise_std_rad, *motion.user_phase_noise_stds_rad]
        for row, std in zip(rows, stds, strict=True):
            if std == 0:
                self.free[row] = False
            else:
                of_steps = steps.T @ np.diag(1 / (std**2 * motion.step_variances)) @ steps
                self.prior[np.ix_(row, row)] = of_steps

    def channel(self, vector: np.ndarray) -> np.ndarray:
        """At every symbol, shape (K, N, M, T)."""
        truth, obs = self.truth, self.obs
        parts = np.split(vector, self.edges[:-1])
        gains = np.split(parts[0] + 1j * parts[1], np.cumsum([self.los.size, self.seen[0].size]))
        los_gain, gain = np.zeros(len(truth.line_of_sight), complex), np.zeros_like(truth.scatterer_gain)
        los_gain[self.los], gain[self.seen] = gains[0], gains[1]
        offsets_m, (length, u_h, u_v) = parts[4], parts[5].reshape(-1, 3).T
        cosines = np.stack([np.sqrt(1 - u_h**2 - u_v**2), u_h, u_v], axis=1)
        user = truth.environment.extra_user
        environment = replace(
            truth.environment,
            scatterer_positions_m=parts[2].reshape(-1, 3),
            user_positions_m=parts[3].reshape(-1, 3),
            line_of_sight_gain=los_gain,
            scatterer_gain=gain,
            extra_direction=cosines @ obs.array.axes,
            extra_delay_s=(length - offsets_m[user]) / SPEED_OF_LIGHT_M_S,
            extra_gain=gains[2],
            user_velocities_m_s=parts[7].reshape(-1, 3),
            scatterer_velocities_m_s=parts[8].reshape(-1, 3),
            extra_doppler_hz=parts[9],
        )
        times_s = obs.motion.times_s
        phases = parts[10].reshape(-1, self.basis.shape[1]) @ self.basis.T
        channel = moving_channel(
            environment,
            obs.array,
            obs.subcarrier_frequencies_hz,
            offsets_m / SPEED_OF_LIGHT_M_S,
            obs.wavefront,
            obs.carrier_hz,
            obs.beam_squint,
            times_s,
        )
        turning = Turning(times_s, parts[6], phases[0], phases[1:])
        return channel * turning.factors[:, None, None, :]

    def check(self, known_data: bool, rtol: float = 1e-4) -> None:
        """Compare; a ridge in the prior of the phases moves the bound by some 1e-5."""
        truth, obs = self.truth, self.obs
        assert_allclose(self.channel(self.vector), truth.channel_at(range(obs.n_symbols)), atol=1e-10)
        slopes = []
        for p, scale in enumerate(self.steps):
            step = scale * np.eye(self.vector.size)[p]
            far = self.channel(self.vector + 2 * step) - self.channel(self.vector - 2 * step)
            near = self.channel(self.vector + step) - self.channel(self.vector - step)
            slopes.append((8 * near - far) / (12 * scale))
        slope = np.array(slopes)
        symbols = truth.symbols if known_data else obs.pilots
        block = np.einsum("pknmt,knt->pnmt", slope, symbols).reshape(len(slope), -1)
        fisher = 2 / truth.noise_variance * np.real(block.conj() @ block.T) + self.prior
        inside = np.ix_(self.free, self.free)
        covariance = np.zeros_like(fisher)
        scale = 1 / np.sqrt(np.diag(fisher[inside]))
        scaled = fisher[inside] * scale[:, None] * scale
        covariance[inside] = np.linalg.inv(scaled) * scale[:, None] * scale
        flat = slope.reshape(len(slope), -1)
        error = np.einsum("pi,pq,qi->", flat.conj(), covariance, flat, optimize=True).real
        bound = hybrid_crb(isac.scenario.Simulation(obs, truth), known_data=known_data)
        variance = np.diag(covariance)

        def root(block: int, width: int) -> np.ndarray:
            return np.sqrt(variance[self.blocks[block]].reshape(-1, width).sum(axis=1))

        assert_allclose(bound.position_rmse_m, root(2, 3), rtol=rtol)
        assert_allclose(bound.user_position_rmse_m, root(3, 3), rtol=rtol)
        assert_allclose(bound.time_offset_rmse_s, root(4, 1) / SPEED_OF_LIGHT_M_S, rtol=rtol)
        assert_allclose(bound.frequency_offset_rmse_hz, root(6, 1), rtol=rtol)
        assert_allclose(bound.user_velocity_rmse_m_s, root(7, 3), rtol=rtol)
        assert_allclose(bound.scatterer_velocity_rmse_m_s, root(8, 3), rtol=rtol)
        energy = np.sum(np.abs(truth.channel_over_time) ** 2)
        assert bound.channel_nmse == pytest.approx(error / energy, rel=rtol)


@pytest.mark.filterwarnings("ignore::isac_toolbox.ImplausibleValueWarning")
@pytest.mark.parametrize("known_data", [True, False])
@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"wavefront": "spherical"},
        {"pilot_pattern": "random"},
        PHASES,
        {**PHASES, "pilot_pattern": "random"},
        {**PHASES, "slot_symbols": (0, 1, 3, 7, 8)},
        {"phase_noise_std_rad": 0.2, "slot_symbols": (0, 2, 3, 7, 8)},
        {"user_phase_noise_std_rad": 0.2},
        {"scatterer_speed_m_s": 0.0},
        {"moving_share": 0.5},
        {"user_speed_m_s": 0.0, "scatterer_speed_m_s": 0.0},
        {"traced": "munich", "n_subcarriers": 24, "array_shape": (4, 4), "time_offset_std_s": 2e-9},
        {"link": "monostatic", "n_users": 1, "user_speed_m_s": 0.0, "n_scatterers": 3},
    ],
    ids=str,
)
def test_bound_of_a_tiny_moving_scene(fields, known_data):
    BruteForce(TINY.replace(**fields).simulate(1)).check(known_data)


quiet = pytest.mark.filterwarnings("ignore::isac_toolbox.ImplausibleValueWarning")


@quiet
def test_the_bound_of_what_hardly_moves_is_the_static_one():
    at_rest = {"user_speed_m_s": 0.0, "scatterer_speed_m_s": 0.0, "frequency_offset_std_hz": 0.0}
    still = TINY.replace(**at_rest).simulate(3)
    slow = TINY.replace(**{**at_rest, "user_speed_m_s": 1e-7, "frequency_offset_std_hz": 1e-7}).simulate(3)
    assert still.observation.motion is None and slow.observation.motion is not None
    first, second = hybrid_crb(still), hybrid_crb(slow)
    assert second.channel_nmse == pytest.approx(first.channel_nmse, rel=1e-6)
    assert_allclose(second.position_covariance_m2, first.position_covariance_m2, rtol=1e-4, atol=1e-9)
    assert_allclose(second.time_offset_rmse_s, first.time_offset_rmse_s, rtol=1e-5)
    assert first.frequency_offset_rmse_hz.size == 0
    assert np.all(second.frequency_offset_rmse_hz <= 1e-7)


@quiet
def test_what_moves_is_bounded_by_its_prior_and_knowing_less_bounds_less():
    simulation = TINY.simulate(3)
    obs, bound = simulation.observation, hybrid_crb(simulation)
    assert np.all(bound.frequency_offset_rmse_hz < obs.motion.frequency_offset_stds_hz)
    assert np.all(bound.user_velocity_rmse_m_s < np.linalg.norm(obs.motion.user_velocity_stds_m_s, axis=1))
    wider = replace(simulation, observation=replace(obs, frequency_offset_std_hz=2000.0))
    assert np.all(hybrid_crb(wider).frequency_offset_rmse_hz > bound.frequency_offset_rmse_hz)
    assert hybrid_crb(simulation, known_data=False).channel_nmse > bound.channel_nmse


@quiet
def test_without_places_shifts_are_bounded_path_by_path():
    simulation = TINY.simulate(3)
    unknown = dict.fromkeys(("user_positions_m", "user_position_std_m", "region_m"))
    nowhere = replace(simulation, observation=replace(simulation.observation, **unknown))
    bound = hybrid_crb(nowhere)
    assert bound.position_rmse_m.size == 0 and np.isfinite(bound.channel_nmse_db)
    assert bound.channel_nmse > hybrid_crb(simulation).channel_nmse
