"""Small scenes with dense, brute-force counterparts of everything the estimators do separably."""

from __future__ import annotations

from dataclasses import dataclass, fields, is_dataclass, replace

import numpy as np

import isac_toolbox as isac
from isac_toolbox.channel.array import SPEED_OF_LIGHT_M_S
from isac_toolbox.channel.atoms.dense import Measurements
from isac_toolbox.channel.atoms.receiver import Receiver
from isac_toolbox.channel.atoms.scene import Paths, Scene, ScenePrior
from isac_toolbox.estimators.scene.fit import Fit, evaluate
from isac_toolbox.estimators.scene.problem import Problem
from isac_toolbox.estimators.symbols.statistics import SymbolMoments, data_statistics

REGION_M = np.array([[20.0, -30.0, 0.0], [80.0, 30.0, 15.0]])
BS_M = np.array([0.0, 0.0, 20.0])

#: A scene of a few milliseconds per estimate.
SMALL = isac.Scenario(
    array_shape=(6, 4),
    n_subcarriers=32,
    subcarrier_spacing_hz=3e6,
    n_users=2,
    n_scatterers=3,
    n_pilot_symbols=2,
    n_data_symbols=6,
    snr_db=15.0,
    visibility_probability=0.9,
    min_separation_m=8.0,
    min_excess_path_m=5.0,
)


def with_arguments(observation: isac.UplinkObservation, **changes) -> isac.UplinkObservation:
    """The observation with some constructor arguments changed."""
    return replace(observation, **changes)


def on_subcarriers(observation: isac.UplinkObservation, index: np.ndarray) -> isac.UplinkObservation:
    """The block on some of its subcarriers, in an order; one pilot mask for all users."""
    return replace(
        observation,
        received=observation.received[index],
        pilots=observation.pilots[:, index],
        pilot_mask=observation.pilot_mask[index],
        subcarrier_frequencies_hz=observation.subcarrier_frequencies_hz[index],
    )


def complex_normal(rng: np.random.Generator, shape) -> np.ndarray:
    """Independent CN(0, 1) numbers."""
    return (rng.standard_normal(shape) + 1j * rng.standard_normal(shape)) / np.sqrt(2)


def soft_moments(rng: np.random.Generator, shape: tuple[int, int, int]) -> SymbolMoments:
    """Symbols (K, N, T): a third known exactly, the rest with a mean and a moderate variance."""
    known = rng.random(shape) < 0.3
    mean = complex_normal(rng, shape) * np.where(known, 1.0, 0.7)
    return SymbolMoments(mean, np.where(known, 0.0, rng.uniform(0.05, 0.4, shape)))


@dataclass
class Case:
    """A random problem with a scene near nothing in particular."""

    problem: Problem
    scene: Scene
    paths: Paths
    precision: np.ndarray

    def fit(self, scene: Scene | None = None) -> Fit:
        return evaluate(self.problem, scene or self.scene, self.paths, self.precision)

    def objective(self, vector: np.ndarray) -> float:
        return self.fit(self.scene.with_vector(vector)).objective


def random_case(
    seed: int = 0,
    wavefront: str = "planar",
    user_stds_m: float | np.ndarray = 0.3,
    offset_stds_m: float | np.ndarray = 1.5,
    n_unlocated: int = 2,
) -> Case:
    """Two users, three points, some unlocated paths, random symbols and samples."""
    rng = np.random.default_rng(seed)
    n_users, n_sub, n_symbols, n_points = 2, 6, 5, 3
    array = isac.UniformPlanarArray((3, 2), (0.5, 0.6), 0.1, -0.15)
    frequencies = np.sort(rng.uniform(-40e6, 40e6, n_sub))
    spherical = wavefront == "spherical"
    receiver = Receiver(array, BS_M, frequencies, wavefront, 60e6 if spherical else None)
    nominal = np.array([[45.0, -12.0, 1.5], [62.0, 15.0, 2.0]])
    prior = ScenePrior(
        nominal,
        np.broadcast_to(np.asarray(user_stds_m, float), (n_users, 3)),
        np.broadcast_to(np.asarray(offset_stds_m, float), (n_users,)),
    )
    unlocated = np.column_stack(
        [
            rng.uniform(60, 120, n_unlocated),
            rng.uniform(-0.5, 0.5, n_unlocated),
            rng.uniform(-0.4, 0.2, n_unlocated),
        ]
    )
    scene = Scene(
        rng.uniform(REGION_M[0] + 2, REGION_M[1] - 2, (n_points, 3)),
        nominal + 0.3 * rng.standard_normal((n_users, 3)) * (prior.user_stds_m > 0),
        rng.standard_normal(n_users) * (prior.offset_stds_m > 0),
        unlocated,
    )
    seen = np.array([[True, True, False], [True, False, True]])
    unlocated_user = rng.integers(0, n_users, n_unlocated)
    paths = Paths.build(np.array([True, True]), seen, unlocated_user)
    received = complex_normal(rng, (n_sub, array.n_elements, n_symbols))
    statistics = data_statistics(received, soft_moments(rng, (n_users, n_sub, n_symbols)))
    problem = Problem(Measurements(statistics, receiver), prior, REGION_M, noise_precision=3.0)
    return Case(problem, scene, paths, rng.uniform(0.2, 2.0, len(paths)))


