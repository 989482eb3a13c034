"""
An estimator of your own in a sweep
===================================

A channel estimator in thirty lines: least squares, turned into delays and beams, where a few coefficients
hold the paths and all others noise. What stands out is kept and shrunk as Wiener would.
"""

# %%
# ``isac.sweep`` takes any object with ``estimate(obs)`` that returns an
# :class:`~isac_toolbox.estimators.EstimationResult`;
# :func:`~isac_toolbox.estimators.result_from_channel` makes one from a channel.
from dataclasses import dataclass

import matplotlib.pyplot as plt
import numpy as np

import isac_toolbox as isac


@dataclass(frozen=True)
class DelayBeamThreshold:
    """Keep the delay-beam coefficients of the least-squares channel that noise would hardly reach."""

    false_alarm_rate: float = 1e-3

    def estimate(self, obs, *, callback=None):
        """One block in, an ``EstimationResult`` out; there is no loop that ``callback`` could watch."""
        first = isac.LeastSquares().estimate(obs)
        grid = (obs.n_users, obs.n_subcarriers, *obs.array.shape)
        spectrum = np.fft.fftn(first.channel.reshape(grid), axes=(1, 2, 3), norm="ortho")
        noise = first.channel_variance[:, 0, 0].reshape(-1, 1, 1, 1)
        power = np.abs(spectrum) ** 2
        kept = power > noise * np.log(1 / self.false_alarm_rate)
        gain = np.where(kept, 1 - noise / np.maximum(power, noise), 0.0)
        channel = np.fft.ifftn(gain * spectrum, axes=(1, 2, 3), norm="ortho")
        left = np.where(kept, gain * noise, np.minimum(power, noise)).mean(axis=(1, 2, 3))
        return isac.estimators.result_from_channel(
            obs,
            channel.reshape(first.channel.shape),
            first.noise_variance,
            channel_variance=left[:, None, None],
            estimator="DelayBeamThreshold",
        )


# %%
# Every estimator sees the same blocks at every point. With ``store="own.db"`` the sweep may be killed and
# goes on where it stopped; ``jobs=-1`` takes every processor.
def compare(trials=4, **options):
    """Channel error over SNR beside the main estimator, least squares and the bound."""
    estimators = {"own": DelayBeamThreshold(), "bisvbi": isac.EMTurboBiSVBI(), "ls": isac.LeastSquares()}
    scenario = isac.Scenario.load("urban_uplink")
    return isac.sweep(scenario, {"snr_db": [-10, 0, 10]}, estimators, trials=trials, **options)


if __name__ == "__main__":
    summary = compare().summary()
    fig, ax = plt.subplots(figsize=(6.4, 4.0), layout="constrained")
    for name, marker in (("ls", "v"), ("own", "s"), ("bisvbi", "o")):
        entries = [entry for entry in summary if entry.estimator == name]
        snr_db = [entry.point["snr_db"] for entry in entries]
        ax.plot(snr_db, [entry.nmse_db for entry in entries], marker=marker, label=name)
    ax.plot(snr_db, [entry.bound_nmse_db for entry in entries], "k--", label="hybrid Cramér-Rao bound")
    ax.set(xlabel="SNR (dB)", ylabel="channel NMSE (dB)")
    ax.grid(alpha=0.3)
    ax.legend(loc="lower left")

# %%
# The delay-beam grid gains over least squares what the empty cells bring, and no more: paths lie between its
# points, leak over many cells, and each cell pays for its own noise. Positions, shared between users and
# refined off the grid, are what closes the gap to the bound.
