"""Least-squares channel estimation on the pilots."""

from __future__ import annotations

from dataclasses import dataclass, replace
from time import perf_counter

import numpy as np
from numpy.typing import NDArray

from isac_toolbox.channel.atoms.dense import Statistics
from isac_toolbox.channel.observation import UplinkObservation
from isac_toolbox.estimators.baselines.channel_only import (
    check_observation,
    result_from_channel,
)
from isac_toolbox.estimators.result import EstimationResult
from isac_toolbox.estimators.scene.silence import without_zeros
from isac_toolbox.estimators.search import PathSearch
from isac_toolbox.estimators.symbols.block import ReceivedBlock
from isac_toolbox.estimators.symbols.statistics import (
    least_squares_channel,
    pilot_statistics,
    sounded_entries,
)
from isac_toolbox.inference.turbo import Callback

__all__ = ["LeastSquares"]


@dataclass(frozen=True)
class LeastSquares:
    """Least-squares channel on the pilots, without any model of the paths.

    Per subcarrier ``H_n = R_n^+ Z_n``; where a user sends no pilot on a subcarrier (comb) its channel is
    interpolated linearly between those on which it does, and so it is on an element that misses samples. On a
    dead element it is zero, with the user's mean power for its variance. No scatterers are reported.
    """

    def estimate(self, obs: UplinkObservation, *, callback: Callback | None = None) -> EstimationResult:
        """Estimate from one block; ``callback`` is never called, as there is no loop to watch."""
        del callback
        check_observation(obs)
        start = perf_counter()
        obs, block, warnings = without_zeros(obs)
        statistics = pilot_statistics(block)
        channel = least_squares_channel(statistics, obs.subcarrier_frequencies_hz)
        noise_variance = _noise_variance(obs, block, statistics, channel)
        inverse = np.linalg.pinv(statistics.symbol_gram, hermitian=True)
        per_user = noise_variance * np.mean(np.real(np.einsum("nkk->kn", inverse)), axis=1)
        variance = np.broadcast_to(per_user[:, None, None], channel.shape)
        if not obs.usable_elements.all():
            mean_power = np.mean(np.abs(channel[..., obs.usable_elements]) ** 2, axis=(1, 2), keepdims=True)
            variance = np.where(obs.usable_elements, variance, mean_power)
        result = result_from_channel(
            obs,
            channel * block.scale,
            noise_variance * block.scale**2,
            channel_variance=variance * block.scale**2,
            estimator="LeastSquares",
            seconds=perf_counter() - start,
        )
        return replace(result, warnings=tuple(warnings))


def _noise_variance(
    obs: UplinkObservation,
    block: ReceivedBlock,
    statistics: Statistics,
    channel: NDArray[np.complex128],
) -> float:
    """Noise variance: as given, from the pilots' residual, or, where the fit is exact, between the paths."""
    if obs.noise_variance is not None:
        return obs.noise_variance / block.scale**2
    used = np.all(block.known, axis=0) & block.has_samples
    n_sub, n_antennas, _ = block.received.shape
    predicted = np.matmul(channel.transpose(1, 2, 0), block.pilots.transpose(1, 0, 2))
    residual = (block.received - predicted) * used[:, None, :]
    freedom = n_antennas * (int(np.count_nonzero(used)) - n_sub * obs.n_users)
    if obs.usable is not None:
        told = np.broadcast_to(sounded_entries(statistics).any(axis=0), (n_sub, n_antennas))
        there = obs.usable & used[:, None, :] & told[..., None]
        residual = np.where(there, residual, 0)
        freedom = int(np.count_nonzero(there)) - obs.n_users * int(np.count_nonzero(there.any(axis=2)))
    if freedom > 0:
        return float(np.sum(np.abs(residual) ** 2) / freedom)
    energies = int(np.count_nonzero(obs.usable_elements)) * statistics.user_energies
    return PathSearch.for_observation(obs).user_noise_level(statistics.cross_correlation, energies)
