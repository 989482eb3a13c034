"""Echoes over range and Doppler shift: the map of a block, and the scatterers found in it."""

from __future__ import annotations

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.colors import LogNorm

import isac_toolbox as isac
from isac_toolbox.channel.array import SPEED_OF_LIGHT_M_S
from isac_toolbox.channel.geometry import unit_vectors
from isac_toolbox.figures.run import FigureRun
from isac_toolbox.plotting.style import OKABE_ITO

SCENARIO, SEED = "monostatic_moving", 1


def draw(run: FigureRun) -> list[Path]:
    """Draw the map of 256 symbols with true and estimated scatterers."""
    n_symbols = run.choose(256, 32)
    scenario = isac.Scenario.load(SCENARIO).replace(
        numerology=None,
        symbol_period_s=17.8e-6,
        n_data_symbols=n_symbols - 1,
        snr_db=0.0,
        n_subcarriers=96,
        subcarrier_spacing_hz=1.5e6,
    )
    simulation = scenario.simulate(seed=SEED)
    obs, truth = simulation.observation, simulation.truth
    found, result = isac.range_doppler_map(obs), isac.EMTurboBiSVBI().estimate(obs)
    figure, ax = plt.subplots(figsize=(7.5, 5.0), layout="constrained")
    floor = float(np.median(found.power))
    image = ax.pcolormesh(
        found.doppler_hz / 1e3,
        found.lengths_m / 2,
        np.maximum(found.power, floor),
        norm=LogNorm(floor, found.power.max()),
        cmap="cividis",
        shading="nearest",
        rasterized=True,
    )
    figure.colorbar(image, ax=ax, label="matched-filter power")
    rows = []
    for kind, places, velocities, style in (
        ("true", truth.scatterer_positions_m, truth.scatterer_velocities_m_s, {"marker": "o", "ms": 11}),
        ("found", result.scatterer_positions_m, result.scatterer_velocities_m_s, {"marker": "x", "ms": 7}),
    ):
        direction, distance = unit_vectors(obs.bs_position_m, places)
        shift_hz = -2 * scenario.carrier_hz / SPEED_OF_LIGHT_M_S * np.sum(direction * velocities, axis=1)
        colour = OKABE_ITO["vermilion" if kind == "true" else "sky blue"]
        ax.plot(shift_hz / 1e3, distance, ls="", mfc="none", mew=1.6, color=colour, label=kind, **style)
        rows += [
            {"scenario": SCENARIO, "seed": SEED, "kind": kind, "range_m": r, "doppler_hz": f}
            for r, f in zip(distance, shift_hz, strict=True)
        ]
    reach = 1.2 * max(abs(row["doppler_hz"]) for row in rows) / 1e3 + 0.2
    farthest = 1.15 * max(row["range_m"] for row in rows)
    ax.set(xlabel="Doppler shift (kHz)", ylabel="range (m)", xlim=(-reach, reach), ylim=(0, farthest))
    ax.legend(loc="upper right", frameon=True)
    caption = f"{SCENARIO}, seed {SEED}, {n_symbols} symbols of 17.8 µs at 0 dB, 64 antennas"
    return run.save(figure, rows, caption)
