"""Channels with a diffuse tail: EM-Turbo-BiSVBI beside NOMP, least squares and the bound with that tail.

    python benchmarks/accuracy/any_channel.py [--seeds 20] > benchmarks/accuracy/any_channel.txt

Scenes of urban_uplink; behind every user's line of sight begins an exponential power-delay profile, white
over the array, of so much power relative to the paths'. The bound counts the tail, of known profile, as
coloured noise of the scene and filters it for the channel; symbols are known and of orthogonal users. "hits"
are scatterers within 2 m; "/ bound" is the RMSE of the hits over the root mean square of their bounds;
"covered" is the share of hits inside their 95 % ellipsoid; "> LS - 3 dB" counts blocks that are not three
decibels below least squares; "time" is the median relative to the same scenes without a tail.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from runs import Figures, options, percent, print_table, run_tasks, seeds_of, seeds_text, timed, to_db

import isac_toolbox as isac
from isac_toolbox.channel.array import SPEED_OF_LIGHT_M_S
from isac_toolbox.channel.atoms.dense import make_atoms
from isac_toolbox.channel.atoms.receiver import Receiver
from isac_toolbox.channel.atoms.scene import Paths, Scene, ScenePrior, path_parameters
from isac_toolbox.scenario import Simulation

NO_TAIL_DB = -300.0
TAILS_DB = (NO_TAIL_DB, -30.0, -20.0, -15.0, -10.0, -5.0)
SNRS_DB = (20.0, 10.0)
DECAYS_S = (60e-9, 20e-9)
HIT_M = 2.0
#: 95 % of chi-square with three degrees of freedom.
ELLIPSOID = 7.815

BASE = isac.Scenario.load("urban_uplink")


def with_tail(
    simulation: Simulation, tail_db: float, seed: int, decay_s: float = DECAYS_S[0]
) -> tuple[Simulation, np.ndarray]:
    """The same block with a diffuse tail, and the tail's covariance over frequency (K, N, N)."""
    rng = np.random.default_rng([seed, 77])
    observation, truth = simulation.observation, simulation.truth
    n_users, n_tones, n_antennas = truth.channel.shape
    distance = np.linalg.norm(truth.user_positions_m - observation.bs_position_m, axis=1)
    onset_s = distance / SPEED_OF_LIGHT_M_S + truth.time_offsets_s
    frequencies = observation.subcarrier_frequencies_hz
    apart = 2 * np.pi * np.subtract.outer(frequencies, frequencies)
    power = np.mean(np.abs(truth.channel) ** 2, axis=(1, 2)) * 10 ** (tail_db / 10)
    covariance = np.exp(-1j * apart * onset_s[:, None, None]) / (1 + 1j * apart * decay_s)
    covariance = covariance * power[:, None, None]
    values, vectors = np.linalg.eigh(covariance)
    white = rng.standard_normal((n_users, n_tones, n_antennas, 2)) @ [1, 1j] / np.sqrt(2)
    tail = (vectors * np.sqrt(np.maximum(values, 0))[:, None, :]) @ white
    received = observation.received + np.einsum("knm,knt->nmt", tail, truth.symbols)
    whole = replace(truth, channel=truth.channel + tail)
    return Simulation(replace(observation, received=received), whole), covariance


