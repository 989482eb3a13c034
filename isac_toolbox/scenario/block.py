"""One uplink block of a scenario, or successive ones: channel, symbols, samples and truth."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from isac_toolbox.channel.array import AntennaArray, UniformPlanarArray
from isac_toolbox.channel.clutter import draw_diffuse, first_delays_s, path_powers
from isac_toolbox.channel.doppler import Turning, draw_diffuse_dopplers, interference_power
from isac_toolbox.channel.environment import Environment
from isac_toolbox.channel.front_end import received_samples, sent_symbols
from isac_toolbox.channel.imperfections import (
    Imperfections,
    draw_imperfections,
    draw_interference,
    hardware_priors,
    interference_covariance,
)
from isac_toolbox.channel.model import moving_channel, multi_user_channel, normalise_power
from isac_toolbox.channel.modulation import qam_constellation
from isac_toolbox.channel.movement import motion_priors, moves, turning_of
from isac_toolbox.channel.observation import UplinkObservation
from isac_toolbox.channel.plausibility import warn_of_interference
from isac_toolbox.channel.process import ConstantVelocity
from isac_toolbox.channel.succession import UserErrors, next_block
from isac_toolbox.channel.uplink import (
    Block,
    all_known,
    draw_symbols,
    make_pilots,
    noise_variance_for_snr,
    receive,
    with_pilots_at,
)
from isac_toolbox.scenario.drawing import (
    array_of,
    draw_scene,
    draw_user_errors,
    heard_and_listed,
    user_deviations,
)
from isac_toolbox.scenario.settings import ScenarioSettings
from isac_toolbox.scenario.sizes import check_memory
from isac_toolbox.scenario.streams import Streams
from isac_toolbox.scenario.truth import Simulation, truth_of, with_diffuse, with_motion

__all__ = ["simulate_block", "simulate_blocks"]

RealArray = NDArray[np.float64]
ComplexArray = NDArray[np.complex128]

# A moving tail is a sum of so many, each with a Doppler shift of its own.
_TAIL_PARTS = 16


def simulate_block(
    settings: ScenarioSettings,
    seed: int | np.random.SeedSequence,
    environment: Environment | None,
    users: Sequence[int] | None,
    receiver_seed: int | np.random.SeedSequence | None = None,
) -> Simulation:
    """Return one block; see :meth:`isac_toolbox.Scenario.simulate`."""
    check_memory(settings)
    streams = Streams.of(seed, receiver_seed=receiver_seed)
    scene = draw_scene(settings, environment, users, streams)
    errors = draw_user_errors(settings, scene.n_users, streams)
    return _block(settings, scene, errors, array_of(settings, scene), streams)


def simulate_blocks(
    settings: ScenarioSettings,
    n_blocks: int,
    interval_s: float,
    seed: int | np.random.SeedSequence,
    process: ConstantVelocity | None,
    environment: Environment | None,
    users: Sequence[int] | None,
) -> list[Simulation]:
    """Return successive blocks; see :meth:`isac_toolbox.Scenario.simulate_track`."""
    check_memory(settings)
    streams = Streams.of(seed)
    scene = draw_scene(settings, environment, users, streams)
    errors, array = draw_user_errors(settings, scene.n_users, streams), array_of(settings, scene)
    drift_rng, simulations = streams.drift, []
    for b in range(n_blocks):
        if b:
            scene, errors = next_block(scene, errors, interval_s, process, settings.carrier_hz, drift_rng)
            streams = Streams.of(seed, b)
        simulation = _block(settings, scene, errors, array, streams, b * interval_s)
        errors = replace(errors, frequency_offsets_hz=simulation.truth.frequency_offsets_hz)
        simulations.append(simulation)
    return simulations


def _block(
    settings: ScenarioSettings,
    scene: Environment,
    user_errors: UserErrors,
    array: UniformPlanarArray,
    streams: Streams,
    start_s: float = 0.0,
) -> Simulation:
    """Simulate one block of a scene; carriers are drawn unless the errors have them."""
    errors = draw_imperfections(settings, array, streams.receiver)
    link = _Link(settings, errors.mounted(array), user_errors.clock_s)
    waves = _waves(link, scene, streams)
    scale = normalise_power(waves.channel, settings.power_control)
    channel = waves.channel * scale[:, None, None]
    block = _sent(settings, scene.n_users, streams.symbols)
    noise_variance = noise_variance_for_snr(channel, settings.snr_db)
    times_s = start_s + settings.symbol_times_s(block.mask.shape[1]) if settings.has_times else None
    turning, over_time = _turning(settings, scene, user_errors, times_s, streams.oscillators), None
    if turning is not None:
        over_time = _over_time(link, scene, waves, scale, turning, streams)
        over_time = errors.heard(over_time.swapaxes(2, 3)).swapaxes(2, 3)
        _warn_between_carriers(settings, waves.heard, scale, turning, noise_variance)
    heard = errors.heard(channel)
    received = _received(
        link, errors, heard if over_time is None else over_time, channel, block, noise_variance, streams
    )
    observation = _observation(link, scene, array, user_errors, block, received, times_s)
    truth = truth_of(waves.listed, array, heard, scale, user_errors.clock_s, block, noise_variance)
    truth = with_motion(truth, waves.listed, settings.carrier_hz, turning, over_time)
    truth = replace(truth, **errors.as_truth(settings.carrier_hz))
    users_power = float(np.mean(np.abs(channel) ** 2))
    interference = interference_covariance(settings, errors, link.array, users_power)
    truth = replace(truth, interference_covariance=interference)
    if waves.diffuse is not None:
        diffuse = errors.heard(waves.diffuse)
        truth = with_diffuse(truth, scene, waves.heard.rays, array, scale, diffuse)
    return Simulation(observation, truth)


@dataclass(frozen=True, eq=False)
class _Link:
    """What makes a channel of a scene: settings, the array as it is mounted, the users' clocks (K,)."""

    settings: ScenarioSettings
    array: AntennaArray
    clocks_s: RealArray

    @property
    def frequencies_hz(self) -> RealArray:
        """Baseband frequencies of the subcarriers, shape (N,)."""
        n_sub = self.settings.n_subcarriers
        return (np.arange(n_sub, dtype=np.float64) - (n_sub - 1) / 2) * self.settings.subcarrier_spacing_hz

    def channel(self, scene: Environment) -> ComplexArray:
        """Channel of a scene before the elements' errors, shape (K, N, M)."""
        return multi_user_channel(scene, *self._how)

    def channel_over_time(self, scene: Environment, times_s: RealArray) -> ComplexArray:
        """The same at times (T,), shape (K, N, M, T)."""
        return moving_channel(scene, *self._how, times_s)

    @property
    def _how(self) -> tuple[AntennaArray, RealArray, RealArray, str, float, bool]:
        given = self.settings
        return (
            self.array,
            self.frequencies_hz,
            self.clocks_s,
            given.wavefront,
            given.carrier_hz,
            given.beam_squint,
        )


