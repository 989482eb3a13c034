"""Channels of 3GPP TR 38.901, which have no scatterers: clustered delay lines CDL-A to CDL-E.

    python benchmarks/accuracy/any_channel_cdl.py [--seeds 5] > benchmarks/accuracy/any_channel_cdl.txt

2 users, 8 x 8 antennas, 128 subcarriers of 30 kHz, QPSK, 2 orthogonal pilot symbols and 6 of data, delay
spread 100 ns, clocks 1 us. "street": users known to 0.3 m, in the region of the standard scenario. "no
geometry": users said to be 60 m ahead, known to 1 km, and a region of 2 km, as where nobody cares for places.

LMMSE estimates the channel from the pilots with the covariance that the drop's rays have under random phases:
it knows delays, directions and powers of all 260 to 480 rays and the noise, which no receiver does. NMSE is
that of the mean error. "false" counts points reported with a probability above 0.9, of which none is right.
"failed" counts blocks that ended in an error of the linear algebra, which no other figure counts.
"SER" is of data after the estimator's own detection, for LMMSE by the same receiver as least squares.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
from runs import (
    Figures,
    count_symbol_errors,
    options,
    print_table,
    run_tasks,
    seeds_of,
    seeds_text,
    timed,
    to_db,
)

import isac_toolbox as isac
from isac_toolbox.channel import CDL_MODELS
from isac_toolbox.estimators.baselines.channel_only import result_from_channel
from isac_toolbox.scenario import Simulation

SURE = 0.9
SNRS_DB = (0.0, 20.0)
BASE = isac.Scenario.load("urban_uplink").replace(
    n_users=2,
    n_subcarriers=128,
    subcarrier_spacing_hz=30e3,
    n_pilot_symbols=2,
    n_data_symbols=6,
    time_offset_std_s=1e-6,
)


def without_geometry(simulation: Simulation) -> Simulation:
    """The same samples, told nothing of places."""
    observation = simulation.observation
    ahead_m = observation.bs_position_m + 60 * observation.array.axes[0]
    return Simulation(
        replace(
            observation,
            user_positions_m=np.tile(ahead_m, (observation.n_users, 1)),
            user_position_std_m=np.asarray(1000.0),
            region_m=ahead_m + np.array([[-1000.0] * 3, [1000.0] * 3]),
        ),
        simulation.truth,
    )


def lmmse(simulation: Simulation) -> isac.EstimationResult:
    """Conditional mean given the pilots, with the covariance of the drop's rays under random phases.

    With the rays' responses ``A`` and powers ``P``, and energies ``E`` of the pilots, which are orthogonal on
    every subcarrier or on other ones: ``A (A^H E A + s^2 P^-1)^-1 A^H p^H y``.
    """
    observation, truth = simulation.observation, simulation.truth
    energy = np.sum(np.abs(observation.pilots) ** 2, axis=2)
    correlation = np.einsum("nmt,knt->knm", observation.received, observation.pilots.conj())
    channel = np.empty_like(correlation)
    for k in range(observation.n_users):
        delay_s, steering, power = rays_of(simulation, k)
        turns = np.outer(observation.subcarrier_frequencies_hz, delay_s + truth.time_offsets_s[k])
        tones = np.exp(-2j * np.pi * turns)
        gram = ((tones.conj().T * energy[k]) @ tones) * (steering.conj() @ steering.T)
        matched = np.einsum("nr,nm,rm->r", tones.conj(), correlation[k], steering.conj(), optimize=True)
        # scaled by the roots of the powers, so that weak rays do no harm
        root = np.sqrt(power)
        system = root[:, None] * gram * root + truth.noise_variance * np.eye(power.size)
        gains = root * np.linalg.solve(system, root * matched)
        channel[k] = (tones * gains) @ steering
    return result_from_channel(observation, channel, truth.noise_variance)


def rays_of(simulation: Simulation, user: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Delays (R,), responses (R, M) and powers (R,) of a user's rays, line of sight included."""
    observation, truth = simulation.observation, simulation.truth
    own = truth.rays.user == user
    delay_s = truth.rays.delay_s[own]
    steering = observation.array.steering_from_cosines(*truth.rays.direction_cosines[own].T)
    power = np.abs(truth.rays.gain[own]) ** 2
    if truth.line_of_sight[user]:
        straight_m = truth.user_positions_m[user] - observation.bs_position_m
        length_m = np.linalg.norm(straight_m)
        delay_s = np.append(delay_s, length_m / isac.channel.SPEED_OF_LIGHT_M_S)
        steering = np.vstack([steering, observation.array.steering(straight_m / length_m)])
        power = np.append(power, np.abs(truth.line_of_sight_gain[user]) ** 2)
    return delay_s, steering, power


