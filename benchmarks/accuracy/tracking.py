"""Tracks over successive blocks beside single blocks and their bound, and scatterers that cross.

Usage: ``python benchmarks/accuracy/tracking.py [--runs 10] [--crossings 20] [--first 0]
> benchmarks/accuracy/tracking.txt``
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from dataclasses import replace
from time import process_time

import numpy as np
from threadpoolctl import threadpool_limits

import isac_toolbox as isac
from isac_toolbox.tracking import TrackedResult

SCENARIO = "moving_uplink"
PROCESS = isac.ConstantVelocity((1.0, 1.0, 0.0), (1.0, 1.0, 0.0), 1e-10, 1.0)
N_BLOCKS, INTERVAL_S = 50, 0.02
CROSSING_BLOCKS, CROSSING_INTERVAL_S, CROSSING_SPEED_M_S = 24, 0.05, 10.0
#: Blocks, counted from one, over which figures are pooled.
GROUPS = ((1, 1), (2, 4), (5, 9), (10, 24), (25, 50))
#: Squared distance in which a Gaussian of two, three dimensions lies with 95 %.
INSIDE_2, INSIDE_3 = 5.991, 7.815


def covered(errors: np.ndarray, covariances: np.ndarray, size: int) -> list[bool]:
    """Whether errors (n, 3) lie in the 95 % ellipsoids of their first entries."""
    limit = INSIDE_2 if size == 2 else INSIDE_3
    inner = covariances[:, :size, :size]
    squared = np.einsum("ni,ni->n", errors[:, :size], np.linalg.solve(inner, errors[:, :size, None])[..., 0])
    return [bool(s < limit) for s in squared]


def judge(figures: dict, simulation: isac.Simulation, tracked: TrackedResult) -> None:
    """Add the figures of one block."""
    truth, sure = simulation.truth, tracked.confirmed
    bound = isac.bounds.hybrid_crb(simulation)
    found = isac.metrics.localisation(tracked.scatterer_positions_m[sure], truth.scatterer_positions_m)
    alone = isac.metrics.localisation(tracked.estimate.scatterer_positions_m, truth.scatterer_positions_m)
    figures["track"] += (found.distances_m**2).tolist()
    figures["block"] += (alone.distances_m**2).tolist()
    figures["bound"] += (bound.position_rmse_m[found.truth_index] ** 2).tolist()
    figures["hits"].append(found.hits)
    figures["true"].append(len(truth.scatterer_positions_m))
    figures["false"].append(found.false_alarms)
    users_m = tracked.user_positions_m - truth.user_positions_m
    figures["user"] += np.sum(users_m**2, axis=1).tolist()
    figures["user bound"] += (bound.user_position_rmse_m**2).tolist()
    figures["user in"] += covered(users_m, tracked.user_position_covariance_m2, 3)
    speeds = tracked.user_velocities_m_s - truth.user_velocities_m_s
    figures["speed"] += np.sum(speeds**2, axis=1).tolist()
    figures["speed bound"] += (bound.user_velocity_rmse_m_s**2).tolist()
    figures["speed in"] += covered(speeds, tracked.user_velocity_covariance_m2_s2, 2)
    rows, columns = np.flatnonzero(sure)[found.estimate_index], found.truth_index
    places = tracked.scatterer_positions_m[rows] - truth.scatterer_positions_m[columns]
    figures["point in"] += covered(places, tracked.scatterer_covariance_m2[rows], 3)
    velocities = tracked.scatterer_velocities_m_s[rows] - truth.scatterer_velocities_m_s[columns]
    inside = covered(velocities, tracked.scatterer_velocity_covariance_m2_s2[rows], 3)
    moving = np.any(truth.scatterer_velocities_m_s[columns] != 0, axis=1)
    figures["mover in"] += [hit for hit, moves in zip(inside, moving, strict=True) if moves]
    figures["mover speed"] += np.sum(velocities[moving] ** 2, axis=1).tolist()


def follow(n_runs: int, first: int) -> dict[tuple[int, int], dict[str, list]]:
    """Figures of runs over blocks, pooled in groups."""
    groups: dict = {group: defaultdict(list) for group in GROUPS}
    scenario = isac.Scenario.load(SCENARIO)
    for seed in range(first, first + n_runs):
        tracker = isac.Tracker(process=PROCESS)
        track = scenario.simulate_track(N_BLOCKS, INTERVAL_S, seed=seed, process=PROCESS)
        for block, simulation in enumerate(track, start=1):
            start = process_time()
            tracked = tracker.update(simulation.observation)
            seconds = process_time() - start
            group = next(g for g in GROUPS if g[0] <= block <= g[1])
            groups[group]["seconds"].append(seconds)
            judge(groups[group], simulation, tracked)
    return groups


def crossing(seed: int) -> list[isac.Simulation]:
    """Blocks in which two scatterers that all users see pass each other within a metre."""
    rng = np.random.default_rng(seed)
    scenario = isac.Scenario.load(SCENARIO).replace(scatterer_speed_m_s=CROSSING_SPEED_M_S)
    scene = scenario.replace(visibility_probability=1.0).simulate(seed=seed).truth.environment
    half_s = CROSSING_BLOCKS * CROSSING_INTERVAL_S / 2
    low, high = np.array([35.0, -18.0, 2.0]), np.array([65.0, 18.0, 13.0])
    meeting, away = rng.uniform(low, high), rng.uniform(-0.6, 0.6, 3)
    heading = 2 * np.pi * rng.random() + np.array([0.0, rng.uniform(np.pi / 3, np.pi)])
    speeds = CROSSING_SPEED_M_S * np.stack([np.cos(heading), np.sin(heading), np.zeros(2)], axis=1)
    places, velocities = scene.scatterer_positions_m.copy(), np.zeros_like(scene.scatterer_positions_m)
    places[:2] = meeting + np.array([[-0.5], [0.5]]) * away - half_s * speeds
    velocities[:2] = speeds
    scene = replace(scene, scatterer_positions_m=places, scatterer_velocities_m_s=velocities)
    return scenario.simulate_track(
        CROSSING_BLOCKS, CROSSING_INTERVAL_S, seed=seed, environment=scene, users=[0, 1, 2], process=PROCESS
    )


def identities(tracked: TrackedResult, simulation: isac.Simulation) -> list[int]:
    """Numbers of the confirmed tracks of the two that cross; -1 for none within two metres."""
    sure = np.flatnonzero(tracked.confirmed)
    found = isac.metrics.localisation(
        tracked.scatterer_positions_m[sure], simulation.truth.scatterer_positions_m
    )
    of = dict(zip(found.truth_index.tolist(), tracked.track_ids[sure[found.estimate_index]].tolist()))
    return [of.get(q, -1) for q in (0, 1)]


def cross(n_runs: int, first: int) -> tuple[int, int]:
    """Numbers of crossing scatterers that were followed before, and that have the same number after."""
    followed = kept = 0
    for seed in range(first, first + n_runs):
        track, tracker = crossing(seed), isac.Tracker(process=PROCESS)
        results = [tracker.update(simulation.observation) for simulation in track]
        before = identities(results[4], track[4])
        after = identities(results[-1], track[-1])
        followed += sum(number >= 0 for number in before)
        kept += sum(a == b >= 0 for a, b in zip(before, after, strict=True))
    return followed, kept


def root_mean(values: list[float]) -> float:
    """Root of the mean of squares."""
    return float(np.sqrt(np.mean(values))) if values else float("nan")


def percent(values: list[bool]) -> str:
    """Share in percent."""
    return f"{100 * np.mean(values):.0f}" if values else "-"


_HEAD = (
    " blocks  found / true false |  track m  block m  bound m in % |  user m  bound in % |"
    "    m/s  bound in % | mover m/s in % | CPU s"
)


def line(group: tuple[int, int], figures: dict[str, list]) -> str:
    """One line of the table."""
    blocks = f"{group[0]}-{group[1]}"
    found = f"{sum(figures['hits'])} / {sum(figures['true'])}"
    errors = {name: root_mean(values) for name, values in figures.items() if name != "seconds"}
    return (
        f"{blocks:>7} {found:>13} {sum(figures['false']):>5} | "
        f"{errors['track']:8.4f} {errors['block']:8.4f} {errors['bound']:8.4f} "
        f"{percent(figures['point in']):>4} | "
        f"{errors['user']:7.4f} {errors['user bound']:6.4f} {percent(figures['user in']):>4} | "
        f"{errors['speed']:6.3f} {errors['speed bound']:6.3f} {percent(figures['speed in']):>4} | "
        f"{errors['mover speed']:9.3f} {percent(figures['mover in']):>4} | "
        f"{np.median(figures['seconds']):5.2f}"
    )


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=10)
    parser.add_argument("--crossings", type=int, default=20)
    parser.add_argument("--first", type=int, default=0)
    given = parser.parse_args()
    warm = isac.Scenario.load(SCENARIO).simulate(seed=0)
    with threadpool_limits(limits=1):
        isac.EMTurboBiSVBI().estimate(warm.observation)
        groups = follow(given.runs, given.first)
        followed, kept = cross(given.crossings, given.first)
    every_ms = 1e3 * INTERVAL_S
    print(
        f"{SCENARIO}, {given.runs} runs of {N_BLOCKS} blocks, one every {every_ms:.0f} ms, seeds from "
        f"{given.first}.\nAccelerations of 1 m/s2; clocks walk 0.1 ns and carriers 1 Hz in a second.\n"
        "Root mean square errors of tracks, and of the blocks' estimates, which have tracked users as "
        "prior;\n"
        "bounds are those of a block alone with its stated priors. in: share of errors inside the 95 %\n"
        "ellipsoid (velocities: of users horizontal, of movers in all axes). CPU: median of a block.\n"
    )
    print(_HEAD)
    for group, figures in groups.items():
        print(line(group, figures))
    print(
        f"\nCrossings: {given.crossings} runs of {CROSSING_BLOCKS} blocks, one every "
        f"{1e3 * CROSSING_INTERVAL_S:.0f} ms; two scatterers at {CROSSING_SPEED_M_S:.0f} m/s pass within a\n"
        f"metre, others rest. {kept} of {followed} kept their identity."
    )


if __name__ == "__main__":
    main()
