"""Channel error per iteration and per second: rules, M-steps and E-steps from the same coarse scene."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from time import process_time
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.pyplot import subplots
from matplotlib.ticker import MaxNLocator

import isac_toolbox as isac
from isac_toolbox.figures.run import FigureRun
from isac_toolbox.figures.sweeps import legend_above, uplink
from isac_toolbox.plotting.style import BOUND_STYLE, curve_style, readable_log

SNR_DB, SEED = 0.0, 0


def draw(run: FigureRun) -> list[Path]:
    """Draw the mean error over some blocks; blocks that have ended keep their last value."""
    scenario, described = uplink(run, snr_db=SNR_DB)
    blocks = [scenario.simulate(seed=SEED + i) for i in range(run.trials())]
    bound_db = to_db([isac.bounds.hybrid_crb(block).channel_nmse for block in blocks])
    points = run.choose(256, 64)
    figure, (left, right) = subplots(1, 2, figsize=(9.6, 4.7), layout="constrained", sharey=True)
    rows: list[dict[str, Any]] = []
    for name, (label, estimator) in variants(points).items():
        estimator.estimate(blocks[0].observation, callback=lambda loop: loop.n_iter >= 1)  # compiles
        seconds, errors = averages([watch(estimator, block) for block in blocks])
        left.plot(range(1, len(errors) + 1), errors, label=label, **curve_style(name))
        right.plot(seconds, errors, label=label, **curve_style(name))
        common = {"scenario": described, "snr_db": SNR_DB, "first_seed": SEED, "blocks": len(blocks)}
        common |= {"variant": label, "bound_nmse_db": bound_db}
        rows += [
            {**common, "iteration": i + 1, "seconds": seconds[i], "nmse_db": errors[i]}
            for i in range(len(errors))
        ]
    finish(left, right, bound_db)
    legend_above(figure, 3)
    caption = f"{described}, {SNR_DB:g} dB; mean of {len(blocks)} blocks, seeds from {SEED}, one thread"
    return run.save(figure, rows, caption)


def variants(points: int) -> dict[str, tuple[str, isac.EMTurboBiSVBI]]:
    """Return the default and what may take its place."""
    full = isac.EMTurboBiSVBI(inverse="full", grid_points=points)
    inverse_free = isac.EMTurboBiSVBI(inverse="mm", grid_points=points)
    return {
        "bisvbi": ("extrinsic rule (default)", isac.EMTurboBiSVBI()),
        "mean-field": ("mean-field rule", isac.EMTurboBiSVBI(rule="mean_field")),
        "gradient": ("gradient M-step", isac.EMTurboBiSVBI(m_step="gradient")),
        "full-vbi": (f"full inverse, {points} grid points", full),
        "mm-vbi": (f"inverse-free, {points} grid points", inverse_free),
    }


def watch(estimator: isac.EMTurboBiSVBI, block: isac.Simulation) -> tuple[list[float], list[float]]:
    """Return processor seconds, without the measuring itself, and channel error after every iteration."""
    seconds: list[float] = []
    errors: list[float] = []
    measuring = 0.0
    start = process_time()

    def note(loop: Any) -> None:
        nonlocal measuring
        now = process_time()
        seconds.append(now - start - measuring)
        errors.append(10 ** (isac.metrics.channel_nmse_db(loop.channel(), block.truth.channel) / 10))
        measuring += process_time() - now

    estimator.estimate(block.observation, callback=note)
    return seconds, errors


def averages(traces: list[tuple[list[float], list[float]]]) -> tuple[list[float], list[float]]:
    """Return median seconds and mean error in dB per iteration."""
    length = max(len(seconds) for seconds, _ in traces)
    held = [[trace + [trace[-1]] * (length - len(trace)) for trace in both] for both in traces]
    seconds = np.median([both[0] for both in held], axis=0)
    return seconds.tolist(), [to_db(errors) for errors in zip(*(both[1] for both in held))]


def to_db(errors: Sequence[float]) -> float:
    """Return the mean of linear errors in dB."""
    return float(10 * np.log10(np.mean(errors)))


def finish(left: Axes, right: Axes, bound_db: float) -> None:
    """Draw bound, labels and ticks."""
    for ax in (left, right):
        ax.axhline(bound_db, label="hybrid Cramér-Rao bound", **BOUND_STYLE)
        ax.grid(alpha=0.3, lw=0.5)
    left.set(xlabel="iteration", ylabel="channel NMSE (dB)")
    left.xaxis.set_major_locator(MaxNLocator(integer=True))
    right.set(xlabel="processor time, coarse stage included (s)", xscale="log")
    readable_log(right.xaxis)
