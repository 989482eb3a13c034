"""Our estimators in link-level simulations of Sionna PHY, and our scenes as its channels.

``SionnaEstimator`` stands where Sionna's channel estimators stand, ``SionnaReceiver`` in the place of
estimator and detector; ``docs/interop.md`` has both in ten lines. Needs the extra ``sionna``.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import islice
from typing import Any, Literal, Unpack

import numpy as np
from numpy.typing import ArrayLike, NDArray

from isac_toolbox._processes import check_jobs
from isac_toolbox._validation import check_has, check_integer, check_shape
from isac_toolbox.channel.array import AntennaArray, UniformPlanarArray
from isac_toolbox.channel.environment import Environment
from isac_toolbox.channel.geometry import bistatic_delays_s, line_of_sight_delays_s
from isac_toolbox.channel.model import response_towards
from isac_toolbox.channel.observation import UplinkObservation
from isac_toolbox.channel.paths import UnlocatedPaths
from isac_toolbox.estimators.many import estimate_many
from isac_toolbox.estimators.result import EstimationResult
from isac_toolbox.interop._blocks import Beforehand, Link, Motion, grid_pilots, to_numpy
from isac_toolbox.interop.conventions import (
    channel_over_symbols,
    elements_from_top,
    llr_on_grid,
    llr_stream,
)
from isac_toolbox.scenario import Scenario, Simulation

if find_spec("sionna") is None or find_spec("torch") is None:
    raise ImportError(
        "isac_toolbox.interop.sionna needs sionna-no-rt (or sionna), which is not installed; "
        'get it with: pip install "isac_toolbox[sionna]"'
    )

import torch
from sionna.phy import Block
from sionna.phy.ofdm import BaseChannelEstimator

# Guard: of a bit that goes to a decoder that clips nothing.
_MOST_LLR = 40.0

Precision = Literal["single", "double"] | None

__all__ = ["SceneChannels", "SionnaDecoder", "SionnaEstimator", "SionnaReceiver", "observation_from_sionna"]


class SionnaEstimator(BaseChannelEstimator):
    """One of our estimators as a channel estimator of Sionna: ``(y, no) -> (h_hat, err_var)``.

    Blocks of a batch are estimated one by one, or in ``n_jobs`` processes. A channel holds for its whole
    block and is repeated over the OFDM symbols, unless something may turn: then each symbol has its own, if
    the estimator follows motion. Two polarisations of an array, the second in the second half of the
    antennas, are estimated one by one.

    Parameters
    ----------
    resource_grid : sionna.phy.ofdm.ResourceGrid
        Also of PUSCH; one stream a user.
    estimator : object
        With ``estimate(observation)``, such as ``EMTurboBiSVBI()``.
    array : UniformPlanarArray or ArbitraryArray
        In our element order: rows are flipped inside. The elements of an arbitrary one are taken in the order
        of the samples.
    carrier_hz : float
    station_position_m, user_positions_m, user_position_std_m, time_offset_std_s, region_m : optional
        As for an :class:`~isac_toolbox.channel.UplinkObservation`; nothing is located where they are not
        given. Sionna's stochastic models give delays relative to a user's first path: state a
        ``time_offset_std_s`` of the longest time of flight with places.
    constellation : array_like of complex or sionna.phy.mapping.Constellation, optional
        Data alphabet in the order of its labels; without it the pilots alone are used.
    n_jobs : int
        Processes that share the blocks of a batch; -1 takes every processor.
    precision, device : optional
        Of the output, as for any block of Sionna.
    **motion
        ``frequency_offset_std_hz``, ``user_velocity_std_m_s``, ``user_velocities_m_s``,
        ``scatterer_velocity_std_m_s``, ``phase_noise_std_rad`` and ``user_phase_noise_std_rad``, as for an
        observation. Symbols are as far apart as the grid says.

    Raises
    ------
    TypeError, ValueError
        For more than one grid (unequal numerologies), more than one stream a user, or what an observation
        refuses.

    Notes
    -----
    Called with ``y [batch, 1, antennas, T, fft_size]`` and the noise variance ``no`` for its first axes, or
    zero, which leaves the noise to be estimated; where it differs over antennas its mean counts. Gives
    ``h_hat [batch, 1, antennas, K, 1, T, N]`` and its error variance of the same shape.
    """

    def __init__(
        self,
        resource_grid: Any,
        *,
        estimator: Any,
        array: AntennaArray,
        carrier_hz: float,
        station_position_m: ArrayLike | None = None,
        user_positions_m: ArrayLike | None = None,
        user_position_std_m: ArrayLike | None = None,
        time_offset_std_s: ArrayLike | None = None,
        region_m: ArrayLike | None = None,
        constellation: Any = None,
        n_jobs: int = 1,
        precision: Precision = None,
        device: str | None = None,
        **motion: Unpack[Motion],
    ) -> None:
        check_has("estimator", estimator, "an estimator", ["estimate"])
        check_jobs("n_jobs", n_jobs)
        beforehand: Beforehand = {
            "station_position_m": station_position_m,
            "user_positions_m": user_positions_m,
            "user_position_std_m": user_position_std_m,
            "time_offset_std_s": time_offset_std_s,
            "region_m": region_m,
            **motion,
        }
        link = Link.of(resource_grid, array, carrier_hz, constellation, beforehand)
        super().__init__(resource_grid, precision=precision, device=device)
        self._link, self._estimator, self._n_jobs = link, estimator, n_jobs

    def call(self, y: torch.Tensor, no: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Estimate the channels of a batch of blocks."""
        link = self._link
        channels: list[NDArray[np.complex128]] = []
        variances: list[NDArray[np.float64]] = []
        blocks = link.blocks(y, no)
        for _, _, results in _estimated(link, self._estimator, self._n_jobs, *blocks):
            channels.append(_over_grid(link, [_channel(link, r) for r in results]))
            variances.append(_over_grid(link, [r.channel_variance for r in results]))
        return (
            torch.as_tensor(np.stack(channels), dtype=self.cdtype, device=self.device),
            torch.as_tensor(np.stack(variances), dtype=self.dtype, device=self.device),
        )


