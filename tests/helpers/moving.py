"""A small random scene that moves, with the brute-force counterpart of what its block holds."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

import isac_toolbox as isac
from helpers.scenes import SMALL, Case, complex_normal, dense_atoms, random_case, soft_moments
from isac_toolbox.channel.array import SPEED_OF_LIGHT_M_S
from isac_toolbox.channel.atoms.dense import Measurements
from isac_toolbox.channel.atoms.kinematics import KinematicPrior, Kinematics
from isac_toolbox.channel.atoms.receiver import Receiver
from isac_toolbox.channel.atoms.scene import LINE_OF_SIGHT, Paths, Scene, ScenePrior
from isac_toolbox.channel.motion import Motion
from isac_toolbox.estimators.scene.derotation import no_derotation
from isac_toolbox.estimators.scene.fit import Fit, evaluate
from isac_toolbox.estimators.scene.problem import Problem
from isac_toolbox.estimators.symbols.block import ReceivedBlock
from isac_toolbox.estimators.symbols.derotation import Derotation
from isac_toolbox.estimators.symbols.statistics import SymbolMoments, data_statistics

HZ_PER_M_S = 12.0
TIMES_S = np.array([-1.9e-3, -0.7e-3, 0.1e-3, 0.9e-3, 1.6e-3])


def motion_of(n_users: int = 2, times_s: np.ndarray = TIMES_S, **changes) -> Motion:
    """Priors of a block in which everything turns but the oscillators' phases."""
    fields = {
        "times_s": times_s,
        "reference_time_s": 0.0,
        "frequency_offset_stds_hz": np.full(n_users, 60.0),
        "user_velocities_m_s": np.zeros((n_users, 3)),
        "user_velocity_stds_m_s": np.broadcast_to([4.0, 3.0, 0.5], (n_users, 3)),
        "scatterer_velocity_std_m_s": 3.0,
        "phase_noise_std_rad": 0.0,
        "user_phase_noise_stds_rad": np.zeros(n_users),
        "hz_per_m_s": HZ_PER_M_S,
    }
    return Motion(**{**fields, **changes})


def random_kinematics(rng: np.random.Generator, n_users: int, n_points: int, n_unlocated: int) -> Kinematics:
    """Motion of everything; of the points all but the last."""
    moving = np.arange(n_points) < n_points - 1
    return Kinematics(
        rng.normal(0, 60, n_users),
        rng.normal(0, 3, (n_users, 3)),
        rng.normal(0, 3, (n_points, 3)) * moving[:, None],
        moving,
        rng.normal(0, 40, n_unlocated),
        HZ_PER_M_S,
    )


@dataclass
class MovingCase(Case):
    """A random problem of a scene that moves, with the block that its statistics are made of."""

    received: np.ndarray
    moments: SymbolMoments
    derotation: Derotation

    def inner(self, first: np.ndarray, second: np.ndarray) -> np.ndarray:
        """Expected inner products of channels over time (A, K, N, M, T) and (B, K, N, M, T), (A, B)."""
        mean = self._turned_by_phases
        a, b = (np.einsum("aknmt,knt->anmt", x, mean) for x in (first, second))
        spread = np.einsum("aknmt,knt,bknmt->ab", first.conj(), self.moments.variance, second, optimize=True)
        return np.einsum("anmt,bnmt->ab", a.conj(), b) + spread

    def correlate(self, channels: np.ndarray) -> np.ndarray:
        """Expected inner products of channels (A, K, N, M, T) with the samples, (A,)."""
        sent = np.einsum("aknmt,knt->anmt", channels, self._turned_by_phases)
        return np.einsum("anmt,nmt->a", sent.conj(), self.received)

    def channels(self, scene: Scene | None = None) -> np.ndarray:
        """Unit-gain channels (L, K, N, M, T) of all paths."""
        return moving_atoms(self.problem.receiver, scene or self.scene, self.paths, self.derotation.times_s)

    @property
    def _turned_by_phases(self) -> np.ndarray:
        """Symbols (K, N, T) as phases turn them; the shifts of paths count from zero, not from the mean."""
        return self.moments.mean * np.exp(1j * self.derotation.phases_rad)[:, None]


def moving_case(seed: int = 0, wavefront: str = "planar", motion: Motion | None = None) -> MovingCase:
    """The case of :func:`random_case` in motion; its symbols are soft and turned back by a mean shift."""
    still, rng = random_case(seed, wavefront), np.random.default_rng(seed + 100)
    n_users, n_points = len(still.scene.users_m), len(still.scene.points_m)
    motion = motion_of(n_users) if motion is None else motion
    kinematics = random_kinematics(rng, n_users, n_points, len(still.scene.unlocated_m))
    received, moments, derotation = random_block(rng, still, motion)
    statistics = data_statistics(received, moments, None, derotation)
    prior = replace(still.problem.prior, motion=KinematicPrior.of(motion))
    problem = replace(still.problem, data=Measurements(statistics, still.problem.receiver), prior=prior)
    scene = replace(still.scene, motion=kinematics)
    return MovingCase(problem, scene, still.paths, still.precision, received, moments, derotation)