def dense_atoms(receiver: Receiver, scene: Scene, paths: Paths) -> np.ndarray:
    """Unit-gain channel (L, K, N, M) of every path, from the definitions of lengths and responses."""
    n_users = len(scene.users_m)
    array, bs, frequencies = receiver.array, receiver.bs_position_m, receiver.frequencies_hz
    atoms = np.zeros((len(paths), n_users, frequencies.size, array.n_elements), complex)
    for i, (k, target, unlocated) in enumerate(zip(paths.user, paths.target, paths.unlocated, strict=True)):
        if unlocated >= 0:
            length, u_h, u_v = scene.unlocated_m[unlocated]
            response = array.steering_from_cosines(np.array(u_h), np.array(u_v))
        else:
            point = scene.points_m[target] if target >= 0 else scene.users_m[k]
            length = np.linalg.norm(point - bs) + scene.offsets_m[k]
            length += np.linalg.norm(point - scene.users_m[k])
            if receiver.wavefront == "spherical":
                response = array.spherical_steering(point - bs, receiver.carrier_hz)
            else:
                response = array.steering((point - bs) / np.linalg.norm(point - bs))
        delay = np.exp(-2j * np.pi * frequencies * length / SPEED_OF_LIGHT_M_S)
        atoms[i, k] = np.outer(delay, response)
    return atoms


def dense_inner(first: np.ndarray, symbol_gram: np.ndarray, second: np.ndarray) -> np.ndarray:
    """``sum_n sum_kj R_n[k, j] h_kn^H h_jn`` for stacks (A, K, N, M) and (B, K, N, M), shape (A, B)."""
    return np.einsum("aknm,nkj,bjnm->ab", first.conj(), symbol_gram, second)


def numerical_derivatives(case: Case, gains: np.ndarray, scene: Scene | None = None) -> np.ndarray:
    """Derivatives (P, K, N, M) of the channel in the scene's unknowns, by central differences."""
    scene = scene or case.scene
    vector = scene.vector()
    derivatives = []
    for i in range(vector.size):
        step = 1e-5
        both = []
        for sign in (1, -1):
            moved = vector.copy()
            moved[i] += sign * step
            atoms = dense_atoms(case.problem.receiver, scene.with_vector(moved), case.paths)
            both.append(np.tensordot(gains, atoms, 1))
        derivatives.append((both[0] - both[1]) / (2 * step))
    return np.array(derivatives)


def full_information(case: Case, fit: Fit) -> tuple[np.ndarray, np.ndarray]:
    """Gauss-Newton information of (Re x, Im x, scene), priors included, and the derivatives (Q, K, N, M)."""
    gains = fit.posterior.mean
    atoms = dense_atoms(case.problem.receiver, fit.scene, case.paths)
    derivatives = np.concatenate([atoms, 1j * atoms, numerical_derivatives(case, gains, fit.scene)])
    gamma = case.problem.noise_precision
    information = 2 * gamma * dense_inner(derivatives, case.problem.statistics.symbol_gram, derivatives).real
    prior = np.concatenate([2 * case.precision, 2 * case.precision, case.problem.prior.precision(fit.scene)])
    return information + np.diag(prior), derivatives


def unknown(case: Case, scene: Scene) -> np.ndarray:
    """Which of (Re x, Im x, scene) are not known."""
    return np.concatenate([np.ones(2 * len(case.paths), bool), ~case.problem.prior.known(scene)])


def true_problem(seed: int, snr_db: float, wavefront: str = "planar", scenario: isac.Scenario = SMALL):
    """Problem on all symbols known, and the true scene, paths and simulation."""
    changes = {"wavefront": wavefront, "snr_db": snr_db}
    if wavefront == "spherical":
        changes["carrier_hz"] = 300e6  # an array some metres wide: a mildly curved wavefront
    simulation = scenario.replace(**changes).simulate(seed)
    observation, truth = simulation.observation, simulation.truth
    statistics = data_statistics(
        observation.received, SymbolMoments(truth.symbols, np.zeros(truth.symbols.shape))
    )
    problem = Problem(
        Measurements(statistics, Receiver.of(observation)),
        ScenePrior.of(observation),
        observation.region_m,
        1 / truth.noise_variance,
    )
    scene = Scene(
        truth.scatterer_positions_m,
        truth.user_positions_m,
        SPEED_OF_LIGHT_M_S * truth.time_offsets_s,
        np.zeros((0, 3)),
    )
    paths = Paths.build(truth.line_of_sight, truth.visibility, np.zeros(0, np.int64))
    return problem, scene, paths, simulation


def assert_no_nan(result: isac.EstimationResult) -> None:
    """No NaN or infinity in any number of a result; a method without iterations has no objective."""
    for field in fields(result):
        value = getattr(result, field.name)
        if value is None:
            continue
        if field.name == "misfit":
            arrays = [np.array([axis.excess_db, axis.p_value]) for axis in value.axes.values()]
        elif is_dataclass(value) and field.name != "history":
            arrays = [part for f in fields(value) if (part := getattr(value, f.name)) is not None]
        elif field.name == "history":
            arrays = [value.noise_variance, value.n_active, value.seconds]
            if result.estimator in ("EM-Turbo-BiSVBI", "MUSIC-SCVBI"):
                arrays.append(value.objective)
        elif field.name == "ambiguities":
            arrays = [array for entry in value for array in (entry.alternatives, entry.weights)]
        elif isinstance(value, str) or field.name == "warnings":
            continue
        else:
            arrays = [np.asarray(value)]
        for array in arrays:
            assert np.all(np.isfinite(array)), field.name
