"""Moving users: velocities over SNR beside the bound, and channels over speed."""

from __future__ import annotations

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

import isac_toolbox as isac
from isac_toolbox.figures.run import FigureRun
from isac_toolbox.plotting.style import BOUND_STYLE, OKABE_ITO, readable_log

SCENARIO = "moving_uplink"
STILL = {"scatterer_velocity_std_m_s": 0.0, "moving_share": 0.0}
SNRS_DB, SPEED_KM_H = (0.0, 5.0, 10.0, 15.0, 20.0), 30.0
SPEEDS_KM_H, SNR_DB = (0.3, 1.0, 3.0, 10.0, 30.0, 120.0), 20.0
METHODS = (
    ("EM-Turbo-BiSVBI", isac.EMTurboBiSVBI(), "blue", "o"),
    ("NOMP, static", isac.NOMP(), "orange", "s"),
    ("least squares, static", isac.LeastSquares(), "green", "^"),
)


def draw(run: FigureRun) -> list[Path]:
    """Draw both panels."""
    seeds = range(run.n_trials or run.choose(10, 1))
    snrs_db, speeds_km_h = run.choose(SNRS_DB, SNRS_DB[-1:]), run.choose(SPEEDS_KM_H, SPEEDS_KM_H[-1:])
    rows = [velocity_row(snr_db, seeds) for snr_db in snrs_db]
    channels = [channel_row(speed, seeds) for speed in speeds_km_h]
    figure, (velocities, errors) = plt.subplots(1, 2, figsize=(10.5, 4.2), layout="constrained")
    velocities.plot(snrs_db, [r["velocity_bound_m_s"] for r in rows], **BOUND_STYLE, label="bound")
    velocities.plot(
        snrs_db,
        [r["velocity_rmse_m_s"] for r in rows],
        "o-",
        color=OKABE_ITO["blue"],
        label="EM-Turbo-BiSVBI",
    )
    velocities.set(xlabel="SNR (dB)", ylabel="RMSE of users' velocities (m/s)", yscale="log")
    readable_log(velocities.yaxis)
    errors.plot(speeds_km_h, [r["bound_db"] for r in channels], **BOUND_STYLE, label="bound")
    for name, _, colour, marker in METHODS:
        errors.plot(
            speeds_km_h, [r[name] for r in channels], marker=marker, color=OKABE_ITO[colour], label=name
        )
    errors.set(xlabel="speed of the users (km/h)", ylabel="NMSE over all symbols (dB)", xscale="log")
    readable_log(errors.xaxis)
    for ax in (velocities, errors):
        ax.grid(alpha=0.3)
        ax.legend(fontsize=8, frameon=False)
    caption = (
        f"{SCENARIO}, scatterers at rest, {len(seeds)} blocks a point, seeds from 0; left {SPEED_KM_H:.0f} "
        f"km/h, offsets of 200 Hz; right medians at {SNR_DB:.0f} dB, no offsets"
    )
    return run.save(figure, [*rows, *channels], caption)


def velocity_row(snr_db: float, seeds: range) -> dict[str, object]:
    """Errors of velocities at one SNR."""
    errors, bounds = [], []
    for seed in seeds:
        scenario = isac.Scenario.load(SCENARIO).replace(
            snr_db=snr_db, user_speed_m_s=SPEED_KM_H / 3.6, **STILL
        )
        simulation = scenario.simulate(seed=seed)
        result = isac.EMTurboBiSVBI().estimate(simulation.observation)
        away = result.user_velocities_m_s - simulation.truth.user_velocities_m_s
        errors.append(np.sum(away**2, axis=1))
        bounds.append(isac.bounds.hybrid_crb(simulation).user_velocity_rmse_m_s ** 2)
    return {
        "snr_db": snr_db,
        "velocity_rmse_m_s": float(np.sqrt(np.mean(errors))),
        "velocity_bound_m_s": float(np.sqrt(np.mean(bounds))),
    }


def channel_row(speed_km_h: float, seeds: range) -> dict[str, object]:
    """Errors of channels at one speed."""
    nmse: dict[str, list[float]] = {name: [] for name, *_ in METHODS}
    bounds = []
    for seed in seeds:
        scenario = isac.Scenario.load(SCENARIO).replace(
            snr_db=SNR_DB, user_speed_m_s=speed_km_h / 3.6, frequency_offset_std_hz=0.0, **STILL
        )
        simulation = scenario.simulate(seed=seed)
        symbols = range(simulation.observation.n_symbols)
        channel = simulation.truth.channel_at(symbols)
        bounds.append(isac.bounds.hybrid_crb(simulation).channel_nmse_db)
        for name, estimator, *_ in METHODS:
            found = estimator.estimate(simulation.observation).channel_at(symbols)
            nmse[name].append(isac.metrics.channel_nmse_db(found, channel))
    medians = {name: float(np.median(values)) for name, values in nmse.items()}
    return {"speed_km_h": speed_km_h, "bound_db": float(np.median(bounds)), **medians}