def random_block(
    rng: np.random.Generator, case: Case, motion: Motion
) -> tuple[np.ndarray, SymbolMoments, Derotation]:
    """Samples, soft symbols and a derotation that have nothing to do with the scene."""
    receiver, n_users = case.problem.receiver, len(case.scene.users_m)
    n_sub, n_times = receiver.frequencies_hz.size, motion.times_s.size
    received = complex_normal(rng, (n_sub, receiver.array.n_elements, n_times))
    moments = soft_moments(rng, (n_users, n_sub, n_times))
    phases = rng.normal(0, 0.3, (n_users, n_times))
    doppler = rng.normal(0, 50, n_users)
    return received, moments, Derotation(motion.times_s, motion.times_s, doppler, phases)


def doppler_by_definition(scene: Scene, paths: Paths, bs_m: np.ndarray) -> np.ndarray:
    """Doppler shifts (L,): offset less the path length's change in a moment, numerically."""
    motion, shifts, moment = scene.motion, [], 1e-4
    for k, target, unlocated in zip(paths.user, paths.target, paths.unlocated, strict=True):
        if unlocated >= 0:
            shifts.append(motion.offsets_hz[k] + motion.further_hz[unlocated])
            continue

        def length(time_s: float, k=k, target=target) -> float:
            user = scene.users_m[k] + time_s * motion.user_velocities_m_s[k]
            if target == LINE_OF_SIGHT:
                return float(np.linalg.norm(user - bs_m))
            point = scene.points_m[target] + time_s * motion.point_velocities_m_s[target]
            return float(np.linalg.norm(user - point) + np.linalg.norm(point - bs_m))

        speed = (length(moment) - length(-moment)) / (2 * moment)
        shifts.append(motion.offsets_hz[k] - motion.hz_per_m_s * speed)
    return np.array(shifts)


def moving_atoms(receiver: Receiver, scene: Scene, paths: Paths, times_s: np.ndarray) -> np.ndarray:
    """Unit-gain channel (L, K, N, M, T) of every path of a scene that moves, from the definitions."""
    still = dense_atoms(receiver, scene, paths)
    doppler = doppler_by_definition(scene, paths, receiver.bs_position_m)
    return still[..., None] * np.exp(2j * np.pi * np.multiply.outer(doppler, times_s))[:, None, None, None]


#: A block in motion of a few milliseconds per fit; no oscillator walks.
SMALL_MOVING = SMALL.replace(
    numerology="30kHz",
    user_speed_m_s=(5.0, 15.0),
    scatterer_speed_m_s=(10.0, 20.0),
    moving_share=0.4,
    frequency_offset_std_hz=200.0,
)


def true_scene(simulation: isac.Simulation) -> tuple[Scene, Paths]:
    """What a simulation drew, with the movers that its truth has; no path is unlocated."""
    obs, truth = simulation.observation, simulation.truth
    kinematics = Kinematics(
        truth.frequency_offsets_hz,
        truth.user_velocities_m_s,
        truth.scatterer_velocities_m_s,
        np.any(truth.scatterer_velocities_m_s != 0, axis=1),
        np.zeros(0),
        obs.motion.hz_per_m_s,
    )
    scene = Scene(
        truth.scatterer_positions_m,
        truth.user_positions_m,
        SPEED_OF_LIGHT_M_S * truth.time_offsets_s,
        np.zeros((0, 3)),
        kinematics,
    )
    return scene, Paths.build(truth.line_of_sight, truth.visibility, np.zeros(0, np.int64))


def true_fit(simulation: isac.Simulation, derotation: Derotation | None = None) -> tuple[Fit, ReceivedBlock]:
    """Fit at the truth on all symbols known, and the block, turned by nothing if not told otherwise."""
    obs, truth = simulation.observation, simulation.truth
    derotation = no_derotation(obs.motion) if derotation is None else derotation
    block = replace(ReceivedBlock.of(obs, 1.0), derotation=derotation)
    certain = SymbolMoments(truth.symbols, np.zeros(truth.symbols.shape))
    statistics = data_statistics(block.received, certain, block.masks, derotation)
    problem = Problem(
        Measurements(statistics, Receiver.of(obs)),
        ScenePrior.of(obs),
        obs.region_m,
        1 / truth.noise_variance,
    )
    scene, paths = true_scene(simulation)
    return evaluate(problem, scene, paths, np.full(len(paths), 1e-6)), block
