"""
Your own estimator beside the others
====================================

A channel estimator in thirty lines: least squares, turned into delays and beams, where a few coefficients
hold the paths and all others noise. What stands out is kept, shrunk as Wiener would. ``isac.sweep`` takes
any object with ``estimate(obs)`` that returns an :class:`~isac_toolbox.EstimationResult`.
"""

# %%
# The estimator
# -------------
from dataclasses import dataclass

import numpy as np

import isac_toolbox as isac

# [estimator]


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
        channel = np.fft.ifftn(gain * spectrum, axes=(1, 2, 3), norm="ortho").reshape(first.channel.shape)
        left = np.where(kept, gain * noise, 0.0).mean(axis=(1, 2, 3)).reshape(-1, 1, 1)
        return isac.estimators.result_from_channel(
            obs,
            channel,
            first.noise_variance,
            channel_variance=left,
            estimator="DelayBeamThreshold",
        )


# [sweep]
# %%
# In a sweep
# ----------
# Ten blocks at every point, the same for all estimators. With ``store="own.db"`` the sweep could be killed and
# would go on where it stopped; ``jobs=-1`` takes every processor.
def compare(trials=10, **options):
    """Channel error over SNR beside the main estimator, least squares and the bound."""
    estimators = {"own": DelayBeamThreshold(), "bisvbi": isac.EMTurboBiSVBI(), "ls": isac.LeastSquares()}
    scenario = isac.Scenario.load("urban_uplink")
    return isac.sweep(scenario, {"snr_db": [-10, 0, 10]}, estimators, trials=trials, **options)


if __name__ == "__main__":
    for entry in compare().summary():
        point = f"{entry.point['snr_db']:4} dB"
        print(f"{point} {entry.estimator:7} {entry.nmse_db:7.2f} dB, bound {entry.bound_nmse_db:.2f} dB")
# [end]