def bound(simulation: Simulation, covariance: np.ndarray) -> tuple[float, np.ndarray]:
    """Bound of the channel's NMSE and of the scatterers' errors (S,) with the tail's covariance known."""
    observation, truth = simulation.observation, simulation.truth
    n_users, n_tones, n_antennas = truth.channel.shape
    energy = np.mean(np.sum(np.abs(truth.symbols) ** 2, axis=2), axis=1)
    noise = truth.noise_variance / energy[:, None, None] * np.eye(n_tones)
    information_over_tones = np.linalg.inv(noise + covariance)
    derivatives, scene = _derivatives(simulation)
    n_scene = scene.n_parameters
    precision = np.zeros(derivatives.shape[3])
    precision[-n_scene:] = ScenePrior.of(observation).precision(scene)
    information = np.diag(precision)
    for k in range(n_users):
        own = derivatives[k].reshape(n_tones, -1)
        weighted = (information_over_tones[k] @ own).reshape(-1, precision.size)
        information += 2 * np.real(derivatives[k].reshape(-1, precision.size).conj().T @ weighted)
    scale = 1 / np.sqrt(np.diag(information))
    errors = np.linalg.inv(information * scale[:, None] * scale) * scale[:, None] * scale
    total = 0.0
    for k in range(n_users):
        unfiltered = noise[k] @ information_over_tones[k]
        left = (unfiltered @ derivatives[k].reshape(n_tones, -1)).reshape(-1, precision.size)
        total += float(np.sum((left @ errors) * left.conj()).real)
        total += n_antennas * float(np.trace(covariance[k] @ unfiltered.conj().T).real)
    n_points = len(scene.points_m)
    of_points = np.diag(errors)[-n_scene:][: 3 * n_points].reshape(n_points, 3)
    return total / float(np.sum(np.abs(truth.channel) ** 2)), np.sqrt(of_points.sum(axis=1))


def _derivatives(simulation: Simulation) -> tuple[np.ndarray, Scene]:
    """Derivatives (K, N, M, P) of the paths' channel in real and imaginary gains and the scene."""
    observation, truth = simulation.observation, simulation.truth
    receiver = Receiver.of(observation)
    offsets_m = SPEED_OF_LIGHT_M_S * truth.time_offsets_s
    scene = Scene(truth.scatterer_positions_m, truth.user_positions_m, offsets_m, np.zeros((0, 3)))
    paths = Paths.build(truth.line_of_sight, truth.visibility, np.zeros(0, np.int64))
    direct, over = paths.is_line_of_sight, paths.is_point
    gains = np.empty(len(paths), complex)
    gains[direct] = truth.line_of_sight_gain[paths.user[direct]]
    gains[over] = truth.scatterer_gain[paths.user[over], paths.target[over]]

    def channel(at: Scene, amplitudes: np.ndarray) -> np.ndarray:
        parameters = path_parameters(at, paths, receiver)
        return make_atoms(parameters, paths, receiver).synthesise(amplitudes, observation.n_users)

    of_gains = [channel(scene, unit) for unit in np.eye(len(paths), dtype=complex)]
    columns, vector, step_m = of_gains + [1j * c for c in of_gains], scene.vector(), 1e-4
    for i in range(vector.size):
        moved = np.zeros(vector.size)
        moved[i] = step_m
        ahead, behind = (channel(scene.with_vector(vector + s * moved), gains) for s in (1, -1))
        columns.append((ahead - behind) / (2 * step_m))
    return np.stack(columns, axis=-1), scene


def run_block(snr_db: float, decay_s: float, tail_db: float, seed: int) -> Figures:
    """One block: estimators and bound."""
    simulation = BASE.replace(snr_db=snr_db).simulate(seed=seed)
    simulation, covariance = with_tail(simulation, tail_db, seed, decay_s)
    truth = simulation.truth
    result, seconds = timed(lambda s: isac.EMTurboBiSVBI().estimate(s.observation), simulation)
    nomp = isac.NOMP().estimate(simulation.observation)
    plain = isac.LeastSquares().estimate(simulation.observation)
    bound_nmse, bounds_m = bound(simulation, covariance)
    found = isac.metrics.localisation(
        result.scatterer_positions_m, truth.scatterer_positions_m, max_distance_m=HIT_M
    )
    error = (
        result.scatterer_positions_m[found.estimate_index] - truth.scatterer_positions_m[found.truth_index]
    )
    inverse = np.linalg.inv(result.scatterer_covariance_m2[found.estimate_index])
    inside = np.einsum("si,sij,sj->s", error, inverse, error) < ELLIPSOID
    return {
        "em_db": isac.metrics.channel_nmse_db(result.channel, truth.channel),
        "nomp_db": isac.metrics.channel_nmse_db(nomp.channel, truth.channel),
        "ls_db": isac.metrics.channel_nmse_db(plain.channel, truth.channel),
        "bound_db": to_db(bound_nmse),
        "expected_db": to_db(np.sum(result.channel_variance) / np.sum(np.abs(truth.channel) ** 2)),
        "true": len(truth.scatterer_positions_m),
        "hits": found.hits,
        "false": found.false_alarms,
        "unlocated": len(result.unlocated_paths.user),
        "covered": int(inside.sum()),
        "squared_errors_m2": np.sum(error**2, axis=1).tolist(),
        "squared_bounds_m2": (bounds_m[found.truth_index] ** 2).tolist(),
        "found_tail": bool(result.diffuse_power.any()),
        "seconds": seconds,
    }


