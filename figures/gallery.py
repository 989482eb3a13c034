"""The README's pictures: a recovered scene, a slice of the MUSIC spectrum, convergence to the bound.

python figures/gallery.py
"""

from __future__ import annotations

from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import numpy as np

import isac_toolbox as isac
from isac_toolbox import plotting
from isac_toolbox.estimators.music import music_spectrum

SCENARIO, SEED = "urban_uplink", 0
FOLDER = Path(__file__).parent.parent / "docs" / "images"


def main() -> None:
    """Draw all three into ``docs/images``."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    simulation = isac.Scenario.load(SCENARIO).simulate(seed=SEED)
    draw_scene(simulation)
    draw_spectrum(simulation)
    draw_convergence(simulation)


def draw_scene(simulation: isac.Simulation) -> None:
    """Truth and estimate."""
    result = isac.EMTurboBiSVBI().estimate(simulation.observation)
    figure, _ = plotting.scene_3d(result, simulation.truth, observation=simulation.observation)
    figure.savefig(FOLDER / "scene.png", dpi=110)


def draw_spectrum(simulation: isac.Simulation) -> None:
    """Location spectrum at the height of the strongest scatterer."""
    observation, truth = simulation.observation, simulation.truth
    strongest = int(np.argmax(np.sum(np.abs(truth.scatterer_gain) ** 2, axis=0)))
    height_m = float(truth.scatterer_positions_m[strongest, 2])
    (x_low, y_low, _), (x_high, y_high, _) = observation.region_m
    x, y = np.arange(x_low, x_high, 0.25), np.arange(y_low, y_high, 0.25)
    points = np.stack([*np.meshgrid(x, y, indexing="ij"), np.full((x.size, y.size), height_m)], axis=-1)
    values = music_spectrum(observation, points)
    figure, _ = plotting.spectrum_slice(
        x, y, np.exp(values), truth_m=truth.scatterer_positions_m, height_m=height_m
    )
    figure.savefig(FOLDER / "music_spectrum.png", dpi=110)


def draw_convergence(simulation: isac.Simulation) -> None:
    """Channel error per iteration against the hybrid bound."""
    truth, errors_db = simulation.truth, []

    def watch(loop: isac.estimators.bisvbi.BiSVBILoop) -> None:
        errors_db.append(isac.metrics.channel_nmse_db(loop.channel(), truth.channel))

    result = isac.EMTurboBiSVBI().estimate(simulation.observation, callback=watch)
    bound = isac.bounds.hybrid_crb(simulation)
    figure, _ = plotting.convergence(result, bound_db=bound.channel_nmse_db, nmse_db=errors_db)
    figure.savefig(FOLDER / "convergence.png", dpi=110)


if __name__ == "__main__":
    main()