@dataclass(frozen=True, eq=False)
class _Waves:
    """What arrives, before power control and the elements' errors.

    ``channel`` (K, N, M) is that of ``heard`` and of the ``tails``; ``diffuse`` is what of it ``listed`` does
    not make up, None without any.
    """

    heard: Environment
    listed: Environment
    channel: ComplexArray
    diffuse: ComplexArray | None
    tails: list[ComplexArray]


def _waves(link: _Link, scene: Environment, streams: Streams) -> _Waves:
    heard, listed = heard_and_listed(link.settings, scene, streams)
    channel = link.channel(heard)
    diffuse = channel - link.channel(listed) if listed is not heard else None
    tails = _tails(link, scene, heard, streams.tail)
    if tails:
        tail = np.sum(tails, axis=0) if len(tails) > 1 else tails[0]
        channel = channel + tail
        diffuse = tail if diffuse is None else diffuse + tail
    return _Waves(heard, listed, channel, diffuse, tails)


def _tails(
    link: _Link, scene: Environment, heard: Environment, rng: np.random.Generator
) -> list[ComplexArray]:
    """Draw the parts of a diffuse tail, (K, N, M) each: none without, one at rest."""
    settings = link.settings
    if settings.diffuse_power_db is None:
        return []
    n_parts = _TAIL_PARTS if moves(scene.user_velocities_m_s) else 1
    return [
        draw_diffuse(
            path_powers(heard) * 10 ** (settings.diffuse_power_db / 10) / n_parts,
            first_delays_s(heard) + link.clocks_s,
            settings.diffuse_decay_s,
            link.frequencies_hz,
            link.array.n_elements,
            rng,
        )
        for _ in range(n_parts)
    ]


