"""Ray-traced Munich: scatterers, users, and the unlocated paths, which no single bounce explains."""

from __future__ import annotations

from pathlib import Path

import numpy as np

import isac_toolbox as isac
from isac_toolbox.figures.run import FigureRun

SCENARIO, SEED = "traced_munich", 0


def draw(run: FigureRun) -> list[Path]:
    """Draw truth and estimate of one block; rays show where unlocated paths arrive from."""
    simulation = isac.Scenario.load(SCENARIO).simulate(seed=SEED)
    observation, truth = simulation.observation, simulation.truth
    result = isac.EMTurboBiSVBI().estimate(observation)
    figure, _ = isac.plotting.scene_3d(result, truth, observation=observation)
    found = isac.metrics.localisation(result.scatterer_positions_m, truth.scatterer_positions_m)
    bound = isac.bounds.hybrid_crb(simulation).channel_nmse_db
    nmse_db = isac.metrics.channel_nmse_db(result.channel, truth.channel)
    rows = [
        {"scenario": SCENARIO, "seed": SEED, "kind": kind, "x_m": x, "y_m": y, "z_m": z, "probability": p}
        for kind, points, probability in (
            ("true scatterer", truth.scatterer_positions_m, np.ones(len(truth.scatterer_positions_m))),
            ("estimated scatterer", result.scatterer_positions_m, result.scatterer_probability),
            ("true user", truth.user_positions_m, np.ones(observation.n_users)),
            ("estimated user", result.user_positions_m, np.ones(observation.n_users)),
        )
        for (x, y, z), p in zip(points, probability)
    ]
    paths = result.unlocated_paths
    rows += [
        {
            "scenario": SCENARIO,
            "seed": SEED,
            "kind": "estimated unlocated path",
            "user": int(user),
            "delay_ns": 1e9 * delay,
            "horizontal_cosine": horizontal,
            "vertical_cosine": vertical,
            "probability": p,
        }
        for user, delay, (horizontal, vertical), p in zip(
            paths.user, paths.delay_s, paths.direction_cosines, paths.probability
        )
    ]
    caption = (
        f"{SCENARIO}, one block of {observation.n_users} users, seed {SEED}; {found.hits} of "
        f"{len(truth.scatterer_positions_m)} scatterers found, {found.false_alarms} false, "
        f"{len(paths)} unlocated paths ({len(truth.unlocated_paths)} true); "
        f"channel NMSE {nmse_db:.1f} dB, hybrid Cramér-Rao bound {bound:.1f} dB\n"
        "an array cannot tell front from back: paths from behind it are placed at their mirror image"
    )
    return run.save(figure, rows, caption)
