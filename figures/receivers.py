"""What imperfect receivers cost, and what a model of them buys back."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

import isac_toolbox as isac
from isac_toolbox.channel.hardware import HARDWARE_FIELDS
from isac_toolbox.figures.run import FigureRun
from isac_toolbox.plotting.style import BOUND_STYLE, OKABE_ITO

SCENARIO, SNR_DB = "urban_uplink", 20.0
EFFECTS = {
    "elements off by\n1 %, 1 degree": {"element_gain_std": 0.01, "element_phase_std_rad": 0.01745},
    "elements off by\n3 %, 3 degrees": {"element_gain_std": 0.03, "element_phase_std_rad": 0.05236},
    "elements off by\n10 %, 10 degrees": {"element_gain_std": 0.1, "element_phase_std_rad": 0.1745},
    "neighbours couple\nby 0.1": {"coupling": 0.1},
    "neighbours couple\nby 0.2": {"coupling": 0.2},
    "images of\n-30 dB": {"iq_image_db": -30.0, "user_iq_image_db": -30.0},
    "images of\n-25 dB": {"iq_image_db": -25.0, "user_iq_image_db": -25.0},
}
# Without the priors hundreds of paths are looked for; what there is by then is shown.
HURRIED = isac.EMTurboBiSVBI(max_iter=6)


def draw(run: FigureRun) -> list[Path]:
    """Draw channel errors without and with the priors of every effect, beside the bound with it."""
    seeds = range(run.n_trials or run.choose(10, 1))
    effects = run.choose(list(EFFECTS), list(EFFECTS)[:2])
    rows = [row(effect, seeds) for effect in effects]
    at = np.arange(len(rows))
    figure, ax = plt.subplots(figsize=(10.5, 4.4), layout="constrained")
    ignored, learned = ([r[name] for r in rows] for name in ("ignored_db", "learned_db"))
    ax.vlines(at, learned, ignored, color="0.8", lw=6, zorder=1)
    ax.plot(at, ignored, "v", color=OKABE_ITO["vermilion"], ms=8, label="effect ignored")
    ax.plot(at, learned, "o", color=OKABE_ITO["blue"], ms=8, label="effect learned")
    bounds = [r["bound_db"] for r in rows]
    ax.hlines(bounds, at - 0.3, at + 0.3, **BOUND_STYLE, label="bound with the effect unknown")
    ax.axhline(rows[0]["ideal_db"], color="0.5", lw=1, ls=":", label="bound of an ideal receiver")
    ax.set_xticks(at, [r["effect"] for r in rows], fontsize=8)
    ax.set(xlabel="what the receiver does not know", ylabel="NMSE of the channel (dB)")
    ax.grid(axis="y", alpha=0.3)
    ax.legend(fontsize=8, frameon=False, ncols=2)
    for r in rows:
        r["effect"] = str(r["effect"]).replace("\n", " ")
    caption = f"{SCENARIO}, {SNR_DB:.0f} dB, medians of {len(seeds)} blocks each, seeds from 0"
    return run.save(figure, rows, caption)


def row(effect: str, seeds: range) -> dict[str, object]:
    """Medians of one effect."""
    ideal = isac.Scenario.load(SCENARIO).replace(snr_db=SNR_DB)
    numbers = []
    for seed in seeds:
        simulation = ideal.replace(**EFFECTS[effect]).simulate(seed)
        obs, truth = simulation.observation, simulation.truth
        ignorant = replace(obs, **dict.fromkeys(HARDWARE_FIELDS))
        numbers.append(
            [
                isac.metrics.channel_nmse_db(estimator.estimate(block).channel, truth.channel)
                for estimator, block in ((HURRIED, ignorant), (isac.EMTurboBiSVBI(), obs))
            ]
            + [isac.bounds.hybrid_crb(s).channel_nmse_db for s in (simulation, ideal.simulate(seed))]
        )
    names = ("ignored_db", "learned_db", "bound_db", "ideal_db")
    return {"effect": effect, **dict(zip(names, map(float, np.median(numbers, axis=0)), strict=True))}