ESTIMATORS: dict[str, Callable[[Simulation], isac.EstimationResult]] = {
    "EMTurboBiSVBI, street": lambda sim: isac.EMTurboBiSVBI().estimate(sim.observation),
    "EMTurboBiSVBI, no geometry": lambda sim: isac.EMTurboBiSVBI().estimate(
        without_geometry(sim).observation
    ),
    "NOMP": lambda sim: isac.NOMP().estimate(sim.observation),
    "LeastSquares": lambda sim: isac.LeastSquares().estimate(sim.observation),
    "LMMSE of the pilots, true covariance": lmmse,
}


def run_block(model: str, snr_db: float, name: str, seed: int) -> Figures:
    """One block and one estimator."""
    simulation = BASE.replace(cdl=model, snr_db=snr_db).simulate(seed)
    try:
        result, seconds = timed(ESTIMATORS[name], simulation)
    except np.linalg.LinAlgError:
        return {"failed": True}
    truth = simulation.truth
    wrong, symbols = count_symbol_errors(result, simulation)
    return {
        "failed": False,
        "nmse": 10 ** (isac.metrics.channel_nmse_db(result.channel, truth.channel) / 10),
        "false": int(np.sum(result.scatterer_probability > SURE)),
        "unlocated": len(result.unlocated_paths),
        "warned": len(result.warnings) > 0,
        "fell_back": "fell back" in result.status,
        "wrong": wrong,
        "symbols": symbols,
        "seconds": seconds,
    }


HEADS = (
    "model",
    "SNR dB",
    "estimator",
    "NMSE dB",
    "worst",
    "false a block",
    "unlocated a block",
    "warned",
    "fell back",
    "failed",
    "SER",
    "median s",
    "worst s",
)


def row(model: str, snr_db: float, name: str, blocks: list[Figures]) -> list[str]:
    """Pooled figures of a case."""
    failed = sum(b["failed"] for b in blocks)
    blocks = [b for b in blocks if not b["failed"]]
    count = len(blocks)
    nmse = np.array([b["nmse"] for b in blocks])
    seconds = [b["seconds"] for b in blocks]
    return [
        model,
        f"{snr_db:g}",
        name,
        f"{to_db(nmse.mean()):.1f}",
        f"{to_db(nmse.max()):.1f}",
        f"{sum(b['false'] for b in blocks) / count:.1f}",
        f"{sum(b['unlocated'] for b in blocks) / count:.1f}",
        f"{sum(b['warned'] for b in blocks)} of {count}",
        f"{sum(b['fell_back'] for b in blocks)} of {count}",
        str(failed),
        f"{sum(b['wrong'] for b in blocks) / max(sum(b['symbols'] for b in blocks), 1):.2g}",
        f"{np.median(seconds):.2f}",
        f"{max(seconds):.2f}",
    ]


def main() -> None:
    """Run and print."""
    parser = options(__doc__, seeds=5, store=True)
    parser.add_argument("--models", nargs="*", default=list(CDL_MODELS), choices=CDL_MODELS)
    arguments = parser.parse_args()
    cases = [(model, snr, name) for model in arguments.models for snr in SNRS_DB for name in ESTIMATORS]
    tasks = [(*case, seed) for case in cases for seed in seeds_of(arguments)]
    figures = run_tasks(run_block, tasks, arguments.jobs, arguments.store)
    per_case = len(seeds_of(arguments))
    rows = [row(*case, figures[i * per_case : (i + 1) * per_case]) for i, case in enumerate(cases)]
    print_table(f"clustered delay lines of 3GPP TR 38.901, {seeds_text(arguments)}", HEADS, rows)


if __name__ == "__main__":
    main()
