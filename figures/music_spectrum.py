"""MUSIC location spectrum at the height of the strongest scatterer, and the coarse candidates."""

from __future__ import annotations

from pathlib import Path

import numpy as np

import isac_toolbox as isac
from isac_toolbox.estimators.coarse.music import music_points
from isac_toolbox.estimators.music import MusicModel, music_spectrum
from isac_toolbox.figures.run import FigureRun

SCENARIO, SEED = "urban_uplink", 0


def draw(run: FigureRun) -> list[Path]:
    """Draw the spectrum, the true scatterers and the candidates of all heights."""
    simulation = isac.Scenario.load(SCENARIO).simulate(seed=SEED)
    observation, truth = simulation.observation, simulation.truth
    strongest = int(np.argmax(np.sum(np.abs(truth.scatterer_gain) ** 2, axis=0)))
    height_m = float(truth.scatterer_positions_m[strongest, 2])
    step_m = run.choose(0.25, 1.0)
    (x_low, y_low, _), (x_high, y_high, _) = observation.region_m
    x, y = np.arange(x_low, x_high, step_m), np.arange(y_low, y_high, step_m)
    points = np.stack([*np.meshgrid(x, y, indexing="ij"), np.full((x.size, y.size), height_m)], axis=-1)
    values = music_spectrum(observation, points)
    candidates = music_points(MusicModel.from_observation(observation), observation.region_m)
    figure, _ = isac.plotting.spectrum_slice(
        x,
        y,
        np.exp(values),
        truth_m=truth.scatterer_positions_m,
        candidates_m=candidates,
        height_m=height_m,
    )
    found = isac.metrics.localisation(candidates, truth.scatterer_positions_m)
    rows = [
        {"scenario": SCENARIO, "seed": SEED, "kind": kind, "x_m": px, "y_m": py, "z_m": pz}
        for kind, group in (("true scatterer", truth.scatterer_positions_m), ("candidate", candidates))
        for px, py, pz in group
    ]
    caption = (
        f"{SCENARIO}, one block, seed {SEED}; {found.hits} of {len(truth.scatterer_positions_m)} scatterers "
        f"within 2 m of a candidate, {found.false_alarms} others for the sparse step to prune"
    )
    return run.save(figure, rows, caption)