HEADS = (
    "case",
    "EM dB (expected, worst)",
    "NOMP dB",
    "LS dB",
    "bound dB",
    "> LS - 3 dB",
    "hits",
    "false",
    "unlocated",
    "RMSE m",
    "/ bound",
    "covered",
    "tail found",
    "median s",
    "time",
    "worst s",
)


def row(case: str, blocks: list[Figures], seconds: float) -> list[str]:
    """Pooled figures of a case; ``seconds`` is the median without a tail."""

    def mean(name: str) -> float:
        return float(np.mean([b[name] for b in blocks]))

    def total(name: str) -> float:
        return float(sum(b[name] for b in blocks))

    def root(name: str) -> float:
        return float(np.sqrt(np.mean(np.concatenate([b[name] for b in blocks]))))

    close = sum(b["em_db"] > b["ls_db"] - 3 for b in blocks)
    median = float(np.median([b["seconds"] for b in blocks]))
    return [
        case,
        f"{mean('em_db'):.2f} ({mean('expected_db'):.2f}, {max(b['em_db'] for b in blocks):.2f})",
        f"{mean('nomp_db'):.1f}",
        f"{mean('ls_db'):.2f}",
        f"{mean('bound_db'):.2f}",
        str(close),
        f"{total('hits'):.0f} / {total('true'):.0f}",
        f"{total('false'):.0f}",
        f"{total('unlocated'):.0f}",
        f"{root('squared_errors_m2'):.3f}",
        f"{root('squared_errors_m2') / root('squared_bounds_m2'):.2f}",
        percent(total("covered"), total("hits")),
        f"{total('found_tail'):.0f}",
        f"{median:.2f}",
        f"{median / seconds:.1f}",
        f"{max(b['seconds'] for b in blocks):.2f}",
    ]


def main() -> None:
    """Run and print."""
    parser = options(__doc__, seeds=20, store=True)
    parser.add_argument("--snrs-db", type=float, nargs="*", default=SNRS_DB)
    arguments = parser.parse_args()
    seeds = seeds_of(arguments)
    cases = [(snr, decay, tail) for snr in arguments.snrs_db for decay in DECAYS_S for tail in TAILS_DB]
    tasks = [(*case, seed) for case in cases for seed in seeds]
    figures = run_tasks(run_block, tasks, arguments.jobs, arguments.store)
    rows, seconds = [], 1.0
    for i, (snr, decay, tail) in enumerate(cases):
        blocks = figures[i * len(seeds) : (i + 1) * len(seeds)]
        if tail == NO_TAIL_DB:
            seconds = float(np.median([b["seconds"] for b in blocks]))
        named = "no tail" if tail == NO_TAIL_DB else f"tail {tail:.0f} dB"
        rows.append(row(f"{snr:.0f} dB, {decay * 1e9:.0f} ns, {named}", blocks, seconds))
    print_table(f"diffuse tails, {seeds_text(arguments)}", HEADS, rows)


if __name__ == "__main__":
    main()
