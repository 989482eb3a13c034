"""A recovered scene in space and from above, beside the truth."""

from __future__ import annotations

from pathlib import Path

import isac_toolbox as isac
from isac_toolbox.figures.run import FigureRun

SCENARIO, SEED = "urban_uplink", 0


def draw(run: FigureRun) -> list[Path]:
    """Draw truth and estimate of one block."""
    simulation = isac.Scenario.load(SCENARIO).simulate(seed=SEED)
    truth = simulation.truth
    result = isac.EMTurboBiSVBI().estimate(simulation.observation)
    figure, _ = isac.plotting.scene_3d(result, truth, observation=simulation.observation)
    bound = isac.bounds.hybrid_crb(simulation).position_rmse_m
    found = isac.metrics.localisation(result.scatterer_positions_m, truth.scatterer_positions_m)
    matched = dict(zip(found.truth_index.tolist(), found.estimate_index.tolist()))
    rows = []
    for number, point in enumerate(truth.scatterer_positions_m):
        row = {"scenario": SCENARIO, "seed": SEED, "true_number": number + 1, "bound_m": bound[number]}
        row |= dict(zip(("x_m", "y_m", "z_m"), point))
        if number in matched:
            estimate = result.scatterer_positions_m[matched[number]]
            row |= dict(zip(("estimated_x_m", "estimated_y_m", "estimated_z_m"), estimate))
            row["probability"] = result.scatterer_probability[matched[number]]
        rows.append(row)
    caption = (
        f"{SCENARIO}, one block, seed {SEED}; {found.hits} of {len(truth.scatterer_positions_m)} found, "
        f"RMSE {found.rmse_m:.3f} m, hybrid Cramér-Rao bound "
        f"{float((bound[found.truth_index] ** 2).mean() ** 0.5):.3f} m"
    )
    return run.save(figure, rows, caption)