def _estimated(
    link: Link, estimator: Any, n_jobs: int, blocks: NDArray[Any], noises: NDArray[np.float64]
) -> Iterator[tuple[NDArray[Any], float, list[EstimationResult]]]:
    """Yield samples, noise variance and a result for every polarisation of every block of a batch."""
    observations = (obs for block in zip(blocks, noises) for obs in link.observations(*block))
    results = iter(estimate_many(estimator, observations, n_jobs=n_jobs))
    n_alike = blocks.shape[1] // link.array.n_elements
    for samples, noise in zip(blocks, noises):
        yield samples, float(noise), list(islice(results, n_alike))


def _channel(link: Link, result: EstimationResult) -> NDArray[np.complex128]:
    """The channel (K, N, M), or (K, N, M, T) where something may turn."""
    return result.channel if link.symbol_times_s is None else result.channel_at(range(link.n_symbols))


def _over_grid(link: Link, parts: list[NDArray[Any]]) -> NDArray[Any]:
    """Channels or variances of the polarisations in Sionna's order, [1, antennas, K, 1, T, N]."""
    ordered = [channel_over_symbols(part, link.n_symbols)[link.order] for part in parts]
    return np.concatenate(ordered)[None, :, :, None]


class SionnaReceiver(Block):
    """One of our estimators as a receiver in a simulation of Sionna: ``(y, no) -> llr``.

    In the place of channel estimator and detector. A joint estimator, such as ``EMTurboBiSVBI``, decides the
    data together with the channel.

    Parameters
    ----------
    resource_grid, estimator, array, carrier_hz, n_jobs, precision, device
        As for :class:`SionnaEstimator`.
    constellation : array_like of complex or sionna.phy.mapping.Constellation
        Data alphabet in the order of its labels.
    **beforehand
        ``station_position_m``, ``frequency_offset_std_hz`` and so on, as for :class:`SionnaEstimator`.

    Raises
    ------
    TypeError, ValueError
        As :class:`SionnaEstimator`, and without a constellation.

    Notes
    -----
    Called with ``y [batch, 1, antennas, T, fft_size]`` and ``no``. Gives ``llr [batch, K, 1, n]``,
    ``ln P(1) / P(0)``, in the order of Sionna's detectors: symbol by symbol, subcarriers and then bits
    fastest. Where there are two polarisations both channels are estimated first and the data detected
    together by LMMSE, or jointly where users are coupled.
    """

    def __init__(
        self,
        resource_grid: Any,
        *,
        estimator: Any,
        array: AntennaArray,
        carrier_hz: float,
        constellation: Any,
        n_jobs: int = 1,
        precision: Precision = None,
        device: str | None = None,
        **beforehand: Unpack[Beforehand],
    ) -> None:
        check_has("estimator", estimator, "an estimator", ["estimate"])
        check_jobs("n_jobs", n_jobs)
        if constellation is None:
            raise TypeError("constellation must hold the data alphabet in the order of its labels, got None")
        link = Link.of(resource_grid, array, carrier_hz, constellation, beforehand)
        super().__init__(precision=precision, device=device)
        self._link, self._estimator, self._n_jobs = link, estimator, n_jobs

    def call(self, y: torch.Tensor, no: torch.Tensor) -> torch.Tensor:
        """Detect the data of a batch of blocks."""
        link, found = self._link, []
        blocks, noises = link.blocks(y, no)
        link.check_detectable(blocks)
        for samples, noise, results in _estimated(link, self._estimator, self._n_jobs, blocks, noises):
            llr = link.detected(samples, noise, results).llr
            found.append(llr_stream(llr, link.known)[:, None])
        return torch.as_tensor(np.stack(found), dtype=self.dtype, device=self.device)