def _sent(settings: ScenarioSettings, n_users: int, rng: np.random.Generator) -> Block:
    """Draw pilots and data of a block; chosen users of an environment may be more than ``n_users``."""
    positions, n_pilots = settings.pilot_positions, settings.pilot_symbols
    if settings.n_users != n_users and settings.n_pilot_symbols is None and positions is None:
        n_pilots = n_users
    constellation = qam_constellation(settings.modulation)
    pilots = make_pilots(settings.pilot_pattern, n_users, settings.n_subcarriers, n_pilots, rng)
    block = draw_symbols(pilots, settings.n_data_symbols, constellation, rng)
    if positions is not None:
        block = with_pilots_at(block, positions)
    return all_known(block) if settings.link == "monostatic" else block


def _turning(
    settings: ScenarioSettings,
    scene: Environment,
    user_errors: UserErrors,
    times_s: RealArray | None,
    rng: np.random.Generator,
) -> Turning | None:
    turning = turning_of(settings, scene, times_s, rng)
    if turning is None or user_errors.frequency_offsets_hz is None:
        return turning
    return replace(turning, frequency_offsets_hz=user_errors.frequency_offsets_hz)


def _over_time(
    link: _Link,
    scene: Environment,
    waves: _Waves,
    scale: RealArray,
    turning: Turning,
    streams: Streams,
) -> ComplexArray:
    """Channel (K, N, M, T) of a block that moves or turns, before the elements' errors."""
    channel = link.channel_over_time(waves.heard, turning.times_s)
    dopplers_hz = draw_diffuse_dopplers(
        link.settings.carrier_hz, scene, len(waves.tails), streams.tail_motion
    )
    for tail, doppler_hz in zip(waves.tails, dopplers_hz.T, strict=True):
        turns = np.exp(2j * np.pi * np.outer(doppler_hz, turning.times_s))
        channel += tail[..., None] * turns[:, None, None, :]
    channel *= scale[:, None, None, None] * turning.factors[:, None, None, :]
    return channel


def _warn_between_carriers(
    settings: ScenarioSettings,
    heard: Environment,
    scale: RealArray,
    turning: Turning,
    noise_variance: float,
) -> None:
    """Warn where interference between subcarriers, which is left out, would exceed the noise."""
    interference = interference_power(
        heard, settings.carrier_hz, turning.frequency_offsets_hz, settings.carrier_spacing_hz
    )
    warn_of_interference(interference * scale**2, noise_variance)


def _received(
    link: _Link,
    errors: Imperfections,
    heard: ComplexArray,
    channel: ComplexArray,
    block: Block,
    noise_variance: float,
    streams: Streams,
) -> ComplexArray:
    """Samples (N, M, T) of what is heard, with interferers that are as strong as the users' ``channel``."""
    settings = link.settings
    symbols = sent_symbols(settings, block.symbols, streams.transmitters)
    received = receive(heard, symbols, noise_variance, streams.noise, errors.noise_covariance)
    if settings.n_interferers:
        received = received + draw_interference(
            settings,
            errors,
            link.array,
            link.frequencies_hz,
            block.mask.shape[1],
            float(np.mean(np.abs(channel) ** 2)),
            streams.interference,
        )
    return received_samples(settings, received, streams.front_end)


def _observation(
    link: _Link,
    scene: Environment,
    array: UniformPlanarArray,
    user_errors: UserErrors,
    block: Block,
    received: ComplexArray,
    times_s: RealArray | None,
) -> UplinkObservation:
    """What a receiver has of a block: samples, and what the scenario lets it know."""
    settings = link.settings
    position_std_m, time_offset_std_s = user_deviations(settings)
    return UplinkObservation(
        received=received,
        pilots=block.pilots,
        pilot_mask=block.mask,
        array=array,
        subcarrier_frequencies_hz=link.frequencies_hz,
        bs_position_m=scene.bs_position_m,
        user_positions_m=scene.user_positions_m + user_errors.position_m,
        user_position_std_m=np.asarray(position_std_m),
        time_offset_std_s=np.asarray(time_offset_std_s),
        constellation=qam_constellation(settings.modulation),
        region_m=scene.region_m,
        carrier_hz=settings.carrier_hz,
        wavefront=settings.wavefront,
        link=settings.link,
        beam_squint=settings.beam_squint,
        **motion_priors(settings, scene, times_s),
        **hardware_priors(settings),
    )
