"""Least-squares channel estimation on the pilots."""

from __future__ import annotations

from dataclasses import dataclass, replace
from time import perf_counter

import numpy as np
from numpy.typing import NDArray

from isac_toolbox.channel.atoms.dense import Statistics
from isac_toolbox.channel.geometry import line_of_sight_delays_s
from isac_toolbox.channel.observation import UplinkObservation
from isac_toolbox.estimators.baselines.channel_only import (
    check_observation,
    result_from_channel,
)
from isac_toolbox.estimators.many import ManyBlocks
from isac_toolbox.estimators.result import EstimationResult
from isac_toolbox.estimators.scene.silence import without_zeros
from isac_toolbox.estimators.search import PathSearch
from isac_toolbox.estimators.symbols.block import ReceivedBlock
from isac_toolbox.estimators.symbols.statistics import (
    least_squares_channel,
    pilot_statistics,
    sounded_entries,
)
from isac_toolbox.estimators.symbols.tones import GroupedChannel, least_squares_over_groups
from isac_toolbox.inference.turbo import Callback

__all__ = ["LeastSquares"]


@dataclass(frozen=True)
class LeastSquares(ManyBlocks):
    """Least-squares channel on the pilots, without any model of the paths.

    Per subcarrier ``H_n = R_n^+ Z_n``; where a user sends no pilot on a subcarrier (comb) its channel is
    interpolated linearly between those on which it does, and so it is on an element that misses samples. On a
    dead element it is zero, with the user's mean power for its variance. Users that share subcarriers by
    codes over frequency are solved for over groups of neighbouring subcarriers, and a warning of the result
    says so (docs/theory.md, section 2.1). No scatterers are reported.
    """

    def estimate(self, obs: UplinkObservation, *, callback: Callback | None = None) -> EstimationResult:
        """Estimate from one block; ``callback`` is never called, as there is no loop to watch.

        Raises
        ------
        TypeError, ValueError
            If it is no observation, or if pilots do not keep its users apart.
        """
        del callback
        check_observation(obs)
        start = perf_counter()
        obs, block, warnings = without_zeros(obs)
        statistics = pilot_statistics(block)
        frequencies_hz = obs.subcarrier_frequencies_hz
        timing_s, places = np.zeros(obs.n_users), obs.geometry
        if places is not None:
            timing_s = line_of_sight_delays_s(places.user_positions_m, places.bs_position_m)
        grouped = least_squares_over_groups(statistics, frequencies_hz, timing_s)
        if grouped is None:
            channel = least_squares_channel(statistics, frequencies_hz)
            inverse = np.linalg.pinv(statistics.symbol_gram, hermitian=True)
            n_estimated = obs.n_subcarriers * obs.n_users
        else:
            channel, inverse, n_estimated = grouped.channel, grouped.inverse_gram, grouped.n_estimated
        noise_variance = _noise_variance(obs, block, statistics, channel, n_estimated)
        if grouped is not None and obs.noise_variance is None:
            noise_variance = min(noise_variance, grouped.roughness)
        per_tone = np.real(np.einsum("nkk->kn", inverse))
        n_told = np.maximum(np.count_nonzero(per_tone, axis=1), 1)  # a comb leaves tones out
        per_user = noise_variance * per_tone.sum(axis=1) / n_told
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
        said = warnings if grouped is None else [*warnings, _shared_tones(grouped)]
        return replace(result, warnings=(*said, *result.warnings))


def _shared_tones(grouped: GroupedChannel) -> str:
    """What was assumed of users that share tones."""
    return (
        "pilots of several users share subcarriers by codes over frequency: each user's channel is taken as "
        f"constant over groups of up to {grouped.span_hz:.4g} Hz, beside one delay; neighbouring groups "
        f"agree to {100 * grouped.agreement:.0f} %, and far less than 100 % means that delays spread too far "
        "for that, or loud noise"
    )


def _noise_variance(
    obs: UplinkObservation,
    block: ReceivedBlock,
    statistics: Statistics,
    channel: NDArray[np.complex128],
    n_estimated: int,
) -> float:
    """Noise variance: as given, from the pilots' residual, or, where the fit is exact, between the paths.

    ``n_estimated`` says how many vectors (M,) the channel consists of.
    """
    if obs.noise_variance is not None:
        return obs.noise_variance / block.scale**2
    used = np.all(block.known, axis=0) & block.has_samples
    n_sub, n_antennas, _ = block.received.shape
    predicted = np.matmul(channel.transpose(1, 2, 0), block.pilots.transpose(1, 0, 2))
    residual = (block.received - predicted) * used[:, None, :]
    freedom = n_antennas * (int(np.count_nonzero(used)) - n_estimated)
    if obs.usable is not None:
        told = np.broadcast_to(sounded_entries(statistics).any(axis=0), (n_sub, n_antennas))
        there = obs.usable & used[:, None, :] & told[..., None]
        residual = np.where(there, residual, 0)
        freedom = int(np.count_nonzero(there)) - obs.n_users * int(np.count_nonzero(there.any(axis=2)))
    if freedom > 0:
        return float(np.sum(np.abs(residual) ** 2) / freedom)
    energies = int(np.count_nonzero(obs.usable_elements)) * statistics.user_energies
    search = PathSearch.for_observation(obs)
    if search.open_window:
        search = search.covering(statistics.cross_correlation)
    return search.user_noise_level(statistics.cross_correlation, energies)