class SionnaDecoder:
    """A decoder of Sionna in the loop of ``EMTurboBiSVBI(decoder=...)``.

    Code words of a user follow each other in the order of its data: symbol by symbol, subcarriers and then
    bits fastest. Decoders of Sionna clip what they are told and what they say at their ``llr_max``: they are
    told no more than half of it, as the difference would have the wrong sign for bits that are sure already.

    Parameters
    ----------
    decoder : sionna.phy.Block
        From LLRs (..., n) to those of all n code bits, as ``LDPC5GDecoder(encoder, hard_out=False,
        return_infobits=False)`` gives them.
    resource_grid : sionna.phy.ofdm.ResourceGrid
    n_code_bits : int
        Length n of a code word.

    Raises
    ------
    ValueError
        When called with data that are no whole number of code words, or if the decoder gives another shape.
    """

    def __init__(self, decoder: Any, resource_grid: Any, n_code_bits: int) -> None:
        self._decoder = decoder
        self._known = grid_pilots(resource_grid)[1]
        self._n_code_bits = check_integer("n_code_bits", n_code_bits, 1)
        self._most_llr = (getattr(decoder, "llr_max", None) or 2 * _MOST_LLR) / 2

    def __call__(self, llr: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the extrinsic LLRs of bits (K, N, T, bits), in our sign and order."""
        heard = llr_stream(llr, self._known)
        if heard.shape[1] % self._n_code_bits:
            raise ValueError(
                f"n_code_bits must divide the {heard.shape[1]} bits of a user's data, got {self._n_code_bits}"
            )
        words = np.clip(heard, -self._most_llr, self._most_llr).reshape(len(heard), -1, self._n_code_bits)
        decided = to_numpy(self._decoder(torch.as_tensor(words, dtype=torch.float32)))
        check_shape("decoder: its LLRs", decided, words.shape, "(K, words, n), of all code bits")
        return llr_on_grid((decided - words).reshape(heard.shape), self._known)


def observation_from_sionna(
    y: Any,
    no: Any,
    resource_grid: Any,
    *,
    array: AntennaArray,
    carrier_hz: float,
    constellation: Any = None,
    block: int = 0,
    polarisation: int = 0,
    **beforehand: Unpack[Beforehand],
) -> UplinkObservation:
    """Return a received block of Sionna as an observation.

    Parameters
    ----------
    y : tensor, shape [batch, 1, antennas, T, fft_size]
    no : tensor or float
        Noise variance for the first axes of ``y``; zero leaves it to be estimated.
    resource_grid, array, carrier_hz, constellation
        As for :class:`SionnaEstimator`; without a constellation the observation has the OFDM symbols with
        pilots alone.
    block : int
        Which of the batch.
    polarisation : {0, 1}
        Which half of the antennas, where there are two polarisations.
    **beforehand
        ``station_position_m``, ``frequency_offset_std_hz`` and so on, as for :class:`SionnaEstimator`.

    Returns
    -------
    UplinkObservation

    Raises
    ------
    TypeError, ValueError
        As :class:`SionnaEstimator`, and for a block or a polarisation that is not there.
    """
    link = Link.of(resource_grid, array, carrier_hz, constellation, beforehand)
    samples, noise = link.blocks(y, no)
    if not 0 <= check_integer("block", block, 0) < len(samples):
        raise ValueError(f"block must lie in 0..{len(samples) - 1}, got {block}")
    found = list(link.observations(samples[block], noise[block]))
    if not 0 <= check_integer("polarisation", polarisation, 0) < len(found):
        raise ValueError(f"polarisation must lie in 0..{len(found) - 1}, got {polarisation}")
    return found[polarisation]


@dataclass(frozen=True)
class SceneChannels:
    """Scenes of a scenario as a generator of channel impulse responses, for Sionna's ``CIRDataset``.

    Every call draws the scenes anew from the first seed on. Delays are absolute and contain the clock offset;
    elements are in Sionna's order, powers those of the scenario's power control.

    Parameters
    ----------
    scenario : Scenario
        Of planar or spherical wavefronts, without beam squint, bodies and a diffuse tail.
    n_paths : int
        Paths of a user; fewer are padded with zeros.
    n_symbols : int
        Time steps, over which the channel stays the same.
    seed : int
        Of the first scene; the next has the next one.
    count : int, optional
        Number of scenes; without end if not given.
    environment : Environment, optional
        A fixed or traced one instead of drawn ones.

    Raises
    ------
    ValueError
        For a scenario that is more than paths, and while drawing if a user has more than ``n_paths``.

    Examples
    --------
    A channel of Sionna: ``CIRDataset(scenes, 8, **scenes.sizes)``.
    """

    scenario: Scenario
    n_paths: int = 32
    n_symbols: int = 1
    seed: int = 0
    count: int | None = None
    environment: Environment | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.scenario, Scenario):
            raise TypeError(f"scenario must be a Scenario, got {type(self.scenario).__name__}")
        for name in ("n_paths", "n_symbols"):
            check_integer(name, getattr(self, name), 1)
        check_integer("seed", self.seed, 0)
        if self.count is not None:
            check_integer("count", self.count, 1)
        for name, alone in (("beam_squint", False), ("rays_per_scatterer", 1), ("diffuse_power_db", None)):
            if getattr(self.scenario, name) != alone:
                raise ValueError(
                    f"scenario must have {name} = {alone}, as impulse responses are made of the listed paths "
                    f"alone, got {getattr(self.scenario, name)!r}"
                )

    @property
    def sizes(self) -> dict[str, int]:
        """What ``CIRDataset`` has to be told beside the generator and the batch size."""
        first = self._draw(0).observation
        return {
            "num_rx": 1,
            "num_rx_ant": first.array.n_elements,
            "num_tx": first.n_users,
            "num_tx_ant": 1,
            "num_paths": self.n_paths,
            "num_time_steps": self.n_symbols,
        }

    def _draw(self, index: int) -> Simulation:
        return self.scenario.simulate(self.seed + index, environment=self.environment)

    def __call__(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Yield ``(a, tau)``, shapes ``[1, M, K, 1, n_paths, n_symbols]`` and ``[1, K, n_paths]``."""
        index = 0
        while self.count is None or index < self.count:
            gain, delay_s = self._impulse_response(self._draw(index))
            a = np.broadcast_to(
                gain[None, :, :, None, :, None], (1, *gain.shape[:2], 1, self.n_paths, self.n_symbols)
            )
            yield (
                torch.as_tensor(np.ascontiguousarray(a), dtype=torch.complex64),
                torch.as_tensor(delay_s[None], dtype=torch.float32),
            )
            index += 1

    def _impulse_response(self, simulation: Simulation) -> tuple[NDArray[np.complex128], NDArray[np.float64]]:
        """Coefficients (M, K, P) in Sionna's order of elements, and delays (K, P)."""
        obs, truth = simulation.observation, simulation.truth
        array, bs = obs.array, truth.environment.bs_position_m
        assert isinstance(array, UniformPlanarArray)
        gain = np.zeros((array.n_elements, obs.n_users, self.n_paths), complex)
        delay_s = np.zeros((obs.n_users, self.n_paths))
        points = truth.scatterer_positions_m
        for k, user_m in enumerate(truth.user_positions_m):
            seen = truth.scatterer_gain[k] != 0
            sight = truth.line_of_sight[k : k + 1]
            targets = np.vstack([user_m[None][sight], points[seen]])
            single = [truth.line_of_sight_gain[k : k + 1][sight], truth.scatterer_gain[k, seen]]
            delays = [
                line_of_sight_delays_s(user_m, bs)[sight],
                bistatic_delays_s(user_m, points[seen], bs)[0],
            ]
            responses = [response_towards(targets, array, bs, obs.wavefront, obs.carrier_hz)]
            further = [_of_user(paths, k) for paths in (truth.unlocated_paths, truth.rays)]
            single += [paths.gain for paths in further]
            delays += [paths.delay_s for paths in further]
            responses += [array.steering_from_cosines(*paths.direction_cosines.T) for paths in further]
            weights = np.concatenate(single)[:, None] * np.vstack(responses)
            if len(weights) > self.n_paths:
                raise ValueError(f"n_paths must be at least {len(weights)} for user {k}, got {self.n_paths}")
            gain[:, k, : len(weights)] = weights.T
            delay_s[k, : len(weights)] = np.concatenate(delays) + truth.time_offsets_s[k]
        return gain[elements_from_top(array)], delay_s


def _of_user(paths: UnlocatedPaths, user: int) -> UnlocatedPaths:
    """The paths of one user."""
    own = paths.user == user
    return UnlocatedPaths(
        paths.user[own],
        paths.direction_cosines[own],
        paths.delay_s[own],
        paths.gain[own],
        paths.probability[own],
    )
